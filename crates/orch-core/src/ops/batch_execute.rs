//! Many tool calls as one.

use std::sync::Arc;
use std::time::Duration;

use orch_domain::Error;
use orch_domain::caller::Permission;
use orch_domain::name::{ClientToken, StepId};
use orch_domain::plan::{Plan, Step};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::operation::{Operation, Route, Spec, Summary, spec};
use crate::service::batch::planner;
use crate::service::batch::{Accepted, Ask, Run, Wanted};
use crate::view::batch::{BatchView, batch_line};
use crate::{Cx, Orch};

/// Between two reports of progress, unless something happens.
const QUIET: Duration = Duration::from_secs(10);
const LONGEST_REQUEST: usize = 20_000;

#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BatchExecute {
    /// Steps with what each needs of the others. One of `plan`, `calls` and `request` is given.
    pub plan: Option<Plan>,
    /// Calls that need nothing of one another; they become the steps `call_0`, `call_1` …
    #[schemars(length(max = 10_000))]
    pub calls: Option<Vec<PlainCall>>,
    /// What is to be done, in words. A model makes the plan: yours where your client lends it (sampling), else the one
    /// that is configured here (`llm`).
    pub request: Option<String>,
    /// Steps, and elements of `for_each`, that run at the same time; 10 unless the configuration says otherwise.
    #[schemars(range(min = 1, max = 1000))]
    pub max_parallel_tasks: Option<u32>,
    /// Seconds that one attempt of a step may take, where the step does not say.
    #[schemars(range(min = 0.001, max = 86400))]
    pub task_timeout: Option<f64>,
    /// Times that a step is tried again after a failure that passes, where its tool says that repeating is safe.
    #[schemars(range(max = 100))]
    pub retry_count: Option<u32>,
    /// Seconds that the whole batch may take; an hour unless the configuration says otherwise.
    #[schemars(range(min = 1, max = 604_800))]
    pub deadline: Option<f64>,
    /// Of a `request`: whether the model looks at the results and answers. True unless given.
    pub answer: Option<bool>,
    /// Of a `request`: times that the model may add steps after it has seen results; 1 unless given.
    #[schemars(range(max = 10))]
    pub max_replans: Option<u32>,
    /// Names this batch: repeated with the same token and arguments, the same batch is answered and nothing runs twice.
    pub client_token: Option<ClientToken>,
    /// Answer when the batch has ended. It then belongs to this call: withdrawing the call cancels it. False answers at
    /// once, and the batch goes on by itself.
    pub wait: bool,
}

/// A call without a place in a plan.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PlainCall {
    /// Canonical name: `server.tool`, or the bare name of an own operation.
    pub tool: String,
    /// As the tool's input schema says.
    #[serde(default)]
    pub arguments: Map<String, Value>,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ExecutedBatch {
    #[serde(flatten)]
    pub batch: BatchView,
    /// True when an earlier request with this token was found, and nothing new was begun.
    pub existed: bool,
}

impl Summary for ExecutedBatch {
    fn summary(&self) -> String {
        let mut text = batch_line(&self.batch);
        if self.existed {
            text.push_str(" It was begun by an earlier call with this token.");
        }
        let hint = if self.batch.state.has_ended() {
            format!(" `batch_result` with `task_id={}` has the results.", self.batch.task_id)
        } else {
            format!(
                " `batch_status` with `task_id={}` shows how far it is, `batch_result` what came of it, `batch_cancel` ends it.",
                self.batch.task_id
            )
        };
        text + &hint
    }
}

impl BatchExecute {
    /// What is asked for. The error says that it is not one of the three.
    pub(super) fn ask(&mut self, orch: &Orch, cx: &Cx) -> Result<Ask, Error> {
        match (self.plan.take(), self.calls.take(), self.request.take()) {
            (Some(plan), None, None) => Ok(Ask::Plan(plan)),
            (None, Some(calls), None) => Ok(Ask::Plan(plan_of(calls))),
            (None, None, Some(words)) => {
                let words = words.trim();
                if words.is_empty() || LONGEST_REQUEST < words.len() {
                    let message = format!("say in 1 to {LONGEST_REQUEST} bytes what is to be done");
                    return Err(Error::invalid("request", message));
                }
                let model = planner::pick(cx, orch.model.as_ref())?;
                let options = planner::Options {
                    wants_answer: self.answer.unwrap_or(true),
                    max_replans: self.max_replans.unwrap_or(1),
                    ..planner::Options::default()
                };
                Ok(Ask::Request { words: words.to_owned(), model, options })
            }
            _ => Err(Error::invalid(
                "",
                "give exactly one of `plan` (steps), `calls` (tool calls that need nothing of one another) and `request` (words)",
            )),
        }
    }

    fn check_ranges(&self) -> Result<(), Error> {
        let range = |name: &str, given: Option<f64>, least: f64, most: f64| match given {
            Some(it) if !(least..=most).contains(&it) => {
                Err(Error::invalid(name, format!("{it} is not from {least} to {most}")))
            }
            _ => Ok(()),
        };
        range("max_parallel_tasks", self.max_parallel_tasks.map(f64::from), 1.0, 1000.0)?;
        range("task_timeout", self.task_timeout, 0.001, 86_400.0)?;
        range("retry_count", self.retry_count.map(f64::from), 0.0, 100.0)?;
        range("deadline", self.deadline, 1.0, 604_800.0)?;
        range("max_replans", self.max_replans.map(f64::from), 0.0, 10.0)
    }
}

pub(super) fn plan_of(calls: Vec<PlainCall>) -> Plan {
    let step = |(at, it): (usize, PlainCall)| Step {
        id: StepId::of_call(at),
        tool: it.tool,
        arguments: it.arguments,
        depends_on: Vec::new(),
        when: None,
        for_each: None,
        max_parallel: None,
        collect: None,
        timeout: None,
        retry: None,
        // One of many that have nothing to do with one another.
        on_error: Some(orch_domain::plan::OnError::Continue),
        compensate: None,
    };
    Plan::of(calls.into_iter().enumerate().map(step).collect())
}

impl Operation for BatchExecute {
    const SPEC: Spec = spec!(
        "batch_execute",
        Batches,
        Executes,
        Some(Permission::Execute),
        [Route::post("/batch/execute").taking_large_bodies()]
    );
    type Output = ExecutedBatch;

    async fn run(mut self, orch: &Arc<Orch>, cx: &Cx) -> Result<ExecutedBatch, Error> {
        self.check_ranges()?;
        let wait = self.wait;
        let hashed = BatchExecute { client_token: None, wait: false, ..self.clone() };
        let bytes = serde_json::to_vec(&hashed).map_err(Error::internal)?;
        let wanted = Wanted {
            ask: self.ask(orch, cx)?,
            max_parallel: self.max_parallel_tasks,
            step_timeout: self.task_timeout.map(Duration::from_secs_f64),
            retries: self.retry_count,
            deadline: self.deadline.map(Duration::from_secs_f64),
            client_token: self.client_token,
            arguments_hash: hex::encode(Sha256::digest(bytes)),
        };
        let is_lent = matches!(&wanted.ask, Ask::Request { model, .. } if model.ends_with_call());
        let Accepted { id, existed, planned, ended } = orch.begin_batch(wanted, cx).await?;
        let until = match planned {
            _ if wait => Some(ended),
            Some(planned) if is_lent => Some(planned),
            _ => None,
        };
        if let Some(until) = until {
            let run = orch.follow_batch(&id, cx)?;
            let reporting = report(run, cx);
            tokio::select! {
                () = until.cancelled() => {}
                () = cx.cancel.cancelled() => {
                    orch.cancel_batch(&id, cx).await?;
                    return Err(Error::Cancelled {
                        message: format!("the call was withdrawn, and with it the batch {id}"),
                    });
                }
                () = orch.shutdown.cancelled() => {}
                () = reporting => {}
            }
        }
        Ok(ExecutedBatch { batch: orch.view_batch(&id, cx).await?, existed })
    }
}

/// How far a batch is, to whoever waits for it. Never returns.
async fn report(run: Option<Arc<Run>>, cx: &Cx) {
    let Some(run) = run.filter(|_| cx.progress.is_wanted()) else {
        return std::future::pending().await;
    };
    let mut changed = run.last_transition();
    let mut told = 0.0;
    loop {
        let (done, total) = run.progress();
        // Progress has to grow with each report, and a plan that grows has the same number of ended steps for a while.
        if told < f64::from(done) || told == 0.0 {
            let message = format!("{done} of {total} steps have ended");
            let total = (total != 0).then(|| f64::from(total));
            cx.progress.report(f64::from(done), total, message);
            told = f64::from(done).max(f64::MIN_POSITIVE);
        }
        match tokio::time::timeout(QUIET, changed.changed()).await {
            Ok(Ok(())) | Err(_) => {}
            Ok(Err(_)) => return std::future::pending().await,
        }
    }
}
