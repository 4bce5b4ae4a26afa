//! `Mcp-Param-*`: arguments that a tool's schema marks with `x-mcp-header` stand in the headers of its calls too. A client
//! on stdin knows nothing of headers, so what the lists say is kept here.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::catalog::Item;
use crate::frame::Raw;
use crate::headers;
use crate::members::Members;

#[derive(Default)]
pub(super) struct HeaderParams {
    /// Those that mark any argument, by name.
    tools: Mutex<HashMap<String, Item>>,
}

impl HeaderParams {
    /// Takes in the answer to `tools/list`.
    pub(super) fn learn(&self, result: &Raw) {
        // Most lists have none.
        if !result.get().contains("x-mcp-header") {
            return;
        }
        let tools = Members::of(result).and_then(|it| it.array("tools")).unwrap_or_default();
        for json in tools {
            let Some(name) = Members::of(&json).and_then(|it| it.text("name")) else { continue };
            let item = Item { name: name.as_str().into(), origin: name.as_str().into(), json };
            self.tools.lock().insert(name, item);
        }
    }

    /// The headers of a call.
    pub(super) fn of_call(&self, params: &Members) -> Vec<(String, String)> {
        let name = params.text("name").unwrap_or_default();
        let tool = self.tools.lock().get(&name).cloned();
        tool.map_or_else(Vec::new, |it| headers::of_call(&it, params))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::frame::raw;

    fn call(params: serde_json::Value) -> Members {
        Members::of(&raw(&params)).unwrap()
    }

    #[test]
    fn marked_arguments_are_headers_and_others_are_not() {
        let params = HeaderParams::default();
        let made = call(json!({"name": "t", "arguments": {
            "region": "eu-west", "deep": {"n": 7, "none": null}, "other": "x"
        }}));
        assert!(params.of_call(&made).is_empty(), "nothing is known of it yet");
        params.learn(&raw(&json!({"tools": [{"name": "t", "inputSchema": {"properties": {
            "region": {"type": "string", "x-mcp-header": "Region"},
            "deep": {"properties": {"n": {"x-mcp-header": "N"}, "none": {"x-mcp-header": "None"}}},
            "other": {"type": "string"}
        }}}]})));
        let mut seen = params.of_call(&made);
        seen.sort();
        let wanted = [("Mcp-Param-N", "7"), ("Mcp-Param-Region", "eu-west")];
        assert_eq!(seen, wanted.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let other = call(json!({"name": "u", "arguments": {"region": "eu"}}));
        assert!(params.of_call(&other).is_empty());
    }
}
