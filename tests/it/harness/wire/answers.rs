//! What the client says when it is asked something: always the same, unless it is given a mind.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// What its model makes of a question: the result, or the error.
pub(crate) type Mind = fn(&Value) -> Result<Value, Value>;

#[derive(Default)]
pub(super) struct Answers {
    /// None: it always says the same.
    pub(super) mind: Option<Mind>,
    /// Results of requests that the client does as tasks, by their ids.
    tasks: BTreeMap<String, Value>,
}

impl Answers {
    /// The result, or the error.
    pub(super) fn to(&mut self, method: &str, params: &Value) -> Result<Value, Value> {
        let result = match method {
            "elicitation/create" if params["mode"] == "url" => json!({"action": "accept"}),
            "elicitation/create" => {
                json!({"action": "accept", "content": filled(&params["requestedSchema"])})
            }
            "sampling/createMessage" if self.mind.is_some() => {
                return self.mind.map_or_else(|| Ok(Value::Null), |mind| mind(params));
            }
            "sampling/createMessage" => json!({
                "role": "assistant", "model": "canned", "stopReason": "endTurn",
                "content": {"type": "text", "text": "Paris"}, "_meta": {"vendor.example/a": 0.7},
            }),
            "roots/list" => json!({"roots": [{"uri": "file:///srv/work", "name": "work"}]}),
            "ping" => json!({}),
            "tasks/get" => return self.task(params).map(|(task, _)| task),
            "tasks/result" => return self.task(params).map(|(_, result)| result),
            _ => return Err(json!({"code": -32601, "message": format!("not `{method}`")})),
        };
        if params.get("task").is_none() {
            return Ok(result);
        }
        let id = format!("task-of-the-client-{}", self.tasks.len() + 1);
        self.tasks.insert(id.clone(), result);
        self.task(&json!({"taskId": id})).map(|(task, _)| json!({"task": task}))
    }

    fn task(&self, params: &Value) -> Result<(Value, Value), Value> {
        let id = params["taskId"].as_str().unwrap_or_default();
        let result = self.tasks.get(id);
        let result = result.ok_or_else(|| json!({"code": -32602, "message": "no such task"}))?;
        let at = "2026-01-01T00:00:00Z";
        let task = json!({
            "taskId": id, "status": "completed", "ttl": 60_000, "pollInterval": 10,
            "createdAt": at, "lastUpdatedAt": at,
        });
        Ok((task, result.clone()))
    }
}

/// A form filled in, by what each field may be.
fn filled(schema: &Value) -> Value {
    let fields = schema["properties"].as_object().cloned().unwrap_or_default();
    let filled: Map<String, Value> =
        fields.into_iter().map(|(name, field)| (name, value(&field))).collect();
    Value::Object(filled)
}

fn value(field: &Value) -> Value {
    if let Some(options) = field["enum"].as_array() {
        return options[0].clone();
    }
    for titled in ["oneOf", "anyOf"] {
        if let Some(options) = field[titled].as_array() {
            return options[0]["const"].clone();
        }
    }
    match field["type"].as_str() {
        Some("boolean") => json!(true),
        Some("integer") => json!(7),
        Some("number") => json!(0.7),
        Some("array") => json!([value(&field["items"])]),
        _ => match field["format"].as_str() {
            Some("email") => json!("ada@example.org"),
            Some("uri") => json!("https://example.org/ada"),
            Some("date") => json!("1815-12-10"),
            _ => json!("Ada"),
        },
    }
}
