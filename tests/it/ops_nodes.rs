//! Nodes: registered after they answered, taken out of placement, emptied, given up.

use orch_core::Cx;
use orch_domain::ErrorCode::{Conflict, InvalidParameter, NodeUnreachable, NotFound};
use serde_json::{Value, json};

use crate::harness::caller::{ADMIN, DEMO};
use crate::harness::cloud::Cloud;

async fn add_sim(cloud: &Cloud, id: &str, more: Value) -> Value {
    let mut arguments = json!({"id": id, "hostname": id, "engine": "sim"});
    arguments.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    cloud.ok(ADMIN, "register_node", arguments).await
}

async fn launch_on(cloud: &Cloud, node: &str, more: Value) -> String {
    let mut arguments = json!({"image": "busybox", "node_id": node, "ports": [80]});
    arguments.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let launched = cloud.ok(DEMO, "launch_instance", arguments).await;
    launched["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_node_is_asked_before_it_is_registered() {
    let cloud = Cloud::start().await;
    let node = add_sim(&cloud, "n1", json!({"tags": ["gpu"], "sim": {"cpu": 8, "gpu": 2}})).await;
    assert_eq!(node["status"], "healthy");
    assert_eq!(node["capacity"]["cpu"], 8);
    assert_eq!(node["capacity"]["gpu"], 2);
    assert_eq!(node["address"], "127.0.0.1");
    assert!(node["last_check"]["latency_ms"].is_number());

    let down = json!({"id": "n2", "hostname": "n2", "engine": "sim", "sim": {"unreachable": true}});
    let refusal = cloud.refused(ADMIN, "register_node", down.clone(), NodeUnreachable).await;
    assert!(refusal["message"].as_str().unwrap().contains("force=true"), "{refusal}");
    cloud.refused(ADMIN, "get_node", json!({"node_id": "n2"}), NotFound).await;

    let mut forced = down;
    forced["force"] = json!(true);
    forced["cpu_cores"] = json!(4);
    let refusal = cloud.refused(ADMIN, "register_node", forced.clone(), InvalidParameter).await;
    assert_eq!(refusal["parameter"], "memory_gb");
    forced["memory_gb"] = json!(16);
    let node = cloud.ok(ADMIN, "register_node", forced).await;
    assert_eq!((&node["status"], &node["capacity"]["memory"]), (&json!("unreachable"), &json!(16)));
}

#[tokio::test]
async fn what_a_registration_cannot_be() {
    let cloud = Cloud::start().await;
    let bad = [
        (json!({"hostname": "a b"}), "hostname"),
        (json!({"hostname": "a", "address": "http://a"}), "address"),
        (json!({"hostname": "a", "endpoint": "/var/run/docker.sock"}), "endpoint"),
        (json!({"hostname": "a", "engine": "docker", "sim": {}}), "sim"),
        (json!({"hostname": "a", "engine": "sim", "endpoint": "tcp://a:1"}), "endpoint"),
        (json!({"hostname": "fd00::1"}), "id"),
        (json!({"hostname": "a", "role": "boss"}), "role"),
        (json!({"hostname": "a", "description": "two\nlines"}), "description"),
        (json!({"hostname": "a", "cpu_cores": -1}), "cpu_cores"),
        (json!({"hostname": "a", "labels": {"mcp-orch.owner": "eve"}}), "labels"),
    ];
    for (arguments, parameter) in bad {
        let refusal = cloud.refused(ADMIN, "register_node", arguments, InvalidParameter).await;
        assert_eq!(refusal["parameter"], parameter, "{refusal}");
    }
    let taken = json!({"id": "sim-1", "hostname": "a", "engine": "sim", "sim": {"hung": true}});
    // Refused before the engine, which would hang, is asked.
    cloud.refused(ADMIN, "register_node", taken, Conflict).await;
}

#[tokio::test]
async fn the_seeds_word_for_the_address_is_understood() {
    let cloud = Cloud::start().await;
    let arguments = json!({
        "id": "node-01", "hostname": "camp-gpu-16", "tailscale_ip": "100.117.45.28", "role": "master",
        "description": "control", "cpu_cores": 16, "memory_gb": 64.0, "tags": ["production"], "engine": "sim",
    });
    let node = cloud.ok(ADMIN, "register_node", arguments).await;
    assert_eq!(node["address"], "100.117.45.28");
    assert_eq!(node["capacity"]["cpu"], 16);
}

#[tokio::test]
async fn lists_are_filtered_and_paged() {
    let cloud = Cloud::start().await;
    for n in 0..5 {
        let role = if n == 4 { "storage" } else { "worker" };
        let more = json!({"role": role, "tags": ["rack", format!("t{}", n % 2)], "labels": {"n": n.to_string()}});
        add_sim(&cloud, &format!("n{n}"), more).await;
    }
    let list = |arguments: Value| cloud.ok(DEMO, "list_nodes", arguments);
    assert_eq!(list(json!({})).await["total_count"], 6);
    assert_eq!(list(json!({"role": "storage"})).await["nodes"][0]["id"], "n4");
    assert_eq!(list(json!({"tag": ["rack", "t1"]})).await["total_count"], 2);
    assert_eq!(list(json!({"labels": {"n": "3"}})).await["nodes"][0]["id"], "n3");
    assert_eq!(list(json!({"status": ["unreachable", "degraded"]})).await["total_count"], 0);
    let (mut seen, mut token) = (Vec::new(), String::new());
    loop {
        let page = list(json!({"page_size": 4, "page_token": token})).await;
        seen.extend(page["nodes"].as_array().unwrap().iter().map(|it| it["id"].clone()));
        token = page["next_page_token"].as_str().unwrap().to_owned();
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, ["n0", "n1", "n2", "n3", "n4", "sim-1"]);
    let foreign = json!({"page_token": orch_domain::page::token_after("users", "n")});
    cloud.refused(DEMO, "list_nodes", foreign, InvalidParameter).await;
}

#[tokio::test]
async fn a_cordoned_node_gets_nothing_new() {
    let cloud = Cloud::start().await;
    for _ in 0..2 {
        let node = cloud.ok(ADMIN, "cordon_node", json!({"node_id": "sim-1"})).await;
        assert_eq!(node["cordoned"], true);
    }
    let capacity = cloud.ok(DEMO, "cluster_capacity", json!({})).await;
    assert_eq!((&capacity["n_nodes"], &capacity["max_cpu"]), (&json!(0), &json!(0)));
    let launch = json!({"image": "busybox"});
    let code = orch_domain::ErrorCode::InsufficientCapacity;
    cloud.refused(DEMO, "launch_instance", launch.clone(), code).await;
    cloud.ok(ADMIN, "uncordon_node", json!({"node_id": "sim-1"})).await;
    cloud.ok(DEMO, "launch_instance", launch).await;
    cloud.refused(ADMIN, "cordon_node", json!({"node_id": "nowhere"}), NotFound).await;
}

#[tokio::test]
async fn a_drained_node_says_what_became_of_each_instance() {
    let cloud = Cloud::start().await;
    let running = launch_on(&cloud, "sim-1", json!({"name": "a"})).await;
    let protected =
        launch_on(&cloud, "sim-1", json!({"name": "b", "termination_protection": true})).await;
    let drained = cloud.ok(ADMIN, "drain_node", json!({"node_id": "sim-1"})).await;
    assert_eq!((&drained["n_left"], &drained["node"]["cordoned"]), (&json!(0), &json!(true)));
    let ids: Vec<&Value> =
        drained["instances"].as_array().unwrap().iter().map(|it| &it["id"]).collect();
    assert_eq!(ids, [&json!(running), &json!(protected)]);
    assert_eq!(drained["instances"][0]["state"], "stopped");

    let arguments = json!({"node_id": "sim-1", "action": "terminate"});
    let answer =
        cloud.call_as(&Cx::new(Some(cloud.caller(ADMIN))), "drain_node", arguments).await.unwrap();
    let drained = &answer.value;
    assert_eq!(
        (&drained["n_left"], &drained["instances"][0]["is_done"]),
        (&json!(1), &json!(true))
    );
    assert_eq!(drained["instances"][1]["error"], "IncorrectState");
    assert!(
        answer.text().contains("1 of 2 done") && answer.text().contains("protected"),
        "{}",
        answer.text()
    );
    let targets = &cloud.audit()[0].targets;
    assert!(targets.contains(&running) && targets.contains(&"sim-1".to_owned()), "{targets:?}");
}

#[tokio::test]
async fn a_drain_waits_for_what_is_being_launched() {
    let cloud = Cloud::start().await;
    add_sim(&cloud, "slow", json!({"sim": {"start_delay_ms": 400}})).await;
    let id = launch_on(&cloud, "slow", json!({"wait": false})).await;
    let drained = cloud.ok(ADMIN, "drain_node", json!({"node_id": "slow"})).await;
    assert_eq!(drained["n_left"], 0, "{drained}");
    let instance = cloud.ok(DEMO, "get_instance", json!({"id": id})).await;
    assert_eq!(instance["state"], "stopped");
}

#[tokio::test]
async fn a_cancelled_drain_leaves_the_node_cordoned() {
    let cloud = Cloud::start().await;
    launch_on(&cloud, "sim-1", json!({})).await;
    cloud.control("sim-1").configure(|it| it.hung = true);
    let cancel = tokio_util::sync::CancellationToken::new();
    let cx = Cx::new(Some(cloud.caller(ADMIN))).with_cancel(cancel.clone());
    let call = cloud.call_as(&cx, "drain_node", json!({"node_id": "sim-1"}));
    let withdraw = async {
        let cordoned = || async {
            let node = cloud.ok(DEMO, "get_node", json!({"node_id": "sim-1"})).await;
            (node["cordoned"] == true).then_some(())
        };
        crate::harness::eventually("the node is cordoned", cordoned).await;
        cancel.cancel();
    };
    let (result, ()) = tokio::join!(call, withdraw);
    assert_eq!(result.unwrap_err().code(), orch_domain::ErrorCode::Cancelled);
    cloud.control("sim-1").configure(|it| it.hung = false);
}

#[tokio::test]
async fn a_node_goes_when_it_is_empty_or_given_up() {
    let cloud = Cloud::start().await;
    let id = launch_on(&cloud, "sim-1", json!({})).await;
    let refusal = cloud.refused(ADMIN, "remove_node", json!({"node_id": "sim-1"}), Conflict).await;
    assert!(refusal["message"].as_str().unwrap().contains("drain_node"), "{refusal}");
    // As when the machine burned down: nobody can ask its engine any more.
    cloud.control("sim-1").configure(|it| it.hung = true);
    let removed = cloud.ok(ADMIN, "remove_node", json!({"node_id": "sim-1", "force": true})).await;
    assert_eq!(removed["instances_lost"], json!([id]));
    let instance = cloud.ok(DEMO, "get_instance", json!({"id": id})).await;
    assert_eq!(instance["state"], "terminated");
    assert_eq!(instance["state_reason"]["code"], "Server.NodeLost");
    let quota = cloud.ok(DEMO, "get_quota", json!({})).await;
    assert_eq!(quota["used"]["instances"], 0);
    assert_eq!(cloud.ok(DEMO, "cluster_status", json!({})).await["status"], "empty");
}

#[tokio::test]
async fn an_update_keeps_what_it_does_not_name_and_fixes_a_given_capacity() {
    let cloud = Cloud::start().await;
    add_sim(&cloud, "n1", json!({"tags": ["a"], "description": "first"})).await;
    let arguments = json!({"node_id": "n1", "role": "storage", "cpu_cores": 2});
    let node = cloud.ok(ADMIN, "update_node", arguments).await;
    assert_eq!((&node["role"], &node["description"]), (&json!("storage"), &json!("first")));
    cloud.ok(ADMIN, "check_node", json!({"node_id": "n1"})).await;
    let node = cloud.ok(ADMIN, "get_node", json!({"node_id": "n1"})).await;
    assert_eq!(node["capacity"]["cpu"], 2, "a check does not undo it");
    let docker = json!({"node_id": "n1", "endpoint": "tcp://10.0.0.1:2375"});
    let refusal = cloud.refused(ADMIN, "update_node", docker, InvalidParameter).await;
    assert_eq!(refusal["parameter"], "endpoint");
    let sick = json!({"node_id": "n1", "sim": {"unreachable": true}});
    let node = cloud.ok(ADMIN, "update_node", sick).await;
    assert_eq!(node["last_check"]["status"], "unreachable");
}

#[tokio::test]
async fn a_check_tells_this_result_and_the_damped_status() {
    let cloud = Cloud::start().await;
    cloud.control("sim-1").configure(|it| it.unreachable = true);
    let answer = cloud
        .call_as(&Cx::new(Some(cloud.caller(DEMO))), "check_node", json!({"node_id": "sim-1"}))
        .await
        .unwrap();
    assert_eq!(answer.value["check"]["status"], "unreachable");
    assert_eq!(answer.value["status"], "healthy");
    assert!(answer.text().contains("still counts as healthy"), "{}", answer.text());
    let again = cloud.ok(DEMO, "check_node", json!({"node_id": "sim-1"})).await;
    assert_eq!(again["status"], "unreachable");
    assert!(3 <= again["history"].as_array().unwrap().len());
    cloud.refused(DEMO, "check_node", json!({"node_id": "nowhere"}), NotFound).await;
}

#[tokio::test]
async fn what_has_its_place_on_a_cordoned_node_is_started_and_what_is_gone_has_no_address() {
    let cloud = Cloud::start().await;
    let launched = cloud.ok(ADMIN, "launch_instance", json!({"image": "web", "ports": [80]})).await;
    let id = json!({"id": launched["id"]});
    assert!(launched["address"].is_string() && launched["simulated"] == true, "{launched}");
    cloud.ok(ADMIN, "stop_instance", id.clone()).await;
    cloud.ok(ADMIN, "cordon_node", json!({"node_id": "sim-1"})).await;
    assert_eq!(cloud.ok(ADMIN, "start_instance", id.clone()).await["state"], "running");
    let gone = cloud.ok(ADMIN, "terminate_instance", id.clone()).await;
    assert_eq!((&gone["address"], &gone["ports"]), (&json!(null), &json!([])));
    let listed = cloud.ok(ADMIN, "list_instances", json!({})).await;
    assert_eq!(listed["instances"][0]["state"], "terminated", "it stays listed for an hour");
    assert_eq!(listed["instances"][0]["address"], json!(null));
}
