//! The life of a call: the main job, progress before its answer, and what is left when a caller withdraws.

use std::time::Duration;

use orch_domain::caller::Permission;
use orch_domain::node::SimConfig;
use rmcp::model::{CancelledNotificationParam, ClientRequest, Request, RequestId};
use rmcp::service::PeerRequestOptions;
use serde_json::{Value, json};

use crate::harness::mcp::{self, Bare, EVERY_WAY, Era, Heard, Session, Way};
use crate::harness::world::{ADMIN, DEMO, World};
use crate::harness::{eventually, within};

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_is_launched_used_and_terminated() {
    let world = World::with_nodes(2).await;
    for (way, era) in EVERY_WAY {
        let client = mcp::connect(&world, DEMO, way, era).await;
        let name = format!("web-{way:?}-{era:?}").to_lowercase();
        let launch = json!({"image": "nginx:alpine", "name": name, "ports": [80]});
        let launched = client.answer("launch_instance", launch).await;
        assert_eq!(launched["state"], "running");
        assert!(launched["address"].as_str().unwrap().starts_with("127.0.0.1:8"), "{launched}");
        let id = json!({"id": launched["id"]});
        assert_eq!(client.answer("get_instance", id.clone()).await["name"], name.as_str());
        assert_eq!(client.answer("list_instances", json!({"name": name})).await["total_count"], 1);
        assert_eq!(client.answer("stop_instance", id.clone()).await["state"], "stopped");
        let refusal = client.refusal("stop_instance", json!({"id": "i-00000000000000000"})).await;
        assert_eq!(refusal["error"], "NotFound");
        assert_eq!(client.answer("start_instance", id.clone()).await["state"], "running");
        assert_eq!(client.answer("terminate_instance", id.clone()).await["state"], "terminated");
    }
    assert_eq!((world.n_live(), world.n_containers()), (0, 0));
}

/// `progress` and `answer` of one call in the order in which they came.
fn check_order(messages: &[Value], token: &Value, id: &Value) {
    let (answer, before) = messages.split_last().unwrap();
    assert_eq!(&answer["id"], id, "the answer comes last: {messages:?}");
    assert_eq!(answer["result"]["structuredContent"]["state"], "running", "{answer}");
    let mut last = 0.0;
    for message in before {
        assert_eq!(message["method"], "notifications/progress", "{message}");
        assert_eq!(&message["params"]["progressToken"], token);
        let progress = message["params"]["progress"].as_f64().unwrap();
        assert!(last < progress, "{progress} after {last}");
        last = progress;
    }
    assert!(!before.is_empty(), "a launch that pulls has something to tell");
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_comes_in_order_and_before_the_answer_a_hundred_times() {
    let script = SimConfig { pull_delay_ms: 5, start_delay_ms: 2, ..SimConfig::default() };
    let world = World::scripted(1, script).await;
    let site = mcp::site(&world).await;
    let key = world.api_key(ADMIN, &Permission::ALL).await;
    for era in [Era::Legacy, Era::Modern] {
        let mut bare = Bare::connect(&world, ADMIN, era).await;
        for round in 0..25 {
            let (id, token) = (json!(round), json!(format!("token-{round}")));
            let name = format!("s{round}-{era:?}").to_lowercase();
            bare.request(id.clone(), "tools/call", launch(&name, &token)).await;
            let mut messages = Vec::new();
            while messages.last().is_none_or(|it: &Value| it["id"] != id) {
                messages.push(bare.next().await);
            }
            // Sessions are told of every instance that comes and goes.
            messages.retain(|it| it["method"] != "notifications/resources/list_changed");
            check_order(&messages, &token, &id);
            end(&mut bare, &messages).await;
        }
    }
    let session = Session::begin(&site, &key).await;
    let mut bare = Bare::connect(&world, ADMIN, Era::Modern).await;
    for round in 0..50 {
        let (id, token) = (json!(round), json!(round + 1000));
        let era = if round % 2 == 0 { Era::Modern } else { Era::Legacy };
        let call = launch(&format!("h{round}"), &token);
        let message = mcp::request(era, id.clone(), "tools/call", call);
        let request = match era {
            Era::Modern => mcp::post(&site, &key, &message),
            Era::Legacy => session.post(&message),
        };
        let response = within("an answer", request.send()).await.unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let messages = mcp::events(&within("the end", response.text()).await.unwrap());
        check_order(&messages, &token, &id);
        end(&mut bare, &messages).await;
    }
}

fn launch(name: &str, token: &Value) -> Value {
    // An image of its own, so that each launch has a pull to tell of.
    let arguments = json!({"image": format!("pull/app:{name}"), "name": name});
    json!({"name": "launch_instance", "arguments": arguments, "_meta": {"progressToken": token}})
}

async fn end(bare: &mut Bare, messages: &[Value]) {
    let id = &messages.last().unwrap()["result"]["structuredContent"]["id"];
    let call = json!({"name": "terminate_instance", "arguments": {"id": id}});
    bare.request("end", "tools/call", call).await;
    let ended = bare.answer_to("end").await;
    assert_eq!(ended["result"]["isError"], false, "{ended}");
}

/// A node on which nothing gets further than the pull.
async fn slow_world() -> World {
    World::scripted(1, SimConfig { pull_delay_ms: 3_600_000, ..SimConfig::default() }).await
}

async fn is_launching(world: &World) {
    eventually("a launch under way", || async { (0 < world.n_live()).then_some(()) }).await;
}

async fn nothing_is_left(world: &World) {
    eventually("the launch undone", || async { (world.n_live() == 0).then_some(()) }).await;
    assert_eq!(world.n_containers(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_launch_leaves_nothing() {
    let world = slow_world().await;
    for (way, era) in EVERY_WAY {
        let client = mcp::connect(&world, DEMO, way, era).await;
        let params = mcp::params("launch_instance", json!({"image": "pull/slow:1"}));
        let request = ClientRequest::CallToolRequest(Request::new(params));
        let handle = client
            .send_cancellable_request(request, PeerRequestOptions::no_options())
            .await
            .unwrap();
        is_launching(&world).await;
        handle.cancel(Some("changed my mind".to_owned())).await.unwrap();
        nothing_is_left(&world).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_over_a_fleet_tells_its_progress_and_ends_when_cancelled() {
    let script = SimConfig { pull_delay_ms: 500, ..SimConfig::default() };
    let world = World::scripted(3, script).await;
    for era in [Era::Legacy, Era::Modern] {
        let mut bare = Bare::connect(&world, ADMIN, era).await;
        let arguments = json!({"image": format!("pull/{era:?}:1").to_lowercase(), "all": true});
        let call =
            json!({"name": "pull_image", "arguments": arguments, "_meta": {"progressToken": "p"}});
        bare.request(1, "tools/call", call).await;
        let mut reached = Vec::new();
        let answer = loop {
            let message = bare.next().await;
            if message["id"] == 1 {
                break message;
            }
            assert_eq!(message["params"]["total"], 100.0, "{message}");
            reached.push(message["params"]["progress"].as_f64().unwrap());
        };
        assert!(3 <= reached.len() && reached.is_sorted_by(|a, b| a < b), "{reached:?}");
        assert_eq!(answer["result"]["structuredContent"]["n_pulled"], 3, "{answer}");
    }
    (1..=3).for_each(|n| {
        world.control(&format!("n{n}")).configure(|it| it.pull_delay_ms = 3_600_000);
    });
    let n_pulls = || (1..=3).map(|n| world.control(&format!("n{n}")).n_calls("pull")).sum::<u64>();
    for (way, era) in EVERY_WAY {
        let client = mcp::connect(&world, ADMIN, way, era).await;
        let before = n_pulls();
        let params = mcp::params("pull_image", json!({"image": "pull/slow:1", "all": true}));
        let request = ClientRequest::CallToolRequest(Request::new(params));
        let handle = client
            .send_cancellable_request(request, PeerRequestOptions::no_options())
            .await
            .unwrap();
        // A pull that goes on would be joined, and none would begin in the next round.
        eventually("pulls begin", || async { (n_pulls() == before + 3).then_some(()) }).await;
        handle.cancel(Some("changed my mind".to_owned())).await.unwrap();
        eventually("the call has ended", || async {
            let ended =
                world.audit().iter().filter(|it| it.error.as_deref() == Some("Cancelled")).count();
            (ended as u64 * 3 + 6 == n_pulls()).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_gone_leaves_nothing() {
    let world = slow_world().await;
    for era in [Era::Legacy, Era::Modern] {
        let mut bare = Bare::connect(&world, DEMO, era).await;
        let call = json!({"name": "launch_instance", "arguments": {"image": "pull/slow:1"}});
        bare.request(1, "tools/call", call).await;
        is_launching(&world).await;
        drop(bare);
        nothing_is_left(&world).await;
    }
    let site = mcp::site(&world).await;
    let key = world.api_key(DEMO, &[Permission::Write]).await;
    // With a progress token the response has begun when the client leaves, without one it has not.
    for meta in [json!({}), json!({"progressToken": 1})] {
        let call = json!({"name": "launch_instance", "arguments": {"image": "pull/slow:1"}, "_meta": meta});
        let message = mcp::request(Era::Modern, json!(1), "tools/call", call);
        let waiting = mcp::post(&site, &key, &message).timeout(Duration::from_secs(1)).send();
        let leaving = async {
            if let Ok(response) = waiting.await {
                response.text().await.unwrap_err();
            }
        };
        leaving.await;
        nothing_is_left(&world).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_outlives_the_client_that_launched_it() {
    let world = World::with_nodes(1).await;
    for (way, era) in EVERY_WAY {
        let client = mcp::connect(&world, ADMIN, way, era).await;
        let name = format!("{way:?}-{era:?}").to_lowercase();
        client.answer("launch_instance", json!({"image": "nginx", "name": name})).await;
        client.service.cancel().await.unwrap();
    }
    let client = mcp::connect(&world, ADMIN, Way::Stream, Era::Modern).await;
    let listed = client.answer("list_instances", json!({"state": ["running"]})).await;
    assert_eq!(listed["total_count"], EVERY_WAY.len());
    // Cancelling what is answered already is of no effect.
    let late = CancelledNotificationParam::new(Some(RequestId::Number(1)), None);
    client.notify_cancelled(late).await.unwrap();
    assert_eq!(client.answer("list_instances", json!({})).await["total_count"], EVERY_WAY.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_ends_without_undoing_what_it_accepted() {
    let world = slow_world().await;
    let site = mcp::site(&world).await;
    let key = world.api_key(DEMO, &[Permission::Write]).await;
    let call = json!({"name": "launch_instance", "arguments": {"image": "pull/slow:1"}});
    let message = mcp::request(Era::Modern, json!(1), "tools/call", call.clone());
    let over_http = world.orch().tracker.spawn(mcp::post(&site, &key, &message).send());
    is_launching(&world).await;
    let mut bare = Bare::connect(&world, ADMIN, Era::Legacy).await;
    bare.request(1, "tools/call", call).await;
    eventually("both under way", || async { (world.n_live() == 2).then_some(()) }).await;
    site.shutdown.cancel();
    world.orch().shutdown.cancel();
    let answer = bare.answer_to(1).await;
    assert_eq!(answer["result"]["structuredContent"]["error"], "Unavailable", "{answer}");
    let answer: Value = over_http.await.unwrap().unwrap().json().await.unwrap();
    assert_eq!(answer["result"]["structuredContent"]["error"], "Unavailable", "{answer}");
    assert!(world.orch().drain(Duration::from_secs(20)).await);
    assert_eq!(world.n_live(), 2, "the next start goes on with them");
}

#[tokio::test(flavor = "multi_thread")]
async fn log_messages_come_only_when_asked_for() {
    // Slow enough that there is something to say before it is over.
    let script = SimConfig { pull_delay_ms: 200, ..SimConfig::default() };
    let world = World::scripted(1, script).await;
    let mut client = mcp::connect(&world, DEMO, Way::Stream, Era::Legacy).await;
    client.answer("launch_instance", json!({"image": "pull/app:1"})).await;
    #[expect(deprecated, reason = "clients up to 2025-11-25 still ask for logging")]
    let level = rmcp::model::SetLevelRequestParams::new(rmcp::model::LoggingLevel::Info);
    #[expect(deprecated, reason = "clients up to 2025-11-25 still ask for logging")]
    client.set_level(level).await.unwrap();
    client.answer("launch_instance", json!({"image": "pull/app:2"})).await;
    let first = loop {
        match client.hears().await {
            Heard::Log(message) => break message,
            _ => continue,
        }
    };
    assert!(!first.to_string().contains("app:1"), "nothing was said of the first launch: {first}");
    assert_eq!(first["operation"], "launch_instance");

    let mut bare = Bare::connect(&world, ADMIN, Era::Modern).await;
    let call = |image: &str, meta: Value| json!({"name": "launch_instance", "arguments": {"image": image}, "_meta": meta});
    bare.request(1, "tools/call", call("pull/app:3", json!({}))).await;
    assert_eq!(bare.next().await["id"], 1, "nothing but the answer");
    let level = json!({"io.modelcontextprotocol/logLevel": "info"});
    bare.request(2, "tools/call", call("pull/app:4", level)).await;
    let message = bare.next().await;
    assert_eq!(message["method"], "notifications/message", "{message}");
    assert_eq!(message["params"]["logger"], "mcp-orch");
    bare.answer_to(2).await;
    let level = json!({"io.modelcontextprotocol/logLevel": "error"});
    bare.request(3, "tools/call", call("pull/app:5", level)).await;
    assert_eq!(bare.next().await["id"], 3, "an info message is below error");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_is_told_from_an_agent() {
    let world = World::with_nodes(1).await;
    for (way, era) in EVERY_WAY {
        for name in ["test-client", "mcp-orch-cli"] {
            let client = mcp::connect_as(&world, ADMIN, way, era, name).await;
            let launched =
                client.answer("launch_instance", json!({"image": "nginx", "name": "a"})).await;
            // Only a model's repetition counts as the same launch: a person who asks twice wants two.
            assert_eq!(launched["client_token"].is_null(), name == "mcp-orch-cli");
            client.answer("terminate_instance", json!({"id": launched["id"]})).await;
        }
    }
}
