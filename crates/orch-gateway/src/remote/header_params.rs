//! `Mcp-Param-*`: arguments that a tool's schema marks with `x-mcp-header` stand in the headers of its calls too. A client
//! on stdin knows nothing of headers, so what the lists say is kept here.

use std::collections::HashMap;

use orch_domain::text;
use parking_lot::Mutex;
use serde_json::Value;

use crate::frame::Raw;
use crate::members::Members;

/// Deeper than any sensible schema.
const MAX_DEPTH: usize = 16;

#[derive(Default)]
pub(super) struct HeaderParams {
    /// By tool.
    marked: Mutex<HashMap<String, Vec<Marked>>>,
}

/// A header, and the path to its argument.
type Marked = (String, Vec<String>);

impl HeaderParams {
    /// Takes in the answer to `tools/list`.
    pub(super) fn learn(&self, result: &Raw) {
        // Most lists have none.
        if !result.get().contains("x-mcp-header") {
            return;
        }
        let tools = Members::of(result).and_then(|it| it.array("tools")).unwrap_or_default();
        for tool in tools {
            let Ok(tool) = serde_json::from_str::<Value>(tool.get()) else { continue };
            let Some(name) = tool["name"].as_str() else { continue };
            let mut found = Vec::new();
            walk(&tool["inputSchema"], &mut Vec::new(), &mut found);
            self.marked.lock().insert(name.to_owned(), found);
        }
    }

    /// The headers of a call, by what follows `Mcp-Param-`.
    pub(super) fn of_call(&self, params: Option<&Raw>) -> Vec<(String, String)> {
        let marked = self.marked.lock();
        if marked.is_empty() {
            return Vec::new();
        }
        let params = Members::of_params(params);
        let Some(paths) = params.text("name").and_then(|it| marked.get(&it).cloned()) else {
            return Vec::new();
        };
        drop(marked);
        let Some(arguments) = params.get("arguments") else { return Vec::new() };
        let value = |path: &[String]| -> Option<String> {
            let (last, before) = path.split_last()?;
            let mut at = Members::of(arguments)?;
            for step in before {
                at = at.object(step)?;
            }
            match at.get(last)?.get() {
                "null" => None,
                // Numbers as they were written: another form of one would not be the same text.
                it if it.starts_with('"') => at.text(last),
                it if it.starts_with(['{', '[']) => None,
                it => Some(it.to_owned()),
            }
        };
        paths.into_iter().filter_map(|(name, path)| Some((name, value(&path)?))).collect()
    }
}

fn walk(schema: &Value, path: &mut Vec<String>, found: &mut Vec<Marked>) {
    let Some(properties) = schema["properties"].as_object() else { return };
    if MAX_DEPTH < path.len() {
        tracing::warn!("a schema is nested deeper than {MAX_DEPTH}");
        return;
    }
    for (name, inner) in properties {
        path.push(name.clone());
        if let Some(header) = inner["x-mcp-header"].as_str() {
            if header.bytes().all(|it| it.is_ascii_alphanumeric() || b"-_.".contains(&it)) {
                found.push((header.to_owned(), path.clone()));
            } else {
                tracing::warn!("`{}` is no name of a header", text::excerpt(header, 60));
            }
        }
        walk(inner, path, found);
        path.pop();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::frame::raw;

    #[test]
    fn marked_arguments_are_headers_and_others_are_not() {
        let params = HeaderParams::default();
        let call = raw(&json!({"name": "t", "arguments": {
            "region": "eu-west", "deep": {"n": 7, "none": null}, "other": "x"
        }}));
        assert!(params.of_call(Some(&call)).is_empty(), "nothing is known of it yet");
        params.learn(&raw(&json!({"tools": [{"name": "t", "inputSchema": {"properties": {
            "region": {"type": "string", "x-mcp-header": "Region"},
            "deep": {"properties": {"n": {"x-mcp-header": "N"}, "none": {"x-mcp-header": "None"}}},
            "other": {"type": "string"}
        }}}]})));
        let mut seen = params.of_call(Some(&call));
        seen.sort();
        let wanted = [("N", "7"), ("Region", "eu-west")];
        assert_eq!(seen, wanted.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let other = raw(&json!({"name": "u", "arguments": {"region": "eu"}}));
        assert!(params.of_call(Some(&other)).is_empty());
    }
}
