//! The server itself is killed (`kill -9`) during each fault of its machines, and started again while it lasts.

use std::time::{Duration, Instant};

use bollard::query_parameters::RemoveContainerOptionsBuilder;
use serde_json::Value;

use crate::harness::fleet::{machines, node, registration, sleeper};
use crate::harness::hosts::Hosts;
use crate::harness::invariants::Invariants;
use crate::harness::server::{Server, Setup};
use crate::harness::{PATIENCE, eventually};

/// As `fleet::impatient`.
const CONFIG: &str = "\
cluster:
  register_local: false
  health_check_period: 1
  health_check_timeout: 3
compute:
  orphan_grace: 2
  stop_grace: 0.5
";
/// Of the reconciler, which has its period of 10 s.
const TWO_PERIODS: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    EngineFrozen,
    EngineKilled,
    LinkCut,
    LinkFlaps,
    SshKilled,
    ConnectionsDropped,
    HostKeyChanged,
    ContainersRemoved,
}

impl Fault {
    /// Host 1 is what it happens to.
    async fn begin(self, hosts: &Hosts) {
        match self {
            Fault::EngineFrozen => hosts.freeze(1),
            Fault::EngineKilled => hosts.dockerd(1, "stop"),
            Fault::LinkCut => hosts.cut(1),
            Fault::LinkFlaps => flap(hosts, 2).await,
            Fault::SshKilled => hosts.sshd(1, "stop"),
            Fault::ConnectionsDropped => hosts.sshd(1, "drop"),
            Fault::HostKeyChanged => {
                hosts.sshd(1, "stop");
                hosts.exchange_host_key(1);
                hosts.sshd(1, "start");
            }
            Fault::ContainersRemoved => {
                for (name, _) in hosts.containers(1).await {
                    let options = RemoveContainerOptionsBuilder::new().force(true).build();
                    // One that is being removed already is on its way.
                    hosts.docker(1).remove_container(&name, Some(options)).await.ok();
                }
            }
        }
    }

    /// The status of host 1 while it lasts.
    fn seen_as(self) -> Option<&'static str> {
        match self {
            Fault::LinkCut | Fault::SshKilled | Fault::HostKeyChanged => Some("unreachable"),
            Fault::EngineFrozen | Fault::EngineKilled => Some("degraded"),
            Fault::LinkFlaps | Fault::ConnectionsDropped | Fault::ContainersRemoved => None,
        }
    }

    async fn end(self, hosts: &Hosts) {
        match self {
            Fault::EngineFrozen => hosts.thaw(1),
            Fault::EngineKilled => hosts.dockerd(1, "start"),
            Fault::LinkCut => hosts.heal(1),
            Fault::LinkFlaps => flap(hosts, 3).await,
            Fault::SshKilled => hosts.sshd(1, "start"),
            Fault::HostKeyChanged => {
                hosts.sshd(1, "stop");
                hosts.exchange_host_key(1);
                hosts.sshd(1, "start");
            }
            Fault::ConnectionsDropped | Fault::ContainersRemoved => {}
        }
    }
}

/// Held by the clock: a second away, a second there.
async fn flap(hosts: &Hosts, n: usize) {
    for _ in 0..n {
        hosts.cut(1);
        tokio::time::sleep(Duration::from_secs(1)).await;
        hosts.heal(1);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn start(data_dir: &std::path::Path) -> Server {
    let config = data_dir.join("config.yaml");
    fs_err::write(&config, CONFIG).unwrap();
    let config = config.display().to_string();
    Setup::demo(data_dir).argument("--config").argument(&config).start().await
}

async fn launch(server: &Server, rules: &mut Invariants, host: usize) -> String {
    let (status, body) = server.call("POST", "/instances", Some(sleeper(host))).await;
    assert_eq!(status, 202, "{body}");
    rules.acknowledged(&body)
}

async fn ask(server: &Server, method: &str, path: &str, fault: Fault) {
    let (status, body) = server.call(method, &format!("{path}?wait=false"), None).await;
    let is_done = [200, 202].contains(&status);
    // What the fault ended already cannot be stopped.
    let is_gone = status == 409 && fault == Fault::ContainersRemoved;
    assert!(is_done || is_gone, "{method} {path}: {status} {body}");
}

async fn healthy(server: &Server) {
    for host in [1, 2] {
        eventually("the nodes to be healthy", || async {
            let node = server.get(&format!("/cluster/nodes/{}", node(host))).await;
            let is_well = |it: &Value| it["status"] == "healthy";
            (is_well(&node) && is_well(&node["last_check"])).then_some(())
        })
        .await;
    }
}

async fn survive(hosts: &Hosts, data_dir: &std::path::Path, faults: &[Fault]) {
    let mut server = start(data_dir).await;
    for host in [1, 2] {
        let request = registration(hosts, host);
        let (status, body) = server.call("POST", "/cluster/nodes", Some(request)).await;
        assert_eq!(status, 201, "{body}");
    }
    let mut rules = Invariants::of(&server, machines(hosts, 2)).await;
    for &fault in faults {
        let (when, started) = (format!("{fault:?}"), Instant::now());
        let mut settled = Vec::new();
        for _ in 0..3 {
            settled.push(launch(&server, &mut rules, 1).await);
        }
        rules.converge(&server, PATIENCE, &format!("{when}, before")).await;

        for host in [1, 2, 1, 2] {
            launch(&server, &mut rules, host).await;
        }
        fault.begin(hosts).await;
        ask(&server, "POST", &format!("/instances/{}/stop", settled[0]), fault).await;
        ask(&server, "DELETE", &format!("/instances/{}", settled[1]), fault).await;
        drop(server.kill());

        // It comes up whatever its machines do, knows all it acknowledged, and goes on with the machine that is well.
        server = start(data_dir).await;
        rules.at_any_time(&server, &when).await;
        let elsewhere = launch(&server, &mut rules, 2).await;
        server
            .until("a launch elsewhere", |all| {
                all.iter().any(|it| it["id"] == *elsewhere && it["state"] == "running")
            })
            .await;
        if let Some(status) = fault.seen_as() {
            eventually("the fault is noticed", || async {
                let seen = server.get(&format!("/cluster/nodes/{}", node(1))).await;
                (seen["status"] == status).then_some(())
            })
            .await;
        }
        drop(server.kill());
        server = start(data_dir).await;
        fault.end(hosts).await;
        healthy(&server).await;
        rules.converge(&server, TWO_PERIODS, &when).await;
        rules.clear(&server, &when).await;
        println!("{when}: {:?} in all", started.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_its_machines_fail_the_server_finishes_what_it_acknowledged() {
    let Some(hosts) = Hosts::start(2).await else { return };
    let dir = tempfile::tempdir().unwrap();
    let faults = [
        Fault::EngineFrozen,
        Fault::EngineKilled,
        Fault::LinkCut,
        Fault::LinkFlaps,
        Fault::SshKilled,
        Fault::ConnectionsDropped,
        Fault::HostKeyChanged,
        Fault::ContainersRemoved,
    ];
    survive(&hosts, dir.path(), &faults).await;
}
