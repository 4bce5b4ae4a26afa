//! Arguments that arrive as text (in a URL, on a command line) read as the operation's input schema says.
//!
//! Text that does not fit its schema stays text: the operation then refuses it and names the parameter.

use orch_domain::Error;
use serde_json::{Map, Number, Value};

/// Reads `name=text` pairs. `input` is the schema of the whole request.
///
/// Arrays: `state=running&state=stopped`, `state=running,stopped` or JSON. Objects: `labels=team=web,tier=1`,
/// `labels.team=web`, `labels[team]=web` or JSON.
pub fn read_pairs(
    input: &Map<String, Value>,
    pairs: &[(String, String)],
) -> Result<Map<String, Value>, Error> {
    let mut read = Map::new();
    for (position, (key, text)) in pairs.iter().enumerate() {
        let (name, member) = split_key(input, key);
        if let Some(member) = member {
            let schema = member_schema(property(input, name), member);
            add_member(&mut read, name, member, read_one(schema, text))?;
            continue;
        }
        let schema = property(input, name);
        if has_type(schema, "object") && !text.trim_start().starts_with('{') {
            let members: Option<Vec<_>> = text.split(',').map(|it| it.split_once('=')).collect();
            match members {
                Some(members) => {
                    for (member, text) in members {
                        let schema = member_schema(schema, member.trim());
                        add_member(&mut read, name, member.trim(), read_one(schema, text))?;
                    }
                }
                None if text.is_empty() => {}
                None => drop(read.insert(name.to_owned(), text.as_str().into())),
            }
            continue;
        }
        let is_first = !pairs[..position].iter().any(|(other, _)| other == key);
        if !is_first {
            if has_type(schema, "array") {
                continue;
            }
            return Err(Error::invalid(name, "it is given more than once; it takes one value"));
        }
        let texts: Vec<&str> =
            pairs.iter().filter(|(other, _)| other == key).map(|(_, it)| it.as_str()).collect();
        read.insert(name.to_owned(), read_all(schema, &texts));
    }
    Ok(read)
}

/// Reads one parameter that was given as text.
pub fn read_one(schema: Option<&Value>, text: &str) -> Value {
    read_all(schema, &[text])
}

fn read_all(schema: Option<&Value>, texts: &[&str]) -> Value {
    if has_type(schema, "array") {
        let items = schema.and_then(|it| it.get("items"));
        return match texts {
            [text] if text.trim_start().starts_with('[') => {
                serde_json::from_str(text).unwrap_or_else(|_| Value::from(*text))
            }
            [""] => Value::Array(Vec::new()),
            [text] => text.split(',').map(|it| scalar(items, it.trim())).collect(),
            texts => texts.iter().map(|it| scalar(items, it)).collect(),
        };
    }
    scalar(schema, texts.first().copied().unwrap_or_default())
}

fn scalar(schema: Option<&Value>, text: &str) -> Value {
    if has_type(schema, "object")
        && text.trim_start().starts_with('{')
        && let Ok(it) = serde_json::from_str(text)
    {
        return it;
    }
    if has_type(schema, "integer") || has_type(schema, "number") {
        if let Ok(it) = text.parse::<i64>() {
            return it.into();
        }
        if let Ok(it) = text.parse::<u64>() {
            return it.into();
        }
    }
    if has_type(schema, "number") {
        let starts_well =
            text.starts_with(|it: char| it.is_ascii_digit() || it == '-' || it == '.');
        if let Some(it) = text.parse().ok().filter(|_| starts_well).and_then(Number::from_f64) {
            return Value::Number(it);
        }
    }
    if has_type(schema, "boolean") {
        match text.to_ascii_lowercase().as_str() {
            // `?include_nodes` without a value means it.
            "true" | "1" | "yes" | "on" | "" => return true.into(),
            "false" | "0" | "no" | "off" => return false.into(),
            _ => {}
        }
    }
    text.into()
}

fn property<'a>(input: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    input.get("properties")?.get(name)
}

fn member_schema<'a>(schema: Option<&'a Value>, member: &str) -> Option<&'a Value> {
    let schema = schema?;
    schema
        .get("properties")
        .and_then(|it| it.get(member))
        .or_else(|| schema.get("additionalProperties"))
}

/// `labels.team` and `labels[team]` are members of `labels`, when that is an object.
fn split_key<'a>(input: &Map<String, Value>, key: &'a str) -> (&'a str, Option<&'a str>) {
    let dotted = key.split_once('.');
    let bracketed = key.strip_suffix(']').and_then(|it| it.split_once('['));
    match dotted.into_iter().chain(bracketed).find(|(name, _)| {
        has_type(property(input, name), "object") && property(input, key).is_none()
    }) {
        Some((name, member)) => (name, Some(member)),
        None => (key, None),
    }
}

fn add_member(
    read: &mut Map<String, Value>,
    name: &str,
    member: &str,
    value: Value,
) -> Result<(), Error> {
    let object = read.entry(name).or_insert_with(|| Value::Object(Map::new()));
    match object.as_object_mut().map(|it| it.insert(member.to_owned(), value)) {
        Some(None) => Ok(()),
        _ => Err(Error::invalid(format!("{name}.{member}"), "it is given more than once")),
    }
}

/// Whether `schema` takes values of this JSON type, in any of its alternatives.
fn has_type(schema: Option<&Value>, wanted: &str) -> bool {
    let Some(schema) = schema.and_then(Value::as_object) else { return false };
    match schema.get("type") {
        Some(Value::String(it)) if it == wanted => return true,
        Some(Value::Array(types)) if types.iter().any(|it| it == wanted) => return true,
        _ => {}
    }
    ["anyOf", "oneOf", "allOf"]
        .into_iter()
        .filter_map(|it| schema.get(it)?.as_array())
        .flatten()
        .any(|it| has_type(Some(it), wanted))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(query: &[(&str, &str)]) -> Result<Value, Error> {
        let Value::Object(input) = json!({"properties": {
            "n": {"type": "integer"},
            "cpu": {"anyOf": [{"type": "number"}, {"type": "null"}]},
            "wait": {"type": ["boolean", "null"]},
            "name": {"type": "string"},
            "state": {"type": "array", "items": {"type": "string"}},
            "ports": {"type": "array", "items": {"anyOf": [{"type": "integer"}, {"type": "object"}]}},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        }}) else {
            unreachable!()
        };
        let pairs: Vec<_> = query.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        read_pairs(&input, &pairs).map(Value::Object)
    }

    #[test]
    fn text_becomes_what_the_schema_says() {
        let it = read(&[("n", "-3"), ("cpu", "0.5"), ("wait", "False"), ("name", "12")]).unwrap();
        assert_eq!(it, json!({"n": -3, "cpu": 0.5, "wait": false, "name": "12"}));
        assert_eq!(read(&[("cpu", "2")]).unwrap(), json!({"cpu": 2}));
        assert_eq!(read(&[("wait", "")]).unwrap(), json!({"wait": true}));
    }

    #[test]
    fn what_does_not_fit_stays_text() {
        for bad in ["NaN", "inf", "1e999", "0x10", "", "1 "] {
            assert_eq!(read(&[("cpu", bad)]).unwrap(), json!({"cpu": bad}));
        }
        assert_eq!(read(&[("unknown", "1")]).unwrap(), json!({"unknown": "1"}));
    }

    #[test]
    fn arrays_repeat_or_have_commas() {
        let expected = json!({"state": ["running", "stopped"]});
        assert_eq!(read(&[("state", "running,stopped")]).unwrap(), expected);
        assert_eq!(read(&[("state", "running"), ("state", "stopped")]).unwrap(), expected);
        assert_eq!(read(&[("state", r#"["running", "stopped"]"#)]).unwrap(), expected);
        assert_eq!(read(&[("state", "")]).unwrap(), json!({"state": []}));
        assert_eq!(read(&[("ports", "80,443")]).unwrap(), json!({"ports": [80, 443]}));
    }

    #[test]
    fn objects_come_in_three_forms() {
        let expected = json!({"labels": {"team": "web", "tier": "1"}});
        assert_eq!(read(&[("labels", "team=web,tier=1")]).unwrap(), expected);
        assert_eq!(read(&[("labels", "team=web"), ("labels", "tier=1")]).unwrap(), expected);
        assert_eq!(read(&[("labels.team", "web"), ("labels[tier]", "1")]).unwrap(), expected);
        assert_eq!(read(&[("labels", r#"{"team": "web", "tier": "1"}"#)]).unwrap(), expected);
        for bad in ["web", "team=web,tier"] {
            assert_eq!(read(&[("labels", bad)]).unwrap(), json!({"labels": bad}));
        }
        assert_eq!(read(&[("labels.a.b/c", "d=e")]).unwrap(), json!({"labels": {"a.b/c": "d=e"}}));
    }

    #[test]
    fn one_value_given_twice_is_refused() {
        let err = read(&[("name", "a"), ("name", "b")]).unwrap_err();
        assert!(err.to_string().contains("more than once"), "{err}");
        assert!(read(&[("labels.team", "a"), ("labels.team", "b")]).is_err());
    }
}
