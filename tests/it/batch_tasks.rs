//! Batches as tasks of the protocol: of the extension of 2026-07-28, and of the core of 2025-11-25.

use serde_json::{Value, json};

use crate::client_model::{PLANS, serve, wires};
use crate::harness::server::{Server, Setup};
use crate::harness::wire::MODERN;
use crate::harness::wire::{Era, Wire};
use crate::harness::{http, within};

const EXTENSION: &str = "io.modelcontextprotocol/tasks";

/// What a client of the extension says that it can do.
fn declares(more: Value) -> Value {
    let mut able = json!({"extensions": {EXTENSION: {}}});
    able.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    able
}

/// Two calls, of which one is answered at once.
fn execute(tools: &[(&str, Value)]) -> Value {
    let calls: Vec<Value> = tools
        .iter()
        .map(|(tool, arguments)| json!({"tool": tool, "arguments": arguments}))
        .collect();
    json!({"name": "batch_execute", "arguments": {"calls": calls}})
}

fn quick() -> Value {
    execute(&[("orch.list_nodes", json!({})), ("orch.whoami", json!({}))])
}

/// A call that has nothing to answer for so long; one that is quick may have ended before its answer.
fn waiting(wait_seconds: u32) -> Value {
    execute(&[(
        "orch.list_events",
        json!({"kind": "registry_credential", "since_revision": 0, "wait_seconds": wait_seconds}),
    )])
}

/// A pull that takes a minute, unless it is cancelled.
fn slow() -> Value {
    execute(&[(
        "orch.launch_instance",
        json!({"image": "pull/slow:1", "node_id": "sim-1", "wait": true}),
    )])
}

/// Out of range.
fn refused() -> Value {
    json!({"name": "batch_execute", "arguments": {"calls": [], "retry_count": 1000}})
}

async fn until(wire: &mut Wire, id: &str, statuses: &[&str]) -> Value {
    let asking = async {
        loop {
            let said = wire.ask("tasks/get", json!({"taskId": id})).await;
            let task = said.result().clone();
            assert_eq!(task["taskId"], id);
            if statuses.iter().any(|it| task["status"] == *it) {
                return task;
            }
            assert_eq!(task["status"], "working", "{task}");
        }
    };
    within("the task to get there", asking).await
}

/// What the operation for it answers.
async fn result_of(server: &Server, id: &str) -> Value {
    server.get(&format!("/batch/result/{id}")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_the_extension_is_answered_a_task() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(&dir, 60_000).await;
    for wire in wires(&server, Era::Modern) {
        let mut wire = wire.able(declares(json!({})));
        let said = wire.open().await;
        assert_eq!(said.result()["capabilities"]["extensions"], json!({EXTENSION: {}}));
        let task = wire.ask("tools/call", waiting(1)).await.result().clone();
        assert_eq!((&task["resultType"], &task["status"]), (&json!("task"), &json!("working")));
        assert!(task.get("content").is_none() && task["createdAt"].is_string(), "{task}");
        assert!(task["ttlMs"].is_null() && 0 < task["pollIntervalMs"].as_u64().unwrap());
        let id = task["taskId"].as_str().unwrap();
        let ended = until(&mut wire, id, &["completed"]).await;
        assert_eq!(ended["resultType"], "complete");
        assert_eq!(ended["result"]["structuredContent"], result_of(&server, id).await);
        assert!(ended["result"]["content"][0]["text"].is_string());
        // Nobody asked for anything.
        let params = json!({"taskId": id, "inputResponses": {"q1": {"role": "assistant"}}});
        let said = wire.ask("tasks/update", params).await;
        assert_eq!(said.result()["resultType"], "complete");
        // There is nothing left to cancel.
        let said = wire.ask("tasks/cancel", json!({"taskId": id})).await;
        assert_eq!(said.result(), &json!({"resultType": "complete"}));
        let still = until(&mut wire, id, &["completed"]).await;
        let structured = "/result/structuredContent";
        assert_eq!(still.pointer(structured), ended.pointer(structured));

        let id = wire.ask("tools/call", slow()).await.found("/taskId");
        let id = id.as_str().unwrap();
        assert_eq!(until(&mut wire, id, &["working"]).await["resultType"], "complete");
        let said = wire.ask("tasks/cancel", json!({"taskId": id})).await;
        assert_eq!(said.result(), &json!({"resultType": "complete"}));
        let ended = until(&mut wire, id, &["cancelled"]).await;
        assert!(ended.get("result").is_none(), "{ended}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_takes_a_task_gets_one() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(&dir, 1).await;
    for era in [Era::Legacy, Era::Modern] {
        for wire in wires(&server, era) {
            let mut wire = wire.able(json!({}));
            wire.open().await;
            let said = wire.ask("tools/call", quick()).await;
            assert!(said.found("/structuredContent/task_id").is_string(), "{said:?}");
            assert_ne!(said.result()["resultType"], "task");
        }
    }
    for wire in wires(&server, Era::Modern) {
        let mut wire = wire.able(declares(json!({})));
        wire.open().await;
        // Who says that it waits, waits.
        let mut params = quick();
        params["arguments"]["wait"] = json!(true);
        let said = wire.ask("tools/call", params).await;
        assert_eq!(said.found("/structuredContent/state"), "succeeded", "{said:?}");
        // Nothing else becomes one, and what is refused neither.
        let said = wire.ask("tools/call", json!({"name": "whoami", "arguments": {}})).await;
        assert_eq!(said.result()["resultType"], "complete");
        let said = wire.ask("tools/call", refused()).await;
        assert_eq!(
            (&said.result()["isError"], &said.result()["resultType"]),
            (&json!(true), &json!("complete"))
        );
        for method in ["tasks/get", "tasks/update", "tasks/cancel"] {
            for id in ["b-00000000000000000000", "nonsense"] {
                let params = json!({"taskId": id, "inputResponses": {}});
                let said = wire.ask(method, params).await;
                assert_eq!(said.responses[0]["error"]["code"], -32602, "{method}: {said:?}");
            }
        }
    }
    let mut wire = Wire::http(&format!("{}/mcp", server.url), Era::Modern).able(json!({}));
    let said = wire.ask("tasks/get", json!({"taskId": "b-1"})).await;
    assert_eq!(said.responses[0]["error"]["code"], -32021, "{said:?}");
}

/// The planner asks the client's model through the task.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_planned_by_the_clients_model() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(&dir, 1).await;
    let request = json!({"name": "batch_execute", "arguments": {"request": "list the nodes of the cluster and say how many there are"}});
    for wire in wires(&server, Era::Modern) {
        let mut wire = wire.able(declares(json!({"sampling": {}}))).minded(PLANS);
        wire.open().await;
        let said = wire.ask("tools/call", request.clone()).await;
        assert_eq!(said.result()["resultType"], "task", "{said:?}");
        let id = said.result()["taskId"].as_str().unwrap().to_owned();
        let mut seen = Vec::new();
        let ended = loop {
            let task = until(&mut wire, &id, &["input_required", "completed"]).await;
            if task["status"] == "completed" {
                break task;
            }
            let mut given = serde_json::Map::new();
            for (name, asked) in task["inputRequests"].as_object().unwrap() {
                assert_eq!(asked["method"], "sampling/createMessage");
                assert!(!seen.contains(name), "`{name}` is asked again");
                given.insert(name.clone(), PLANS(&asked["params"]).unwrap());
                seen.push(name.clone());
            }
            wire.ask("tasks/update", json!({"taskId": id, "inputResponses": given})).await.result();
        };
        assert!(2 <= seen.len(), "{seen:?}");
        assert_eq!(ended["result"]["structuredContent"]["answer"], "There is sim-1.", "{ended}");
    }
}

/// What stands between a client and us routes by the header, and we go by the body: they have to say the same.
#[tokio::test(flavor = "multi_thread")]
async fn the_header_that_names_a_task_names_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(&dir, 1).await;
    let url = format!("{}/mcp", server.url);
    let mut wire = Wire::http(&url, Era::Modern).able(declares(json!({})));
    let id = wire.ask("tools/call", waiting(30)).await.found("/taskId");
    let id = id.as_str().unwrap();
    for (method, name, expected) in [
        ("tasks/get", Some(id), 200),
        ("tasks/get", Some("b-2"), 400),
        ("tasks/get", None, 400),
        ("tasks/update", Some("b-2"), 400),
        ("tasks/cancel", Some("b-2"), 400),
        ("tasks/cancel", Some(id), 200),
    ] {
        let meta = json!({
            "io.modelcontextprotocol/protocolVersion": MODERN,
            "io.modelcontextprotocol/clientInfo": {"name": "bare", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": declares(json!({})),
        });
        let params = json!({"taskId": id, "inputResponses": {}, "_meta": meta});
        let mut request = http()
            .post(&url)
            .header("accept", "application/json, text/event-stream")
            .header("mcp-protocol-version", MODERN)
            .header("mcp-method", method)
            .json(&json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}));
        if let Some(name) = name {
            request = request.header("mcp-name", name);
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let answer: Value = response.json().await.unwrap();
        assert_eq!(status, expected, "{method} {name:?}: {answer}");
        if expected == 400 {
            assert_eq!(answer["error"]["code"], -32020, "{answer}");
        }
    }
}

fn as_task(mut params: Value) -> Value {
    params["task"] = json!({"ttl": 60_000});
    params
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_2025_11_25_makes_its_call_a_task() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(&dir, 60_000).await;
    for wire in wires(&server, Era::Legacy) {
        let mut wire = wire.able(json!({}));
        let said = wire.open().await;
        let tasks = json!({"list": {}, "cancel": {}, "requests": {"tools": {"call": {}}}});
        assert_eq!(said.result()["capabilities"]["tasks"], tasks);
        assert!(said.result()["capabilities"].get("extensions").is_none());
        let tools = wire.ask("tools/list", json!({})).await;
        for tool in tools.result()["tools"].as_array().unwrap() {
            let expected =
                if tool["name"] == "batch_execute" { json!("optional") } else { Value::Null };
            assert_eq!(tool["execution"]["taskSupport"], expected, "{}", tool["name"]);
        }
        let task = wire.ask("tools/call", as_task(waiting(1))).await.found("/task");
        assert!(task["createdAt"].is_string() && task["ttl"].is_null(), "{task}");
        let id = task["taskId"].as_str().unwrap();
        let result = wire.ask("tasks/result", json!({"taskId": id})).await;
        let result = result.result();
        assert_eq!(result["_meta"]["io.modelcontextprotocol/related-task"]["taskId"], id);
        assert_eq!(result["structuredContent"], result_of(&server, id).await);
        let ended = until(&mut wire, id, &["completed"]).await;
        assert!(ended["pollInterval"].is_u64() && ended.get("result").is_none(), "{ended}");
        let said = wire.ask("tasks/cancel", json!({"taskId": id})).await;
        assert_eq!(said.responses[0]["error"]["code"], -32602, "it has ended: {said:?}");

        let slow = wire.ask("tools/call", as_task(slow())).await.found("/task/taskId");
        let slow = slow.as_str().unwrap();
        let listed = wire.ask("tasks/list", json!({})).await;
        let ids: Vec<&Value> =
            listed.result()["tasks"].as_array().unwrap().iter().map(|it| &it["taskId"]).collect();
        assert!(ids.contains(&&json!(id)) && ids.contains(&&json!(slow)), "{ids:?}");
        let said = wire.ask("tasks/cancel", json!({"taskId": slow})).await;
        assert_eq!(said.result()["taskId"], slow);
        until(&mut wire, slow, &["cancelled"]).await;

        let said =
            wire.ask("tools/call", as_task(json!({"name": "whoami", "arguments": {}}))).await;
        assert_eq!(said.responses[0]["error"]["code"], -32601, "{said:?}");
        let said = wire.ask("tools/call", as_task(refused())).await;
        assert_eq!(said.responses[0]["error"]["code"], -32602, "{said:?}");
        for method in ["tasks/get", "tasks/result", "tasks/cancel"] {
            let said = wire.ask(method, json!({"taskId": "nonsense"})).await;
            assert_eq!(said.responses[0]["error"]["code"], -32602, "{method}: {said:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_earlier_revision_knows_of_no_tasks() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(&dir, 1).await;
    let mut wire = Wire::http(&format!("{}/mcp", server.url), Era::Legacy).speaking("2025-06-18");
    let said = wire.open().await;
    assert!(said.result()["capabilities"].get("tasks").is_none(), "{said:?}");
    let said = wire.ask("tools/call", as_task(quick())).await;
    assert!(said.found("/structuredContent/task_id").is_string(), "{said:?}");
    let tools = wire.ask("tools/list", json!({})).await;
    let tools = tools.result()["tools"].as_array().unwrap();
    assert!(tools.iter().all(|it| it.get("execution").is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_of_2025_11_25_is_planned_by_the_clients_model() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(&dir, 1).await;
    let request = json!({"name": "batch_execute", "arguments": {"request": "list the nodes of the cluster and say how many there are"}});
    for wire in wires(&server, Era::Legacy) {
        let mut wire = wire.able(json!({"sampling": {}})).minded(PLANS);
        wire.open().await;
        let task = wire.ask("tools/call", as_task(request.clone())).await.found("/task");
        let id = task["taskId"].as_str().unwrap_or_else(|| panic!("{task}"));
        let said = wire.ask("tasks/result", json!({"taskId": id})).await;
        assert_eq!(said.found("/structuredContent/answer"), "There is sim-1.", "{said:?}");
        let related = "/params/_meta/io.modelcontextprotocol~1related-task/taskId";
        assert!(said.requests.iter().all(|it| it.pointer(related) == Some(&json!(id))), "{said:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_of_another_user_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let server = Setup::demo(dir.path()).start().await;
    let wire = |user: &'static str| {
        Wire::http(&format!("{}/mcp", server.url), Era::Modern).able(declares(json!({}))).by(user)
    };
    let (mut mine, mut theirs) = (wire("user-admin-001"), wire("user-demo-001"));
    let id = mine.ask("tools/call", waiting(30)).await.found("/taskId");
    assert!(id.is_string());
    let said = theirs.ask("tasks/get", json!({"taskId": id})).await;
    let nobodys = theirs.ask("tasks/get", json!({"taskId": "b-00000000000000000000"})).await;
    assert_eq!(said.responses[0]["error"]["code"], -32602, "{said:?}");
    assert_eq!(nobodys.responses[0]["error"]["code"], -32602, "{nobodys:?}");
}
