//! Tasks of the extension `io.modelcontextprotocol/tasks`: a client that declares it takes a task for an answer.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use orch_core::{Answer, Cx};
use orch_domain::Error;
use orch_gateway::frame::{Frame, raw};
use orch_gateway::members::Members;
use parking_lot::Mutex;
use rmcp::RoleServer;
use rmcp::model::{
    CreateTaskResult, DetailedTask, GetTaskResult, InputRequests, InputResponses, Task,
    TaskPayload, TaskStatus,
};
use rmcp::service::RequestContext;
use serde_json::{Value, json};

use super::{Look, POLL_MS, WAIT, may_be_one};
use crate::face::mcp::Face;
use crate::face::mcp::lent::Questions;

/// Whether a call is to become a task: its client takes one, and did not say whether it wants to wait.
pub(in crate::face::mcp) fn is_wanted(
    operation: &str,
    arguments: &Value,
    cx: &RequestContext<RoleServer>,
) -> bool {
    may_be_one(operation)
        && arguments.get(WAIT).is_none_or(Value::is_null)
        && cx.meta.protocol_version().is_some()
        && cx.meta.client_capabilities().is_some_and(|it| it.supports_tasks())
}

/// The arguments of a call that is answered when its batch is accepted.
pub(in crate::face::mcp) fn begin(mut arguments: Value) -> Value {
    if let Value::Object(arguments) = &mut arguments {
        arguments.insert(WAIT.to_owned(), false.into());
    }
    arguments
}

/// None: the batch has ended already, and its answer is the answer.
pub(in crate::face::mcp) fn begun(answer: &Answer) -> Option<CreateTaskResult> {
    Look::of_begun(&answer.value).map(|it| CreateTaskResult::new(task(&it)))
}

fn task(look: &Look) -> Task {
    let (created, updated) = (look.created_at.to_string(), look.updated_at().to_string());
    Task::new(&look.task_id, TaskStatus::Working, created, updated)
        .with_status_message(look.message())
        .with_poll_interval_ms(POLL_MS)
}

impl Face {
    pub(in crate::face::mcp) async fn get_task(
        &self,
        cx: &Cx,
        id: &str,
    ) -> Result<GetTaskResult, Error> {
        let look = self.look_at_task(cx, id).await?;
        let payload = if look.is_cancelled() {
            TaskPayload::Cancelled
        } else if look.state.has_ended() {
            TaskPayload::Completed { result: self.result_of_task(cx, id).await? }
        } else {
            match self.asking.open(cx.caller()?.user.as_str(), id) {
                Some(input_requests) => TaskPayload::InputRequired { input_requests },
                None => TaskPayload::Working,
            }
        };
        Ok(GetTaskResult::new(DetailedTask::new(task(&look), payload)))
    }

    /// What a client answers that nobody asked is nothing.
    pub(in crate::face::mcp) async fn update_task(
        &self,
        cx: &Cx,
        id: &str,
        responses: InputResponses,
    ) -> Result<(), Error> {
        self.look_at_task(cx, id).await?;
        let mut answers = Members::default();
        for (name, response) in responses {
            answers.set(&name, &response);
        }
        self.asking.answer(cx.caller()?.user.as_str(), id, &answers).await;
        Ok(())
    }

    pub(in crate::face::mcp) async fn cancel_task(&self, cx: &Cx, id: &str) -> Result<(), Error> {
        // What has ended is as cancelled as it can be.
        if self.look_at_task(cx, id).await?.state.has_ended() {
            return Ok(());
        }
        self.cancel_batch(cx, id).await
    }
}

/// What batches ask the clients that lent them their models, once their calls have been answered with a task.
#[derive(Default)]
pub(in crate::face::mcp) struct Asking {
    /// By user and task.
    of_tasks: Mutex<HashMap<(Arc<str>, String), Questions>>,
}

impl Asking {
    /// Goes on asking for the task that `answer` names. False: it names none.
    pub(in crate::face::mcp) fn go_on(&self, answer: &Frame, questions: Questions) -> bool {
        let Some(id) = task_of(answer) else { return false };
        let key = (questions.visitor.user.clone(), id);
        let mut of_tasks = self.of_tasks.lock();
        of_tasks.retain(|_, it| !it.is_over());
        of_tasks.insert(key, questions);
        true
    }

    /// None: nothing is to be asked now.
    pub(super) fn open(&self, user: &str, id: &str) -> Option<InputRequests> {
        let mut of_tasks = self.of_tasks.lock();
        of_tasks.retain(|_, it| !it.is_over());
        let questions = of_tasks.get_mut(&(Arc::from(user), id.to_owned()))?;
        let requests: BTreeMap<_, _> = questions
            .open()
            .iter()
            .filter_map(|(name, frame)| Some((name.clone(), request(frame)?)))
            .collect();
        (!requests.is_empty()).then_some(requests)
    }

    pub(super) async fn answer(&self, user: &str, id: &str, answers: &Members) {
        let key = (Arc::from(user), id.to_owned());
        let questions = self.of_tasks.lock().remove(&key);
        let Some(mut questions) = questions else { return };
        questions.answer(answers).await;
        if !questions.is_over() {
            self.of_tasks.lock().insert(key, questions);
        }
    }

    #[cfg(test)]
    pub(super) fn n_tasks(&self) -> usize {
        self.of_tasks.lock().len()
    }
}

/// The task that an answer names in place of a result.
fn task_of(answer: &Frame) -> Option<String> {
    let result = answer.result.as_ref().filter(|it| it.get().contains("taskId"))?;
    let result = Members::of(result)?;
    result.text("resultType").filter(|it| it == "task")?;
    result.text("taskId")
}

fn request(frame: &Frame) -> Option<rmcp::model::InputRequest> {
    let asked = json!({"method": frame.method, "params": frame.params});
    serde_json::from_str(raw(&asked).get()).ok()
}
