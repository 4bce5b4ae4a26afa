//! Every tool there is, own and upstream, by its canonical name `server.tool`.

use std::sync::{Arc, LazyLock};

use orch_domain::redact::redacted;
pub use orch_domain::tool_access::BUILT_IN;
use orch_domain::{Error, text};
use serde_json::{Map, Value, json};

use crate::ports::tool_server::{ServerTool, ToolServer, no_server, no_tool_of};
use crate::{Cx, Op, Orch, gate, ops};

static OWN: LazyLock<Vec<Op>> = LazyLock::new(ops::catalogue);

impl Orch {
    /// Those of which anything is there for `cx`.
    pub(crate) fn servers(&self, cx: &Cx) -> Result<Vec<ToolServer>, Error> {
        let access = &cx.caller()?.tools;
        let mut servers = self.tool_servers.servers();
        servers.retain(|it| access.shows_server(&it.name));
        Ok(servers)
    }

    /// Arguments as the audit may show them.
    pub(crate) fn redacted(&self, arguments: &Value) -> Value {
        redacted(arguments, &[&self.settings.secrets, &self.tool_servers.secrets()])
    }

    /// Own tools that `cx` may call, then those of the servers; of one server, or of all.
    pub(crate) fn tools(&self, server: Option<&str>, cx: &Cx) -> Result<Vec<ServerTool>, Error> {
        let access = &cx.caller()?.tools;
        let mut tools = Vec::new();
        if server.is_none_or(|it| it == BUILT_IN) {
            let mine = OWN.iter().filter(|it| gate::offers(&it.spec, cx));
            tools.extend(mine.map(own));
        }
        match server {
            Some(BUILT_IN) => {}
            Some(name) => {
                if !self.servers(cx)?.iter().any(|it| it.name == name) {
                    return Err(no_server(name));
                }
                tools.extend(self.tool_servers.tools(Some(name)));
            }
            None => tools.extend(self.tool_servers.tools(None)),
        }
        tools.retain(|it| it.server == BUILT_IN || access.permits(&it.server, &it.name));
        Ok(tools)
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
            let access = &cx.caller()?.tools;
            if !access.shows_server(server) {
                return Err(no_server(server));
            }
            if !access.permits(server, tool) {
                return Err(no_tool_of(server, tool));
            }
            return self.tool_servers.call(server, tool, arguments, cx).await;
        }
        let op = OWN.iter().find(|it| it.spec.name == tool).ok_or_else(|| no_tool(name))?;
        // A call of its own at the gate: its permission and its place in the audit are those of the operation.
        let own = Cx::new(cx.maybe_caller().cloned())
            .with_cancel(cx.cancel.clone())
            .with_progress(cx.progress.clone());
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
    ServerTool {
        server: BUILT_IN.to_owned(),
        name: op.spec.name.to_owned(),
        title: Some(op.spec.title().to_owned()),
        description: op.spec.text.trim_end().to_owned(),
        input_schema: Value::Object(op.input.clone()),
        output_schema: Some(Value::Object(op.output.clone())),
        annotations: Some(json!({
            "readOnlyHint": op.spec.effect.is_read_only(),
            "destructiveHint": op.spec.effect.is_destructive(),
            "idempotentHint": op.spec.effect.is_idempotent(),
        })),
    }
}
