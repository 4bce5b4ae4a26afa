//! Batches as tasks of the protocol. There are two kinds: the extension of 2026-07-28, in which the server decides what
//! becomes one (`extension`), and those of 2025-11-25, in which the client does (`earlier`). Either way a task is a batch
//! under another name, and what is asked about it is asked of the operations for batches, with their permissions.

pub(super) mod earlier;
pub(super) mod extension;

use orch_core::operation::Op;
use orch_core::{Answer, Cx};
use orch_domain::batch::{BatchState, Reason};
use orch_domain::time::Timestamp;
use orch_domain::{Error, ErrorCode, text};
use orch_gateway::view::View;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Face, tool};

const EXECUTE: &str = "batch_execute";
const STATUS: &str = "batch_status";
const RESULT: &str = "batch_result";
const LIST: &str = "list_batches";
const CANCEL: &str = "batch_cancel";
/// What of the arguments says that the answer is to wait for the end.
const WAIT: &str = "wait";

/// Between two looks at a task, in milliseconds.
const POLL_MS: u64 = 1000;
const MAX_MESSAGE: usize = 300;

/// Whether calls of this tool may become tasks.
pub(super) fn may_be_one(tool: &str) -> bool {
    tool == EXECUTE
}

/// Whether there can be tasks of ours at an endpoint.
pub(super) fn are_offered(view: &View) -> bool {
    tool::op(EXECUTE).is_some() && view.offers_own(EXECUTE)
}

/// A batch, as far as a task shows it.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Look {
    task_id: String,
    state: BatchState,
    #[serde(default)]
    reason: Option<Reason>,
    #[serde(default)]
    steps: Option<Counts>,
    created_at: Timestamp,
    #[serde(default)]
    ended_at: Option<Timestamp>,
    #[serde(default)]
    elapsed_ms: u64,
}

#[derive(Clone, Debug, Deserialize)]
struct Counts {
    total: u32,
    running: u32,
    succeeded: u32,
    failed: u32,
}

impl Look {
    /// None: it is no batch that goes on.
    fn of_begun(answer: &Value) -> Option<Look> {
        Look::of(answer).filter(|it| !it.state.has_ended())
    }

    fn of(answer: &Value) -> Option<Look> {
        Look::deserialize(answer).ok()
    }

    fn is_cancelled(&self) -> bool {
        self.state == BatchState::Cancelled
    }

    /// For a person or a model that waits.
    fn message(&self) -> String {
        let state = self.state.as_str();
        let text = match (&self.reason, &self.steps) {
            (Some(reason), _) => format!("{state}: {}", reason.message),
            (None, Some(steps)) if 0 < steps.total => format!(
                "{state}: {} of {} steps succeeded, {} failed, {} running",
                steps.succeeded, steps.total, steps.failed, steps.running
            ),
            _ => state.to_owned(),
        };
        text::excerpt(&text, MAX_MESSAGE)
    }

    fn updated_at(&self) -> Timestamp {
        self.ended_at.unwrap_or_else(|| self.created_at.plus_millis(self.elapsed_ms))
    }
}

impl Face {
    async fn ask(&self, cx: &Cx, operation: &str, arguments: Value) -> Result<Answer, Error> {
        let call_cx = cx.anew().with_cancel(cx.cancel.clone());
        (op(operation)?.call)(self.orch.clone(), call_cx, arguments).await
    }

    /// Not yours is not there.
    pub(super) async fn look_at_task(&self, cx: &Cx, id: &str) -> Result<Look, Error> {
        let answer = self.ask(cx, STATUS, json!({"task_id": id})).await;
        let answer = answer.map_err(|err| unknown(err, id))?;
        Look::of(&answer.value).ok_or_else(|| unreadable(STATUS))
    }

    /// The result of the call that became a task, as the object it would have been answered with.
    async fn result_of_task(&self, cx: &Cx, id: &str) -> Result<Map<String, Value>, Error> {
        let answer = self.ask(cx, RESULT, json!({"task_id": id})).await?;
        match serde_json::to_value(tool::answered(answer)) {
            Ok(Value::Object(mut it)) => {
                // Of the answer it would have been in.
                it.remove("resultType");
                Ok(it)
            }
            _ => Err(unreadable(RESULT)),
        }
    }

    async fn cancel_batch(&self, cx: &Cx, id: &str) -> Result<(), Error> {
        let answer = self.ask(cx, CANCEL, json!({"task_id": id})).await;
        answer.map(drop).map_err(|err| unknown(err, id))
    }
}

fn op(name: &str) -> Result<&'static Op, Error> {
    tool::op(name).ok_or_else(|| Error::Unavailable {
        message: "there are no tasks here".to_owned(),
        source: None,
    })
}

/// An id that no batch can have is one that is not there.
fn unknown(err: Error, id: &str) -> Error {
    match err.code() {
        ErrorCode::NotFound | ErrorCode::InvalidParameter => Error::NotFound {
            kind: "task",
            id: text::excerpt(id, 100),
            hint: "its id is the `taskId` that the call was answered with, and tasks are not kept for ever"
                .to_owned(),
        },
        _ => err,
    }
}

fn unreadable(operation: &str) -> Error {
    let message = format!("`{operation}` answered what is no batch");
    Error::internal(std::io::Error::other(message))
}

#[cfg(test)]
mod tests;
