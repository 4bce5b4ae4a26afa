//! Pulls from a real registry onto the engine of this machine: logins, what is told when they are refused, and pulls that
//! are left half-way.

use std::path::Path;
use std::sync::Arc;

use bollard::Docker;
use futures::future::{join, join3};
use orch_core::Cx;
use orch_core::cx::Progress;
use orch_domain::ErrorCode::{Cancelled, NotFound};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::harness::caller::{ADMIN, DEMO};
use crate::harness::cloud::Cloud;
use crate::harness::program::ran;
use crate::harness::registry::Registry;
use crate::harness::server::{Server, Setup};
use crate::harness::slow::SlowLine;
use crate::harness::{docker, eventually};

/// Each base64 of it has both characters that the alphabet for URLs writes otherwise.
const PASSWORD: &str = "~~~~~~??????-zx81";

async fn set(cloud: &Cloud, registry: &Registry, username: &str, password: &str) {
    let arguments =
        json!({"registry": registry.address, "username": username, "password": password});
    cloud.ok(ADMIN, "set_registry_credential", arguments).await;
}

fn on_docker(image: &str) -> Value {
    json!({"image": image, "node_ids": ["docker"]})
}

async fn outcome(cloud: &Cloud, image: &str) -> Value {
    let report = cloud.ok(ADMIN, "pull_image", on_docker(image)).await;
    report["nodes"][0].clone()
}

async fn refusal(cloud: &Cloud, image: &str) -> String {
    let refusal = cloud.refused(ADMIN, "pull_image", on_docker(image), NotFound).await;
    assert_eq!(refusal["kind"], "image", "{refusal}");
    refusal["message"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_image_is_pulled_with_the_login_that_is_kept() {
    let Some(docker) = docker::connect().await else { return };
    let users = [("ann", PASSWORD)];
    let Some(registry) = Registry::start_at("127.0.0.1", &users).await else { return };
    let image = registry.publish(&docker, "lib/private").await;
    let cloud = Cloud::demo_on_docker(docker::ENDPOINT).await;

    let said = refusal(&cloud, &image).await;
    assert!(said.contains(&format!("`{}` wants a login", registry.address)), "{said}");
    assert!(said.contains("`set_registry_credential`"), "{said}");
    set(&cloud, &registry, "ann", "not hers").await;
    let said = refusal(&cloud, &image).await;
    let who = format!("the registry `{}` does not let `ann` have", registry.address);
    assert!(said.contains(&who) && said.contains("`set_registry_credential`"), "{said}");
    let launch = json!({"image": image, "node_id": "docker", "cpu": 0.1, "memory": 0.0625,
        "command": ["sleep", "3600"]});
    let refused = cloud.refused(DEMO, "launch_instance", launch.clone(), NotFound).await;
    assert!(refused["message"].as_str().unwrap().contains(&who), "{refused}");

    set(&cloud, &registry, "ann", PASSWORD).await;
    let told = Arc::new(Mutex::new(Vec::new()));
    let teller = told.clone();
    let cx = Cx::new(Some(cloud.caller(ADMIN)))
        .with_progress(Progress::to(move |it| teller.lock().push(it)));
    let report = cloud.call_as(&cx, "pull_image", on_docker(&image)).await.unwrap().value;
    let node = &report["nodes"][0];
    assert_eq!((&node["node_id"], &node["outcome"]), (&json!("docker"), &json!("pulled")));
    assert_eq!(report["digest"], registry.digest("lib/private", "1").await);
    assert_eq!(node["digest"], report["digest"]);
    assert!((8 << 20) < node["size_bytes"].as_u64().unwrap(), "{node}");
    let told = told.lock().clone();
    assert!(2 <= told.len() && told.is_sorted_by(|a, b| a.progress < b.progress), "{told:?}");
    assert_eq!(told.last().unwrap().progress, 100.0);
    assert_eq!(outcome(&cloud, &image).await["outcome"], "up_to_date");
    let digest = report["digest"].as_str().unwrap();
    let by_digest = format!("{}@{digest}", image.trim_end_matches(":1"));
    let node = outcome(&cloud, &by_digest).await;
    assert_eq!((&node["outcome"], &node["digest"]), (&json!("up_to_date"), &json!(digest)));

    // A tag that nobody pushed, at a registry that lets us in.
    let said = refusal(&cloud, &image.replace(":1", ":2")).await;
    assert!(said.contains("has no such image"), "{said}");

    // A launch logs in as well.
    docker::forget_image(&docker, &image).await;
    let launched = cloud.ok(DEMO, "launch_instance", launch).await;
    assert_eq!(launched["state"], "running");
    let listed = cloud.ok(DEMO, "list_images", json!({"name": image})).await;
    assert_eq!(listed["images"][0]["n_instances"], 1, "{listed}");
    cloud.ok(DEMO, "terminate_instance", json!({"id": launched["id"]})).await;

    docker::forget_image(&docker, &image).await;
    let registry_host = json!({"registry": registry.address});
    cloud.ok(ADMIN, "delete_registry_credential", registry_host).await;
    let said = refusal(&cloud, &image).await;
    assert!(said.contains("wants a login"), "{said}");
    cloud.remove_containers().await;
}

/// What the registry has under a name may change.
#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_moved_is_pulled_anew() {
    let Some(docker) = docker::connect().await else { return };
    let Some(registry) = Registry::start().await else { return };
    let image = registry.publish(&docker, "lib/moving").await;
    let cloud = Cloud::demo_on_docker(docker::ENDPOINT).await;
    let first = outcome(&cloud, &image).await;
    // Forgotten by the engine, so that the push does not leave the new content there.
    docker::forget_image(&docker, &image).await;
    registry.publish(&docker, "lib/moving").await;
    let second = outcome(&cloud, &image).await;
    assert_eq!((&first["outcome"], &second["outcome"]), (&json!("pulled"), &json!("pulled")));
    assert_ne!(first["digest"], second["digest"]);
    assert_eq!(second["digest"], registry.digest("lib/moving", "1").await);
    assert_eq!(outcome(&cloud, &image).await["outcome"], "up_to_date");
    docker::forget_image(&docker, &image).await;
}

async fn has(docker: &Docker, image: &str) -> bool {
    docker.inspect_image(image).await.is_ok()
}

/// The same image through a line that lets only a part of it through.
async fn behind_a_slow_line(registry: &Registry, image: &str) -> (SlowLine, String) {
    let line = SlowLine::to(&registry.address, 3 << 20).await;
    let through = image.replace(&registry.address, &line.address);
    (line, through)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawn_pull_is_ended_at_the_engine_and_a_shared_one_is_not() {
    let Some(docker) = docker::connect().await else { return };
    let Some((registry, image)) = docker::pullable_image(&docker).await else { return };
    let (line, image) = behind_a_slow_line(&registry, &image).await;
    let cloud = Cloud::demo_on_docker(docker::ENDPOINT).await;
    let cancel = CancellationToken::new();
    let cx = Cx::new(Some(cloud.caller(ADMIN))).with_cancel(cancel.clone());
    let call = cloud.call_as(&cx, "pull_image", on_docker(&image));
    let withdraw = async {
        eventually("half of it came", || async { (line.n_slow() == 1).then_some(()) }).await;
        cancel.cancel();
    };
    let (answer, ()) = join(call, withdraw).await;
    assert_eq!(answer.unwrap_err().code(), Cancelled);
    eventually("the engine left it", || async { (line.n_slow() == 0).then_some(()) }).await;
    assert!(!has(&docker, &image).await);

    // Again, and this time a launch waits for it too.
    let cancel = CancellationToken::new();
    let cx = Cx::new(Some(cloud.caller(ADMIN))).with_cancel(cancel.clone());
    let first = async {
        let call = cloud.call_as(&cx, "pull_image", on_docker(&image)).await;
        assert_eq!(call.unwrap_err().code(), Cancelled);
        assert!(line.n_slow() == 1, "the launch still waits for it");
        line.open();
    };
    let told = Arc::new(Mutex::new(String::new()));
    let teller = told.clone();
    let cx = Cx::new(Some(cloud.caller(DEMO)))
        .with_progress(Progress::to(move |it| teller.lock().push_str(&it.message)));
    let launch = async {
        eventually("it is pulled again", || async { (line.n_slow() == 1).then_some(()) }).await;
        let request = json!({"image": image, "node_id": "docker", "cpu": 0.1, "memory": 0.0625,
            "command": ["sleep", "3600"]});
        cloud.call_as(&cx, "launch_instance", request).await.unwrap().value
    };
    let withdraw = async {
        let is_told = || async { told.lock().contains(" MiB)").then_some(()) };
        eventually("the launch hears of the same pull", is_told).await;
        cancel.cancel();
    };
    let ((), launched, ()) = join3(first, launch, withdraw).await;
    assert_eq!(launched["state"], "running");
    cloud.ok(DEMO, "terminate_instance", json!({"id": launched["id"]})).await;
    cloud.remove_containers().await;
    docker::forget_image(&docker, &image).await;
}

/// Every file under `dir`, as one text.
fn all_of(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs_err::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(all_of(&path));
        } else if path.is_file() {
            files.push((path.display().to_string(), fs_err::read(&path).unwrap()));
        }
    }
    files
}

fn base64(text: &str) -> String {
    let out = std::process::Command::new("sh")
        .args(["-c", r#"printf %s "$1" | base64 -w0"#, "sh", text])
        .output()
        .unwrap();
    String::from_utf8(out.stdout).unwrap().trim_end_matches('=').to_owned()
}

/// As it is, in hexadecimal, and in base64 with whatever around it.
fn forms_of(password: &str) -> Vec<String> {
    let mut forms = vec![password.to_owned(), hex::encode(password)];
    // At each of the three places where it can begin in a group; without the groups it shares with others.
    for before in ["", "x", "xx"] {
        let whole = base64(&format!("{before}{password}"));
        forms.push(whole[4..whole.len() - 4].to_owned());
    }
    let for_urls: Vec<String> =
        forms.iter().map(|it| it.replace('+', "-").replace('/', "_")).collect();
    forms.extend(for_urls);
    forms
}

#[test]
fn a_password_would_be_found_in_what_a_pull_sends() {
    for around in ["ann:", r#"{"username":"ann","password":""#, "a", "ab", "abc"] {
        let sent = base64(&format!("{around}{PASSWORD}\",\"x\":1}}"));
        assert!(forms_of(PASSWORD).iter().any(|it| sent.contains(it)), "{sent}");
    }
}

async fn put(server: &Server, registry: &str, password: &str) {
    let body = json!({"username": "ann", "password": password});
    let path = format!("/registry-credentials/{registry}");
    let (status, answer) = server.call("PUT", &path, Some(body)).await;
    assert_eq!(status, 200, "{answer}");
    assert!(!answer.to_string().contains(password), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_seen_nowhere_and_outlives_a_kill_in_the_middle_of_a_pull() {
    let Some(docker) = docker::connect().await else { return };
    let users = [("ann", PASSWORD)];
    let Some(registry) = Registry::start_at("127.0.0.1", &users).await else { return };
    let image = registry.publish(&docker, "lib/private").await;
    let (line, image) = behind_a_slow_line(&registry, &image).await;
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config.yaml");
    fs_err::write(&config, "server:\n  log_level: trace\n").unwrap();
    let config = config.display().to_string();
    let setup = || Setup::demo(dir.path()).argument("--config").argument(&config);
    let server = setup().start().await;

    const WRONG: &str = "an0ther-Wr0ng-password";
    put(&server, &line.address, WRONG).await;
    let pull = || json!({"image": image, "node_ids": ["local"]});
    let refused = server.call("POST", "/dashboard/images/pull", Some(pull())).await;
    assert_eq!(refused.0, 404, "{}", refused.1);
    put(&server, &line.address, PASSWORD).await;

    let pulling = server.try_call("POST", "/dashboard/images/pull", Some(pull()));
    let half = eventually("half of it came", || async { (line.n_slow() == 1).then_some(()) });
    tokio::select! {
        it = pulling => panic!("it ended: {it:?}"),
        () = half => {}
    }
    server.kill();
    eventually("the engine left it", || async { (line.n_slow() == 0).then_some(()) }).await;
    assert!(!has(&docker, &image).await);
    line.open();

    let server = setup().start().await;
    let (status, report) = server.call("POST", "/dashboard/images/pull", Some(pull())).await;
    assert_eq!((status, &report["n_pulled"]), (200, &json!(1)), "{report}");
    let mut seen = vec![
        ("a report".to_owned(), report.to_string().into_bytes()),
        ("a refusal".to_owned(), refused.1.to_string().into_bytes()),
    ];
    for path in ["/registry-credentials", "/audit", "/tasks", "/cluster/status", "/openapi.json"] {
        let answer = server.get(path).await;
        seen.push((path.to_owned(), answer.to_string().into_bytes()));
    }
    assert!(String::from_utf8_lossy(&seen[2].1).contains("ann"), "{seen:?}");
    let metrics = crate::harness::http().get(format!("{}/metrics", server.url)).send().await;
    let metrics = metrics.unwrap().text().await.unwrap();
    assert!(metrics.contains("mcp_orch_pulls_total"), "{metrics}");
    seen.push(("/metrics".to_owned(), metrics.into_bytes()));
    let backup = dir.path().join("state.backup").display().to_string();
    let out = ran(std::process::Command::new(env!("CARGO_BIN_EXE_mcp-orch"))
        .args(["backup", &backup])
        .env("MCP_ORCH_DATA_DIR", dir.path()));
    assert_eq!(out.status, 0, "{}{}", out.stdout, out.stderr);
    seen.push(("what `backup` says".to_owned(), (out.stdout + &out.stderr).into_bytes()));
    drop(server);

    let files = all_of(dir.path());
    assert!(files.iter().any(|(name, it)| name.ends_with("state.backup") && !it.is_empty()));
    let log = files.iter().find(|(name, _)| name.ends_with("server.log")).unwrap();
    let log = String::from_utf8_lossy(&log.1).into_owned();
    assert!(log.contains("pulled an image") && log.contains("DEBUG"), "it logs all: {log}");
    seen.extend(files);
    for form in forms_of(PASSWORD).into_iter().chain(forms_of(WRONG)) {
        for (name, content) in &seen {
            let is_in = content.windows(form.len()).any(|it| it == form.as_bytes());
            assert!(!is_in, "{form} is in {name}");
        }
    }
    docker::forget_image(&docker, &image).await;
}
