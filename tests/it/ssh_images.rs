//! One image onto several machines behind SSH at once, from a real registry that wants a login.

use std::sync::Arc;

use orch_core::Cx;
use orch_core::cx::Progress;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::harness::caller::{ADMIN, DEMO};
use crate::harness::cloud::Cloud;
use crate::harness::hosts::Hosts;
use crate::harness::registry::Registry;
use crate::harness::{docker, eventually};

fn registration(hosts: &Hosts, host: usize) -> Value {
    let ssh = json!({"user": "root", "key": hosts.key(), "accept_host_key": true});
    json!({
        "id": format!("h{host}"), "hostname": format!("host-{host}"),
        "address": hosts.address(host), "tags": ["ssh"], "ssh": ssh,
    })
}

fn outcomes(report: &Value) -> Vec<(&str, &str)> {
    let nodes = report["nodes"].as_array().unwrap().iter();
    nodes.map(|it| (it["node_id"].as_str().unwrap(), it["outcome"].as_str().unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pulled_onto_machines_side_by_side_and_one_that_is_down_is_named() {
    let Some(hosts) = Hosts::start(2).await else { return };
    let users = [("robot", "r0bot-password")];
    let Some(registry) = Registry::start_at(&hosts.gateway(), &users).await else { return };
    let image = registry.publish(&hosts.docker(1), "team/app").await;
    let cloud = Cloud::watchful().await;
    for host in 1..=2 {
        cloud.ok(ADMIN, "register_node", registration(&hosts, host)).await;
    }
    let login = json!({
        "registry": registry.address, "username": "robot", "password": "r0bot-password"
    });
    cloud.ok(ADMIN, "set_registry_credential", login).await;

    let told = Arc::new(Mutex::new(Vec::new()));
    let teller = told.clone();
    let cx = Cx::new(Some(cloud.caller(ADMIN)))
        .with_progress(Progress::to(move |it| teller.lock().push(it)));
    let both = json!({"image": image, "tags": ["ssh"]});
    let report = cloud.call_as(&cx, "pull_image", both).await.unwrap().value;
    assert_eq!(outcomes(&report), [("h1", "pulled"), ("h2", "pulled")]);
    assert_eq!(report["digest"], registry.digest("team/app", "1").await);
    let told = told.lock().clone();
    assert!(told.is_sorted_by(|a, b| a.progress < b.progress), "{told:?}");
    assert!(told.iter().any(|it| it.message.contains(" MiB)")), "{told:?}");
    for host in 1..=2 {
        hosts.docker(host).inspect_image(&image).await.unwrap();
    }
    let listed = cloud.ok(DEMO, "list_images", json!({"name": image})).await;
    assert_eq!(listed["images"][0]["nodes"], json!(["h1", "h2"]), "{listed}");
    assert_eq!(listed["failures"], json!([]));

    docker::forget_image(&hosts.docker(1), &image).await;
    hosts.dockerd(2, "stop");
    let all = json!({"image": image, "all": true});
    let report = cloud.ok(ADMIN, "pull_image", all).await;
    let expected = [("h1", "pulled"), ("h2", "failed"), ("sim-1", "up_to_date")];
    assert_eq!(outcomes(&report), expected, "{report}");
    assert_eq!(report["nodes"][1]["error"], "NodeUnreachable", "{report}");
    let listed = cloud.ok(DEMO, "list_images", json!({"name": image})).await;
    assert_eq!(listed["images"][0]["nodes"], json!(["h1"]), "{listed}");
    assert_eq!(listed["failures"][0]["node_id"], "h2", "{listed}");

    hosts.dockerd(2, "start");
    let again = json!({"image": image, "node_ids": ["h2"]});
    let report = eventually("the machine is back", || async {
        let cx = Cx::new(Some(cloud.caller(ADMIN)));
        cloud.call_as(&cx, "pull_image", again.clone()).await.ok()
    })
    .await;
    assert_eq!(outcomes(&report.value), [("h2", "up_to_date")]);
    for host in 1..=2 {
        assert_eq!(cloud.n_handshakes(&format!("h{host}")), 1, "all of it over one connection");
    }
}
