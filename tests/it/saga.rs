//! A crash at every step, on the simulated engine: the next start finishes or undoes, and doing a step twice is doing
//! it once.

use orch_core::ports::failpoint::Failpoint;
use orch_domain::node::SimConfig;
use serde_json::{Value, json};

use crate::harness::lab::Lab;

/// What leads to `at`: the launch, and what is asked of the instance after it.
fn path_to(at: Failpoint) -> (SimConfig, Value, &'static [&'static str]) {
    let mut sim = SimConfig::default();
    let mut launch = json!({"image": "web:1", "ports": [80], "name": "web"});
    match at {
        Failpoint::LaunchImagePresent => launch["image"] = "pull/web:1".into(),
        Failpoint::LaunchPortsMoved => sim.foreign_ports = vec![8000],
        Failpoint::LaunchFailed => launch["image"] = "missing:1".into(),
        _ => {}
    }
    let then: &[&str] = match at.as_str().split_once('.').unwrap().0 {
        "stop" => &["stop_instance"],
        "start" => &["stop_instance", "start_instance"],
        "restart" => &["restart_instance"],
        "terminate" => &["terminate_instance"],
        "reschedule" | "remnant" => &["drain_node"],
        _ => &[],
    };
    (sim, launch, then)
}

fn expected(at: Failpoint) -> &'static str {
    match at.as_str().split_once('.').unwrap() {
        (_, "failed") => "terminated",
        ("stop", _) => "stopped",
        ("terminate", _) => "terminated",
        _ => "running",
    }
}

/// Crashes `n` times in a row at `at`, then starts once more and looks.
async fn survive(at: Failpoint, n: u32) {
    let when = format!("{} ×{n}", at.as_str());
    let (sim, launch, then) = path_to(at);
    // A move needs somewhere to go; what else happens needs no second node.
    let moves = then == ["drain_node"];
    let mut lab = Lab::with(if moves { 2 } else { 1 }, sim).await;
    let hit = lab.crash_at(at, 1).await;
    // A caller of a process that dies gets no answer; here its wait is dropped when the crash happened.
    let story = async {
        let mut launched = lab.call("launch_instance", launch).await;
        for name in then {
            let id = launched.as_ref().unwrap().value["id"].clone();
            let request = match *name {
                "drain_node" => json!({"node_id": "n1", "action": "move"}),
                _ => json!({"id": id}),
            };
            let answer = lab.call(name, request).await;
            launched = if moves { launched } else { answer };
        }
    };
    tokio::select! {
        () = story => {}
        crashed = hit.acquire() => drop(crashed),
    }
    // Points after the last record are reached when the caller has its answer already.
    crate::harness::within(&when, hit.acquire()).await.unwrap().forget();
    for _ in 1..n {
        let again = lab.crash_at(at, 1).await;
        // A point that lies behind the last durable step is not reached again.
        tokio::select! {
            crashed = again.acquire() => drop(crashed),
            () = lab.at_rest() => {}
        }
    }
    lab.restart().await;
    lab.at_rest().await;
    let instances = lab.instances().await;
    assert_eq!(instances.len(), 1, "{when}: {instances:#?}");
    assert_eq!(instances[0]["state"], expected(at), "{when}: {instances:#?}");
    if moves {
        assert_eq!(instances[0]["node_id"], "n2", "{when}: {instances:#?}");
        assert_eq!(instances[0]["remnants"], json!([]), "{when}: {instances:#?}");
        assert_eq!(lab.n_containers(), 1, "{when}");
    }
    lab.check(&when);
    lab.ask("terminate_instance", json!({"id": instances[0]["id"]})).await;
    lab.check(&when);
    let usage = lab
        .orch()
        .ledger
        .read(|book| book.usage(&orch_domain::name::UserId::try_new("ann").unwrap()));
    assert_eq!(usage.instances, 0, "{when}");
}

#[tokio::test]
async fn a_crash_at_every_step_is_finished_or_undone() {
    for at in Failpoint::ALL {
        survive(at, 1).await;
    }
}

#[tokio::test]
async fn every_step_and_undo_may_run_again_and_again() {
    for at in Failpoint::ALL {
        survive(at, 3).await;
    }
}
