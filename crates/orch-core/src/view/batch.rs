//! How a batch looks on every face.

use orch_domain::batch::{BatchState, Reason, StepState};
use orch_domain::name::{BatchId, ClientToken, StepId, UserId};
use orch_domain::time::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct BatchView {
    pub task_id: BatchId,
    pub state: BatchState,
    /// Why it ended as it did; null while it runs and when all went well.
    pub reason: Option<Reason>,
    pub owner: UserId,
    /// What was asked for in words.
    pub request: Option<String>,
    /// How many steps there are, and how many of them are in which state.
    pub steps: StepCounts,
    pub created_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    /// From its creation to its end, or until now, in milliseconds.
    pub elapsed_ms: u64,
    /// When it has ended at the latest.
    pub deadline: Timestamp,
    pub client_token: Option<ClientToken>,
    /// What a model said of the results, where one planned.
    pub answer: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct StepCounts {
    pub total: u32,
    pub waiting: u32,
    pub queued: u32,
    pub running: u32,
    pub succeeded: u32,
    pub failed: u32,
    pub cancelled: u32,
    pub skipped: u32,
    pub unknown: u32,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct StepView {
    pub id: StepId,
    pub tool: String,
    pub state: StepState,
    /// Attempts so far.
    pub attempt: u32,
    /// Why it failed, was skipped or is unknown.
    pub reason: Option<Reason>,
    pub started_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    pub elapsed_ms: Option<u64>,
    /// Of `for_each`: how many elements are in which state.
    pub elements: Option<StepCounts>,
    /// What became of undoing it.
    pub compensation: Option<StepState>,
}

/// The result of a step.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct StepResult {
    pub id: StepId,
    pub tool: String,
    pub state: StepState,
    pub reason: Option<Reason>,
    /// As the tool gave it (`content`, `structuredContent`, `isError`); null where there is none, or where it is `large`.
    pub result: Option<Value>,
    /// Too large to be shown here: ask for it with `step` and `offset`.
    pub large: Option<LargeResult>,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct LargeResult {
    pub n_bytes: u64,
}

/// What there is to say of a batch in a line.
pub(crate) fn batch_line(it: &BatchView) -> String {
    let counts = &it.steps;
    let told = [
        (counts.succeeded, "succeeded"),
        (counts.failed, "failed"),
        (counts.running, "running"),
        (counts.queued + counts.waiting, "to come"),
        (counts.skipped, "skipped"),
        (counts.cancelled, "cancelled"),
        (counts.unknown, "unknown"),
    ];
    let told: Vec<String> =
        told.iter().filter(|it| it.0 != 0).map(|(n, word)| format!("{n} {word}")).collect();
    let n = counts.total;
    let mut text = format!(
        "Batch {} {}{} after {} ms: {n} step{}{}{}.",
        it.task_id,
        if matches!(it.state, BatchState::Succeeded | BatchState::Failed) { "" } else { "is " },
        it.state.as_str(),
        it.elapsed_ms,
        if n == 1 { "" } else { "s" },
        if told.is_empty() { "" } else { ", " },
        told.join(", "),
    );
    if let Some(reason) = &it.reason {
        text.push_str(&format!(" Why: {}", orch_domain::text::sanitize(&reason.message)));
    }
    text
}
