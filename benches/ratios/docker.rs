//! A launch through the product against Docker alone, with the very settings that the product's containers have.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::models::{ContainerCreateBody, HostConfig, PortBinding};
use bollard::query_parameters::{CreateContainerOptionsBuilder, RemoveContainerOptionsBuilder};

use crate::{Figure, percentile, show};

#[path = "../../tests/it/harness/image.rs"]
pub(crate) mod image;

const N_SERIAL: usize = 60;
const N_AT_ONCE: usize = 16;
const N_ROUNDS: usize = 5;
const N_DRIFTS: usize = 40;

pub(crate) async fn measure() -> Vec<Figure> {
    let Ok(docker) = Docker::connect_with_unix_defaults() else { return Vec::new() };
    if docker.ping().await.is_err() {
        println!("docker: skipped, no engine answers at its socket");
        return Vec::new();
    }
    image::ensure(&docker).await;
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let server = Server::start(dir, &["--demo"]).await;
    let raw = Raw::like_ours(docker, &server).await;

    let (mut floor, mut ours) = (Vec::new(), Vec::new());
    for n in 0..N_SERIAL {
        let started = Instant::now();
        raw.up(n).await;
        floor.push(started.elapsed());
        raw.down(n).await;
        let started = Instant::now();
        let id = server.launch(&format!("serial-{n}")).await;
        ours.push(started.elapsed());
        server.terminate(&id).await;
    }
    let (mut floor_at_once, mut ours_at_once) = (Vec::new(), Vec::new());
    for round in 0..N_ROUNDS {
        let started = Instant::now();
        futures::future::join_all((0..N_AT_ONCE).map(|n| raw.up(n))).await;
        floor_at_once.push(started.elapsed());
        futures::future::join_all((0..N_AT_ONCE).map(|n| raw.down(n))).await;
        let started = Instant::now();
        let names: Vec<String> = (0..N_AT_ONCE).map(|n| format!("round-{round}-{n}")).collect();
        let ids = futures::future::join_all(names.iter().map(|it| server.launch(it))).await;
        ours_at_once.push(started.elapsed());
        futures::future::join_all(ids.iter().map(|it| server.terminate(it))).await;
    }
    let drift =
        drift("docker: a removal behind our back, p95", &server, &raw.docker, "local").await;
    vec![
        drift,
        figure("docker: launch over REST to running, p50", &mut ours, &mut floor, 0.5, 1.10),
        figure("docker: launch over REST to running, p99", &mut ours, &mut floor, 0.99, 1.25),
        figure(
            "docker: 16 launches at once, makespan",
            &mut ours_at_once,
            &mut floor_at_once,
            0.5,
            1.05,
        ),
    ]
}

/// From the beginning of a removal behind our back until the record says so. The removal itself is the floor.
pub(crate) async fn drift(
    name: &'static str,
    server: &Server,
    docker: &Docker,
    node_id: &str,
) -> Figure {
    let (mut noticed, mut removals) = (Vec::new(), Vec::new());
    for n in 0..N_DRIFTS {
        let id = server.launch_on(node_id, &format!("drift-{n}")).await;
        let started = Instant::now();
        let options = RemoveContainerOptionsBuilder::new().force(true).build();
        docker.remove_container(&format!("mo-{id}"), Some(options)).await.expect("removed");
        removals.push(started.elapsed());
        while server.get(&format!("/instances/{id}")).await["state"] != "terminated" {
            assert!(started.elapsed() < Duration::from_secs(60), "the removal is noticed");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        noticed.push(started.elapsed());
    }
    let p95 = percentile(&mut noticed, 0.95);
    Figure {
        name,
        measured: format!("{} (p50 {})", show(p95), show(percentile(&mut noticed, 0.5))),
        floor: format!("{} (the removal, p95)", show(percentile(&mut removals, 0.95))),
        limit: "250 ms".to_owned(),
        holds: p95 <= Duration::from_millis(250),
    }
}

fn figure(
    name: &'static str,
    ours: &mut [Duration],
    floor: &mut [Duration],
    share: f64,
    limit: f64,
) -> Figure {
    let (ours, floor) = (percentile(ours, share), percentile(floor, share));
    let ratio = ours.as_secs_f64() / floor.as_secs_f64();
    Figure {
        name,
        measured: format!("{} ({ratio:.3}×)", show(ours)),
        floor: show(floor),
        limit: format!("{limit}×"),
        holds: ratio <= limit,
    }
}

/// Docker alone.
struct Raw {
    docker: Docker,
    body: ContainerCreateBody,
    container_port: String,
}

impl Raw {
    /// Takes the settings from a container that the product made.
    async fn like_ours(docker: Docker, server: &Server) -> Raw {
        let id = server.launch("model").await;
        let seen = docker.inspect_container(&format!("mo-{id}"), None).await.expect("inspected");
        server.terminate(&id).await;
        let config = seen.config.expect("a configuration");
        let body = ContainerCreateBody {
            image: config.image,
            cmd: config.cmd,
            env: config.env,
            exposed_ports: config.exposed_ports,
            stop_timeout: config.stop_timeout,
            host_config: seen.host_config,
            ..ContainerCreateBody::default()
        };
        Raw { docker, body, container_port: "80/tcp".to_owned() }
    }

    async fn up(&self, n: usize) {
        let binding = PortBinding {
            host_ip: Some("127.0.0.1".to_owned()),
            host_port: Some((9100 + n).to_string()),
        };
        let ports = HashMap::from([(self.container_port.clone(), Some(vec![binding]))]);
        let host_config = HostConfig {
            port_bindings: Some(ports),
            ..self.body.host_config.clone().unwrap_or_default()
        };
        let body = ContainerCreateBody { host_config: Some(host_config), ..self.body.clone() };
        let options = CreateContainerOptionsBuilder::new().name(&name(n)).build();
        self.docker.create_container(Some(options), body).await.expect("created");
        self.docker.start_container(&name(n), None).await.expect("started");
    }

    async fn down(&self, n: usize) {
        let options = RemoveContainerOptionsBuilder::new().force(true).build();
        self.docker.remove_container(&name(n), Some(options)).await.expect("removed");
    }
}

fn name(n: usize) -> String {
    format!("mcp-orch-bench-raw-{n}")
}

/// The product, as its own process.
pub(crate) struct Server {
    child: tokio::process::Child,
    _dir: tempfile::TempDir,
    url: String,
    client: reqwest::Client,
}

impl Server {
    pub(crate) async fn start(dir: tempfile::TempDir, more: &[&str]) -> Server {
        let child = tokio::process::Command::new(env!("CARGO_BIN_EXE_mcp-orch"))
            .args(["serve", "--no-auth", "--port", "0", "--data-dir"])
            .arg(dir.path())
            .args(more)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("the server starts");
        rustls::crypto::ring::default_provider().install_default().ok();
        let client = reqwest::Client::new();
        let lock = dir.path().join("lock");
        let url = loop {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let Ok(text) = fs_err::read_to_string(&lock) else { continue };
            let Ok(lock) = serde_json::from_str::<serde_json::Value>(&text) else { continue };
            let Some(port) = lock["port"].as_u64() else { continue };
            let url = format!("http://127.0.0.1:{port}");
            if client
                .get(format!("{url}/readyz"))
                .send()
                .await
                .is_ok_and(|it| it.status().is_success())
            {
                break url;
            }
        };
        Server { child, _dir: dir, url, client }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    pub(crate) async fn get(&self, path: &str) -> serde_json::Value {
        let res = self.client.get(format!("{}{path}", self.url)).send().await.expect("answered");
        serde_json::from_slice(&res.bytes().await.expect("a body")).expect("JSON")
    }

    pub(crate) async fn post(&self, path: &str, body: serde_json::Value) -> serde_json::Value {
        let res = self.client.post(format!("{}{path}", self.url)).body(body.to_string());
        let res = res.header("content-type", "application/json").send().await.expect("answered");
        serde_json::from_slice(&res.bytes().await.expect("a body")).expect("JSON")
    }

    pub(crate) async fn delete(&self, path: &str) -> serde_json::Value {
        let res = self.client.delete(format!("{}{path}", self.url)).send().await;
        serde_json::from_slice(&res.expect("answered").bytes().await.expect("a body"))
            .expect("JSON")
    }

    async fn launch(&self, name: &str) -> String {
        self.launch_on("local", name).await
    }

    async fn launch_on(&self, node_id: &str, name: &str) -> String {
        let body = serde_json::json!({
            "name": name, "image": image::NAME, "ports": [80], "cpu": 0.05, "memory": 0.0625,
            "command": ["sleep", "3600"], "node_id": node_id
        });
        let body = self.post("/instances", body).await;
        assert_eq!(body["state"], "running", "{body}");
        body["id"].as_str().expect("an id").to_owned()
    }

    async fn terminate(&self, id: &str) {
        let res = self
            .client
            .delete(format!("{}/instances/{id}", self.url))
            .send()
            .await
            .expect("answered");
        assert!(res.status().is_success(), "{}", res.text().await.unwrap_or_default());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.start_kill().ok();
    }
}
