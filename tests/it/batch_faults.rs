//! What goes wrong at the servers that a batch calls: each fault ends in a state that says why, and none hangs a batch.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::batches::{Site, plan, state, step, why};
use crate::harness::fixture;
use crate::harness::{eventually, within};

#[tokio::test]
async fn a_tool_error_fails_its_step_and_what_needs_it_is_skipped_with_the_reason() {
    let site = Site::new().await;
    let refers = json!({"arguments": {"from": {"$ref": "bad#/structuredContent/key"}}});
    let steps = |on_error: &str| {
        plan(vec![
            step("bad", "work", json!({"arguments": {"do": "fail"}, "on_error": on_error})),
            step("needs", "work", refers.clone()),
            step("after", "work", json!({"depends_on": ["bad"]})),
            step("asks", "work", json!({"when": {"failed": "bad"}})),
            step("apart", "work", json!({})),
        ])
    };
    let failed = site.run(steps("fail")).await;
    assert_eq!((&failed["state"], state(&failed, "bad")), (&json!("failed"), "failed"));
    let said = failed["reason"]["message"].as_str().unwrap();
    assert_eq!(failed["reason"]["code"], "ToolError");
    assert!(said.contains("`bad`") && said.contains("bad does not want to"), "{said}");
    assert_eq!(state(&failed, "needs"), "skipped");

    let gone_on = site.run(steps("continue")).await;
    assert_eq!(gone_on["state"], "succeeded", "{gone_on}");
    for id in ["needs", "after"] {
        assert_eq!(state(&gone_on, id), "skipped");
        assert!(why(&gone_on, id).contains("`bad`, which is failed"), "{}", why(&gone_on, id));
    }
    assert_eq!((state(&gone_on, "asks"), state(&gone_on, "apart")), ("succeeded", "succeeded"));
    assert_eq!((site.shop.n_called("needs"), site.shop.n_called("after")), (0, 0));
}

#[tokio::test]
async fn a_step_that_takes_too_long_is_ended_there_and_says_so() {
    let site = Site::new().await;
    let hung = step("hung", "work", json!({"arguments": {"do": "hang"}, "timeout": 0.3}));
    let ended = site.run(plan(vec![hung])).await;
    assert_eq!(ended["state"], "failed");
    let said = why(&ended, "hung");
    assert!(said.starts_with("DeadlineExceeded: ") && said.contains("0.3 s"), "{said}");
    assert!(said.contains("not known"), "it may have been done: {said}");
    site.shop.until("the upstream to be told", |all| all[0].cancelled.is_some()).await;
    assert_eq!(site.shop.n_called("hung"), 1, "not tried again");
}

#[tokio::test]
async fn an_upstream_killed_in_the_middle_of_a_call_fails_the_step() {
    let site = Site::with(json!({"servers": {"child": fixture::stdio("both")}})).await;
    let hold = json!({"id": "held", "tool": "child.hold", "arguments": {}, "on_error": "continue"});
    let id = site.execute(plan(vec![hold, step("other", "work", json!({}))])).await;
    eventually("the call to be there", || async {
        let seen = site.status(&id).await;
        (state(&seen, "held") == "running" && state(&seen, "other") == "succeeded").then_some(())
    })
    .await;
    let child = eventually("the child", || async { child_of(site.server.pid()) }).await;
    let killed = std::process::Command::new("kill").args(["-9", &child.to_string()]).status();
    assert!(killed.unwrap().success());
    let ended = site.ended(&id).await;
    assert_eq!((&ended["state"], state(&ended, "held")), (&json!("succeeded"), "failed"));
    assert!(why(&ended, "held").starts_with("Upstream"), "{}", why(&ended, "held"));
}

/// The fixture that a server has started.
fn child_of(parent: u32) -> Option<u32> {
    fs_err::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs_err::read_to_string(entry.path().join("stat")).ok()?;
        let rest: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let command = fs_err::read_to_string(entry.path().join("cmdline")).ok()?;
        (rest.get(1)?.parse() == Ok(parent) && command.contains("mcp-fixture")).then_some(pid)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_with_a_thousand_calls_under_way_is_cancelled_everywhere_and_calls_nothing_more() {
    let many = json!({"max_parallel_total": 2000, "max_parallel_per_server": 2000});
    let site = Site::with(json!({"execution": many})).await;
    let steps: Vec<Value> = (0..1500)
        .map(|n| step(&format!("s{n}"), "work", json!({"arguments": {"do": "hang"}})))
        .collect();
    let mut body = plan(steps);
    body["max_parallel_tasks"] = json!(1000);
    let id = site.execute(body).await;
    site.shop.until("a thousand calls", |all| all.len() == 1000).await;
    let asked = Instant::now();
    let (status, said) = site.server.call("DELETE", &format!("/batch/cancel/{id}"), None).await;
    let acknowledged = Instant::now();
    assert_eq!((status, &said["state"]), (200, &json!("cancelled")), "{said}");
    let told =
        |all: &[crate::harness::workshop::Called]| all.iter().all(|it| it.cancelled.is_some());
    site.shop.until("all of them told", told).await;
    let calls = site.shop.calls();
    let mut after: Vec<Duration> = calls.iter().map(|it| it.cancelled.unwrap() - asked).collect();
    after.sort();
    println!(
        "acknowledged after {:?}, told p50 {:?}, p99 {:?}",
        acknowledged - asked,
        after[500],
        after[989]
    );
    assert!(calls.iter().all(|it| it.at <= acknowledged));
    assert_eq!(calls.len(), 1000);
    let ended = site.status(&id).await;
    assert_eq!(ended["state"], "cancelled");
    assert_eq!(ended["steps"]["cancelled"], 1500, "{}", ended["steps"]);
    assert!(ended["reason"]["message"].as_str().unwrap().contains("cancelled by"));
    // Were something still on its way it would come before the answer to this.
    site.run(plan(vec![step("last", "work", json!({}))])).await;
    assert_eq!(site.shop.calls().len(), 1001);
    // Once more is no error and changes nothing.
    let (status, _) = site.server.call("DELETE", &format!("/batch/cancel/{id}"), None).await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn a_cycle_is_refused_by_name() {
    let site = Site::new().await;
    let steps = vec![
        step("a", "work", json!({"depends_on": ["c"]})),
        step("b", "work", json!({"arguments": {"x": {"$ref": "a#/structuredContent/key"}}})),
        step("c", "work", json!({"depends_on": ["b"]})),
    ];
    let (status, said) = site.server.call("POST", "/batch/execute", Some(plan(steps))).await;
    assert_eq!(status, 400, "{said}");
    let problems = said["problems"].to_string();
    assert!(problems.contains("wait for one another"), "{problems}");
    assert!(["a", "b", "c"].iter().all(|it| problems.contains(&format!("`{it}`"))), "{problems}");
    assert!(site.shop.calls().is_empty());
}

#[tokio::test]
async fn a_hung_upstream_does_not_take_a_batch_beyond_its_deadline() {
    let site = Site::new().await;
    let mut body = plan(vec![
        step("done", "work", json!({})),
        step("hung", "work", json!({"arguments": {"do": "hang"}})),
        step("never", "work", json!({"depends_on": ["hung"]})),
    ]);
    body["deadline"] = json!(1.5);
    let begun = Instant::now();
    let ended = site.run(body).await;
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(ended["elapsed_ms"].as_u64().unwrap() < 2_500, "{ended}");
    assert_eq!(
        (&ended["state"], &ended["reason"]["code"]),
        (&json!("failed"), &json!("DeadlineExceeded"))
    );
    assert_eq!((state(&ended, "done"), state(&ended, "hung")), ("succeeded", "cancelled"));
    assert!(why(&ended, "hung").starts_with("DeadlineExceeded"));
    let is_told = |all: &[crate::harness::workshop::Called]| {
        all.iter().any(|it| it.key == "hung" && it.cancelled.is_some())
    };
    site.shop.until("the upstream to be told", is_told).await;
    assert_eq!(site.shop.n_called("never"), 0);
}

#[tokio::test]
async fn a_small_batch_ends_while_a_huge_one_goes_on() {
    let limits = json!({"max_parallel_total": 8, "max_parallel_per_server": 4});
    let site = Site::with(json!({"execution": limits})).await;
    let slow = |id: String| step(&id, "work", json!({"arguments": {"ms": 20}}));
    let mut huge = plan((0..2000).map(|n| slow(format!("huge{n}"))).collect());
    huge["max_parallel_tasks"] = json!(1000);
    let huge = site.execute(huge).await;
    site.shop.until("the huge one to run", |all| 20 <= all.len()).await;
    let before = site.shop.calls().len();
    let small = site.run(plan((0..20).map(|n| slow(format!("small{n}"))).collect())).await;
    assert_eq!(small["state"], "succeeded", "{small}");
    let meanwhile = site.shop.calls().len() - before;
    assert!(meanwhile < 200, "{meanwhile} calls until 20 of them were the small one's");
    let seen = site.status(&huge).await;
    assert_eq!(seen["state"], "running");
    // The server's limit held all the time.
    let calls = site.shop.calls();
    let at_once = |at: Instant| {
        calls.iter().filter(|it| it.at <= at && it.ended.is_none_or(|end| at < end)).count()
    };
    assert!(calls.iter().all(|it| at_once(it.at) <= 4));
    within("the cancellation", site.server.call("DELETE", &format!("/batch/cancel/{huge}"), None))
        .await;
}
