//! The MCP servers behind this one, and how they are.

use std::sync::Arc;

use orch_domain::Error;
use orch_domain::caller::Permission;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::operation::{Operation, Route, Spec, Summary, spec};
use crate::ports::tool_server::{ServerState, ToolServer};
use crate::view::table::table;
use crate::{Cx, Orch};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListServers {}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ServerList {
    /// By name.
    pub servers: Vec<ToolServer>,
    pub total_count: usize,
}

impl Summary for ServerList {
    fn summary(&self) -> String {
        if self.servers.is_empty() {
            return "No upstream servers are configured; `add_server` adds one, or write them into `mcp-config.json`."
                .to_owned();
        }
        let row = |it: &ToolServer| {
            let note = match (&it.reason, &it.next_retry) {
                (Some(reason), Some(at)) => format!("{reason}; tried again at {at}"),
                (Some(reason), None) => reason.clone(),
                _ => it.software.clone().unwrap_or_default(),
            };
            let note = match it.flagged.as_slice() {
                [] => note,
                flagged => {
                    let tools: Vec<String> =
                        flagged.iter().map(|it| format!("`{}` {}", it.tool, it.differs)).collect();
                    format!(
                        "{note} (since first seen: {}; `approve_tools` after a look)",
                        tools.join(", ")
                    )
                }
            };
            [
                it.name.clone(),
                it.state.as_str().to_owned(),
                it.transport.clone(),
                it.n_tools.to_string(),
                it.target.clone(),
                note,
            ]
        };
        table(["NAME", "STATE", "TRANSPORT", "TOOLS", "TARGET", ""], self.servers.iter().map(row))
    }
}

/// How it is for the caller: of a server with a login for each, others may be in.
fn show_login(server: &mut ToolServer, needed: Option<String>) {
    match (server.state, needed) {
        (ServerState::Ready | ServerState::Degraded | ServerState::NeedsLogin, Some(needed)) => {
            server.state = ServerState::NeedsLogin;
            server.reason = Some(needed);
        }
        // Its own connection follows.
        (ServerState::NeedsLogin, None) => {
            server.state = ServerState::Connecting;
            server.reason = None;
        }
        _ => {}
    }
}

impl Operation for ListServers {
    const SPEC: Spec =
        spec!("list_servers", Tools, Reads, Some(Permission::Read), [Route::get("/servers")]);
    type Output = ServerList;

    async fn run(self, orch: &Arc<Orch>, cx: &Cx) -> Result<ServerList, Error> {
        let mut servers = orch.tool_servers.servers();
        servers.retain(|it| cx.shows_server(&it.name));
        for ToolServer { name, flagged, .. } in &mut servers {
            // By the name that its server gives it, when it is offered under none.
            flagged.retain(|it| cx.shows_tool(name, it.offered.as_ref().unwrap_or(&it.tool)));
        }
        if let Some(logins) = orch.tool_servers.logins() {
            let user = &cx.caller()?.user;
            for it in &mut servers {
                show_login(it, logins.needed(&it.name, user));
            }
        }
        Ok(ServerList { total_count: servers.len(), servers })
    }
}
