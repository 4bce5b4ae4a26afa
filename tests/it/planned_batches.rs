//! Batches that are asked for in words, on the engine and the simulated fleet; only the model is the test's.

use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use orch_core::Cx;
use orch_core::ports::model::{End, Model, Piece, Prompt};
use orch_domain::Error;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::harness::caller::{ann, op};
use crate::harness::eventually;
use crate::harness::lab::Lab;

/// Writes what the test sends; each reply is a channel of its own.
#[derive(Default)]
struct Author {
    replies: Mutex<Vec<mpsc::UnboundedReceiver<Piece>>>,
    asked: Mutex<Vec<Prompt>>,
}

#[async_trait]
impl Model for Author {
    fn name(&self) -> String {
        "author".to_owned()
    }

    async fn generate(
        &self,
        prompt: &Prompt,
    ) -> Result<BoxStream<'static, Result<Piece, Error>>, Error> {
        self.asked.lock().push(prompt.clone());
        let pieces = self.replies.lock().remove(0);
        let pieces = futures::stream::unfold(pieces, async |mut it| {
            it.recv().await.map(|piece| (Ok(piece), it))
        });
        Ok(pieces.boxed())
    }
}

struct Pen(mpsc::UnboundedSender<Piece>);

impl Pen {
    fn write(&self, text: &str) {
        self.0.send(Piece::Text(text.to_owned())).unwrap();
    }

    fn ends(&self) {
        self.0
            .send(Piece::End(End { is_cut: false, input_tokens: None, output_tokens: None }))
            .unwrap();
    }
}

/// Of so many replies.
fn author(n_replies: usize) -> (Arc<Author>, Cx, Vec<Pen>) {
    let author = Arc::new(Author::default());
    let pens = (0..n_replies).map(|_| {
        let (pen, pieces) = mpsc::unbounded_channel();
        author.replies.lock().push(pieces);
        Pen(pen)
    });
    let pens = pens.collect();
    (author.clone(), ann().with_model(author), pens)
}

/// The call goes on by itself: with a model that the client lends, it lasts until the plan is written.
async fn begin(lab: &Lab, cx: &Cx, request: Value) -> String {
    let call = op("batch_execute").call;
    lab.orch().tracker.spawn(call(lab.orch().clone(), cx.clone(), request));
    eventually("the batch to be there", || async {
        let list = lab.ask("list_batches", json!({})).await;
        list["batches"][0]["task_id"].as_str().map(str::to_owned)
    })
    .await
}

async fn status(lab: &Lab, id: &str) -> Value {
    lab.ask("batch_status", json!({"task_id": id})).await
}

async fn has_ended(lab: &Lab, id: &str) -> Value {
    eventually("the batch to end", || async {
        let seen = status(lab, id).await;
        (!seen["ended_at"].is_null()).then_some(seen)
    })
    .await
}

fn step<'a>(seen: &'a Value, id: &str) -> &'a Value {
    let steps = seen["step_list"].as_array().unwrap();
    steps.iter().find(|it| it["id"] == id).unwrap_or(&Value::Null)
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_run_while_the_model_still_writes_and_the_model_answers_from_their_results() {
    let lab = Lab::new(2).await;
    let (author, cx, pens) = author(2);
    let id = begin(&lab, &cx, json!({"request": "How are my nodes?"})).await;
    pens[0].write("Here is the plan:\n```json\n{\"id\": \"nodes\", \"tool\": \"orch.list_nodes\", \"arguments\": {");
    pens[0].write("}}\n");
    eventually("a step to have run while its planner says nothing", || async {
        let seen = status(&lab, &id).await;
        assert_eq!(seen["ended_at"], Value::Null, "{seen}");
        (step(&seen, "nodes")["state"] == "succeeded").then_some(())
    })
    .await;

    let each = json!({
        "id": "each", "tool": "get_node", "for_each": {"$ref": "nodes#/structuredContent/nodes"},
        "arguments": {"node_id": {"$ref": "item#/id"}}, "collect": "/structuredContent/id",
    });
    pens[0].write(&format!(
        "{each}\n{}",
        json!({"done": true, "output": {"$ref": "each#/structuredContent/items"}})
    ));
    pens[1].write("{\"answer\": \"n1 and n2 are well.\"}");
    pens[1].ends();
    let seen = has_ended(&lab, &id).await;
    assert_eq!(
        (&seen["state"], &seen["answer"]),
        (&json!("succeeded"), &json!("n1 and n2 are well.")),
        "{seen}"
    );
    let result = lab.ask("batch_result", json!({"task_id": id})).await;
    assert_eq!(result["output"], json!(["n1", "n2"]), "{result}");

    let asked = author.asked.lock();
    let tools = &asked[0].messages[0].text;
    assert!(tools.contains("# orch.list_nodes") && !tools.contains("batch_execute"), "{tools}");
    let results = &asked[1].messages.last().unwrap().text;
    assert!(results.contains("each (") && results.contains("\"n1\",\"n2\""), "{results}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_step_goes_back_and_what_was_right_has_run_meanwhile() {
    let lab = Lab::new(1).await;
    let (author, cx, pens) = author(2);
    let id = begin(&lab, &cx, json!({"request": "How are my nodes?", "answer": false})).await;
    pens[0].write("{\"id\": \"a\", \"tool\": \"orch.list_nodes\"}\n{\"id\": \"b\", \"tool\": \"orch.list_nods\"}\n{\"done\": true}");
    pens[1].write("{\"id\": \"b\", \"tool\": \"orch.cluster_status\"}\n{\"done\": true}");
    let seen = has_ended(&lab, &id).await;
    assert_eq!(seen["state"], "succeeded", "{seen}");
    assert_eq!(
        (&step(&seen, "a")["state"], &step(&seen, "b")["state"]),
        (&json!("succeeded"), &json!("succeeded"))
    );
    let asked = author.asked.lock();
    let repair = &asked[1].messages.last().unwrap().text;
    assert!(repair.contains("list_nods") && repair.contains("written again: a\n"), "{repair}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_planner_ends_with_the_cancellation_of_its_batch() {
    let lab = Lab::new(1).await;
    let (author, cx, pens) = author(1);
    let id = begin(&lab, &cx, json!({"request": "How are my nodes?"})).await;
    eventually("the model to be asked", || async {
        (!author.asked.lock().is_empty()).then_some(())
    })
    .await;
    lab.ask("batch_cancel", json!({"task_id": id})).await;
    let seen = has_ended(&lab, &id).await;
    assert_eq!(seen["state"], "cancelled", "{seen}");
    eventually("its request to be ended", || async { pens[0].0.is_closed().then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_planner_that_dies_twice_fails_the_batch_with_its_reason() {
    let lab = Lab::new(1).await;
    let (_, cx, mut pens) = author(2);
    let id = begin(&lab, &cx, json!({"request": "How are my nodes?"})).await;
    pens[0].write("{\"id\": \"a\", \"tool\": \"orch.list_nodes\"}\n{\"id\": \"b");
    pens.clear();
    let seen = has_ended(&lab, &id).await;
    assert_eq!(seen["state"], "failed", "{seen}");
    assert!(seen["reason"]["message"].as_str().unwrap().contains("author broke off"), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_in_words_is_shown_without_running() {
    let lab = Lab::new(1).await;
    let (_, cx, pens) = author(1);
    let cordon = json!({"id": "stop", "tool": "cordon_node", "arguments": {"node_id": "n1"}});
    pens[0].write(&format!(
        "{}\n{cordon}\n{{\"done\": true}}",
        json!({"id": "nodes", "tool": "list_nodes"})
    ));
    let planned =
        lab.call_as(&cx, "batch_plan", json!({"request": "Cordon n1"})).await.unwrap().value;
    let ids: Vec<&str> = planned["plan"]["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, ["nodes", "stop"], "{planned}");
    assert_eq!(lab.ask("get_node", json!({"node_id": "n1"})).await["cordoned"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_model_the_refusal_says_what_to_do() {
    let lab = Lab::new(1).await;
    let err = lab.call("batch_execute", json!({"request": "How are my nodes?"})).await.unwrap_err();
    let text = err.to_string();
    assert!(text.contains("`plan`") && text.contains("`llm.provider`"), "{text}");
}
