//! The OpenAPI document: sound by itself, and true to what the server takes and answers.

use std::collections::BTreeSet;

use orch_core::operation::Method;
use orch_core::ops;
use serde_json::{Value, json};

use crate::harness::cloud::{Cloud, ask};

async fn document() -> Value {
    let cloud = Cloud::start().await;
    let document = ask("GET", "/openapi.json").of(&cloud).await.ok(200);
    assert_eq!(document, ask("GET", "/api/openapi.json").of(&cloud).await.ok(200));
    document
}

fn walk<'a>(value: &'a Value, visit: &mut impl FnMut(&'a Value)) {
    visit(value);
    match value {
        Value::Object(map) => map.values().for_each(|it| walk(it, visit)),
        Value::Array(items) => items.iter().for_each(|it| walk(it, visit)),
        _ => {}
    }
}

fn operations(document: &Value) -> Vec<(String, String, &Value)> {
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            found.push((path.clone(), method.clone(), operation));
        }
    }
    found
}

#[tokio::test]
async fn every_route_of_the_catalogue_is_in_it() {
    let document = document().await;
    assert_eq!(document["openapi"], "3.1.0");
    for op in ops::catalogue() {
        for route in op.spec.routes {
            let method = match route.method {
                Method::Get => "get",
                Method::Post => "post",
                Method::Put => "put",
                Method::Delete => "delete",
            };
            let operation = &document["paths"][route.path][method];
            assert!(operation.is_object(), "{method} {}", route.path);
            assert_eq!(
                operation["security"] == json!([]),
                op.spec.needs.is_none(),
                "{}",
                op.spec.name
            );
            let given: BTreeSet<&str> = operation["parameters"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|it| it["name"].as_str().unwrap())
                .collect();
            let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
            let schema = schema["$ref"].as_str().map(|it| document.pointer(&it[1..]).unwrap());
            let in_body = schema.map(|it| it["properties"].as_object().unwrap());
            let in_path =
                route.path.split('/').filter_map(|it| it.strip_prefix('{')?.strip_suffix('}'));
            for name in in_path {
                assert!(op.input["properties"].get(name).is_some(), "{}: {name}", route.path);
            }
            // Each parameter of the operation is found once: in the path, the query, the body or the route.
            for name in op.input["properties"].as_object().unwrap().keys() {
                let places = [
                    given.contains(name.as_str()),
                    in_body.is_some_and(|it| it.contains_key(name)),
                    route.preset.iter().any(|(it, _)| it == name),
                    route.body.is_some_and(|it| it == name),
                ];
                let n_places = places.into_iter().filter(|it| *it).count();
                assert_eq!(n_places, 1, "{}: {name}", op.spec.name);
            }
        }
    }
}

#[tokio::test]
async fn it_is_sound() {
    let document = document().await;
    let mut n_references = 0;
    walk(&document, &mut |it| {
        if let Some(reference) = it.get("$ref").and_then(Value::as_str) {
            n_references += 1;
            let target = reference.strip_prefix('#').unwrap_or_else(|| panic!("{reference}"));
            assert!(document.pointer(target).is_some(), "{reference} leads nowhere");
        }
        if let Some(url) = it.get("url").and_then(Value::as_str) {
            assert!(url.starts_with('/'), "{url}");
        }
    });
    assert!(20 < n_references);
    let tags: BTreeSet<&str> = document["tags"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["name"].as_str().unwrap())
        .collect();
    let mut ids = BTreeSet::new();
    for (path, method, operation) in operations(&document) {
        let id = operation["operationId"].as_str().unwrap();
        assert!(ids.insert(id), "{id} is there twice");
        assert!(operation["summary"].as_str().is_some_and(|it| !it.is_empty()), "{id}");
        for tag in operation["tags"].as_array().unwrap() {
            assert!(tags.contains(tag.as_str().unwrap()), "{id}: {tag}");
        }
        let responses = operation["responses"].as_object().unwrap();
        assert!(responses.keys().any(|it| it.starts_with('2') || it == "101"), "{id}");
        for (status, response) in responses {
            let has_words = response.get("$ref").is_some()
                || response["description"].as_str().is_some_and(|it| !it.is_empty());
            assert!(has_words, "{id} {status}");
        }
        let in_path: BTreeSet<&str> =
            path.split('/').filter_map(|it| it.strip_prefix('{')?.strip_suffix('}')).collect();
        let mut declared = BTreeSet::new();
        let mut seen = BTreeSet::new();
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let (name, place) =
                (parameter["name"].as_str().unwrap(), parameter["in"].as_str().unwrap());
            assert!(seen.insert((name, place)), "{id}: {name} is there twice");
            if place == "path" {
                assert_eq!(parameter["required"], true, "{id}: {name}");
                declared.insert(name);
            }
        }
        assert_eq!(in_path, declared, "{method} {path}");
    }
}

#[tokio::test]
async fn its_schemas_are_schemas_and_its_examples_fit_them() {
    let document = document().await;
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        jsonschema::meta::validate(schema).unwrap_or_else(|err| panic!("{name}: {err}"));
    }
    let mut n_examples = 0;
    for (_, _, operation) in operations(&document) {
        let content = &operation["requestBody"]["content"]["application/json"];
        let Some(examples) = content["examples"].as_object() else { continue };
        let reference = content["schema"]["$ref"].as_str().unwrap();
        let schema = document.pointer(&reference[1..]).unwrap();
        let validator = jsonschema::validator_for(schema).unwrap();
        for (name, example) in examples {
            n_examples += 1;
            let value = &example["value"];
            assert!(
                validator.is_valid(value),
                "{reference} {name}: {:?}",
                validator.validate(value)
            );
        }
    }
    assert!(3 <= n_examples);
}

#[tokio::test]
async fn answers_fit_what_it_says() {
    let cloud = Cloud::demo().await;
    let document = ask("GET", "/openapi.json").of(&cloud).await.ok(200);
    let fits = |path: &str, method: &str, status: &str, answer: &Value| {
        let response = &document["paths"][path][method]["responses"][status];
        let response = match response["$ref"].as_str() {
            Some(it) => document.pointer(&it[1..]).unwrap(),
            None => response,
        };
        let content = response["content"].as_object().unwrap().iter();
        let (_, content) = content.into_iter().find(|(it, _)| it.contains("json")).unwrap();
        let reference = content["schema"]["$ref"].as_str().unwrap();
        let validator =
            jsonschema::validator_for(document.pointer(&reference[1..]).unwrap()).unwrap();
        let errors: Vec<String> = validator.iter_errors(answer).map(|it| it.to_string()).collect();
        assert!(errors.is_empty(), "{method} {path} {status}: {errors:?}\n{answer}");
    };
    let demo = |method: &str, path: &str| ask(method, path).header("x-user-id", "user-demo-001");
    let launched = demo("POST", "/instances").json(&json!({"image": "busybox", "ports": [80]}));
    let launched = launched.of(&cloud).await.ok(201);
    fits("/instances", "post", "201", &launched);
    let id = launched["id"].as_str().unwrap();
    fits("/instances", "get", "200", &demo("GET", "/instances").of(&cloud).await.ok(200));
    let one = demo("GET", &format!("/instances/{id}")).of(&cloud).await.ok(200);
    fits("/instances/{id}", "get", "200", &one);
    fits("/auth/me", "get", "200", &demo("GET", "/auth/me").of(&cloud).await.ok(200));
    let dry = json!({"image": "busybox", "dry_run": true});
    fits(
        "/instances",
        "post",
        "200",
        &demo("POST", "/instances").json(&dry).of(&cloud).await.ok(200),
    );
    let problem = demo("POST", "/instances").json(&json!({"image": ""})).of(&cloud).await;
    fits("/instances", "post", "400", &problem.problem(400, "InvalidParameter"));
    let problem = demo("GET", "/instances/i-00000000000000000").of(&cloud).await;
    fits("/instances/{id}", "get", "404", &problem.problem(404, "NotFound"));
}
