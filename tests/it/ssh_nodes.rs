//! Machines behind SSH: met once, recognised from then on, and used like any other node over one connection.

use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::join_all;
use orch_core::ports::engine::{Engine, LogQuery};
use orch_domain::ErrorCode;
use orch_domain::image::ImageRef;
use orch_domain::name::NodeId;
use serde_json::{Value, json};

use crate::harness::caller::ADMIN;
use crate::harness::cloud::Cloud;
use crate::harness::fleet::machines;
use crate::harness::hosts::Hosts;
use crate::harness::invariants::Invariants;
use crate::harness::{eventually, image, within};

/// Registers host 1 as `h1`.
pub(crate) fn registration(hosts: &Hosts, accept_host_key: &Value) -> Value {
    let mut ssh = json!({"user": "root", "key": hosts.key()});
    if !accept_host_key.is_null() {
        ssh["accept_host_key"] = accept_host_key.clone();
    }
    json!({"id": "h1", "hostname": "host-1", "address": hosts.address(1), "ssh": ssh})
}

/// A program that serves a page and writes a line a while.
pub(crate) async fn launch(cloud: &Cloud) -> Value {
    let script = "echo hello > /tmp/index.html; httpd -p 8080 -h /tmp; \
                  while true; do echo tick; sleep 0.2; done";
    let request = json!({
        "image": image::IMAGE, "node_id": "h1", "ports": [8080], "cpu": 0.1, "memory": 0.0625,
        "command": ["sh", "-c", script], "wait": true
    });
    let instance = cloud.ok(ADMIN, "launch_instance", request).await;
    assert_eq!(instance["state"], "running", "{instance}");
    instance
}

pub(crate) fn engine(cloud: &Cloud) -> std::sync::Arc<dyn Engine> {
    cloud.orch().engine(&NodeId::try_new("h1").unwrap()).unwrap()
}

pub(crate) async fn state(cloud: &Cloud, instance: &Value) -> String {
    let request = json!({"id": instance["id"]});
    let instance = cloud.ok(ADMIN, "get_instance", request).await;
    instance["state"].as_str().unwrap().to_owned()
}

pub(crate) async fn terminate(cloud: &Cloud, instance: &Value) {
    cloud.ok(ADMIN, "terminate_instance", json!({"id": instance["id"], "wait": true})).await;
}

pub(crate) async fn page(instance: &Value) -> String {
    let url = format!("http://{}/", instance["address"].as_str().unwrap());
    let http = crate::harness::http();
    eventually("the page", || async { http.get(&url).send().await.ok()?.text().await.ok() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_is_met_recognised_and_used() {
    let Some(hosts) = Hosts::start(1).await else { return };
    let cloud = Cloud::watchful().await;

    let unknown = registration(&hosts, &Value::Null);
    let refusal = cloud.refused(ADMIN, "register_node", unknown, ErrorCode::InvalidParameter).await;
    assert_eq!(refusal["parameter"], "ssh.accept_host_key", "{refusal}");
    let said = refusal["message"].as_str().unwrap();
    assert!(said.contains(&hosts.fingerprint(1)) && said.contains("accept_host_key"), "{said}");
    let other = json!("SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
    let wrong = registration(&hosts, &other);
    cloud.refused(ADMIN, "register_node", wrong, ErrorCode::InvalidParameter).await;
    assert!(!hosts.sshd_log(1).contains("Accepted"), "nobody logged in: {}", hosts.sshd_log(1));

    let accepted = registration(&hosts, &json!(hosts.fingerprint(1)));
    let node = cloud.ok(ADMIN, "register_node", accepted).await;
    assert_eq!((&node["status"], &node["engine"]), (&json!("healthy"), &json!("docker")), "{node}");

    let instance = launch(&cloud).await;
    let address = instance["address"].as_str().unwrap();
    assert!(address.starts_with(&format!("{}:8", hosts.address(1))), "{instance}");
    assert_eq!(page(&instance).await, "hello\n");

    let run =
        json!({"id": instance["id"], "command": ["sh", "-c", "echo out; echo err >&2; exit 3"]});
    let ran = cloud.ok(ADMIN, "exec_in_instance", run).await;
    assert_eq!(ran["exit_code"], 3, "{ran}");
    assert!(ran.to_string().contains("out") && ran.to_string().contains("err"), "{ran}");

    let name = format!("mo-{}", instance["id"].as_str().unwrap());
    let query = LogQuery { tail: None, since: None, follow: true };
    let mut lines = engine(&cloud).logs(&name, query).await.unwrap();
    for _ in 0..3 {
        let line = within("a line", lines.next()).await.unwrap().unwrap();
        assert_eq!(line.text, "tick");
    }
    drop(lines);

    // Behind our back: the event tells, long before the next list.
    let second = launch(&cloud).await;
    let options =
        bollard::query_parameters::RemoveContainerOptionsBuilder::new().force(true).build();
    let second_name = format!("mo-{}", second["id"].as_str().unwrap());
    hosts.docker(1).remove_container(&second_name, Some(options)).await.unwrap();
    let removed = Instant::now();
    eventually("the loss is noticed", || async {
        (state(&cloud, &second).await == "terminated").then_some(())
    })
    .await;
    println!("a removal behind our back was noticed after {:?}", removed.elapsed());

    assert_eq!(hosts.containers(1).await, [(name, true)]);
    terminate(&cloud, &instance).await;
    assert_eq!(hosts.containers(1).await, []);
    assert_eq!(cloud.n_handshakes("h1"), 1, "one connection did all of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_operations_share_one_connection() {
    let Some(hosts) = Hosts::start(1).await else { return };
    let cloud = Cloud::watchful().await;
    cloud.ok(ADMIN, "register_node", registration(&hosts, &json!(true))).await;
    let instance = launch(&cloud).await;
    let mut rules = Invariants::of(&cloud, machines(&hosts, 1)).await;
    rules.acknowledged(&instance);
    let before = cloud.n_handshakes("h1");

    // The server allows ten sessions in a connection; streams to sockets are none.
    let logs = (0..80).map(|_| cloud.ok(ADMIN, "instance_logs", json!({"id": instance["id"]})));
    let run = json!({"id": instance["id"], "command": ["echo", "done"]});
    let runs = (0..20).map(|_| cloud.ok(ADMIN, "exec_in_instance", run.clone()));
    let followers: Vec<_> = join_all((0..20).map(|_| async {
        let name = format!("mo-{}", instance["id"].as_str().unwrap());
        let query = LogQuery { tail: Some(1), since: None, follow: true };
        engine(&cloud).logs(&name, query).await.unwrap()
    }))
    .await;
    let (logs, runs) =
        within("all of them", async { tokio::join!(join_all(logs), join_all(runs)) }).await;
    assert!(logs.iter().all(|it| it.to_string().contains("tick")));
    assert!(runs.iter().all(|it| it["exit_code"] == 0));
    let lines = join_all(followers.into_iter().map(|mut it| async move { it.next().await })).await;
    assert!(lines.iter().all(|it| matches!(it, Some(Ok(_)))));
    assert_eq!(cloud.n_handshakes("h1"), before, "no new connection in steady state");

    let behind_ssh = p50(&*engine(&cloud)).await;
    let socket = format!("unix://{}", hosts.socket(1).display());
    let tracker = tokio_util::task::TaskTracker::new();
    let direct = orch_adapters::docker::DockerEngine::new(&socket, tracker).unwrap();
    println!("a call: {behind_ssh:?} over SSH, {:?} at the socket (p50)", p50(&direct).await);

    rules.converge(&cloud, Duration::from_secs(20), "all at once").await;
    rules.clear(&cloud, "all at once").await;
    assert_eq!(hosts.containers(1).await, []);
}

/// What a call that changes nothing takes.
async fn p50(engine: &dyn Engine) -> Duration {
    let image = ImageRef::try_new(image::IMAGE).unwrap();
    let mut took = Vec::new();
    for _ in 0..200 {
        let started = Instant::now();
        assert!(engine.has_image(&image).await.unwrap());
        took.push(started.elapsed());
    }
    took.sort();
    took[100]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stops_stops_nobody_else() {
    let Some(hosts) = Hosts::start(1).await else { return };
    let cloud = Cloud::watchful().await;
    cloud.ok(ADMIN, "register_node", registration(&hosts, &json!(true))).await;
    let request = json!({
        "image": image::IMAGE, "node_id": "h1", "cpu": 0.5, "memory": 0.0625, "wait": true,
        "command": ["sh", "-c", "yes 0123456789012345678901234567890123456789 | head -n 600000; sleep 3600"]
    });
    let instance = cloud.ok(ADMIN, "launch_instance", request).await;
    let name = format!("mo-{}", instance["id"].as_str().unwrap());
    let query = LogQuery { tail: None, since: None, follow: true };
    let mut stalled = engine(&cloud).logs(&name, query).await.unwrap();
    within("a line", stalled.next()).await.unwrap().unwrap();

    // More than any buffer is on its way to a reader that reads no more.
    let before = cloud.n_handshakes("h1");
    let until = Instant::now() + Duration::from_secs(4);
    while Instant::now() < until {
        tokio::time::timeout(Duration::from_secs(3), engine(&cloud).describe())
            .await
            .expect("others go on")
            .unwrap();
    }
    let is_cut = within("its end", async {
        loop {
            match stalled.next().await {
                Some(Ok(_)) => {}
                Some(Err(_)) => return true,
                None => return false,
            }
        }
    })
    .await;
    assert!(is_cut, "who does not read in time is told");
    assert_eq!(cloud.n_handshakes("h1"), before);
    terminate(&cloud, &instance).await;
}
