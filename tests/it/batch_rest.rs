//! Batches over REST: accepted, looked at, followed, cancelled; and nobody else's.

use std::time::Duration;

use orch_core::settings::Settings;
use orch_domain::caller::Permission;
use serde_json::{Value, json};

use crate::harness::blocks::{Block, Blocks, open};
use crate::harness::caller::{ADMIN, DEMO};
use crate::harness::cloud::{Ask, Cloud, Reply, ask};
use crate::harness::eventually;

fn asking(user: &str, method: &str, path: &str) -> Ask {
    ask(method, path).header("x-user-id", user)
}

async fn begin(cloud: &Cloud, user: &str, body: &Value) -> String {
    let begun = asking(user, "POST", "/batch/execute").json(body).of(cloud).await.ok(202);
    begun["task_id"].as_str().unwrap().to_owned()
}

async fn see(cloud: &Cloud, user: &str, path: &str) -> Reply {
    asking(user, "GET", path).of(cloud).await
}

async fn ended(cloud: &Cloud, user: &str, id: &str) -> Value {
    eventually("the batch ends", || async {
        let seen = see(cloud, user, &format!("/batch/status/{id}")).await.ok(200);
        (!seen["ended_at"].is_null()).then_some(seen)
    })
    .await
}

/// It runs until `sim-1` is cordoned, and then the others do.
fn held() -> Value {
    let wait = json!({"kind": "node.cordoned", "since_revision": 1, "wait_seconds": 25});
    json!({"plan": {"steps": [
        {"id": "first", "tool": "list_nodes"},
        {"id": "hold", "tool": "list_events", "arguments": wait, "depends_on": ["first"]},
        {"id": "last", "tool": "whoami", "depends_on": ["hold"]},
    ]}})
}

async fn let_go(cloud: &Cloud) {
    cloud.ok(ADMIN, "cordon_node", json!({"node_id": "sim-1"})).await;
}

async fn follow(cloud: &Cloud, user: &str, id: &str, place: Option<u64>) -> Blocks {
    let mut request = asking(user, "GET", &format!("/batch/events/{id}"));
    if let Some(place) = place {
        request = request.header("last-event-id", &place.to_string());
    }
    open(cloud, request).await.1
}

/// All that is told until the stream ends.
async fn rest_of(blocks: &mut Blocks) -> Vec<Block> {
    let mut told = Vec::new();
    while let Some(it) = blocks.told().await {
        told.push(it);
    }
    told
}

fn words(told: &[Block]) -> Vec<String> {
    let word = |it: &Block| {
        let of = it.data["id"].as_str().unwrap_or("");
        format!("{} {of} {}", it.event, it.data["state"].as_str().unwrap()).replace("  ", " ")
    };
    told.iter().map(word).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_accepted_and_answers_what_came_of_it() {
    let cloud = Cloud::demo().await;
    let body = json!({"plan": {
        "steps": [
            {"id": "nodes", "tool": "list_nodes"},
            {
                "id": "check", "tool": "check_node", "collect": "/structuredContent/status",
                "for_each": {"$ref": "nodes#/structuredContent/nodes"},
                "arguments": {"node_id": {"$ref": "item#/id"}},
            },
            // What was gathered is there for the steps that are due by that.
            {
                "id": "again", "tool": "list_nodes", "collect": "/structuredContent/total_count",
                "for_each": {"$ref": "check#/structuredContent/items"},
                "arguments": {"status": [{"$ref": "item#"}]},
            },
            {
                "id": "once", "tool": "list_nodes",
                "arguments": {"status": {"$ref": "check#/structuredContent/items"}},
            },
        ],
        "output": {"statuses": {"$ref": "check#/structuredContent/items"}, "n": {"$ref": "again#/structuredContent/items"}},
    }});
    let reply = asking(DEMO, "POST", "/batch/execute").json(&body).of(&cloud).await;
    let begun = reply.ok(202);
    // It may have ended before it was looked at.
    assert!(
        ["queued", "running", "succeeded"].contains(&begun["state"].as_str().unwrap()),
        "{begun}"
    );
    let id = begun["task_id"].as_str().unwrap();
    let seen = ended(&cloud, DEMO, id).await;
    assert_eq!(seen["state"], "succeeded", "{seen}");
    let states: Vec<&Value> =
        seen["step_list"].as_array().unwrap().iter().map(|it| &it["state"]).collect();
    assert_eq!(states, ["succeeded"; 4]);
    let result = see(&cloud, DEMO, &format!("/batch/result/{id}")).await.ok(200);
    assert_eq!(result["output"], json!({"statuses": ["healthy"], "n": [1]}), "{result}");
    assert_eq!(result["results"][0]["result"]["structuredContent"]["nodes"][0]["id"], "sim-1");
    let one = see(&cloud, DEMO, &format!("/batch/result/{id}?step=check")).await.ok(200);
    assert_eq!(one["results"].as_array().unwrap().len(), 1);
    let listed = see(&cloud, DEMO, "/api/batch?state=succeeded").await.ok(200);
    assert_eq!((&listed["batches"][0]["task_id"], &listed["total_count"]), (&json!(id), &json!(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_is_answered_when_it_has_ended() {
    let cloud = Cloud::demo().await;
    let body = json!({"calls": [{"tool": "list_nodes"}, {"tool": "whoami"}], "wait": true});
    let done = asking(DEMO, "POST", "/batch/execute").json(&body).of(&cloud).await.ok(200);
    assert_eq!((&done["state"], &done["steps"]["succeeded"]), (&json!("succeeded"), &json!(2)));
    let body = json!({"calls": [{"tool": "whoami"}], "wait": false});
    asking(DEMO, "POST", "/batch/execute").json(&body).of(&cloud).await.ok(202);
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_is_wrong_with_a_plan_is_told_at_once() {
    let cloud = Cloud::demo().await;
    let body = json!({"plan": {"steps": [
        {"id": "a", "tool": "lst_nodes"},
        {"id": "b", "tool": "get_node", "arguments": {"node_id": {"$ref": "c#/x"}}},
    ]}});
    for path in ["/batch/execute", "/batch/plan"] {
        let reply = asking(DEMO, "POST", path).json(&body).of(&cloud).await;
        let problem = reply.problem(400, "InvalidParameter");
        let places: Vec<&str> = problem["problems"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| it["place"].as_str().unwrap())
            .collect();
        assert_eq!(places, ["/steps/0/tool", "/steps/1/arguments/node_id"], "{problem}");
    }
    assert_eq!(see(&cloud, DEMO, "/batch").await.ok(200)["total_count"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_hears_everything_and_comes_back_where_it_left_off() {
    let cloud = Cloud::demo().await;
    let id = begin(&cloud, DEMO, &held()).await;
    let mut from_start = follow(&cloud, DEMO, &id, Some(0)).await;
    let mut before = Vec::new();
    while before
        .last()
        .is_none_or(|it: &Block| it.data["id"] != "hold" || it.data["state"] != "running")
    {
        before.push(from_start.told().await.unwrap());
    }
    drop(from_start);
    let place = before.last().unwrap().id;
    let mut again = follow(&cloud, DEMO, &id, place).await;
    // Who comes without a place is told how things are first.
    let mut late = follow(&cloud, DEMO, &id, None).await;
    let state = late.expect("state").await;
    assert_eq!((state.data["state"].as_str(), state.id), (Some("running"), place), "{state:?}");
    let steps: Vec<&Value> =
        state.data["step_list"].as_array().unwrap().iter().map(|it| &it["state"]).collect();
    assert_eq!(
        (steps, &state.data["more"]),
        (
            ["succeeded", "running", "waiting"]
                .iter()
                .map(|it| json!(it))
                .collect::<Vec<_>>()
                .iter()
                .collect(),
            &json!(false)
        )
    );
    let_go(&cloud).await;
    let after = rest_of(&mut again).await;
    assert_eq!(
        words(&after),
        [
            "step hold succeeded",
            "step last queued",
            "step last running",
            "step last succeeded",
            "batch succeeded",
            "end succeeded"
        ]
    );
    assert_eq!(words(&rest_of(&mut late).await), words(&after));
    // Nothing is missing and nothing is told twice.
    let numbers: Vec<u64> = before.iter().chain(&after).filter_map(|it| it.id).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
    let step = &after[0].data;
    assert_eq!(
        (&step["of"], &step["tool"], &step["attempt"]),
        (&json!("step"), &json!("list_events"), &json!(1))
    );
    assert!(
        step["elapsed_ms"].is_u64() && step["at"].is_string() && step["number"].is_u64(),
        "{step}"
    );
    // An ended one says how it ended, wherever its follower was.
    for place in [None, Some(0), place] {
        let told = rest_of(&mut follow(&cloud, DEMO, &id, place).await).await;
        assert_eq!(words(&told), ["state succeeded", "end succeeded"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_never_was_begins_with_how_things_are() {
    let cloud = Cloud::demo().await;
    let id = begin(&cloud, DEMO, &held()).await;
    let mut blocks = follow(&cloud, DEMO, &id, Some(4_000_000)).await;
    let state = blocks.expect("state").await;
    assert!(state.id.unwrap() < 100, "{state:?}");
    let_go(&cloud).await;
    assert_eq!(words(&rest_of(&mut blocks).await).last().unwrap(), "end succeeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_steps_are_shown_in_several_events() {
    let cloud = Cloud::demo().await;
    let mut steps: Vec<Value> = (0..2500)
        .map(|n| json!({"id": format!("s{n}"), "tool": "whoami", "depends_on": ["hold"]}))
        .collect();
    let wait = json!({"kind": "node.cordoned", "since_revision": 1, "wait_seconds": 25});
    steps.push(json!({"id": "hold", "tool": "list_events", "arguments": wait}));
    let id = begin(&cloud, DEMO, &json!({"plan": {"steps": steps}})).await;
    let mut blocks = follow(&cloud, DEMO, &id, None).await;
    let mut shown = Vec::new();
    for more in [true, true, false] {
        let state = blocks.expect("state").await;
        assert_eq!((&state.data["more"], state.id.is_none()), (&json!(more), more));
        shown.extend(state.data["step_list"].as_array().unwrap().clone());
    }
    assert_eq!(shown.len(), 2501);
    asking(DEMO, "DELETE", &format!("/batch/cancel/{id}")).of(&cloud).await.ok(200);
    let told = rest_of(&mut blocks).await;
    assert_eq!(words(&told).last().unwrap(), "end cancelled");
    let_go(&cloud).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_batch_says_so_to_all() {
    let cloud = Cloud::demo().await;
    let id = begin(&cloud, DEMO, &held()).await;
    let mut blocks = follow(&cloud, DEMO, &id, Some(0)).await;
    let cancelled = asking(DEMO, "DELETE", &format!("/batch/cancel/{id}")).of(&cloud).await.ok(200);
    assert_eq!(cancelled["task_id"], id.as_str());
    assert_eq!(words(&rest_of(&mut blocks).await).last().unwrap(), "end cancelled");
    let seen = ended(&cloud, DEMO, &id).await;
    assert_eq!(seen["state"], "cancelled");
    let again = asking(DEMO, "DELETE", &format!("/batch/cancel/{id}")).of(&cloud).await.ok(200);
    assert_eq!(again["state"], "cancelled", "it stays as it ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_yours_is_not_there() {
    let cloud = Cloud::demo().await;
    let id = begin(&cloud, ADMIN, &held()).await;
    let never = "b-00000000000000000";
    for (method, path) in [
        ("GET", "/batch/status/"),
        ("GET", "/batch/result/"),
        ("GET", "/batch/events/"),
        ("DELETE", "/batch/cancel/"),
    ] {
        let not_mine = asking(DEMO, method, &format!("{path}{id}")).of(&cloud).await;
        let not_there = asking(DEMO, method, &format!("{path}{never}")).of(&cloud).await;
        let said = not_mine.problem(404, "NotFound")["message"].to_string();
        let other = not_there.problem(404, "NotFound")["message"].to_string();
        assert_eq!(said.replace(&id, "ID"), other.replace(never, "ID"), "{method} {path}");
    }
    assert_eq!(see(&cloud, DEMO, "/batch").await.ok(200)["total_count"], 0);
    assert_eq!(see(&cloud, ADMIN, "/batch").await.ok(200)["total_count"], 1);
    // An administrator sees those of everybody.
    let theirs = begin(&cloud, DEMO, &json!({"calls": [{"tool": "whoami"}]})).await;
    let told = rest_of(&mut follow(&cloud, ADMIN, &theirs, None).await).await;
    assert_eq!(words(&told).last().unwrap(), "end succeeded");
    let_go(&cloud).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_refused_for_strangers_and_for_words_it_does_not_know() {
    let cloud = Cloud::start().await;
    ask("GET", "/batch/events/b-00000000000000000")
        .of(&cloud)
        .await
        .problem(401, "Unauthenticated");
    let key = cloud.api_key(DEMO, &[Permission::Execute]).await;
    let path = "/batch/events/b-00000000000000000";
    ask("GET", path).bearer(&key).of(&cloud).await.problem(403, "Forbidden");
    let key = cloud.api_key(DEMO, &[Permission::Read]).await;
    let asked = |path: &str| ask("GET", path).bearer(&key);
    asked("/batch/events/nonsense").of(&cloud).await.problem(400, "InvalidParameter");
    asked(&format!("{path}?step=a")).of(&cloud).await.problem(400, "InvalidParameter");
    asked(&format!("{path}?last_event_id=x")).of(&cloud).await.problem(400, "InvalidParameter");
    asked(path).of(&cloud).await.problem(404, "NotFound");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_breaks_silence_and_ends_with_the_key_it_was_opened_with() {
    let settings = Settings { heartbeat: Duration::from_millis(100), ..Settings::default() };
    let cloud = Cloud::demo_with(settings).await;
    let key = cloud.api_key(DEMO, &[Permission::Read, Permission::Execute]).await;
    let body = held();
    let begun = ask("POST", "/batch/execute").bearer(&key).json(&body).of(&cloud).await.ok(202);
    let path = format!("/batch/events/{}", begun["task_id"].as_str().unwrap());
    let (_, mut blocks) = open(&cloud, ask("GET", &path).bearer(&key)).await;
    blocks.expect("state").await;
    while blocks.next().await.unwrap().comment != "alive" {}
    let keys = cloud.ok(ADMIN, "list_api_keys", json!({})).await;
    let keys = keys["api_keys"].as_array().unwrap();
    let key_id = &keys.iter().find(|it| it["user"] == DEMO).unwrap()["id"];
    cloud.ok(ADMIN, "revoke_api_key", json!({"key_id": key_id})).await;
    let told = rest_of(&mut blocks).await;
    let last = told.last().unwrap();
    assert_eq!((last.event.as_str(), &last.data["error"]), ("error", &json!("Unauthenticated")));
    let_go(&cloud).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_may_be_larger_than_other_bodies() {
    let cloud = Cloud::demo().await;
    let words = "x".repeat(5 << 20);
    let large = json!({"plan": {"steps": [{"id": "a", "tool": words}]}});
    // Read as a whole, and then refused for what it says.
    for path in ["/batch/plan", "/batch/execute"] {
        let reply = asking(DEMO, "POST", path).json(&large).of(&cloud).await;
        let problem = reply.problem(400, "InvalidParameter");
        assert!(reply.text.len() < 10_000 && problem["problems"].is_array());
    }
    let launch = json!({"image": words});
    asking(DEMO, "POST", "/instances")
        .json(&launch)
        .of(&cloud)
        .await
        .problem(413, "PayloadTooLarge");
    let larger = json!({"plan": {"steps": [{"id": "a", "tool": "x".repeat(33 << 20)}]}});
    asking(DEMO, "POST", "/batch/plan")
        .json(&larger)
        .of(&cloud)
        .await
        .problem(413, "PayloadTooLarge");
}
