//! GPUs: found, counted, given out by index, and never twice. On simulated nodes, as there is none here.

use std::collections::BTreeSet;

use futures::future::join_all;
use orch_domain::ErrorCode::{InsufficientCapacity, InvalidParameter};
use serde_json::{Value, json};

use crate::harness::caller::{ADMIN, DEMO};
use crate::harness::cloud::Cloud;
use crate::harness::eventually;

async fn add(cloud: &Cloud, id: &str, more: Value) -> Value {
    let mut node = json!({"id": id, "hostname": id, "engine": "sim"});
    node.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    cloud.ok(ADMIN, "register_node", node).await
}

fn launch(gpu: u32) -> Value {
    json!({"image": "busybox", "cpu": 0.1, "memory": 0.0625, "gpu": gpu})
}

async fn capacity(cloud: &Cloud, id: &str) -> Value {
    cloud.ok(ADMIN, "check_node", json!({"node_id": id})).await;
    cloud.ok(ADMIN, "get_node", json!({"node_id": id})).await["capacity"]["gpu"].clone()
}

#[tokio::test]
async fn every_gpu_has_one_instance_until_that_is_gone() {
    let cloud = Cloud::start().await;
    add(&cloud, "gpus", json!({"sim": {"gpu": 3}})).await;
    let first = cloud.ok(DEMO, "launch_instance", launch(2)).await;
    assert_eq!((&first["node_id"], &first["gpus"]), (&json!("gpus"), &json!([0, 1])), "{first}");
    let second = cloud.ok(DEMO, "launch_instance", launch(1)).await;
    assert_eq!(second["gpus"], json!([2]));
    let refusal = cloud.refused(DEMO, "launch_instance", launch(1), InsufficientCapacity).await;
    assert_eq!(refusal["max_gpu_available"], 0, "{refusal}");
    let without = cloud.ok(DEMO, "launch_instance", launch(0)).await;
    assert_eq!(without["gpus"], json!([]));

    // A stopped instance keeps its own.
    cloud.ok(DEMO, "stop_instance", json!({"id": first["id"], "wait": true})).await;
    cloud.refused(DEMO, "launch_instance", launch(1), InsufficientCapacity).await;
    cloud.ok(DEMO, "terminate_instance", json!({"id": first["id"], "wait": true})).await;
    let third = cloud.ok(DEMO, "launch_instance", launch(1)).await;
    assert_eq!(third["gpus"], json!([0]));
    cloud.orch().ledger.read(|book| book.check()).unwrap();
}

#[tokio::test]
async fn racing_launches_share_no_gpu() {
    let cloud = Cloud::start().await;
    add(&cloud, "a", json!({"sim": {"gpu": 3}})).await;
    add(&cloud, "b", json!({"sim": {"gpu": 2}})).await;
    let racing = (0..8).map(|n| {
        let mut launch = launch(1);
        launch["name"] = json!(format!("racer-{n}"));
        let cx = orch_core::Cx::new(Some(cloud.caller(ADMIN)));
        let cloud = &cloud;
        async move { cloud.call_as(&cx, "launch_instance", launch).await }
    });
    let launched: Vec<Value> =
        join_all(racing).await.into_iter().filter_map(|it| Some(it.ok()?.value)).collect();
    let held: BTreeSet<String> =
        launched.iter().map(|it| format!("{}{}", it["node_id"], it["gpus"])).collect();
    assert_eq!((launched.len(), held.len()), (5, 5), "{held:?}");
    cloud.orch().ledger.read(|book| book.check()).unwrap();
}

#[tokio::test]
async fn what_instances_hold_is_known_after_a_restart() {
    let mut lab = crate::harness::lab::Lab::with(
        1,
        orch_domain::node::SimConfig { gpu: 2, ..Default::default() },
    )
    .await;
    let first = lab.ask("launch_instance", launch(1)).await;
    lab.restart().await;
    let kept = lab.ask("get_instance", json!({"id": first["id"]})).await;
    assert_eq!(kept["gpus"], json!([0]));
    let second = lab.ask("launch_instance", launch(1)).await;
    assert_eq!(second["gpus"], json!([1]));
    lab.check("after the restart");
}

#[tokio::test]
async fn an_administrator_who_counts_them_is_believed() {
    let cloud = Cloud::start().await;
    let node = add(&cloud, "n1", json!({"gpu": 1, "sim": {"gpu": 4}})).await;
    assert_eq!(node["capacity"]["gpu"], 1);
    assert_eq!(capacity(&cloud, "n1").await, 1, "a check does not undo it");
    cloud.ok(ADMIN, "update_node", json!({"node_id": "n1", "gpu": 2})).await;
    assert_eq!(capacity(&cloud, "n1").await, 2);
    let refusal =
        cloud.refused(ADMIN, "update_node", json!({"node_id": "n1", "gpu": 65}), InvalidParameter);
    assert_eq!(refusal.await["parameter"], "gpu");
}

/// A machine that is registered while it is down tells of its GPUs when it is up.
#[tokio::test]
async fn a_forced_registration_learns_of_gpus_later_unless_told() {
    let cloud = Cloud::start().await;
    let down = json!({"cpu": 8, "gpu": 2, "unreachable": true});
    let forced = json!({"force": true, "cpu_cores": 4, "memory_gb": 16, "sim": down});
    assert_eq!(add(&cloud, "asked", forced.clone()).await["capacity"]["gpu"], 0);
    let mut told = forced;
    told["gpu"] = json!(3);
    assert_eq!(add(&cloud, "told", told.clone()).await["capacity"]["gpu"], 3);
    for id in ["asked", "told"] {
        cloud.control(id).configure(|it| it.unreachable = false);
    }
    eventually("the GPUs are found", || async {
        (capacity(&cloud, "asked").await == 2).then_some(())
    })
    .await;
    let node = cloud.ok(ADMIN, "get_node", json!({"node_id": "asked"})).await;
    assert_eq!(node["capacity"]["cpu"], 4, "what was fixed stays");
    assert_eq!(capacity(&cloud, "told").await, 3);

    cloud.ok(ADMIN, "remove_node", json!({"node_id": "told", "force": true})).await;
    assert_eq!(add(&cloud, "told", told).await["capacity"]["gpu"], 3, "registered anew");
}
