//! Machines behind SSH that are lost and come back: what was to go elsewhere runs there, and of each instance exactly one
//! container is left on all engines together.

use orch_domain::name::{NodeId, UserId};
use serde_json::{Value, json};

use crate::harness::caller::ADMIN;
use crate::harness::cloud::Cloud;
use crate::harness::eventually;
use crate::harness::hosts::Hosts;
use crate::harness::image;
use crate::ssh_nodes::{page, terminate};

/// `n` machines as nodes `h1`, `h2` …, and nothing else that could take an instance.
async fn start(n: usize) -> Option<(Hosts, Cloud)> {
    let hosts = Hosts::start(n).await?;
    let cloud = Cloud::watchful().await;
    cloud.ok(ADMIN, "remove_node", json!({"node_id": "sim-1"})).await;
    for host in 1..=n {
        let ssh = json!({
            "user": "root", "key": hosts.key(), "accept_host_key": hosts.fingerprint(host)
        });
        let node = json!({
            "id": format!("h{host}"), "hostname": format!("host-{host}"),
            "address": hosts.address(host), "ssh": ssh
        });
        cloud.ok(ADMIN, "register_node", node).await;
    }
    Some((hosts, cloud))
}

async fn launch(cloud: &Cloud, more: Value) -> Value {
    let script = "echo hello > /tmp/index.html; exec httpd -f -p 8080 -h /tmp";
    let mut request = json!({
        "image": image::IMAGE, "ports": [8080], "cpu": 0.1, "memory": 0.0625, "node_id": "h1",
        "command": ["sh", "-c", script]
    });
    request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    cloud.ok(ADMIN, "launch_instance", request).await
}

fn name(instance: &Value) -> String {
    format!("mo-{}", instance["id"].as_str().unwrap())
}

async fn becomes(
    cloud: &Cloud,
    instance: &Value,
    what: &str,
    is_so: impl Fn(&Value) -> bool,
) -> Value {
    eventually(what, || async {
        let it = cloud.ok(ADMIN, "get_instance", json!({"id": instance["id"]})).await;
        is_so(&it).then_some(it)
    })
    .await
}

async fn node_becomes(cloud: &Cloud, node: &str, status: &str) {
    eventually(&format!("`{node}` {status}"), || async {
        let it = cloud.ok(ADMIN, "get_node", json!({"node_id": node})).await;
        (it["status"] == status).then_some(())
    })
    .await;
}

/// Nothing is held on a node, and sums agree.
fn is_free(cloud: &Cloud, node: &str) {
    cloud.orch().ledger.read(|book| {
        book.check().unwrap();
        let slot = book.slot(&NodeId::try_new(node).unwrap()).unwrap();
        assert_eq!((slot.used.cpu.millis(), slot.ports.len()), (0, 0), "{node}");
    });
}

fn n_used(cloud: &Cloud) -> u32 {
    cloud.orch().ledger.read(|book| book.usage(&UserId::try_new(ADMIN).unwrap()).instances)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_machine_s_instance_runs_elsewhere_and_one_container_is_left() {
    let Some((hosts, cloud)) = start(2).await else { return };
    let moving = launch(&cloud, json!({"name": "moving", "on_node_loss": "reschedule"})).await;
    let ending = launch(&cloud, json!({"name": "ending", "on_node_loss": "reschedule"})).await;
    let kept = launch(&cloud, json!({"name": "kept"})).await;

    hosts.cut(1);
    becomes(&cloud, &kept, "`unreachable`", |it| it["state"] == "unreachable").await;
    let is_on_h2 = |it: &Value| it["state"] == "running" && it["node_id"] == "h2";
    let moved = becomes(&cloud, &moving, "running elsewhere", is_on_h2).await;
    becomes(&cloud, &ending, "running elsewhere", is_on_h2).await;
    assert_eq!(moved["generation"], 2, "{moved}");
    assert!(moved["address"].as_str().unwrap().starts_with(&hosts.address(2)), "{moved}");
    assert_eq!(page(&moved).await, "hello\n");
    assert_eq!(n_used(&cloud), 3, "each counts once");
    terminate(&cloud, &ending).await;
    assert_eq!(n_used(&cloud), 2, "the one that is cut off holds no quota");
    // Nobody can reach the old ones, and they hold their places.
    assert_eq!(hosts.containers(1).await.len(), 3);
    let n_ports = || {
        let h1 = NodeId::try_new("h1").unwrap();
        cloud.orch().ledger.read(|book| book.slot(&h1).unwrap().ports.len())
    };
    assert_eq!(n_ports(), 3);

    hosts.heal(1);
    node_becomes(&cloud, "h1", "healthy").await;
    // From the moment that it counts again.
    assert_eq!(hosts.containers(1).await, [(name(&kept), true)]);
    assert_eq!(hosts.containers(2).await, [(name(&moving), true)]);
    assert_eq!(n_ports(), 1);
    becomes(&cloud, &kept, "`running` again", |it| it["state"] == "running").await;
    let moved = becomes(&cloud, &moving, "one place", |it| it["remnants"] == json!([])).await;
    assert_eq!((&moved["state"], &moved["node_id"]), (&json!("running"), &json!("h2")), "{moved}");
    assert_eq!(page(&moved).await, "hello\n");

    // A drain takes it back to where it was, and leaves nothing behind.
    let drain = json!({"node_id": "h2", "action": "move"});
    let drained = cloud.ok(ADMIN, "drain_node", drain).await;
    assert_eq!(drained["n_left"], 0, "{drained}");
    assert_eq!(drained["instances"][0]["moved_to"], "h1", "{drained}");
    let back = becomes(&cloud, &moving, "running", |it| it["state"] == "running").await;
    assert_eq!((&back["generation"], &back["node_id"]), (&json!(3), &json!("h1")), "{back}");
    assert_eq!(page(&back).await, "hello\n");
    assert_eq!(hosts.containers(2).await, []);
    is_free(&cloud, "h2");

    terminate(&cloud, &moving).await;
    terminate(&cloud, &kept).await;
    assert_eq!(hosts.containers(1).await, []);
    is_free(&cloud, "h1");
    assert_eq!(n_used(&cloud), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_comes_back_wiped_ends_its_instances_and_frees_what_they_held() {
    let Some((hosts, cloud)) = start(2).await else { return };
    let running = launch(&cloud, json!({"name": "running"})).await;
    let stopped = launch(&cloud, json!({"name": "stopped"})).await;
    cloud.ok(ADMIN, "stop_instance", json!({"id": stopped["id"]})).await;
    let moving = launch(&cloud, json!({"name": "moving", "on_node_loss": "reschedule"})).await;
    hosts.cut(1);
    let is_on_h2 = |it: &Value| it["state"] == "running" && it["node_id"] == "h2";
    becomes(&cloud, &moving, "running elsewhere", is_on_h2).await;
    let ended = cloud.ok(ADMIN, "terminate_instance", json!({"id": stopped["id"]})).await;
    assert_eq!(ended["state"], "shutting-down", "{ended}");

    hosts.wipe(1);
    assert_eq!(hosts.containers(1).await, []);
    hosts.heal(1);
    node_becomes(&cloud, "h1", "healthy").await;
    let gone = becomes(&cloud, &running, "its end", |it| it["state"] == "terminated").await;
    assert_eq!(gone["state_reason"]["code"], "Server.ContainerRemoved", "{gone}");
    becomes(&cloud, &stopped, "its end", |it| it["state"] == "terminated").await;
    becomes(&cloud, &moving, "one place", |it| it["remnants"] == json!([])).await;
    is_free(&cloud, "h1");
    assert_eq!(n_used(&cloud), 1);
    assert_eq!(hosts.containers(2).await, [(name(&moving), true)]);

    // It is a machine like any other.
    image::ensure(&hosts.docker(1)).await;
    let fresh = launch(&cloud, json!({"name": "fresh"})).await;
    assert_eq!(page(&fresh).await, "hello\n");
    terminate(&cloud, &fresh).await;
    terminate(&cloud, &moving).await;
    assert_eq!(hosts.containers(1).await, []);
    assert_eq!(n_used(&cloud), 0);
}
