//! Machines that Tailscale knows, proposed as nodes. Asked of a small server that speaks its local API.

use std::path::Path;
use std::time::Duration;

use orch_domain::ErrorCode::{Conflict, Unavailable};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::harness::caller::{ADMIN, DEMO};
use crate::harness::cloud::Cloud;

/// Answers each connection with `answer`, as it is, once it has heard the question. An empty answer is none, ever.
fn tailscaled(socket: &Path, answer: Vec<u8>) -> AbortOnDropHandle<Vec<String>> {
    fs_err::remove_file(socket).ok();
    let listener = UnixListener::bind(socket).unwrap();
    AbortOnDropHandle::new(TaskTracker::new().spawn(async move {
        let mut open = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut heard = Vec::new();
            while !heard.ends_with(b"\r\n\r\n") {
                heard.push(stream.read_u8().await.unwrap());
            }
            let heard = String::from_utf8(heard).unwrap().to_ascii_lowercase();
            assert!(heard.starts_with("get /localapi/v0/status http/1.1"), "{heard}");
            assert!(heard.contains("host: local-tailscaled.sock"), "{heard}");
            if answer.is_empty() {
                open.push(stream);
            } else {
                // Who has heard enough leaves.
                stream.write_all(&answer).await.ok();
            }
        }
    }))
}

fn http(status: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn machine(name: &str, address: &str, os: &str, online: bool, tags: Value) -> Value {
    json!({
        "ID": "n1", "PublicKey": "nodekey:1", "HostName": name, "DNSName": format!("{}.tail1.ts.net.", name.to_lowercase().replace([' ', '\''], "-")),
        "OS": os, "UserID": 1, "TailscaleIPs": [address, "fd7a:115c:a1e0::1"], "Tags": tags, "Online": online,
        "LastSeen": if online { "0001-01-01T00:00:00Z" } else { "2026-11-20T08:30:00Z" }, "Relay": "fra", "RxBytes": 1,
    })
}

fn status(peers: &[Value]) -> String {
    let peers: serde_json::Map<String, Value> =
        peers.iter().enumerate().map(|(i, it)| (format!("nodekey:{i}"), it.clone())).collect();
    let this = machine("this", "100.64.0.1", "linux", true, json!(["tag:docker"]));
    json!({"Version": "1.90.0", "BackendState": "Running", "Self": this, "Peer": peers, "User": {}})
        .to_string()
}

#[tokio::test]
async fn machines_are_proposed_by_tag_and_registered_ones_marked() {
    let cloud = Cloud::start().await;
    let sim = json!({"id": "b", "hostname": "b", "engine": "sim"});
    cloud.ok(ADMIN, "register_node", sim).await;
    // Nothing listens on port 1: with force it is a node all the same.
    let known = json!({"id": "known", "hostname": "a-known", "address": "127.0.0.9", "endpoint": "tcp://127.0.0.9:1", "force": true});
    cloud.ok(ADMIN, "register_node", known).await;
    let peers = [
        machine("b", "100.64.0.3", "linux", true, json!(["tag:docker", "tag:gpu"])),
        machine("Ann's PC", "100.64.0.4", "windows", true, Value::Null),
        machine("asleep", "100.64.0.5", "linux", false, json!(["tag:docker"])),
        machine("renamed", "127.0.0.9", "linux", true, json!([])),
        machine("Bob's box", "100.64.0.6", "linux", true, json!(["tag:not a tag!"])),
    ];
    let _server = tailscaled(&cloud.tailscale_socket(), http("200 OK", &status(&peers)));
    let find = |arguments: Value| cloud.ok(ADMIN, "discover_nodes", arguments);
    let names = |found: &Value| -> Vec<String> {
        let machines = found["machines"].as_array().unwrap();
        machines.iter().map(|it| it["hostname"].as_str().unwrap().to_owned()).collect()
    };

    let found = find(json!({})).await;
    assert_eq!(names(&found), ["Bob's box", "b", "renamed"], "{found}");
    let proposal = json!({"id": "b", "hostname": "b", "address": "100.64.0.3", "ssh": {}, "tags": ["docker", "gpu"]});
    assert_eq!(found["machines"][1]["register_node"], proposal);
    assert_eq!(found["machines"][1]["node_id"], Value::Null, "a simulated node is no machine");
    assert_eq!(found["machines"][2]["node_id"], "known");
    assert_eq!(found["machines"][2]["register_node"], Value::Null);
    let odd = &found["machines"][0]["register_node"];
    assert_eq!((&odd["hostname"], &odd["tags"]), (&json!("bob-s-box"), &json!([])), "{odd}");

    for tag in ["tag:docker", "docker"] {
        assert_eq!(names(&find(json!({"tag": tag})).await), ["b"]);
    }
    let asleep = find(json!({"tag": "docker", "include_offline": true})).await;
    assert_eq!(names(&asleep), ["asleep", "b"]);
    assert_eq!(asleep["machines"][0]["last_seen"], "2026-11-20T08:30:00.000Z");
    assert_eq!(asleep["machines"][1]["last_seen"], Value::Null);
    assert_eq!(names(&find(json!({"tag": "none"})).await), [""; 0]);
    let first = find(json!({"page_size": 2})).await;
    let second = find(json!({"page_size": 2, "page_token": first["next_page_token"]})).await;
    assert_eq!([names(&first), names(&second)].concat(), names(&found));

    // What is proposed is taken as it is, up to the engine; the id is another machine's here.
    cloud.refused(ADMIN, "register_node", proposal, Conflict).await;
    let before = cloud.ok(DEMO, "list_nodes", json!({})).await;
    assert_eq!(before["total_count"], 3, "nothing was registered");
}

#[tokio::test]
async fn whatever_answers_in_its_place_is_explained() {
    let cloud = Cloud::start().await;
    let socket = cloud.tailscale_socket();
    let refusal = async || {
        let refused = cloud.refused(ADMIN, "discover_nodes", json!({}), Unavailable).await;
        refused["message"].as_str().unwrap().to_owned()
    };
    let said = refusal().await;
    assert!(said.contains("is not there") && said.contains("nodes import"), "{said}");
    drop(UnixListener::bind(&socket).unwrap());
    let said = refusal().await;
    assert!(said.contains("does not run") && said.contains("tailscale up"), "{said}");

    let huge = format!("{{\"BackendState\": \"{}\"}}", "x".repeat(33 << 20));
    for (answer, part) in [
        (http("403 Forbidden", "access denied\u{1b}[31m"), "--operator"),
        (http("500 Oh", "broken"), "broken"),
        (http("200 OK", "<html>"), "is not Tailscale"),
        (http("200 OK", "[]"), "is not Tailscale"),
        (http("200 OK", r#"{"BackendState": "NeedsLogin"}"#), "`NeedsLogin`"),
        (http("200 OK", &huge), "said too much"),
        (b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{".to_vec(), "broke off"),
    ] {
        let _server = tailscaled(&socket, answer);
        let said = refusal().await;
        assert!(said.contains(part), "{part}: {said}");
        assert!(!said.contains('\u{1b}'), "{said:?}");
    }
    let _server =
        tailscaled(&socket, http("200 OK", r#"{"BackendState": "Running", "Peer": null}"#));
    assert_eq!(cloud.ok(ADMIN, "discover_nodes", json!({})).await["total_count"], 0);

    let _server = tailscaled(&socket, Vec::new());
    let asked = std::time::Instant::now();
    let said = refusal().await;
    assert!(said.contains("did not answer within"), "{said}");
    assert!(asked.elapsed() < Duration::from_secs(20), "{:?}", asked.elapsed());
}
