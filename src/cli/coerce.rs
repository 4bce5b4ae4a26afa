//! From `key=value` on the command line to the arguments of an operation, guided by its input schema.

use anyhow::{Context, bail};
use serde_json::{Map, Value};

/// Lays `words` over `base`. `env.NAME=value` sets one entry of an object; a list takes JSON or commas. All mistakes are
/// told together, and what is required and not there is one of them.
pub(super) fn arguments(
    schema: &Map<String, Value>,
    base: Map<String, Value>,
    words: &[String],
) -> anyhow::Result<Map<String, Value>> {
    let mut arguments = base;
    let mut mistakes = Vec::new();
    for word in words {
        if let Err(mistake) = lay(schema, &mut arguments, word) {
            mistakes.push(mistake);
        }
    }
    let properties = schema.get("properties").and_then(Value::as_object);
    let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
    for name in required.filter_map(Value::as_str).filter(|it| !arguments.contains_key(*it)) {
        // One that was given wrongly is told of already.
        let is_given = |it: &String| it.split(['=', '.']).next() == Some(name);
        if !words.iter().any(is_given) {
            let text = properties.and_then(|it| it.get(name)?.get("description")?.as_str());
            let text = text.map_or_else(String::new, |it| {
                format!(": {}", it.split_once(". ").map_or(it, |it| it.0).replace('\n', " "))
            });
            mistakes.push(anyhow::anyhow!("`{name}` is required{text}"));
        }
    }
    match mistakes.len() {
        0 => Ok(arguments),
        1 => Err(mistakes.remove(0)),
        n => {
            let lines = mistakes.iter().map(|it| it.to_string().replace("\nhint: ", "; "));
            bail!("{n} mistakes in the arguments:\n  {}", lines.collect::<Vec<_>>().join("\n  "))
        }
    }
}

fn lay(
    schema: &Map<String, Value>,
    arguments: &mut Map<String, Value>,
    word: &str,
) -> anyhow::Result<()> {
    let (path, text) = word.split_once('=').with_context(|| {
        format!("`{word}` is not `key=value`\nhint: or give all arguments as `--json '{{…}}'`")
    })?;
    let (key, inner) = match path.split_once('.') {
        Some((key, inner)) => (key, Some(inner)),
        None => (path, None),
    };
    let properties = schema.get("properties").and_then(Value::as_object);
    let property =
        properties.and_then(|it| it.get(key)).with_context(|| unknown(key, properties))?;
    let Some(inner) = inner else {
        arguments.insert(key.to_owned(), coerce(key, property, text)?);
        return Ok(());
    };
    let entry = arguments.entry(key).or_insert_with(|| Value::Object(Map::new()));
    let Value::Object(entry) = entry else { bail!("`{key}` is given twice, in two ways") };
    let schema = entry_schema(property, inner);
    let value = match schema {
        Some(schema) => coerce(path, schema, text)?,
        None => Value::String(text.to_owned()),
    };
    entry.insert(inner.to_owned(), value);
    Ok(())
}

fn unknown(key: &str, properties: Option<&Map<String, Value>>) -> String {
    let names: Vec<&str> =
        properties.into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    let near = nearest(key, names.iter().copied());
    let hint = match (near.first(), names.is_empty()) {
        (Some(it), _) => format!("did you mean `{it}`?"),
        (None, true) => "this operation takes none".to_owned(),
        (None, false) => format!("there are {}", names.join(", ")),
    };
    format!("there is no argument `{key}`\nhint: {hint}")
}

/// Those of `names` that could have been meant, best first.
pub(super) fn nearest<'a>(given: &str, names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut scored: Vec<(f64, &str)> = names
        .map(|name| {
            let contained = !given.is_empty() && (name.contains(given) || given.contains(name));
            // A part of the name is near by itself, however little the rest looks like it.
            let score = strsim::jaro_winkler(given, name).max(if contained { 0.9 } else { 0.0 });
            (score, name)
        })
        .filter(|(score, _)| 0.8 < *score)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    scored.into_iter().take(3).map(|(_, name)| name).collect()
}

/// The schema of one entry of an object.
fn entry_schema<'a>(property: &'a Value, name: &str) -> Option<&'a Value> {
    alternatives(property).into_iter().find_map(|it| {
        it.get("properties")
            .and_then(|it| it.get(name))
            .or_else(|| it.get("additionalProperties").filter(|it| it.is_object()))
    })
}

fn alternatives(schema: &Value) -> Vec<&Value> {
    let mut all = vec![schema];
    for key in ["anyOf", "oneOf"] {
        if let Some(options) = schema.get(key).and_then(Value::as_array) {
            all.extend(options.iter().flat_map(alternatives));
        }
    }
    all
}

/// Whether the schema takes values of this JSON type.
fn takes(schema: &Value, kind: &str) -> bool {
    alternatives(schema).into_iter().any(|it| match it.get("type") {
        Some(Value::String(it)) => it == kind,
        Some(Value::Array(kinds)) => kinds.iter().any(|it| it == kind),
        _ => it.get("enum").is_some() && kind == "string",
    })
}

fn coerce(key: &str, schema: &Value, text: &str) -> anyhow::Result<Value> {
    let parsed: Option<Value> = serde_json::from_str(text).ok();
    let fits = |it: &Value| match it {
        Value::Null => takes(schema, "null"),
        Value::Bool(_) => takes(schema, "boolean"),
        Value::Number(it) => {
            takes(schema, "number") || (takes(schema, "integer") && (it.is_i64() || it.is_u64()))
        }
        Value::Array(_) => takes(schema, "array"),
        Value::Object(_) => takes(schema, "object"),
        // What looks like JSON text is text as it stands.
        Value::String(_) => false,
    };
    if let Some(it) = parsed.filter(fits) {
        return Ok(it);
    }
    if takes(schema, "string") {
        return Ok(Value::String(text.to_owned()));
    }
    if let Some(it) = duration(key, text).map(Value::from).filter(fits) {
        return Ok(it);
    }
    // A command line is split as a shell does; its commas are its own.
    if key == "command" && text.contains(char::is_whitespace) && !text.starts_with('[') {
        let words = shlex::split(text)
            .with_context(|| format!("`{key}`: a quote of `{text}` is not closed"))?;
        return Ok(words.into());
    }
    if takes(schema, "array") && !text.starts_with('[') {
        let items = alternatives(schema).into_iter().find_map(|it| it.get("items"));
        let items = items.context("this list has no kind of items")?;
        let words = text.split(',').map(str::trim).filter(|it| !it.is_empty());
        return words.map(|it| coerce(key, items, it)).collect::<Result<_, _>>().map(Value::Array);
    }
    let wanted: Vec<&str> = [
        ("boolean", "`true` or `false`"),
        ("integer", "a whole number"),
        ("number", "a number"),
        ("array", "a list such as `a,b` or `[\"a\", \"b\"]`"),
        ("object", "an object such as `{\"a\": \"b\"}`, or `KEY.a=b`"),
    ]
    .into_iter()
    .filter(|(kind, _)| takes(schema, kind))
    .map(|(_, text)| text)
    .collect();
    bail!("`{key}`: `{text}` is not {}", wanted.join(" or "))
}

/// `30s` or `5m` in the unit that the name of the argument asks for.
fn duration(key: &str, text: &str) -> Option<u64> {
    const MILLIS: [(&str, u64); 5] =
        [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
    let unit = match key.rsplit('_').next()? {
        "ms" => 1,
        "seconds" => 1000,
        "days" => 86_400_000,
        _ => return None,
    };
    let (_, millis) = MILLIS.into_iter().find(|(suffix, _)| {
        text.strip_suffix(suffix).is_some_and(|it| it.bytes().all(|it| it.is_ascii_digit()))
    })?;
    let digits = text.trim_end_matches(|it: char| it.is_ascii_alphabetic());
    let all = digits.parse::<u64>().ok()?.checked_mul(millis)?;
    // What is not whole in that unit is not what was meant.
    all.is_multiple_of(unit).then_some(all / unit)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(words: &[&str]) -> anyhow::Result<Value> {
        let schema = json!({"properties": {
            "name": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "cpu": {"type": ["number", "null"]},
            "count": {"type": "integer"},
            "wait": {"type": "boolean"},
            "ports": {"type": "array", "items": {"anyOf": [{"type": "integer"}, {"type": "object"}]}},
            "command": {"type": "array", "items": {"type": "string"}},
            "env": {"type": "object", "additionalProperties": {"type": "string"}},
            "quota": {"type": "object", "properties": {"cpu": {"type": "number"}}},
            "timeout_seconds": {"type": "integer"},
            "grace_ms": {"type": "integer"},
        }});
        let words: Vec<String> = words.iter().map(|it| (*it).to_owned()).collect();
        arguments(schema.as_object().unwrap(), Map::new(), &words).map(Value::Object)
    }

    #[test]
    fn values_become_what_the_schema_wants() {
        let words = [
            "name=123",
            "cpu=0.5",
            "count=2",
            "wait=false",
            "ports=80,443",
            "command=sh,-c,ls",
            "env.A=1",
            "env.B=x=y",
            "quota.cpu=2",
        ];
        let expected = json!({
            "name": "123", "cpu": 0.5, "count": 2, "wait": false, "ports": [80, 443], "command": ["sh", "-c", "ls"],
            "env": {"A": "1", "B": "x=y"}, "quota": {"cpu": 2},
        });
        assert_eq!(parse(&words).unwrap(), expected);
        let json_list = parse(&["ports=[{\"container_port\": 80}]", "command=[\"a,b\"]"]).unwrap();
        assert_eq!(json_list, json!({"ports": [{"container_port": 80}], "command": ["a,b"]}));
        assert_eq!(
            parse(&["command=sh -c 'echo a,b'"]).unwrap(),
            json!({"command": ["sh", "-c", "echo a,b"]})
        );
        assert_eq!(
            parse(&["timeout_seconds=5m", "grace_ms=30s"]).unwrap(),
            json!({"timeout_seconds": 300, "grace_ms": 30_000})
        );
        assert_eq!(parse(&["ports=80"]).unwrap(), json!({"ports": [80]}));
        assert_eq!(parse(&["cpu=null"]).unwrap(), json!({"cpu": null}));
    }

    #[test]
    fn mistakes_say_what_is_wanted() {
        let error_of = |word: &str| parse(&[word]).unwrap_err().to_string();
        assert!(error_of("count=two").contains("`count`: `two` is not a whole number"));
        assert!(error_of("count=1.5").contains("a whole number"));
        assert!(error_of("wait=maybe").contains("`true` or `false`"));
        assert!(error_of("nme=x").contains("did you mean `name`?"));
        assert!(error_of("web").contains("is not `key=value`"));
        assert!(error_of("env=5").contains("an object"));
        assert!(error_of("count=5m").contains("a whole number"), "it counts no time");
        assert!(error_of("timeout_seconds=1500ms").contains("a whole number"));
        assert!(error_of("command=sh -c 'x").contains("not closed"));
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let schema = json!({
            "properties": {
                "image": {"type": "string", "description": "Image to run. Pulled when missing."},
                "count": {"type": "integer"},
            },
            "required": ["image"],
        });
        let words = ["count=two", "web"].map(str::to_owned);
        let err = arguments(schema.as_object().unwrap(), Map::new(), &words).unwrap_err();
        let text = err.to_string();
        for part in [
            "3 mistakes",
            "`two` is not a whole number",
            "`web` is not",
            "`image` is required: Image to run",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let base = Map::from_iter([("image".to_owned(), json!("a"))]);
        assert!(arguments(schema.as_object().unwrap(), base, &[]).is_ok());
    }

    #[test]
    fn near_names_are_found_by_part_and_by_typing_errors() {
        let names = ["launch_instance", "list_instances", "list_nodes", "terminate_instance"];
        let near = |given| nearest(given, names.into_iter());
        assert_eq!(near("lanch_instance")[0], "launch_instance");
        assert_eq!(near("nodes")[0], "list_nodes");
        assert!(near("zebra").is_empty());
    }
}
