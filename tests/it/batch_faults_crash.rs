//! Our own server dies or is restarted in the middle of a batch.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::harness::batches::{Site, plan, state, step, why};
use crate::harness::eventually;

const WAITS: &str = "wait";

#[tokio::test(flavor = "multi_thread")]
async fn killed_with_a_hundred_calls_under_way_it_repeats_none_that_must_not_be_repeated() {
    let site = Site::new().await;
    let mut steps: Vec<Value> =
        (0..20).map(|n| step(&format!("done{n}"), "work", json!({}))).collect();
    for n in 0..50 {
        let waits = json!({"arguments": {"do": WAITS}, "on_error": "continue"});
        steps.push(step(&format!("work{n}"), "work", waits.clone()));
        steps.push(step(&format!("read{n}"), "read", waits));
        let after = json!({"depends_on": [format!("work{n}")]});
        steps.push(step(&format!("after_work{n}"), "work", after));
        let takes =
            json!({"arguments": {"x": {"$ref": format!("read{n}#/structuredContent/key")}}});
        steps.push(step(&format!("after_read{n}"), "work", takes));
    }
    let takes = json!({"arguments": {"x": {"$ref": "done0#/structuredContent/key"}}, "depends_on": ["read0"]});
    steps.push(step("takes_old", "work", takes));
    let mut body = plan(steps);
    body["max_parallel_tasks"] = json!(200);
    let id = site.execute(body).await;
    site.shop.until("120 calls", |all| all.len() == 120).await;
    eventually("the first ones to be known", || async {
        (site.status(&id).await["steps"]["succeeded"] == 20).then_some(())
    })
    .await;
    let shop = site.shop.clone();
    let site = site.kill_and_restart().await;
    // What may be read again is; nothing else is.
    shop.until("what may be repeated", |all| all.len() == 170).await;
    shop.open();
    let ended = site.ended(&id).await;
    assert_eq!(ended["state"], "succeeded", "{}", ended["reason"]);
    for (key, n) in shop.by_key() {
        let is_read = key.starts_with("read");
        assert_eq!(n, if is_read { 2 } else { 1 }, "{key}");
    }
    for n in 0..50 {
        assert_eq!(state(&ended, &format!("work{n}")), "unknown");
        assert!(why(&ended, &format!("work{n}")).contains("could do it twice"));
        assert_eq!(state(&ended, &format!("after_work{n}")), "skipped");
        assert_eq!(state(&ended, &format!("read{n}")), "succeeded");
        assert_eq!(state(&ended, &format!("after_read{n}")), "succeeded");
    }
    let takes = shop.calls().into_iter().find(|it| it.key == "takes_old").unwrap();
    assert_eq!(takes.arguments["x"], "done0", "results outlive the server");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_unknown_after_a_crash_fails_the_batch_where_it_is_not_told_otherwise() {
    let site = Site::new().await;
    let waits = json!({"arguments": {"do": WAITS}});
    let steps = vec![step("a", "work", waits), step("b", "work", json!({"depends_on": ["a"]}))];
    let id = site.execute(plan(steps)).await;
    site.shop.until("the call", |all| all.len() == 1).await;
    let site = site.kill_and_restart().await;
    let ended = site.ended(&id).await;
    assert_eq!((&ended["state"], &ended["reason"]["code"]), (&json!("failed"), &json!("Unknown")));
    assert!(ended["reason"]["message"].as_str().unwrap().contains("`a`"), "{ended}");
    assert_eq!(site.shop.calls().len(), 1);
    // And so it stays.
    let site = site.kill_and_restart().await;
    assert_eq!(site.status(&id).await["state"], "failed");
    assert_eq!(state(&site.status(&id).await, "b"), "skipped");
}

#[tokio::test(flavor = "multi_thread")]
async fn launches_under_way_when_it_is_killed_are_one_instance_each() {
    let site = Site::new().await;
    let node =
        json!({"id": "n1", "hostname": "n1", "engine": "sim", "sim": {"cpu": 64, "memory": 256}});
    let (status, said) = site.server.call("POST", "/cluster/nodes", Some(node)).await;
    assert_eq!(status, 201, "{said}");
    let quota = json!({"quota": {"instances": 100, "cpu": 100, "memory": 400}});
    let (status, said) = site.server.call("PUT", "/users/admin", Some(quota)).await;
    assert_eq!(status, 200, "{said}");
    let launch = |n: usize| {
        let arguments = json!({"image": "web:1", "name": format!("web{n}"), "cpu": 1, "memory": 1});
        json!({"id": format!("l{n}"), "tool": "launch_instance", "arguments": arguments})
    };
    let mut body = plan((0..20).map(launch).collect());
    body["max_parallel_tasks"] = json!(20);
    let id = site.execute(body).await;
    eventually("some of them to be there", || async {
        (!site.server.instances().await.is_empty()).then_some(())
    })
    .await;
    let site = site.kill_and_restart().await;
    let ended = site.ended(&id).await;
    assert_eq!(ended["state"], "succeeded", "{ended}");
    let instances = site.server.instances().await;
    let names: BTreeSet<&str> = instances.iter().map(|it| it["name"].as_str().unwrap()).collect();
    assert_eq!((instances.len(), names.len()), (20, 20), "one each");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_in_the_middle_lets_calls_end_that_must_not_be_repeated_and_goes_on() {
    let site = Site::new().await;
    let mut steps = Vec::new();
    for n in 0..10 {
        let waits = json!({"arguments": {"do": WAITS}});
        steps.push(step(&format!("work{n}"), "work", waits.clone()));
        steps.push(step(&format!("read{n}"), "read", waits));
        let takes =
            json!({"arguments": {"x": {"$ref": format!("work{n}#/structuredContent/key")}}});
        steps.push(step(&format!("next{n}"), "work", takes));
    }
    let mut body = plan(steps);
    body["max_parallel_tasks"] = json!(30);
    let id = site.execute(body).await;
    let shop = site.shop.clone();
    shop.until("20 calls", |all| all.len() == 20).await;
    let opened = shop.clone();
    let pid = site.server.pid();
    #[expect(clippy::disallowed_methods, reason = "the test waits for what it does")]
    let opening = tokio::spawn(async move {
        // The server has closed its port: it waits only for what must not be repeated.
        eventually("the server to be ending", || async { is_ending(pid).then_some(()) }).await;
        opened.open();
    });
    let site = site.restart().await;
    opening.await.unwrap();
    let ended = site.ended(&id).await;
    assert_eq!(ended["state"], "succeeded", "{ended}");
    for (key, n) in shop.by_key() {
        assert!(n == 1 || (n == 2 && key.starts_with("read")), "{key}: {n}");
    }
}

/// It has no listening socket any more, or is gone.
fn is_ending(pid: u32) -> bool {
    let Ok(entries) = fs_err::read_dir(format!("/proc/{pid}/fd")) else { return true };
    let tcp = fs_err::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap_or_default();
    let listening: BTreeSet<&str> = tcp
        .lines()
        .filter_map(|it| {
            let parts: Vec<&str> = it.split_whitespace().collect();
            (*parts.get(3)? == "0A").then(|| parts.get(9).copied())?
        })
        .collect();
    !entries.flatten().any(|it| {
        let target = std::fs::read_link(it.path()).unwrap_or_default();
        let target = target.to_string_lossy().into_owned();
        let inode = target.strip_prefix("socket:[").and_then(|it| it.strip_suffix(']'));
        inode.is_some_and(|it| listening.contains(it))
    })
}
