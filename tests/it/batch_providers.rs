//! Batches asked for in words of a whole server, with a model behind each provider's own protocol: a local server that
//! speaks it, because the provider cannot be had here.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::harness::eventually;
use crate::harness::llm::{LlmServer, Reply, Then, Tongue};
use crate::harness::server::{Server, Setup};

const KEY: &str = "sk-test-4242424242";

/// The section of a configuration, as a user writes it.
fn section(tongue: Tongue, url: &str) -> String {
    match tongue {
        Tongue::Openai => format!(
            "llm:\n  provider: openai\n  openai: {{base_url: {url}/v1, api_key: {KEY}, model: m}}\n"
        ),
        Tongue::Azure => format!(
            "llm:\n  provider: azure\n  azure: {{endpoint: {url}, api_key: {KEY}, model: m}}\n"
        ),
        Tongue::Anthropic => format!(
            "llm:\n  provider: anthropic\n  anthropic: {{base_url: {url}, api_key: {KEY}, model: m}}\n"
        ),
        Tongue::Bedrock => format!(
            "llm:\n  provider: bedrock\n  bedrock: {{endpoint: {url}, region: eu-central-1, access_key_id: AKIDEXAMPLE, \
             secret_access_key: {KEY}, model: m}}\n"
        ),
    }
}

async fn status(server: &Server, id: &str) -> Value {
    server.get(&format!("/batch/status/{id}")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_provider_plans_and_what_is_ready_runs_while_it_writes() {
    for tongue in Tongue::ALL {
        let llm = LlmServer::start().await;
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("config.yaml");
        fs_err::write(&config, section(tongue, &llm.url)).unwrap();
        let config = config.display().to_string();
        let server = Setup::demo(dir.path()).argument("--config").argument(&config).start().await;

        let gate = Arc::new(Semaphore::new(0));
        let first = tongue.piece("{\"id\": \"nodes\", \"tool\": \"list_nodes\"}\n");
        let rest = "{\"id\": \"images\", \"tool\": \"list_images\", \"depends_on\": [\"nodes\"]}\n{\"done\": true}\n";
        let rest = [tongue.whole(rest).chunks.concat()].to_vec();
        let plan = Reply::streamed([first]).then(Then::Waits(gate.clone(), rest));
        llm.replies([plan, tongue.whole("{\"answer\": \"There is one node.\"}\n")]);

        let words = json!({"request": "Show the nodes of the cluster and the images on them"});
        let (code, batch) = server.call("POST", "/batch/execute", Some(words)).await;
        assert_eq!(code, 202, "{tongue:?}: {batch}");
        let id = batch["task_id"].as_str().unwrap().to_owned();
        // The model has not ended its answer: nothing but the first line came.
        eventually("the first step to have run", || async {
            let seen = status(&server, &id).await;
            (seen["steps"]["succeeded"] == 1).then_some(())
        })
        .await;
        let seen = status(&server, &id).await;
        assert_eq!((&seen["state"], &seen["steps"]["total"]), (&json!("planning"), &json!(1)));
        gate.add_permits(1);
        let seen = eventually("the batch to end", || async {
            let seen = status(&server, &id).await;
            seen["ended_at"].is_string().then_some(seen)
        })
        .await;
        assert_eq!(seen["state"], "succeeded", "{tongue:?}: {seen}");
        assert_eq!(seen["answer"], "There is one node.");
        assert_eq!(seen["steps"]["succeeded"], 2);
        let asked = llm.asked();
        assert_eq!(asked.len(), 2, "{tongue:?}: a plan and an answer");
        let prompt = asked[0].body.to_string();
        assert!(prompt.contains("list_nodes") && prompt.contains("images on them"), "{prompt}");
        assert!(asked[1].body.to_string().contains("local"), "the answer is made from the results");
        assert!(!server.log().contains(KEY));
    }
}
