//! One attempt of one part: its arguments are put together, its tool is called, its end is judged.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use orch_domain::batch::{Kept, Part, Reason};
use orch_domain::name::StepId;
use orch_domain::plan::{Scope, Step, resolve};
use orch_domain::{Error, ErrorCode};
use serde_json::{Map, Value};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::calls::Target;
use super::journal::{self, Durable};
use super::live::{Run, Timing};
use super::payload::Held;
use super::slots::Place;

/// Longest wait between two attempts.
const MAX_BACKOFF: Duration = Duration::from_secs(60);

pub(super) struct Job {
    pub(super) part: Part,
    /// From 1.
    pub(super) attempt: u32,
    pub(super) step: Arc<Step>,
    pub(super) target: Target,
    /// For this attempt.
    pub(super) timeout: Duration,
    pub(super) retry: RetryRule,
    /// Results that its arguments refer to.
    pub(super) inputs: Vec<(StepId, Held)>,
    pub(super) item: Option<(Arc<Vec<Value>>, usize)>,
    /// It is called only when this is durable.
    pub(super) after: Option<Durable>,
    pub(super) cancel: CancellationToken,
    pub(super) place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct RetryRule {
    pub(super) max: u32,
    pub(super) backoff: Duration,
    /// The plan says so: after every failure, not only those that pass by themselves.
    pub(super) is_asked_for: bool,
}

pub(super) struct Done {
    pub(super) part: Part,
    pub(super) attempt: u32,
    pub(super) end: JobEnd,
    /// Of the call alone. None: it was not called.
    pub(super) took: Option<Duration>,
}

impl Done {
    pub(super) fn panicked(part: Part, attempt: u32) -> Done {
        let message = "the call came to grief in the server itself; whether it was done is not known, and the log says more";
        let reason = Reason::new(ErrorCode::Internal.as_str(), message);
        Done { part, attempt, end: JobEnd::Failed { reason, kept: None }, took: None }
    }
}

pub(super) enum JobEnd {
    Succeeded {
        value: Arc<Value>,
        kept: Kept,
        collected: Value,
    },
    /// A tool's own failure has a result too.
    Failed {
        reason: Reason,
        kept: Option<Kept>,
    },
    Again {
        reason: Reason,
        after: Duration,
    },
    Cancelled,
}

impl Job {
    /// A call that must not be made twice is recorded first, and rows that are on their way cannot be read yet.
    pub(super) fn waits_for_rows(&self) -> bool {
        !self.target.is_repeatable || self.inputs.iter().any(|it| matches!(it.1, Held::Stored(_)))
    }

    pub(super) async fn run(self, run: &Arc<Run>) -> Done {
        let (part, attempt) = (self.part, self.attempt);
        let mut took = None;
        let end = tokio::select! {
            biased;
            () = self.cancel.cancelled() => JobEnd::Cancelled,
            end = self.attempt(run, &mut took) => end,
        };
        // A call that timed out goes on being cancelled where it runs.
        self.cancel.cancel();
        drop(self.place);
        Done { part, attempt, end, took }
    }

    async fn attempt(&self, run: &Arc<Run>, took: &mut Option<Duration>) -> JobEnd {
        let arguments = match self.arguments(run).await {
            Ok(it) => it,
            Err(reason) => return JobEnd::Failed { reason, kept: None },
        };
        if let Some(durable) = &self.after
            && let Err(why) = journal::settled(durable.clone()).await
        {
            let message = format!("it was not called, because that could not be recorded: {why}");
            let reason = Reason::new(ErrorCode::Unavailable.as_str(), message);
            return JobEnd::Failed { reason, kept: None };
        }
        if self.cancel.is_cancelled() {
            return JobEnd::Cancelled;
        }
        let begun = Instant::now();
        let call = run.calls.call(&self.target, arguments, self.cancel.clone());
        let called = tokio::time::timeout(self.timeout, call).await;
        let returned = Instant::now();
        *took = Some(returned - begun);
        if let Some(timings) = &run.timings {
            let (part, attempt) = (self.part, self.attempt);
            timings.lock().push(Timing { part, attempt, called: begun, returned });
        }
        match called {
            Ok(Ok(value)) => self.judge(run, Arc::new(value)).await,
            Ok(Err(_)) if self.cancel.is_cancelled() => JobEnd::Cancelled,
            Ok(Err(err)) => {
                let (reason, wait) = (Reason::from(&err), wait_of(&err));
                // What was refused for its rate was not done, so trying again is not doing it twice.
                if self.target.is_repeatable || wait.is_none() {
                    self.failed(reason, passes(&err), wait)
                } else {
                    self.again(reason, wait)
                }
            }
            Err(_) => {
                let unknown = if self.target.is_repeatable {
                    ""
                } else {
                    "; whether it was done all the same is not known"
                };
                let message = format!(
                    "`{}` did not answer within {} s{unknown}",
                    self.target.name,
                    self.timeout.as_secs_f64()
                );
                self.failed(Reason::new("DeadlineExceeded", message), true, None)
            }
        }
    }

    async fn judge(&self, run: &Arc<Run>, value: Arc<Value>) -> JobEnd {
        let kept = match run.keep(self.part, &value).await {
            Ok(it) => it,
            Err(err) => return JobEnd::Failed { reason: Reason::from(&err), kept: None },
        };
        if value["isError"] == Value::Bool(true) {
            let mut text = value["content"].as_array().into_iter().flatten();
            let text = text.find_map(|it| it["text"].as_str()).unwrap_or("it does not say why");
            let message = orch_domain::text::excerpt(&orch_domain::text::sanitize(text), 500);
            let message = format!("`{}` failed: {message}", self.target.name);
            return match self.failed(Reason::new("ToolError", message), false, None) {
                JobEnd::Failed { reason, .. } => JobEnd::Failed { reason, kept: Some(kept) },
                other => other,
            };
        }
        let collected = match (&self.step.collect, self.part.element, self.part.is_compensation) {
            (Some(pointer), Some(_), false) => {
                match resolve_pointer(&self.step.id, pointer, &value) {
                    Ok(it) => it,
                    Err(reason) => return JobEnd::Failed { reason, kept: Some(kept) },
                }
            }
            (None, Some(_), false) => Value::clone(&value),
            _ => Value::Null,
        };
        JobEnd::Succeeded { value, kept, collected }
    }

    /// `passes`: it may go well the next time.
    fn failed(&self, reason: Reason, passes: bool, wait: Option<Duration>) -> JobEnd {
        let may = self.retry.is_asked_for || (passes && self.target.is_repeatable);
        if may { self.again(reason, wait) } else { JobEnd::Failed { reason, kept: None } }
    }

    fn again(&self, reason: Reason, wait: Option<Duration>) -> JobEnd {
        if self.retry.max < self.attempt {
            return JobEnd::Failed { reason, kept: None };
        }
        let doubled = self.retry.backoff.saturating_mul(1 << (self.attempt - 1).min(16));
        let backoff = doubled.min(MAX_BACKOFF);
        // Between half of it and all of it, so that many that failed together do not come back together.
        let jittered = backoff / 2 + backoff.mul_f64(random_share() / 2.0);
        JobEnd::Again { reason, after: wait.map_or(jittered, |it| it.max(jittered)) }
    }

    async fn arguments(&self, run: &Arc<Run>) -> Result<Map<String, Value>, Reason> {
        let unfetched = |err: Error| Reason::from(&err);
        let mut results: HashMap<&StepId, Arc<Value>> = HashMap::new();
        for (id, held) in &self.inputs {
            if let Some(value) = run.fetch(held.clone()).await.map_err(unfetched)? {
                results.insert(id, value);
            }
        }
        let scope = Scope {
            result: &|id| results.get(id).cloned(),
            item: self.item.as_ref().and_then(|(items, at)| items.get(*at)),
            index: self.item.as_ref().map(|it| it.1),
        };
        let written = match (&self.step.compensate, self.part.is_compensation) {
            (Some(it), true) => &it.arguments,
            _ => &self.step.arguments,
        };
        let mut arguments = Map::new();
        for (name, value) in written {
            let value = resolve(value, &scope).map_err(|err| {
                Reason::new("InvalidParameter", format!("the argument `{name}`: {err}"))
            })?;
            arguments.insert(name.clone(), value);
        }
        if self.target.takes_token && !arguments.contains_key("client_token") {
            // The same for every attempt, also after a restart: done twice, it is done once.
            let Part { step, element, is_compensation } = self.part;
            let element = element.map_or_else(String::new, |it| format!(".{it}"));
            let undo = if is_compensation { ".undo" } else { "" };
            let token = format!("{}.{step}{element}{undo}", run.id);
            arguments.insert("client_token".to_owned(), token.into());
        }
        Ok(arguments)
    }
}

pub(super) fn resolve_pointer(
    id: &StepId,
    pointer: &str,
    value: &Arc<Value>,
) -> Result<Value, Reason> {
    let reference = serde_json::json!({"$ref": format!("{id}#{pointer}")});
    let scope = Scope { result: &|_| Some(value.clone()), item: None, index: None };
    resolve(&reference, &scope)
        .map_err(|err| Reason::new("InvalidParameter", format!("`collect`: {err}")))
}

/// Failures that may be over the next time.
fn passes(err: &Error) -> bool {
    matches!(
        err.code(),
        ErrorCode::UpstreamError
            | ErrorCode::UpstreamTimeout
            | ErrorCode::Unavailable
            | ErrorCode::TooManyRequests
            | ErrorCode::NodeUnreachable
            | ErrorCode::EngineError
            | ErrorCode::DeadlineExceeded
    )
}

fn wait_of(err: &Error) -> Option<Duration> {
    match err {
        Error::TooManyRequests { retry_after_ms, .. } => {
            Some(Duration::from_millis(*retry_after_ms).min(MAX_BACKOFF))
        }
        _ => None,
    }
}

/// From 0 to 1.
fn random_share() -> f64 {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).expect("the operating system has random numbers");
    f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX)
}
