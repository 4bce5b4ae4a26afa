//! Machines behind SSH that are all registered, instances on them, and the rules they are held to.

use std::time::{Duration, Instant};

use orch_core::settings::Settings;
use serde_json::{Value, json};

use super::caller::ADMIN;
use super::cloud::Cloud;
use super::eventually;
use super::hosts::Hosts;
use super::image;
use super::invariants::{Invariants, Machine};

pub(crate) struct Fleet {
    pub(crate) cloud: Cloud,
    pub(crate) hosts: Hosts,
    pub(crate) rules: Invariants,
    converged: Duration,
}

/// Looks often and gives up soon, so that a fault is over within a test.
pub(crate) fn impatient() -> Settings {
    Settings {
        health_period: Duration::from_secs(1),
        health_timeout: Duration::from_secs(3),
        orphan_grace: Duration::from_secs(2),
        stop_grace: Duration::from_millis(500),
        ..Settings::default()
    }
}

/// How host `host` becomes the node `h1`, `h2` …
pub(crate) fn registration(hosts: &Hosts, host: usize) -> Value {
    json!({
        "id": node(host), "hostname": format!("host-{host}"), "address": hosts.address(host),
        "ssh": {"user": "root", "key": hosts.key(), "accept_host_key": hosts.fingerprint(host)}
    })
}

pub(crate) fn node(host: usize) -> String {
    format!("h{host}")
}

/// A small instance on `host` that publishes a port and stays. Not waited for.
pub(crate) fn sleeper(host: usize) -> Value {
    json!({
        "image": image::IMAGE, "node_id": node(host), "ports": [80], "cpu": 0.05, "memory": 0.03125,
        "command": ["sleep", "3600"], "wait": false
    })
}

/// One entry per host, for the rules.
pub(crate) fn machines(hosts: &Hosts, n: usize) -> Vec<Machine> {
    let machine = |host| Machine { nodes: vec![node(host)], docker: hosts.docker(host) };
    (1..=n).map(machine).collect()
}

impl Fleet {
    pub(crate) async fn start(n: usize) -> Option<Fleet> {
        Some(Fleet::of(Hosts::start(n).await?, n, impatient()).await)
    }

    pub(crate) async fn of(hosts: Hosts, n: usize, settings: Settings) -> Fleet {
        // What is nobody's is left alone for the grace before it counts.
        let converged = settings.orphan_grace + settings.reconcile_period * 2;
        let cloud = Cloud::with(settings).await;
        for host in 1..=n {
            cloud.ok(ADMIN, "register_node", registration(&hosts, host)).await;
        }
        let rules = Invariants::of(&cloud, machines(&hosts, n)).await;
        Fleet { cloud, hosts, rules, converged }
    }

    /// Asks for `n` instances on `host`, and answers their ids as soon as they are acknowledged.
    pub(crate) async fn launch(&mut self, host: usize, n: usize) -> Vec<String> {
        let mut ids = Vec::new();
        for _ in 0..n {
            let instance = self.cloud.ok(ADMIN, "launch_instance", sleeper(host)).await;
            ids.push(self.rules.acknowledged(&instance));
        }
        ids
    }

    /// The same, waiting until they run.
    pub(crate) async fn launched(&mut self, host: usize, n: usize) -> Vec<String> {
        let ids = self.launch(host, n).await;
        for id in &ids {
            self.becomes(id, "running").await;
        }
        ids
    }

    pub(crate) async fn ask(&self, operation: &str, id: &str) {
        self.cloud.ok(ADMIN, operation, json!({"id": id, "wait": false})).await;
    }

    pub(crate) async fn instance(&self, id: &str) -> Value {
        self.cloud.ok(ADMIN, "get_instance", json!({"id": id})).await
    }

    pub(crate) async fn becomes(&self, id: &str, state: &str) -> Duration {
        let started = Instant::now();
        eventually(&format!("{id} to be {state}"), || async {
            (self.instance(id).await["state"] == state).then_some(())
        })
        .await;
        started.elapsed()
    }

    pub(crate) async fn node(&self, host: usize) -> Value {
        self.cloud.ok(ADMIN, "get_node", json!({"node_id": node(host)})).await
    }

    pub(crate) async fn node_becomes(&self, host: usize, status: &str) -> Duration {
        let started = Instant::now();
        eventually(&format!("host {host} to be {status}"), || async {
            (self.node(host).await["status"] == status).then_some(())
        })
        .await;
        started.elapsed()
    }

    /// Within two periods of the reconciler.
    pub(crate) async fn converges(&self, when: &str) {
        self.rules.converge(&self.cloud, self.converged, when).await;
    }

    /// Everything goes, and leaves nothing behind.
    pub(crate) async fn ends(&self, when: &str) {
        self.rules.clear(&self.cloud, when).await;
    }
}
