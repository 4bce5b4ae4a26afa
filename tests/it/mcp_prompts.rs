//! Prompts and completions, as a client meets them.

use orch_domain::caller::Permission;
use orch_domain::node::Node;
use rmcp::model::{ErrorCode, GetPromptRequestParams};
use rmcp::service::ServiceError;
use serde_json::{Value, json};

use crate::harness::mcp::{self, Client, EVERY_WAY, Era, Way};
use crate::harness::world::{ADMIN, DEMO, World};

async fn render(client: &Client, name: &str, arguments: Value) -> Result<String, ErrorCode> {
    let Value::Object(arguments) = arguments else { panic!("arguments are an object") };
    let request = GetPromptRequestParams::new(name).with_arguments(arguments);
    match client.get_prompt(request).await {
        Ok(it) => Ok(it.messages[0].content.as_text().unwrap().text.clone()),
        Err(ServiceError::McpError(err)) => Err(err.code),
        Err(err) => panic!("{name}: {err}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn prompts_are_listed_and_filled_in() {
    let world = World::with_nodes(1).await;
    for (way, era) in EVERY_WAY {
        let client = mcp::connect(&world, DEMO, way, era).await;
        let listed = client.list_all_prompts().await.unwrap();
        let names: Vec<&str> = listed.iter().map(|it| it.name.as_str()).collect();
        let all = ["launch_instance", "deploy_and_verify", "diagnose_node", "review_capacity"];
        assert_eq!(names, all);
        let arguments = listed[1].arguments.clone().unwrap();
        let required: Vec<&str> = arguments
            .iter()
            .filter(|it| it.required == Some(true))
            .map(|it| it.name.as_str())
            .collect();
        assert_eq!(required, ["image"]);
        let text = render(&client, "diagnose_node", json!({"node_id": "n7"})).await.unwrap();
        assert!(text.contains("Node: n7\nNoticed: none was told"), "{text}");
        let refused = [
            ("deploy_and_verify", json!({})),
            ("deploy_and_verify", json!({"image": "x", "colour": "red"})),
            ("deploy_and_verify", json!({"image": "x".repeat(5000)})),
            ("make_coffee", json!({})),
        ];
        for (name, arguments) in refused {
            let code = render(&client, name, arguments).await.unwrap_err();
            assert_eq!(code, ErrorCode::INVALID_PARAMS, "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_typed_is_completed_from_what_the_caller_sees() {
    let world = World::with_nodes(12).await;
    let admin = mcp::connect(&world, ADMIN, Way::Stream, Era::Legacy).await;
    let foreign = admin.answer("launch_instance", json!({"image": "secret/thing:1"})).await;
    for (way, era) in EVERY_WAY {
        let client = mcp::connect(&world, DEMO, way, era).await;
        let launch =
            json!({"image": "web/shop:2", "name": format!("{way:?}{era:?}").to_lowercase()});
        let own = client.answer("launch_instance", launch).await;
        let own = own["id"].as_str().unwrap();
        let nodes = client.complete_prompt_simple("diagnose_node", "node_id", "n1").await.unwrap();
        assert_eq!(nodes, ["n1", "n10", "n11", "n12"]);
        let nodes = client.complete_resource_simple("node://{id}", "id", "N12").await.unwrap();
        assert_eq!(nodes, ["n12"]);
        for template in ["instance://{id}", "instance://{id}/logs"] {
            let ids = client.complete_resource_simple(template, "id", "i-").await.unwrap();
            assert!(ids.iter().any(|it| it == own), "{ids:?}");
            assert!(!ids.iter().any(|it| foreign["id"] == it.as_str()), "{ids:?}");
        }
        let images =
            client.complete_prompt_simple("launch_instance", "image", "shop").await.unwrap();
        assert_eq!(images, ["web/shop:2"]);
        let on_nodes =
            client.complete_prompt_simple("launch_instance", "image", "nginx").await.unwrap();
        assert_eq!(on_nodes, ["nginx:alpine"]);
        let free = client.complete_prompt_simple("launch_instance", "purpose", "a").await.unwrap();
        assert!(free.is_empty());
        let unknown = client.complete_prompt_simple("launch_instance", "colour", "r").await;
        assert!(
            matches!(unknown, Err(ServiceError::McpError(it)) if it.code == ErrorCode::INVALID_PARAMS)
        );
        client.answer("terminate_instance", json!({"id": own})).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn completions_are_a_hundred_at_most_and_for_readers_only() {
    let world = World::with_nodes(0).await;
    for i in 0..120 {
        world.add_node(Node::test(&format!("node-{i:03}"))).await;
    }
    let client = mcp::connect(&world, DEMO, Way::Stream, Era::Modern).await;
    let info = client.complete_resource_argument("node://{id}", "id", "", None).await.unwrap();
    assert_eq!((info.values.len(), info.total, info.has_more), (100, Some(120), Some(true)));

    let site = mcp::site(&world).await;
    let key = world.api_key(DEMO, &[Permission::Execute]).await;
    let client = mcp::connect_to(&site, &key, Era::Modern, "executor").await;
    let refused = client.complete_resource_simple("node://{id}", "id", "").await;
    assert!(matches!(refused, Err(ServiceError::McpError(_))));
    assert!(client.list_all_prompts().await.unwrap().is_empty());
    assert!(client.list_all_resource_templates().await.unwrap().is_empty());
}
