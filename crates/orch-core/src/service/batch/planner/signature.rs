//! A JSON Schema in a few words, as models know them from type annotations: a third of its length.

use orch_domain::text;
use serde_json::{Map, Value};

/// How much is said.
#[derive(Clone, Copy)]
pub(super) struct Detail {
    /// Levels of objects whose members are named.
    pub(super) depth: usize,
    /// Of a description, in characters; none at 0.
    pub(super) comment: usize,
    /// Members of one object that are named.
    pub(super) members: usize,
}

const MAX_VARIANTS: usize = 20;
const LONGEST_LITERAL: usize = 60;

/// Such as `{path: string /* Where it is */, limit?: integer(1..100) = 10}`.
pub(super) fn signature(schema: &Value, detail: Detail) -> String {
    Writer { root: schema, detail }.of(schema, detail.depth)
}

struct Writer<'a> {
    root: &'a Value,
    detail: Detail,
}

impl Writer<'_> {
    /// `depth` also ends schemas that refer to themselves.
    fn of(&self, schema: &Value, depth: usize) -> String {
        let Some(schema) = schema.as_object() else { return "any".to_owned() };
        if let Some(target) = schema.get("$ref").and_then(Value::as_str) {
            let target = target.strip_prefix('#').and_then(|it| self.root.pointer(it));
            return match (target, depth.checked_sub(1)) {
                (Some(target), Some(depth)) => self.of(target, depth),
                _ => "object".to_owned(),
            };
        }
        if let Some(it) = schema.get("const") {
            return literal(it);
        }
        if let Some(Value::Array(variants)) = schema.get("enum") {
            return one_of(variants.iter().map(literal));
        }
        for (word, with) in [("anyOf", " | "), ("oneOf", " | "), ("allOf", " & ")] {
            if let Some(Value::Array(parts)) = schema.get(word) {
                let Some(depth) = depth.checked_sub(1) else { return "object".to_owned() };
                let parts = parts.iter().map(|it| self.of(it, depth));
                return if with == " | " { one_of(parts) } else { joined(parts, with) };
            }
        }
        match schema.get("type") {
            Some(Value::String(kind)) => self.of_type(kind, schema, depth),
            Some(Value::Array(kinds)) => {
                let kinds = kinds.iter().filter_map(Value::as_str);
                one_of(kinds.map(|it| self.of_type(it, schema, depth)))
            }
            _ if schema.contains_key("properties") => self.of_type("object", schema, depth),
            _ => "any".to_owned(),
        }
    }

    fn of_type(&self, kind: &str, schema: &Map<String, Value>, depth: usize) -> String {
        match kind {
            "object" => self.of_object(schema, depth),
            "array" => match (schema.get("items"), depth.checked_sub(1)) {
                (Some(items), Some(depth)) => {
                    let of = self.of(items, depth);
                    if of.contains(" | ") { format!("({of})[]") } else { format!("{of}[]") }
                }
                _ => "any[]".to_owned(),
            },
            "integer" | "number" => {
                let bound = |it: &str| {
                    schema
                        .get(it)
                        .filter(|it| it.is_number())
                        .map_or(String::new(), Value::to_string)
                };
                match (bound("minimum"), bound("maximum")) {
                    (low, high) if low.is_empty() && high.is_empty() => kind.to_owned(),
                    (low, high) => format!("{kind}({low}..{high})"),
                }
            }
            "string" => match schema.get("format").and_then(Value::as_str) {
                Some(format) => format!("string({})", text::excerpt(format, 30)),
                None => kind.to_owned(),
            },
            other => text::excerpt(other, 30),
        }
    }

    fn of_object(&self, schema: &Map<String, Value>, depth: usize) -> String {
        let members = schema.get("properties").and_then(Value::as_object);
        let Some(below) = depth.checked_sub(1) else { return "object".to_owned() };
        let Some(members) = members.filter(|it| !it.is_empty()) else {
            return match schema.get("additionalProperties") {
                Some(of @ Value::Object(_)) => format!("{{[key]: {}}}", self.of(of, below)),
                _ => "{}".to_owned(),
            };
        };
        let required: Vec<&str> = match schema.get("required") {
            Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        let is_required = |name: &str| required.contains(&name);
        // What has to be there is named first, so that a cut takes what may be left out.
        let mut names: Vec<&String> = members.keys().collect();
        names.sort_by_key(|it| !is_required(it));
        let mut parts: Vec<String> = Vec::new();
        for name in names.iter().take(self.detail.members) {
            let member = &members[*name];
            let mark = if is_required(name) { "" } else { "?" };
            let mut part = format!("{}{mark}: {}", key(name), self.of(member, below));
            // Where nothing is explained, a default is a detail too.
            let default =
                member.get("default").filter(|it| self.detail.comment != 0 && !is_empty(it));
            if let Some(it) = default {
                part.push_str(&format!(" = {}", literal(it)));
            }
            if let Some(comment) = self.comment(member) {
                part.push_str(&format!(" /* {comment} */"));
            }
            parts.push(part);
        }
        if parts.len() < members.len() {
            parts.push("…".to_owned());
        }
        format!("{{{}}}", parts.join(", "))
    }

    fn comment(&self, schema: &Value) -> Option<String> {
        let words = schema.get("description").and_then(Value::as_str)?;
        let words: Vec<&str> = words.split_whitespace().collect();
        let words = text::excerpt(&words.join(" "), self.detail.comment);
        (self.detail.comment != 0 && !words.is_empty()).then_some(words)
    }
}

/// What can be `null` can be left out, which is said already.
fn one_of(parts: impl Iterator<Item = String>) -> String {
    let mut kept: Vec<String> = Vec::new();
    for it in parts.filter(|it| it != "null") {
        if !kept.contains(&it) {
            kept.push(it);
        }
    }
    if MAX_VARIANTS < kept.len() {
        kept.truncate(MAX_VARIANTS);
        kept.push("…".to_owned());
    }
    if kept.is_empty() { "null".to_owned() } else { kept.join(" | ") }
}

fn joined(parts: impl Iterator<Item = String>, with: &str) -> String {
    parts.take(MAX_VARIANTS).collect::<Vec<_>>().join(with)
}

fn literal(value: &Value) -> String {
    text::excerpt(&value.to_string(), LONGEST_LITERAL)
}

/// Says nothing as a default.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(it) => it.is_empty(),
        Value::Array(it) => it.is_empty(),
        Value::Object(it) => it.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

fn key(name: &str) -> String {
    let is_plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if is_plain { name.to_owned() } else { Value::from(name).to_string() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(schema: Value) -> String {
        signature(&schema, Detail { depth: 3, comment: 12, members: 3 })
    }

    #[test]
    fn schemas_read_like_types() {
        let schema = json!({"type": "object", "required": ["path"], "properties": {
            "limit": {"type": "integer", "minimum": 1, "default": 10},
            "path": {"type": "string", "description": "Where it is,\nas a path"},
        }});
        assert_eq!(of(schema), "{path: string /* Where it is,… */, limit?: integer(1..) = 10}");
        assert_eq!(of(json!({"enum": ["a", "b"]})), r#""a" | "b""#);
        assert_eq!(of(json!({"type": ["string", "null"]})), "string");
        let either = json!({"anyOf": [{"type": "integer"}, {"type": "string"}, {"type": "null"}]});
        assert_eq!(of(json!({"type": "array", "items": either})), "(integer | string)[]");
        assert_eq!(
            of(json!({"type": "object", "additionalProperties": {"type": "string"}})),
            "{[key]: string}"
        );
        assert_eq!(of(json!({})), "any");
        assert_eq!(of(json!({"properties": {"a b": {}}})), r#"{"a b"?: any}"#);
    }

    #[test]
    fn schemas_that_refer_to_themselves_or_are_huge_end() {
        let schema = json!({"$ref": "#/$defs/node", "$defs": {"node": {"properties": {
            "next": {"$ref": "#/$defs/node"},
        }}}});
        assert_eq!(of(schema), "{next?: object}");
        let names = (0..1000).map(|i| (format!("p{i}"), json!({"type": "string"})));
        let wide = json!({"type": "object", "properties": names.collect::<Map<_, _>>(), "required": ["p999"]});
        assert_eq!(of(wide), "{p999: string, p0?: string, p1?: string, …}");
        assert_eq!(of(json!({"$ref": "https://elsewhere/schema"})), "object");
    }
}
