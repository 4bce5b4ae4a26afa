//! Nodes that come back: after a crash of ours on the way, wiped, or again and again.

use orch_core::ports::failpoint::Failpoint;
use orch_domain::instance::InstanceState;
use orch_domain::name::InstanceId;
use serde_json::json;

use super::{
    becomes, get, heal, launch, lose, n_ports, node, only_on, rescheduling, used_cpu,
    used_instances,
};
use crate::harness::lab::Lab;
use crate::harness::{eventually, within};

/// A crash at `at` of a loss, a restart, and the node back.
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
    let request = json!({"image": "web:1", "ports": [80], "node_id": "n1", "wait": false});
    let launching = lab.ask("launch_instance", request).await["id"].as_str().unwrap().to_owned();
    eventually("the launch to be given up", || async {
        (state(&launching) == InstanceState::ShuttingDown).then_some(())
    })
    .await;
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
    let it = becomes(&lab, &launching, "terminated").await;
    assert_eq!(it["state_reason"]["code"], "Server.NodeUnreachable", "{it}");
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
    let generation =
        |id: &InstanceId| lab.orch().ledger.read(|book| book.instance(id).unwrap().generation);
    assert!(6 < ids.iter().map(generation).sum::<u32>(), "nothing had to move");
}
