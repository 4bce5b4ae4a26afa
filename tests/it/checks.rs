//! Health checks that overlap with what else happens to a node.

use orch_domain::name::NodeId;
use orch_domain::node::{NodeStatus, SimConfig};
use serde_json::json;

use crate::harness::eventually;
use crate::harness::lab::Lab;

fn n1() -> NodeId {
    NodeId::try_new("n1").unwrap()
}

#[tokio::test]
async fn a_capacity_fixed_during_a_check_stays() {
    let sim = SimConfig { delay_ms: 100, ..SimConfig::default() };
    let lab = Lab::with(1, sim).await;
    lab.control("n1").configure(|it| it.cpu = orch_domain::resource::Cpu::from_millis(32_000));
    let check = lab.call("check_node", json!({"node_id": "n1"}));
    let fix = async {
        let is_asked = || async { (lab.control("n1").n_calls("describe") == 1).then_some(()) };
        eventually("the check to be under way", is_asked).await;
        lab.ask("update_node", json!({"node_id": "n1", "cpu_cores": 2})).await;
    };
    let (checked, ()) = futures::future::join(check, fix).await;
    checked.unwrap();
    assert_eq!(lab.ask("get_node", json!({"node_id": "n1"})).await["capacity"]["cpu"], 2);
}

#[tokio::test]
async fn a_status_that_could_not_be_written_is_written_by_the_next_check() {
    let lab = Lab::new(1).await;
    lab.control("n1").configure(|it| it.unreachable = true);
    let status = || async {
        lab.ask("check_node", json!({"node_id": "n1"})).await;
        lab.orch().ledger.read(|book| book.slot(&n1()).unwrap().node.status)
    };
    status().await;
    assert_eq!(status().await, NodeStatus::Unreachable);
    // As a reload of the book does after a full disk.
    let forget = |book: &mut orch_domain::book::Book| {
        book.change_node(&n1(), |it| it.status = NodeStatus::Healthy)
    };
    lab.orch().ledger.write(None, forget).await.unwrap();
    assert_eq!(status().await, NodeStatus::Unreachable);
}

#[tokio::test]
async fn a_node_with_another_engine_is_followed_anew_and_a_removed_one_no_more() {
    let lab = Lab::new(0).await;
    let node = json!({"id": "n1", "hostname": "n1", "engine": "sim"});
    lab.ask("register_node", node.clone()).await;
    let followed = |n: u64| {
        let node = lab.control("n1");
        async move {
            eventually("the events to be followed", || async {
                (node.n_calls("events") == n).then_some(())
            })
            .await;
        }
    };
    followed(1).await;
    lab.ask("update_node", json!({"node_id": "n1", "sim": {"cpu": 4}})).await;
    followed(2).await;
    lab.ask("remove_node", json!({"node_id": "n1"})).await;
    lab.ask("register_node", node).await;
    followed(3).await;
}
