//! The format of plans as a JSON Schema, for those who write them.

use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use super::{Plan, VERSION};

/// Draft 2020-12. What a schema cannot say, such as that a step exists that is referred to, `check` finds.
pub fn schema() -> Value {
    let generator = SchemaSettings::draft2020_12().into_generator();
    let mut schema = generator.into_root_schema_for::<Plan>();
    schema.insert("$id".to_owned(), json!(format!("mcp-orch/batch-plan/{VERSION}")));
    schema.insert("title".to_owned(), json!("Batch plan"));
    schema.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn validator() -> jsonschema::Validator {
        // Patterns without look-around: many that read schemas know no other.
        let linear = jsonschema::PatternOptions::regex();
        jsonschema::options().with_pattern_options(linear).build(&schema()).unwrap()
    }

    #[test]
    fn the_schema_is_one_of_its_draft_and_describes_every_member() {
        let schema = schema();
        jsonschema::meta::validate(&schema).unwrap();
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
        for of in ["", "/$defs/Step", "/$defs/Retry", "/$defs/Compensation"] {
            let of = schema.pointer(of).unwrap();
            assert_eq!(of["additionalProperties"], false);
            for (name, member) in of["properties"].as_object().unwrap() {
                assert!(member["description"].is_string(), "{name}: {member}");
            }
        }
    }

    /// The schema and the types take the same, and so does a validator that knows nothing of us.
    #[test]
    fn the_schema_takes_what_the_types_take() {
        let validator = validator();
        let step = |others: Value| {
            let mut step = json!({"id": "a", "tool": "s.t"});
            step.as_object_mut().unwrap().extend(others.as_object().unwrap().clone());
            json!({"steps": [step]})
        };
        for good in [
            step(json!({})),
            step(
                json!({"id": "_a-1", "arguments": {"x": {"$ref": "b#/json"}}, "depends_on": ["items"], "when": {"ended": "b"}}),
            ),
            step(
                json!({"for_each": [1], "max_parallel": 1, "collect": "/json", "timeout": 0.5, "retry": {"max": 3}}),
            ),
            step(
                json!({"for_each": {"$ref": "b#"}, "on_error": "continue", "compensate": {"tool": "s.u"}}),
            ),
            json!({"version": 1, "steps": step(json!({}))["steps"], "on_error": "compensate", "output": [1]}),
        ] {
            assert!(validator.is_valid(&good), "{good}");
            serde_json::from_value::<Plan>(good).unwrap();
        }
        for bad in [
            json!({}),
            json!({"steps": [{"id": "a"}]}),
            json!({"steps": [{"tool": "s.t"}]}),
            step(json!({"id": "item"})),
            step(json!({"id": "index"})),
            step(json!({"id": "1a"})),
            step(json!({"id": "a".repeat(65)})),
            step(json!({"depends_on": ["item"]})),
            step(json!({"arguments": []})),
            step(json!({"argument": {}})),
            step(json!({"on_error": "stop"})),
            step(json!({"retry": {}})),
            step(json!({"max_parallel": -1})),
            step(json!({"compensate": {"arguments": {}}})),
        ] {
            assert!(!validator.is_valid(&bad), "{bad}");
            assert!(serde_json::from_value::<Plan>(bad.clone()).is_err(), "{bad}");
        }
        // What `check` says, the schema says too where it can.
        for bad in [
            json!({"steps": []}),
            json!({"version": 2, "steps": step(json!({}))["steps"]}),
            step(json!({"timeout": 0})),
            step(json!({"max_parallel": 1001})),
            step(json!({"retry": {"max": 101}})),
        ] {
            assert!(!validator.is_valid(&bad), "{bad}");
        }
    }
}
