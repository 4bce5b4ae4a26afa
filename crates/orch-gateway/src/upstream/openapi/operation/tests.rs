use serde_json::{Value, json};

use super::*;

fn tools(document: &Value) -> Vec<(Operation, Value)> {
    let document = Document::parse(&document.to_string()).unwrap();
    let with_tool = |it: Operation| {
        let tool = serde_json::from_str(it.tool.get()).unwrap();
        (it, tool)
    };
    operations(&document).into_iter().map(with_tool).collect()
}

#[test]
fn an_operation_is_a_tool_with_all_that_is_known_of_it() {
    let all = tools(&json!({"openapi": "3.0.3", "paths": {"/pets/{id}": {
        "parameters": [{"name": "id", "in": "path", "required": true, "schema": {"type": "string"}, "description": "which"}],
        "put": {
            "operationId": "update pet", "summary": "Change it", "description": "All of it.",
            "parameters": [{"$ref": "#/components/parameters/Limit"}, {"name": "Authorization", "in": "header"}],
            "requestBody": {"required": true, "content": {"application/json": {"schema": {"allOf": [
                {"$ref": "#/components/schemas/Named"},
                {"type": "object", "properties": {"age": {"type": "integer", "nullable": true}, "seen": {"readOnly": true}}, "required": ["age", "seen"]}
            ]}}}},
            "responses": {"200": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Named"}}}}, "404": {"description": "no"}}
        }
    }}, "components": {
        "parameters": {"Limit": {"name": "limit", "in": "query", "schema": {"type": "integer"}}},
        "schemas": {"Named": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}}
    }}));
    let [(operation, tool)] = &all[..] else { panic!("{all:?}") };
    assert_eq!(operation.name, "update_pet");
    assert_eq!(
        *tool,
        json!({
            "name": "update_pet", "title": "Change it", "description": "Change it\n\nAll of it.",
            "inputSchema": {"type": "object", "properties": {
                "id": {"type": "string", "description": "which"}, "limit": {"type": "integer"},
                "age": {"type": ["integer", "null"]}, "name": {"type": "string"}
            }, "required": ["id", "name", "age"]},
            "annotations": {"openWorldHint": true, "readOnlyHint": false, "idempotentHint": true},
            "outputSchema": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
        })
    );
}

#[test]
fn names_are_short_and_of_one_operation_each() {
    let get = json!({"responses": {}});
    let named = json!({"operationId": "same", "responses": {}});
    let long = json!({"operationId": "x".repeat(90), "responses": {}});
    let all = tools(&json!({"openapi": "3.1.0", "paths": {
        "/a/{b}/c.d": {"get": get, "delete": named}, "/b": {"get": named, "post": long}, "/c": {"patch": long}
    }}));
    let names: Vec<&str> = all.iter().map(|(it, _)| it.name.as_str()).collect();
    assert_eq!(names[..3], ["get_a_b_c_d", "same", "same_2"]);
    assert!(names.iter().all(|it| it.len() <= 64));
    assert_eq!(names.iter().collect::<HashSet<_>>().len(), 5);
    let hints: Vec<&Value> = all.iter().map(|(_, tool)| &tool["annotations"]).collect();
    assert_eq!(
        *hints[0],
        json!({"openWorldHint": true, "readOnlyHint": true, "idempotentHint": true})
    );
    assert_eq!(hints[1]["destructiveHint"], true);
    assert_eq!(*hints[3], json!({"openWorldHint": true, "readOnlyHint": false}));
}

#[test]
fn a_body_that_is_no_object_or_clashes_is_one_argument() {
    let body = |schema: Value| json!({"content": {"application/json": {"schema": schema}}});
    let clash = json!({"type": "object", "properties": {"id": {}}});
    let id = json!([{"name": "id", "in": "path"}, {"name": "id", "in": "query"}]);
    let all = tools(&json!({"openapi": "3.1.0", "paths": {
        "/list": {"post": {"requestBody": body(json!({"type": "array", "items": {"type": "string"}}))}},
        "/clash/{id}": {"post": {"parameters": id, "requestBody": body(clash)}},
        "/choice": {"post": {"requestBody": body(json!({"oneOf": [{"type": "object"}, {"type": "string"}]}))}},
        "/file": {"post": {"requestBody": {"content": {"multipart/form-data": {"schema": {}}}}}}
    }}));
    let properties = |n: usize| -> Vec<&String> {
        all[n].1["inputSchema"]["properties"].as_object().unwrap().keys().collect()
    };
    assert_eq!(properties(0), ["body"]);
    assert_eq!(properties(1), ["id", "query_id", "body"]);
    assert_eq!(properties(2), ["body"]);
    assert_eq!(all.len(), 3, "a file cannot be sent");
    assert_eq!(all[0].1["description"], "POST /list");
}

#[test]
fn an_answer_of_several_kinds_is_not_announced() {
    let object = json!({"type": "object", "properties": {"a": {}}});
    let with = |responses: Value| {
        let all =
            tools(&json!({"openapi": "3.1.0", "paths": {"/": {"get": {"responses": responses}}}}));
        all[0].1.get("outputSchema").is_some()
    };
    let json = json!({"content": {"application/json": {"schema": object}}});
    assert!(with(json!({"200": json, "201": json})));
    assert!(!with(json!({"200": json, "204": {"description": "nothing"}})));
    assert!(!with(
        json!({"200": {"content": {"application/json": {"schema": {"type": "array"}}}}})
    ));
    assert!(!with(json!({"default": json})));
}
