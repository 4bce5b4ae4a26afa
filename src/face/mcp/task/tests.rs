use std::sync::Arc;

use futures::TryStreamExt;
use orch_core::ports::model::{Model, Piece, Prompt};
use orch_gateway::frame::{Frame, raw};
use orch_gateway::members::Members;
use orch_gateway::session::Visitor;

use super::extension::Asking;
use super::*;
use crate::face::mcp::lent::lend;

fn batch(state: &str) -> Value {
    json!({
        "task_id": "b-00000000000000001", "state": state, "reason": null,
        "steps": {"total": 5, "waiting": 1, "queued": 0, "running": 1, "succeeded": 2, "failed": 1, "cancelled": 0, "skipped": 0, "unknown": 0},
        "created_at": "2026-11-21T12:00:00Z", "started_at": null, "ended_at": null, "elapsed_ms": 1500, "more": {},
    })
}

fn answered(structured: &Value) -> Frame {
    Frame::result(raw(&7), raw(&json!({"content": [], "structuredContent": structured})))
}

fn json_of(raw: Option<&orch_gateway::frame::Raw>) -> Value {
    serde_json::from_str(raw.unwrap().get()).unwrap()
}

#[test]
fn a_batch_is_a_task_of_2025_11_25() {
    for (state, status) in [
        ("queued", "working"),
        ("planning", "working"),
        ("running", "working"),
        ("succeeded", "completed"),
        // What a batch that failed has done is in its result.
        ("failed", "completed"),
        ("cancelled", "cancelled"),
    ] {
        let mut frame = answered(&batch(state));
        earlier::begun(&mut frame);
        let task = json_of(frame.result.as_ref())["task"].clone();
        assert_eq!(
            task,
            json!({
                "taskId": "b-00000000000000001", "status": status,
                "statusMessage": format!("{state}: 2 of 5 steps succeeded, 1 failed, 1 running"),
                "createdAt": "2026-11-21T12:00:00.000Z", "lastUpdatedAt": "2026-11-21T12:00:01.500Z",
                "ttl": null, "pollInterval": 1000,
            })
        );
    }
}

#[test]
fn a_call_that_was_refused_is_no_task() {
    let mut frame =
        answered(&json!({"error": "InvalidParameter", "message": "there is no tool `x`"}));
    earlier::begun(&mut frame);
    assert!(frame.result.is_none());
    let error = json_of(frame.error.as_ref());
    assert_eq!(
        (&error["code"], &error["message"]),
        (&json!(-32602), &json!("there is no tool `x`"))
    );
}

#[test]
fn only_who_speaks_the_revision_that_has_tasks_is_told_of_them() {
    let hello = |version: &str| {
        let result = json!({"protocolVersion": version, "capabilities": {"tools": {}}});
        let mut frame = Frame::result(raw(&1), raw(&result));
        let is_told = earlier::introduce(&mut frame);
        (is_told, json_of(frame.result.as_ref())["capabilities"]["tasks"].clone())
    };
    let tasks = json!({"list": {}, "cancel": {}, "requests": {"tools": {"call": {}}}});
    assert_eq!(hello("2025-11-25"), (true, tasks));
    assert_eq!(hello("2025-06-18"), (false, Value::Null));
    assert_eq!(hello("2026-07-28"), (false, Value::Null));
}

#[test]
fn only_what_may_be_a_task_is_marked() {
    let tools = json!([{"name": "whoami", "description": "not batch_execute"}, {"name": EXECUTE, "x": 0.70}]);
    let mut frame = Frame::result(raw(&1), raw(&json!({"tools": tools})));
    earlier::mark(&mut frame);
    let tools = json_of(frame.result.as_ref())["tools"].clone();
    assert_eq!(tools[0].get("execution"), None);
    assert_eq!(tools[1]["execution"], json!({"taskSupport": "optional"}));
}

/// The planner of a batch asks the client's model after the call was answered with a task.
#[tokio::test]
async fn a_task_asks_its_client_for_input() {
    let params = json!({"_meta": {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {"sampling": {}},
    }});
    let request = Frame::request(raw(&1), "tools/call", Some(raw(&params)));
    let visitor = Arc::new(Visitor::of_request("ada", &request, false));
    let asking = Asking::default();
    let (model, questions) = lend(&visitor).unwrap();
    let task = json!({"resultType": "task", "taskId": "b-1", "status": "working"});
    assert!(asking.go_on(&Frame::result(raw(&1), raw(&task)), questions));
    assert!(asking.open("ada", "b-1").is_none());
    let prompt = Prompt { system: "Plan.".to_owned(), messages: Vec::new(), max_tokens: 5 };
    let operation = async {
        let pieces: Vec<Piece> =
            model.generate(&prompt).await.unwrap().try_collect().await.unwrap();
        drop(model);
        pieces
    };
    let client = async {
        let open = loop {
            match asking.open("ada", "b-1") {
                Some(it) => break serde_json::to_value(it).unwrap(),
                None => tokio::task::yield_now().await,
            }
        };
        assert_eq!(open["q1"]["method"], "sampling/createMessage");
        assert_eq!(open["q1"]["params"]["systemPrompt"], "Plan.");
        // It is the same for as long as it is open, and nobody else's.
        assert_eq!(serde_json::to_value(asking.open("ada", "b-1")).unwrap(), open);
        assert!(asking.open("bob", "b-1").is_none());
        assert!(asking.open("ada", "b-2").is_none());
        let said =
            json!({"role": "assistant", "model": "m", "content": {"type": "text", "text": "done"}});
        let mut answers = Members::default();
        answers.set("q1", &said);
        asking.answer("bob", "b-1", &answers).await;
        answers.set("q9", &said);
        asking.answer("ada", "b-1", &answers).await;
        assert!(asking.open("ada", "b-1").is_none());
    };
    let (pieces, ()) = futures::join!(operation, client);
    assert_eq!(pieces[0], Piece::Text("done".to_owned()));
    assert!(asking.open("ada", "b-1").is_none());
    assert_eq!((asking.n_tasks(), visitor.questions.n_open()), (0, 0));
}

#[test]
fn an_answer_that_is_no_task_asks_no_more() {
    let params = json!({"_meta": {"io.modelcontextprotocol/clientCapabilities": {"sampling": {}}}});
    let request = Frame::request(raw(&1), "tools/call", Some(raw(&params)));
    let visitor = Arc::new(Visitor::of_request("ada", &request, false));
    let (_, questions) = lend(&visitor).unwrap();
    let asking = Asking::default();
    let answer = json!({"resultType": "complete", "structuredContent": {"taskId": "b-1"}});
    assert!(!asking.go_on(&Frame::result(raw(&1), raw(&answer)), questions));
    assert_eq!(asking.n_tasks(), 0);
}
