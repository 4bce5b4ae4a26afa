//! The OpenAPI 3.1 document, made from the catalogue: what it says is what the routes take.

mod examples;
mod pages;
mod problems;

use std::sync::Arc;

use orch_core::Op;
use orch_core::operation::{Effect, Group, Method, Route};
use serde_json::{Map, Value, json};

use crate::face::rest::{call, events, logs};

pub fn document(catalogue: &[Arc<Op>]) -> Value {
    let mut paths: Map<String, Value> = Map::new();
    let mut schemas = problems::schemas();
    for op in catalogue {
        schemas.insert(answer_name(op), embedded(&Value::Object(op.output.clone())));
        for (position, route) in op.spec.routes.iter().enumerate() {
            let method = method_of(route.method);
            let operation = operation(op, route, position, &mut schemas);
            entry(&mut paths, route.path).insert(method.to_owned(), operation);
        }
    }
    for (path, method, operation) in pages::all() {
        entry(&mut paths, path).insert(method.to_owned(), operation);
    }
    let groups = Group::ALL.iter().map(|it| it.as_str()).chain(["server"]);
    let tags: Vec<Value> = groups.map(|it| json!({"name": it})).collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "mcp-orch",
            "version": env!("CARGO_PKG_VERSION"),
            "description": DESCRIPTION,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [
            {"url": "/", "description": "This server"},
            {"url": "/api", "description": "The same, where reverse proxies look for it"},
        ],
        "tags": tags,
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": problems::responses(),
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The `access_token` of `login`, or an API key",
                },
                "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    })
}

const DESCRIPTION: &str = "A private cloud over Docker hosts: launch, watch, stop and terminate container instances. Every \
    operation here is also a tool of the MCP endpoint `/mcp` and a command of `mcp-orch call`.\n\nArguments may come in \
    the path, in the query string and in a JSON body; they are one set, and one given twice with different values is \
    refused. Errors are `application/problem+json`: `error` is a stable code, `message` says what to do next. With \
    `Accept: text/event-stream` an operation answers a stream: `progress` events, then one `result` or `error`.";

fn operation(op: &Op, route: &Route, position: usize, schemas: &mut Map<String, Value>) -> Value {
    let spec = &op.spec;
    let id = match position {
        0 => spec.name.to_owned(),
        _ => format!("{}_{}", spec.name, position + 1),
    };
    let text = spec.text.split_once('\n').map_or("", |(_, it)| it).trim();
    let mut operation = json!({
        "operationId": id,
        "summary": spec.title(),
        "description": text,
        "tags": [spec.group.as_str()],
        "security": security(spec.needs.is_some()),
        "x-permission": spec.needs,
        "responses": responses(op, route),
    });
    let in_path = path_parameters(route.path);
    let is_left =
        |name: &str| !in_path.contains(&name) && !route.preset.iter().any(|(it, _)| *it == name);
    let has_body = matches!(route.method, Method::Post | Method::Put);
    let mut parameters: Vec<Value> = in_path.iter().map(|it| parameter(op, it, "path")).collect();
    if has_body {
        if let Some(body) = request_body(op, route, &id, &is_left, schemas) {
            operation["requestBody"] = body;
        }
    } else {
        let properties = op.input.get("properties").and_then(Value::as_object);
        let names = properties.into_iter().flat_map(Map::keys).filter(|it| is_left(it));
        parameters.extend(names.map(|it| parameter(op, it, "query")));
        if route.path == logs::PATH {
            parameters.push(json!({
                "name": "follow",
                "in": "query",
                "description": "Answer a stream of `log` events as lines are written, until the container or the client \
                    ends; goes with `tail` and `since` only.",
                "schema": {"type": "boolean", "default": false},
            }));
        }
        if route.path == events::PATH {
            let description = "With `Accept: text/event-stream`: the `id` of the last event that was read; the stream goes on \
                after it. The header is for clients that connect again, the parameter for those that cannot send it.";
            for (name, place) in [("Last-Event-ID", "header"), ("last_event_id", "query")] {
                parameters.push(json!({
                    "name": name,
                    "in": place,
                    "description": description,
                    "schema": {"type": "integer", "minimum": 0},
                }));
            }
        }
    }
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    operation
}

fn request_body(
    op: &Op,
    route: &Route,
    id: &str,
    is_left: &dyn Fn(&str) -> bool,
    schemas: &mut Map<String, Value>,
) -> Option<Value> {
    let Value::Object(mut schema) = embedded(&Value::Object(op.input.clone())) else { return None };
    if let Some(body) = route.body {
        let schema = schema.get("properties")?.get(body)?.clone();
        return Some(
            json!({"required": false, "content": {"application/json": {"schema": schema}}}),
        );
    }
    let properties = schema.get_mut("properties")?.as_object_mut()?;
    properties.retain(|name, _| is_left(name));
    if properties.is_empty() {
        return None;
    }
    if let Some(Value::Array(required)) = schema.get_mut("required") {
        required.retain(|it| it.as_str().is_some_and(is_left));
    }
    let is_required =
        schema.get("required").and_then(Value::as_array).is_some_and(|it| !it.is_empty());
    let name = format!("{id}_request");
    schemas.insert(name.clone(), schema.into());
    let mut content = json!({"schema": reference("schemas", &name)});
    if let Some(examples) = examples::of(op.spec.name) {
        content["examples"] = examples;
    }
    Some(json!({"required": is_required, "content": {"application/json": content}}))
}

fn parameter(op: &Op, name: &str, place: &str) -> Value {
    let schema = op.input.get("properties").and_then(|it| it.get(name));
    let mut schema = schema.map_or_else(|| json!({"type": "string"}), embedded);
    let description = schema.as_object_mut().and_then(|it| it.remove("description"));
    let required = op.input.get("required").and_then(Value::as_array);
    let mut parameter = json!({
        "name": name,
        "in": place,
        "required": place == "path" || required.is_some_and(|it| it.iter().any(|it| it == name)),
    });
    if let Some(description) = description {
        parameter["description"] = description;
    }
    if schema.get("type").is_some_and(|it| it == "object") {
        parameter["style"] = "deepObject".into();
        parameter["explode"] = true.into();
    }
    parameter["schema"] = schema;
    parameter
}

fn responses(op: &Op, route: &Route) -> Value {
    let mut responses = Map::new();
    let success = call::success_of(op.spec.effect);
    let mut answer = json!({
        "description": "Done",
        "content": {"application/json": {"schema": reference("schemas", &answer_name(op))}},
    });
    if op.spec.effect != Effect::Reads {
        answer["content"]["text/event-stream"] = json!({
            "schema": {"type": "string", "description": "`progress` events, then one `result` or `error`"},
        });
    }
    if call::takes(op, "wait") {
        let mut accepted = answer.clone();
        let (otherwise, when) = match call::waits(op) {
            true => ("Done", "`wait` was false"),
            false => ("It has ended (`wait` was true)", "unless `wait` is true"),
        };
        accepted["description"] = format!("Accepted and durable; it goes on ({when})").into();
        answer["description"] = otherwise.into();
        responses.insert("202".to_owned(), accepted);
    }
    if call::takes(op, "dry_run") {
        let mut rehearsed = answer.clone();
        rehearsed["description"] = "What would happen (`dry_run` was true)".into();
        responses.insert("200".to_owned(), rehearsed);
    }
    if route.path == logs::PATH {
        answer["content"]["text/event-stream"] = json!({
            "schema": {"type": "string", "description": "With `follow=true`: a `log` event per line, then `end`"},
        });
    }
    if route.path == events::PATH {
        answer["content"]["text/event-stream"] = json!({
            "schema": {
                "type": "string",
                "description": "Events as they happen: `id` is the revision, `event` the kind, `data` the event as JSON. A \
                    `reset` says that some after `Last-Event-ID` are not kept any more; `end` that the server stops.",
            },
        });
    }
    responses.insert(success.as_str().to_owned(), answer);
    for status in problems::statuses(op, route) {
        let name = problems::response_name(status);
        responses.insert(status.as_str().to_owned(), reference("responses", &name));
    }
    Value::Object(responses)
}

fn security(is_needed: bool) -> Value {
    if is_needed { json!([{"bearer": []}, {"apiKey": []}]) } else { json!([]) }
}

fn answer_name(op: &Op) -> String {
    format!("{}_answer", op.spec.name)
}

fn reference(kind: &str, name: &str) -> Value {
    json!({"$ref": format!("#/components/{kind}/{name}")})
}

/// A schema as part of the document: without the mark of a document of its own.
fn embedded(schema: &Value) -> Value {
    let mut schema = schema.clone();
    if let Some(map) = schema.as_object_mut() {
        map.remove("$schema");
    }
    schema
}

fn path_parameters(path: &str) -> Vec<&str> {
    path.split('/').filter_map(|it| it.strip_prefix('{')?.strip_suffix('}')).collect()
}

fn method_of(method: Method) -> &'static str {
    match method {
        Method::Get => "get",
        Method::Post => "post",
        Method::Put => "put",
        Method::Delete => "delete",
    }
}

fn entry<'a>(paths: &'a mut Map<String, Value>, path: &str) -> &'a mut Map<String, Value> {
    paths
        .entry(path)
        .or_insert_with(|| Value::Object(Map::new()))
        .as_object_mut()
        .expect("every path item is made here, as an object")
}
