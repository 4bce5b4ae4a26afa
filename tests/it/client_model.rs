//! Batches that the model of the connected client plans: asked on its connection, or in answers that it comes back to.

use serde_json::{Value, json};

use crate::harness::eventually;
use crate::harness::server::{Server, Setup};
use crate::harness::wire::{Era, Mind, Wire};

const REQUEST: &str = "list the nodes of the cluster and say how many there are";

/// Plans one step, and says of its result how many nodes there are.
pub(crate) const PLANS: Mind = |asked| {
    let said = asked["messages"].as_array().unwrap().last().unwrap();
    let said = said["content"]["text"].as_str().unwrap();
    let system = asked["systemPrompt"].as_str().unwrap();
    assert!(asked["maxTokens"].as_u64().is_some_and(|it| 0 < it), "{asked}");
    let text = if system.starts_with("Tools will be searched") {
        "{\"query\": \"list cluster nodes\"}"
    } else if said.starts_with("All steps have ended.") {
        assert!(said.contains("sim-1"), "{said}");
        "{\"answer\": \"There is sim-1.\"}"
    } else {
        "{\"id\": \"nodes\", \"tool\": \"orch.list_nodes\", \"arguments\": {}}\n{\"done\": true}"
    };
    // As of 2025-11-25 content may be a list.
    let content = json!([{"type": "text", "text": text}]);
    Ok(json!({"role": "assistant", "model": "minded", "stopReason": "endTurn", "content": content}))
};

/// One that says no.
const REFUSES: Mind = |_| Err(json!({"code": -1, "message": "User rejected sampling request"}));

/// Everybody is the administrator, and there is a node on which everything takes `delay_ms`.
pub(crate) async fn serve(dir: &tempfile::TempDir, delay_ms: u64) -> Server {
    let server = Setup::no_auth(dir.path()).start().await;
    let node = json!({
        "id": "sim-1", "hostname": "sim-1", "engine": "sim",
        "sim": {"pull_delay_ms": delay_ms, "start_delay_ms": 1},
    });
    let (status, answer) = server.call("POST", "/cluster/nodes", Some(node)).await;
    assert_eq!(status, 201, "{answer}");
    server
}

/// The real binary in both ways: over HTTP, and as a child that serves the same data.
pub(crate) fn wires(server: &Server, era: Era) -> Vec<Wire> {
    let data_dir = server.data_dir.to_str().unwrap().to_owned();
    let command = [env!("CARGO_BIN_EXE_mcp-orch"), "stdio", "--data-dir", &data_dir];
    let command = command.map(str::to_owned);
    vec![Wire::http(&format!("{}/mcp", server.url), era), Wire::stdio(&command, era)]
}

fn execute(more: Value) -> Value {
    let mut arguments = json!({"request": REQUEST, "wait": true});
    arguments.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"name": "batch_execute", "arguments": arguments})
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clients_own_model_plans_in_every_way() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(&dir, 1).await;
    for era in [Era::Legacy, Era::Modern] {
        for wire in wires(&server, era) {
            let mut wire = wire.able(json!({"sampling": {}})).minded(PLANS);
            wire.open().await;
            let step = wire.ask("tools/call", execute(json!({}))).await;
            let batch = &step.result()["structuredContent"];
            assert_eq!(batch["state"], "succeeded", "{era:?}: {batch}");
            assert_eq!(batch["answer"], "There is sim-1.");
            assert_eq!(batch["steps"]["succeeded"], 1);
            let asked: Vec<&Value> = match era {
                Era::Legacy => step.requests.iter().collect(),
                Era::Modern => {
                    let (_, before) = step.responses.split_last().unwrap();
                    let asked = before.iter().map(|it| &it["result"]["inputRequests"]);
                    asked.flat_map(|it| it.as_object().unwrap().values()).collect()
                }
            };
            assert!(2 <= asked.len(), "a plan and an answer: {step:?}");
            assert!(asked.iter().all(|it| it["method"] == "sampling/createMessage"));
            let id = batch["task_id"].as_str().unwrap();
            let shown = server.get(&format!("/batch/status/{id}")).await;
            assert_eq!(shown["state"], "succeeded");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_refuses_or_lends_nothing_is_told_what_else_there_is() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(&dir, 1).await;
    for wire in wires(&server, Era::Legacy) {
        let mut wire = wire.able(json!({"sampling": {}})).minded(REFUSES);
        wire.open().await;
        let step = wire.ask("tools/call", execute(json!({}))).await;
        let batch = &step.result()["structuredContent"];
        assert_eq!(batch["state"], "failed", "{batch}");
        let why = batch["reason"]["message"].as_str().unwrap();
        for word in ["the model of wire 1", "User rejected", "`plan`", "`llm`"] {
            assert!(why.contains(word), "{word}: {why}");
        }
    }
    for era in [Era::Legacy, Era::Modern] {
        for wire in wires(&server, era) {
            let mut wire = wire.able(json!({"elicitation": {}}));
            wire.open().await;
            let step = wire.ask("tools/call", execute(json!({}))).await;
            assert_eq!(step.result()["isError"], true, "{step:?}");
            assert_eq!(step.result()["structuredContent"]["error"], "Unavailable");
            let asked = (step.requests.len(), step.responses.len());
            assert_eq!(asked, (0, 1), "it cannot be asked");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_taken_up_once_and_by_the_same_words_alone() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(&dir, 1).await;
    for wire in wires(&server, Era::Modern) {
        let mut wire = wire.able(json!({"sampling": {}}));
        wire.open().await;
        let first = wire.ask_once("tools/call", execute(json!({}))).await["result"].clone();
        assert_eq!(first["resultType"], "input_required", "{first}");
        let with = |more: Value, state: &Value, given: Value| {
            let mut params = execute(more);
            params["requestState"] = state.clone();
            params["inputResponses"] = given;
            params
        };
        let state = &first["requestState"];
        let (name, question) = first["inputRequests"].as_object().unwrap().iter().next().unwrap();
        let given = json!({name: PLANS(&question["params"]).unwrap()});
        for (more, state) in [
            (json!({"max_replans": 3}), state.clone()),
            (json!({}), json!("mcp-orch:0123456789abcdef0123456789abcdef")),
            (json!({}), json!("")),
        ] {
            let refused = wire.ask_once("tools/call", with(more, &state, given.clone())).await;
            assert_eq!(refused["error"]["code"], -32602, "{refused}");
        }
        // What is missing is asked for again, under another state.
        let again = wire.ask_once("tools/call", with(json!({}), state, json!({}))).await;
        let again = again["result"].clone();
        assert_eq!(again["inputRequests"], first["inputRequests"]);
        assert_ne!(again["requestState"], *state);
        let late = wire.ask_once("tools/call", with(json!({}), state, given.clone())).await;
        assert_eq!(late["error"]["code"], -32602, "{late}");
        let mut said =
            wire.ask_once("tools/call", with(json!({}), &again["requestState"], given)).await;
        let mut n_rounds = 1;
        while said["result"]["resultType"] == "input_required" {
            n_rounds += 1;
            let asked = said["result"]["inputRequests"].as_object().unwrap();
            let given: serde_json::Map<String, Value> = asked
                .iter()
                .map(|(name, it)| (name.clone(), PLANS(&it["params"]).unwrap()))
                .collect();
            let state = said["result"]["requestState"].clone();
            said = wire.ask_once("tools/call", with(json!({}), &state, Value::Object(given))).await;
        }
        assert!(2 <= n_rounds);
        assert_eq!(said["result"]["structuredContent"]["state"], "succeeded", "{said}");
        // It was one batch throughout.
        let id = said["result"]["structuredContent"]["task_id"].clone();
        let batches = server.get("/batch").await;
        let ids: Vec<&Value> =
            batches["batches"].as_array().unwrap().iter().map(|it| &it["task_id"]).collect();
        assert!(ids.contains(&&id), "{batches}");
    }
    // Two wires, two batches.
    let batches = server.get("/batch").await;
    assert_eq!(batches["batches"].as_array().unwrap().len(), 2, "{batches}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_ends_its_session_ends_what_waits_for_its_model() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(&dir, 1).await;
    let mut wire = Wire::http(&format!("{}/mcp", server.url), Era::Legacy);
    wire.open().await;
    wire.begin("tools/call", execute(json!({}))).await;
    let state_of_all = || async {
        let batches = server.get("/batch").await;
        batches["batches"].as_array().unwrap().first().map(|it| it["state"].clone())
    };
    eventually("the batch to be planned", || async {
        state_of_all().await.filter(|it| *it == "planning")
    })
    .await;
    wire.end().await;
    eventually("the batch to be cancelled", || async {
        state_of_all().await.filter(|it| *it == "cancelled")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_call_of_ours_tells_how_far_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(&dir, 1).await;
    let step = |id: &str, after: &[&str]| json!({"id": id, "tool": "orch.list_nodes", "depends_on": after});
    let plan = json!({"steps": [step("a", &[]), step("b", &["a"]), step("c", &["b"])]});
    for era in [Era::Legacy, Era::Modern] {
        for mut wire in wires(&server, era) {
            wire.open().await;
            let params = json!({
                "name": "batch_execute", "arguments": {"plan": plan, "wait": true},
                "_meta": {"progressToken": "mine"},
            });
            let said = wire.ask("tools/call", params).await;
            assert_eq!(said.result()["structuredContent"]["state"], "succeeded", "{said:?}");
            let progress =
                said.notifications.iter().filter(|it| it["method"] == "notifications/progress");
            let told: Vec<f64> = progress
                .map(|it| {
                    assert_eq!(it["params"]["progressToken"], "mine");
                    it["params"]["progress"].as_f64().unwrap()
                })
                .collect();
            assert!(!told.is_empty() && told.is_sorted_by(|a, b| a < b), "{told:?}");
        }
    }
}
