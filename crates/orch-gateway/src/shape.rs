//! How the tools of one server are offered: which of them, under which names, with which words and preset arguments.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value};
use wildmatch::WildMatch;

use crate::catalog::Item;
use crate::frame::Raw;
use crate::members::Members;

/// `tools` of a server's entry. Names are those that the server gives.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Shape {
    /// Patterns with `*` and `?`. Empty: all of them.
    pub allow: Vec<String>,
    /// Taken from those.
    pub deny: Vec<String>,
    /// Other names for some.
    pub rename: BTreeMap<String, String>,
    /// Other descriptions.
    pub describe: BTreeMap<String, String>,
    /// Arguments that a call has when it names no others.
    pub defaults: BTreeMap<String, Map<String, Value>>,
}

impl Shape {
    pub fn is_plain(&self) -> bool {
        *self == Shape::default()
    }

    /// The tools as they are offered, in their order. Of two that come out with one name the first stays.
    pub fn apply(&self, tools: Vec<Item>) -> Vec<Item> {
        if self.is_plain() {
            return tools;
        }
        let matches = |patterns: &[String], name: &str| {
            patterns.iter().any(|it| WildMatch::new(it).matches(name))
        };
        let mut names = std::collections::HashSet::new();
        tools
            .into_iter()
            .filter(|it| self.allow.is_empty() || matches(&self.allow, &it.name))
            .filter(|it| !matches(&self.deny, &it.name))
            .map(|it| self.shaped(it))
            .filter(|it| names.insert(it.name.clone()))
            .collect()
    }

    fn shaped(&self, item: Item) -> Item {
        let Some(mut members) = Members::of(&item.json) else { return item };
        let origin = item.origin.clone();
        let mut name = item.name;
        if let Some(new) = self.rename.get(&*origin) {
            members.set("name", new);
            name = Arc::from(new.as_str());
        }
        if let Some(words) = self.describe.get(&*origin) {
            members.set("description", words);
        }
        if let Some(defaults) = self.defaults.get(&*origin) {
            not_required(&mut members, defaults);
        }
        Item { name, origin, json: members.to_raw() }
    }

    /// `arguments` of a call of the tool that its server calls `origin`, with what it does not name.
    pub fn with_defaults(&self, origin: &str, arguments: Option<&Raw>) -> Option<Raw> {
        let defaults = self.defaults.get(origin)?;
        let mut members = Members::of_params(arguments);
        for (key, value) in defaults {
            if members.get(key).is_none() {
                members.set(key, value);
            }
        }
        Some(members.to_raw())
    }
}

/// A model that reads the schema need not give what is given.
fn not_required(tool: &mut Members, defaults: &Map<String, Value>) {
    let Some(mut schema) = tool.object("inputSchema") else { return };
    let Some(required) = schema.get("required") else { return };
    let Ok(mut required) = serde_json::from_str::<Vec<String>>(required.get()) else { return };
    required.retain(|it| !defaults.contains_key(it));
    schema.set("required", &required);
    tool.set("inputSchema", &schema);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::frame::raw;

    fn tool(name: &str) -> Item {
        let json = json!({
            "name": name, "description": "old", "vendor": 0.5,
            "inputSchema": {"type": "object", "required": ["path", "mode"]}
        });
        Item { name: name.into(), origin: name.into(), json: raw(&json) }
    }

    fn shape(value: Value) -> Shape {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn tools_are_chosen_named_described_and_preset() {
        let it = shape(json!({
            "allow": ["read_*", "write_file"], "deny": ["*_secret"],
            "rename": {"read_file": "read"}, "describe": {"read_file": "new"},
            "defaults": {"read_file": {"mode": "text"}}
        }));
        let tools = ["read_file", "read_secret", "write_file", "delete"].map(tool);
        let offered = it.apply(tools.to_vec());
        let names: Vec<&str> = offered.iter().map(|it| &*it.name).collect();
        assert_eq!(names, ["read", "write_file"]);
        assert_eq!(&*offered[0].origin, "read_file");
        let read: Value = serde_json::from_str(offered[0].json.get()).unwrap();
        assert_eq!(read["name"], "read");
        assert_eq!(read["description"], "new");
        assert_eq!(read["inputSchema"]["required"], json!(["path"]));
        assert_eq!(read["vendor"], 0.5);

        let given = raw(&json!({"path": "a"}));
        let filled = it.with_defaults("read_file", Some(&given)).unwrap();
        assert_eq!(filled.get(), r#"{"path":"a","mode":"text"}"#);
        let given = raw(&json!({"mode": "binary"}));
        assert_eq!(
            it.with_defaults("read_file", Some(&given)).unwrap().get(),
            r#"{"mode":"binary"}"#
        );
        assert!(it.with_defaults("write_file", None).is_none());
    }

    #[test]
    fn two_that_become_one_name_are_one() {
        let it = shape(json!({"rename": {"a": "b"}}));
        assert_eq!(it.apply(vec![tool("a"), tool("b")]).len(), 1);
    }
}
