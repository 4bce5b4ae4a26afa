//! The public contract in `tools/`: a text and a schema for each operation, in step with the code. `UPDATE=1` rewrites
//! the schemas; a change of the contract is then a visible difference.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use mcp_orch::face::mcp;
use orch_core::operation::{Group, Op};
use orch_core::ops;
use orch_domain::ErrorCode;
use serde_json::Value;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tools")
}

fn names_of(extension: &str) -> BTreeSet<String> {
    fs_err::read_dir(folder())
        .unwrap()
        .map(|it| it.unwrap().path())
        .filter(|it| it.extension().is_some_and(|it| it == extension))
        .map(|it| it.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect()
}

fn names() -> BTreeSet<String> {
    ops::catalogue().iter().map(|it| it.spec.name.to_owned()).collect()
}

#[test]
fn every_operation_has_a_text_and_no_text_is_left_over() {
    assert_eq!(names_of("md"), names());
    assert_eq!(names().len(), ops::catalogue().len(), "two operations have one name");
}

/// What `tools/list` says, byte for byte.
#[test]
fn the_contract_is_the_one_that_is_written_down() {
    let update = std::env::var_os("UPDATE").is_some_and(|it| it == "1");
    let mut changed = Vec::new();
    let mut said = BTreeSet::new();
    for tool in mcp::tools() {
        let name = tool["name"].as_str().unwrap().to_owned();
        let path = folder().join(format!("{name}.json"));
        let text = format!("{}\n", serde_json::to_string_pretty(&tool).unwrap());
        if fs_err::read_to_string(&path).ok().as_ref() != Some(&text) {
            if update {
                fs_err::write(&path, text).unwrap();
            } else {
                changed.push(name.clone());
            }
        }
        said.insert(name);
    }
    for stale in names_of("json").difference(&said) {
        if update {
            fs_err::remove_file(folder().join(format!("{stale}.json"))).unwrap();
        } else {
            changed.push(stale.clone());
        }
    }
    assert_eq!(said, names());
    assert!(changed.is_empty(), "the contract of {changed:?} changed; `UPDATE=1` writes it down");
}

#[test]
fn every_schema_is_an_object_with_described_parameters() {
    for tool in mcp::tools() {
        let name = &tool["name"];
        // What it answers is what the tool that it calls answers: a schema would have clients refuse that.
        let sides: &[&str] = match name.as_str() {
            Some("call_tool") => &["inputSchema"],
            _ => &["inputSchema", "outputSchema"],
        };
        assert_eq!(tool.get("outputSchema").is_none(), name == "call_tool");
        for side in sides {
            assert_eq!(tool[side]["type"], "object", "{name} {side}");
            let schema = serde_json::to_string(&tool[side]).unwrap();
            // As a key; the texts tell of references in plans.
            assert!(
                !schema.contains("\"$ref\":"),
                "{name} {side}: some clients do not follow references"
            );
            jsonschema::meta::validate(&tool[side])
                .unwrap_or_else(|err| panic!("{name} {side}: {err}"));
        }
        let input = &tool["inputSchema"];
        assert_eq!(input["additionalProperties"], false, "{name} takes unknown arguments");
        for required in input["required"].as_array().into_iter().flatten() {
            assert!(
                input["properties"][required.as_str().unwrap()].is_object(),
                "{name} {required}"
            );
        }
    }
}

/// Every client pays for it in each conversation.
#[test]
fn the_list_of_tools_is_not_longer_than_a_model_can_afford() {
    let tools = mcp::tools();
    let n_bytes = serde_json::to_string(&tools).unwrap().len();
    // The average of a tool in `tools/list`: its schemas, and the text that tells when to use it and what its
    // parameters mean. It is 2,590 bytes, and may grow by a twentieth: a new tool has to be as short as the others.
    const MAX_AVERAGE: usize = 2_720;
    let average = n_bytes.div_ceil(tools.len());
    assert!(average <= MAX_AVERAGE, "{average} bytes for each of {} tools", tools.len());
    for tool in &tools {
        let output = serde_json::to_string(&tool["outputSchema"]).unwrap();
        assert!(!output.contains("\"description\":\""), "{}: {output}", tool["name"]);
    }
}

/// Parameters of a route's path and what it presets are parameters of the operation.
#[test]
fn routes_fit_their_operations_and_none_is_taken_twice() {
    let mut taken = BTreeMap::new();
    for op in ops::catalogue() {
        let parameters = op.input["properties"].as_object().unwrap();
        for route in op.spec.routes {
            let shape: Vec<&str> = route
                .path
                .split('/')
                .map(|it| if it.starts_with('{') { "{}" } else { it })
                .collect();
            let key = (format!("{:?}", route.method), shape.join("/"));
            if let Some(other) = taken.insert(key.clone(), op.spec.name) {
                panic!("{key:?} is both {other} and {}", op.spec.name);
            }
            let in_path =
                route.path.split('/').filter_map(|it| it.strip_prefix('{')?.strip_suffix('}'));
            let preset = route.preset.iter().map(|(name, _)| *name);
            for it in in_path.chain(preset) {
                assert!(parameters.contains_key(it), "{} has no `{it}`", op.spec.name);
            }
        }
    }
}

#[test]
fn texts_are_short_and_begin_with_a_line_that_stands_alone() {
    for op in ops::catalogue() {
        let (name, text) = (op.spec.name, op.spec.text);
        let title = op.spec.title();
        assert!((20..=100).contains(&title.chars().count()), "{name}: {title}");
        assert!(!title.ends_with('.') && !title.contains('`'), "{name}: {title}");
        let mut lines = text.lines().skip(1);
        assert_eq!(lines.next(), Some(""), "{name}: the first line stands alone");
        assert!(lines.next().is_some_and(|it| !it.is_empty()), "{name} says nothing more");
        assert!(text.len() <= 2600, "{name} has {} bytes, which every client pays for", text.len());
        assert!(text.is_ascii() || text.chars().all(|it| !it.is_control() || it == '\n'), "{name}");
    }
}

/// Words in backticks that a model could take for an operation or a code: they must be one.
#[test]
fn what_a_text_names_exists() {
    let operations = names();
    let codes: BTreeSet<&str> = ErrorCode::ALL.iter().map(|it| it.as_str()).collect();
    for op in ops::catalogue() {
        let words = words_of(&op);
        for quoted in op.spec.text.split('`').skip(1).step_by(2) {
            let is_snake =
                quoted.contains('_') && quoted.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
            let is_camel = quoted.starts_with(|it: char| it.is_ascii_uppercase())
                && quoted.bytes().all(|b| b.is_ascii_alphabetic());
            let exists = !is_snake && !is_camel
                || operations.contains(quoted)
                || codes.contains(quoted)
                || words.contains(quoted);
            assert!(exists, "{}: `{quoted}` is no operation, code or parameter", op.spec.name);
        }
        assert_eq!(op.spec.text.matches('`').count() % 2, 0, "{}", op.spec.name);
    }
}

/// A refusal of a text must be one that can happen: an operation that needs nobody's permission cannot be forbidden.
#[test]
fn who_may_call_is_said_by_the_permission_and_the_text_alike() {
    for op in ops::catalogue() {
        let is_admins = op.spec.needs == Some(orch_domain::caller::Permission::Admin);
        let is_users = op.spec.group == Group::Identity;
        if is_users {
            let says = op.spec.text.contains("For administrators");
            assert_eq!(says, is_admins, "{}", op.spec.name);
        }
    }
}

/// Names of parameters and of fields of the answer, and fields of refusals.
pub(crate) fn words_of(op: &Op) -> BTreeSet<String> {
    // Fields of refusals, and parameters of `launch_instance` that other texts advise on.
    let mut words: BTreeSet<String> =
        ["feasible_sizes", "client_token", "node_id", "job_id"].map(str::to_owned).into();
    for schema in [&op.input, &op.output] {
        collect(&Value::Object(schema.clone()), &mut words);
    }
    words
}

/// Names of all parameters in a schema.
pub(crate) fn words_in(schema: &Value) -> BTreeSet<String> {
    let mut words = BTreeSet::new();
    collect(schema, &mut words);
    words
}

fn collect(schema: &Value, words: &mut BTreeSet<String>) {
    match schema {
        Value::Object(map) => {
            if let Some(Value::Object(properties)) = map.get("properties") {
                words.extend(properties.keys().cloned());
            }
            map.values().for_each(|it| collect(it, words));
        }
        Value::Array(items) => items.iter().for_each(|it| collect(it, words)),
        _ => {}
    }
}
