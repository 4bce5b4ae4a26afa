//! The walk past the fixture, each era in its own way.

use serde_json::{Value, json};

use crate::harness::walk::{Notes, Walker};
use crate::harness::wire::Era;

const UPDATED: &str = "notifications/resources/updated";
const TOOLS_CHANGED: &str = "notifications/tools/list_changed";
const PROMPTS_CHANGED: &str = "notifications/prompts/list_changed";
const WATCHED: &str = "test://watched-resource";

pub(super) async fn walk(mut it: Walker, is_crossed: bool, logs_are_of_requests: bool) -> Notes {
    begin(&mut it, is_crossed).await;
    lists(&mut it).await;
    tools(&mut it, is_crossed).await;
    questions(&mut it).await;
    resources_and_prompts(&mut it).await;
    logging(&mut it, is_crossed, logs_are_of_requests).await;
    changes(&mut it).await;
    if it.wire.era() == Era::Modern && !is_crossed {
        tasks(&mut it).await;
    }
    refusals(&mut it).await;
    it.notes()
}

/// What the server says of itself. Which versions it speaks is the gateway's to say, and tasks do not cross eras.
async fn begin(it: &mut Walker, is_crossed: bool) {
    let mut said = it.wire.open().await;
    for response in &mut said.responses {
        let found = |pointer: &str| response["result"].pointer(pointer).cloned();
        let mut capabilities = found("/capabilities").unwrap_or_default();
        if is_crossed && let Some(members) = capabilities.as_object_mut() {
            members.remove("extensions");
        }
        let name = found("/serverInfo/name")
            .or_else(|| found("/_meta/io.modelcontextprotocol~1serverInfo/name"));
        let instructions = found("/instructions");
        response["result"] =
            json!({"capabilities": capabilities, "name": name, "instructions": instructions});
    }
    it.write("open", &said, &[]);
}

async fn lists(it: &mut Walker) {
    for method in ["tools/list", "prompts/list", "resources/list", "resources/templates/list"] {
        it.ask(method, method, json!({})).await;
    }
    let cursor = json!({"cursor": "page 2/=?&"});
    it.ask("the second page", "resources/templates/list", cursor).await;
    it.ask("no such page", "resources/templates/list", json!({"cursor": "9"})).await;
}

async fn tools(it: &mut Walker, is_crossed: bool) {
    for tool in [
        "test_simple_text",
        "test_image_content",
        "test_audio_content",
        "test_embedded_resource",
        "test_multiple_content_types",
        "test_error_handling",
        "test_tool_with_progress",
    ] {
        it.call(tool, json!({})).await;
    }
    it.call("rich", json!({"temperature": 0.7, "deep": {"b": 1, "a": [50.0, 1e21, null]}})).await;
    it.call("burst", json!({"n": 20})).await;
    it.call("test_x_mcp_header", json!({"region": "us-west1"})).await;
    // What gets there of who calls.
    let params = json!({"name": "caller", "_meta": {"vendor.example/a": 0.7}});
    let mut said = it.wire.ask("tools/call", params).await;
    for response in &mut said.responses {
        let seen = &mut response["result"]["structuredContent"];
        if is_crossed {
            *seen = json!([
                seen["clientInfo"],
                seen["clientCapabilities"],
                seen["meta"]["vendor.example/a"]
            ]);
        }
    }
    it.write("caller", &said, &[]);
}

async fn questions(it: &mut Walker) {
    it.call("test_sampling", json!({"prompt": "Why?"})).await;
    it.call("test_elicitation", json!({"message": "Who?"})).await;
    for tool in [
        "test_elicitation_sep1034_defaults",
        "test_elicitation_sep1330_enums",
        "test_streaming_elicitation",
        "test_input_required_result_elicitation",
        "test_input_required_result_sampling",
        "test_input_required_result_list_roots",
        "test_input_required_result_request_state",
        "test_input_required_result_multiple_inputs",
        "test_input_required_result_multi_round",
        "test_input_required_result_capabilities",
        "test_missing_capability",
    ] {
        it.call(tool, json!({})).await;
    }
    let prompt = json!({"name": "test_input_required_result_prompt"});
    it.ask("a prompt that asks", "prompts/get", prompt).await;
    it.ask("a resource that asks", "resources/read", json!({"uri": "test://asks-first"})).await;
}

async fn resources_and_prompts(it: &mut Walker) {
    for uri in [
        "test://static-text",
        "test://static-binary",
        WATCHED,
        "test://template/a%20b/data",
        "test://none",
    ] {
        it.ask(&format!("read {uri}"), "resources/read", json!({"uri": uri})).await;
    }
    for name in ["test_simple_prompt", "test_prompt_with_image", "none"] {
        it.ask(&format!("get {name}"), "prompts/get", json!({"name": name})).await;
    }
    let arguments = json!({"arg1": "hello", "arg2": "w\u{f6}rld"});
    let params = json!({"name": "test_prompt_with_arguments", "arguments": arguments});
    it.ask("get with arguments", "prompts/get", params).await;
    let resource = json!({"resourceUri": "test://example"});
    let params = json!({"name": "test_prompt_with_embedded_resource", "arguments": resource});
    it.ask("get with a resource", "prompts/get", params).await;
    for of in [
        json!({"type": "ref/prompt", "name": "test_prompt_with_arguments"}),
        json!({"type": "ref/resource", "uri": "test://template/{id}/data"}),
    ] {
        let params = json!({"ref": of, "argument": {"name": "arg1", "value": "par"}});
        it.ask(&format!("complete {}", params["ref"]["type"]), "completion/complete", params).await;
    }
}

/// A session over HTTP says its log on the stream of what belongs to no request, and the answer may overtake it there: a
/// client that has only its request then hears some of it or none.
async fn logging(it: &mut Walker, is_crossed: bool, logs_are_of_requests: bool) {
    let tool = "test_logging_tool";
    let warned = ["notifications/message"; 5];
    if it.wire.era() == Era::Legacy {
        it.ask("set a level", "logging/setLevel", json!({"level": "warning"})).await;
        it.see("log", "tools/call", json!({"name": tool}), &warned).await;
        if !is_crossed {
            // A server of the other era has no say in it.
            it.ask("set no such level", "logging/setLevel", json!({"level": "loud"})).await;
        }
        return;
    }
    it.ask("log nothing", "tools/call", json!({"name": tool})).await;
    if !logs_are_of_requests {
        return;
    }
    let meta = json!({"io.modelcontextprotocol/logLevel": "warning"});
    it.see("log", "tools/call", json!({"name": tool, "_meta": meta}), &warned).await;
}

async fn changes(it: &mut Walker) {
    let touch = json!({"name": "touch", "arguments": {"uri": WATCHED}});
    let tools = json!({"name": "test_trigger_tool_change"});
    let prompts = json!({"name": "test_trigger_prompt_change"});
    if it.wire.era() == Era::Legacy {
        it.ask("subscribe", "resources/subscribe", json!({"uri": WATCHED})).await;
        it.see("touch", "tools/call", touch.clone(), &[UPDATED]).await;
        it.ask("unsubscribe", "resources/unsubscribe", json!({"uri": WATCHED})).await;
        it.ask("touch unheard", "tools/call", touch).await;
        it.see("change tools", "tools/call", tools.clone(), &[TOOLS_CHANGED]).await;
        it.ask("changed tools", "tools/list", json!({})).await;
        it.see("change prompts", "tools/call", prompts, &[PROMPTS_CHANGED]).await;
        it.ask("changed prompts", "prompts/list", json!({})).await;
        return;
    }
    let wanted = json!({"toolsListChanged": true, "resourceSubscriptions": [WATCHED]});
    it.listen("listen", wanted).await;
    it.see("touch", "tools/call", touch, &[UPDATED]).await;
    it.see("change tools", "tools/call", tools, &[TOOLS_CHANGED]).await;
    it.ask("changed tools", "tools/list", json!({})).await;
    // Nobody listens to that.
    it.ask("change prompts", "tools/call", prompts.clone()).await;
    it.listen("listen to prompts too", json!({"promptsListChanged": true})).await;
    it.see("change prompts again", "tools/call", prompts, &[PROMPTS_CHANGED]).await;
}

/// The extension of the later era.
async fn tasks(it: &mut Walker) {
    let able = |mut params: Value| {
        params["_meta"]["vendor.example/task"] = json!(true);
        params
    };
    it.wire.add_capability("extensions", json!({"io.modelcontextprotocol/tasks": {}}));
    let call = |tool: &str| able(json!({"name": tool, "arguments": {"seconds": 60}}));
    let made = it.ask("a task", "tools/call", call("slow_compute")).await;
    let id = made.found("/taskId");
    it.ask("tasks/get", "tasks/get", json!({"taskId": id})).await;
    it.ask("tasks/cancel", "tasks/cancel", json!({"taskId": id})).await;
    let made = it.ask("a task that asks", "tools/call", call("confirm_delete")).await;
    let id = made.found("/taskId");
    let answer = json!({"confirm": {"action": "accept", "content": {"confirm": true}}});
    it.ask("tasks/update", "tasks/update", json!({"taskId": id, "inputResponses": answer})).await;
    it.ask("asks before it is a task", "tools/call", call("test_tool_with_task")).await;
    it.ask("no such task", "tasks/get", json!({"taskId": "none"})).await;
    it.ask("tasks/list", "tasks/list", json!({})).await;
}

async fn refusals(it: &mut Walker) {
    it.call("no_such_tool", json!({})).await;
    it.ask("unknown method", "vendor.example/do", json!({"x": 0.7})).await;
    if it.wire.era() == Era::Legacy {
        it.ask("ping", "ping", json!({})).await;
    }
}
