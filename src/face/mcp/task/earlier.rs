//! Tasks as 2025-11-25 has them in its core: the client asks for one with its call, looks after it, and fetches its result.
//! The library knows nothing of them, so they are answered here.

use std::sync::Arc;
use std::time::Duration;

use orch_core::Cx;
use orch_domain::{Error, ErrorCode, text};
use orch_gateway::frame::{Frame, Raw, raw};
use orch_gateway::members::Members;
use orch_gateway::names::own_name;
use orch_gateway::session::Visitor;
use serde_json::{Value, json};

use super::{EXECUTE, LIST, Look, POLL_MS, WAIT};
use crate::face::mcp::lent::Questions;
use crate::face::mcp::{Face, tool};

/// The revision that has them; none before it did, and none after it does.
pub(in crate::face::mcp) const VERSION: &str = "2025-11-25";
const TASK: &str = "task";
const RELATED: &str = "io.modelcontextprotocol/related-task";
/// Between two looks at a task whose result a client waits for.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// What becomes of a call of one of our own tools for which its client wants a task.
pub(in crate::face::mcp) enum Wanted {
    /// It is no such call.
    No,
    /// It is to be sent as this.
    Task(Box<Frame>),
    /// This tool does not do it.
    Refused(Frame),
}

pub(in crate::face::mcp) fn wanted(frame: &Frame) -> Wanted {
    let may_be = frame.is("tools/call")
        && frame.params.as_ref().is_some_and(|it| it.get().contains("\"task\""));
    if !may_be {
        return Wanted::No;
    }
    let mut params = Members::of_params(frame.params.as_ref());
    let name = params.text("name").unwrap_or_default();
    if params.get(TASK).is_none_or(|it| it.get() == "null") || tool::op(&name).is_none() {
        return Wanted::No;
    }
    let name = own_name(&name);
    if !super::may_be_one(name) {
        let id = frame.id.clone().unwrap_or_else(|| raw(&()));
        let message = format!("the tool `{name}` is not run as a task; call it without `task`");
        return Wanted::Refused(Frame::error(id, -32601, &message));
    }
    params.remove(TASK);
    let mut arguments = params.object("arguments").unwrap_or_default();
    arguments.set(WAIT, &false);
    params.set("arguments", &arguments);
    Wanted::Task(Box::new(Frame { params: Some(params.to_raw()), ..frame.clone() }))
}

/// The answer to a call that has become a task. A call that was refused has become none, which only an error can say.
pub(in crate::face::mcp) fn begun(answer: &mut Frame) {
    let Some(result) = answer.result.as_ref().and_then(Members::of) else { return };
    let structured = result.get("structuredContent");
    let structured: Value =
        structured.and_then(|it| serde_json::from_str(it.get()).ok()).unwrap_or_default();
    match Look::of(&structured) {
        Some(look) => answer.result = Some(raw(&json!({TASK: task(&look)}))),
        None => {
            let message = structured["message"].as_str().unwrap_or("the call was not accepted");
            let code = match structured["error"].as_str() {
                Some("Internal" | "Unavailable") => -32603,
                _ => -32602,
            };
            let error = json!({"code": code, "message": message, "data": structured});
            answer.result = None;
            answer.error = Some(raw(&error));
        }
    }
}

fn task(look: &Look) -> Value {
    let status = match () {
        () if look.is_cancelled() => "cancelled",
        () if look.state.has_ended() => "completed",
        () => "working",
    };
    json!({
        "taskId": look.task_id, "status": status, "statusMessage": look.message(),
        "createdAt": look.created_at, "lastUpdatedAt": look.updated_at(),
        "ttl": null, "pollInterval": POLL_MS,
    })
}

/// Whether a request is about a task.
pub(in crate::face::mcp) fn is_about_one(frame: &Frame) -> bool {
    matches!(
        frame.method.as_deref(),
        Some("tasks/get" | "tasks/result" | "tasks/cancel" | "tasks/list")
    )
}

impl Face {
    /// Answers a request about a task of ours.
    pub(in crate::face::mcp) async fn about_task(&self, frame: &Frame, cx: &Cx) -> Frame {
        let id = frame.id.clone().unwrap_or_else(|| raw(&()));
        let params = Members::of_params(frame.params.as_ref());
        let task_id = params.text("taskId").unwrap_or_default();
        let answered = match frame.method.as_deref() {
            Some("tasks/get") => self.look_at_task(cx, &task_id).await.map(|it| raw(&task(&it))),
            Some("tasks/cancel") => self.cancelled(cx, &task_id).await,
            Some("tasks/list") => self.listed(cx, params.text("cursor")).await,
            _ => self.result(cx, &task_id).await,
        };
        match answered {
            Ok(result) => Frame::result(id, result),
            Err(err) => {
                let code = match err.code() {
                    ErrorCode::NotFound
                    | ErrorCode::InvalidParameter
                    | ErrorCode::IncorrectState
                    | ErrorCode::Conflict => -32602,
                    ErrorCode::Unauthenticated | ErrorCode::Forbidden => -32600,
                    _ => -32603,
                };
                let mut frame = Frame::error(id, code, "");
                let data = Value::Object(err.describe());
                frame.error =
                    Some(raw(&json!({"code": code, "message": err.to_string(), "data": data})));
                frame
            }
        }
    }

    async fn listed(&self, cx: &Cx, cursor: Option<String>) -> Result<Raw, Error> {
        let page = self.ask(cx, LIST, json!({"page_token": cursor.unwrap_or_default()})).await?;
        let batches = page.value["batches"].as_array();
        let looks = batches.into_iter().flatten().filter_map(Look::of);
        let mut result = json!({"tasks": looks.map(|it| task(&it)).collect::<Vec<_>>()});
        if let Some(next) = page.value["next_page_token"].as_str().filter(|it| !it.is_empty()) {
            result["nextCursor"] = next.into();
        }
        Ok(raw(&result))
    }

    async fn cancelled(&self, cx: &Cx, id: &str) -> Result<Raw, Error> {
        let look = self.look_at_task(cx, id).await?;
        if look.state.has_ended() {
            return Err(Error::IncorrectState {
                id: text::excerpt(id, 100),
                state: look.state.as_str().to_owned(),
                message: format!(
                    "the task has ended (`{}`), so there is nothing to cancel; `tasks/result` has its result",
                    look.state.as_str()
                ),
            });
        }
        self.cancel_batch(cx, id).await?;
        Ok(raw(&task(&self.look_at_task(cx, id).await?)))
    }

    /// Waits for the end.
    async fn result(&self, cx: &Cx, id: &str) -> Result<Raw, Error> {
        while !self.look_at_task(cx, id).await?.state.has_ended() {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        let mut result = self.result_of_task(cx, id).await?;
        result.insert("_meta".to_owned(), json!({RELATED: {"taskId": id}}));
        Ok(raw(&result))
    }
}

/// Says in the answer to `initialize` that there are tasks, where they are. False: in this session there are none. Where
/// servers behind have tasks too, `list` is not said of both: they are not listed together.
pub(in crate::face::mcp) fn introduce(answer: &mut Frame) -> bool {
    let Some(mut result) = answer.result.as_ref().and_then(Members::of) else { return false };
    if result.text("protocolVersion").is_none_or(|it| it != VERSION) {
        return false;
    }
    let Some(mut capabilities) = result.object("capabilities") else { return false };
    let tasks = json!({"list": {}, "cancel": {}, "requests": {"tools": {"call": {}}}});
    capabilities.set("tasks", &tasks);
    result.set("capabilities", &capabilities);
    answer.result = Some(result.to_raw());
    true
}

/// Says in a list of tools which of ours may be called as tasks.
pub(in crate::face::mcp) fn mark(answer: &mut Frame) {
    let Some(mut result) = answer.result.as_ref().and_then(Members::of) else { return };
    let Some(mut tools) = result.array("tools") else { return };
    for json in &mut tools {
        if !json.get().contains(EXECUTE) {
            continue;
        }
        let Some(mut tool) = Members::of(json) else { continue };
        if tool.text("name").is_some_and(|it| it == EXECUTE) {
            tool.set("execution", &json!({"taskSupport": "optional"}));
            *json = tool.to_raw();
        }
    }
    result.set("tools", &tools);
    answer.result = Some(result.to_raw());
}

/// The task that a call was answered with.
pub(in crate::face::mcp) fn task_of(answer: &Frame) -> Option<String> {
    Members::of(answer.result.as_ref()?)?.object(TASK)?.text("taskId")
}

/// Goes on asking the client for a task that its call was answered with; it has a connection to be asked on.
pub(in crate::face::mcp) async fn go_on_asking(
    id: String,
    mut questions: Questions,
    client: Arc<Visitor>,
) {
    while let Some(mut frame) = questions.next().await {
        let mut params = Members::of_params(frame.params.as_ref());
        let mut meta = params.object("_meta").unwrap_or_default();
        meta.set(RELATED, &json!({"taskId": id}));
        params.set("_meta", &meta);
        frame.params = Some(params.to_raw());
        client.tell(frame);
    }
}
