//! Hostile and nonsensical requests: a typed error that names the field, and nothing reserved.

use http::header;
use serde_json::{Map, Value, json};

use crate::harness::cloud::{Ask, Cloud, ask};

const SECRET: &str = "hunter2-do-not-repeat";

fn launch() -> Ask {
    ask("POST", "/instances").header("x-user-id", "user-demo-001")
}

#[tokio::test]
async fn bad_launches_name_the_field_and_reserve_nothing() {
    let cloud = Cloud::demo().await;
    let labels: Map<String, Value> =
        (0..10_000).map(|n| (format!("label-{n}"), Value::from("x"))).collect();
    let env: Map<String, Value> =
        (0..10_000).map(|n| (format!("NAME_{n}"), Value::from(SECRET))).collect();
    let many_ports: Vec<u32> = (1..=100).collect();
    let cases = [
        ("image", json!({})),
        ("image", json!({"image": null})),
        ("image", json!({"image": 5})),
        ("image", json!({"image": ""})),
        ("image", json!({"image": "nginx alpine"})),
        ("image", json!({"image": "nginx\n--privileged"})),
        ("image", json!({"image": "../../etc/passwd"})),
        ("image", json!({"image": "x".repeat(100_000)})),
        ("imgae", json!({"image": "a", "imgae": "b"})),
        ("name", json!({"image": "a", "name": "web\u{1b}[31m"})),
        ("name", json!({"image": "a", "name": "a b"})),
        ("name", json!({"image": "a", "name": "$(reboot)"})),
        ("name", json!({"image": "a", "name": "x".repeat(64)})),
        ("name", json!({"image": "a", "name": ["web"]})),
        ("cpu", json!({"image": "a", "cpu": -1})),
        ("cpu", json!({"image": "a", "cpu": "two"})),
        ("cpu", json!({"image": "a", "cpu": 1e308})),
        ("cpu", json!({"image": "a", "cpu": 0})),
        ("cpu", json!({"image": "a", "cpu": 0.0001})),
        ("memory", json!({"image": "a", "memory": -0.5})),
        ("memory", json!({"image": "a", "memory": 99_999_999})),
        ("memory", json!({"image": "a", "memory": 0.001})),
        ("gpu", json!({"image": "a", "gpu": -1})),
        ("gpu", json!({"image": "a", "gpu": 65})),
        ("gpu", json!({"image": "a", "gpu": 4_294_967_296_u64})),
        ("count", json!({"image": "a", "count": 0})),
        ("count", json!({"image": "a", "count": 101})),
        ("count", json!({"image": "a", "count": 1.5})),
        ("ports", json!({"image": "a", "ports": 80})),
        ("ports", json!({"image": "a", "ports": [0]})),
        ("ports", json!({"image": "a", "ports": [65536]})),
        ("ports", json!({"image": "a", "ports": [-80]})),
        ("ports", json!({"image": "a", "ports": ["80/sctp"]})),
        ("ports", json!({"image": "a", "ports": [80, 80]})),
        ("ports", json!({"image": "a", "ports": many_ports})),
        ("ports", json!({"image": "a", "ports": [{"container_port": 80, "host_port": 22}]})),
        ("env", json!({"image": "a", "env": env})),
        ("env", json!({"image": "a", "env": {"A=B": SECRET}})),
        ("env", json!({"image": "a", "env": {"A\n": SECRET}})),
        ("env", json!({"image": "a", "env": {"A": format!("{SECRET}\0")}})),
        ("env", json!({"image": "a", "env": {"A": SECRET.repeat(5000)}})),
        ("env", json!({"image": "a", "env": [SECRET]})),
        ("command", json!({"image": "a", "command": ["", "x"]})),
        ("command", json!({"image": "a", "command": vec!["x"; 65]})),
        ("command", json!({"image": "a", "command": ["a\0b"]})),
        ("labels", json!({"image": "a", "labels": labels})),
        ("labels", json!({"image": "a", "labels": {"mcp-orch.owner": "eve"}})),
        ("labels", json!({"image": "a", "labels": {"a": "b\u{7}"}})),
        ("labels", json!({"image": "a", "labels": {"a": {"b": "c"}}})),
        ("node_id", json!({"image": "a", "node_id": "../sim-1"})),
        ("role", json!({"image": "a", "role": "king"})),
        ("tags", json!({"image": "a", "tags": ["a b"]})),
        ("strategy", json!({"image": "a", "strategy": "random"})),
        ("client_token", json!({"image": "a", "client_token": ""})),
        ("client_token", json!({"image": "a", "client_token": "x".repeat(65)})),
        ("client_token", json!({"image": "a", "client_token": "a b"})),
        ("dry_run", json!({"image": "a", "dry_run": "maybe"})),
        ("wait", json!({"image": "a", "wait": 3})),
    ];
    for (parameter, body) in cases {
        let shown = body.to_string().chars().take(120).collect::<String>();
        let reply = launch().json(&body).of(&cloud).await;
        let problem = reply.problem(400, "InvalidParameter");
        let named = problem["parameter"].as_str().unwrap();
        assert!(named.starts_with(parameter), "{shown}: {problem}");
        assert!(reply.text.len() < 2000, "{shown}: an answer of {} bytes", reply.text.len());
        assert!(!reply.text.contains(SECRET), "{shown}: {problem}");
        let message = problem["message"].as_str().unwrap();
        assert!(!message.chars().any(char::is_control), "{shown}: {message:?}");
    }
    cloud.assert_untouched();
}

#[tokio::test]
async fn what_would_open_the_host_cannot_be_said() {
    let cloud = Cloud::demo().await;
    for (field, value) in [
        ("Mounts", json!([{"Source": "/", "Target": "/host", "Type": "bind"}])),
        ("Binds", json!(["/:/host"])),
        ("volumes", json!(["/:/host"])),
        ("Privileged", json!(true)),
        ("privileged", json!(true)),
        ("HostConfig", json!({"Privileged": true})),
        ("network_mode", json!("host")),
        ("pid_mode", json!("host")),
        ("cap_add", json!(["SYS_ADMIN"])),
        ("devices", json!(["/dev/sda"])),
        ("security_opt", json!(["seccomp=unconfined"])),
        ("user", json!("root")),
        ("runtime", json!("runc")),
        ("owner", json!("user-admin-001")),
        ("id", json!("i-00000000000000000")),
    ] {
        let body = json!({"image": "busybox", field: value});
        let problem = launch().json(&body).of(&cloud).await.problem(400, "InvalidParameter");
        assert_eq!(problem["parameter"], field, "{problem}");
    }
    cloud.assert_untouched();
}

#[tokio::test]
async fn a_body_of_sixteen_megabytes_is_refused() {
    let cloud = Cloud::demo().await;
    let body = format!("{{\"image\": \"{}\"}}", "x".repeat(16 << 20));
    let reply = launch().header("content-type", "application/json").body(body).of(&cloud).await;
    let problem = reply.problem(413, "PayloadTooLarge");
    assert_eq!(problem["limit_bytes"], 4 << 20);
    // Announced, and waiting for leave to send it: answered at once, without a byte of it.
    let reply = launch()
        .header("content-type", "application/json")
        .header("content-length", "16777216")
        .header("expect", "100-continue")
        .body(axum::body::Body::from_stream(futures::stream::pending::<
            Result<String, std::io::Error>,
        >()))
        .of(&cloud)
        .await;
    reply.problem(413, "PayloadTooLarge");
    cloud.assert_untouched();
}

#[tokio::test]
async fn paths_are_data_and_nothing_else() {
    let cloud = Cloud::demo().await;
    for path in [
        "/instances/..%2f..%2fetc%2fpasswd",
        "/instances/i-0123456789abcdef0%00",
        "/instances/I-0123456789ABCDEF0",
        "/instances/%20",
        "/instances/i-0123456789abcdef0%0d%0aX-Evil:%201",
    ] {
        let reply = ask("GET", path).header("x-user-id", "user-demo-001").of(&cloud).await;
        let problem = reply.problem(400, "InvalidParameter");
        assert_eq!(problem["parameter"], "id", "{path}: {problem}");
        assert!(!problem["message"].as_str().unwrap().chars().any(char::is_control));
    }
    let invalid = ask("GET", "/instances/%ff%fe").header("x-user-id", "user-demo-001");
    invalid.of(&cloud).await.problem(400, "InvalidParameter");
    let reply = ask("GET", "/%3Cscript%3E").of(&cloud).await;
    reply.problem(404, "NotFound");
    assert_eq!(reply.header(header::X_CONTENT_TYPE_OPTIONS), "nosniff");
}

#[tokio::test]
async fn secrets_are_in_no_answer() {
    let cloud = Cloud::demo().await;
    let body = json!({"image": "busybox", "env": {"PASSWORD": SECRET}});
    let launched = launch().json(&body).of(&cloud).await;
    let id = launched.ok(201)["id"].as_str().unwrap().to_owned();
    assert!(!launched.text.contains(SECRET));
    assert_eq!(launched.json()["env_names"], json!(["PASSWORD"]));
    for path in ["/instances".to_owned(), format!("/instances/{id}")] {
        let reply = ask("GET", &path).header("x-user-id", "user-admin-001").of(&cloud).await;
        assert!(!reply.text.contains(SECRET), "{path}");
    }
    assert!(!format!("{:?}", cloud.audit()).contains(SECRET));
}

#[tokio::test]
async fn more_than_there_is_says_how_much_there_is() {
    let cloud = Cloud::demo().await;
    let big = json!({"image": "a", "cpu": 1000, "memory": 8});
    let reply = ask("POST", "/instances").header("x-user-id", "user-admin-001").json(&big);
    let reply = reply.of(&cloud).await;
    assert!(
        ["InsufficientCapacity", "QuotaExceeded"]
            .contains(&reply.json()["error"].as_str().unwrap())
    );
    let gpu = json!({"image": "a", "cpu": 1, "gpu": 8});
    let problem = launch().json(&gpu).of(&cloud).await.problem(409, "InsufficientCapacity");
    assert_eq!(problem["max_cpu_available"], 16);
    assert_eq!(problem["max_memory_available"], 64);
    let many = json!({"image": "a", "count": 6});
    let problem = launch().json(&many).of(&cloud).await.problem(403, "QuotaExceeded");
    assert_eq!((&problem["resource"], &problem["limit"]), (&json!("instances"), &json!(5.0)));
    cloud.assert_untouched();
}
