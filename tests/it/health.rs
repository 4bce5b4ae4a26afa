//! What a check finds, what becomes of it over time, and what is in use on the machines: on simulated nodes.

use std::time::{Duration, Instant};

use orch_core::settings::Settings;
use orch_domain::health::Damping;
use orch_domain::name::NodeId;
use orch_domain::node::{Node, NodeStatus, SimConfig};
use orch_domain::user::User;
use serde_json::{Value, json};

use crate::harness::caller::{ADMIN, DEMO};
use crate::harness::cloud::Cloud;
use crate::harness::eventually;
use crate::harness::lab::Lab;

async fn check(lab: &Lab) -> Value {
    lab.ask("check_node", json!({"node_id": "n1"})).await
}

fn levels(check: &Value) -> Vec<(&str, bool)> {
    let levels = check["levels"].as_array().unwrap();
    levels.iter().map(|it| (it["level"].as_str().unwrap(), it["ok"].as_bool().unwrap())).collect()
}

#[tokio::test]
async fn what_failed_first_names_the_status() {
    let lab = Lab::new(1).await;
    let well = &check(&lab).await["check"];
    assert_eq!(levels(well), [("address", true), ("engine", true)], "there is no SSH to it");
    assert_eq!((&well["status"], &well["message"]), (&json!("healthy"), &Value::Null));

    lab.control("n1").configure(|it| it.unreachable = true);
    let gone = &check(&lab).await["check"];
    assert_eq!(levels(gone), [("address", false)], "nobody asks an engine that is not reached");
    assert_eq!(gone["status"], "unreachable");
    assert!(gone["message"].as_str().unwrap().starts_with("address: "), "{gone}");
    assert!(gone["levels"][0]["message"].is_string() && gone["latency_ms"].is_null(), "{gone}");

    lab.control("n1").configure(|it| (it.unreachable, it.hung) = (false, true));
    let hung = &check(&lab).await["check"];
    assert_eq!(levels(hung), [("address", true), ("engine", false)]);
    assert_eq!(
        (&hung["status"], &hung["message"]),
        (&json!("degraded"), &json!("engine: no answer within 300ms"))
    );
    assert!(300.0 <= hung["levels"][1]["latency_ms"].as_f64().unwrap(), "{hung}");
    lab.control("n1").configure(|it| it.hung = false);
}

#[tokio::test]
async fn checks_and_changes_of_status_are_remembered_the_newest_first() {
    let mut lab = Lab::new(1).await;
    check(&lab).await;
    lab.control("n1").configure(|it| it.unreachable = true);
    check(&lab).await;
    let fallen = check(&lab).await;
    assert_eq!(fallen["status"], "unreachable");
    let change = &fallen["status_changes"][0];
    assert_eq!((&change["from"], &change["to"]), (&json!("healthy"), &json!("unreachable")));
    assert_eq!(change["at"], fallen["status_since"]);
    assert!(change["reason"].as_str().unwrap().starts_with("address: "), "{change}");

    let node = lab.ask("get_node", json!({"node_id": "n1"})).await;
    let history = node["history"].as_array().unwrap();
    let statuses: Vec<_> = history.iter().map(|it| it["status"].as_str().unwrap()).collect();
    assert_eq!(statuses, ["unreachable", "unreachable", "healthy"]);
    assert_eq!(levels(&history[2]), [("address", true), ("engine", true)]);
    for _ in 0..25 {
        check(&lab).await;
    }
    assert_eq!(check(&lab).await["history"].as_array().unwrap().len(), 20);

    lab.restart().await;
    let node = lab.ask("get_node", json!({"node_id": "n1"})).await;
    assert_eq!(node["status_changes"], json!([change]), "a restart does not forget it");
    assert_eq!(node["history"], json!([]));
    assert_eq!(node["status"], "unreachable");
}

#[tokio::test]
async fn a_link_that_flaps_is_one_change_at_most_and_what_is_back_for_good_rises() {
    let settings = Settings {
        damping: Damping { steady_to_rise_ms: 500, ..Damping::DEFAULT },
        ..Settings::default()
    };
    let lab = Lab::empty(settings).await;
    lab.add_user(User::test("ann")).await;
    lab.add_nodes(1, SimConfig::default()).await;
    // Up and down for a third of that each, checked a few times in each, thirty times.
    let (flap, period) = (Duration::from_millis(150), Duration::from_millis(30));
    for n in 0..30 {
        lab.control("n1").configure(|it| it.unreachable = n % 2 == 0);
        let until = Instant::now() + flap;
        while Instant::now() < until {
            lab.orch().sweep().await;
            tokio::time::sleep(period).await;
        }
    }
    let changes = || {
        let id = NodeId::try_new("n1").unwrap();
        lab.orch().ledger.read(|book| book.slot(&id).unwrap().node.status_changes.clone())
    };
    assert!(changes().len() <= 1, "{:?}", changes());
    eventually("the node to rise", || async {
        (check(&lab).await["status"] == "healthy").then_some(())
    })
    .await;
    assert_eq!(changes().len(), 2, "{:?}", changes());
}

#[tokio::test]
async fn nodes_that_hang_delay_nobody() {
    let lab = Lab::new(0).await;
    for n in 0..60 {
        let sim = SimConfig { hung: n < 3, delay_ms: 20, ..SimConfig::default() };
        lab.add_node(Node::test(&format!("n{n}")).simulated(sim)).await;
    }
    let sweep = async {
        let started = Instant::now();
        lab.orch().sweep().await;
        started.elapsed()
    };
    let others = async {
        let started = Instant::now();
        let checked =
            |n: usize| lab.orch().health.last_check(&NodeId::try_new(format!("n{n}")).unwrap());
        eventually("all others to be checked", || async {
            (3..60)
                .all(|n| checked(n).is_some_and(|it| it.status == NodeStatus::Healthy))
                .then_some(())
        })
        .await;
        started.elapsed()
    };
    let (whole, others) = tokio::join!(sweep, others);
    let timeout = lab.settings.health_timeout;
    assert!(others < timeout, "the others waited for {others:?}");
    // Those that hang wait at the same time, and not one after the other.
    assert!(timeout <= whole && whole < timeout * 2, "{whole:?}");
}

#[tokio::test]
async fn what_is_in_use_is_shown_wherever_nodes_are() {
    let cloud = Cloud::start().await;
    let sim = json!({"cpu": 4, "memory": 8, "gpu": 2});
    let node = json!({"id": "big", "hostname": "big", "engine": "sim", "sim": sim});
    cloud.ok(ADMIN, "register_node", node).await;
    let launch = json!({"image": "busybox", "node_id": "big", "memory": 4, "gpu": 1});
    cloud.ok(DEMO, "launch_instance", launch).await;
    let n_asked = cloud.control("big").n_calls("describe");
    let before = cloud.ok(DEMO, "node_status", json!({})).await;
    assert_eq!(before["nodes"][0]["metrics"]["containers_running"], 0, "as of the last sweep");
    assert_eq!(cloud.control("big").n_calls("describe"), n_asked, "reading asks nobody");
    cloud.ok(DEMO, "cluster_health", json!({})).await;

    let status = cloud.ok(DEMO, "node_status", json!({})).await;
    let metrics = &status["nodes"][0]["metrics"];
    assert_eq!(
        (&metrics["containers_running"], &metrics["containers_total"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(metrics["memory_total_bytes"], 8u64 << 30);
    assert_eq!(metrics["memory_used_bytes"], (4u64 << 30) / 8);
    assert_eq!((&metrics["cpu_total"], &metrics["cpu_used"]), (&json!(4), &json!(0.0025)));
    assert!(metrics["disk_used_bytes"].as_u64() < metrics["disk_total_bytes"].as_u64());
    let gpus = metrics["gpus"].as_array().unwrap();
    assert_eq!(
        (&gpus[0]["index"], &gpus[0]["used"], &gpus[1]["used"]),
        (&json!(0), &json!(1.0), &json!(0.0))
    );

    let node = cloud.ok(DEMO, "get_node", json!({"node_id": "big"})).await;
    assert_eq!(&node["metrics"], metrics);
    let nodes = cloud.ok(DEMO, "list_nodes", json!({})).await;
    let usage = &nodes["nodes"][0]["usage"];
    assert_eq!((&usage["memory"], &usage["gpu"]), (&json!(0.0625), &json!(0.5)));
    assert!(nodes["nodes"][0].get("metrics").is_none(), "a list is short");
    let all = &cloud.ok(DEMO, "dashboard_summary", json!({})).await["usage"];
    assert_eq!(
        (&all["sampled_nodes"], &all["containers_running"], &all["gpus"]),
        (&json!(2), &json!(1), &json!(2))
    );
    assert_eq!(all["memory_total_bytes"], (8u64 + 64) << 30);
}

#[tokio::test]
async fn the_figures_of_every_node_are_gauges_for_as_long_as_they_are_known() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    // Of this thread, on which all of the test runs.
    let _recording = metrics::set_default_local_recorder(&recorder);
    let cloud = Cloud::watchful().await;
    let node = json!({"id": "g", "hostname": "g", "engine": "sim", "sim": {"memory": 8, "gpu": 1}});
    cloud.ok(ADMIN, "register_node", node).await;
    let value = |series: &str| {
        let text = handle.render();
        let line = text.lines().find_map(|it| it.strip_prefix(series).map(str::to_owned));
        line.map(|it| it.trim().parse::<f64>().unwrap())
    };
    let total = "mcp_orch_node_memory_total_bytes{node=\"g\"}";
    let found = eventually("the gauge", || async { value(total) }).await;
    assert_eq!(found, (8u64 << 30) as f64);
    assert_eq!(value("mcp_orch_node_up{node=\"sim-1\"}"), Some(1.0));
    assert_eq!(value("mcp_orch_node_gpu_used_ratio{node=\"g\",gpu=\"0\"}"), Some(0.0));
    assert_eq!(value("mcp_orch_node_containers_running{node=\"g\"}"), Some(0.0));
    assert!(value("mcp_orch_node_cpu_used_ratio{node=\"g\"}").is_some());
    cloud.ok(ADMIN, "remove_node", json!({"node_id": "g"})).await;
    eventually("the gauge is no number", || async { value(total).filter(|it| it.is_nan()) }).await;
}
