//! A node lost is not an instance lost: what is seen of its instances, where they go when they are to, and that exactly
//! one container of each is left when the node is back.

use std::sync::Arc;
use std::time::Duration;

use orch_core::event::Subject;
use orch_core::ports::engine::ContainerLabels;
use orch_core::ports::failpoint::Failpoint;
use orch_domain::ErrorCode;
use orch_domain::instance::InstanceState;
use orch_domain::name::{InstanceId, NodeId, UserId};
use orch_domain::node::NodeStatus;
use serde_json::{Value, json};

use crate::harness::caller::ann;
use crate::harness::lab::Lab;
use crate::harness::{eventually, within};

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

#[tokio::test]
async fn instances_of_a_lost_node_are_unreachable_and_keep_all_they_hold() {
    let lab = Lab::new(2).await;
    let id = launch(&lab, json!({})).await;
    let stopped = launch(&lab, json!({"name": "second"})).await;
    lab.ask("stop_instance", json!({"id": stopped})).await;
    let held = (used_instances(&lab), used_cpu(&lab, "n1"), n_ports(&lab, "n1"));
    lose(&lab, "n1").await;
    lab.orch().reschedule_lost().await;

    for id in [&id, &stopped] {
        let it = get(&lab, id).await;
        assert_eq!(it["state"], "unreachable", "{it}");
        assert_eq!(it["state_reason"]["code"], "Server.NodeUnreachable", "{it}");
        let said = it["state_reason"]["message"].as_str().unwrap();
        assert!(said.contains("`n1`") && said.contains("since 20"), "{said}");
        assert_eq!((&it["node_id"], &it["generation"]), (&json!("n1"), &json!(1)), "{it}");
    }
    let said = get(&lab, &stopped).await["state_reason"]["message"].to_string();
    assert!(said.contains("it was stopped then"), "{said}");
    let listed = lab.ask("list_instances", json!({"state": ["unreachable"]})).await;
    assert_eq!(listed["total_count"], 2, "{listed}");
    let listed = lab.ask("list_instances", json!({"state": ["running", "stopped"]})).await;
    assert_eq!(listed["total_count"], 0, "{listed}");
    let cluster = lab.call("cluster_status", json!({})).await.unwrap();
    assert_eq!(cluster.value["instances"]["unreachable"], 2, "{}", cluster.value);
    assert!(cluster.text().contains("2 instances are unreachable"), "{}", cluster.text());
    let summary = lab.call("dashboard_summary", json!({})).await.unwrap();
    assert_eq!(summary.value["instances"]["unreachable"], 2, "{}", summary.value);
    assert!(summary.text().contains("2 unreachable"), "{}", summary.text());
    let shown = lab.call("get_instance", json!({"id": id})).await.unwrap().text();
    assert!(shown.contains("is unreachable on n1") && !shown.contains("reached at"), "{shown}");
    assert_eq!((used_instances(&lab), used_cpu(&lab, "n1"), n_ports(&lab, "n1")), held);

    heal(&lab, "n1").await;
    assert_eq!(get(&lab, &id).await["state"], "running");
    assert_eq!(get(&lab, &id).await["state_reason"], Value::Null);
    assert_eq!(get(&lab, &stopped).await["state"], "stopped");
    lab.check("back");
}

#[tokio::test]
async fn what_needs_the_lost_node_says_so_at_once_and_what_to_do() {
    let lab = Lab::new(1).await;
    let id = launch(&lab, json!({})).await;
    let stopped = launch(&lab, json!({"name": "second"})).await;
    lab.ask("stop_instance", json!({"id": stopped})).await;
    lose(&lab, "n1").await;
    // A node that hangs would hold a call for a minute; a lost one is not asked.
    lab.control("n1").configure(|it| it.hung = true);
    let calls = [
        ("stop_instance", json!({"id": id})),
        ("restart_instance", json!({"id": id})),
        ("start_instance", json!({"id": stopped})),
        ("exec_in_instance", json!({"id": id, "command": ["true"]})),
        ("instance_logs", json!({"id": id})),
        ("instance_stats", json!({"id": id})),
    ];
    for (name, arguments) in calls {
        let refusal = within(name, lab.call(name, arguments)).await.unwrap_err();
        assert_eq!(refusal.code(), ErrorCode::NodeUnreachable, "{name}: {refusal}");
        let said = refusal.to_string();
        for word in
            ["`n1`", "since 20", "check_node", "terminate_instance", "on_node_loss=reschedule"]
        {
            assert!(said.contains(word), "{name}: {word}: {said}");
        }
    }
    assert_eq!(
        lab.orch().ledger.read(|it| it.instance(&id.parse().unwrap()).unwrap().state),
        InstanceState::Running
    );

    // To end is accepted: the answer comes at once and says what is left to happen.
    let ended = within("the answer", lab.ask("terminate_instance", json!({"id": id}))).await;
    assert_eq!(ended["state"], "shutting-down", "{ended}");
    assert_eq!(ended["state_reason"]["code"], "Client.UserInitiatedShutdown", "{ended}");
    let said = ended["state_reason"]["message"].as_str().unwrap();
    assert!(said.contains("`n1`") && said.contains("when that is back"), "{said}");
    assert_eq!(used_instances(&lab), 2, "its container was not seen to be gone");

    lab.control("n1").configure(|it| it.hung = false);
    heal(&lab, "n1").await;
    becomes(&lab, &id, "terminated").await;
    lab.ask("terminate_instance", json!({"id": stopped})).await;
    assert_eq!((used_instances(&lab), lab.n_containers(), n_ports(&lab, "n1")), (0, 0, 0));
    lab.check("ended");
}

#[tokio::test]
async fn whoever_listens_is_told_of_every_instance_when_its_node_goes_and_comes() {
    let lab = Lab::new(1).await;
    let id = launch(&lab, json!({})).await;
    let subject = Subject::Instance(id.parse().unwrap());
    let mut events = lab.orch().events.subscribe();
    let mut n_told = || {
        let told = std::iter::from_fn(|| events.try_recv().ok()).filter(|it| *it == subject);
        told.count()
    };
    lose(&lab, "n1").await;
    assert_eq!(n_told(), 1);
    lab.orch().sweep().await;
    assert_eq!(n_told(), 0);
    heal(&lab, "n1").await;
    assert_eq!(n_told(), 1);
}

#[tokio::test]
async fn a_caller_that_waits_is_told_when_the_node_is_lost() {
    let lab = Lab::new(1).await;
    let id = launch(&lab, json!({})).await;
    lab.control("n1").configure(|it| it.unreachable = true);
    let stop = lab.call("stop_instance", json!({"id": id}));
    let loss = async {
        eventually("the stop to be asked for", || async {
            (get(&lab, &id).await["state"] == "stopping").then_some(())
        })
        .await;
        lose(&lab, "n1").await;
    };
    let (answer, ()) = within("the answer", async { tokio::join!(stop, loss) }).await;
    let refusal = answer.unwrap_err();
    assert_eq!(refusal.code(), ErrorCode::NodeUnreachable, "{refusal}");
    assert!(refusal.to_string().contains("goes on as soon as the node is back"), "{refusal}");
    heal(&lab, "n1").await;
    becomes(&lab, &id, "stopped").await;
    lab.check("stopped");
}

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

#[tokio::test]
async fn a_drained_node_s_instances_move_and_the_report_says_where_or_why_not() {
    let lab = Lab::new(2).await;
    let small = launch(&lab, json!({"name": "small"})).await;
    let large = launch(&lab, json!({"name": "large", "cpu": 12})).await;
    let stopped = launch(&lab, json!({"name": "stopped"})).await;
    lab.ask("stop_instance", json!({"id": stopped})).await;
    lab.ask("launch_instance", json!({"image": "web:1", "cpu": 8, "node_id": "n2"})).await;
    let request = json!({"node_id": "n1", "action": "move"});
    let answer = lab.call_as(&ann(), "drain_node", request.clone()).await.unwrap();
    let drained = &answer.value;
    assert_eq!((&drained["n_left"], &drained["node"]["cordoned"]), (&json!(2), &json!(true)));
    let of = |id: &str| {
        drained["instances"].as_array().unwrap().iter().find(|it| it["id"] == id).unwrap()
    };
    let it = of(&small);
    assert_eq!(
        (&it["is_done"], &it["moved_to"], &it["state"]),
        (&json!(true), &json!("n2"), &json!("running")),
        "{it}"
    );
    let it = of(&large);
    assert_eq!(
        (&it["is_done"], &it["error"]),
        (&json!(false), &json!("InsufficientCapacity")),
        "{it}"
    );
    assert_eq!(it["state"], "running", "what finds no place goes on where it is: {it}");
    let it = of(&stopped);
    assert_eq!((&it["is_done"], &it["error"]), (&json!(false), &json!("IncorrectState")), "{it}");
    assert!(answer.text().contains("moved to n2"), "{}", answer.text());
    let moved = get(&lab, &small).await;
    assert_eq!((&moved["generation"], &moved["remnants"]), (&json!(2), &json!([])), "{moved}");
    assert_eq!(used_cpu(&lab, "n1"), 12_500, "what moved holds nothing here any more");
    assert_eq!(lab.control("n1").containers().len(), 2);
    lab.check("drained");
    let targets = &lab.audit()[0].targets;
    assert!(targets.contains(&small) && targets.contains(&"n1".to_owned()), "{targets:?}");
    // Again: nothing is left to move.
    let again = lab.ask("drain_node", request).await;
    assert_eq!(again["n_left"], 2, "{again}");
    assert_eq!(get(&lab, &small).await["generation"], 2);
}

#[tokio::test]
async fn never_do_two_generations_run_on_nodes_that_answer() {
    let lab = Lab::new(2).await;
    let id = launch(&lab, json!({})).await;
    // The old node answers, but does not stop anything yet.
    lab.control("n1").configure(|it| it.delay_ms = 200);
    let drain = lab.ask("drain_node", json!({"node_id": "n1", "action": "move"}));
    let watch = async {
        eventually("the new container to run", || async {
            let is_up = |on: &str| lab.control(on).containers().iter().any(|it| it.state.is_up());
            assert!(!(is_up("n1") && is_up("n2")), "both run");
            is_up("n2").then_some(())
        })
        .await;
    };
    let (drained, ()) = tokio::join!(drain, watch);
    assert_eq!(drained["n_left"], 0, "{drained}");
    only_on(&lab, "n2", &id, "moved").await;
}

#[tokio::test]
async fn a_drain_moves_what_a_lost_node_kept() {
    let lab = Lab::new(2).await;
    let id = launch(&lab, json!({})).await;
    lose(&lab, "n1").await;
    let drained = lab.ask("drain_node", json!({"node_id": "n1", "action": "move"})).await;
    assert_eq!(
        (&drained["n_left"], &drained["instances"][0]["moved_to"]),
        (&json!(0), &json!("n2")),
        "{drained}"
    );
    lab.check("moved");
    heal(&lab, "n1").await;
    only_on(&lab, "n2", &id, "drained while lost").await;
}

#[tokio::test]
async fn a_move_whose_start_fails_stays_stopped_and_can_be_started() {
    let lab = Lab::new(2).await;
    let id = launch(&lab, json!({})).await;
    lab.control("n2").configure(|it| it.fail_starts = 1);
    let drained = lab.ask("drain_node", json!({"node_id": "n1", "action": "move"})).await;
    let it = &drained["instances"][0];
    assert_eq!(
        (&drained["n_left"], &it["error"], &it["state"]),
        (&json!(1), &json!("EngineError"), &json!("stopped")),
        "{it}"
    );
    // A look at the node does not take it for gone, even without a container.
    lab.control("n2").remove_container(&format!("mo-{id}"));
    lab.orch().reconcile_node(&node("n2")).await.unwrap();
    assert_eq!(get(&lab, &id).await["state"], "stopped");
    lab.ask("start_instance", json!({"id": id})).await;
    only_on(&lab, "n2", &id, "started by hand").await;
}

#[tokio::test]
async fn a_port_taken_on_the_new_node_is_passed() {
    let lab = Lab::new(2).await;
    let id = launch(&lab, json!({})).await;
    lab.control("n2").configure(|it| it.foreign_ports = vec![8000, 8001]);
    lab.ask("drain_node", json!({"node_id": "n1", "action": "move"})).await;
    only_on(&lab, "n2", &id, "ports").await;
    let port = get(&lab, &id).await["ports"][0]["host_port"].as_u64().unwrap();
    assert!(8001 < port, "{port}");
}

/// Waits at a step until it is let go on, so that something happens meanwhile.
async fn crash_lost(at: Failpoint) {
    let when = at.as_str();
    let mut lab = Lab::new(2).await;
    let id = rescheduling(&lab).await;
    let hit = lab.crash_at(at, 1).await;
    lose(&lab, "n1").await;
    assert_eq!(lab.orch().reschedule_lost().await.n_moved, 1, "{when}");
    let is_fencing = when.starts_with("remnant.");
    if is_fencing {
        becomes(&lab, &id, "running").await;
        lab.control("n1").configure(|it| it.unreachable = false);
        lab.orch().sweep().await;
        lab.orch().sweep().await;
    }
    within(when, hit.acquire()).await.unwrap().forget();
    lab.restart().await;
    if !is_fencing {
        // Still cut: the new generation comes up all the same.
        becomes(&lab, &id, "running").await;
        lab.check(when);
    }
    heal(&lab, "n1").await;
    only_on(&lab, "n2", &id, when).await;
    assert_eq!(get(&lab, &id).await["generation"], 2, "{when}");
}

#[tokio::test]
async fn a_crash_at_every_step_of_a_loss_leaves_exactly_one() {
    let is_move = |it: &Failpoint| {
        ["reschedule.", "remnant."].iter().any(|word| it.as_str().starts_with(word))
    };
    for at in Failpoint::ALL.into_iter().filter(is_move) {
        crash_lost(at).await;
    }
}

#[tokio::test]
async fn a_node_that_comes_back_wiped_ends_its_instances_whatever_they_did() {
    let lab = Lab::new(1).await;
    let launched = |name: &'static str| launch(&lab, json!({"name": name}));
    let running = launched("running").await;
    let stopped = launched("stopped").await;
    let stopping = launched("stopping").await;
    let ending = launched("ending").await;
    let starting = launched("starting").await;
    for id in [&stopped, &starting] {
        lab.ask("stop_instance", json!({"id": id})).await;
    }
    lab.control("n1").configure(|it| it.unreachable = true);
    for (name, id) in [
        ("stop_instance", &stopping),
        ("terminate_instance", &ending),
        ("start_instance", &starting),
    ] {
        lab.ask(name, json!({"id": id, "wait": false})).await;
    }
    let state =
        |id: &str| lab.orch().ledger.read(|it| it.instance(&id.parse().unwrap()).unwrap().state);
    assert_eq!(state(&stopping), InstanceState::Stopping);
    assert_eq!(state(&ending), InstanceState::ShuttingDown);
    lose(&lab, "n1").await;
    lab.control("n1").wipe();
    heal(&lab, "n1").await;
    lab.orch().reconcile_node(&node("n1")).await.unwrap();
    for id in [&running, &stopped, &stopping, &starting] {
        let it = becomes(&lab, id, "terminated").await;
        assert_eq!(it["state_reason"]["code"], "Server.ContainerRemoved", "{it}");
    }
    let it = becomes(&lab, &ending, "terminated").await;
    assert_eq!(it["state_reason"]["code"], "Client.UserInitiatedShutdown", "{it}");
    assert_eq!((used_instances(&lab), used_cpu(&lab, "n1"), n_ports(&lab, "n1")), (0, 0, 0));
    lab.check("wiped");
}

#[tokio::test]
async fn what_moved_away_from_a_node_that_comes_back_wiped_is_free_there() {
    let lab = Lab::new(2).await;
    let id = rescheduling(&lab).await;
    lose(&lab, "n1").await;
    lab.orch().reschedule_lost().await;
    lab.control("n1").wipe();
    heal(&lab, "n1").await;
    only_on(&lab, "n2", &id, "wiped").await;
    assert_eq!((used_cpu(&lab, "n1"), n_ports(&lab, "n1")), (0, 0));
}

/// What a lost node may get wrong most easily: two of everything. Nodes come and go at random, and in the end one is left.
#[tokio::test]
async fn nodes_that_come_and_go_leave_one_container_each() {
    let lab = Lab::new(4).await;
    let mut ids: Vec<InstanceId> = Vec::new();
    for n in 0..6 {
        let request = json!({
            "image": "web:1", "ports": [80], "name": format!("w{n}"), "on_node_loss": "reschedule"
        });
        ids.push(
            lab.ask("launch_instance", request).await["id"].as_str().unwrap().parse().unwrap(),
        );
    }
    // Fixed, so that a failure comes again.
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    for _ in 0..60 {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let id = format!("n{}", 1 + seed % 4);
        let is_down = lab.control(&id).config().unreachable;
        lab.control(&id).configure(|it| it.unreachable = !is_down);
        for _ in 0..2 {
            lab.orch().sweep().await;
        }
        lab.orch().reschedule_lost().await;
        lab.orch().ledger.read(|book| book.check().unwrap());
    }
    for n in 1..=4 {
        heal(&lab, &format!("n{n}")).await;
    }
    lab.at_rest().await;
    for n in 1..=4 {
        lab.orch().reconcile_node(&node(&format!("n{n}"))).await.unwrap();
    }
    assert_eq!(lab.n_containers(), ids.len());
    assert!(lab.instances().await.iter().all(|it| it["state"] == "running"));
    assert_eq!(used_instances(&lab), 6);
    lab.check("after all that");
    let orch = Arc::clone(lab.orch());
    assert!(ids.iter().all(|id| orch.ledger.read(|book| book.instance(id).is_some())));
}
