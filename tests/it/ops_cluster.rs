//! The cluster as a whole: sums, sizes that fit, images, and what runs in the background.

use orch_domain::ErrorCode::{InvalidParameter, NotFound};
use serde_json::{Value, json};

use crate::harness::caller::{ADMIN, DEMO};
use crate::harness::cloud::Cloud;
use crate::harness::eventually;

async fn add_sim(cloud: &Cloud, id: &str, sim: Value) {
    let arguments = json!({"id": id, "hostname": id, "engine": "sim", "sim": sim, "force": true});
    cloud.ok(ADMIN, "register_node", arguments).await;
}

#[tokio::test]
async fn capacity_is_of_the_nodes_that_take_instances() {
    let cloud = Cloud::start().await;
    add_sim(&cloud, "wide", json!({"cpu": 32, "memory": 8})).await;
    add_sim(&cloud, "down", json!({"cpu": 64, "memory": 256, "unreachable": true})).await;
    add_sim(&cloud, "huge", json!({"cpu": 128, "memory": 512})).await;
    cloud.ok(ADMIN, "cordon_node", json!({"node_id": "huge"})).await;
    let capacity = cloud.ok(DEMO, "cluster_capacity", json!({})).await;
    assert_eq!(capacity["n_nodes"], 2);
    assert_eq!((&capacity["max_cpu"], &capacity["max_memory_gb"]), (&json!(32), &json!(64)));
    assert_eq!(capacity["total"]["cpu"], 48);
    assert_eq!(capacity["memory_options"].as_array().unwrap().last(), Some(&json!(64)));
    assert_eq!(capacity["cpu_options"].as_array().unwrap().last(), Some(&json!(32)));
}

#[tokio::test]
async fn health_is_checked_when_asked_and_remembered_otherwise() {
    let cloud = Cloud::start().await;
    add_sim(&cloud, "a-down", json!({"unreachable": true})).await;
    let checked = cloud.ok(DEMO, "cluster_health", json!({})).await;
    assert_eq!(
        (&checked["status"], &checked["unreachable_nodes"]),
        (&json!("degraded"), &json!(1))
    );
    assert_eq!(checked["nodes"][0]["id"], "a-down");
    assert!(checked["checked_at"].is_string());
    let n_calls = cloud.control("sim-1").n_calls("describe");
    let remembered = cloud.ok(DEMO, "cluster_health", json!({"run": false})).await;
    assert_eq!(remembered["status"], "degraded");
    let status = cloud.ok(DEMO, "cluster_status", json!({"include_nodes": true})).await;
    assert_eq!((&status["total_nodes"], &status["healthy_nodes"]), (&json!(2), &json!(1)));
    assert_eq!(status["nodes"].as_array().unwrap().len(), 2);
    assert_eq!(cloud.control("sim-1").n_calls("describe"), n_calls, "neither asked an engine");
    assert!(cloud.ok(DEMO, "cluster_status", json!({})).await.get("nodes").is_none());
}

#[tokio::test]
async fn the_dashboard_counts_ones_own_and_everybodys_for_an_administrator() {
    let cloud = Cloud::start().await;
    for user in [ADMIN, DEMO] {
        cloud.ok(user, "launch_instance", json!({"image": "busybox", "cpu": 1})).await;
    }
    let mine = cloud.ok(DEMO, "dashboard_summary", json!({})).await;
    assert_eq!(mine["instances"]["running"], 1);
    assert_eq!(
        (&mine["quota"]["used"]["cpu"], &mine["quota"]["remaining"]["cpu"]),
        (&json!(1), &json!(9))
    );
    assert_eq!(mine["cluster"]["used"]["cpu"], 2);
    let all = cloud.ok(ADMIN, "dashboard_summary", json!({})).await;
    assert_eq!(all["instances"]["running"], 2);
    let load = cloud.ok(DEMO, "node_status", json!({})).await;
    assert_eq!(
        (&load["nodes"][0]["cpu_used"], &load["nodes"][0]["load"]),
        (&json!(2), &json!(0.125))
    );
}

#[tokio::test]
async fn a_node_that_does_not_answer_hides_only_its_own_images() {
    let cloud = Cloud::start().await;
    add_sim(&cloud, "sick", json!({})).await;
    let all = cloud.ok(DEMO, "list_images", json!({})).await;
    let images = all["images"].as_array().unwrap();
    assert!(!images.is_empty());
    assert!(images.iter().any(|it| it["nodes"] == json!(["sick", "sim-1"])), "{all}");
    cloud.control("sick").configure(|it| it.unreachable = true);
    let some = cloud.ok(DEMO, "list_images", json!({})).await;
    assert_eq!(some["total_count"], all["total_count"]);
    let failure = &some["failures"][0];
    assert_eq!(
        (&failure["node_id"], &failure["error"]),
        (&json!("sick"), &json!("NodeUnreachable"))
    );
    assert_eq!(cloud.ok(DEMO, "list_images", json!({"name": "no such"})).await["total_count"], 0);
    let one = cloud.ok(DEMO, "list_images", json!({"node_id": "sim-1", "page_size": 1})).await;
    assert_eq!((one["images"].as_array().unwrap().len(), &one["failures"]), (1, &json!([])));
    cloud.refused(DEMO, "list_images", json!({"node_id": "nowhere"}), NotFound).await;
    cloud.refused(DEMO, "list_images", json!({"page_token": "zz"}), InvalidParameter).await;
}

#[tokio::test]
async fn background_tasks_report() {
    let cloud = Cloud::start().await;
    let tasks = eventually("the tasks have run", || async {
        let tasks = cloud.ok(ADMIN, "task_status", json!({})).await;
        (tasks["tasks"].as_array().unwrap().len() == 4).then_some(tasks)
    })
    .await;
    assert_eq!(tasks["tasks"][1]["name"], "health");
}
