//! Tools that become tasks for clients that declare the extension.

use std::time::Duration;

use rmcp::RoleServer;
use rmcp::model::{
    CallToolResponse, CallToolResult, ClientCapabilities, ContentBlock, CreateTaskResult,
    ErrorData, InputRequest, JsonObject,
};
use rmcp::service::RequestContext;
use rmcp::task_manager::{TaskContext, TaskExit, TaskManager, TaskOptions};
use serde_json::json;

use crate::ask::{Asked, Question, Round, ask, form, typed};

fn text(text: impl Into<String>) -> CallToolResult {
    CallToolResult::success(vec![ContentBlock::text(text.into())])
}

fn has_tasks(cx: &RequestContext<RoleServer>) -> bool {
    cx.client_capabilities().is_some_and(|it| it.supports_tasks())
}

fn need_tasks(cx: &RequestContext<RoleServer>) -> Result<(), ErrorData> {
    if has_tasks(cx) {
        return Ok(());
    }
    let needed = ClientCapabilities::builder().enable_tasks().build();
    Err(ErrorData::missing_required_client_capability(needed))
}

fn started<F, Fut>(tasks: &TaskManager, work: F) -> CallToolResponse
where
    F: FnOnce(TaskContext) -> Fut,
    Fut: Future<Output = Result<CallToolResult, TaskExit>> + Send + 'static,
{
    let options = TaskOptions::new().with_poll_interval_ms(100);
    CreateTaskResult::new(tasks.spawn(options, |cx| Box::pin(work(cx)))).into()
}

async fn compute(seconds: u64) -> CallToolResult {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    text(format!("computed for {seconds} s"))
}

fn confirmation(key: &'static str, what: &str) -> Question {
    let schema = json!({
        "type": "object", "properties": {"confirm": {"type": "boolean"}}, "required": ["confirm"]
    });
    crate::ask::elicit(key, what, schema)
}

fn input(question: Question) -> Result<InputRequest, ErrorData> {
    typed(json!({"method": question.method, "params": question.params}))
}

/// Calls the tool if it is one of these.
pub(crate) async fn call(
    tasks: &TaskManager,
    name: &str,
    arguments: &JsonObject,
    round: &Round,
    cx: &RequestContext<RoleServer>,
) -> Option<Result<CallToolResponse, ErrorData>> {
    let called = match name {
        "slow_compute" => slow_compute(tasks, arguments, cx).await,
        "failing_job" => need_tasks(cx).map(|()| {
            started(tasks, |_| async {
                Ok(CallToolResult::error(vec![ContentBlock::text("the job failed")]))
            })
        }),
        "protocol_error_job" => need_tasks(cx).map(|()| {
            started(tasks, |_| async {
                Err(TaskExit::Error(ErrorData::internal_error("the job broke down", None)))
            })
        }),
        "confirm_delete" => confirm_delete(tasks, arguments, round, cx).await,
        "multi_input" => need_tasks(cx).and_then(|()| {
            let first = input(form("first", "Who?", "name"))?;
            let second = input(form("second", "Who else?", "name"))?;
            Ok(started(tasks, |cx| async move {
                let both = futures::future::try_join(
                    cx.request_input("first", first),
                    cx.request_input("second", second),
                );
                let (first, second) = both.await?;
                Ok(text(format!("{first} {second}")))
            }))
        }),
        "test_tool_with_task" => with_task(tasks, round, cx).await,
        _ => return None,
    };
    Some(called)
}

async fn slow_compute(
    tasks: &TaskManager,
    arguments: &JsonObject,
    cx: &RequestContext<RoleServer>,
) -> Result<CallToolResponse, ErrorData> {
    let seconds = arguments.get("seconds").and_then(serde_json::Value::as_u64).unwrap_or(1);
    if !has_tasks(cx) {
        return Ok(compute(seconds).await.into());
    }
    Ok(started(tasks, move |cx| async move {
        tokio::select! {
            done = compute(seconds) => Ok(done),
            () = cx.cancelled() => Err(TaskExit::Cancelled),
        }
    }))
}

async fn confirm_delete(
    tasks: &TaskManager,
    arguments: &JsonObject,
    round: &Round,
    cx: &RequestContext<RoleServer>,
) -> Result<CallToolResponse, ErrorData> {
    let file = arguments.get("filename").and_then(|it| it.as_str()).unwrap_or("a file").to_owned();
    let question = confirmation("confirm", &format!("Delete {file}?"));
    if !has_tasks(cx) {
        return Ok(match ask(cx, round, vec![question], None).await? {
            Asked::NotYet(result) => result.into(),
            Asked::Answers(answers) => {
                text(format!("{file}: {}", answers["confirm"]["content"])).into()
            }
        });
    }
    let question = input(question)?;
    Ok(started(tasks, |cx| async move {
        let answer = cx.request_input("confirm", question).await?;
        Ok(text(format!("{file}: {answer}")))
    }))
}

/// Asks first, and only then is a task.
async fn with_task(
    tasks: &TaskManager,
    round: &Round,
    cx: &RequestContext<RoleServer>,
) -> Result<CallToolResponse, ErrorData> {
    need_tasks(cx)?;
    let question = form("user_name", "What is your name?", "name");
    Ok(match ask(cx, round, vec![question], None).await? {
        Asked::NotYet(result) => result.into(),
        Asked::Answers(answers) => {
            let name = answers["user_name"]["content"]["name"].as_str().unwrap_or_default();
            let said = format!("Done for {name}");
            started(tasks, |_| async move { Ok(text(said)) })
        }
    })
}
