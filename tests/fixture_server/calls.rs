//! What the tools do.
#![expect(deprecated, reason = "logging and sampling are part of what is tested")]

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rmcp::RoleServer;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ClientCapabilities, ErrorData,
    JsonObject, LoggingLevel, ProgressNotificationParam,
};
use rmcp::service::RequestContext;
use serde_json::{Value, json};

use crate::ask::{
    Asked, Question, Round, ask, complete, elicit, form, is_declared, opened, roots, sample, sealed,
};
use crate::catalog::{PNG, WAV};
use crate::handler::{Change, Fixture};
use crate::tasks;

type Called = Result<CallToolResponse, ErrorData>;

fn result(value: Value) -> Called {
    Ok(complete::<CallToolResult>(value)?.into())
}

fn text(text: impl AsRef<str>) -> Called {
    result(json!({"content": [{"type": "text", "text": text.as_ref()}]}))
}

fn resource(uri: &str, kind: &str, text: &str) -> Value {
    json!({"type": "resource", "resource": {"uri": uri, "mimeType": kind, "text": text}})
}

/// Asks, and says the answers.
async fn asked(cx: &RequestContext<RoleServer>, round: &Round, questions: Vec<Question>) -> Called {
    answered(cx, round, questions, None, gist).await
}

/// What was answered, in the same words whichever way it was asked.
fn gist(answers: BTreeMap<String, Value>) -> String {
    let gists = answers.into_iter().map(|(key, it)| {
        let gist = it["content"].get("text").or(it.get("content")).or(it.get("roots"));
        format!("{key}: {}", gist.cloned().unwrap_or_default())
    });
    gists.collect::<Vec<_>>().join("; ")
}

async fn answered(
    cx: &RequestContext<RoleServer>,
    round: &Round,
    questions: Vec<Question>,
    state: Option<String>,
    say: impl FnOnce(BTreeMap<String, Value>) -> String,
) -> Called {
    match ask(cx, round, questions, state).await? {
        Asked::NotYet(result) => Ok(result.into()),
        Asked::Answers(answers) => text(say(answers)),
    }
}

fn confirmation() -> Question {
    let schema = json!({
        "type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]
    });
    elicit("confirm", "Please confirm", schema)
}

fn defaults() -> Question {
    let schema = json!({"type": "object", "required": [], "properties": {
        "name": {"type": "string", "default": "John Doe"},
        "age": {"type": "integer", "default": 30},
        "score": {"type": "number", "default": 95.5},
        "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        "verified": {"type": "boolean", "default": true},
    }});
    elicit("form", "Please look at the defaults", schema)
}

fn choices() -> Question {
    let options = json!(["option1", "option2", "option3"]);
    let titled = json!([
        {"const": "value1", "title": "First"}, {"const": "value2", "title": "Second"},
        {"const": "value3", "title": "Third"}
    ]);
    let schema = json!({"type": "object", "required": [], "properties": {
        "untitledSingle": {"type": "string", "enum": options},
        "titledSingle": {"type": "string", "oneOf": titled},
        "legacyEnum": {
            "type": "string", "enum": ["opt1", "opt2", "opt3"],
            "enumNames": ["Option One", "Option Two", "Option Three"],
        },
        "untitledMulti": {"type": "array", "items": {"type": "string", "enum": options}},
        "titledMulti": {"type": "array", "items": {"anyOf": titled}},
    }});
    elicit("form", "Please choose", schema)
}

impl Fixture {
    pub(crate) async fn call(
        &self,
        request: CallToolRequestParams,
        cx: RequestContext<RoleServer>,
    ) -> Called {
        let arguments = request.arguments.unwrap_or_default();
        let round = Round { responses: request.input_responses, state: request.request_state };
        let name = request.name.as_ref();
        if let Some(called) = tasks::call(&self.shared.tasks, name, &arguments, &round, &cx).await {
            return called;
        }
        let argument =
            |key: &str| arguments.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        match name {
            "test_simple_text" => text("This is a simple text response for testing."),
            "test_image_content" => result(
                json!({"content": [{"type": "image", "data": PNG, "mimeType": "image/png"}]}),
            ),
            "test_audio_content" => result(
                json!({"content": [{"type": "audio", "data": WAV, "mimeType": "audio/wav"}]}),
            ),
            "test_embedded_resource" => {
                let said = "This is an embedded resource content.";
                result(
                    json!({"content": [resource("test://embedded-resource", "text/plain", said)]}),
                )
            }
            "test_multiple_content_types" => {
                let data = r#"{"test":"data","value":123}"#;
                result(json!({"content": [
                    {"type": "text", "text": "Multiple content types test:"},
                    {"type": "image", "data": PNG, "mimeType": "image/png"},
                    resource("test://mixed-content-resource", "application/json", data),
                ]}))
            }
            "test_error_handling" => result(json!({
                "isError": true,
                "content": [{
                    "type": "text",
                    "text": "This tool intentionally returns an error for testing",
                }],
            })),
            "test_tool_with_logging" => {
                for said in
                    ["Tool execution started", "Tool processing data", "Tool execution completed"]
                {
                    self.log(&cx, LoggingLevel::Info, said).await;
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                text("Logged three times")
            }
            "test_logging_tool" => {
                for level in LEVELS {
                    self.log(&cx, level, &format!("at {level:?}")).await;
                }
                text("Logged at every level")
            }
            "test_tool_with_progress" => {
                for progress in [0.0, 50.0, 100.0] {
                    told(&cx, progress, 100.0).await?;
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                text("Told three times")
            }
            "burst" => {
                let n = arguments.get("n").and_then(Value::as_u64).unwrap_or(20);
                for i in 1..=n {
                    #[expect(clippy::cast_precision_loss, reason = "a few of them")]
                    told(&cx, i as f64, n as f64).await?;
                }
                text(format!("Told {n} times"))
            }
            "hold" => {
                self.shared.n_held.fetch_add(1, Ordering::SeqCst);
                cx.ct.cancelled().await;
                self.shared.n_cancelled.fetch_add(1, Ordering::SeqCst);
                text("Cancelled")
            }
            "caller" => self.caller(&cx),
            "rich" => result(json!({
                "content": [{
                    "type": "text", "text": "0.7",
                    "annotations": {"audience": ["user"], "priority": 0.7},
                    "_meta": {"vendor.example/y": 1},
                }],
                "structuredContent": {"temperature": 0.7, "extra": {"n": 9_007_199_254_740_993_u64}},
                "_meta": {"vendor.example/z": {"arguments": arguments}},
            })),
            "touch" => {
                self.change(Change::Resource(argument("uri"))).await;
                text("Touched")
            }
            "test_trigger_tool_change" => {
                self.change(Change::Tools).await;
                text("The tools changed")
            }
            "test_trigger_prompt_change" => {
                self.change(Change::Prompts).await;
                text("The prompts changed")
            }
            "test_reconnection" => text("Reconnection test completed"),
            "test_dynamic_tool" => text("Here now."),
            "json_schema_2020_12_tool" => text(json!(arguments).to_string()),
            "test_x_mcp_header" => text(format!("Region: {}", argument("region"))),
            "greet" => text(format!("Hello, {}!", argument("name"))),
            _ => self.question(name, &arguments, &round, &cx).await,
        }
    }

    /// Who calls, as far as it is said to this server.
    fn caller(&self, cx: &RequestContext<RoleServer>) -> Called {
        let version = cx.protocol_version();
        let client = cx.client_info().map(|it| json!({"name": it.name, "version": it.version}));
        let seen = json!({
            "protocolVersion": version.map(|it| it.as_str().to_owned()),
            "clientInfo": client,
            "clientCapabilities": cx.client_capabilities(),
            "meta": cx.meta,
            "pid": std::process::id(),
            "held": self.shared.n_held.load(Ordering::SeqCst),
            "cancelled": self.shared.n_cancelled.load(Ordering::SeqCst),
        });
        result(json!({"content": [], "structuredContent": seen}))
    }

    /// The tools that ask the client something.
    async fn question(
        &self,
        name: &str,
        arguments: &JsonObject,
        round: &Round,
        cx: &RequestContext<RoleServer>,
    ) -> Called {
        let argument =
            |key: &str| arguments.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        match name {
            "test_missing_capability" => {
                if !is_declared(cx, "sampling/createMessage") {
                    let needed = ClientCapabilities::builder().enable_sampling().build();
                    return Err(ErrorData::missing_required_client_capability(needed));
                }
                asked(cx, round, vec![sample("sample", "Anything", 10)]).await
            }
            "test_streaming_elicitation" => {
                told(cx, 1.0, 2.0).await?;
                asked(cx, round, vec![form("user_name", "What is your name?", "name")]).await
            }
            "test_sampling" => {
                let question = sample("answer", &argument("prompt"), 100);
                answered(cx, round, vec![question], None, |answers| {
                    format!("LLM response: {}", answers["answer"]["content"]["text"])
                })
                .await
            }
            "test_elicitation" => {
                let schema = json!({"type": "object", "required": ["username", "email"], "properties": {
                    "username": {"type": "string", "description": "User's response", "pattern": "^[a-z]+$", "x-vendor": 0.7},
                    "email": {"type": "string", "description": "User's email address"},
                }});
                let question = elicit("form", &argument("message"), schema);
                asked(cx, round, vec![question]).await
            }
            "test_elicitation_sep1034_defaults" => asked(cx, round, vec![defaults()]).await,
            "test_elicitation_sep1330_enums" => asked(cx, round, vec![choices()]).await,
            "test_input_required_result_elicitation" => {
                let question = form("user_name", "What is your name?", "name");
                answered(cx, round, vec![question], None, |answers| {
                    let name = &answers["user_name"]["content"]["name"];
                    format!("Hello, {}!", name.as_str().unwrap_or("nobody"))
                })
                .await
            }
            "test_input_required_result_sampling" => {
                let question = sample("capital_question", "What is the capital of France?", 100);
                asked(cx, round, vec![question]).await
            }
            "test_input_required_result_list_roots" => {
                asked(cx, round, vec![roots("client_roots")]).await
            }
            "test_input_required_result_request_state"
            | "test_input_required_result_tampered_state" => {
                if let Some(state) = &round.state
                    && opened(state)? != name
                {
                    return Err(ErrorData::invalid_params("a state of another tool", None));
                }
                let say = |_| "state-ok".to_owned();
                answered(cx, round, vec![confirmation()], sealed(name), say).await
            }
            "test_input_required_result_multiple_inputs" => {
                let questions = vec![
                    form("user_name", "What is your name?", "name"),
                    sample("greeting", "Generate a greeting", 50),
                    roots("client_roots"),
                ];
                answered(cx, round, questions, sealed(name), gist).await
            }
            "test_input_required_result_multi_round" => self.two_rounds(round, cx).await,
            "test_input_required_result_capabilities" => {
                let questions = vec![
                    form("user_name", "What is your name?", "name"),
                    sample("greeting", "Generate a greeting", 50),
                    roots("client_roots"),
                ];
                let questions: Vec<Question> =
                    questions.into_iter().filter(|it| is_declared(cx, it.method)).collect();
                if questions.is_empty() {
                    return text("Nothing that this client could answer");
                }
                asked(cx, round, questions).await
            }
            _ => Err(ErrorData::invalid_params(format!("no tool `{name}`"), None)),
        }
    }

    async fn two_rounds(&self, round: &Round, cx: &RequestContext<RoleServer>) -> Called {
        let first = || form("step1", "Step 1: What is your name?", "name");
        let second = || form("step2", "Step 2: What is your favorite color?", "color");
        let state = round.state.as_deref().map(opened).transpose()?;
        let name = match state.and_then(|it| it.strip_prefix("second ")) {
            Some(name) => name.to_owned(),
            None => match ask(cx, round, vec![first()], sealed("first")).await? {
                Asked::NotYet(result) => return Ok(result.into()),
                Asked::Answers(answers) => {
                    let name = answers["step1"]["content"]["name"].as_str().unwrap_or_default();
                    name.to_owned()
                }
            },
        };
        let state = sealed(&format!("second {name}"));
        answered(cx, round, vec![second()], state, |answers| {
            format!("{name} likes {}", answers["step2"]["content"]["color"])
        })
        .await
    }
}

const LEVELS: [LoggingLevel; 8] = [
    LoggingLevel::Debug,
    LoggingLevel::Info,
    LoggingLevel::Notice,
    LoggingLevel::Warning,
    LoggingLevel::Error,
    LoggingLevel::Critical,
    LoggingLevel::Alert,
    LoggingLevel::Emergency,
];

/// One word of progress, if the caller wants any.
async fn told(cx: &RequestContext<RoleServer>, progress: f64, total: f64) -> Result<(), ErrorData> {
    let Some(token) = cx.meta.get_progress_token() else { return Ok(()) };
    let mut param = ProgressNotificationParam::new(token, progress);
    param.total = Some(total);
    param.message = Some(format!("{progress} of {total}"));
    let sent = cx.peer.notify_progress(param).await;
    sent.map_err(|err| ErrorData::internal_error(err.to_string(), None))
}
