//! A real Ray cluster: its head on one machine, a worker on another, and both machines nodes here as well.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::caller::ADMIN;
use crate::harness::cloud::Cloud;
use crate::harness::hosts::Hosts;
use crate::harness::image;
use crate::harness::ray::client;

/// Longer than Ray takes for anything on a busy machine.
const PATIENCE: Duration = Duration::from_secs(150);

/// Where Ray is installed. None, with the reason printed, where it cannot be.
fn installed() -> Option<PathBuf> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new(root.join("scripts/ray")).stdin(Stdio::null()).output().unwrap();
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        println!("skipped: no Ray: {}", why.lines().last().unwrap_or("it cannot be installed"));
        return None;
    }
    let folder = String::from_utf8(output.stdout).unwrap();
    Some(root.join(folder.trim()).join("venv/bin"))
}

/// Starts a head on machine 1 and a worker on machine 2. They go with the machines.
fn start_ray(hosts: &Hosts, bin: &str) {
    let (head, worker) = (hosts.address(1), hosts.address(2));
    let ray = format!("{bin}/ray");
    let path = format!("PATH={bin}:/usr/bin:/bin:/usr/sbin:/sbin");
    let start = [
        "env",
        path.as_str(),
        "RAY_USAGE_STATS_ENABLED=0",
        ray.as_str(),
        "start",
        "--disable-usage-stats",
    ];
    let small = ["--object-store-memory", "100000000"];
    // Sooner than the minute after which Ray takes a silent node for dead by itself.
    let watchful = r#"{"health_check_initial_delay_ms":1000,"health_check_period_ms":1000,"health_check_timeout_ms":1000,"health_check_failure_threshold":5}"#;
    hosts.inside(
        1,
        &[
            &start[..],
            &["--head", "--node-ip-address", &head, "--port", "6379", "--num-cpus", "2"],
            &["--dashboard-host", &head, "--dashboard-port", "8265", "--memory", "2147483648"],
            &["--system-config", watchful, "--temp-dir", &hosts.folder(1, "ray")],
            &small,
        ]
        .concat(),
    );
    hosts.inside(
        2,
        &[
            &start[..],
            &["--address", &format!("{head}:6379"), "--node-ip-address", &worker],
            &["--num-cpus", "4", "--num-gpus", "2", "--resources", r#"{"accel_fake":1}"#],
            &["--memory", "3221225472", "--labels", "zone=b"],
            &["--temp-dir", &hosts.folder(2, "ray")],
            &small,
        ]
        .concat(),
    );
}

async fn until<T, F>(what: &str, mut look: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, Value>>,
{
    let started = std::time::Instant::now();
    loop {
        match look().await {
            Ok(it) => return it,
            Err(seen) => {
                assert!(started.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}: {seen}");
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn by_id(list: &Value, id: &str) -> Value {
    list["nodes"].as_array().unwrap().iter().find(|it| it["id"] == id).unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_ray_is_seen_weighed_and_given_jobs() {
    let Some(bin) = installed() else { return };
    let Some(hosts) = Hosts::start(2).await else { return };
    let bin = bin.display().to_string();
    tokio::task::block_in_place(|| start_ray(&hosts, &bin));
    let dashboard = format!("http://{}:8265", hosts.address(1));
    let ray = client(Duration::from_secs(10), &dashboard, None);
    let cloud = Cloud::beside(ray, Duration::from_secs(5)).await;
    for host in [1, 2] {
        let ssh = json!({
            "user": "root", "key": hosts.key(), "accept_host_key": hosts.fingerprint(host)
        });
        let address = hosts.address(host);
        let node = json!({
            "id": format!("h{host}"), "hostname": format!("host-{host}"), "address": address, "ssh": ssh
        });
        cloud.ok(ADMIN, "register_node", node).await;
    }
    // Only the real ones are to be chosen from.
    cloud.ok(ADMIN, "cordon_node", json!({"node_id": "sim-1"})).await;

    let status = until("both nodes are alive", || async {
        let status = cloud.ok(ADMIN, "ray_status", json!({})).await;
        let is_known = status["alive_nodes"] == 2
            && status["usage"]["cpu_used"] == 0
            // The worker's own: Ray tells of a node before it tells what is in use there.
            && status["usage"]["gpu_used"] == 0.0;
        if is_known { Ok(status) } else { Err(status) }
    })
    .await;
    assert_eq!(
        (&status["ray_version"], &status["dashboard_url"]),
        (&json!("2.60.0"), &json!(dashboard))
    );
    assert_eq!(
        status["usage"],
        json!({"cpu_used": 0, "cpu_total": 6, "gpu_used": 0.0, "gpu_total": 2.0, "memory_used": 0, "memory_total": 5})
    );
    let nodes = cloud.ok(ADMIN, "ray_nodes", json!({})).await;
    let worker = nodes["nodes"].as_array().unwrap().iter().find(|it| it["registered_as"] == "h2");
    let worker = worker.unwrap_or_else(|| panic!("{nodes}"));
    assert_eq!((&worker["cpu_total"], &worker["is_head"]), (&json!(4), &json!(false)));
    assert_eq!(
        (&worker["resources"]["accel_fake"], &worker["labels"]["zone"]),
        (&json!(1.0), &json!("b"))
    );
    let listed = cloud.ok(ADMIN, "list_nodes", json!({})).await;
    let (head, worker) = (by_id(&listed, "h1"), by_id(&listed, "h2"));
    assert_eq!((&head["ray"]["is_head"], &head["ray"]["cpu_total"]), (&json!(true), &json!(2)));
    assert_eq!(
        (&worker["ray"]["state"], &worker["ray"]["gpu_total"]),
        (&json!("alive"), &json!(2.0))
    );
    assert_eq!(by_id(&listed, "sim-1")["ray"], Value::Null);

    let python = format!("{bin}/python");
    let hello = json!({
        "entrypoint": format!("{python} -c \"print('\\033[31mhello', 'from a job')\""),
        "client_token": "hello", "wait": true, "metadata": {"team": "web"}
    });
    let job = cloud.ok(ADMIN, "ray_submit_job", hello.clone()).await;
    assert_eq!((&job["status"], &job["existed"]), (&json!("succeeded"), &json!(false)), "{job}");
    assert_eq!((&job["exit_code"], &job["owner"]), (&json!(0), &json!(ADMIN)));
    let logs = cloud.ok(ADMIN, "ray_job_logs", json!({"job_id": job["job_id"]})).await;
    assert!(logs["text"].as_str().unwrap().contains("\nhello from a job\n"), "{logs}");
    let again = cloud.ok(ADMIN, "ray_submit_job", hello).await;
    assert_eq!((&again["job_id"], &again["existed"]), (&job["job_id"], &json!(true)));

    holding_the_worker(&cloud, &python).await;
    failing(&cloud, &hosts).await;
}

/// A job that takes all CPUs of the worker keeps instances away from it, and is stopped.
async fn holding_the_worker(cloud: &Cloud, python: &str) {
    let program = "import ray, time\nray.init()\n@ray.remote(num_cpus=4)\ndef hold():\n    time.sleep(600)\nray.get(hold.remote())\n";
    let entrypoint = format!("{python} -c '{program}'");
    let job = cloud.ok(ADMIN, "ray_submit_job", json!({"entrypoint": entrypoint})).await;
    until("the worker is taken", || async {
        let worker = by_id(&cloud.ok(ADMIN, "list_nodes", json!({})).await, "h2");
        if worker["ray"]["cpu_used"] == 4 { Ok(()) } else { Err(worker["ray"].clone()) }
    })
    .await;
    // More is reserved on the head, so that without Ray the worker would be the one.
    let own = json!({
        "image": image::IMAGE, "node_id": "h1", "cpu": 0.1, "memory": 0.0625, "command": ["sleep", "600"]
    });
    let own = cloud.ok(ADMIN, "launch_instance", own).await;
    let mut launch = json!({
        "image": image::IMAGE, "cpu": 0.1, "memory": 0.0625, "command": ["sleep", "600"], "dry_run": true
    });
    let spread = cloud.ok(ADMIN, "launch_instance", launch.clone()).await;
    assert_eq!(spread["placement"][0]["node_id"], "h2", "{spread}");
    launch["strategy"] = "ray-aware".into();
    launch["dry_run"] = false.into();
    let launched = cloud.ok(ADMIN, "launch_instance", launch).await;
    assert_eq!(
        (&launched["node_id"], &launched["state"]),
        (&json!("h1"), &json!("running")),
        "{launched}"
    );
    let reasons = launched["placement"][0]["reasons"].to_string();
    assert!(reasons.contains("in use by Ray") && reasons.contains("for 2 of 2 nodes"), "{reasons}");
    for id in [&own["id"], &launched["id"]] {
        cloud.ok(ADMIN, "terminate_instance", json!({"id": id})).await;
    }

    let id = json!({"job_id": job["job_id"]});
    assert_eq!(cloud.ok(ADMIN, "ray_stop_job", id.clone()).await["stopped"], true);
    until("the job has stopped", || async {
        let jobs = cloud.ok(ADMIN, "ray_list_jobs", id.clone()).await;
        if jobs["jobs"][0]["status"] == "stopped" { Ok(()) } else { Err(jobs) }
    })
    .await;
    assert_eq!(cloud.ok(ADMIN, "ray_stop_job", id).await["stopped"], false);
    until("the worker is free again", || async {
        let status = cloud.ok(ADMIN, "ray_status", json!({})).await;
        if status["usage"]["cpu_used"] == 0 { Ok(()) } else { Err(status) }
    })
    .await;
}

/// First the worker is cut off, then the head.
async fn failing(cloud: &Cloud, hosts: &Hosts) {
    hosts.cut(2);
    let worker = until("the worker is dead to Ray", || async {
        let worker = by_id(&cloud.ok(ADMIN, "node_status", json!({})).await, "h2");
        if worker["ray"]["state"] == "dead" { Ok(worker) } else { Err(worker) }
    })
    .await;
    assert!(worker["ray"]["cpu_used"].is_null() || worker["ray"]["cpu_used"] == 0, "{worker}");
    let status = cloud.ok(ADMIN, "ray_status", json!({})).await;
    assert_eq!((&status["alive_nodes"], &status["dead_nodes"]), (&json!(1), &json!(1)), "{status}");
    assert_eq!(status["usage"]["cpu_total"], 2, "the dead do not count");

    hosts.cut(1);
    let ray = until("the dashboard is out of reach", || async {
        let ray = cloud.ok(ADMIN, "dashboard_summary", json!({})).await["ray"].clone();
        if ray["reachable"] == false { Ok(ray) } else { Err(ray) }
    })
    .await;
    let message = ray["message"].as_str().unwrap();
    assert!(message.contains("did not answer") || message.contains("does not answer"), "{message}");
    assert!(ray["age_seconds"].as_f64().unwrap() > 0.0, "{ray}");
    hosts.heal(1);
    until("the dashboard is back", || async {
        let ray = cloud.ok(ADMIN, "ray_status", json!({})).await;
        if ray["reachable"] == true { Ok(()) } else { Err(ray) }
    })
    .await;
}
