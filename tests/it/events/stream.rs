//! The stream of `GET /events`: where it begins, what it says, and how it ends.

use std::time::Duration;

use http::header;
use orch_core::settings::Settings;
use orch_domain::caller::Permission;
use serde_json::json;

use crate::harness::caller::{ADMIN, DEMO};
use crate::harness::cloud::{Cloud, ask};
use crate::harness::{eventually, within};

use super::{asking, list, open, refused, revisions};

/// A server with a short memory and a quick heart.
async fn hasty() -> Cloud {
    let settings =
        Settings { events_kept: 20, heartbeat: Duration::from_millis(100), ..Settings::default() };
    Cloud::demo_with(settings).await
}

/// Changes of one node, each one event, ending with it uncordoned.
async fn change(cloud: &Cloud, n: usize) {
    for _ in 0..n / 2 {
        for operation in ["cordon_node", "uncordon_node"] {
            cloud.ok(ADMIN, operation, json!({"node_id": "sim-1"})).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_and_then_the_stream_leave_no_gap() {
    let cloud = Cloud::demo().await;
    let listed = list(&cloud, ADMIN, "").await;
    let since = listed["revision"].as_u64().unwrap();
    change(&cloud, 4).await;
    let request = asking(ADMIN, &format!("?since_revision={since}"));
    let (headers, mut blocks) = open(&cloud, request).await;
    assert_eq!(headers[header::CONTENT_TYPE], "text/event-stream");
    assert_eq!(headers[header::CACHE_CONTROL], "no-cache");
    assert_eq!(headers["x-accel-buffering"], "no", "a proxy such as nginx passes on at once");
    change(&cloud, 4).await;
    let mut seen = Vec::new();
    for n in 1..=8 {
        let kind = if n % 2 == 1 { "node.cordoned" } else { "node.uncordoned" };
        let block = blocks.expect(kind).await;
        assert_eq!(block.id, block.data["revision"].as_u64());
        assert_eq!(block.data["kind"], kind);
        seen.push(block.id.unwrap());
    }
    assert_eq!(seen, (since + 1..=since + 8).collect::<Vec<_>>());
    // What the list says is what the stream said.
    let listed = list(&cloud, ADMIN, &format!("?since_revision={since}")).await;
    assert_eq!(revisions(&listed["events"]), seen.iter().rev().copied().collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_place_it_begins_now_and_says_where_that_is() {
    let cloud = Cloud::demo().await;
    change(&cloud, 2).await;
    let now = list(&cloud, ADMIN, "").await["revision"].as_u64();
    let (_, mut blocks) = open(&cloud, asking(ADMIN, "")).await;
    let first = blocks.next().await.unwrap();
    assert_eq!(
        (first.id, first.event.as_str()),
        (now, ""),
        "a client that is cut now goes on from here"
    );
    change(&cloud, 2).await;
    assert_eq!(blocks.expect("node.cordoned").await.id, now.map(|it| it + 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_says_only_what_was_asked_for_and_what_the_caller_may_know() {
    let cloud = hasty().await;
    let (_, mut nodes) = open(&cloud, asking(DEMO, "?kind=node.cordoned")).await;
    let (_, mut all) = open(&cloud, asking(DEMO, "")).await;
    cloud.ok(ADMIN, "launch_instance", json!({"image": "busybox"})).await;
    let mine = cloud.ok(DEMO, "launch_instance", json!({"image": "busybox"})).await["id"].clone();
    change(&cloud, 2).await;
    for kind in ["instance.pending", "instance.running"] {
        assert_eq!(all.expect(kind).await.data["subject"]["id"], mine);
    }
    let cordoned = all.expect("node.cordoned").await;
    assert!(cordoned.data.get("actor").is_none(), "{cordoned:?}");
    assert_eq!(nodes.expect("node.cordoned").await, cordoned);
    // The place of a client moves on past what is not for it, so that it does not fall behind what is kept.
    let newest = list(&cloud, ADMIN, "").await["revision"].as_u64();
    while nodes.next().await.unwrap().id != newest {}
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_is_broken_by_comments() {
    let cloud = hasty().await;
    let (_, mut blocks) = open(&cloud, asking(DEMO, "")).await;
    blocks.next().await.unwrap();
    for _ in 0..3 {
        let beat = blocks.next().await.unwrap();
        assert_eq!((beat.comment.as_str(), beat.event.as_str()), ("alive", ""));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_what_is_not_kept_is_told_to_list_again() {
    let cloud = hasty().await;
    change(&cloud, 40).await;
    for back in [1, 1000] {
        let listed = list(&cloud, ADMIN, "?page_size=1000").await;
        let (oldest, newest) =
            (listed["oldest_revision"].as_u64().unwrap(), listed["revision"].as_u64().unwrap());
        assert_eq!(newest - oldest, 19);
        assert_eq!(revisions(&listed["events"]).last(), Some(&oldest));
        // One before the place from which all is still there.
        let asked = (oldest - 1).saturating_sub(back);
        let request = asking(ADMIN, "").header("last-event-id", &asked.to_string());
        let (_, mut blocks) = open(&cloud, request).await;
        let reset = blocks.expect("reset").await;
        assert_eq!(reset.id, Some(newest), "the next connection goes on from here");
        assert_eq!(reset.data["oldest_revision"], oldest);
        assert_eq!(reset.data["revision"], newest);
        change(&cloud, 2).await;
        assert_eq!(blocks.expect("node.cordoned").await.id, Some(newest + 1));
        assert_eq!(blocks.expect("node.uncordoned").await.id, Some(newest + 2));
    }
    // The oldest that is kept can still be followed.
    let oldest = list(&cloud, ADMIN, "").await["oldest_revision"].as_u64().unwrap();
    let request = asking(ADMIN, &format!("?last_event_id={}", oldest - 1));
    let (_, mut blocks) = open(&cloud, request).await;
    assert_eq!(blocks.told().await.unwrap().id, Some(oldest));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_never_was_is_told_so() {
    let cloud = Cloud::demo().await;
    let newest = list(&cloud, ADMIN, "").await["revision"].as_u64().unwrap();
    let request = asking(ADMIN, "").header("last-event-id", &(newest + 1).to_string());
    let (_, mut blocks) = open(&cloud, request).await;
    assert_eq!(blocks.expect("reset").await.data["revision"], newest);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_is_cut_off_and_loses_nothing() {
    let settings = Settings { heartbeat: Duration::from_millis(100), ..Settings::default() };
    let cloud = Cloud::demo_with(settings).await;
    let since = list(&cloud, ADMIN, "").await["revision"].as_u64().unwrap();
    let mut unread = Vec::new();
    // As many as one user may have.
    while unread.len() < 64 {
        unread.push(open(&cloud, asking(ADMIN, "")).await.1);
    }
    refused(&cloud, asking(ADMIN, "")).await.problem(429, "TooManyRequests");
    open(&cloud, asking(DEMO, "")).await;
    change(&cloud, 100).await;
    // They are given up without any of them reading a byte.
    eventually("there is room again", || async {
        use tower::ServiceExt;
        let request = asking(ADMIN, "").header("accept", "text/event-stream").request();
        let response = cloud.router.clone().oneshot(request).await.unwrap();
        (response.status() == 200).then_some(())
    })
    .await;
    let mut cut = unread.pop().unwrap();
    let mut seen = Vec::new();
    while let Some(block) = cut.told().await {
        seen.push(block.id.unwrap());
    }
    assert!(seen.len() <= 64, "only so many were kept for it: {}", seen.len());
    let last = seen.last().copied().unwrap_or(since);
    let request = asking(ADMIN, "").header("last-event-id", &last.to_string());
    let (_, mut again) = open(&cloud, request).await;
    while seen.len() < 100 {
        seen.push(again.told().await.unwrap().id.unwrap());
    }
    assert_eq!(seen, (since + 1..=since + 100).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_with_the_key_it_was_opened_with() {
    let cloud = Cloud::start().await;
    let key = cloud.api_key(DEMO, &[Permission::Read]).await;
    let (_, mut blocks) = open(&cloud, ask("GET", "/events").bearer(&key)).await;
    change(&cloud, 2).await;
    blocks.expect("node.cordoned").await;
    blocks.expect("node.uncordoned").await;
    let keys = cloud.ok(ADMIN, "list_api_keys", json!({})).await;
    let key_id =
        &keys["api_keys"].as_array().unwrap().iter().find(|it| it["user"] == DEMO).unwrap()["id"];
    cloud.ok(ADMIN, "revoke_api_key", json!({"key_id": key_id})).await;
    change(&cloud, 2).await;
    let last = blocks.expect("error").await;
    assert_eq!(last.data["error"], "Unauthenticated", "{last:?}");
    assert_eq!(blocks.next().await, None, "nothing after it");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_when_its_user_may_not_look_any_more() {
    let cloud = Cloud::start().await;
    let key = cloud.api_key(DEMO, &[Permission::Read]).await;
    let (_, mut blocks) = open(&cloud, ask("GET", "/events").bearer(&key)).await;
    let nothing = json!({"user_id": DEMO, "permissions": ["write"]});
    cloud.ok(ADMIN, "update_user", nothing).await;
    let last = blocks.expect("error").await;
    assert!(
        ["Forbidden", "Unauthenticated"].contains(&last.data["error"].as_str().unwrap()),
        "{last:?}"
    );
    assert_eq!(blocks.next().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_with_the_server_and_keeps_it_from_nothing() {
    let cloud = Cloud::demo().await;
    let (_, mut blocks) = open(&cloud, asking(DEMO, "")).await;
    let (_, _unread) = open(&cloud, asking(DEMO, "")).await;
    assert!(within("the drain", cloud.orch().drain(Duration::from_secs(10))).await);
    blocks.expect("end").await;
    assert_eq!(blocks.next().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stream_cannot_heed_is_refused_before_it_begins() {
    let cloud = Cloud::demo().await;
    for bad in
        ["?page_size=5", "?last_event_id=x", "?kind=nonsense", "?wait_seconds=5", "?nonsense=1"]
    {
        refused(&cloud, asking(ADMIN, bad)).await.problem(400, "InvalidParameter");
    }
    let head = ask("HEAD", "/events").header("x-user-id", DEMO);
    assert_eq!(within("no stream", refused(&cloud, head)).await.status, 200);
}
