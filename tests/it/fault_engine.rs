//! Engines behind SSH that hang, die and come back while they are being used.

use std::time::{Duration, Instant};

use orch_core::settings::Settings;
use orch_domain::ErrorCode;
use serde_json::json;

use crate::harness::caller::ADMIN;
use crate::harness::fleet::{Fleet, impatient, sleeper};
use crate::harness::hosts::Hosts;
use crate::harness::{eventually, within};

/// What the engine is frozen for, from the first to the last.
const FROZEN: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_frozen_for_half_a_minute_loses_and_doubles_nothing() {
    let Some(mut fleet) = Fleet::start(2).await else { return };
    let before = fleet.launched(1, 3).await;
    let handshakes = fleet.cloud.n_handshakes("h1");

    fleet.hosts.freeze(1);
    // The fault is held by the clock: it is over when it has lasted that long, whatever happens meanwhile.
    let thaw = tokio::time::sleep(FROZEN);
    let started = Instant::now();
    fleet.ask("stop_instance", &before[0]).await;
    fleet.ask("terminate_instance", &before[1]).await;
    fleet.launch(1, 4).await;
    let cancelled = fleet.launch(1, 1).await.remove(0);
    fleet.ask("terminate_instance", &cancelled).await;
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    println!("noticed after {:?}", fleet.node_becomes(1, "degraded").await);
    let said = fleet.node(1).await["last_check"]["message"].to_string();
    assert!(said.contains("no answer within"), "{said}");

    // A machine that hangs delays no other, and whoever asks for it is told before he loses patience.
    let other = within("a launch elsewhere", fleet.launched(2, 1)).await.remove(0);
    fleet.ask("stop_instance", &other).await;
    fleet.becomes(&other, "stopped").await;
    fleet
        .cloud
        .refused(ADMIN, "launch_instance", sleeper(1), ErrorCode::InsufficientCapacity)
        .await;
    let run = json!({"id": before[2], "command": ["true"], "timeout_seconds": 5});
    let asked = Instant::now();
    fleet.cloud.refused(ADMIN, "exec_in_instance", run, ErrorCode::NodeUnreachable).await;
    println!("a command on the frozen machine was refused after {:?}", asked.elapsed());
    fleet.rules.at_any_time(&fleet.cloud, "frozen").await;
    thaw.await;
    fleet.hosts.thaw(1);

    println!("back after {:?}", fleet.node_becomes(1, "healthy").await);
    fleet.converges("thawed").await;
    for (id, state) in
        [(&before[0], "stopped"), (&before[1], "terminated"), (&before[2], "running")]
    {
        assert_eq!(fleet.instance(id).await["state"], state);
    }
    assert_eq!(fleet.cloud.n_handshakes("h1"), handshakes, "the connection was never the problem");
    fleet.ends("thawed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_killed_during_sixteen_launches_ends_each_in_one_piece() {
    let Some(hosts) = Hosts::start(1).await else { return };
    // On a busy machine the engine needs its time to come back, and no launch should be given up before.
    let settings = Settings { launch_retry: Duration::from_secs(60), ..impatient() };
    let mut fleet = Fleet::of(hosts, 1, settings).await;
    let ids = fleet.launch(1, 16).await;
    eventually("some to run", || async {
        let listed = fleet.cloud.ok(ADMIN, "list_instances", json!({"state": ["running"]})).await;
        (2 < listed["total_count"].as_u64().unwrap()).then_some(())
    })
    .await;
    fleet.hosts.dockerd(1, "stop");
    fleet.node_becomes(1, "degraded").await;
    fleet.rules.at_any_time(&fleet.cloud, "killed").await;
    fleet.hosts.dockerd(1, "start");
    println!("back after {:?}", fleet.node_becomes(1, "healthy").await);
    fleet.converges("restarted").await;
    let mut n_stopped = 0;
    for id in &ids {
        // Those that ran went down with their engine; the others were started by the next.
        let instance = fleet.instance(id).await;
        match instance["state"].as_str().unwrap() {
            "running" => {}
            "stopped" => {
                assert_eq!(
                    instance["state_reason"]["code"], "Server.ContainerStopped",
                    "{instance}"
                );
                n_stopped += 1;
            }
            _ => panic!("{instance}"),
        }
    }
    println!("{n_stopped} of {} ran when the engine was killed", ids.len());
    assert!(0 < n_stopped && n_stopped < ids.len());
    fleet.ends("restarted").await;
}
