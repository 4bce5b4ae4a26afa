//! A disk that fills up under a running server, with instances on a machine behind SSH.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::eventually;
use crate::harness::fleet::{machines, registration, sleeper};
use crate::harness::hosts::Hosts;
use crate::harness::invariants::{Asked, Invariants};
use crate::harness::server::{Server, Setup};

/// A small file system of its own, gone with the value.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<SmallDisk> {
        let disk = SmallDisk(tempfile::tempdir().unwrap());
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=24m,mode=700", "tmpfs"])
            .arg(disk.0.path())
            .output()
            .is_ok_and(|it| it.status.success());
        if !mounted {
            println!("skipped: a tmpfs cannot be mounted here");
            // Nothing to unmount.
            std::mem::forget(disk);
            return None;
        }
        Some(disk)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn fill(&self) {
        let full = fs_err::write(self.path().join("ballast"), vec![0; 64 << 20]).unwrap_err();
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    }

    fn free(&self) {
        fs_err::remove_file(self.path().join("ballast")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, because a process that was killed may have files open for a moment.
        let unmounted = Command::new("umount").arg("-l").arg(self.0.path()).status();
        assert!(unmounted.is_ok_and(|it| it.success()));
    }
}

fn states(instances: &[Value]) -> BTreeMap<&str, &str> {
    instances.iter().map(|it| (it["id"].as_str().unwrap(), it["state"].as_str().unwrap())).collect()
}

/// Its record takes a good part of a megabyte, so that the room the journal keeps is used up soon.
fn bulky(n: usize) -> Value {
    let mut request = sleeper(1);
    request["name"] = json!(format!("bulky-{n}"));
    request["env"] = (0..10).map(|it| (format!("TEXT_{it}"), json!("x".repeat(30_000)))).collect();
    request
}

async fn start(data_dir: &Path) -> Server {
    let config = data_dir.join("config.yaml");
    // Often, so that it would find something to act on among what was refused.
    let text =
        "cluster:\n  register_local: false\ncompute:\n  reconcile_period: 0.5\n  stop_grace: 0.5\n";
    fs_err::write(&config, text).unwrap();
    Setup::demo(data_dir).argument("--config").argument(&config.display().to_string()).start().await
}

/// Waits until the reconciler has gone over all nodes once more, twice to have begun after now.
async fn reconciled(server: &Server) {
    let n_runs = || async {
        let tasks = server.get("/tasks").await;
        let task = tasks["tasks"].as_array().unwrap().iter().find(|it| it["name"] == "reconcile");
        task.unwrap()["n_runs"].as_u64().unwrap()
    };
    let before = n_runs().await;
    eventually("two passes of the reconciler", || async {
        (before + 2 <= n_runs().await).then_some(())
    })
    .await;
}

async fn node_is_healthy(server: &Server) {
    eventually("the node to be healthy", || async {
        let node = server.get("/cluster/nodes/h1").await;
        (node["status"] == "healthy").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_refuses_and_acknowledges_nothing_until_there_is_room() {
    const CONVERGED: Duration = Duration::from_secs(20);
    let Some(disk) = SmallDisk::mount() else { return };
    let Some(hosts) = Hosts::start(1).await else { return };
    let data_dir = disk.path().join("data");
    fs_err::create_dir(&data_dir).unwrap();
    // Its log lies there too.
    let server = start(&data_dir).await;
    let (status, body) = server.call("POST", "/cluster/nodes", Some(registration(&hosts, 1))).await;
    assert_eq!(status, 201, "{body}");
    let mut rules = Invariants::of(&server, machines(&hosts, 1)).await;
    let first = server.call("POST", "/instances", Some(sleeper(1))).await;
    assert_eq!(first.0, 202, "{first:?}");
    let first = rules.acknowledged(&first.1);
    rules.converge(&server, CONVERGED, "before").await;

    // On their way when it happens.
    for _ in 0..3 {
        let (status, body) = server.call("POST", "/instances", Some(sleeper(1))).await;
        assert_eq!(status, 202, "{body}");
        rules.acknowledged(&body);
    }
    disk.fill();
    let refusal = loop {
        let n = server.instances().await.len();
        let (status, body) = server.call("POST", "/instances", Some(bulky(n))).await;
        if status != 202 {
            assert_eq!(status, 503, "{body}");
            break body;
        }
        rules.acknowledged(&body);
        assert!(n < 18, "the disk is not full");
    };
    assert_eq!(refusal["error"], "Unavailable", "{refusal}");
    let said = refusal["message"].as_str().unwrap();
    assert!(said.contains("nothing was changed") && said.contains("disk"), "{said}");
    let before = server.instances().await;
    let reserved = server.reserved().await;
    for _ in 0..5 {
        // Whatever would have to be remembered is refused; what there is can be looked at.
        for (method, path, body) in [
            ("POST", "/instances".to_owned(), Some(bulky(99))),
            ("POST", format!("/instances/{first}/stop"), None),
            ("DELETE", format!("/instances/{first}"), None),
        ] {
            let (status, body) = server.call(method, &path, body).await;
            let is_refused = status == 503 && body["error"] == "Unavailable";
            assert!(is_refused, "{method} {path}: {status} {body}");
        }
    }
    assert_eq!(server.reserved().await, reserved, "nothing is held for what was refused");
    reconciled(&server).await;
    // None is recorded to have moved on, and none is there that was refused.
    assert_eq!(states(&server.instances().await), states(&before), "nothing was begun");
    rules.at_any_time(&server, "full").await;
    let name = format!("mo-{first}");
    let container = hosts.containers(1).await.into_iter().find(|it| it.0 == name);
    assert_eq!(container, Some((name, true)), "what was refused was not done");

    disk.free();
    let launched = eventually("a launch is taken again", || async {
        let (status, body) = server.call("POST", "/instances", Some(sleeper(1))).await;
        (status == 202).then_some(body)
    })
    .await;
    rules.acknowledged(&launched);
    rules.converge(&server, CONVERGED, "room again").await;

    // Killed on a full disk, it comes back with all of it when there is room.
    disk.fill();
    let data_dir = server.kill();
    disk.free();
    let server = start(&data_dir).await;
    node_is_healthy(&server).await;
    rules.converge(&server, CONVERGED, "restarted").await;
    rules.clear(&server, "restarted").await;
}
