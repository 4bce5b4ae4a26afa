//! The main job over REST, in the words of the documents that people start from.

use serde_json::{Value, json};

use crate::harness::cloud::{Ask, Cloud, Reply, ask};

/// One `curl` line of a document, as the request that curl makes of it.
fn curl(line: &str) -> Ask {
    let words = shell_words(line);
    let (mut method, mut url, mut body) = (None, String::new(), None);
    let mut headers: Vec<(String, String)> = Vec::new();
    let mut words = words.into_iter().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "-X" => method = words.next(),
            "-H" => {
                let header = words.next().unwrap();
                let (name, value) = header.split_once(": ").unwrap();
                headers.push((name.to_owned(), value.to_owned()));
            }
            "-d" => body = words.next(),
            _ => url = word,
        }
    }
    let uri: http::Uri = url.parse().unwrap();
    let method = method.unwrap_or_else(|| if body.is_some() { "POST" } else { "GET" }.to_owned());
    let path = uri.path_and_query().unwrap().as_str();
    let mut request = http::Request::builder().method(method.as_str()).uri(path);
    request = request.header("host", uri.authority().unwrap().as_str());
    request = request.header("user-agent", "curl/8.5.0").header("accept", "*/*");
    for (name, value) in headers {
        request = request.header(name, value);
    }
    Ask::made_of(request, body.unwrap_or_default())
}

fn shell_words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    for it in line.replace("\\\n", " ").chars() {
        match (quote, it) {
            (Some(open), it) if it == open => quote = None,
            (None, '\'' | '"') => quote = Some(it),
            (None, it) if it.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            (_, it) => word.push(it),
        }
    }
    words.push(word);
    words.into_iter().filter(|it| !it.is_empty()).collect()
}

async fn run(cloud: &Cloud, line: &str) -> Reply {
    curl(line).of(cloud).await
}

#[tokio::test]
async fn the_examples_that_users_know_work_word_for_word() {
    let cloud = Cloud::demo().await;
    let login = run(
        &cloud,
        r#"curl -X POST http://localhost:8000/auth/login \
  -H "Content-Type: application/json" \
  -d '{"username": "demo", "password": "demo"}'"#,
    )
    .await
    .ok(200);
    assert_eq!(
        (&login["token_type"], &login["user"]["id"]),
        (&json!("bearer"), &json!("user-demo-001"))
    );
    let token = login["access_token"].as_str().unwrap();
    let me = ask("GET", "/auth/me").bearer(token).of(&cloud).await.ok(200);
    assert_eq!(me["username"], "demo");

    let launched = run(
        &cloud,
        r#"curl -X POST http://localhost:8000/instances \
  -H "Content-Type: application/json" \
  -H "X-User-ID: user-demo-001" \
  -d '{"name": "my-server", "image": "ubuntu:22.04", "cpu": 2, "memory": 4}'"#,
    )
    .await
    .ok(201);
    assert_eq!(launched["name"], "my-server");
    assert_eq!((&launched["cpu"], &launched["memory"]), (&json!(2), &json!(4)));
    let id = launched["id"].as_str().unwrap();

    let list = run(
        &cloud,
        r#"curl http://localhost:8000/instances \
  -H "X-User-ID: user-demo-001""#,
    )
    .await
    .ok(200);
    assert_eq!(list["instances"][0]["id"], id);

    let stop = r#"curl -X POST http://localhost:8000/instances/{instance_id}/stop \
  -H "X-User-ID: user-demo-001""#;
    let stopped = run(&cloud, &stop.replace("{instance_id}", id)).await.ok(200);
    assert_eq!(stopped["state"], "stopped");

    let summary = run(
        &cloud,
        r#"curl http://localhost:8000/dashboard/summary \
  -H "X-User-ID: user-demo-001""#,
    )
    .await
    .ok(200);
    assert!(summary.is_object());
    let capacity = run(&cloud, "curl http://localhost:8000/dashboard/capacity").await.ok(200);
    assert_eq!((&capacity["max_cpu"], &capacity["max_memory_gb"]), (&json!(14), &json!(60)));
    assert!(capacity["cpu_options"].is_array() && capacity["memory_options"].is_array());
    for line in [
        "curl http://localhost:8000/cluster/status",
        r#"curl "http://localhost:8000/cluster/status?include_nodes=true""#,
        "curl http://localhost:8000/cluster/nodes",
        r#"curl "http://localhost:8000/cluster/nodes?role=worker""#,
        "curl http://localhost:8000/cluster/nodes/sim-1/health",
    ] {
        run(&cloud, line).await.ok(200);
    }

    let terminate = r#"curl -X DELETE http://localhost:8000/instances/{instance_id} \
  -H "X-User-ID: user-demo-001""#;
    let terminated = run(&cloud, &terminate.replace("{instance_id}", id)).await.ok(200);
    assert_eq!(terminated["state"], "terminated");
    assert!(cloud.control("sim-1").containers().is_empty());
}

#[tokio::test]
async fn an_instance_lives_and_ends_over_rest() {
    let cloud = Cloud::demo().await;
    let demo = |method: &'static str, path: String| {
        ask(method, &path).header("x-user-id", "user-demo-001").of(&cloud)
    };
    let body =
        json!({"name": "web", "image": "nginx:alpine", "ports": [80], "labels": {"team": "web"}});
    let launch = ask("POST", "/instances").header("x-user-id", "user-demo-001").json(&body);
    let launched = launch.of(&cloud).await.ok(201);
    let id = launched["id"].as_str().unwrap().to_owned();
    let address = launched["address"].as_str().unwrap();
    let port: u16 = address.strip_prefix("127.0.0.1:").unwrap().parse().unwrap();
    assert!((8000..=9000).contains(&port));
    assert_eq!(launched["owner"], "user-demo-001");

    demo("POST", format!("/instances/{id}/stop")).await.ok(200);
    let problem = demo("POST", format!("/instances/{id}/restart")).await;
    assert!(problem.status.is_success() || problem.json()["error"] == "IncorrectState");
    demo("POST", format!("/instances/{id}/start")).await;
    let seen = demo("GET", format!("/instances/{id}")).await.ok(200);
    assert_eq!(seen["state"], "running");
    assert_eq!(seen["address"], launched["address"], "it keeps its address");
    demo("DELETE", format!("/instances/{id}")).await.ok(200);
    let problem =
        demo("POST", format!("/instances/{id}/start")).await.problem(409, "IncorrectState");
    assert_eq!(problem["state"], "terminated");
}

#[tokio::test]
async fn the_same_token_is_the_same_instance() {
    let cloud = Cloud::demo().await;
    let launch = |image: &str| {
        let body = json!({"image": image, "client_token": "once"});
        ask("POST", "/instances").header("x-user-id", "user-demo-001").json(&body).of(&cloud)
    };
    let first: Value = launch("busybox").await.ok(201);
    let again = launch("busybox").await.ok(201);
    assert_eq!(first["id"], again["id"]);
    assert_eq!(again["existed"], true);
    let problem = launch("nginx").await.problem(409, "IdempotentParameterMismatch");
    assert_eq!(problem["client_token"], "once");
    assert_eq!(cloud.control("sim-1").containers().len(), 1);
}
