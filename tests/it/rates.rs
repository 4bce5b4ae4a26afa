//! How often callers may call, and servers may be called: exactly so often, whichever face a call comes by.

use futures::future::join_all;
use serde_json::{Value, json};

use crate::harness::guarded::Guarded;
use crate::harness::witness::Witness;

/// Nothing comes back within a test.
const SLOW: &str = "gateway: {rate: {per_minute: 1, burst: 3}}\n";

#[tokio::test]
async fn a_caller_has_so_many_calls_over_all_faces() {
    let witness = Witness::default();
    let site = Guarded::start(json!({"files": {"url": witness.start().await}}), SLOW).await;
    let key = site.key(json!({})).await;
    let answer = site.tool(&key, "files__read_file", json!({})).await;
    assert_eq!(answer["result"]["isError"], false, "{answer}");
    let path = "/tools/files.read_file";
    assert_eq!(site.rest(&key, "POST", path, Some(json!({}))).await.status, 200);
    let answer = site.tool(&key, "call_tool", json!({"name": "files.read_file"})).await;
    assert_eq!(answer["result"]["isError"], false, "{answer}");

    // Refused the same way by the way it came: as a result that the model reads, and with the header of HTTP.
    for name in ["files__read_file", "call_tool"] {
        let refused = site.tool(&key, name, json!({"name": "files.read_file"})).await;
        let refused = &refused["result"];
        assert_eq!(refused["isError"], true, "{refused}");
        assert_eq!(refused["structuredContent"]["error"], "TooManyRequests", "{refused}");
        let wait = refused["structuredContent"]["retry_after_ms"].as_u64().unwrap();
        assert!((1..=60_000).contains(&wait), "{wait}");
        assert!(refused["content"][0]["text"].as_str().unwrap().contains("try again in"));
    }
    let refused = site.rest(&key, "POST", path, Some(json!({}))).await;
    assert_eq!(refused.status, 429);
    let wait = refused.body["retry_after_ms"].as_u64().unwrap();
    let seconds: u64 = refused.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert_eq!(wait.div_ceil(1000), seconds);
    let refused = site.ask(&key, "resources/read", json!({"uri": "witness://about"})).await;
    assert_eq!(refused["error"]["data"]["error"], "TooManyRequests", "{refused}");
    assert_eq!(witness.heard("tools/call").len(), 3);
    assert!(witness.heard("resources/read").is_empty());

    // What is our own is not counted, and another key has its own.
    assert_eq!(site.rest(&key, "GET", "/cluster/nodes", None).await.status, 200);
    let other = site.key(json!({})).await;
    assert_eq!(site.rest(&other, "POST", path, Some(json!({}))).await.status, 200);

    let audit = site.server.get("/audit?operation=call_tool").await;
    let refused: Vec<&Value> = audit["entries"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|it| it["outcome"] == "refused")
        .collect();
    assert_eq!(refused.len(), 3, "{audit}");
    assert!(refused.iter().all(|it| it["error"] == "TooManyRequests"), "{refused:?}");
}

#[tokio::test]
async fn a_server_gets_exactly_so_many_calls_from_all_at_once() {
    let (slow, free) = (Witness::default(), Witness::default());
    let servers = json!({
        "slow": {"url": slow.start().await, "limits": {"rate": {"per_minute": 1, "burst": 5}}},
        "free": {"url": free.start().await}
    });
    let site = Guarded::start(servers, "").await;
    let keys = join_all((0..3).map(|_| site.key(json!({})))).await;
    let calls = (0..30).map(|i| {
        let (site, key) = (&site, &keys[i % 3]);
        async move {
            let is_done = match i % 2 {
                0 => {
                    site.tool(key, "slow__read_file", json!({})).await["result"]["isError"] == false
                }
                _ => {
                    site.rest(key, "POST", "/tools/slow.read_file", Some(json!({}))).await.status
                        == 200
                }
            };
            usize::from(is_done)
        }
    });
    let n_done: usize = join_all(calls).await.into_iter().sum();
    assert_eq!((n_done, slow.heard("tools/call").len()), (5, 5));
    let answer = site.tool(&keys[0], "free__read_file", json!({})).await;
    assert_eq!(answer["result"]["isError"], false, "the others are as they were");
}
