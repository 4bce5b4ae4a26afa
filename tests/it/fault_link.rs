//! Links to machines that are cut, flap, or are all made anew at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use orch_domain::ErrorCode;
use orch_domain::name::NodeId;
use orch_domain::node::NodeStatus;
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;

use crate::harness::caller::ADMIN;
use crate::harness::cloud::Cloud;
use crate::harness::eventually;
use crate::harness::fleet::{Fleet, impatient, registration, sleeper};
use crate::harness::hosts::Hosts;
use crate::harness::invariants::{Invariants, Machine};

/// How often a link goes away and comes back, and for how long each time.
const N_FLAPS: usize = 30;
const FLAP: Duration = Duration::from_secs(1);

/// Collects what the status of a node changes to from now on.
fn status_events(cloud: &Cloud, node: &str) -> Arc<Mutex<Vec<NodeStatus>>> {
    let (orch, node) = (cloud.orch().clone(), NodeId::try_new(node).unwrap());
    let status = move || orch.ledger.read(|book| book.slot(&node).map(|it| it.node.status));
    let (mut last, mut changes) = (status(), cloud.orch().events.subscribe());
    let events = Arc::new(Mutex::new(Vec::new()));
    let collected = events.clone();
    cloud.orch().tracker.spawn(async move {
        while !matches!(changes.recv().await, Err(RecvError::Closed)) {
            let now = status();
            if now != last {
                collected.lock().extend(now);
                last = now;
            }
        }
    });
    events
}

/// Host 1 is cut off for as long as host 2 flaps, which is a minute: both are held by the clock.
#[tokio::test(flavor = "multi_thread")]
async fn a_link_cut_for_a_minute_loses_nothing_and_one_that_flaps_is_one_event_at_most() {
    let Some(mut fleet) = Fleet::start(2).await else { return };
    let on_cut = fleet.launched(1, 3).await;
    let on_flapping = fleet.launched(2, 1).await;

    fleet.hosts.cut(1);
    let cut_at = Instant::now();
    fleet.ask("stop_instance", &on_cut[0]).await;
    fleet.ask("terminate_instance", &on_cut[1]).await;
    let too_late = fleet.launch(1, 2).await;
    let events = status_events(&fleet.cloud, "h2");
    let mut n_lost = 0;
    for n in 0..N_FLAPS {
        fleet.hosts.cut(2);
        tokio::time::sleep(FLAP).await;
        fleet.hosts.heal(2);
        let seen = fleet.node(2).await;
        n_lost += usize::from(seen["last_check"]["status"] != "healthy");
        tokio::time::sleep(FLAP).await;
        if n % 10 == 0 {
            fleet.rules.at_any_time(&fleet.cloud, "cut off").await;
        }
    }
    let events = events.lock().clone();
    println!(
        "flapping: {n_lost} of {N_FLAPS} looks met a failed check; the status went {events:?}"
    );
    assert!(events.len() <= 1, "{events:?}");
    assert!(N_FLAPS as u32 * 2 * FLAP <= cut_at.elapsed());

    assert_eq!(fleet.node(1).await["status"], "unreachable");
    let refused = fleet
        .cloud
        .refused(ADMIN, "launch_instance", sleeper(1), ErrorCode::InsufficientCapacity)
        .await;
    assert!(refused["message"].as_str().unwrap().contains("not healthy"), "{refused}");
    fleet.hosts.heal(1);
    println!("back after {:?}", fleet.node_becomes(1, "healthy").await);
    fleet.node_becomes(2, "healthy").await;
    fleet.converges("healed").await;
    for (id, state) in on_cut.iter().zip(["stopped", "terminated", "running"]) {
        assert_eq!(fleet.instance(id).await["state"], state);
    }
    assert_eq!(fleet.instance(&on_flapping[0]).await["state"], "running");
    for id in &too_late {
        // Nobody waits for a minute for a launch: it was given up, and its end is told.
        let instance = fleet.instance(id).await;
        assert_eq!(instance["state_reason"]["code"], "Server.NodeUnreachable", "{instance}");
    }
    fleet.ends("healed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_nodes_that_reconnect_at_once_get_past_max_startups() {
    const N_NODES: usize = 12;
    let Some(hosts) = Hosts::start_with(1, "MaxStartups 2:50:4").await else { return };
    let cloud = Cloud::with(impatient()).await;
    let names: Vec<String> = (1..=N_NODES).map(|n| format!("h{n}")).collect();
    for name in &names {
        // One machine stands in for many: to its SSH server each node is a client of its own.
        let mut request = registration(&hosts, 1);
        request["id"] = json!(name);
        request["ssh"]["socket"] = json!(hosts.alias(1, &format!("{name}.sock")));
        cloud.ok(ADMIN, "register_node", request).await;
    }
    let machine = Machine { nodes: names.clone(), docker: hosts.docker(1) };
    let mut rules = Invariants::of(&cloud, vec![machine]).await;
    let launched = cloud.ok(ADMIN, "launch_instance", sleeper(1)).await;
    rules.acknowledged(&launched);
    let n_refused = || hosts.sshd_log(1).matches("drop connection").count();
    assert_eq!(n_refused(), 0, "one after the other they get in");
    let n_handshakes = || names.iter().map(|it| cloud.n_handshakes(it)).sum::<u64>();
    let before = n_handshakes();

    hosts.sshd(1, "drop");
    let started = Instant::now();
    eventually("all to have reconnected", || async {
        cloud.ok(ADMIN, "cluster_health", json!({})).await;
        let listed = cloud.ok(ADMIN, "list_nodes", json!({"page_size": 100})).await;
        let nodes = listed["nodes"].as_array().unwrap();
        let is_back = |name: &String| {
            let node = nodes.iter().find(|it| it["id"] == **name).unwrap();
            node["status"] == "healthy" && node["last_check"]["status"] == "healthy"
        };
        (names.iter().all(is_back) && names.len() as u64 <= n_handshakes() - before).then_some(())
    })
    .await;
    let (n, n_refused) = (n_handshakes() - before, n_refused());
    println!(
        "{N_NODES} nodes back after {:?}: {n} handshakes, {n_refused} refused",
        started.elapsed()
    );
    assert!(0 < n_refused, "the limit was not met: {}", hosts.sshd_log(1));
    assert!(n <= N_NODES as u64 * 10, "they do not storm: {n}");
    rules.converge(&cloud, impatient().reconcile_period * 2, "reconnected").await;
    rules.clear(&cloud, "reconnected").await;
}
