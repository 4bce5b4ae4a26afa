//! Operations as tools: made once from the catalogue, listed for those who may call them.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use orch_core::operation::{Effect, Op, Operation, Spec};
use orch_core::ops::CallTool;
use orch_core::{Answer, Cx, gate, ops};
use orch_domain::{Error, page};
use orch_gateway::names::own_name;
use orch_gateway::view::View;
use rmcp::model::{
    CallToolResult, ContentBlock, JsonObject, ListToolsResult, MetaObject, Tool, ToolAnnotations,
};
use serde_json::{Map, Value, json};

/// Everything fits on one page today; a client that pages finds it works.
const PAGE_SIZE: usize = 100;
const LIST: &str = "tools";

/// The catalogue with its tools, which do not depend on anything that is only known at run time.
pub(super) struct Catalogue {
    entries: Vec<(Op, Tool)>,
    by_name: HashMap<&'static str, usize>,
}

static CATALOGUE: LazyLock<Catalogue> = LazyLock::new(|| {
    let entries: Vec<(Op, Tool)> = ops::catalogue()
        .into_iter()
        .map(|op| {
            let tool = tool(&op);
            (op, tool)
        })
        .collect();
    let by_name = entries.iter().enumerate().map(|(i, (op, _))| (op.spec.name, i)).collect();
    Catalogue { entries, by_name }
});

/// The operation of that name, bare or as that of the server `orch`.
pub(super) fn op(name: &str) -> Option<&'static Op> {
    CATALOGUE.by_name.get(own_name(name)).map(|i| &CATALOGUE.entries[*i].0)
}

pub(super) fn get(name: &str) -> Option<Tool> {
    CATALOGUE.by_name.get(own_name(name)).map(|i| CATALOGUE.entries[*i].1.clone())
}

/// All tools, as `tools/list` shows them to somebody who may call everything.
pub fn tools() -> Vec<Value> {
    CATALOGUE
        .entries
        .iter()
        .map(|(_, tool)| serde_json::to_value(tool).expect("a tool is plain JSON"))
        .collect()
}

/// Tools that `view` lists and `cx` may call, in the order of the catalogue.
pub(super) fn list(cx: &Cx, view: &View, cursor: Option<&str>) -> Result<ListToolsResult, Error> {
    let after = page::key_of(LIST, cursor.unwrap_or_default())?;
    let start = match after {
        None => 0,
        Some(name) => match CATALOGUE.by_name.get(name.as_str()) {
            Some(i) => i + 1,
            None => return Err(Error::invalid("cursor", "it is damaged; list from the start")),
        },
    };
    let mut callable = CATALOGUE.entries[start..]
        .iter()
        .filter(|(op, _)| view.lists_own(op.spec.name))
        // Where only the ways to tools are listed, they are what the caller has.
        .filter(|(op, _)| {
            gate::offers(&op.spec, cx) || view.is_lazy() && gate::authorise(&op.spec, cx).is_ok()
        })
        .map(|(_, tool)| tool);
    let tools: Vec<Tool> = callable.by_ref().take(PAGE_SIZE).cloned().collect();
    let mut result = ListToolsResult::with_all_items(tools);
    if callable.next().is_some() {
        result.next_cursor = result.tools.last().map(|it| page::token_after(LIST, &it.name));
    }
    Ok(result)
}

fn tool(op: &Op) -> Tool {
    let spec = &op.spec;
    let mut input = Value::Object(op.input.clone());
    without_null(&mut input);
    let Value::Object(mut input) = input else { unreachable!("an object stays one") };
    // The protocol's own dialect, which goes without saying.
    input.remove("$schema");
    let mut tool = Tool::new(Cow::Borrowed(spec.name), Cow::Borrowed(spec.text.trim_end()), input)
        .with_title(title(spec));
    // What it answers is what the tool that it calls answers, structured as that one says or not at all.
    if spec.name != CallTool::SPEC.name {
        tool = tool.with_raw_output_schema(Arc::new(output_schema(op)));
    }
    tool.with_annotations(ToolAnnotations::from_raw(
        Some(title(spec).to_owned()),
        Some(spec.effect.is_read_only()),
        Some(spec.effect.is_destructive()),
        Some(spec.effect.is_idempotent()),
        Some(spec.effect == Effect::Executes),
    ))
    .with_meta(MetaObject(meta(spec)))
}

fn title(spec: &Spec) -> &'static str {
    spec.title().trim_end_matches('.')
}

/// For hosts that group tools or ask before some of them.
fn meta(spec: &Spec) -> JsonObject {
    let mut meta = Map::new();
    meta.insert("mcp-orch/group".to_owned(), spec.group.as_str().into());
    if let Some(needs) = spec.needs {
        meta.insert("mcp-orch/needs".to_owned(), needs.as_str().into());
    }
    meta
}

/// Takes `null` out of what parameters may be: leaving one out says the same, and some model providers refuse a tool
/// whose parameter has two types. A `null` that comes anyway is still taken.
fn without_null(schema: &mut Value) {
    let is_null = |it: &Value| *it == "null" || it["type"] == "null" || it.is_null();
    match schema {
        Value::Object(map) => {
            for several in ["type", "enum", "anyOf"] {
                if let Some(Value::Array(items)) = map.get_mut(several) {
                    items.retain(|it| !is_null(it));
                }
            }
            if let Some(Value::Array(types)) = map.get_mut("type")
                && types.len() == 1
            {
                map["type"] = types.remove(0);
            }
            if let Some(Value::Array(alternatives)) = map.get_mut("anyOf")
                && let [Value::Object(only)] = &alternatives[..]
            {
                let only = only.clone();
                map.remove("anyOf");
                for (key, value) in only {
                    map.entry(key).or_insert(value);
                }
            }
            if map.get("default").is_some_and(Value::is_null) {
                map.remove("default");
            }
            map.values_mut().for_each(without_null);
        }
        Value::Array(items) => items.iter_mut().for_each(without_null),
        _ => {}
    }
}

/// What a call answers, or the object of a refusal. The latter belongs to the schema because a refusal is structured
/// too, and some clients check it against the schema and would hide its message.
///
/// Clients put all of `tools/list` before a model, so it has names and types only, and not to the last level: one below
/// the top where an operation reads, none where it changes something and answers what a reading one shows. OpenAPI has
/// all of it with its descriptions.
fn output_schema(op: &Op) -> JsonObject {
    let n_levels = if op.spec.effect.is_read_only() { 2 } else { 1 };
    let mut answer = lean(&op.output, n_levels);
    if let Some(required) = op.output.get("required") {
        answer.insert("required".to_owned(), required.clone());
    }
    let refusal = json!({"required": ["error", "message"]});
    let mut schema = Map::new();
    schema.insert("type".to_owned(), "object".into());
    schema.insert("anyOf".to_owned(), Value::Array(vec![Value::Object(answer), refusal]));
    schema
}

/// What of a schema says which fields there are and of which type; everything it allows, this allows too.
const KEPT: [&str; 9] = [
    "type",
    "properties",
    "additionalProperties",
    "items",
    "anyOf",
    "oneOf",
    "allOf",
    "enum",
    "const",
];

fn lean(schema: &JsonObject, n_levels: usize) -> JsonObject {
    let kept = schema.iter().filter(|(key, _)| KEPT.contains(&key.as_str()));
    let kept = kept.filter_map(|(key, value)| {
        let value = match (key.as_str(), value) {
            ("properties", _) if n_levels == 0 => return None,
            ("properties", Value::Object(fields)) => {
                let fields =
                    fields.iter().map(|(name, it)| (name.clone(), lean_value(it, n_levels - 1)));
                Value::Object(fields.collect())
            }
            ("type" | "enum" | "const", it) => it.clone(),
            // Less is said of each alternative, so that more than one may fit.
            ("oneOf", Value::Array(alternatives)) => {
                let words = alternatives.iter().map(words_of).collect::<Option<Vec<_>>>();
                return Some(match words {
                    Some(words) => ("enum".to_owned(), Value::Array(words.concat())),
                    None => ("anyOf".to_owned(), lean_value(value, n_levels)),
                });
            }
            // Without its fields an object may have any.
            ("additionalProperties", Value::Bool(_)) => return None,
            (_, it) => lean_value(it, n_levels),
        };
        Some((key.clone(), value))
    });
    kept.collect()
}

/// The words that one alternative stands for, when it is nothing else.
fn words_of(alternative: &Value) -> Option<Vec<Value>> {
    match (alternative.get("const"), alternative.get("enum")) {
        (Some(word), _) => Some(vec![word.clone()]),
        (None, Some(Value::Array(words))) => Some(words.clone()),
        _ => None,
    }
}

fn lean_value(value: &Value, n_levels: usize) -> Value {
    match value {
        Value::Object(schema) => Value::Object(lean(schema, n_levels)),
        Value::Array(items) => items.iter().map(|it| lean_value(it, n_levels)).collect(),
        other => other.clone(),
    }
}

pub(super) fn answered(answer: Answer) -> CallToolResult {
    let mut result = CallToolResult::success(vec![ContentBlock::text(answer.text())]);
    result.structured_content = Some(answer.value);
    result
}

/// A refusal the model reads: the code, what to do, and in the structured half every field.
pub(super) fn refused(err: &Error) -> CallToolResult {
    let text = format!("{}: {err}", err.code().as_str());
    let mut result = CallToolResult::error(vec![ContentBlock::text(text)]);
    result.structured_content = Some(Value::Object(err.describe()));
    result
}
