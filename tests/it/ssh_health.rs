//! Checks and figures of real machines behind SSH: which level fails when what is taken away, and what they tell.

use orch_domain::ErrorCode;
use serde_json::{Value, json};

use crate::harness::caller::ADMIN;
use crate::harness::cloud::Cloud;
use crate::harness::hosts::Hosts;
use crate::harness::{eventually, image};
use crate::ssh_nodes::{launch, registration, terminate};

async fn start() -> Option<(Hosts, Cloud)> {
    let hosts = Hosts::start(1).await?;
    let cloud = Cloud::watchful().await;
    cloud.ok(ADMIN, "register_node", registration(&hosts, &json!(hosts.fingerprint(1)))).await;
    Some((hosts, cloud))
}

async fn check(cloud: &Cloud) -> Value {
    cloud.ok(ADMIN, "check_node", json!({"node_id": "h1"})).await["check"].clone()
}

/// Waits for a check that says this, and answers its levels.
async fn found(cloud: &Cloud, status: &str) -> Vec<(String, bool)> {
    let check = eventually(&format!("a check that says {status}"), || async {
        Some(check(cloud).await).filter(|it| it["status"] == status)
    })
    .await;
    println!("{check}");
    let text = |it: &Value| it.as_str().unwrap().to_owned();
    let levels = check["levels"].as_array().unwrap().iter();
    levels.map(|it| (text(&it["level"]), it["ok"].as_bool().unwrap())).collect()
}

async fn becomes(cloud: &Cloud, status: &str) -> Value {
    eventually(&format!("the node is {status}"), || async {
        let node = cloud.ok(ADMIN, "get_node", json!({"node_id": "h1"})).await;
        (node["status"] == status).then_some(node)
    })
    .await
}

fn up_to(levels: &[&str], failed: &str) -> Vec<(String, bool)> {
    let ok = levels.iter().map(|it| ((*it).to_owned(), true));
    ok.chain((!failed.is_empty()).then(|| (failed.to_owned(), false))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_says_how_far_it_got() {
    let Some((hosts, cloud)) = start().await else { return };
    assert_eq!(found(&cloud, "healthy").await, up_to(&["address", "ssh", "engine"], ""));
    for _ in 0..20 {
        check(&cloud).await;
    }
    assert_eq!(cloud.n_handshakes("h1"), 1, "a check needs no connection of its own");
    let n_accepted = hosts.sshd_log(1).matches("Connection from").count();

    // An engine that stands still: all below it answers.
    hosts.on(1, "kill -STOP $(pidof dockerd)");
    assert_eq!(found(&cloud, "degraded").await, up_to(&["address", "ssh"], "engine"));
    let node = becomes(&cloud, "degraded").await;
    let reason = node["status_changes"][0]["reason"].as_str().unwrap();
    assert_eq!(reason, "engine: no answer within 3s");
    hosts.on(1, "kill -CONT $(pidof dockerd)");
    becomes(&cloud, "healthy").await;
    assert_eq!(hosts.sshd_log(1).matches("Connection from").count(), n_accepted);

    // An SSH server that stands still: its kernel still takes connections.
    hosts.on(1, "kill -STOP $(pidof sshd)");
    assert_eq!(found(&cloud, "unreachable").await, up_to(&["address"], "ssh"));
    hosts.on(1, "kill -CONT $(pidof sshd)");
    becomes(&cloud, "healthy").await;

    // None at all.
    hosts.sshd(1, "stop");
    assert_eq!(found(&cloud, "unreachable").await, up_to(&[], "address"));
    let node = becomes(&cloud, "unreachable").await;
    let said = node["last_check"]["message"].as_str().unwrap();
    assert!(said.starts_with("address: ") && said.contains("no SSH server listens"), "{said}");
    hosts.sshd(1, "start");
    becomes(&cloud, "healthy").await;

    // No link: nobody says no.
    hosts.cut(1);
    assert_eq!(found(&cloud, "unreachable").await, up_to(&[], "address"));
    hosts.heal(1);
    assert_eq!(found(&cloud, "healthy").await.len(), 3);
}

/// What the node's `metrics` are once they say `wanted`.
async fn metrics(cloud: &Cloud, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    eventually(what, || async {
        assert_eq!(check(cloud).await["status"], "healthy", "figures are no part of health");
        let node = cloud.ok(ADMIN, "get_node", json!({"node_id": "h1"})).await;
        Some(node["metrics"].clone()).filter(&wanted)
    })
    .await
}

async fn n_gpus(cloud: &Cloud) -> Value {
    cloud.ok(ADMIN, "get_node", json!({"node_id": "h1"})).await["capacity"]["gpu"].clone()
}

/// There is no GPU on this machine. What the probe sees of one is what `nvidia-smi` prints, so that a script in its
/// place, on the path of that machine alone, is where a GPU can be told from none.
fn fake_nvidia_smi(hosts: &Hosts, script: &str) {
    let folder = "/usr/local/sbin";
    hosts.on(1, &format!("mountpoint -q {folder} || mount -t tmpfs -o size=1m tmpfs {folder}"));
    let file = format!("{folder}/nvidia-smi");
    hosts.on(1, &format!("printf '#!/bin/sh\\n{script}\\n' >{file}.new; chmod 755 {file}.new; mv {file}.new {file}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_tells_what_is_in_use_on_it() {
    let Some((_hosts, cloud)) = start().await else { return };
    let it = metrics(&cloud, "a share of the CPU", |it| it["cpu_used"].is_number()).await;
    println!("{it}");
    // The kernel is the same as ours.
    let here = fs_err::read_to_string("/proc/meminfo").unwrap();
    let total: u64 = here.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert_eq!(it["memory_total_bytes"], total * 1024);
    assert!((0.0..=1.0).contains(&it["cpu_used"].as_f64().unwrap()), "{it}");
    assert!(it["memory_used_bytes"].as_u64().unwrap() < total * 1024, "{it}");
    assert!(0 < it["disk_total_bytes"].as_u64().unwrap(), "{it}");
    assert_eq!(it["load_average"].as_array().unwrap().len(), 3);
    assert_eq!(it["containers_running"], 0);
    let instance = launch(&cloud).await;
    metrics(&cloud, "a container that runs", |it| it["containers_running"] == 1).await;
    terminate(&cloud, &instance).await;
    assert_eq!(cloud.n_handshakes("h1"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gpus_of_a_machine_are_what_its_driver_tells() {
    let Some((hosts, cloud)) = start().await else { return };
    assert_eq!(n_gpus(&cloud).await, 0);
    fake_nvidia_smi(
        &hosts,
        "echo \"0, NVIDIA T4, 37, 1024, 15360\"; echo \"1, NVIDIA T4, 0, 0, 15360\"",
    );
    let two = |it: &Value| it["gpus"].as_array().is_some_and(|it| it.len() == 2);
    let it = metrics(&cloud, "two GPUs", two).await;
    assert_eq!(
        (&it["gpus"][0]["name"], &it["gpus"][0]["used"]),
        (&json!("NVIDIA T4"), &json!(0.37))
    );
    assert_eq!(it["gpus"][1]["memory_total_bytes"], 15_360u64 << 20);
    eventually("the capacity", || async { (n_gpus(&cloud).await == 2).then_some(()) }).await;

    // A driver that hangs, fails or floods takes nothing away: neither health, nor the other figures, nor the GPUs.
    for sick in ["sleep 600", "echo no devices; exit 9", "yes \"0, NVIDIA T4, 1, 1, 1\""] {
        fake_nvidia_smi(&hosts, sick);
        let it = metrics(&cloud, "no word of GPUs", |it| it["gpus"].is_null()).await;
        assert!(it["memory_total_bytes"].is_number(), "{sick}: {it}");
        assert_eq!(n_gpus(&cloud).await, 2, "{sick}");
    }

    // The engine has no NVIDIA toolkit, and says so in words of its own.
    let on_gpu = json!({"image": image::IMAGE, "gpu": 1, "cpu": 0.1, "memory": 0.0625, "command": ["sleep", "60"]});
    let refusal = cloud.refused(ADMIN, "launch_instance", on_gpu, ErrorCode::EngineError).await;
    let said = refusal["message"].as_str().unwrap();
    assert!(said.contains("NVIDIA container toolkit is missing"), "{said}");
    eventually("nothing is held", || async {
        let node = cloud.ok(ADMIN, "get_node", json!({"node_id": "h1"})).await;
        (node["used"]["gpu"] == 0).then_some(())
    })
    .await;
    assert_eq!(hosts.containers(1).await, []);
}
