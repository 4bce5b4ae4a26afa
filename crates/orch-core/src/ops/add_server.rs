//! An upstream server is configured and connected to.

use std::collections::BTreeMap;
use std::sync::Arc;

use orch_domain::Error;
use orch_domain::caller::Permission;
use orch_domain::secret::Secret;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::operation::{Operation, Route, Spec, Summary, spec};
use crate::ports::tool_server::{ToolServer, no_server};
use crate::{Cx, Orch};

/// One of `command`, `url` and `openapi`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AddServer {
    /// 1 to 40 letters, digits, `-` or `_`; its tools become `name.tool`.
    pub name: String,
    /// Program of a server that speaks on its stdin and stdout; it runs as the user of mcp-orch.
    pub command: Option<String>,
    #[serde(default)]
    pub args: Vec<String>,
    /// Environment of the program; `${NAME}` is filled in from mcp-orch's own when it starts.
    #[serde(default)]
    pub env: BTreeMap<String, Secret<String>>,
    /// Folder to start it in.
    pub cwd: Option<String>,
    /// `http://` or `https://` address of a server over streamable HTTP, or over HTTP with SSE as it was before.
    pub url: Option<String>,
    /// File or address of an OpenAPI document; each of its operations becomes a tool.
    pub openapi: Option<String>,
    /// Where the API of the `openapi` document is, when the document does not say.
    pub base_url: Option<String>,
    /// Sent with every request to the `url` or the API, such as `Authorization`.
    #[serde(default)]
    pub headers: BTreeMap<String, Secret<String>>,
    /// Put it in place of one of that name.
    #[serde(default)]
    pub replace: bool,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct AddedServer {
    /// It is being connected to; `list_servers` shows how that goes.
    pub server: ToolServer,
}

impl Summary for AddedServer {
    fn summary(&self) -> String {
        let it = &self.server;
        format!("the server `{}` is configured and {}", it.name, it.state.as_str())
    }
}

impl AddServer {
    /// As the file of servers has it.
    fn entry(&self) -> Value {
        let exposed = |of: &BTreeMap<String, Secret<String>>| -> Map<String, Value> {
            of.iter().map(|(key, value)| (key.clone(), value.expose().as_str().into())).collect()
        };
        let mut entry = Map::new();
        if let Some(command) = &self.command {
            entry.insert("command".to_owned(), json!(command));
            entry.insert("args".to_owned(), json!(self.args));
        }
        if let Some(cwd) = &self.cwd {
            entry.insert("cwd".to_owned(), json!(cwd));
        }
        if let Some(url) = &self.url {
            entry.insert("url".to_owned(), json!(url));
        }
        for (key, value) in [("openapi", &self.openapi), ("base_url", &self.base_url)] {
            if let Some(value) = value {
                entry.insert(key.to_owned(), json!(value));
            }
        }
        for (key, values) in [("env", &self.env), ("headers", &self.headers)] {
            if !values.is_empty() {
                entry.insert(key.to_owned(), Value::Object(exposed(values)));
            }
        }
        Value::Object(entry)
    }
}

impl Operation for AddServer {
    const SPEC: Spec =
        spec!("add_server", Tools, Creates, Some(Permission::Admin), [Route::post("/servers")]);
    type Output = AddedServer;

    async fn run(self, orch: &Arc<Orch>, cx: &Cx) -> Result<AddedServer, Error> {
        cx.audit_target(&self.name);
        orch.tool_servers.add(&self.name, self.entry(), self.replace).await?;
        let server = orch.tool_servers.servers().into_iter().find(|it| it.name == self.name);
        Ok(AddedServer { server: server.ok_or_else(|| no_server(&self.name))? })
    }
}
