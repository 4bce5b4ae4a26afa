//! What a batch may is looked up anew at each step; and what it did is undone, on real machines.

use serde_json::{Value, json};

use crate::harness::batches::{Site, plan, state, step, why};
use crate::harness::eventually;
use crate::harness::fleet::{registration, sleeper};
use crate::harness::hosts::Hosts;
use crate::harness::server::Server;

/// A step that waits, one after it that others may go on without, and one more.
fn body() -> Value {
    let after = |id: &str| json!({"depends_on": [id], "on_error": "continue"});
    plan(vec![
        step("waits", "work", json!({"arguments": {"do": "wait"}})),
        step("next", "work", after("waits")),
        step("apart", "read", after("waits")),
    ])
}

async fn user(site: &Site) -> String {
    let new = json!({"username": "eve", "password": "long enough 1", "permissions": ["read", "write", "execute"]});
    let (status, made) = site.server.call("POST", "/users", Some(new)).await;
    assert_eq!(status, 201, "{made}");
    made["id"].as_str().unwrap().to_owned()
}

/// Begins it by `key`.
async fn begin(server: &Server, key: &str) -> String {
    let request = crate::harness::http().post(format!("{}/batch/execute", server.url));
    let request = request.bearer_auth(key).header("content-type", "application/json");
    let answer = request.body(body().to_string()).send().await.unwrap();
    let (status, text) = (answer.status().as_u16(), answer.text().await.unwrap());
    assert!([200, 202].contains(&status), "{status}: {text}");
    serde_json::from_str::<Value>(&text).unwrap()["task_id"].as_str().unwrap().to_owned()
}

async fn key_of(site: &Site, user: &str) -> (String, String) {
    let wanted = json!({"name": "agent", "user": user, "permissions": ["read", "execute"]});
    let (status, made) = site.server.call("POST", "/api-keys", Some(wanted)).await;
    assert_eq!(status, 201, "{made}");
    let text = |name: &str| made[name].as_str().unwrap().to_owned();
    (text("id"), text("api_key"))
}

/// What becomes of a batch of `eve` when `change` is made while its first step runs.
async fn changed(
    method: &str,
    path: impl Fn(&str, &str) -> String,
    change: Option<Value>,
) -> (Site, Value) {
    let site = Site::new().await;
    let eve = user(&site).await;
    let (key_id, key) = key_of(&site, &eve).await;
    let id = begin(&site.server, &key).await;
    site.shop.until("the first call", |all| all.len() == 1).await;
    let (status, said) = site.server.call(method, &path(&eve, &key_id), change).await;
    assert_eq!(status, 200, "{said}");
    site.shop.open();
    let ended = site.ended(&id).await;
    (site, ended)
}

#[tokio::test]
async fn a_user_who_may_no_longer_execute_has_its_further_steps_refused() {
    let change = json!({"permissions": ["read"]});
    let (site, ended) = changed("PUT", |eve, _| format!("/users/{eve}"), Some(change)).await;
    assert_eq!(state(&ended, "waits"), "succeeded");
    for id in ["next", "apart"] {
        assert_eq!(state(&ended, id), "failed");
        assert!(why(&ended, id).starts_with("Forbidden: "), "{}", why(&ended, id));
    }
    assert_eq!(site.shop.calls().len(), 1, "nothing was called without permission");
}

#[tokio::test]
async fn a_revoked_key_ends_the_batch_with_that_reason() {
    let (site, ended) = changed("DELETE", |_, key| format!("/api-keys/{key}"), None).await;
    let reason = &ended["reason"];
    assert_eq!((&ended["state"], &reason["code"]), (&json!("failed"), &json!("Unauthenticated")));
    assert!(reason["message"].as_str().unwrap().contains("revoked"), "{reason}");
    assert_eq!(site.shop.calls().len(), 1);
}

#[tokio::test]
async fn a_deleted_user_ends_the_batch_with_that_reason() {
    let (site, ended) = changed("DELETE", |eve, _| format!("/users/{eve}"), None).await;
    let reason = &ended["reason"];
    assert_eq!((&ended["state"], &reason["code"]), (&json!("failed"), &json!("Unauthenticated")));
    assert!(reason["message"].as_str().unwrap().contains("gone"), "{reason}");
    assert_eq!(site.shop.calls().len(), 1);
}

fn launch(id: &str, after: &[&str]) -> Value {
    let mut arguments = sleeper(1);
    arguments["name"] = json!(id);
    json!({
        "id": id, "tool": "launch_instance", "arguments": arguments, "depends_on": after,
        "compensate": {
            "tool": "terminate_instance",
            "arguments": {"id": {"$ref": format!("{id}#/structuredContent/id")}},
        },
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn launches_of_a_batch_that_fails_are_torn_down_the_last_first() {
    let Some(hosts) = Hosts::start(1).await else { return };
    let site = Site::new().await;
    let (status, said) =
        site.server.call("POST", "/cluster/nodes", Some(registration(&hosts, 1))).await;
    assert_eq!(status, 201, "{said}");
    let fails = json!({"arguments": {"do": "fail"}, "depends_on": ["three"]});
    let mut body = plan(vec![
        launch("one", &[]),
        launch("two", &["one"]),
        launch("three", &["two"]),
        step("bad", "work", fails),
    ]);
    body["plan"]["on_error"] = json!("compensate");
    let ended = site.run(body).await;
    assert_eq!(
        (&ended["state"], &ended["reason"]["code"]),
        (&json!("failed"), &json!("ToolError"))
    );
    for it in ended["step_list"].as_array().unwrap().iter().take(3) {
        assert_eq!(
            (&it["state"], &it["compensation"]),
            (&json!("succeeded"), &json!("succeeded")),
            "{it}"
        );
    }
    let gone = || async { hosts.containers(1).await.is_empty().then_some(()) };
    eventually("the containers to be gone", gone).await;
    let audit = site.server.get("/audit?operation=terminate_instance").await;
    let targets: Vec<String> = audit["entries"]
        .as_array()
        .unwrap()
        .iter()
        .rev()
        .map(|it| it["targets"][0].to_string())
        .collect();
    let instances = site.server.instances().await;
    let id = |name: &str| instances.iter().find(|it| it["name"] == name).unwrap()["id"].to_string();
    assert_eq!(targets, [id("three"), id("two"), id("one")]);
}

#[tokio::test]
async fn what_cannot_be_undone_is_told_and_the_rest_is_undone_all_the_same() {
    let site = Site::new().await;
    let undone_by = |how: &str, key: &str| {
        let tool = format!("{}.work", crate::harness::workshop::NAME);
        json!({"compensate": {"tool": tool, "arguments": {"key": key, "do": how}}})
    };
    let with = |mut it: Value, after: &[&str]| {
        it["depends_on"] = json!(after);
        it
    };
    let mut body = plan(vec![
        step("first", "work", undone_by("", "undo-first")),
        step("second", "work", with(undone_by("fail", "undo-second"), &["first"])),
        step("third", "work", with(undone_by("", "undo-third"), &["second"])),
        step("bad", "work", json!({"arguments": {"do": "fail"}, "depends_on": ["third"]})),
    ]);
    body["plan"]["on_error"] = json!("compensate");
    let ended = site.run(body).await;
    assert_eq!(ended["state"], "failed");
    let said = ended["reason"]["message"].as_str().unwrap();
    assert!(said.contains("could not be undone"), "{said}");
    let undone: Vec<&Value> =
        ended["step_list"].as_array().unwrap().iter().map(|it| &it["compensation"]).collect();
    assert_eq!(undone, [&json!("succeeded"), &json!("failed"), &json!("succeeded"), &Value::Null]);
    let keys: Vec<String> = site.shop.calls().into_iter().map(|it| it.key).collect();
    assert_eq!(keys[4..], ["undo-third", "undo-second", "undo-first"]);
}
