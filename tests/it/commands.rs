//! Commands of instances on a real engine: those that are not there, and those that have little to do.

use serde_json::json;

use crate::harness::cloud::{Cloud, ask};
use crate::harness::{docker, image};

/// The engine answers the start before the command has been tried; the caller is told what came of it all the same.
#[tokio::test]
async fn a_launch_says_what_its_command_came_to() {
    if docker::connect().await.is_none() {
        return;
    }
    let cloud = Cloud::demo_on_docker(docker::ENDPOINT).await;
    for n in 0..4 {
        let launch = async |what: &str, command: &[&str]| {
            let body = json!({
                "image": image::IMAGE, "name": format!("{what}-{n}"), "command": command, "node_id": "docker",
                "cpu": 1, "memory": 0.0078125,
            });
            ask("POST", "/instances")
                .header("x-user-id", "user-demo-001")
                .json(&body)
                .of(&cloud)
                .await
        };
        let missing =
            launch("missing", &["no-such-program"]).await.problem(400, "InvalidParameter");
        assert_eq!(missing["parameter"], "command");
        assert!(missing["message"].as_str().unwrap().contains("no-such-program"), "{missing}");

        let job = launch("job", &["true"]).await.ok(201);
        assert_eq!(
            (&job["state"], &job["state_reason"]["code"]),
            (&json!("stopped"), &json!("Client.CommandCompleted")),
            "{job}"
        );
        let failed = launch("failed", &["sh", "-c", "exit 3"]).await.problem(409, "IncorrectState");
        assert_eq!(failed["state"], "stopped");
        // The engine may have two processors only, and what is stopped keeps its share.
        for id in [&job["id"], &failed["id"]] {
            let path = format!("/instances/{}", id.as_str().unwrap());
            ask("DELETE", &path).header("x-user-id", "user-demo-001").of(&cloud).await.ok(200);
        }

        let none = launch("none", &[]).await.problem(400, "InvalidParameter");
        assert_eq!(none["parameter"], "command");
    }
    cloud.remove_containers().await;
}
