//! How path, query and body become one set of arguments, and what a success looks like.

use http::header;
use serde_json::{Value, json};

use crate::harness::cloud::{Ask, Cloud, ask};

fn demo(method: &str, path: &str) -> Ask {
    ask(method, path).header("x-user-id", "user-demo-001")
}

async fn launch(cloud: &Cloud, body: &Value) -> Value {
    demo("POST", "/instances").json(body).of(cloud).await.ok(201)
}

#[tokio::test]
async fn the_effect_says_the_status() {
    let cloud = Cloud::demo().await;
    let reply = demo("POST", "/instances").json(&json!({"image": "busybox"})).of(&cloud).await;
    let launched = reply.ok(201);
    let id = launched["id"].as_str().unwrap();
    assert_eq!(reply.header(header::LOCATION), format!("/instances/{id}"));
    assert_eq!(reply.header(header::CONTENT_TYPE), "application/json");
    assert_eq!(launched["state"], "running");

    let accepted = json!({"image": "busybox", "wait": false, "client_token": "second"});
    demo("POST", "/instances").json(&accepted).of(&cloud).await.ok(202);
    let rehearsed = json!({"image": "busybox", "dry_run": true, "client_token": "third"});
    demo("POST", "/instances").json(&rehearsed).of(&cloud).await.ok(200);
    demo("GET", &format!("/instances/{id}")).of(&cloud).await.ok(200);
    demo("PUT", &format!("/instances/{id}")).json(&json!({"name": "new"})).of(&cloud).await.ok(200);
    demo("POST", &format!("/instances/{id}/stop")).of(&cloud).await.ok(200);
    demo("POST", &format!("/instances/{id}/start?wait=false")).of(&cloud).await.ok(202);
    demo("DELETE", &format!("/instances/{id}")).of(&cloud).await.ok(200);
    // What cannot be read by its id has no place to point to.
    let key = ask("POST", "/api-keys").header("x-user-id", "user-admin-001");
    let key = key.json(&json!({"name": "ci", "permissions": ["read"]})).of(&cloud).await;
    key.ok(201);
    assert!(!key.headers.contains_key(header::LOCATION));
}

#[tokio::test]
async fn the_path_comes_first_and_contradictions_are_refused() {
    let cloud = Cloud::demo().await;
    let launched = launch(&cloud, &json!({"image": "busybox"})).await;
    let id = launched["id"].as_str().unwrap();
    let path = format!("/instances/{id}");

    let same = demo("PUT", &path).json(&json!({"id": id, "name": "same"})).of(&cloud).await;
    assert_eq!(same.ok(200)["name"], "same");
    let other = json!({"id": "i-00000000000000000", "name": "other"});
    let problem = demo("PUT", &path).json(&other).of(&cloud).await.problem(400, "InvalidParameter");
    assert_eq!(problem["parameter"], "id");
    let reply = demo("PUT", &format!("{path}?name=a")).json(&json!({"name": "b"})).of(&cloud).await;
    assert_eq!(reply.problem(400, "InvalidParameter")["parameter"], "name");
    let reply = demo("GET", &format!("{path}?id=i-00000000000000000")).of(&cloud).await;
    assert_eq!(reply.problem(400, "InvalidParameter")["parameter"], "id");
    let after = demo("GET", &path).of(&cloud).await.ok(200);
    assert_eq!(after["name"], "same");
}

#[tokio::test]
async fn query_strings_are_read_as_the_schema_says() {
    let cloud = Cloud::demo().await;
    launch(
        &cloud,
        &json!({"image": "busybox", "name": "web", "labels": {"team": "web", "tier": "1"}}),
    )
    .await;
    launch(&cloud, &json!({"image": "busybox", "name": "db", "labels": {"team": "db"}})).await;
    for (query, n_found) in [
        ("", 2),
        ("labels=team=web,tier=1", 1),
        ("labels=team%3Dweb", 1),
        ("labels.team=web", 1),
        ("labels%5Bteam%5D=db", 1),
        ("labels[team]=db", 1),
        ("labels.team=web&labels.tier=2", 0),
        ("state=running,stopped", 2),
        ("state=stopped&state=terminated", 0),
        ("name=web", 1),
        ("node_id=sim-1&page_size=1000", 2),
        ("state=&page_token=", 2),
    ] {
        let list = demo("GET", &format!("/instances?{query}")).of(&cloud).await.ok(200);
        assert_eq!(list["total_count"], n_found, "{query}: {list}");
    }
    for (query, parameter) in [
        ("page_size=abc", "page_size"),
        ("page_size=-1", "page_size"),
        ("page_size=1.5", "page_size"),
        ("page_size=99999999999999999999", "page_size"),
        ("state=sleeping", "state"),
        ("labels=web", "labels"),
        ("nmae=web", "nmae"),
        ("name=a&name=b", "name"),
        ("page_token=zzz", "page_token"),
    ] {
        let reply = demo("GET", &format!("/instances?{query}")).of(&cloud).await;
        let problem = reply.problem(400, "InvalidParameter");
        let named = problem["parameter"].as_str().unwrap();
        assert!(named.starts_with(parameter), "{query}: {problem}");
    }
    let page = demo("GET", "/instances?page_size=1").of(&cloud).await.ok(200);
    let token = page["next_page_token"].as_str().unwrap();
    let next = demo("GET", &format!("/instances?page_size=1&page_token={token}")).of(&cloud).await;
    assert_eq!(next.ok(200)["instances"][0]["name"], "db");
}

#[tokio::test]
async fn a_body_is_a_json_object_and_says_so() {
    let cloud = Cloud::demo().await;
    let post = || demo("POST", "/instances");
    for content_type in ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", ""]
    {
        let reply = post().header("content-type", content_type).body("{}").of(&cloud).await;
        reply.problem(415, "UnsupportedMediaType");
    }
    post().body("{\"image\": \"busybox\"}").of(&cloud).await.problem(415, "UnsupportedMediaType");
    for body in ["{", "{\"image\": }", "nonsense", "{\"image\": \"a\"} x", "\u{feff}{}", "NaN"] {
        let reply = post().header("content-type", "application/json").body(body).of(&cloud).await;
        let problem = reply.problem(400, "InvalidParameter");
        assert!(problem["message"].as_str().unwrap().contains("not JSON"), "{body}: {problem}");
    }
    for body in ["[]", "null", "\"image\"", "12"] {
        let reply = post().header("content-type", "application/json").body(body).of(&cloud).await;
        let problem = reply.problem(400, "InvalidParameter");
        assert!(
            problem["message"].as_str().unwrap().contains("not an object"),
            "{body}: {problem}"
        );
    }
    let deep = format!("{}{}", "{\"a\":".repeat(5000), "}".repeat(5000));
    let reply = post().header("content-type", "application/json").body(deep).of(&cloud).await;
    reply.problem(400, "InvalidParameter");
    let reply = post().header("content-type", "application/json; charset=utf-8");
    reply.body("{\"image\": \"busybox\"}").of(&cloud).await.ok(201);
}

#[tokio::test]
async fn unknown_paths_and_wrong_methods_say_what_there_is() {
    let cloud = Cloud::demo().await;
    let problem = demo("GET", "/instance").of(&cloud).await.problem(404, "NotFound");
    assert_eq!(problem["kind"], "path");
    assert!(problem["message"].as_str().unwrap().contains("`/instances`"), "{problem}");
    demo("GET", "/instances/").of(&cloud).await.problem(404, "NotFound");
    let reply = demo("PATCH", "/instances").of(&cloud).await;
    let problem = reply.problem(405, "MethodNotAllowed");
    assert_eq!(reply.header(header::ALLOW), "GET, HEAD, POST");
    assert_eq!(problem["allowed"], json!(["GET", "HEAD", "POST"]));
    let options = demo("OPTIONS", "/api/instances").of(&cloud).await;
    assert_eq!(options.status, 204);
    assert_eq!(options.header(header::ALLOW), "GET, HEAD, POST");
    assert!(!options.headers.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN));
    let head = demo("HEAD", "/instances").of(&cloud).await;
    assert_eq!((head.status.as_u16(), head.text.as_str()), (200, ""));
}

#[tokio::test]
async fn the_prefix_of_proxies_is_the_same_api() {
    let cloud = Cloud::demo().await;
    let launched =
        demo("POST", "/api/instances").json(&json!({"image": "busybox"})).of(&cloud).await;
    let id = launched.ok(201)["id"].as_str().unwrap().to_owned();
    let seen = demo("GET", &format!("/instances/{id}")).of(&cloud).await.ok(200);
    assert_eq!(seen, demo("GET", &format!("/api/instances/{id}")).of(&cloud).await.ok(200));
}
