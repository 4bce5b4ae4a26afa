//! Images over a simulated fleet: who has what, and pulls that are side by side, shared, bounded and withdrawn.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join;
use orch_core::Cx;
use orch_core::cx::{Progress, ProgressUpdate};
use orch_core::settings::Settings;
use orch_domain::ErrorCode::{Cancelled, EngineError, InvalidParameter, NodeUnreachable, NotFound};
use orch_domain::node::{Node, Role, SimConfig};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::harness::caller::built_in;
use crate::harness::eventually;
use crate::harness::lab::Lab;
use crate::harness::world::{ADMIN, DEMO, World};

const IMAGE: &str = "pull/app:1";

fn slow(pull_delay_ms: u64) -> SimConfig {
    SimConfig { pull_delay_ms, ..SimConfig::default() }
}

/// The administrator, and what is told of the progress.
fn listener(world: &Lab) -> (Cx, Arc<Mutex<Vec<ProgressUpdate>>>) {
    let told = Arc::new(Mutex::new(Vec::new()));
    let teller = told.clone();
    let progress = Progress::to(move |it| teller.lock().push(it));
    (Cx::new(Some(world.caller(ADMIN))).with_progress(progress), told)
}

fn outcomes(report: &Value) -> Vec<(&str, &str)> {
    let nodes = report["nodes"].as_array().unwrap().iter();
    nodes.map(|it| (it["node_id"].as_str().unwrap(), it["outcome"].as_str().unwrap())).collect()
}

async fn pulled(lab: &Lab, arguments: Value) -> (Value, Duration) {
    let began = Instant::now();
    let report = lab.ok(ADMIN, "pull_image", arguments).await;
    (report, began.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_fleet_takes_as_long_as_one_node() {
    let world = World::scripted(24, slow(1000)).await;
    let one = json!({"image": IMAGE, "node_ids": ["n1"]});
    let (report, floor) = pulled(&world, one).await;
    assert_eq!(outcomes(&report), [("n1", "pulled")]);
    let (cx, told) = listener(&world);
    let began = Instant::now();
    let all = json!({"image": "pull/other:1", "all": true});
    let report = world.call_as(&cx, "pull_image", all).await.unwrap().value;
    let ratio = began.elapsed().as_secs_f64() / floor.as_secs_f64();
    println!("24 nodes take {ratio:.2} times as long as one");
    assert!(ratio < 2.0, "{ratio}");
    assert_eq!((&report["n_pulled"], &report["n_failed"]), (&json!(24), &json!(0)));
    assert!(report["digest"].as_str().unwrap().starts_with("sha256:"));
    let told = told.lock();
    assert!(told.is_sorted_by(|a, b| a.progress < b.progress), "{told:?}");
    assert!(told.iter().all(|it| it.total == Some(100.0)), "{told:?}");
    assert!(told.iter().filter(|it| it.progress < 100.0).count() >= 3, "{told:?}");
    let last = told.last().unwrap();
    assert_eq!(last.progress, 100.0);
    assert!(last.message.contains("24 of 24 nodes done"), "{last:?}");
    assert!(told.iter().any(|it| it.message.contains("of 50.0 MiB")), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_is_up_to_date_and_who_cannot_is_named() {
    let settings = Settings { health_timeout: Duration::from_millis(1500), ..Settings::default() };
    let lab = Lab::empty(settings).await;
    for user in built_in() {
        lab.add_user(user).await;
    }
    lab.add_nodes(5, slow(300)).await;
    pulled(&lab, json!({"image": IMAGE, "node_ids": ["n2"]})).await;
    lab.control("n3").configure(|it| it.unreachable = true);
    lab.control("n4").configure(|it| it.hung = true);
    let (report, elapsed) = pulled(&lab, json!({"image": IMAGE, "all": true})).await;
    assert_eq!(
        outcomes(&report),
        [
            ("n1", "pulled"),
            ("n2", "up_to_date"),
            ("n3", "failed"),
            ("n4", "failed"),
            ("n5", "pulled")
        ]
    );
    for at in [2, 3] {
        let failed = &report["nodes"][at];
        assert_eq!(failed["error"], "NodeUnreachable", "{failed}");
        assert!(failed["message"].as_str().unwrap().contains("does not answer"), "{failed}");
        assert!(failed["digest"].is_null());
    }
    assert_eq!((&report["n_up_to_date"], &report["n_failed"]), (&json!(1), &json!(2)));
    // Waited for once, side by side with all others.
    assert!(elapsed < Duration::from_millis(3000), "{elapsed:?}");
    // What hung is let go here, so that nothing hangs on at the end.
    lab.control("n4").configure(|it| it.hung = false);

    let none = json!({"image": IMAGE, "node_ids": ["n3"]});
    let refusal = lab.refused(ADMIN, "pull_image", none, NodeUnreachable).await;
    assert_eq!(refusal["node_id"], "n3");
    let missing = json!({"image": "missing/app:1", "node_ids": ["n1", "n2", "n5"]});
    let refusal = lab.refused(ADMIN, "pull_image", missing, NotFound).await;
    assert_eq!((&refusal["kind"], &refusal["id"]), (&json!("image"), &json!("missing/app:1")));
    assert!(refusal["message"].as_str().unwrap().contains("`n5`"), "{refusal}");
    let mixed = json!({"image": "missing/app:1", "node_ids": ["n1", "n3"]});
    let refusal = lab.refused(ADMIN, "pull_image", mixed, EngineError).await;
    let said = refusal["message"].as_str().unwrap();
    assert!(said.contains("any of 2 nodes") && said.contains("`n3`: the engine does"), "{said}");
}

#[tokio::test]
async fn where_to_pull_is_said_in_one_way() {
    let world = World::with_nodes(2).await;
    let tags = ["gpu".parse().unwrap()].into();
    world.add_node(Node { role: Role::Storage, ..Node::test("s1") }).await;
    world.add_node(Node { role: Role::Storage, tags, ..Node::test("s2") }).await;
    for (given, nodes) in [
        (json!({"node_ids": ["s1", "n2"]}), &["n2", "s1"][..]),
        (json!({"all": true}), &["n1", "n2", "s1", "s2"]),
        (json!({"role": "storage"}), &["s1", "s2"]),
        (json!({"tags": ["gpu"]}), &["s2"]),
        (json!({"role": "storage", "tags": ["gpu"]}), &["s2"]),
    ] {
        let mut arguments = given.clone();
        arguments["image"] = json!(IMAGE);
        let (report, _) = pulled(&world, arguments).await;
        let pulled: Vec<&str> = outcomes(&report).into_iter().map(|it| it.0).collect();
        assert_eq!(pulled, nodes, "{given}");
    }
    for (given, parameter) in [
        (json!({}), "node_ids"),
        (json!({"all": false}), "node_ids"),
        (json!({"all": true, "node_ids": ["n1"]}), "node_ids"),
        (json!({"all": true, "role": "worker"}), "node_ids"),
        (json!({"node_ids": ["n1"], "tags": ["gpu"]}), "node_ids"),
        (json!({"role": "master"}), "role"),
        (json!({"tags": ["nowhere"]}), "tags"),
    ] {
        let mut arguments = given.clone();
        arguments["image"] = json!(IMAGE);
        let refusal = world.refused(ADMIN, "pull_image", arguments, InvalidParameter).await;
        assert_eq!(refusal["parameter"], parameter, "{given}: {refusal}");
        assert!(refusal["message"].as_str().unwrap().len() > 30, "{refusal}");
    }
    let unknown = json!({"image": IMAGE, "node_ids": ["n1", "n9"]});
    let refusal = world.refused(ADMIN, "pull_image", unknown, NotFound).await;
    assert_eq!((&refusal["kind"], &refusal["id"]), (&json!("node"), &json!("n9")));
}

async fn until_it_pulls(lab: &Lab, node: &str) {
    eventually("the pull begins", || async {
        (lab.control(node).n_calls("pull") == 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_asks_meanwhile_waits_for_the_same_pull() {
    let world = World::scripted(1, slow(1500)).await;
    let pull = json!({"image": IMAGE, "node_ids": ["n1"]});
    let later = async {
        until_it_pulls(&world, "n1").await;
        let launch = world.ok(DEMO, "launch_instance", json!({"image": IMAGE}));
        join(launch, pulled(&world, pull.clone())).await
    };
    let (first, (launched, second)) = join(pulled(&world, pull.clone()), later).await;
    assert_eq!(launched["state"], "running");
    // The second joined, so it is told the same.
    for report in [&first.0, &second.0] {
        assert_eq!(outcomes(report), [("n1", "pulled")]);
    }
    assert_eq!(world.control("n1").n_calls("pull"), 1);
    let (third, _) = pulled(&world, pull).await;
    assert_eq!(outcomes(&third), [("n1", "up_to_date")]);
    assert_eq!(world.control("n1").n_calls("pull"), 2, "and afterwards it is looked up again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawn_pull_leaves_what_is_not_done() {
    let world = World::scripted(2, SimConfig::default()).await;
    // Longer than the test would wait.
    world.control("n2").configure(|it| it.pull_delay_ms = 600_000);
    let cancel = CancellationToken::new();
    let (cx, told) = listener(&world);
    let cx = cx.with_cancel(cancel.clone());
    let call = world.call_as(&cx, "pull_image", json!({"image": IMAGE, "all": true}));
    let withdraw = async {
        eventually("one node is done", || async {
            told.lock().iter().any(|it| it.message.contains("1 of 2")).then_some(())
        })
        .await;
        until_it_pulls(&world, "n2").await;
        cancel.cancel();
    };
    let (answer, ()) = join(call, withdraw).await;
    let err = answer.unwrap_err();
    assert_eq!(err.code(), Cancelled);
    let said = err.to_string();
    assert!(said.contains("ended on `n1` and was left on `n2`"), "{said}");
    // Nobody waits any more, so the next pull is another one; quick this time.
    world.control("n2").configure(|it| it.pull_delay_ms = 0);
    let (report, _) = pulled(&world, json!({"image": IMAGE, "all": true})).await;
    assert_eq!(outcomes(&report), [("n1", "up_to_date"), ("n2", "pulled")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_joined_a_pull_keeps_it_when_the_first_withdraws() {
    let world = World::scripted(1, slow(1500)).await;
    let cancel = CancellationToken::new();
    let cx = listener(&world).0.with_cancel(cancel.clone());
    let call = world.call_as(&cx, "pull_image", json!({"image": IMAGE, "node_ids": ["n1"]}));
    let launch = async {
        until_it_pulls(&world, "n1").await;
        let request = json!({"image": IMAGE, "wait": false});
        let launched = world.ok(DEMO, "launch_instance", request).await;
        eventually("the launch asked for its container", || async {
            (world.control("n1").n_calls("create") == 1).then_some(())
        })
        .await;
        cancel.cancel();
        launched
    };
    let (answer, launched) = join(call, launch).await;
    assert_eq!(answer.unwrap_err().code(), Cancelled);
    eventually("it runs", || async {
        let it = world.ok(DEMO, "get_instance", json!({"id": launched["id"]})).await;
        (it["state"] == "running").then_some(())
    })
    .await;
    assert_eq!(world.control("n1").n_calls("pull"), 1, "the launch had joined it");
}

#[tokio::test(flavor = "multi_thread")]
async fn so_many_nodes_pull_at_once_and_no_more() {
    let settings = Settings { pulls_at_once: 2, ..Settings::default() };
    let lab = Lab::empty(settings).await;
    for user in built_in() {
        lab.add_user(user).await;
    }
    lab.add_nodes(6, slow(300)).await;
    let (report, elapsed) = pulled(&lab, json!({"image": IMAGE, "all": true})).await;
    assert_eq!(report["n_pulled"], 6);
    assert!(Duration::from_millis(900) <= elapsed, "three rounds of two: {elapsed:?}");
}

#[tokio::test]
async fn a_listing_adds_up_sizes_and_users() {
    let world = World::with_nodes(3).await;
    let before = world.ok(DEMO, "list_images", json!({"name": "app"})).await;
    assert_eq!((&before["images"], &before["total_count"]), (&json!([]), &json!(0)));
    let base = before["nodes"][0]["size_bytes"].as_u64().unwrap();
    assert!(0 < base);
    for _ in 0..2 {
        let launch = json!({"image": "docker.io/library/pull:1", "node_id": "n2"});
        world.ok(DEMO, "launch_instance", launch).await;
    }
    pulled(&world, json!({"image": IMAGE, "node_ids": ["n1", "n3"]})).await;

    let listed = world.ok(DEMO, "list_images", json!({"name": "app"})).await;
    let image = &listed["images"][0];
    let size = image["size_bytes"].as_u64().unwrap();
    assert_eq!((&image["image"], &image["nodes"]), (&json!(IMAGE), &json!(["n1", "n3"])));
    assert_eq!(image["total_bytes"], 2 * size);
    assert_eq!((&image["n_nodes_without"], &image["n_instances"]), (&json!(1), &json!(0)));
    assert_eq!(listed["nodes"][0]["node_id"], "n1");
    assert_eq!(listed["nodes"][0]["size_bytes"], base + size);
    let total: u64 = (0..3).map(|at| listed["nodes"][at]["size_bytes"].as_u64().unwrap()).sum();
    assert_eq!(listed["total_bytes"], total);

    // Under whatever name it was launched.
    let listed = world.ok(DEMO, "list_images", json!({"name": "pull:1"})).await;
    assert_eq!(listed["images"][0]["n_instances"], 2, "{listed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_of_many_nodes_waits_for_a_hung_one_no_longer_than_its_limit() {
    let settings = Settings { health_timeout: Duration::from_millis(1000), ..Settings::default() };
    let lab = Lab::empty(settings).await;
    for user in built_in() {
        lab.add_user(user).await;
    }
    lab.add_nodes(400, SimConfig { delay_ms: 100, ..SimConfig::default() }).await;
    let began = Instant::now();
    let listed = lab.ok(DEMO, "list_images", json!({})).await;
    let floor = began.elapsed();
    assert_eq!(listed["nodes"].as_array().unwrap().len(), 400);
    let hung: Vec<String> = (1..=20).map(|it| format!("n{it}")).collect();
    hung.iter().for_each(|it| lab.control(it).configure(|it| it.hung = true));
    let began = Instant::now();
    let listed = lab.ok(DEMO, "list_images", json!({})).await;
    let elapsed = began.elapsed();
    println!("400 nodes were asked in {floor:?}, and in {elapsed:?} with 20 that hang for 1 s");
    let mut named: Vec<&str> = (listed["failures"].as_array().unwrap().iter())
        .map(|it| it["node_id"].as_str().unwrap())
        .collect();
    named.sort_by_key(|it| it[1..].parse::<u32>().unwrap());
    assert_eq!(named, hung);
    assert!(elapsed < Duration::from_millis(1000) + 2 * floor, "{elapsed:?}, {floor:?}");
    hung.iter().for_each(|it| lab.control(it).configure(|it| it.hung = false));
}
