//! Many clients at once: what is one's stays one's, whatever they share, and none leaves anything behind.

use futures::future::join_all;
use serde_json::{Value, json};

use crate::harness::eventually;
use crate::harness::fixture;
use crate::harness::gateway::{BEHIND, Gateway};
use crate::harness::wire::{Era, Wire};

fn tool(name: &str) -> String {
    format!("{BEHIND}__{name}")
}

async fn call(wire: &mut Wire, name: &str, arguments: Value) -> String {
    let step = wire.ask("tools/call", json!({"name": name, "arguments": arguments})).await;
    let text = step.result()["content"][0]["text"].as_str();
    text.unwrap_or_else(|| panic!("{step:?}")).to_owned()
}

/// All of them count their requests from 1, so their ids are the same.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_share_a_server_do_not_mix() {
    let gateway = Gateway::before(json!({BEHIND: fixture::stdio("legacy")})).await;
    let url = gateway.prefixed();
    let clients = (0..8).map(|i| {
        let url = url.clone();
        async move {
            let mut wire = Wire::http(&url, Era::Legacy).able(json!({}));
            wire.open().await;
            for n in 0..50 {
                let name = format!("client {i}, call {n}");
                let said = call(&mut wire, &tool("greet"), json!({"name": name})).await;
                assert_eq!(said, format!("Hello, {name}!"));
            }
            wire.end().await;
        }
    });
    join_all(clients).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_is_put_to_the_client_whose_call_it_is_about() {
    let gateway = Gateway::before(json!({BEHIND: fixture::stdio("legacy")})).await;
    let url = gateway.prefixed();
    let clients = (0..4).map(|i| {
        let url = url.clone();
        async move {
            let mut wire = Wire::http(&url, Era::Legacy);
            wire.open().await;
            for n in 0..10 {
                let message = format!("client {i}, call {n}");
                let arguments = json!({"message": message});
                let params = json!({"name": tool("test_elicitation"), "arguments": arguments});
                let step = wire.ask("tools/call", params).await;
                let asked: Vec<&Value> =
                    step.requests.iter().map(|it| &it["params"]["message"]).collect();
                assert_eq!(asked, [&json!(message)]);
                let said = step.result()["content"][0]["text"].as_str().unwrap();
                assert!(said.contains("Ada"), "{said}");
            }
            wire.end().await;
        }
    });
    join_all(clients).await;
}

/// Sampling and roots are as old as the protocol, elicitation is of 2025-06-18.
#[tokio::test(flavor = "multi_thread")]
async fn clients_of_older_revisions_are_asked_too() {
    let gateway = Gateway::before(json!({BEHIND: fixture::stdio("legacy")})).await;
    for version in ["2024-11-05", "2025-03-26", "2025-06-18"] {
        let mut wire = Wire::http(&gateway.prefixed(), Era::Legacy).speaking(version);
        let opened = wire.open().await;
        assert_eq!(opened.result()["protocolVersion"], version);
        let params = json!({"name": tool("test_sampling"), "arguments": {"prompt": "Why?"}});
        let step = wire.ask("tools/call", params).await;
        assert_eq!(step.requests.len(), 1, "{version}: {step:?}");
        assert_eq!(step.requests[0]["method"], "sampling/createMessage");
        assert_eq!(step.result()["content"][0]["text"], "LLM response: \"Paris\"");
        let params = json!({"name": tool("test_input_required_result_list_roots")});
        let step = wire.ask("tools/call", params).await;
        assert_eq!(step.requests[0]["method"], "roots/list", "{version}: {step:?}");
        wire.end().await;
    }
}

/// The processes that the gateway has started and not taken leave of, zombies among them.
fn n_children(pid: u32) -> usize {
    let of = |pid: &str| {
        let stat = fs_err::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name before it may hold anything.
        let parent = stat.rsplit(')').next()?.split_whitespace().nth(1)?.to_owned();
        parent.parse::<u32>().ok()
    };
    let processes = fs_err::read_dir("/proc").unwrap().filter_map(Result::ok);
    processes.filter(|it| of(it.file_name().to_str().unwrap()) == Some(pid)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_sessions_leave_no_process_behind() {
    let gateway = Gateway::before(json!({BEHIND: fixture::stdio("legacy")})).await;
    let (url, pid) = (gateway.prefixed(), gateway.server.pid());
    let before = n_children(pid);
    assert_eq!(before, 1, "the one server");
    for round in 0..20 {
        let sessions = (0..50).map(|i| {
            let url = url.clone();
            async move {
                let mut wire = Wire::http(&url, Era::Legacy).able(json!({}));
                wire.open().await;
                let name = format!("{round}.{i}");
                let said = call(&mut wire, &tool("greet"), json!({"name": name})).await;
                assert_eq!(said, format!("Hello, {name}!"));
                // One of ten goes away in the middle of a call, and says nothing.
                if i % 10 == 0 {
                    wire.begin("tools/call", json!({"name": tool("hold")})).await;
                    return Some(wire);
                }
                wire.end().await;
                None
            }
        });
        let held: Vec<Wire> = join_all(sessions).await.into_iter().flatten().collect();
        let n_held = 5 * (round + 1);
        let mut asking = Wire::http(&url, Era::Legacy).able(json!({}));
        asking.open().await;
        until_seen(&mut asking, "held", n_held).await;
        held.into_iter().for_each(Wire::hang_up);
        until_seen(&mut asking, "cancelled", n_held).await;
        asking.end().await;
    }
    assert_eq!(n_children(pid), before);

    // Those that can be asked something have a process of their own, for as long as they last.
    let mut able = Vec::new();
    for _ in 0..10 {
        let mut wire = Wire::http(&url, Era::Legacy);
        wire.open().await;
        call(&mut wire, &tool("greet"), json!({"name": "x"})).await;
        able.push(wire);
    }
    assert_eq!(n_children(pid), before + 10);
    join_all(able.into_iter().map(Wire::end)).await;
    eventually("their processes to end", || async { (n_children(pid) == before).then_some(()) })
        .await;
}

/// Until the server counts that many of its calls of `hold`.
async fn until_seen(wire: &mut Wire, what: &str, n: usize) {
    let wire = tokio::sync::Mutex::new(wire);
    eventually(&format!("{n} calls {what}"), || async {
        let params = json!({"name": tool("caller")});
        let step = wire.lock().await.ask("tools/call", params).await;
        (step.result()["structuredContent"][what] == n).then_some(())
    })
    .await;
}
