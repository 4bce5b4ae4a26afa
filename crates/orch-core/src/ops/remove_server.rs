//! An upstream server is taken out of the configuration.

use std::sync::Arc;

use orch_domain::Error;
use orch_domain::caller::Permission;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::operation::{Operation, Route, Spec, Summary, spec};
use crate::{Cx, Orch};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RemoveServer {
    pub name: String,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct RemovedServer {
    pub name: String,
}

impl Summary for RemovedServer {
    fn summary(&self) -> String {
        format!("the server `{}` is ended, and no longer configured", self.name)
    }
}

impl Operation for RemoveServer {
    const SPEC: Spec = spec!(
        "remove_server",
        Tools,
        Destroys,
        Some(Permission::Admin),
        [Route::delete("/servers/{name}")]
    );
    type Output = RemovedServer;

    async fn run(self, orch: &Arc<Orch>, cx: &Cx) -> Result<RemovedServer, Error> {
        cx.audit_target(&self.name);
        orch.tool_servers.remove(&self.name).await?;
        Ok(RemovedServer { name: self.name })
    }
}
