//! Schemas of a document as JSON Schema that stands on its own: references are put in where they stand, and those that lead
//! back to themselves, or would make it too large, become `$defs`. What OpenAPI 3.0 says in its own way is said in JSON
//! Schema's. Nothing outside of the document is ever fetched.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::document::Document;

/// Objects that one schema may have before references stay references.
const BUDGET: usize = 2000;
/// References within references before they stay such.
const MAX_DEPTH: usize = 24;

/// Members that are no JSON Schema, or would have another meaning outside of their document.
const DROPPED: [&str; 8] =
    ["xml", "discriminator", "externalDocs", "$id", "$schema", "$anchor", "$defs", "definitions"];
const MAPS: [&str; 3] = ["properties", "patternProperties", "dependentSchemas"];
const LISTS: [&str; 4] = ["allOf", "anyOf", "oneOf", "prefixItems"];
const SINGLE: [&str; 10] = [
    "items",
    "additionalProperties",
    "not",
    "if",
    "then",
    "else",
    "contains",
    "propertyNames",
    "unevaluatedItems",
    "unevaluatedProperties",
];

/// Makes the schemas of one tool, which share their `$defs`.
pub(super) struct Schemas<'a> {
    document: &'a Document,
    /// References that stay, and the names they have.
    kept: BTreeMap<String, String>,
    budget: usize,
}

impl<'a> Schemas<'a> {
    pub(super) fn of(document: &'a Document) -> Schemas<'a> {
        Schemas { document, kept: BTreeMap::new(), budget: BUDGET }
    }

    pub(super) fn standalone(&mut self, schema: &'a Value) -> Value {
        self.convert(schema, &mut Vec::new())
    }

    /// Adds what the schemas made so far refer to.
    pub(super) fn with_defs(mut self, mut schema: Map<String, Value>) -> Map<String, Value> {
        // In a definition all references stay, so that this comes to an end.
        self.budget = 0;
        let mut defs = Map::new();
        loop {
            let missing = self
                .kept
                .iter()
                .find(|(_, name)| !defs.contains_key(*name))
                .map(|(reference, name)| (reference.clone(), name.clone()));
            let Some((reference, name)) = missing else { break };
            let target = self.document.target(&reference);
            let def = target.map_or_else(|| json!({}), |it| self.convert(it, &mut Vec::new()));
            defs.insert(name, def);
        }
        if !defs.is_empty() {
            schema.insert("$defs".to_owned(), Value::Object(defs));
        }
        schema
    }

    fn convert(&mut self, schema: &'a Value, path: &mut Vec<&'a str>) -> Value {
        let Some(object) = schema.as_object() else { return schema.clone() };
        self.budget = self.budget.saturating_sub(1);
        if let Some(reference) = object.get("$ref").and_then(Value::as_str) {
            let mut target = self.referred(reference, path);
            // Since 3.1 a reference may have neighbours, mostly a description.
            if let Some(target) = target.as_object_mut() {
                for (key, value) in object.iter().filter(|(key, _)| *key != "$ref") {
                    target.insert(key.clone(), value.clone());
                }
            }
            return target;
        }
        let mut out = Map::new();
        for (key, value) in object {
            let key = key.as_str();
            let value = match value {
                _ if DROPPED.contains(&key) => continue,
                Value::Object(members) if MAPS.contains(&key) => members
                    .iter()
                    .map(|(name, it)| (name.clone(), self.convert(it, path)))
                    .collect::<Map<_, _>>()
                    .into(),
                Value::Array(items) if LISTS.contains(&key) => {
                    items.iter().map(|it| self.convert(it, path)).collect::<Vec<_>>().into()
                }
                value if SINGLE.contains(&key) => self.convert(value, path),
                value => value.clone(),
            };
            out.insert(key.to_owned(), value);
        }
        modernise(&mut out);
        Value::Object(out)
    }

    fn referred(&mut self, reference: &'a str, path: &mut Vec<&'a str>) -> Value {
        let Some(target) = self.document.target(reference) else {
            let shown = orch_domain::text::excerpt(reference, 200);
            return json!({"description": format!("as `{shown}` says, which was not fetched")});
        };
        let stays = path.contains(&reference) || MAX_DEPTH <= path.len() || self.budget == 0;
        if stays {
            let name = self.name_of(reference);
            return json!({"$ref": format!("#/$defs/{name}")});
        }
        path.push(reference);
        let value = self.convert(target, path);
        path.pop();
        value
    }

    fn name_of(&mut self, reference: &str) -> String {
        if let Some(it) = self.kept.get(reference) {
            return it.clone();
        }
        let last = reference.rsplit('/').next().unwrap_or_default();
        let base: String = last
            .chars()
            .map(|it| if it.is_ascii_alphanumeric() || it == '_' { it } else { '_' })
            .collect();
        let is_free = |name: &String| self.kept.values().all(|it| it != name);
        let name = std::iter::once(base.clone())
            .chain((2..).map(|n| format!("{base}_{n}")))
            .find(is_free)
            .unwrap_or(base);
        self.kept.insert(reference.to_owned(), name.clone());
        name
    }
}

/// What OpenAPI 3.0 has of its own.
fn modernise(schema: &mut Map<String, Value>) {
    if schema.remove("nullable") == Some(Value::Bool(true)) {
        if let Some(kind) = schema.get("type").filter(|it| it.is_string()).cloned() {
            schema.insert("type".to_owned(), json!([kind, "null"]));
        }
        if let Some(Value::Array(values)) = schema.get_mut("enum")
            && !values.contains(&Value::Null)
        {
            values.push(Value::Null);
        }
    }
    for (exclusive, limit) in [("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")] {
        match schema.get(exclusive) {
            Some(Value::Bool(true)) => {
                let bound = schema.remove(limit);
                schema.remove(exclusive);
                if let Some(bound) = bound {
                    schema.insert(exclusive.to_owned(), bound);
                }
            }
            Some(Value::Bool(false)) => drop(schema.remove(exclusive)),
            _ => {}
        }
    }
    if let Some(example) = schema.remove("example") {
        schema.entry("examples").or_insert_with(|| json!([example]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standalone(document: &Value, pointer: &str) -> Value {
        let document = Document::parse(&document.to_string()).unwrap();
        let mut schemas = Schemas::of(&document);
        let schema = schemas.standalone(document.root.pointer(pointer).unwrap());
        schemas.with_defs(schema.as_object().unwrap().clone()).into()
    }

    #[test]
    fn references_are_put_in_and_circles_become_definitions() {
        let document = json!({"openapi": "3.1.0", "components": {"schemas": {
            "Pet": {"type": "object", "properties": {
                "name": {"$ref": "#/components/schemas/Name", "description": "mine"},
                "parent": {"$ref": "#/components/schemas/Pet"},
                "far": {"$ref": "https://example.org/schema.json"}
            }},
            "Name": {"type": "string", "xml": {"name": "n"}}
        }}});
        let schema = standalone(&document, "/components/schemas/Pet");
        assert_eq!(schema["properties"]["name"], json!({"type": "string", "description": "mine"}));
        let parent = &schema["properties"]["parent"];
        // Once put in, the circle closes in a definition.
        assert_eq!(parent["properties"]["parent"], json!({"$ref": "#/$defs/Pet"}));
        let def = &schema["$defs"]["Pet"]["properties"];
        assert_eq!(def["parent"], json!({"$ref": "#/$defs/Pet"}));
        assert_eq!(def["name"]["$ref"], "#/$defs/Name");
        assert_eq!(schema["$defs"]["Name"], json!({"type": "string"}));
        assert!(!schema.to_string().contains("\"$ref\":\"https"), "{schema}");
    }

    #[test]
    fn one_that_doubles_with_every_step_stays_small() {
        let mut schemas = Map::new();
        for i in 0..20 {
            let next = json!({"$ref": format!("#/components/schemas/S{}", i + 1)});
            let properties = json!({"a": next, "b": next, "c": next});
            schemas.insert(format!("S{i}"), json!({"type": "object", "properties": properties}));
        }
        schemas.insert("S20".to_owned(), json!({"type": "string"}));
        let document = json!({"openapi": "3.1.0", "components": {"schemas": schemas}});
        let schema = standalone(&document, "/components/schemas/S0");
        let text = schema.to_string();
        assert!(text.len() < 200_000, "{}", text.len());
        assert_eq!(schema["$defs"]["S20"], json!({"type": "string"}));
    }

    #[test]
    fn what_is_said_in_the_way_of_3_0_is_said_in_json_schemas() {
        let document = json!({"openapi": "3.0.3", "s": {
            "type": "integer", "nullable": true, "minimum": 0, "exclusiveMinimum": true,
            "maximum": 9, "exclusiveMaximum": false, "enum": [1, 2], "example": 1
        }});
        assert_eq!(
            standalone(&document, "/s"),
            json!({"type": ["integer", "null"], "exclusiveMinimum": 0, "maximum": 9, "enum": [1, 2, null], "examples": [1]})
        );
    }
}
