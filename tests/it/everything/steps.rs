//! The walk: all of its tools, prompts, resources and tasks, all that it asks, and all that it refuses.

use serde_json::{Value, json};

use crate::harness::walk::{Notes, Walker};

const CHANGED: &str = "notifications/tools/list_changed";
const STATUS: &str = "notifications/tasks/status";
const LOGGED: &str = "notifications/message";

pub(super) async fn walk(mut it: Walker) -> Notes {
    let is_able = it.wire.is_able();
    begin(&mut it, is_able).await;
    lists(&mut it).await;
    tools(&mut it).await;
    if is_able {
        tools_that_ask(&mut it).await;
    }
    resources(&mut it).await;
    prompts(&mut it).await;
    tasks(&mut it).await;
    refusals(&mut it).await;
    it.notes()
}

async fn begin(it: &mut Walker, is_able: bool) {
    let said = it.wire.open().await;
    it.write("initialize", &said, &[]);
    // It lists more tools for this client, asks for its roots a little later, and logs that it has them.
    if is_able {
        let said = it.wire.see(&[CHANGED, LOGGED]).await;
        it.write("after initialized", &said, &[CHANGED]);
    }
    it.ask("ping", "ping", json!({})).await;
}

async fn lists(it: &mut Walker) {
    for method in ["tools/list", "prompts/list", "resources/list", "resources/templates/list"] {
        it.ask(method, method, json!({})).await;
    }
    it.ask("with a vendor's metadata", "tools/list", json!({"_meta": {"vendor.example/a": 0.7}}))
        .await;
}

async fn tools(it: &mut Walker) {
    it.call("echo", json!({"message": "caf\u{e9} \u{1f600} \"quoted\" \\ \n"})).await;
    for kind in ["error", "success", "debug"] {
        let arguments = json!({"messageType": kind, "includeImage": kind == "success"});
        it.call("get-annotated-message", arguments).await;
    }
    it.call("get-resource-links", json!({"count": 4})).await;
    it.call("get-resource-reference", json!({"resourceType": "Text", "resourceId": 3})).await;
    it.call("get-resource-reference", json!({"resourceType": "Blob", "resourceId": 4})).await;
    it.call("get-structured-content", json!({"location": "Chicago"})).await;
    it.call("get-sum", json!({"a": 0.1, "b": 0.2})).await;
    it.call("get-sum", json!({"a": 50.0, "b": 1e3})).await;
    it.call("get-tiny-image", json!({})).await;
    for kind in ["resource", "resourceLink"] {
        let arguments = json!({"name": format!("{kind}.gz"), "data": "data:text/plain,hello", "outputType": kind});
        let changed = ["notifications/resources/list_changed"];
        it.call_and_see("gzip-file-as-resource", arguments, &changed).await;
    }
    it.call("trigger-long-running-operation", json!({"duration": 0.2, "steps": 5})).await;
    // Once to begin, and once to end before the next word.
    it.ask("logging/setLevel", "logging/setLevel", json!({"level": "debug"})).await;
    it.call_and_see("toggle-simulated-logging", json!({}), &[LOGGED]).await;
    it.call("toggle-simulated-logging", json!({})).await;
    it.ask("logging/setLevel back", "logging/setLevel", json!({"level": "info"})).await;
}

async fn tools_that_ask(it: &mut Walker) {
    it.call("get-roots-list", json!({})).await;
    it.call("trigger-elicitation-request", json!({})).await;
    it.call("trigger-sampling-request", json!({"prompt": "Why?", "maxTokens": 70})).await;
    let url = json!({"url": "https://example.org/x?y=1", "elicitationId": "e-1"});
    it.call("trigger-url-elicitation", url).await;
    let refused =
        json!({"url": "https://example.org/x?y=1", "elicitationId": "e-1", "errorPath": true});
    it.call("trigger-url-elicitation", refused).await;
    // What it asks here is a task of the client's, which it polls.
    it.call("trigger-sampling-request-async", json!({"prompt": "Why?"})).await;
    it.call("trigger-elicitation-request-async", json!({})).await;
    // The roots change, and it asks anew.
    it.wire.notify("notifications/roots/list_changed", Value::Null).await;
    let said = it.wire.see(&[LOGGED]).await;
    it.write("roots changed", &said, &[]);
}

async fn resources(it: &mut Walker) {
    let uri = "demo://resource/dynamic/text/7";
    it.ask("read text", "resources/read", json!({"uri": uri})).await;
    let blob =
        json!({"uri": "demo://resource/dynamic/blob/8", "_meta": {"vendor.example/a": [0.7]}});
    it.ask("read blob", "resources/read", blob).await;
    it.ask("read session", "resources/read", json!({"uri": "demo://resource/session/resource.gz"}))
        .await;
    let listed = it.ask("list again", "resources/list", json!({})).await;
    let first = listed.found("/resources/0/uri");
    it.ask("read first", "resources/read", json!({"uri": first})).await;
    // Both log that they were heard.
    it.see("subscribe", "resources/subscribe", json!({"uri": uri}), &[LOGGED]).await;
    let updated = ["notifications/resources/updated"];
    it.call_and_see("toggle-subscriber-updates", json!({}), &updated).await;
    it.call("toggle-subscriber-updates", json!({})).await;
    it.see("unsubscribe", "resources/unsubscribe", json!({"uri": uri}), &[LOGGED]).await;
}

async fn prompts(it: &mut Walker) {
    it.ask("simple prompt", "prompts/get", json!({"name": "simple-prompt"})).await;
    let cities = json!({"name": "args-prompt", "arguments": {"city": "Paris", "state": "Texas"}});
    it.ask("args prompt", "prompts/get", cities).await;
    let team = json!({"department": "Sales", "name": "Eve"});
    it.ask(
        "completable prompt",
        "prompts/get",
        json!({"name": "completable-prompt", "arguments": team}),
    )
    .await;
    let resource = json!({"resourceType": "Text", "resourceId": "2"});
    it.ask(
        "resource prompt",
        "prompts/get",
        json!({"name": "resource-prompt", "arguments": resource}),
    )
    .await;

    let of = json!({"type": "ref/prompt", "name": "completable-prompt"});
    let params = json!({"ref": of, "argument": {"name": "department", "value": "S"}});
    it.ask("complete", "completion/complete", params).await;
    let params = json!({
        "ref": of, "argument": {"name": "name", "value": "D"},
        "context": {"arguments": {"department": "Sales"}},
    });
    it.ask("complete in context", "completion/complete", params).await;
    let of = json!({"type": "ref/resource", "uri": "demo://resource/dynamic/text/{resourceId}"});
    let params = json!({"ref": of, "argument": {"name": "resourceId", "value": "5"}});
    it.ask("complete a template", "completion/complete", params).await;
}

async fn tasks(it: &mut Walker) {
    let arguments = json!({"topic": "python", "ambiguous": true});
    let params = json!({
        "name": "simulate-research-query", "arguments": arguments, "task": {"ttl": 60_000},
        "_meta": {"progressToken": 77},
    });
    let status = it.alone(1, STATUS);
    let created = it.see("a task", "tools/call", params.clone(), &status).await;
    let id = created.found("/task/taskId");
    it.ask("tasks/get", "tasks/get", json!({"taskId": id})).await;
    it.ask("tasks/list", "tasks/list", json!({})).await;
    // Waits until it is done, and is asked on the way there.
    let statuses = it.alone(6, STATUS);
    it.see("tasks/result", "tasks/result", json!({"taskId": id}), &statuses).await;
    it.ask("tasks/get done", "tasks/get", json!({"taskId": id})).await;
    let created = it.see("another task", "tools/call", params, &status).await;
    let id = created.found("/task/taskId");
    it.ask("tasks/cancel", "tasks/cancel", json!({"taskId": id})).await;
    it.ask("tasks/cancel again", "tasks/cancel", json!({"taskId": id})).await;
    it.ask("tasks/get unknown", "tasks/get", json!({"taskId": "none"})).await;
}

async fn refusals(it: &mut Walker) {
    it.call("no-such-tool", json!({})).await;
    it.call("get-sum", json!({"a": "x"})).await;
    it.call("simulate-research-query", json!({"topic": "a task is required"})).await;
    it.ask("unknown prompt", "prompts/get", json!({"name": "none"})).await;
    it.ask("prompt without arguments", "prompts/get", json!({"name": "args-prompt"})).await;
    it.ask("unknown resource", "resources/read", json!({"uri": "demo://none"})).await;
    it.ask("unknown method", "vendor.example/do", json!({"x": 0.7})).await;
    it.ask("unknown level", "logging/setLevel", json!({"level": "loud"})).await;
    it.wire.notify("notifications/vendor.example/word", json!({"x": 0.7})).await;
    it.ask("still there", "ping", json!({})).await;
}
