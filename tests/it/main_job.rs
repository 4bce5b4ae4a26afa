//! The main job on a real engine, over REST: launch with a published port, use it, read logs, run a command, stop,
//! start, terminate. And what the host or its other users do meanwhile.

use std::collections::HashMap;
use std::net::TcpListener;

use bollard::Docker;
use bollard::models::ContainerCreateBody;
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, ListContainersOptionsBuilder, RemoveContainerOptionsBuilder,
};
use serde_json::{Value, json};

use crate::harness::server::{Server, Setup};
use crate::harness::{docker, eventually, image};

fn web() -> Value {
    json!({
        "name": "web", "image": image::IMAGE, "ports": [8080], "cpu": 0.1, "memory": 0.0625,
        "command": ["sh", "-c", "echo it is on; echo hello > /tmp/index.html; exec httpd -f -p 8080 -h /tmp"]
    })
}

async fn launch(server: &Server, request: Value) -> Value {
    let (status, body) = server.call("POST", "/instances", Some(request)).await;
    assert_eq!(status, 201, "{body}");
    assert_eq!(body["state"], "running");
    body
}

/// What the container answers on its published port, once its program listens.
async fn page(instance: &Value) -> String {
    let url = format!("http://{}/", instance["address"].as_str().unwrap());
    let http = crate::harness::http();
    eventually("the container to answer", || async {
        http.get(&url).send().await.ok()?.text().await.ok()
    })
    .await
}

async fn terminate(server: &Server, instance: &Value) {
    let (status, body) = server
        .call("DELETE", &format!("/instances/{}", instance["id"].as_str().unwrap()), None)
        .await;
    assert_eq!((status, body["state"].as_str()), (200, Some("terminated")), "{body}");
}

#[tokio::test]
async fn launch_use_stop_start_terminate() {
    let Some(docker) = docker::connect().await else { return };
    let dir = tempfile::tempdir().unwrap();
    let server = Setup::demo(dir.path()).start().await.asked_by("user-demo-001");
    let nodes = server.get("/cluster/nodes").await;
    assert_eq!(nodes["nodes"][0]["id"], "local", "{nodes}");
    let capacity = server.get("/dashboard/capacity").await;
    assert!(0.0 < capacity["max_cpu"].as_f64().unwrap(), "{capacity}");

    let instance = launch(&server, web()).await;
    let id = instance["id"].as_str().unwrap();
    assert!(instance["address"].as_str().unwrap().starts_with("127.0.0.1:8"), "{instance}");
    assert_eq!(page(&instance).await, "hello\n");
    let logs = server.get(&format!("/instances/{id}/logs")).await;
    assert!(logs.to_string().contains("it is on"), "{logs}");
    let (status, stats) = server.call("GET", &format!("/instances/{id}/stats"), None).await;
    assert_eq!(status, 200, "{stats}");
    let (status, ran) = server
        .call(
            "POST",
            &format!("/instances/{id}/exec"),
            Some(json!({"command": ["cat", "/tmp/index.html"]})),
        )
        .await;
    assert_eq!(status, 200, "{ran}");
    assert!(ran.to_string().contains("hello"), "{ran}");

    for (verb, state) in [("stop", "stopped"), ("start", "running"), ("restart", "running")] {
        let (status, body) = server.call("POST", &format!("/instances/{id}/{verb}"), None).await;
        assert_eq!((status, body["state"].as_str()), (200, Some(state)), "{verb}: {body}");
        docker::agrees_with(&docker, &server, verb).await;
    }
    assert_eq!(page(&instance).await, "hello\n", "the port is the same after a restart");
    terminate(&server, &instance).await;
    docker::agrees_with(&docker, &server, "terminated").await;
    let audit = server.asked_by("user-admin-001").get("/audit").await;
    for operation in [
        "launch_instance",
        "stop_instance",
        "start_instance",
        "restart_instance",
        "exec_in_instance",
        "terminate_instance",
    ] {
        assert!(audit.to_string().contains(operation), "{operation} is in the audit: {audit}");
    }
}

#[tokio::test]
async fn containers_of_somebody_else_are_not_touched() {
    let Some(docker) = docker::connect().await else { return };
    let dir = tempfile::tempdir().unwrap();
    let decoys = Decoys::make(&docker).await;
    let server = Setup::demo(dir.path()).start().await;
    let instance = launch(&server, web()).await;
    // Reconciled at least once with all of them there.
    eventually("a reconcile", || async {
        let tasks = server.get("/tasks").await;
        let runs =
            tasks["tasks"].as_array()?.iter().find(|it| it["name"] == "reconcile")?["n_runs"]
                .as_u64()?;
        (1 <= runs).then_some(())
    })
    .await;
    terminate(&server, &instance).await;
    docker::agrees_with(&docker, &server, "decoys").await;
    decoys.are_untouched().await;
}

/// Twenty containers that look more or less like ours.
struct Decoys {
    docker: Docker,
    before: Vec<String>,
}

impl Decoys {
    async fn make(docker: &Docker) -> Decoys {
        let mut before = Vec::new();
        for n in 0..20 {
            let mut labels = HashMap::from([("decoy".to_owned(), n.to_string())]);
            if n % 2 == 0 {
                labels.insert("mcp-orch.controller-id".to_owned(), "of-somebody-else".to_owned());
                labels.insert("mcp-orch.instance-id".to_owned(), format!("i-{n:017x}"));
                labels.insert("mcp-orch.generation".to_owned(), "1".to_owned());
                labels.insert("mcp-orch.owner".to_owned(), "user-demo-001".to_owned());
            }
            let body = ContainerCreateBody {
                image: Some(image::IMAGE.to_owned()),
                cmd: Some(vec!["true".to_owned()]),
                labels: Some(labels),
                ..ContainerCreateBody::default()
            };
            let name = format!("mo-decoy-{}-{n}", std::process::id());
            let options = CreateContainerOptionsBuilder::new().name(&name).build();
            before.push(docker.create_container(Some(options), body).await.unwrap().id);
        }
        before.sort();
        Decoys { docker: docker.clone(), before }
    }

    async fn are_untouched(self) {
        let filters = HashMap::from([("label", vec!["decoy"])]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let listed = self.docker.list_containers(Some(options)).await.unwrap();
        let after: Vec<String> = listed.into_iter().filter_map(|it| it.id).collect();
        let lost: Vec<&String> = self.before.iter().filter(|it| !after.contains(it)).collect();
        for id in &self.before {
            let options = RemoveContainerOptionsBuilder::new().force(true).build();
            self.docker.remove_container(id, Some(options)).await.ok();
        }
        assert!(lost.is_empty(), "{lost:?}");
    }
}

#[tokio::test]
async fn ports_of_a_foreign_process_are_skipped_without_a_leftover() {
    let Some(docker) = docker::connect().await else { return };
    let dir = tempfile::tempdir().unwrap();
    // Whatever else runs here may have some of them already.
    let foreign: Vec<TcpListener> =
        (8000..8050).filter_map(|it| TcpListener::bind(("127.0.0.1", it)).ok()).collect();
    assert!(!foreign.is_empty());
    let server = Setup::demo(dir.path()).start().await;
    let instance = launch(&server, web()).await;
    let port = instance["ports"][0]["host_port"].as_u64().unwrap();
    assert!((8050..=9000).contains(&port), "{port}");
    assert_eq!(page(&instance).await, "hello\n");
    docker::agrees_with(&docker, &server, "foreign ports").await;
    terminate(&server, &instance).await;
    docker::agrees_with(&docker, &server, "foreign ports").await;
}

#[tokio::test]
async fn what_happens_behind_our_back_is_seen_by_event() {
    let Some(docker) = docker::connect().await else { return };
    let dir = tempfile::tempdir().unwrap();
    let server = Setup::demo(dir.path()).start().await;
    let sleeper = |name: &str| json!({"name": name, "image": image::IMAGE, "command": ["sleep", "600"], "cpu": 0.1, "memory": 0.0625});
    let removed = launch(&server, sleeper("removed")).await;
    let stopped = launch(&server, sleeper("stopped")).await;
    // Fills its memory once it is told to.
    let hungry = launch(&server, json!({"name": "hungry", "image": image::IMAGE, "cpu": 0.5, "memory": 0.015625, "command": ["sh", "-c", "sleep 1; tail /dev/zero"]})).await;
    let container = |it: &Value| format!("mo-{}", it["id"].as_str().unwrap());
    let options = RemoveContainerOptionsBuilder::new().force(true).build();
    docker.remove_container(&container(&removed), Some(options)).await.unwrap();
    docker.stop_container(&container(&stopped), None).await.unwrap();
    for (instance, state, reason) in [
        (&removed, "terminated", "Server.ContainerRemoved"),
        (&stopped, "stopped", "Server.ContainerStopped"),
        (&hungry, "stopped", "Server.OutOfMemory"),
    ] {
        let path = format!("/instances/{}", instance["id"].as_str().unwrap());
        eventually(reason, || async {
            let now = server.get(&path).await;
            (now["state"] == state && now["state_reason"]["code"] == reason).then_some(())
        })
        .await;
    }
    docker::agrees_with(&docker, &server, "drift").await;
    for instance in [&stopped, &hungry] {
        terminate(&server, instance).await;
    }
    docker::agrees_with(&docker, &server, "drift").await;
}

#[tokio::test]
async fn a_pull_downloads_with_progress_and_a_missing_image_is_explained() {
    let Some(docker) = docker::connect().await else { return };
    let Some((_registry, image)) = docker::pullable_image(&docker).await else { return };
    let dir = tempfile::tempdir().unwrap();
    let server = Setup::demo(dir.path()).start().await;
    let instance = launch(
        &server,
        json!({"image": image, "command": ["sleep", "600"], "cpu": 0.1, "memory": 0.0625}),
    )
    .await;
    terminate(&server, &instance).await;
    docker::forget_image(&docker, &image).await;
    let missing = image.replace(":1", ":no-such-tag");
    let (status, body) = server.call("POST", "/instances", Some(json!({"image": missing}))).await;
    assert_eq!((status, body["error"].as_str()), (404, Some("NotFound")), "{body}");
    docker::agrees_with(&docker, &server, "pull").await;
}
