//! Operations as tools, over the official client library: who sees which, what they say of themselves, and how they
//! refuse.

use orch_core::ops;
use orch_domain::caller::Permission;
use rmcp::model::{CacheScope, ErrorCode, Tool};
use rmcp::service::ServiceError;
use serde_json::{Value, json};

use crate::harness::mcp::{self, EVERY_WAY, Era, Way};
use crate::harness::world::{ADMIN, DEMO, World};

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_is_a_tool_that_says_what_it_does() {
    let world = World::with_nodes(1).await;
    let expected: Vec<&str> = ops::catalogue().iter().map(|it| it.spec.name).collect();
    for (way, era) in EVERY_WAY {
        let client = mcp::connect(&world, ADMIN, way, era).await;
        let info = client.peer_info().unwrap();
        let server = info.server_info.clone().unwrap();
        assert_eq!(server.name, "mcp-orch");
        assert!(info.instructions.as_deref().unwrap().contains("launch_instance"));
        let listed = client.list_tools(None).await.unwrap();
        let names: Vec<&str> = listed.tools.iter().map(|it| it.name.as_ref()).collect();
        assert_eq!(names, expected, "{way:?} {era:?}: as in the catalogue, in its order");
        assert_eq!(listed.next_cursor, None);
        if era == Era::Modern {
            assert_eq!(listed.cache_scope, Some(CacheScope::Private));
            assert!(listed.ttl_ms.is_some_and(|it| 0 < it));
        }
        for tool in &listed.tools {
            check_tool(tool);
        }
    }
}

fn check_tool(tool: &Tool) {
    let name = &tool.name;
    let hints = tool.annotations.clone().unwrap();
    let all_said = hints.read_only_hint.is_some()
        && hints.destructive_hint.is_some()
        && hints.idempotent_hint.is_some()
        && hints.open_world_hint.is_some();
    assert!(all_said, "{name} hides a hint");
    // A second restart ends what the first began.
    let is_repeated =
        ["launch_instance", "restart_instance", "exec_in_instance"].contains(&&**name);
    assert!(!is_repeated || hints.idempotent_hint == Some(false), "{name} promises too much");
    assert!(
        !(hints.read_only_hint == Some(true) && hints.destructive_hint == Some(true)),
        "{name}"
    );
    assert!(tool.title.as_deref().is_some_and(|it| !it.is_empty()), "{name} has no title");
    assert!(tool.description.as_deref().is_some_and(|it| !it.is_empty()), "{name} has no text");
    assert_eq!(tool.output_schema.is_none(), name == "call_tool", "{name}");
    for schema in [Some(&tool.input_schema), tool.output_schema.as_ref()].into_iter().flatten() {
        assert_eq!(schema["type"], "object", "{name}: clients want an object at the root");
        jsonschema::validator_for(&Value::Object((**schema).clone())).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_and_refusals_keep_to_the_output_schema() {
    let world = World::with_nodes(1).await;
    let client = mcp::connect(&world, DEMO, Way::Stream, Era::Modern).await;
    let tools = client.list_all_tools().await.unwrap();
    let keeps = |name: &str, value: &Value| {
        let tool = tools.iter().find(|it| it.name == name).unwrap();
        let schema = Value::Object((**tool.output_schema.as_ref().unwrap()).clone());
        let validator = jsonschema::validator_for(&schema).unwrap();
        let errors: Vec<String> = validator.iter_errors(value).map(|it| it.to_string()).collect();
        assert!(errors.is_empty(), "{name}: {errors:?} in {value}");
    };
    let launch =
        json!({"image": "nginx:alpine", "name": "web", "ports": [80], "labels": {"a": "b"}});
    let launched = client.answer("launch_instance", launch).await;
    keeps("launch_instance", &launched);
    let id = launched["id"].clone();
    keeps("get_instance", &client.answer("get_instance", json!({"id": id})).await);
    keeps("list_instances", &client.answer("list_instances", json!({})).await);
    keeps("whoami", &client.answer("whoami", json!({})).await);
    let absurd = json!({"image": "nginx:alpine", "cpu": 9.0, "memory": 1024});
    keeps("launch_instance", &client.refusal("launch_instance", absurd).await);
    let nobody = json!({"id": "i-00000000000000000"});
    keeps("get_instance", &client.refusal("get_instance", nobody).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_a_caller_may_call_is_listed_and_the_rest_is_refused() {
    let world = World::with_nodes(1).await;
    let site = mcp::site(&world).await;
    let key = world.api_key(ADMIN, &[Permission::Read]).await;
    for era in [Era::Legacy, Era::Modern] {
        let client = mcp::connect_to(&site, &key, era, "reader").await;
        let listed = client.list_all_tools().await.unwrap();
        for op in ops::catalogue() {
            let spec = op.spec;
            let may = matches!(spec.needs, None | Some(Permission::Read));
            let is_listed = listed.iter().any(|it| it.name == spec.name);
            assert_eq!(is_listed, may, "{era:?} {}", spec.name);
            if !may {
                let refusal = client.refusal(spec.name, json!({})).await;
                let code = &refusal["error"];
                // Arguments are looked at first; what is complete is then refused for want of permission.
                assert!(
                    code == "Forbidden" || code == "InvalidParameter",
                    "{}: {refusal}",
                    spec.name
                );
            }
        }
        let refusal = client.refusal("launch_instance", json!({"image": "nginx"})).await;
        assert_eq!((&refusal["error"], &refusal["needs"]), (&json!("Forbidden"), &json!("write")));
        let prompts = client.list_all_prompts().await.unwrap();
        let names: Vec<&str> = prompts.iter().map(|it| it.name.as_str()).collect();
        assert_eq!(names, ["diagnose_node", "review_capacity"]);
    }
    assert_eq!(world.n_live(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_that_does_not_exist_is_a_protocol_error() {
    let world = World::with_nodes(0).await;
    for (way, era) in EVERY_WAY {
        let client = mcp::connect(&world, ADMIN, way, era).await;
        let err = client.call_tool(mcp::params("launch_rocket", json!({}))).await.unwrap_err();
        let ServiceError::McpError(err) = err else { panic!("{way:?} {era:?}: {err}") };
        assert_eq!(err.code, ErrorCode::INVALID_PARAMS);
        assert!(err.message.contains("launch_rocket"), "{}", err.message);
        let bad_cursor =
            rmcp::model::PaginatedRequestParams::default().with_cursor(Some("x".to_owned()));
        let err = client.list_tools(Some(bad_cursor)).await.unwrap_err();
        assert!(matches!(err, ServiceError::McpError(it) if it.code == ErrorCode::INVALID_PARAMS));
    }
}

/// Each is refused in words that name the parameter, and nothing is reserved.
#[tokio::test(flavor = "multi_thread")]
async fn hostile_arguments_are_refused_by_name() {
    let world = World::with_nodes(1).await;
    let labels: serde_json::Map<String, Value> =
        (0..10_000).map(|it| (format!("k{it}"), json!("v"))).collect();
    let hostile = [
        (json!({"image": "nginx", "privileged": true}), "privileged"),
        (json!({"image": "nginx", "mounts": ["/:/host"]}), "mounts"),
        (json!({"image": "nginx", "cpu": "many"}), "cpu"),
        (json!({"image": "nginx", "cpu": -1}), "cpu"),
        (json!({"image": "nginx", "cpu": 1e300}), "cpu"),
        (json!({"image": "nginx", "memory": -0.5}), "memory"),
        (json!({"image": "nginx", "memory": [1]}), "memory"),
        (json!({"image": "nginx", "count": 0}), "count"),
        (json!({"image": "nginx", "ports": [99999]}), "ports"),
        (json!({"image": "an image; rm -rf /"}), "image"),
        (json!({"image": "nginx", "name": "a\u{7}b\u{1b}[31m"}), "name"),
        (json!({"image": "nginx", "labels": labels}), "labels"),
        (json!({"image": "nginx", "env": {"A=B": "x"}}), "env"),
        (json!({"image": "nginx", "command": [""]}), "command"),
        (json!({}), "image"),
    ];
    for (way, era) in EVERY_WAY {
        let client = mcp::connect(&world, DEMO, way, era).await;
        for (arguments, parameter) in &hostile {
            let refusal = client.refusal("launch_instance", arguments.clone()).await;
            assert_eq!(refusal["error"], "InvalidParameter", "{parameter}: {refusal}");
            let message = refusal["message"].as_str().unwrap();
            assert!(message.contains(parameter), "{parameter}: {message}");
            assert!(message.len() < 1000, "{parameter}: {} characters", message.len());
            assert!(!message.contains(|it: char| it.is_control() && it != '\n'), "{message:?}");
        }
    }
    assert_eq!((world.n_live(), world.n_containers()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_16_megabytes_is_refused_in_words() {
    let world = World::with_nodes(1).await;
    let blob = "x".repeat(16 * 1024 * 1024);
    let arguments = json!({"image": "nginx", "env": {"BLOB": blob}});
    let client = mcp::connect(&world, DEMO, Way::Stream, Era::Modern).await;
    let refusal = client.refusal("launch_instance", arguments.clone()).await;
    assert_eq!(refusal["parameter"], "env.BLOB");
    assert!(!refusal.to_string().contains("xxxx"), "a value may be a secret");

    let site = mcp::site(&world).await;
    let key = world.api_key(DEMO, &[Permission::Write]).await;
    let call = json!({"name": "launch_instance", "arguments": arguments});
    let message = mcp::request(Era::Modern, json!(1), "tools/call", call);
    let response = mcp::post(&site, &key, &message).send().await.unwrap();
    assert_eq!(response.status(), 413);
    let body: Value = response.json().await.unwrap();
    assert!(body["error"]["message"].as_str().unwrap().contains("4194304 bytes"), "{body}");
    assert_eq!(world.n_live(), 0);
}
