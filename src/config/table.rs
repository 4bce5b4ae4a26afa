//! The documentation of the keys, made from the types: the tables of the README, the example file, the hints of errors.

use schemars::generate::SchemaSettings;
use serde_json::Value;

use super::Config;
use super::env::VARIABLES;

/// One key that takes a value.
struct Row {
    key: String,
    allowed: String,
    default: Option<Value>,
    text: String,
}

/// The keys as a Markdown table.
pub fn key_table() -> String {
    let mut out = String::from("| key | value | default | meaning |\n|---|---|---|---|\n");
    for row in rows() {
        let default = row.default.as_ref().map_or_else(String::new, |it| format!("`{it}`"));
        out.push_str(&format!("| `{}` | {} | {default} | {} |\n", row.key, row.allowed, row.text));
    }
    out
}

/// The environment variables as a Markdown table.
pub fn environment_table() -> String {
    let mut out = String::from("| variable | key |\n|---|---|\n");
    for it in VARIABLES {
        out.push_str(&format!("| `{}` | `{}` |\n", it.name, it.key));
    }
    out
}

/// A `config.yaml` that changes nothing: every key is there as a comment, with its default.
pub fn example_file() -> String {
    let mut out = String::from(
        "# Every key with its default. Remove a `#` to change one; text may refer to the environment as ${NAME}.\n",
    );
    let mut open: Vec<String> = Vec::new();
    for row in rows() {
        let parts: Vec<&str> = row.key.split('.').collect();
        let (last, sections) = parts.split_last().expect("a key has a name");
        let shared = open.iter().zip(sections).take_while(|(a, b)| a == *b).count();
        open.truncate(shared);
        for section in &sections[shared..] {
            let indent = "  ".repeat(open.len());
            let gap = if open.is_empty() { "\n" } else { "" };
            out.push_str(&format!("{gap}#{indent}{section}:\n"));
            open.push((*section).to_owned());
        }
        let indent = "  ".repeat(open.len());
        let default = row.default.unwrap_or(Value::Null);
        out.push_str(&format!("#{indent}{last}: {default}  # {}\n", row.text));
    }
    out
}

/// What is allowed for `key`, for an error about it.
pub(super) fn describe(key: &str) -> Option<String> {
    let plain = key.split('[').next().unwrap_or(key);
    let row = rows().into_iter().find(|it| it.key == plain)?;
    Some(format!("allowed is {}; {}", row.allowed.replace('`', ""), lower_first(&row.text)))
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |it| it.to_lowercase().chain(chars).collect())
}

fn rows() -> Vec<Row> {
    let mut settings = SchemaSettings::draft2020_12();
    settings.inline_subschemas = true;
    let schema: Value = settings.into_generator().into_root_schema_for::<Config>().into();
    let mut out = Vec::new();
    for section in SECTIONS {
        walk(section, &schema["properties"][section], None, &mut out);
    }
    out
}

/// In reading order; a test compares them with the type.
pub(super) const SECTIONS: [&str; 10] = [
    "server",
    "security",
    "cluster",
    "compute",
    "store",
    "gateway",
    "execution",
    "llm",
    "alerts",
    "ray",
];

fn walk(key: &str, schema: &Value, default: Option<&Value>, out: &mut Vec<Row>) {
    let is_section = default.is_none_or(Value::is_object);
    match schema.get("properties").and_then(Value::as_object) {
        Some(properties) if is_section && !key.ends_with("_quota") => {
            let defaults = schema.get("default").and_then(Value::as_object);
            for (name, inner) in properties {
                let default = inner.get("default").or_else(|| defaults.and_then(|it| it.get(name)));
                walk(&format!("{key}.{name}"), inner, default, out);
            }
        }
        _ => out.push(Row {
            key: key.to_owned(),
            allowed: allowed(schema),
            default: default.filter(|it| !it.is_null()).cloned(),
            text: schema
                .get("description")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .replace('\n', " "),
        }),
    }
}

fn allowed(schema: &Value) -> String {
    if let Some(options) = schema.get("enum").and_then(Value::as_array) {
        let options: Vec<String> =
            options.iter().filter_map(Value::as_str).map(|it| format!("`{it}`")).collect();
        return options.join(", ");
    }
    for alternatives in ["anyOf", "oneOf"] {
        if let Some(options) = schema.get(alternatives).and_then(Value::as_array) {
            let options: Vec<String> =
                options.iter().map(allowed).filter(|it| it != "null").collect();
            return options.join(" or ");
        }
    }
    let kind = match schema.get("type") {
        Some(Value::String(it)) => it.as_str(),
        Some(Value::Array(kinds)) => {
            kinds.iter().filter_map(Value::as_str).find(|it| *it != "null").unwrap_or("any")
        }
        _ => "any",
    };
    match kind {
        "string" => "text".to_owned(),
        "boolean" => "`true` or `false`".to_owned(),
        "integer" => range("a whole number", schema),
        "number" if schema.get("x-kind").is_some() => "seconds".to_owned(),
        "number" => range("a number", schema),
        "array" => "a list".to_owned(),
        "object" => "a mapping".to_owned(),
        other => other.to_owned(),
    }
}

fn range(what: &str, schema: &Value) -> String {
    let bound = |name: &str| schema.get(name).filter(|it| it.as_f64().is_some());
    match (bound("minimum"), bound("maximum")) {
        (Some(min), Some(max)) => format!("{what} from {min} to {max}"),
        (Some(min), None) => format!("{what} from {min}"),
        (None, Some(max)) => format!("{what} up to {max}"),
        (None, None) => what.to_owned(),
    }
}

/// The sections that the type has, for the test.
#[cfg(test)]
pub(super) fn section_names() -> Vec<String> {
    let schema: Value = schemars::schema_for!(Config).into();
    schema["properties"].as_object().expect("the root is an object").keys().cloned().collect()
}
