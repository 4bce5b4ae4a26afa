//! What audit keeps of arguments: enough to see what was done, and no secret, neither there nor in any file or log.

use serde_json::{Value, json};

use crate::harness::guarded::Guarded;
use crate::harness::witness::Witness;

const BY_NAME: &str = "canary-by-name-41d7";
const OF_SERVER: &str = "canary-of-server-9be2";
const OF_CONFIG: &str = "canary-of-config-c03f";
const MARKER: &str = "marker-that-is-no-secret";

fn found_in(dir: &std::path::Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs_err::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(found_in(&path, text));
        } else if path.is_file() {
            let bytes = fs_err::read(&path).unwrap();
            if bytes.windows(text.len()).any(|it| it == text.as_bytes()) {
                found.push(path.display().to_string());
            }
        }
    }
    found
}

#[tokio::test]
async fn arguments_are_kept_without_their_secrets() {
    let witness = Witness::default();
    let url = witness.start().await;
    let servers =
        json!({"files": {"url": url, "headers": {"Authorization": format!("Bearer {OF_SERVER}")}}});
    let config = format!("server: {{log_level: debug}}\nsecurity: {{api_key: {OF_CONFIG}}}\n");
    let site = Guarded::start(servers, &config).await;
    let key = site.key(json!({})).await;
    let arguments = json!({
        "path": MARKER,
        "Password": BY_NAME,
        "nested": [{"apiToken": [BY_NAME], "note": format!("take {OF_SERVER} or {OF_CONFIG} or {key}")}],
        "command": format!("curl -H 'X-Secret: {BY_NAME}' --token {BY_NAME}"),
        "list": ["--password", BY_NAME],
        "headers": {"X-Any": BY_NAME},
        "long": "x".repeat(20_000),
    });
    // Raw, by REST, and from the catalog.
    site.tool(&key, "files__write_file", arguments.clone()).await;
    site.rest(&key, "POST", "/tools/files.write_file", Some(arguments.clone())).await;
    // What the server gets is what was sent.
    let heard = witness.heard("tools/call");
    assert_eq!(heard.len(), 2);
    assert!(heard.iter().all(|it| it["params"]["arguments"] == arguments));

    let audit = site.server.get("/audit?operation=call_tool").await;
    let entries: Vec<&Value> = audit["entries"].as_array().unwrap().iter().collect();
    assert_eq!(entries.len(), 2, "{audit}");
    for entry in &entries {
        let kept = &entry["arguments"];
        assert_eq!(kept["name"], "files.write_file", "{entry}");
        assert_eq!(kept["arguments"]["path"], MARKER);
        assert_eq!(kept["arguments"]["Password"], "***");
        assert_eq!(kept["arguments"]["nested"][0]["apiToken"], "***");
        assert_eq!(kept["arguments"]["nested"][0]["note"], "take *** or *** or ***");
        assert_eq!(kept["arguments"]["headers"]["X-Any"], "***");
        assert!(entry.to_string().len() < 4000, "{}", entry.to_string().len());
    }
    assert_eq!(entries[0]["arguments"], entries[1]["arguments"], "by whatever face it came");

    // Also where it is refused, and where the server takes nothing.
    site.tool(&key, "files__no_such", json!({"password": BY_NAME})).await;
    site.rest(&key, "POST", "/tools/files.no_such", Some(json!({"password": BY_NAME}))).await;
    let data = site.server.data_dir.clone();
    let Guarded { server, dir, .. } = site;
    server.kill();
    assert!(!found_in(&data, MARKER).is_empty(), "the search finds what is there");
    for secret in [BY_NAME, OF_SERVER, OF_CONFIG, &key] {
        assert_eq!(found_in(&data, secret), [""; 0], "{secret}");
    }
    drop(dir);
}

#[tokio::test]
async fn own_operations_are_kept_with_what_they_were_called_with() {
    let site = Guarded::start(json!({}), "").await;
    let launch = json!({"image": "busybox:none", "env": {"GREETING": BY_NAME}, "name": "web"});
    site.server.call("POST", "/instances", Some(launch)).await;
    let user = json!({"username": "eve", "password": BY_NAME});
    let (status, _) = site.server.call("POST", "/users", Some(user)).await;
    assert_eq!(status, 201);
    let kept = async |operation: &str| {
        let mut audit = site.server.get(&format!("/audit?operation={operation}")).await;
        audit["entries"][0]["arguments"].take()
    };
    let launched = kept("launch_instance").await;
    assert_eq!(
        (&launched["image"], &launched["env"]),
        (&json!("busybox:none"), &json!({"GREETING": "***"}))
    );
    assert_eq!(kept("create_user").await, json!({"username": "eve", "password": "***"}));
    let (_, audit) = site.server.call("GET", "/audit", None).await;
    assert!(!audit.to_string().contains(BY_NAME), "{audit}");
}
