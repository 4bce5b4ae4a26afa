//! The caller logs in at a server behind.

use std::sync::Arc;

use orch_domain::Error;
use orch_domain::caller::Permission;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::operation::{Operation, Route, Spec, Summary, spec};
use crate::ports::server_login::{BegunLogin, LoginWay};
use crate::ports::tool_server::no_server;
use crate::{Cx, Orch};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LoginServer {
    /// As `list_servers` names it.
    pub name: String,
    /// With a code that is typed in on any device, for when no browser runs on the machine of mcp-orch.
    #[serde(default)]
    pub device: bool,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct ServerLoginBegun(pub BegunLogin);

impl Summary for ServerLoginBegun {
    fn summary(&self) -> String {
        let it = &self.0;
        let code = it.user_code.as_ref().map(|it| format!(" and type in the code {it}"));
        format!(
            "Open this address in a browser{}, before {}:\n\n{}\n\nIt asks {} for a login at the server `{}`.",
            code.unwrap_or_default(),
            it.expires_at,
            it.url,
            it.issuer,
            it.server
        )
    }
}

impl Operation for LoginServer {
    const SPEC: Spec = spec!(
        "login_server",
        Tools,
        Repeats,
        Some(Permission::Execute),
        [Route::post("/servers/{name}/login")]
    );
    type Output = ServerLoginBegun;

    async fn run(self, orch: &Arc<Orch>, cx: &Cx) -> Result<ServerLoginBegun, Error> {
        cx.audit_target(&self.name);
        let logins = orch.tool_servers.logins().ok_or_else(|| no_server(&self.name))?;
        let way = if self.device { LoginWay::Device } else { LoginWay::Any };
        Ok(ServerLoginBegun(logins.begin(&self.name, way, cx).await?))
    }
}
