//! What happens to machines behind SSH when the server, the link, the engine or the key is not what it was.

use std::time::{Duration, Instant};

use futures::StreamExt;
use orch_core::ports::engine::LogQuery;
use orch_domain::ErrorCode;
use serde_json::{Value, json};

use crate::harness::caller::ADMIN;
use crate::harness::cloud::Cloud;
use crate::harness::fleet::machines;
use crate::harness::hosts::Hosts;
use crate::harness::invariants::Invariants;
use crate::harness::{eventually, within};
use crate::ssh_nodes::{engine, launch, page, registration, state, terminate};

/// Two periods of the reconciler.
const CONVERGED: Duration = Duration::from_secs(20);

async fn start() -> Option<(Hosts, Cloud)> {
    let hosts = Hosts::start(1).await?;
    let cloud = Cloud::watchful().await;
    cloud.ok(ADMIN, "register_node", registration(&hosts, &json!(hosts.fingerprint(1)))).await;
    Some((hosts, cloud))
}

async fn node(cloud: &Cloud) -> Value {
    cloud.ok(ADMIN, "get_node", json!({"node_id": "h1"})).await
}

/// Waits until the node has that status, and answers how long that took.
async fn becomes(cloud: &Cloud, status: &str) -> Duration {
    let started = Instant::now();
    eventually(&format!("`{status}`"), || async {
        (node(cloud).await["status"] == status).then_some(())
    })
    .await;
    started.elapsed()
}

fn last_message(node: &Value) -> String {
    node["last_check"]["message"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_ssh_server_is_reconnected_to() {
    let Some((hosts, cloud)) = start().await else { return };
    let instance = launch(&cloud).await;
    let mut rules = Invariants::of(&cloud, machines(&hosts, 1)).await;
    rules.acknowledged(&instance);
    let name = format!("mo-{}", instance["id"].as_str().unwrap());
    let query = LogQuery { tail: None, since: None, follow: true };
    let mut streams = Vec::new();
    for _ in 0..20 {
        let mut lines = engine(&cloud).logs(&name, query.clone()).await.unwrap();
        within("a line", lines.next()).await.unwrap().unwrap();
        streams.push(lines);
    }

    hosts.sshd(1, "stop");
    for mut lines in streams {
        let is_told = within("its end", async {
            loop {
                match lines.next().await {
                    Some(Ok(_)) => {}
                    Some(Err(_)) => return true,
                    None => return false,
                }
            }
        })
        .await;
        assert!(is_told, "a stream that is cut is not one that ended");
    }
    becomes(&cloud, "unreachable").await;
    let said = last_message(&node(&cloud).await);
    assert!(said.contains("no SSH server listens"), "{said}");
    assert_eq!(page(&instance).await, "hello\n", "the instance runs on");

    // While it is away, calls fail at once.
    let started = Instant::now();
    for _ in 0..50 {
        engine(&cloud).describe().await.unwrap_err();
    }
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());

    hosts.sshd(1, "start");
    println!("back after {:?}", becomes(&cloud, "healthy").await);
    let settled = cloud.n_handshakes("h1");
    rules.converge(&cloud, CONVERGED, "back").await;
    assert_eq!(state(&cloud, &instance).await, "running");
    rules.clear(&cloud, "back").await;
    assert_eq!(cloud.n_handshakes("h1"), settled);
    assert_eq!(hosts.containers(1).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_with_another_host_key_is_not_connected_to() {
    let Some((hosts, cloud)) = start().await else { return };
    let instance = launch(&cloud).await;
    let mut rules = Invariants::of(&cloud, machines(&hosts, 1)).await;
    rules.acknowledged(&instance);
    let old = hosts.fingerprint(1);

    hosts.sshd(1, "stop");
    hosts.change_host_key(1);
    let before = hosts.sshd_log(1).len();
    hosts.sshd(1, "start");
    becomes(&cloud, "unreachable").await;
    let said = eventually("the alarm", || async {
        let said = last_message(&node(&cloud).await);
        said.contains("ALARM").then_some(said)
    })
    .await;
    assert!(said.contains(&old) && said.contains(&hosts.fingerprint(1)), "{said}");
    let run = json!({"id": instance["id"], "command": ["true"]});
    let refusal = cloud.refused(ADMIN, "exec_in_instance", run, ErrorCode::NodeUnreachable).await;
    assert!(refusal["message"].as_str().unwrap().contains("ALARM"), "{refusal}");
    // What is asked of it meanwhile waits, and none of it is sent there: not even a name to log in with.
    let end = json!({"id": instance["id"], "wait": false});
    cloud.ok(ADMIN, "terminate_instance", end).await;
    let log = hosts.sshd_log(1);
    let (_, since) = log.split_at(before);
    assert!(since.contains("Connection from"), "it was looked at: {since}");
    for attempt in ["publickey", "Accepted", "authenticating user", "root"] {
        assert!(!since.contains(attempt), "nobody tried to log in: {since}");
    }
    assert_eq!(hosts.containers(1).await.len(), 1, "nothing was taken away");

    // An administrator who knows why says so.
    let wrong = json!({"node_id": "h1", "ssh": {"accept_host_key": old}});
    cloud.refused(ADMIN, "update_node", wrong, ErrorCode::InvalidParameter).await;
    let accept = json!({"node_id": "h1", "ssh": {"accept_host_key": hosts.fingerprint(1)}});
    cloud.ok(ADMIN, "update_node", accept).await;
    becomes(&cloud, "healthy").await;
    rules.converge(&cloud, CONVERGED, "accepted").await;
    assert_eq!(state(&cloud, &instance).await, "terminated", "what was asked for is done");
    rules.clear(&cloud, "accepted").await;
    assert_eq!(hosts.containers(1).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_without_a_link_is_unreachable_until_it_is_back() {
    let Some((hosts, cloud)) = start().await else { return };
    let instance = launch(&cloud).await;
    hosts.cut(1);
    println!("noticed after {:?}", becomes(&cloud, "unreachable").await);
    let started = Instant::now();
    engine(&cloud).describe().await.unwrap_err();
    // Whatever the state of the connection, no call waits for longer than its own limit.
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    hosts.heal(1);
    println!("back after {:?}", becomes(&cloud, "healthy").await);
    assert_eq!(state(&cloud, &instance).await, "running", "a lost machine is not a lost instance");
    assert_eq!(page(&instance).await, "hello\n");
    terminate(&cloud, &instance).await;
    assert_eq!(hosts.containers(1).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_whose_engine_is_gone_is_degraded() {
    let Some((hosts, cloud)) = start().await else { return };
    let before = cloud.n_handshakes("h1");
    hosts.dockerd(1, "stop");
    becomes(&cloud, "degraded").await;
    let said = last_message(&node(&cloud).await);
    assert!(said.contains("its engine does not") && said.contains("docker.sock"), "{said}");
    hosts.dockerd(1, "start");
    becomes(&cloud, "healthy").await;
    assert_eq!(cloud.n_handshakes("h1"), before, "the connection was never the problem");
}
