//! Request bodies to start from, shown by Swagger UI. A test sees that each fits its schema.

use serde_json::{Value, json};

/// The examples of one operation, as OpenAPI's map of named examples.
pub(super) fn of(operation: &str) -> Option<Value> {
    let examples = match operation {
        "launch_instance" => json!({
            "web": {
                "summary": "A web server with a published port",
                "value": {"name": "web", "image": "nginx:alpine", "cpu": 0.5, "memory": 0.25, "ports": [80]},
            },
            "dry run": {
                "summary": "Where three of them would go",
                "value": {"image": "nginx:alpine", "cpu": 1, "memory": 1, "count": 3, "strategy": "spread", "dry_run": true},
            },
        }),
        "update_instance" => json!({
            "rename": {"summary": "Another name and labels", "value": {"name": "web-2", "labels": {"team": "web"}}},
        }),
        "exec_in_instance" => json!({
            "list": {"summary": "List the root folder", "value": {"command": ["ls", "-l", "/"]}},
        }),
        "pull_image" => json!({
            "workers": {"summary": "On all workers", "value": {"image": "nginx:alpine", "role": "worker"}},
        }),
        "login" => json!({
            "demo": {"summary": "The demo user of `--demo`", "value": {"username": "demo", "password": "demo"}},
        }),
        _ => return None,
    };
    Some(examples)
}
