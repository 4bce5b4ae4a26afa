//! The configuration of the upstream servers is read again.

use std::sync::Arc;

use orch_domain::Error;
use orch_domain::caller::Permission;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::operation::{Operation, Route, Spec, Summary, spec};
use crate::ports::tool_server::ReloadedServers;
use crate::{Cx, Orch};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReloadServers {}

impl Summary for ReloadedServers {
    fn summary(&self) -> String {
        let parts: Vec<String> = [
            ("added", &self.added),
            ("restarted", &self.changed),
            ("removed", &self.removed),
            ("unchanged", &self.unchanged),
        ]
        .into_iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(word, names)| format!("{word}: {}", names.join(", ")))
        .collect();
        if parts.is_empty() {
            "no upstream servers are configured".to_owned()
        } else {
            parts.join("; ")
        }
    }
}

impl Operation for ReloadServers {
    const SPEC: Spec = spec!(
        "reload_servers",
        Tools,
        Changes,
        Some(Permission::Admin),
        [Route::post("/servers/reload")]
    );
    type Output = ReloadedServers;

    async fn run(self, orch: &Arc<Orch>, _: &Cx) -> Result<ReloadedServers, Error> {
        orch.tool_servers.reload().await
    }
}
