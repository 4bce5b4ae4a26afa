//! The caller's login at a server behind is ended.

use std::sync::Arc;

use orch_domain::Error;
use orch_domain::caller::Permission;
use orch_domain::time::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::operation::{Operation, Route, Spec, Summary, spec};
use crate::ports::tool_server::no_server;
use crate::{Cx, Orch};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LogoutServer {
    /// As `list_servers` names it.
    pub name: String,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct LoggedOutServer {
    pub server: String,
    /// When the login began. Missing: there was none.
    pub logged_in_at: Option<Timestamp>,
}

impl Summary for LoggedOutServer {
    fn summary(&self) -> String {
        match self.logged_in_at {
            Some(at) => {
                format!("You are logged out of the server `{}`, since {at} logged in.", self.server)
            }
            None => format!("You were not logged in at the server `{}`.", self.server),
        }
    }
}

impl Operation for LogoutServer {
    const SPEC: Spec = spec!(
        "logout_server",
        Tools,
        Destroys,
        Some(Permission::Execute),
        [Route::delete("/servers/{name}/login")]
    );
    type Output = LoggedOutServer;

    async fn run(self, orch: &Arc<Orch>, cx: &Cx) -> Result<LoggedOutServer, Error> {
        cx.audit_target(&self.name);
        let logins = orch.tool_servers.logins().ok_or_else(|| no_server(&self.name))?;
        let logged_in_at = logins.end(&self.name, cx).await?;
        Ok(LoggedOutServer { server: self.name, logged_in_at })
    }
}
