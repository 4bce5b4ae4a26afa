//! A machine behind SSH: what a call of its engine costs over the Unix socket, and how soon drift there is seen.

use std::time::{Duration, Instant};

use orch_adapters::docker::DockerEngine;
use orch_core::ports::engine::{Engine, Engines as _};
use orch_domain::image::ImageRef;
use orch_domain::node::{EngineConfig, Node};
use orch_domain::ssh::{Fingerprint, HostKey, SshEndpoint, SshLogin};

use crate::docker::{Server, drift, image};
use crate::{Figure, fixture, percentile, show};

#[path = "../../tests/it/harness/hosts.rs"]
#[expect(dead_code, clippy::unwrap_used, reason = "made for the tests, which use all of it")]
mod hosts;

const N_CALLS: usize = 1_000;

pub(crate) async fn measure() -> Vec<Figure> {
    let Some(hosts) = hosts::Hosts::start(1).await else { return Vec::new() };
    vec![call(&hosts).await, noticed(&hosts).await]
}

/// In turns, so that a busy moment meets both.
async fn call(hosts: &hosts::Hosts) -> Figure {
    let fingerprint = Fingerprint::try_new(&hosts.fingerprint(1)).expect("a fingerprint");
    let endpoint = SshEndpoint {
        host: hosts.address(1),
        port: 22,
        user: "root".to_owned(),
        login: SshLogin::KeyFile(hosts.key()),
        socket: "/var/run/docker.sock".to_owned(),
        host_key: Some(HostKey { fingerprint, algorithm: None }),
        jumps: Vec::new(),
    };
    let engines = fixture::engines();
    let node = Node { engine: EngineConfig::DockerOverSsh(endpoint), ..Node::test("h1") };
    let behind_ssh = engines.engine(&node).expect("an engine");
    let socket = format!("unix://{}", hosts.socket(1).display());
    let tracker = tokio_util::task::TaskTracker::new();
    let direct = DockerEngine::new(&socket, tracker).expect("an engine");
    let (mut ours, mut floor) = (Vec::new(), Vec::new());
    // Neither way is always the first.
    for n in 0..N_CALLS {
        let (first, second): (&dyn Engine, &dyn Engine) =
            if n % 2 == 0 { (&direct, &*behind_ssh) } else { (&*behind_ssh, &direct) };
        let took = (timed(first).await, timed(second).await);
        let (direct, behind_ssh) = if n % 2 == 0 { took } else { (took.1, took.0) };
        floor.push(direct);
        ours.push(behind_ssh);
    }
    assert_eq!(engines.n_handshakes(&node.id), Some(1), "one connection did all of it");
    let (ours, floor) = (percentile(&mut ours, 0.5), percentile(&mut floor, 0.5));
    let more = ours.as_secs_f64() - floor.as_secs_f64();
    Figure {
        name: "ssh: a call of Docker's API over SSH, p50 of 1,000 with one handshake",
        measured: format!("{} ({:+.2} ms)", show(ours), more * 1e3),
        floor: format!("{} (at its socket)", show(floor)),
        limit: "+1 ms".to_owned(),
        holds: more <= 1e-3,
    }
}

async fn timed(engine: &dyn Engine) -> Duration {
    let image = ImageRef::try_new(image::IMAGE).expect("an image");
    let started = Instant::now();
    assert!(engine.has_image(&image).await.expect("answered"), "the image is there");
    started.elapsed()
}

async fn noticed(hosts: &hosts::Hosts) -> Figure {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let server = Server::start(dir, &["--demo"]).await;
    let ssh = serde_json::json!({"user": "root", "key": hosts.key(), "accept_host_key": true});
    let node = serde_json::json!({
        "id": "h1", "hostname": "host-1", "address": hosts.address(1), "ssh": ssh
    });
    let node = server.post("/cluster/nodes", node).await;
    assert_eq!(node["status"], "healthy", "{node}");
    drift("ssh: a removal behind our back, p95", &server, &hosts.docker(1), "h1").await
}
