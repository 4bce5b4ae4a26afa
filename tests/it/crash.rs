//! `kill -9` at every persisted step and side effect of launch, stop, start, restart, terminate and move, on a real engine:
//! after the next start nothing is lost, leaked or doubled.

use std::os::unix::process::ExitStatusExt as _;

use orch_core::ports::failpoint::Failpoint;
use serde_json::{Value, json};

use crate::harness::server::{Server, Setup};
use crate::harness::{docker, image};

/// Starts a server that dies at `at`, drives it there, starts another, and returns that.
async fn crash(at: Failpoint, pullable: &str, data_dir: &std::path::Path) -> Server {
    let name = at.as_str();
    let server = Setup::demo(data_dir).dying_at(name).start().await;
    let verb = name.split('.').next().unwrap();
    // One engine is one node, so the other end of a move is simulated: the one that it comes from, or that it goes to.
    if ["reschedule", "remnant"].contains(&verb) {
        let sim = json!({"id": "sim", "hostname": "sim", "engine": "sim", "tags": ["sim"]});
        server.try_call("POST", "/cluster/nodes", Some(sim)).await;
    }
    let blocker = (at == Failpoint::LaunchPortsMoved)
        .then(|| std::net::TcpListener::bind("127.0.0.1:8000").unwrap());
    let launch = match at {
        Failpoint::LaunchFailed => {
            json!({"image": "127.0.0.1:1/lib/none:1", "name": "crash"})
        }
        Failpoint::LaunchImagePresent => {
            json!({"image": pullable, "command": ["sleep", "600"], "name": "crash"})
        }
        _ => {
            let mut launch = json!({"image": image::IMAGE, "command": ["sleep", "600"], "ports": [80], "name": "crash"});
            match verb {
                "reschedule" => launch["node_id"] = "sim".into(),
                _ => {
                    launch["node_id"] = "local".into();
                    launch["tags"] = json!([if verb == "remnant" { "sim" } else { "any" }]);
                }
            }
            launch
        }
    };
    let launched = server.try_call("POST", "/instances", Some(launch)).await;
    if let Some((201, body)) = &launched {
        let id = body["id"].as_str().unwrap().to_owned();
        let mut calls: Vec<(&str, String)> = Vec::new();
        match verb {
            "stop" => calls.push(("POST", format!("/instances/{id}/stop"))),
            "restart" => calls.push(("POST", format!("/instances/{id}/restart"))),
            "start" => {
                calls.push(("POST", format!("/instances/{id}/stop")));
                calls.push(("POST", format!("/instances/{id}/start")));
            }
            "terminate" => calls.push(("DELETE", format!("/instances/{id}"))),
            "reschedule" => calls.push(("POST", "/cluster/nodes/sim/drain".to_owned())),
            "remnant" => calls.push(("POST", "/cluster/nodes/local/drain".to_owned())),
            _ => {}
        }
        for (method, path) in calls {
            let is_drain = path.ends_with("/drain");
            let body = is_drain.then(|| json!({"action": "move"}));
            server.try_call(method, &path, body).await;
        }
    }
    let data_dir = server.data_dir.clone();
    let status = server.wait();
    assert_eq!(
        status.signal(),
        Some(9),
        "{name}: it should have died there, and ended with {status}"
    );
    drop(blocker);
    Setup::demo(&data_dir).start().await
}

fn settled(instances: &[Value]) -> bool {
    instances
        .iter()
        .all(|it| ["running", "stopped", "terminated"].contains(&it["state"].as_str().unwrap()))
}

#[tokio::test]
async fn at_every_failpoint_nothing_is_lost_leaked_or_doubled() {
    let Some(docker) = docker::connect().await else { return };
    let pullable = docker::pullable_image(&docker).await;
    for at in Failpoint::ALL {
        let (pulls, pullable) =
            (at == Failpoint::LaunchImagePresent, pullable.as_ref().map(|(_, it)| it.as_str()));
        if pulls && pullable.is_none() {
            continue;
        }
        let name = at.as_str();
        let dir = tempfile::tempdir().unwrap();
        let server = crash(at, pullable.unwrap_or_default(), dir.path()).await;
        let instances = server.until("at rest", |it| !it.is_empty() && settled(it)).await;
        assert_eq!(instances.len(), 1, "{name}: {instances:#?}");
        let expected = match at {
            Failpoint::StopRequested | Failpoint::StopStopped | Failpoint::StopRecorded => {
                "stopped"
            }
            Failpoint::TerminateRequested
            | Failpoint::TerminateStopped
            | Failpoint::TerminateRemoved
            | Failpoint::TerminateRecorded
            | Failpoint::LaunchFailed => "terminated",
            _ => "running",
        };
        assert_eq!(instances[0]["state"], expected, "{name}: {instances:#?}\n{}", server.log());
        docker::agrees_with(&docker, &server, name).await;
        // It is a whole instance: it goes down like any other, and gives back all it held.
        let id = instances[0]["id"].as_str().unwrap();
        let (status, body) = server.call("DELETE", &format!("/instances/{id}"), None).await;
        assert_eq!(status, 200, "{name}: {body}");
        if pulls {
            docker::forget_image(&docker, pullable.unwrap_or_default()).await;
        }
        let quota = server.get("/auth/quota").await;
        assert_eq!(quota["used"]["instances"], 0, "{name}: {quota}");
        docker::agrees_with(&docker, &server, name).await;
    }
}

#[tokio::test]
async fn killed_during_sixteen_launches_each_ends_in_one_piece() {
    let Some(docker) = docker::connect().await else { return };
    let dir = tempfile::tempdir().unwrap();
    let server = Setup::demo(dir.path()).start().await;
    let launch = |n: usize| json!({"image": image::IMAGE, "command": ["sleep", "600"], "ports": [80], "name": format!("k{n}"), "cpu": 0.05, "memory": 0.03125, "wait": false});
    let mut acknowledged = Vec::new();
    for n in 0..16 {
        let (status, body) = server.call("POST", "/instances", Some(launch(n))).await;
        assert_eq!(status, 202, "{body}");
        acknowledged.push(body["id"].as_str().unwrap().to_owned());
    }
    let data_dir = server.kill();
    let server = Setup::demo(&data_dir).start().await;
    let instances = server
        .until("all running", |it| it.len() == 16 && it.iter().all(|it| it["state"] == "running"))
        .await;
    let mut ids: Vec<&str> = instances.iter().map(|it| it["id"].as_str().unwrap()).collect();
    ids.sort_unstable();
    acknowledged.sort_unstable();
    assert_eq!(ids, acknowledged);
    docker::agrees_with(&docker, &server, "sixteen").await;
    for id in ids {
        assert_eq!(server.call("DELETE", &format!("/instances/{id}"), None).await.0, 200);
    }
    docker::agrees_with(&docker, &server, "sixteen").await;
}
