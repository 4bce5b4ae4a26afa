//! Instances that leave a lost node, and what becomes of the place they left.

use std::time::Duration;

use orch_core::event::Subject;
use orch_core::ports::engine::ContainerLabels;
use orch_domain::ErrorCode;
use orch_domain::name::UserId;
use orch_domain::node::NodeStatus;
use serde_json::json;

use super::{
    becomes, get, heal, launch, lose, n_ports, node, only_on, rescheduling, status, used_cpu,
    used_instances,
};
use crate::harness::eventually;
use crate::harness::lab::Lab;

#[tokio::test]
async fn an_instance_that_is_to_go_elsewhere_does_and_one_container_survives() {
    let lab = Lab::new(3).await;
    let id = rescheduling(&lab).await;
    let kept = launch(&lab, json!({"name": "kept"})).await;
    let stopped = launch(&lab, json!({"name": "stopped", "on_node_loss": "reschedule"})).await;
    lab.ask("stop_instance", json!({"id": stopped})).await;
    lose(&lab, "n1").await;
    let report = lab.orch().reschedule_lost().await;
    assert_eq!((report.n_moved, report.n_stuck), (1, 0));
    let moved = becomes(&lab, &id, "running").await;
    assert_eq!((&moved["node_id"], &moved["generation"]), (&json!("n2"), &json!(2)), "{moved}");
    assert_eq!(moved["remnants"][0]["node_id"], "n1", "{moved}");
    assert_eq!(lab.control("n2").containers()[0].labels.as_ref().unwrap().generation, 2);
    // Both places are held, and the quota counts once.
    assert_eq!((used_cpu(&lab, "n1"), used_cpu(&lab, "n2")), (1500, 500));
    assert_eq!((n_ports(&lab, "n1"), n_ports(&lab, "n2")), (3, 1));
    assert_eq!(used_instances(&lab), 3);
    for other in [&kept, &stopped] {
        let it = get(&lab, other).await;
        assert_eq!((&it["state"], &it["generation"]), (&json!("unreachable"), &json!(1)), "{it}");
    }
    assert_eq!(lab.orch().reschedule_lost().await.n_moved, 0, "once is enough");
    lab.check("moved");
    assert_eq!(lab.control("n1").containers().len(), 3, "nobody can reach it");

    heal(&lab, "n1").await;
    let it = get(&lab, &id).await;
    assert_eq!((&it["node_id"], &it["remnants"]), (&json!("n2"), &json!([])), "{it}");
    assert_eq!((used_cpu(&lab, "n1"), n_ports(&lab, "n1")), (1000, 2));
    assert_eq!(lab.control("n1").containers().len(), 2);
    lab.orch().reconcile_node(&node("n1")).await.unwrap();
    assert_eq!(get(&lab, &kept).await["state"], "running");
    lab.check("back");
    for id in [&id, &kept, &stopped] {
        lab.ask("terminate_instance", json!({"id": id})).await;
    }
    assert_eq!((used_instances(&lab), lab.n_containers()), (0, 0));
    lab.check("ended");
}

#[tokio::test]
async fn a_node_that_is_back_before_the_grace_ends_lost_nothing() {
    let mut lab = Lab::new(2).await;
    lab.settings.reschedule_grace = Duration::from_secs(3600);
    lab.restart().await;
    let id = rescheduling(&lab).await;
    lose(&lab, "n1").await;
    assert_eq!(lab.orch().reschedule_lost().await.n_moved, 0);
    let it = get(&lab, &id).await;
    assert!(it["state_reason"]["message"].as_str().unwrap().contains("another node"), "{it}");
    heal(&lab, "n1").await;
    only_on(&lab, "n1", &id, "in time").await;
    assert_eq!(get(&lab, &id).await["generation"], 1);
    assert_eq!(lab.control("n2").n_calls("create"), 0);
}

#[tokio::test]
async fn a_loss_from_before_a_restart_is_checked_before_it_is_believed() {
    let mut lab = Lab::new(2).await;
    let id = rescheduling(&lab).await;
    lose(&lab, "n1").await;
    lab.restart().await;
    assert_eq!(status(&lab, "n1"), NodeStatus::Unreachable);
    assert_eq!(lab.orch().reschedule_lost().await.n_moved, 0, "nobody looked yet");
    lab.control("n1").configure(|it| it.unreachable = false);
    lab.orch().sweep().await;
    assert_eq!(status(&lab, "n1"), NodeStatus::Unreachable, "damped");
    assert_eq!(lab.orch().reschedule_lost().await.n_moved, 0, "it answers");
    heal(&lab, "n1").await;
    only_on(&lab, "n1", &id, "restarted").await;

    lose(&lab, "n1").await;
    lab.restart().await;
    lab.orch().sweep().await;
    assert_eq!(lab.orch().reschedule_lost().await.n_moved, 1);
    heal(&lab, "n1").await;
    only_on(&lab, "n2", &id, "moved after a restart").await;
}

#[tokio::test]
async fn without_room_elsewhere_it_waits_says_why_and_goes_when_there_is() {
    let lab = Lab::new(1).await;
    let id = rescheduling(&lab).await;
    lose(&lab, "n1").await;
    let mut events = lab.orch().events.subscribe();
    let report = lab.orch().reschedule_lost().await;
    assert_eq!((report.n_moved, report.n_stuck), (0, 1));
    let it = get(&lab, &id).await;
    let said = it["state_reason"]["message"].as_str().unwrap();
    assert_eq!(it["state"], "unreachable");
    assert!(said.contains("tried again") && said.contains("no other node"), "{said}");
    assert_eq!(events.try_recv().unwrap(), Subject::Instance(id.parse().unwrap()));
    lab.orch().reschedule_lost().await;
    assert!(events.try_recv().is_err(), "told once");

    lab.add_node(orch_domain::node::Node { cordoned: true, ..orch_domain::node::Node::test("n2") })
        .await;
    assert_eq!(lab.orch().reschedule_lost().await.n_stuck, 1);
    let it = get(&lab, &id).await;
    assert!(it["state_reason"]["message"].as_str().unwrap().contains("cordoned"), "{it}");
    lab.ask("uncordon_node", json!({"node_id": "n2"})).await;
    assert_eq!(lab.orch().reschedule_lost().await.n_moved, 1);
    heal(&lab, "n1").await;
    only_on(&lab, "n2", &id, "room at last").await;
}

#[tokio::test]
async fn where_it_may_run_is_remembered_and_a_node_without_the_image_is_passed_over() {
    let lab = Lab::new(1).await;
    let tagged = |id: &str, tag: &str| orch_domain::node::Node {
        tags: [orch_domain::name::Tag::try_new(tag).unwrap()].into(),
        ..orch_domain::node::Node::test(id)
    };
    for (id, tag) in [("n2", "fast"), ("n3", "slow"), ("n4", "fast"), ("n5", "fast")] {
        lab.add_node(tagged(id, tag)).await;
    }
    let request = json!({
        "image": "pull/web:1", "ports": [80], "tags": ["fast"], "on_node_loss": "reschedule"
    });
    let launched = lab.ask("launch_instance", request).await;
    let id = launched["id"].as_str().unwrap().to_owned();
    assert_eq!(launched["node_id"], "n2");
    lose(&lab, "n2").await;
    // It answers its checks no more, and nobody has noticed yet.
    lab.control("n4").configure(|it| it.unreachable = true);
    assert_eq!(lab.orch().reschedule_lost().await.n_moved, 1);
    assert_eq!(becomes(&lab, &id, "running").await["node_id"], "n5");
    assert_eq!(lab.control("n3").n_calls("create"), 0);
    lab.control("n4").configure(|it| it.unreachable = false);
    heal(&lab, "n2").await;
    only_on(&lab, "n5", &id, "tags").await;
}

#[tokio::test]
async fn a_node_that_comes_back_while_the_next_generation_starts_keeps_nothing() {
    let lab = Lab::new(2).await;
    let id = rescheduling(&lab).await;
    lab.control("n2").configure(|it| it.start_delay_ms = 300);
    lose(&lab, "n1").await;
    assert_eq!(lab.orch().reschedule_lost().await.n_moved, 1);
    assert_eq!(get(&lab, &id).await["state"], "pending");
    heal(&lab, "n1").await;
    assert_eq!(lab.control("n1").containers(), []);
    only_on(&lab, "n2", &id, "race").await;
}

#[tokio::test]
async fn a_node_that_clears_slowly_counts_again_only_when_it_is_clear() {
    let lab = Lab::new(2).await;
    let id = rescheduling(&lab).await;
    lose(&lab, "n1").await;
    lab.orch().reschedule_lost().await;
    becomes(&lab, &id, "running").await;
    // Its checks are good long before the container is gone.
    lab.control("n1").configure(|it| it.delay_ms = 200);
    heal(&lab, "n1").await;
    only_on(&lab, "n2", &id, "slowly").await;
}

#[tokio::test]
async fn a_restart_that_its_node_s_loss_interrupts_is_finished_elsewhere() {
    let lab = Lab::new(2).await;
    let id = rescheduling(&lab).await;
    lab.control("n1").configure(|it| it.unreachable = true);
    let restart = lab.call("restart_instance", json!({"id": id, "wait": false}));
    restart.await.unwrap();
    lose(&lab, "n1").await;
    assert_eq!(lab.orch().reschedule_lost().await.n_moved, 1);
    becomes(&lab, &id, "running").await;
    heal(&lab, "n1").await;
    only_on(&lab, "n2", &id, "restarted").await;
}

#[tokio::test]
async fn a_second_loss_on_the_way_is_a_third_generation_and_still_one_container() {
    let lab = Lab::new(3).await;
    let id = rescheduling(&lab).await;
    lose(&lab, "n1").await;
    lab.control("n2").configure(|it| it.start_delay_ms = 200);
    assert_eq!(lab.orch().reschedule_lost().await.n_moved, 1);
    eventually("the second container", || async {
        (!lab.control("n2").containers().is_empty()).then_some(())
    })
    .await;
    lose(&lab, "n2").await;
    assert_eq!(lab.orch().reschedule_lost().await.n_moved, 1);
    let it = becomes(&lab, &id, "running").await;
    assert_eq!((&it["node_id"], &it["generation"]), (&json!("n3"), &json!(3)), "{it}");
    assert_eq!(it["remnants"].as_array().unwrap().len(), 2, "{it}");
    lab.check("twice lost");
    heal(&lab, "n2").await;
    heal(&lab, "n1").await;
    only_on(&lab, "n3", &id, "twice lost").await;
}

#[tokio::test]
async fn an_older_generation_that_turns_up_late_goes_at_once() {
    let lab = Lab::new(2).await;
    let id = rescheduling(&lab).await;
    lose(&lab, "n1").await;
    lab.orch().reschedule_lost().await;
    heal(&lab, "n1").await;
    // A create that was on its way when the link went.
    let labels = |generation| ContainerLabels {
        controller_id: lab.orch().ledger.store().identity().controller_id.clone(),
        instance_id: id.parse().unwrap(),
        generation,
        owner: UserId::try_new("ann").unwrap(),
    };
    lab.control("n1").put_container(&format!("mo-{id}"), Some(labels(1)));
    let report = lab.orch().reconcile_node(&node("n1")).await.unwrap();
    assert_eq!(report.n_orphans_removed, 1);
    only_on(&lab, "n2", &id, "late").await;
    // One that claims to be newer than the record, as after a restored backup, proves nothing.
    lab.control("n1").put_container(&format!("mo-{id}"), Some(labels(9)));
    let report = lab.orch().reconcile_node(&node("n1")).await.unwrap();
    assert_eq!((report.n_orphans_removed, report.n_orphans_waiting), (0, 1));
}

#[tokio::test]
async fn a_moved_instance_ends_while_its_old_node_is_cut_and_the_remnant_holds() {
    let lab = Lab::new(2).await;
    let id = rescheduling(&lab).await;
    lose(&lab, "n1").await;
    lab.orch().reschedule_lost().await;
    becomes(&lab, &id, "running").await;
    let ended = lab.ask("terminate_instance", json!({"id": id})).await;
    assert_eq!(ended["state"], "terminated", "{ended}");
    assert_eq!(ended["remnants"][0]["node_id"], "n1", "{ended}");
    assert_eq!(used_instances(&lab), 0);
    assert_eq!((used_cpu(&lab, "n1"), used_cpu(&lab, "n2")), (500, 0));
    assert_eq!((n_ports(&lab, "n1"), n_ports(&lab, "n2")), (1, 0));
    let n1 = lab.ask("get_node", json!({"node_id": "n1"})).await;
    assert_eq!((&n1["n_instances"], &n1["n_remnants"]), (&json!(0), &json!(1)), "{n1}");
    let late = lab.orch().clock.now().plus_millis(100 * 3_600_000);
    let n_expired =
        lab.orch().ledger.write(None, |it| Ok(it.expire_terminated(late))).await.unwrap();
    assert_eq!(n_expired, 0, "somebody has to know of the container");
    lab.check("ended");

    let refusal = lab.call("remove_node", json!({"node_id": "n1"})).await.unwrap_err();
    assert_eq!(refusal.code(), ErrorCode::Conflict, "{refusal}");
    heal(&lab, "n1").await;
    assert_eq!((lab.n_containers(), used_cpu(&lab, "n1"), n_ports(&lab, "n1")), (0, 0, 0));
    let n_expired =
        lab.orch().ledger.write(None, |it| Ok(it.expire_terminated(late))).await.unwrap();
    assert_eq!(n_expired, 1);
    lab.ask("remove_node", json!({"node_id": "n1"})).await;
}

#[tokio::test]
async fn a_lost_node_that_is_given_up_takes_its_remnants_along() {
    let lab = Lab::new(2).await;
    let id = rescheduling(&lab).await;
    let kept = launch(&lab, json!({"name": "kept"})).await;
    lose(&lab, "n1").await;
    lab.orch().reschedule_lost().await;
    becomes(&lab, &id, "running").await;
    let removed = lab.ask("remove_node", json!({"node_id": "n1", "force": true})).await;
    assert_eq!(removed["instances_lost"], json!([kept]), "{removed}");
    assert_eq!(get(&lab, &kept).await["state_reason"]["code"], "Server.NodeLost");
    let it = get(&lab, &id).await;
    assert_eq!((&it["state"], &it["remnants"]), (&json!("running"), &json!([])), "{it}");
    assert_eq!(used_instances(&lab), 1);
    lab.check("given up");
}

#[tokio::test]
async fn the_choice_can_be_changed_and_is_part_of_what_a_launch_is() {
    let lab = Lab::new(2).await;
    let id = launch(&lab, json!({"client_token": "t"})).await;
    assert_eq!(get(&lab, &id).await["on_node_loss"], "keep");
    let again = launch(&lab, json!({"client_token": "t", "on_node_loss": "keep"})).await;
    assert_eq!(again, id, "what is meant anyway may be said");
    let other = json!({
        "image": "web:1", "ports": [80], "node_id": "n1", "client_token": "t", "on_node_loss": "reschedule"
    });
    let refusal = lab.call("launch_instance", other).await.unwrap_err();
    assert_eq!(refusal.code(), ErrorCode::IdempotentParameterMismatch, "{refusal}");

    // For a node that is lost already, too.
    lose(&lab, "n1").await;
    assert_eq!(lab.orch().reschedule_lost().await.n_moved, 0);
    let changed = lab.ask("update_instance", json!({"id": id, "on_node_loss": "reschedule"})).await;
    assert_eq!(changed["on_node_loss"], "reschedule", "{changed}");
    assert_eq!(lab.orch().reschedule_lost().await.n_moved, 1);
    heal(&lab, "n1").await;
    only_on(&lab, "n2", &id, "changed").await;
}
