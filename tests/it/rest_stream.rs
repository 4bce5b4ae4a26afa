//! Progress and logs as server-sent events.

use std::time::Duration;

use axum::body::Body;
use futures::StreamExt;
use http::header;
use orch_core::ports::engine::LogStream;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::harness::cloud::{Ask, Cloud, ask};
use crate::harness::{eventually, within};

/// The events of a stream that ends.
fn events(text: &str) -> Vec<(String, Value)> {
    let blocks = text.split("\n\n").filter(|it| it.contains("event:"));
    let event = |block: &str| {
        let field = |name: &str| {
            let line = block.lines().find_map(|it| it.strip_prefix(name));
            line.unwrap_or_default().trim().to_owned()
        };
        (field("event:"), serde_json::from_str(&field("data:")).unwrap())
    };
    blocks.map(event).collect()
}

fn launch(body: &Value) -> Ask {
    ask("POST", "/instances")
        .header("x-user-id", "user-demo-001")
        .header("accept", "text/event-stream")
        .json(body)
}

#[tokio::test]
async fn a_launch_reports_progress_and_ends_with_its_result() {
    let cloud = Cloud::demo().await;
    cloud.control("sim-1").configure(|it| it.pull_delay_ms = 1000);
    let reply = launch(&json!({"image": "pull/app:1", "ports": [80]})).of(&cloud).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header(header::CONTENT_TYPE), "text/event-stream");
    let events = events(&reply.text);
    let (last, before) = events.split_last().unwrap();
    assert_eq!(last.0, "result");
    assert_eq!(last.1["state"], "running");
    assert!(!before.is_empty(), "{}", reply.text);
    let mut reached = f64::MIN;
    for (name, update) in before {
        assert_eq!(name, "progress");
        let progress = update["progress"].as_f64().unwrap();
        assert!(reached < progress, "progress never falls: {update}");
        assert!(!update["message"].as_str().unwrap().is_empty());
        reached = progress;
    }
}

#[tokio::test]
async fn a_pull_reports_its_part_of_the_whole_and_ends_with_its_report() {
    let cloud = Cloud::demo().await;
    cloud.control("sim-1").configure(|it| it.pull_delay_ms = 1000);
    let reply = ask("POST", "/dashboard/images/pull")
        .header("x-user-id", "user-admin-001")
        .header("accept", "text/event-stream")
        .json(&json!({"image": "pull/app:1", "all": true}))
        .of(&cloud)
        .await;
    let events = events(&reply.text);
    let (last, before) = events.split_last().unwrap();
    assert_eq!((last.0.as_str(), &last.1["n_pulled"]), ("result", &json!(1)), "{}", reply.text);
    assert!(3 <= before.len(), "{}", reply.text);
    let percent = |it: &(String, Value)| it.1["progress"].as_f64().unwrap();
    assert!(before.is_sorted_by(|a, b| percent(a) < percent(b)), "{}", reply.text);
    assert!(before.iter().all(|it| it.0 == "progress" && it.1["total"] == 100.0));
}

#[tokio::test]
async fn what_fails_at_once_fails_with_its_status() {
    let cloud = Cloud::demo().await;
    launch(&json!({"image": "a b"})).of(&cloud).await.problem(400, "InvalidParameter");
    let anonymous = ask("POST", "/instances").header("accept", "text/event-stream");
    anonymous.json(&json!({"image": "a"})).of(&cloud).await.problem(401, "Unauthenticated");
    cloud.assert_untouched();
}

#[tokio::test]
async fn a_launch_that_fails_later_ends_with_its_error() {
    let cloud = Cloud::demo().await;
    cloud.control("sim-1").configure(|it| {
        it.pull_delay_ms = 800;
        it.fail_starts = 1000;
    });
    let reply = launch(&json!({"image": "pull/app:1"})).of(&cloud).await;
    let events = events(&reply.text);
    let (name, problem) = events.last().unwrap();
    assert_eq!(name, "error", "{}", reply.text);
    assert!(problem["error"].is_string() && problem["status"].is_u64(), "{problem}");
}

#[tokio::test]
async fn a_launch_goes_on_when_its_client_goes() {
    let cloud = Cloud::demo().await;
    cloud.control("sim-1").configure(|it| it.pull_delay_ms = 600);
    let request = launch(&json!({"image": "pull/app:1"})).request();
    let response = cloud.router.clone().oneshot(request).await.unwrap();
    let mut body = response.into_body().into_data_stream();
    within("the first event", body.next()).await.unwrap().unwrap();
    drop(body);
    eventually("it runs all the same", || async {
        let list = ask("GET", "/instances?state=running").header("x-user-id", "user-demo-001");
        (list.of(&cloud).await.ok(200)["total_count"] == 1).then_some(())
    })
    .await;
}

async fn running(cloud: &Cloud) -> String {
    let launched = ask("POST", "/instances")
        .header("x-user-id", "user-demo-001")
        .json(&json!({"image": "busybox"}))
        .of(cloud)
        .await
        .ok(201);
    launched["id"].as_str().unwrap().to_owned()
}

async fn follow(cloud: &Cloud, id: &str) -> axum::body::BodyDataStream {
    let path = format!("/instances/{id}/logs?follow=true");
    let request = ask("GET", &path).header("x-user-id", "user-demo-001").request();
    let response = cloud.router.clone().oneshot(request).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
    Body::into_data_stream(response.into_body())
}

/// Reads on until `wanted` has come.
async fn read_until(body: &mut axum::body::BodyDataStream, wanted: &str) -> String {
    let mut text = String::new();
    within(wanted, async {
        while !text.contains(wanted) {
            let chunk = body.next().await.expect("the stream goes on").unwrap();
            text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    })
    .await;
    text
}

#[tokio::test]
async fn logs_are_followed_line_by_line_and_made_safe() {
    let cloud = Cloud::demo().await;
    let id = running(&cloud).await;
    let (control, name) = (cloud.control("sim-1"), format!("mo-{id}"));
    control.write_log(&name, LogStream::Stdout, "before");
    let mut body = follow(&cloud, &id).await;
    read_until(&mut body, "before").await;
    control.write_log(&name, LogStream::Stderr, "\u{1b}[31mred\u{202e} alert\u{7}");
    let text = read_until(&mut body, "alert").await;
    let (kind, line) = events(&text).pop().unwrap();
    assert_eq!(kind, "log");
    assert_eq!((&line["stream"], &line["text"]), (&json!("stderr"), &json!("red alert")));
    // A line that looks like the end of an event stays a line.
    control.write_log(&name, LogStream::Stdout, "data: x\r\rinjected: event");
    let text = read_until(&mut body, "injected").await;
    assert_eq!(events(&text).len(), 1);
    control.exit(&name, 0);
    read_until(&mut body, "event: end").await;
    assert!(within("the end", body.next()).await.is_none());
}

#[tokio::test]
async fn following_ends_with_the_server() {
    let cloud = Cloud::demo().await;
    let id = running(&cloud).await;
    cloud.control("sim-1").write_log(&format!("mo-{id}"), LogStream::Stdout, "hello");
    let mut body = follow(&cloud, &id).await;
    read_until(&mut body, "hello").await;
    cloud.orch().shutdown.cancel();
    read_until(&mut body, "event: end").await;
    assert!(within("the end", body.next()).await.is_none());
}

#[tokio::test]
async fn logs_of_others_and_wrong_questions_are_refused() {
    let cloud = Cloud::demo().await;
    let id = running(&cloud).await;
    let path = format!("/instances/{id}/logs?follow=true");
    let anonymous = Cloud::start().await;
    ask("GET", &path).of(&anonymous).await.problem(401, "Unauthenticated");
    let nobodys = ask("GET", "/instances/i-00000000000000000/logs?follow=true");
    nobodys.of(&cloud).await.problem(404, "NotFound");
    for query in ["tail=-1", "tail=1000000", "since=yesterday", "nonsense=1"] {
        let reply = ask("GET", &format!("{path}&{query}")).of(&cloud).await;
        reply.problem(400, "InvalidParameter");
    }
    let quick = tokio::time::timeout(Duration::from_secs(5), ask("HEAD", &path).of(&cloud)).await;
    assert_eq!(quick.unwrap().status, 200);
}
