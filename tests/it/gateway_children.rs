//! Servers that are child processes: how many, how large, how often, and nothing left of them.

use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::{Value, json};

use crate::gateway_safety::{Gateway, tool};
use crate::harness::eventually;
use crate::harness::shell::{Shell, n_of_group};

#[tokio::test]
async fn children_that_outlive_a_killed_gateway_are_ended_at_the_next_start() {
    let shell = Shell::offering(&json!([tool("a")]));
    // Neither the end of its input nor a request ends it, nor what it starts.
    shell.set("deaf", true);
    let servers = json!({"s": shell.entry()});
    let gateway = Gateway::before(servers.clone()).await;
    gateway.until("s", "ready").await;
    let first = shell.pids()[0];
    assert!(2 <= n_of_group(first), "with what it started");
    let kept = fs_err::read_dir(gateway.kept("children")).unwrap().count();
    assert_eq!(kept, 1);

    let gateway = gateway.killed_and_started(servers, json!({})).await;
    gateway.until("s", "ready").await;
    assert_eq!(n_of_group(first), 0);
    let second = shell.pids()[1];
    assert!(2 <= n_of_group(second));
    // And one that is asked to end is ended, if need be by force, with what it started.
    let (status, _) = gateway.server.call("DELETE", "/servers/s", None).await;
    assert_eq!(status, 200);
    eventually("nothing of it", || async { (n_of_group(second) == 0).then_some(()) }).await;
    eventually("no note of it", || async {
        (fs_err::read_dir(gateway.kept("children")).unwrap().count() == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_child_that_takes_too_much_memory_is_ended_and_started_again() {
    let shell = Shell::offering(&json!([tool("eat"), tool("a")]));
    let entry = shell.entry_with(&json!({"limits": {"memory": "30MB"}}));
    let gateway = Gateway::before(json!({"s": entry})).await;
    gateway.until("s", "ready").await;
    let first = shell.pids()[0];
    // It is answered or lost, as it comes.
    let answer = gateway.call("s__eat").await;
    let failed = eventually("failed", || async {
        let about = gateway.about("s").await;
        (about["state"] == "failed" || shell.pids().len() == 2).then_some(about)
    })
    .await;
    if failed["state"] == "failed" {
        let reason = failed["reason"].as_str().unwrap();
        assert!(reason.contains("over its memory limit of 30 MB"), "{reason} {answer}");
    }
    assert!(gateway.server.log().contains("over its memory limit of 30 MB"));
    eventually("nothing of it", || async { (n_of_group(first) == 0).then_some(()) }).await;
    gateway.until("s", "ready").await;
    assert_eq!(gateway.call("s__a").await["content"][0]["text"], "fine");
    assert_eq!(shell.pids().len(), 2);
}

#[tokio::test]
async fn calls_wait_for_their_turn_and_no_longer_than_they_may() {
    let (shell, impatient) =
        (Shell::offering(&json!([tool("slow")])), Shell::offering(&json!([tool("slow")])));
    let servers = json!({
        "s": shell.entry_with(&json!({"limits": {"concurrency": 2}})),
        "t": impatient.entry_with(&json!({"limits": {"concurrency": 1}, "timeout": 1}))
    });
    let gateway = Gateway::before(servers).await;
    gateway.until("s", "ready").await;
    gateway.until("t", "ready").await;

    let timed_out = |it: &Value| it["structuredContent"]["error"] == "UpstreamTimeout";
    let begun = Instant::now();
    let answers = join_all((0..3).map(|_| gateway.call("t__slow"))).await;
    assert!(answers.iter().all(timed_out), "{answers:?}");
    // The wait counts: one after the other, they would have taken three seconds.
    assert!(begun.elapsed() < Duration::from_millis(2500), "{:?}", begun.elapsed());
    impatient.set("go", true);
    let answer = gateway.call("t__slow").await;
    assert_eq!(answer["content"], json!([]), "the turn was given back: {answer}");

    let calls = join_all((0..6).map(|_| gateway.call("s__slow")));
    let released = async {
        eventually("two under way", || async { (shell.lines("turns").len() == 2).then_some(()) })
            .await;
        shell.set("go", true);
    };
    let (answers, ()) = tokio::join!(calls, released);
    assert!(answers.iter().all(|it| it["content"] == json!([])), "{answers:?}");
    let (mut now, mut most) = (0, 0);
    for line in shell.lines("turns") {
        now += if line == "+" { 1 } else { -1 };
        most = most.max(now);
    }
    assert_eq!((now, most), (0, 2));
}

#[tokio::test]
async fn there_are_no_more_children_than_may_be() {
    let (first, second) =
        (Shell::offering(&json!([tool("a")])), Shell::offering(&json!([tool("a")])));
    let servers = json!({"a": first.entry(), "b": second.entry()});
    let gateway = Gateway::configured(servers, json!({"max_children": 1})).await;
    let (ready, failed) = eventually("one of them", || async {
        let states = [gateway.about("a").await, gateway.about("b").await];
        match (states[0]["state"].as_str(), states[1]["state"].as_str()) {
            (Some("ready"), Some("failed")) => Some(("a", "b")),
            (Some("failed"), Some("ready")) => Some(("b", "a")),
            _ => None,
        }
    })
    .await;
    let reason = gateway.about(failed).await["reason"].take();
    assert!(reason.as_str().unwrap().contains("`gateway.max_children`"), "{reason}");
    let (status, _) = gateway.server.call("DELETE", &format!("/servers/{ready}"), None).await;
    assert_eq!(status, 200);
    gateway.until(failed, "ready").await;
}

#[tokio::test]
async fn a_server_that_always_dies_is_started_again_and_again_but_ever_less_often() {
    let shell = Shell::offering(&json!([tool("a")]));
    shell.set("broken", true);
    let begun = Instant::now();
    let gateway = Gateway::before(json!({"s": shell.entry()})).await;
    eventually("four starts", || async { (4 <= shell.pids().len()).then_some(()) }).await;
    // 0.5, 1 and 2 seconds, each a quarter less at most.
    assert!(Duration::from_millis(2600) < begun.elapsed(), "{:?}", begun.elapsed());
    // Calls meanwhile start nothing.
    for _ in 0..50 {
        let (status, refusal) = gateway.server.call("POST", "/tools/s.a", Some(json!({}))).await;
        assert_eq!((status, &refusal["error"]), (502, &json!("UpstreamError")), "{refusal}");
    }
    assert!(shell.pids().len() <= 5, "{:?}", shell.pids());
    let reason = gateway.about("s").await["reason"].take();
    assert!(reason.as_str().is_none_or(|it| it.contains("it broke")), "{reason}");
    shell.set("broken", false);
    gateway.until("s", "ready").await;
    assert_eq!(gateway.call("s__a").await["content"][0]["text"], "fine");
}

#[tokio::test]
async fn what_is_not_enabled_is_not_started_and_other_keys_are_counted() {
    let (off, on) = (Shell::offering(&json!([tool("a")])), Shell::offering(&json!([tool("a")])));
    let servers = json!({"off": off.entry_with(&json!({"enabled": false})), "on": on.entry()});
    let gateway = Gateway::before(servers).await;
    gateway.until("on", "ready").await;
    gateway.call("on__a").await;
    assert_eq!(gateway.about("off").await["state"], "disabled");
    assert_eq!(off.pids().len(), 0);
    let metrics = crate::harness::http().get(format!("{}/metrics", gateway.server.url));
    let metrics = metrics.send().await.unwrap().text().await.unwrap();
    for line in [
        r#"mcp_orch_upstream_up{server="on"} 1"#,
        r#"mcp_orch_upstream_children{server="on"} 1"#,
        r#"mcp_orch_upstream_requests_total{server="on",outcome="ok"} 1"#,
        r#"mcp_orch_upstream_connections_total{server="on",outcome="connected"} 1"#,
        r#"mcp_orch_upstream_request_seconds_count{server="on"} 1"#,
    ] {
        assert!(metrics.contains(line), "{line} in\n{metrics}");
    }
}
