//! Puts one server into a JSON file without touching the rest: order, unknown keys and the form of other values stay.

use std::fmt;

use anyhow::{Context, bail};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

/// An object in the order it was written, with its values as they were written.
struct Raw<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Raw<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Raw<'de>, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Raw<'de>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Raw<'de>, M::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Raw(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// `text` with `entry` as server `name` under `key`. An entry of that name is replaced.
pub(super) fn with_server(
    text: &str,
    key: &str,
    name: &str,
    entry: &Value,
) -> anyhow::Result<String> {
    let text = text.trim_start_matches('\u{feff}');
    let root = if text.trim().is_empty() { "{}" } else { text };
    let root: Raw = serde_json::from_str(root).context("it is not a JSON object")?;
    let found = root.0.iter().find(|(it, _)| it == key).map(|(_, it)| it.get());
    let servers: Raw = serde_json::from_str(found.unwrap_or("{}"))
        .with_context(|| format!("`{key}` in it is not an object"))?;
    if let Some((_, it)) = servers.0.iter().find(|(it, _)| it == name) {
        let old: Value = serde_json::from_str(it.get())?;
        if !old.is_object() {
            bail!("`{key}.{name}` in it is not an object");
        }
        if old == *entry {
            return Ok(text.to_owned());
        }
    }
    let indent = indent_of(text);
    let entry = write_value(entry, &indent, 2)?;
    let servers = put(&servers, name, &entry, &indent, 1);
    Ok(put(&root, key, &servers, &indent, 0) + "\n")
}

/// The object with one entry replaced or added, at a depth of indentation.
fn put(object: &Raw, name: &str, value: &str, indent: &str, depth: usize) -> String {
    let mut entries: Vec<(&str, &str)> =
        object.0.iter().map(|(key, value)| (key.as_str(), value.get())).collect();
    match entries.iter_mut().find(|(key, _)| *key == name) {
        Some(it) => it.1 = value,
        None => entries.push((name, value)),
    }
    let inner = indent.repeat(depth + 1);
    let lines: Vec<String> = entries
        .iter()
        .map(|(key, value)| format!("{inner}{}: {value}", Value::from(*key)))
        .collect();
    format!("{{\n{}\n{}}}", lines.join(",\n"), indent.repeat(depth))
}

/// Pretty, as if it had been written at that depth.
fn write_value(value: &Value, indent: &str, depth: usize) -> anyhow::Result<String> {
    let pretty = serde_json::to_string_pretty(value)?;
    let lines: Vec<String> = pretty
        .lines()
        .enumerate()
        .map(|(i, line)| {
            let own = (line.len() - line.trim_start().len()) / 2;
            let levels = if i == 0 { 0 } else { depth + own };
            format!("{}{}", indent.repeat(levels), line.trim_start())
        })
        .collect();
    Ok(lines.join("\n"))
}

/// What the file itself is indented with.
fn indent_of(text: &str) -> String {
    let mut indents = text.lines().filter_map(|line| {
        let indent: String = line.chars().take_while(|it| matches!(it, ' ' | '\t')).collect();
        (!indent.is_empty()).then_some(indent)
    });
    indents.next().unwrap_or_else(|| "  ".to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn add(text: &str) -> anyhow::Result<String> {
        with_server(
            text,
            "mcpServers",
            "mcp-orch",
            &json!({"command": "/bin/x", "args": ["stdio"]}),
        )
    }

    #[test]
    fn everything_else_stays_as_it_was() {
        let before = r#"{
    "zeta": 1.50,
    "mcpServers": {
        "other": {"command":   "keep-my-spaces", "extra": [1,2]}
    },
    "alpha": {"b": 1, "a": 2}
}
"#;
        let after = r#"{
    "zeta": 1.50,
    "mcpServers": {
        "other": {"command":   "keep-my-spaces", "extra": [1,2]},
        "mcp-orch": {
            "command": "/bin/x",
            "args": [
                "stdio"
            ]
        }
    },
    "alpha": {"b": 1, "a": 2}
}
"#;
        assert_eq!(add(before).unwrap(), after);
        assert_eq!(add(after).unwrap(), after, "twice is once");
    }

    #[test]
    fn an_older_entry_is_replaced_in_its_place() {
        let before = r#"{"mcpServers": {"mcp-orch": {"command": "old"}, "z": {}}}"#;
        let after: Value = serde_json::from_str(&add(before).unwrap()).unwrap();
        assert_eq!(after["mcpServers"]["mcp-orch"]["command"], "/bin/x");
        assert_eq!(after["mcpServers"]["z"], json!({}));
    }

    #[test]
    fn an_empty_or_missing_file_gets_the_whole_structure() {
        for text in ["{}", "", " \n", "\u{feff}{}"] {
            let after: Value = serde_json::from_str(&add(text).unwrap()).unwrap();
            assert_eq!(after["mcpServers"]["mcp-orch"]["args"], json!(["stdio"]));
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for text in [
            "// comment\n{}",
            "{",
            "[]",
            r#"{"mcpServers": []}"#,
            r#"{"mcpServers": {"mcp-orch": 1}}"#,
        ] {
            assert!(add(text).is_err(), "{text}");
        }
    }
}
