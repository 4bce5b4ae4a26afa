//! The example plans are plans: they fit the published schema, and nothing is wrong with them for the tools that they name.
//! `examples/batch/run` runs them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use orch_core::ops;
use orch_domain::plan::{Limits, Plan, ToolFacts, Toolbox, check, schema};
use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Our operations, and the tools of public servers as they were recorded.
struct Tools(HashMap<String, ToolFacts>);

impl Tools {
    fn new() -> Tools {
        let mut tools = HashMap::new();
        for op in ops::catalogue() {
            let facts = ToolFacts {
                name: format!("orch.{}", op.spec.name).into(),
                server: "orch".into(),
                input_schema: Arc::new(Value::Object(op.input)),
                is_read_only: op.spec.effect.is_read_only(),
                is_idempotent: op.spec.effect.is_idempotent(),
            };
            tools.insert(op.spec.name.to_owned(), facts);
        }
        for server in ["everything", "memory", "time"] {
            let path = root().join(format!("benches/catalogs/{server}.json"));
            let recorded: Value =
                serde_json::from_str(&fs_err::read_to_string(path).unwrap()).unwrap();
            let listed = recorded.get("tools").unwrap_or(&recorded).as_array().unwrap();
            for tool in listed {
                let name = format!("{server}.{}", tool["name"].as_str().unwrap());
                let facts = ToolFacts {
                    name: name.as_str().into(),
                    server: server.into(),
                    input_schema: Arc::new(tool["inputSchema"].clone()),
                    is_read_only: false,
                    is_idempotent: false,
                };
                tools.insert(name, facts);
            }
        }
        Tools(tools)
    }
}

impl Toolbox for Tools {
    fn tool(&self, name: &str) -> Option<ToolFacts> {
        self.0.get(name).cloned()
    }

    fn nearest(&self, _: &str) -> Vec<String> {
        Vec::new()
    }
}

fn plans() -> Vec<PathBuf> {
    let entries = fs_err::read_dir(root().join("examples/batch")).unwrap();
    let paths = entries.map(|it| it.unwrap().path());
    paths.filter(|it| is_plan(it)).collect()
}

/// Whether it is checked here.
pub(crate) fn is_plan(path: &Path) -> bool {
    let is_of_batch = path.parent().is_some_and(|it| it.ends_with("examples/batch"));
    let is_data = path.extension().is_some_and(|it| it == "json" || it == "yaml");
    is_of_batch && is_data && !path.ends_with("config.yaml")
}

#[test]
fn every_example_can_run() {
    let schema = jsonschema::validator_for(&schema()).unwrap();
    let tools = Tools::new();
    let plans = plans();
    assert!(4 <= plans.len(), "{plans:?}");
    for path in plans {
        let text = fs_err::read_to_string(&path).unwrap();
        let value: Value = match path.extension().unwrap().to_str().unwrap() {
            "json" => serde_json::from_str(&text).unwrap(),
            _ => serde_saphyr::from_str(&text).unwrap(),
        };
        let shown = path.display();
        let faults: Vec<String> = schema.iter_errors(&value).map(|it| it.to_string()).collect();
        assert!(faults.is_empty(), "{shown}: {faults:#?}");
        let plan: Plan = serde_json::from_value(value).unwrap();
        let problems = check(&plan, &tools, &Limits::DEFAULT);
        assert!(problems.is_empty(), "{shown}: {problems:#?}");
    }
}

#[test]
fn an_example_with_a_mistake_would_be_found() {
    let text = fs_err::read_to_string(root().join("examples/batch/two-servers.json")).unwrap();
    let wrong = text
        .replace("\"target_timezone\": \"Asia/Tokyo\"", "\"zone\": 1")
        .replace("tokyo#", "kyoto#");
    assert_ne!(text, wrong);
    let plan: Plan = serde_json::from_str(&wrong).unwrap();
    let problems = check(&plan, &Tools::new(), &Limits::DEFAULT);
    assert!(2 <= problems.len(), "{problems:#?}");
}
