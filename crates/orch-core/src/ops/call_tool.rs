//! Any tool is called by its canonical name.

use std::sync::Arc;

use orch_domain::caller::Permission;
use orch_domain::{Error, text};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::operation::{Operation, Route, Spec, Summary, spec};
use crate::view::untrusted::NOTICE_OF_TOOL;
use crate::{Cx, Orch};

const LONGEST: usize = 20_000;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CallTool {
    /// `server.tool`, as `list_tools` shows it.
    pub name: String,
    /// As the tool's input schema says.
    #[serde(default)]
    pub arguments: Map<String, Value>,
}

/// The tool's result, as it gave it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct ToolResult(#[schemars(with = "ResultShape")] pub Value);

/// What a tool result is made of.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
struct ResultShape {
    /// Blocks of text, images, audio, resources and links.
    content: Vec<Map<String, Value>>,
    /// The same as data, as the tool's output schema says.
    #[serde(rename = "structuredContent")]
    structured_content: Option<Value>,
    /// The tool failed, and `content` says how.
    #[serde(rename = "isError")]
    is_error: Option<bool>,
}

impl Summary for ToolResult {
    fn summary(&self) -> String {
        let mut out = String::new();
        if self.0["isError"] == true {
            out.push_str("The tool failed. ");
        }
        out.push_str(NOTICE_OF_TOOL);
        for block in self.0["content"].as_array().into_iter().flatten() {
            out.push('\n');
            match block["text"].as_str() {
                Some(it) => out.push_str(&text::sanitize(it)),
                None => {
                    let kind = block["type"].as_str().unwrap_or("content");
                    out.push_str(&format!("({} is in the result itself)", text::excerpt(kind, 40)));
                }
            }
        }
        if out.len() > LONGEST {
            out.truncate(out.floor_char_boundary(LONGEST));
            out.push_str("\n… the rest is in the structured result");
        }
        out
    }
}

impl Operation for CallTool {
    const SPEC: Spec = spec!(
        "call_tool",
        Tools,
        Executes,
        Some(Permission::Execute),
        [Route::post("/tools/{name}").taking_body_as("arguments")]
    );
    type Output = ToolResult;

    async fn run(self, orch: &Arc<Orch>, cx: &Cx) -> Result<ToolResult, Error> {
        cx.audit_target(text::excerpt(&self.name, 200));
        orch.call_tool(&self.name, self.arguments, cx).await.map(ToolResult)
    }
}
