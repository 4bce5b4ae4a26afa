//! Ray beside the nodes: merged where it is known, weighed where it is fresh, and never in the way where it fails.

use std::time::{Duration, Instant};

use orch_domain::ErrorCode::{Unavailable, UpstreamError, UpstreamTimeout};
use serde_json::{Value, json};

use crate::harness::caller::{ADMIN, DEMO};
use crate::harness::cloud::{Cloud, ask};
use crate::harness::eventually;
use crate::harness::program::{Home, ran};
use crate::harness::ray::{Fault, RayServer, client, closed_port, node, says};

const PATIENT: Duration = Duration::from_secs(30);
/// Figures are weighed for three of these, which is long enough on a busy machine.
const PERIOD: Duration = Duration::from_secs(2);
/// For tests of what hangs.
const IMPATIENT: Duration = Duration::from_secs(2);

/// Nodes `head` and `worker` at the addresses of the server's two living nodes, and `sim-1`, which is not in Ray.
pub(crate) async fn start() -> (RayServer, Cloud) {
    start_waiting(PATIENT).await
}

/// With that much patience for one answer of Ray.
async fn start_waiting(patience: Duration) -> (RayServer, Cloud) {
    let server = RayServer::start().await;
    let cloud = Cloud::beside(client(patience, &server.url(), None), PERIOD).await;
    for (id, address) in [("head", "10.0.0.11"), ("worker", "10.0.0.12")] {
        let node = json!({"id": id, "hostname": id, "address": address, "engine": "sim"});
        cloud.ok(ADMIN, "register_node", node).await;
    }
    seen(&cloud, true).await;
    (server, cloud)
}

/// Waits until the dashboard says that of Ray, from memory.
async fn seen(cloud: &Cloud, reachable: bool) -> Value {
    eventually("Ray is looked at", || async {
        let ray = cloud.ok(DEMO, "dashboard_summary", json!({})).await["ray"].clone();
        (ray["reachable"] == reachable).then_some(ray)
    })
    .await
}

async fn dry_run(cloud: &Cloud, launch: Value) -> Value {
    let mut launch = launch;
    launch["image"] = "busybox".into();
    launch["dry_run"] = true.into();
    cloud.ok(DEMO, "launch_instance", launch).await["placement"][0].clone()
}

fn reasons(decision: &Value) -> String {
    decision["reasons"].to_string()
}

#[tokio::test]
async fn without_ray_every_answer_says_how_to_have_it() {
    let cloud = Cloud::beside(None, PERIOD).await;
    let status = cloud.ok(DEMO, "ray_status", json!({})).await;
    assert_eq!((&status["configured"], &status["reachable"]), (&json!(false), &json!(false)));
    assert!(status["message"].as_str().unwrap().contains("`ray.dashboard_url`"), "{status}");
    let job = json!({"job_id": "a"});
    for (name, arguments) in [
        ("ray_nodes", json!({})),
        ("ray_list_jobs", json!({})),
        ("ray_submit_job", json!({"entrypoint": "true"})),
        ("ray_job_logs", job.clone()),
        ("ray_stop_job", job),
    ] {
        let refusal = cloud.refused(DEMO, name, arguments, Unavailable).await;
        assert!(refusal["message"].as_str().unwrap().contains("RAY_DASHBOARD_URL"), "{refusal}");
    }
    let dashboard = cloud.ok(DEMO, "dashboard_summary", json!({})).await;
    assert_eq!(dashboard["ray"]["configured"], false);
    let decision = dry_run(&cloud, json!({"strategy": "ray-aware"})).await;
    assert_eq!(decision["node_id"], "sim-1");
    assert!(reasons(&decision).contains("Ray is not configured"), "{decision}");
}

#[tokio::test]
async fn what_ray_has_is_merged_by_address() {
    let (server, cloud) = start().await;
    let status = cloud.ok(DEMO, "ray_status", json!({})).await;
    assert_eq!((&status["reachable"], &status["message"]), (&json!(true), &Value::Null));
    assert_eq!(status["dashboard_url"], server.url());
    assert_eq!((&status["ray_version"], &status["pending_demands"]), (&json!("2.60.0"), &json!(2)));
    assert_eq!((&status["alive_nodes"], &status["dead_nodes"]), (&json!(2), &json!(1)));
    assert_eq!(
        status["usage"],
        json!({"cpu_used": 3, "cpu_total": 8, "gpu_used": 0.5, "gpu_total": 4.0, "memory_used": 1, "memory_total": 8})
    );
    assert!(status["age_seconds"].as_f64().unwrap() < 60.0, "{status}");

    let dashboard = cloud.ok(DEMO, "dashboard_summary", json!({})).await;
    let glance = dashboard["ray_nodes"].as_array().unwrap();
    let [first, .., last] = &glance[..] else { panic!("{dashboard}") };
    assert_eq!((glance.len(), &last["state"]), (3, &json!("dead")), "the living first");
    assert_eq!((&first["registered_as"], &first["cpu_total"]), (&json!("worker"), &json!(4)));

    let nodes = cloud.ok(DEMO, "ray_nodes", json!({})).await;
    let named: Vec<_> = nodes["nodes"].as_array().unwrap().iter().collect();
    assert_eq!(nodes["total_count"], 3);
    assert_eq!((&named[0]["registered_as"], &named[0]["is_head"]), (&json!("head"), &json!(true)));
    assert_eq!(named[1]["registered_as"], "worker");
    assert_eq!(named[1]["resources"], json!({"accel_fake": 1.0}), "names are as they were given");
    // The dead one ran on the machine that has a living one now.
    assert_eq!((&named[2]["registered_as"], &named[2]["state"]), (&Value::Null, &json!("dead")));
    assert!(named[2]["message"].as_str().unwrap().contains("heartbeats"));
    let dead = cloud.ok(DEMO, "ray_nodes", json!({"state": ["dead"], "page_size": 1})).await;
    assert_eq!((&dead["total_count"], &dead["next_page_token"]), (&json!(1), &json!("")));
    let first = cloud.ok(DEMO, "ray_nodes", json!({"page_size": 2})).await;
    let rest = json!({"page_size": 2, "page_token": first["next_page_token"]});
    assert_eq!(cloud.ok(DEMO, "ray_nodes", rest).await["nodes"][0]["node_id"], "cc33");

    for (name, list, arguments) in [
        ("list_nodes", "nodes", json!({})),
        ("node_status", "nodes", json!({})),
        ("cluster_status", "nodes", json!({"include_nodes": true})),
    ] {
        let answer = cloud.ok(DEMO, name, arguments).await;
        let ray = |id: &str| {
            let all = answer[list].as_array().unwrap();
            all.iter().find(|it| it["id"] == id).unwrap()["ray"].clone()
        };
        let head = ray("head");
        assert_eq!((&head["node_id"], &head["state"]), (&json!("aa11"), &json!("alive")), "{name}");
        assert_eq!((&head["cpu_used"], &head["cpu_total"]), (&json!(3), &json!(4)), "{name}");
        assert_eq!((&head["gpu_used"], &head["memory_used"]), (&json!(0.5), &json!(1)), "{name}");
        assert_eq!((&head["is_head"], &head["is_stale"]), (&json!(true), &json!(false)), "{name}");
        assert_eq!(ray("worker")["node_id"], "bb22", "{name}: the living one, not the dead");
        assert_eq!(ray("sim-1"), Value::Null, "{name}");
    }
    let line = cloud
        .call_as(
            &crate::harness::caller::caller(DEMO, &[orch_domain::caller::Permission::Read]),
            "dashboard_summary",
            json!({}),
        )
        .await
        .unwrap()
        .text();
    assert!(line.contains("\nRay 2.60.0 at") && line.contains("3 of 8 CPU"), "{line}");
}

#[tokio::test]
async fn placement_weighs_ray_while_its_figures_are_fresh() {
    let (server, cloud) = start().await;
    // `sim-1` has more reserved than the worker, and less than the head has in use by Ray.
    let own = json!({"image": "busybox", "node_id": "sim-1", "cpu": 4, "memory": 1});
    cloud.ok(ADMIN, "launch_instance", own).await;
    // Another strategy takes the first of the two empty ones.
    assert_eq!(dry_run(&cloud, json!({})).await["node_id"], "head");
    let decision = dry_run(&cloud, json!({"strategy": "ray-aware"})).await;
    assert_eq!((&decision["node_id"], &decision["ray_load"]), (&json!("worker"), &json!(0.0)));
    assert!(reasons(&decision).contains("were weighed for 2 of 3 nodes"), "{decision}");
    let launched = cloud
        .ok(DEMO, "launch_instance", json!({"image": "busybox", "strategy": "ray-aware"}))
        .await;
    assert_eq!(launched["node_id"], "worker", "not only in a dry run");

    // The worker fills up: the one that Ray does not know is left.
    server.change(|it| it.usage["bb22"]["CPU"] = json!([4.0, 4.0]));
    eventually("the next look", || async {
        let decision = dry_run(&cloud, json!({"strategy": "ray-aware"})).await;
        (decision["node_id"] == "sim-1" && decision["ray_load"].is_null()).then_some(())
    })
    .await;

    server.change(|it| it.fault = Fault::Says(500, "no"));
    let decision = eventually("the figures grow old", || async {
        let decision = dry_run(&cloud, json!({"strategy": "ray-aware"})).await;
        reasons(&decision).contains("too old to be weighed").then_some(decision)
    })
    .await;
    assert_eq!((&decision["node_id"], &decision["ray_load"]), (&json!("head"), &Value::Null));
    let head = cloud.ok(DEMO, "get_node", json!({"node_id": "head"})).await;
    assert_eq!((&head["ray"]["is_stale"], &head["ray"]["cpu_used"]), (&json!(true), &json!(3)));
}

#[tokio::test]
async fn a_ray_that_fails_fails_no_dashboard() {
    let (server, cloud) = start_waiting(IMPATIENT).await;
    let cases = [
        (Fault::Hangs, UpstreamTimeout, "did not answer within 2000 ms"),
        (
            Fault::Says(500, "Traceback\n  x\nRuntimeError: GCS is\u{7} gone\n"),
            UpstreamError,
            "GCS is",
        ),
        (Fault::Says(404, "404: Not Found"), UpstreamError, "not Ray's dashboard"),
        (Fault::Says(401, "Unauthorized"), UpstreamError, "`ray.token`"),
        (Fault::Says(200, "<html>hello</html>"), UpstreamError, "not Ray's dashboard"),
        (Fault::Says(200, "{\"data\": []}"), UpstreamError, "no list of nodes"),
        (Fault::Redirects("http://127.0.0.1:1/".to_owned()), UpstreamError, "sends us elsewhere"),
    ];
    for (fault, code, words) in cases {
        server.change(|it| it.fault = fault.clone());
        let refusal = cloud.refused(DEMO, "ray_nodes", json!({}), code).await;
        let message = refusal["message"].as_str().unwrap();
        assert!(message.contains(words) && !message.chars().any(char::is_control), "{message}");
        // A status that says so is an answer.
        let status = cloud.ok(DEMO, "ray_status", json!({})).await;
        assert_eq!(status["reachable"], false, "{fault:?}: {status}");
        assert!(status["message"].as_str().unwrap().contains(words), "{fault:?}: {status}");
        assert_eq!(status["usage"]["cpu_used"], 3, "what was last seen stays, with its age");
        let started = Instant::now();
        let dashboard = cloud.ok(DEMO, "dashboard_summary", json!({})).await;
        assert_eq!(dashboard["ray"]["reachable"], false, "{fault:?}");
        assert!(dashboard["ray"]["age_seconds"].as_f64().is_some(), "{dashboard}");
        cloud.ok(DEMO, "list_nodes", json!({})).await;
        assert!(started.elapsed() < IMPATIENT / 2, "{fault:?}: memory does not wait for Ray");
    }
    server.change(|it| it.fault = Fault::None);
    seen(&cloud, true).await;
}

#[tokio::test]
async fn nobody_there_and_nobody_of_ray_are_told_apart() {
    let nobody = client(PATIENT, &format!("http://{}", closed_port().await), None);
    let cloud = Cloud::beside(nobody, PERIOD).await;
    let status = cloud.ok(DEMO, "ray_status", json!({})).await;
    let message = status["message"].as_str().unwrap();
    assert!(
        message.contains("does not answer") && message.contains("ray start --head"),
        "{status}"
    );
    assert_eq!((&status["usage"], &status["seen_at"]), (&Value::Null, &Value::Null));
    let decision = dry_run(&cloud, json!({"strategy": "ray-aware"})).await;
    assert!(reasons(&decision).contains("has not answered yet"), "{decision}");
    // Such as the port of the head's own protocol.
    let other = client(PATIENT, &format!("http://{}", says(b"\x00\x00\x12\x04 gRPC").await), None);
    let cloud = Cloud::beside(other, PERIOD).await;
    let status = cloud.ok(DEMO, "ray_status", json!({})).await;
    assert!(status["message"].as_str().unwrap().contains("does not speak HTTP"), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_readers_are_one_question() {
    let (server, cloud) = start().await;
    server.change(|it| it.asked.clear());
    let readers = (0..20).map(|_| cloud.ok(DEMO, "ray_nodes", json!({})));
    futures::future::join_all(readers).await;
    let n_asked =
        server.change(|it| it.asked.iter().filter(|it| it.0.starts_with("/api/v0/nodes")).count());
    // One under way, one for those who came meanwhile, and the background's own.
    assert!((1..=6).contains(&n_asked), "{n_asked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_readers_do_not_queue_up_behind_a_ray_that_hangs() {
    let (server, cloud) = start_waiting(IMPATIENT).await;
    server.change(|it| it.fault = Fault::Hangs);
    let started = Instant::now();
    let readers = (0..10).map(|_| cloud.refused(DEMO, "ray_nodes", json!({}), UpstreamTimeout));
    futures::future::join_all(readers).await;
    // One question that was under way, and one of their own.
    assert!(started.elapsed() < IMPATIENT * 4, "{:?}", started.elapsed());
}

#[tokio::test]
async fn the_token_goes_to_ray_and_nowhere_else() {
    const TOKEN: &str = "hunter2-hunter2";
    let (elsewhere, server) = (RayServer::start().await, RayServer::start().await);
    server.change(|it| it.token = Some(TOKEN.to_owned()));
    let cloud = Cloud::beside(client(PATIENT, &server.url(), Some(TOKEN)), PERIOD).await;
    assert_eq!(cloud.ok(DEMO, "ray_status", json!({})).await["reachable"], true);
    server.change(|it| it.fault = Fault::Redirects(elsewhere.url()));
    assert_eq!(cloud.ok(DEMO, "ray_status", json!({})).await["reachable"], false);
    assert!(elsewhere.change(|it| it.asked.is_empty()), "a redirect is not followed");

    server.change(|it| it.fault = Fault::None);
    let cloud = Cloud::beside(client(PATIENT, &server.url(), Some("another-token")), PERIOD).await;
    let refusal = cloud.refused(ADMIN, "ray_list_jobs", json!({}), UpstreamError).await.to_string();
    assert!(refusal.contains("RAY_AUTH_TOKEN") && !refusal.contains("another-token"), "{refusal}");
}

#[tokio::test]
async fn a_list_without_end_is_not_read_to_its_end() {
    let (server, cloud) = start().await;
    server.change(|it| it.nodes[0]["labels"]["x"] = "x".repeat(40 << 20).into());
    let refusal = cloud.refused(DEMO, "ray_nodes", json!({}), UpstreamError).await;
    assert!(refusal["message"].as_str().unwrap().contains("longer than"), "{refusal}");
}

/// Over the paths that the contract names.
#[tokio::test]
async fn ray_has_its_routes() {
    let (server, cloud) = start_waiting(IMPATIENT).await;
    let get = |path: &'static str| ask("GET", path).header("x-user-id", ADMIN).of(&cloud);
    assert_eq!(get("/ray/status").await.ok(200)["reachable"], true);
    assert_eq!(get("/api/ray/nodes?state=alive").await.ok(200)["total_count"], 2);
    let posted = ask("POST", "/ray/jobs")
        .header("x-user-id", ADMIN)
        .json(&json!({"entrypoint": "true"}))
        .of(&cloud)
        .await;
    let id = posted.ok(202)["job_id"].as_str().unwrap().to_owned();
    assert_eq!(get("/ray/jobs").await.ok(200)["jobs"][0]["job_id"], id.as_str());
    let logs = ask("GET", &format!("/ray/jobs/{id}/logs?tail=5")).header("x-user-id", ADMIN);
    assert_eq!(logs.of(&cloud).await.ok(200)["n_lines"], 0);
    let stop = ask("POST", &format!("/ray/jobs/{id}/stop")).header("x-user-id", ADMIN);
    assert_eq!(stop.of(&cloud).await.ok(200)["status"], "stopped");
    server.change(|it| it.fault = Fault::Hangs);
    get("/ray/nodes").await.problem(504, "UpstreamTimeout");
    server.change(|it| it.fault = Fault::Says(500, "x"));
    get("/ray/jobs").await.problem(502, "UpstreamError");
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_says_whether_ray_answers_and_what_to_do() {
    let home = Home::new();
    let doctor = |url: String| {
        let mut command = home.command(&["doctor"]);
        let said = tokio::task::block_in_place(|| ran(command.env("RAY_DASHBOARD_URL", url)));
        let line = said
            .stdout
            .split("\nnote")
            .chain(said.stdout.split("\nok"))
            .find(|it| it.trim_start().starts_with("ray "));
        line.unwrap_or_else(|| panic!("nothing on Ray: {}", said.stdout)).to_owned()
    };
    let server = RayServer::start().await;
    let line = doctor(server.url());
    assert!(line.contains("2.60.0 at") && line.contains("3 nodes known"), "{line}");
    let line = doctor(format!("http://{}", closed_port().await));
    assert!(
        line.contains("nothing answers there") && line.contains("hint: start its head"),
        "{line}"
    );
    server.change(|it| it.token = Some("t".to_owned()));
    assert!(doctor(server.url()).contains("RAY_AUTH_TOKEN"));
    let without = home.run(&["doctor"]).stdout;
    assert!(!without.contains("ray "), "no lack where none is wanted: {without}");
}

/// A machine that came back under another id, and one whose use is not told.
#[tokio::test]
async fn a_restarted_ray_is_taken_as_it_is_now() {
    let (server, cloud) = start().await;
    server.change(|it| {
        it.nodes = vec![node("dd44", "10.0.0.12", "ALIVE", true)];
        it.usage = Value::Null;
    });
    eventually("the next look", || async {
        let nodes = cloud.ok(DEMO, "list_nodes", json!({})).await;
        let ray = |id: &str| {
            nodes["nodes"].as_array().unwrap().iter().find(|it| it["id"] == id).unwrap()["ray"]
                .clone()
        };
        let worker = ray("worker");
        (worker["node_id"] == "dd44" && worker["cpu_used"].is_null() && ray("head").is_null())
            .then_some(())
    })
    .await;
    let status = cloud.ok(DEMO, "ray_status", json!({"run": false})).await;
    assert_eq!(
        (&status["usage"]["cpu_used"], &status["usage"]["cpu_total"]),
        (&Value::Null, &json!(4))
    );
    // Nothing known to be in use there: it counts by its reservations.
    let decision = dry_run(&cloud, json!({"strategy": "ray-aware"})).await;
    assert!(reasons(&decision).contains("for 0 of 3 nodes"), "{decision}");
    tokio::time::timeout(Duration::from_secs(5), seen(&cloud, true)).await.unwrap();
}
