//! A node lost is not an instance lost: what is seen of its instances, where they go when they are to, and that exactly
//! one container of each is left when the node is back.

mod back;
mod drain;
mod reschedule;
mod seen;

use orch_domain::name::{NodeId, UserId};
use orch_domain::node::NodeStatus;
use serde_json::{Value, json};

use crate::harness::eventually;
use crate::harness::lab::Lab;

fn node(id: &str) -> NodeId {
    NodeId::try_new(id).unwrap()
}

fn status(lab: &Lab, id: &str) -> NodeStatus {
    lab.orch().ledger.read(|book| book.slot(&node(id)).unwrap().node.status)
}

/// Cuts it off, and has it noticed.
async fn lose(lab: &Lab, id: &str) {
    lab.control(id).configure(|it| it.unreachable = true);
    for _ in 0..2 {
        lab.orch().sweep().await;
    }
    assert_eq!(status(lab, id), NodeStatus::Unreachable);
}

/// Brings it back, and has it noticed. When it counts as healthy, nothing that moved away runs there any more.
async fn heal(lab: &Lab, id: &str) {
    lab.control(id).configure(|it| it.unreachable = false);
    eventually(&format!("`{id}` to be healthy"), || async {
        lab.orch().sweep().await;
        if status(lab, id) != NodeStatus::Healthy {
            return None;
        }
        let left = lab.orch().ledger.read(|book| book.remnants_on(&node(id)).count());
        assert_eq!(left, 0, "`{id}` counts again before what was left there is gone");
        Some(())
    })
    .await;
}

async fn launch(lab: &Lab, more: Value) -> String {
    let mut arguments = json!({"image": "web:1", "ports": [80], "node_id": "n1"});
    arguments.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    lab.ask("launch_instance", arguments).await["id"].as_str().unwrap().to_owned()
}

async fn rescheduling(lab: &Lab) -> String {
    launch(lab, json!({"on_node_loss": "reschedule"})).await
}

async fn get(lab: &Lab, id: &str) -> Value {
    lab.ask("get_instance", json!({"id": id})).await
}

async fn becomes(lab: &Lab, id: &str, state: &str) -> Value {
    eventually(&format!("{id} {state}"), || async {
        let it = get(lab, id).await;
        (it["state"] == state).then_some(it)
    })
    .await
}

fn used_instances(lab: &Lab) -> u32 {
    lab.orch().ledger.read(|book| book.usage(&UserId::try_new("ann").unwrap()).instances)
}

fn used_cpu(lab: &Lab, id: &str) -> u32 {
    lab.orch().ledger.read(|book| book.slot(&node(id)).unwrap().used.cpu.millis())
}

fn n_ports(lab: &Lab, id: &str) -> usize {
    lab.orch().ledger.read(|book| book.slot(&node(id)).unwrap().ports.len())
}

/// One container, running, on `on`, and nothing held anywhere else.
async fn only_on(lab: &Lab, on: &str, id: &str, when: &str) {
    let it = becomes(lab, id, "running").await;
    assert_eq!((&it["node_id"], &it["remnants"]), (&json!(on), &json!([])), "{when}: {it}");
    assert_eq!(lab.n_containers(), 1, "{when}");
    assert_eq!(lab.control(on).containers()[0].name, format!("mo-{id}"), "{when}");
    assert_eq!(used_instances(lab), 1, "{when}");
    lab.check(when);
}
