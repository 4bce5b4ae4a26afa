//! What is particular to HTTP: who comes in, whose a session is, and what is no message.

use futures::future::join_all;
use orch_domain::caller::Permission;
use serde_json::{Value, json};

use crate::harness::mcp::{self, Era, Session, Site};
use crate::harness::within;
use crate::harness::world::{ADMIN, DEMO, World};

fn list_tools() -> Value {
    mcp::request(Era::Modern, json!(1), "tools/list", json!({}))
}

async fn status(request: reqwest::RequestBuilder) -> u16 {
    within("an answer", request.send()).await.unwrap().status().as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_comes_in_without_a_good_credential() {
    let world = World::with_nodes(0).await;
    let site = mcp::site(&world).await;
    let bare = |message: &Value| {
        mcp::http_client()
            .post(&site.url)
            .header("accept", "application/json, text/event-stream")
            .json(message)
    };
    let hello = mcp::request(Era::Legacy, json!(1), "initialize", json!({}));
    for message in [hello, list_tools()] {
        let response = bare(&message).send().await.unwrap();
        assert_eq!(response.status(), 401);
        assert!(response.headers()["www-authenticate"].to_str().unwrap().starts_with("Bearer"));
        assert_eq!(status(bare(&message).bearer_auth("mo-wrong-key")).await, 401);
    }
    assert_eq!(status(mcp::http_client().get(&site.url)).await, 401);
    assert_eq!(status(mcp::http_client().delete(&site.url)).await, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_hosts_and_origins_are_turned_away() {
    let world = World::with_nodes(0).await;
    let site = mcp::site(&world).await;
    let key = world.api_key(DEMO, &[Permission::Read]).await;
    let post = || mcp::post(&site, &key, &list_tools());
    assert_eq!(status(post()).await, 200);
    assert_eq!(status(post().header("host", "evil.example")).await, 403);
    assert_eq!(status(post().header("origin", "https://evil.example")).await, 403);
    assert_eq!(status(post().header("origin", "null")).await, 403);
    let own = site.url.trim_end_matches("/mcp").to_owned();
    assert_eq!(status(post().header("origin", own)).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_belongs_to_the_user_who_began_it() {
    let world = World::with_nodes(1).await;
    let site = mcp::site(&world).await;
    let owner = world.api_key(ADMIN, &[Permission::Read]).await;
    let other_key_of_owner = world.api_key(ADMIN, &Permission::ALL).await;
    let thief = world.api_key(DEMO, &[Permission::Read]).await;
    let session = Session::begin(&site, &owner).await;
    let ping = mcp::request(Era::Legacy, json!(2), "ping", json!({}));
    assert_eq!(status(session.post(&ping)).await, 200);
    let stolen = Session { key: thief, ..session.clone() };
    assert_eq!(status(stolen.post(&ping)).await, 404);
    assert_eq!(status(stolen.get()).await, 404);
    assert_eq!(status(stolen.delete()).await, 404);
    let own = Session { key: other_key_of_owner, ..session.clone() };
    assert_eq!(status(own.post(&ping)).await, 200);
    // What a call may do comes from its own credential and not from the session's.
    let call = json!({"name": "launch_instance", "arguments": {"image": "nginx"}});
    let call = mcp::request(Era::Legacy, json!(3), "tools/call", call);
    let refused =
        within("a refusal", session.post(&call).send()).await.unwrap().text().await.unwrap();
    assert!(refused.contains("Forbidden"), "{refused}");
    assert_eq!(status(session.delete()).await, 204);
    assert_eq!(status(session.post(&ping)).await, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_nobody_ends_make_room_for_new_ones() {
    let world = World::with_nodes(0).await;
    let site = mcp::site(&world).await;
    let key = world.api_key(DEMO, &[Permission::Read]).await;
    let of_admin = Session::begin(&site, &world.api_key(ADMIN, &[Permission::Read]).await).await;
    let first = Session::begin(&site, &key).await;
    let kept = Session::begin(&site, &key).await;
    let ping = mcp::request(Era::Legacy, json!(2), "ping", json!({}));
    for _ in 0..33 {
        join_all((0..31).map(|_| Session::begin(&site, &key))).await;
        // In use, and therefore never the one unused for longest.
        assert_eq!(status(kept.post(&ping)).await, 200);
    }
    assert_eq!(status(first.post(&ping)).await, 404, "the 1,025th took its place");
    assert_eq!(status(of_admin.post(&ping)).await, 200, "others are not touched");
}

async fn refusal(site: &Site, key: &str, body: &'static str) -> (u16, i64) {
    let request = mcp::post(site, key, &list_tools()).body(body);
    let response = within("a refusal", request.send()).await.unwrap();
    let status = response.status().as_u16();
    let body: Value = response.json().await.unwrap();
    assert_eq!((&body["jsonrpc"], &body["id"]), (&json!("2.0"), &Value::Null), "{body}");
    (status, body["error"]["code"].as_i64().unwrap())
}

/// The status, and which of the known hints the JSON body has.
async fn in_words(request: reqwest::RequestBuilder) -> (u16, String) {
    let response = within("a refusal", request.send()).await.unwrap();
    let status = response.status().as_u16();
    assert_eq!(response.headers()["content-type"], "application/json");
    let body: Value = response.json().await.unwrap();
    let message = body["error"]["message"].as_str().unwrap();
    let hints =
        ["Accept: application/json", "Content-Type: application/json", "`initialize`", "POST"];
    let hint = hints.into_iter().find(|it| message.contains(it));
    (status, hint.unwrap_or_else(|| panic!("{body}")).to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_message_is_refused_in_the_words_of_the_protocol() {
    let world = World::with_nodes(0).await;
    let site = mcp::site(&world).await;
    let key = world.api_key(DEMO, &[Permission::Read]).await;
    assert_eq!(refusal(&site, &key, "{\"jsonrpc\": \"2.0\", ").await, (400, -32700));
    assert_eq!(refusal(&site, &key, "").await, (400, -32700));
    assert_eq!(refusal(&site, &key, "[]").await, (400, -32600));
    assert_eq!(refusal(&site, &key, "{\"id\": 1}").await, (400, -32600));
    assert_eq!(refusal(&site, &key, "17").await, (400, -32600));
    let text = mcp::http_client()
        .post(&site.url)
        .bearer_auth(&key)
        .header("accept", "application/json, text/event-stream")
        .header("content-type", "text/plain");
    assert_eq!(in_words(text.body("{}")).await, (415, "Content-Type: application/json".into()));
    let put = mcp::http_client().put(&site.url).bearer_auth(&key);
    assert_eq!(in_words(put).await, (405, "POST".into()));
    let choosy = mcp::http_client().post(&site.url).bearer_auth(&key).header("accept", "text/html");
    let choosy = choosy.header("content-type", "application/json").body(list_tools().to_string());
    assert_eq!(in_words(choosy).await, (406, "Accept: application/json".into()));
    let session = Session::begin(&site, &key).await;
    assert_eq!(status(session.delete()).await, 204);
    let ping = mcp::request(Era::Legacy, json!(1), "ping", json!({}));
    assert_eq!(in_words(session.post(&ping)).await, (404, "`initialize`".into()));
}

/// Nobody waits for an event stream when one object says it all.
#[tokio::test(flavor = "multi_thread")]
async fn a_plain_answer_is_plain_json() {
    let world = World::with_nodes(1).await;
    let site = mcp::site(&world).await;
    let key = world.api_key(DEMO, &[Permission::Read]).await;
    let call = json!({"name": "list_instances", "arguments": {}});
    let message = mcp::request(Era::Modern, json!(1), "tools/call", call);
    let response = mcp::post(&site, &key, &message).send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/json");
    let answer: Value = response.json().await.unwrap();
    assert_eq!(answer["result"]["structuredContent"]["total_count"], 0);
}
