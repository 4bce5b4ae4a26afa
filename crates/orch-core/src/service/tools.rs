//! Every tool there is, own and upstream, by its canonical name `server.tool`.

use std::sync::{Arc, LazyLock};

use orch_domain::redact::redacted;
pub use orch_domain::tool_access::BUILT_IN;
use orch_domain::{Error, text};
use serde_json::{Map, Value, json};

use crate::ports::tool_server::{ServerTool, no_server, no_tool_of};
use crate::{Cx, Op, Orch, gate, ops};

static OWN: LazyLock<Vec<Op>> = LazyLock::new(ops::catalogue);
static OWN_TOOLS: LazyLock<Vec<ServerTool>> = LazyLock::new(|| OWN.iter().map(own).collect());

/// All own operations as tools, in the order of the catalogue.
pub(crate) fn own_tools() -> &'static [ServerTool] {
    &OWN_TOOLS
}

impl Orch {
    /// Arguments as the audit may show them.
    pub(crate) fn redacted(&self, arguments: &Value) -> Value {
        redacted(arguments, &[&self.settings.secrets, &self.tool_servers.secrets()])
    }

    /// Whether a tool is there for `cx`: its endpoint shows it, and its caller may call it.
    pub(crate) fn sees_tool(&self, server: &str, tool: &str, cx: &Cx) -> bool {
        let spec = match server {
            BUILT_IN => match OWN.iter().find(|it| it.spec.name == tool) {
                Some(it) => &it.spec,
                None => return false,
            },
            _ => return gate::permit_upstream(cx).is_ok() && cx.shows_tool(server, tool),
        };
        gate::authorise(spec, cx).is_ok() && cx.shows_tool(server, tool)
    }

    /// Own tools that `cx` sees, then those of the servers; of one server, or of all.
    pub(crate) fn tools(&self, server: Option<&str>, cx: &Cx) -> Result<Vec<ServerTool>, Error> {
        if let Some(name) = server
            && !self.sees_server(name, cx)
        {
            return Err(no_server(name));
        }
        let catalog = self.tool_servers.catalog();
        let tools = own_tools().iter().chain(&*catalog);
        let tools = tools.filter(|it| server.is_none_or(|name| it.server == name));
        Ok(tools.filter(|it| self.sees_tool(&it.server, &it.name, cx)).cloned().collect())
    }

    /// Calls a tool by its canonical name; an own operation also by its bare one.
    pub(crate) async fn call_tool(
        self: &Arc<Orch>,
        name: &str,
        arguments: Map<String, Value>,
        cx: &Cx,
    ) -> Result<Value, Error> {
        let (server, tool) = name.split_once('.').unwrap_or((BUILT_IN, name));
        if server != BUILT_IN {
            // As if it were not there, whether it is or not.
            if !cx.shows_server(server) {
                return Err(no_server(server));
            }
            if !cx.shows_tool(server, tool) {
                return Err(no_tool_of(server, tool));
            }
            return self.tool_servers.call(server, tool, arguments, cx).await;
        }
        let op = OWN.iter().find(|it| it.spec.name == tool && cx.is_at_endpoint(BUILT_IN, tool));
        let op = op.ok_or_else(|| no_tool(name))?;
        // A call of its own at the gate: its permission and its place in the audit are those of the operation.
        let own = cx.anew().with_cancel(cx.cancel.clone()).with_progress(cx.progress.clone());
        let answer = (op.call)(self.clone(), own, Value::Object(arguments)).await?;
        Ok(json!({
            "content": [{"type": "text", "text": answer.text()}],
            "structuredContent": answer.value,
            "isError": false,
        }))
    }
}

pub(crate) fn no_tool(name: &str) -> Error {
    Error::NotFound {
        kind: "tool",
        id: text::excerpt(name, 100),
        hint: "`list_tools` shows those there are, by names such as `server.tool`".to_owned(),
    }
}

fn own(op: &Op) -> ServerTool {
    // The protocol's own dialect, which goes without saying.
    let mut input = op.input.clone();
    input.remove("$schema");
    ServerTool {
        server: BUILT_IN.to_owned(),
        name: op.spec.name.to_owned(),
        title: Some(op.spec.title().to_owned()),
        description: op.spec.text.trim_end().to_owned(),
        input_schema: Value::Object(input),
        output_schema: Some(Value::Object(op.output.clone())),
        annotations: Some(json!({
            "readOnlyHint": op.spec.effect.is_read_only(),
            "destructiveHint": op.spec.effect.is_destructive(),
            "idempotentHint": op.spec.effect.is_idempotent(),
        })),
        pin: None,
    }
}
