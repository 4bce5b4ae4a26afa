//! A batch: a plan under way or ended, as callers see it and as it is kept.

mod fan;
mod machine;
mod queue;

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Error;
use crate::caller::{Caller, Channel, Permission};
use crate::name::{ApiKeyId, BatchId, ClientToken, StepId, UserId};
use crate::plan::{OnError, Step};
use crate::time::Timestamp;
use crate::tool_access::ToolAccess;

pub use machine::{Class, End, Machine, Moved, Outcome, StepKind};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BatchState {
    /// Accepted; nothing has begun.
    Queued,
    /// A model writes the plan, and what is ready of it runs.
    Planning,
    Running,
    Succeeded,
    Failed,
    Cancelled,
}

impl BatchState {
    pub fn as_str(self) -> &'static str {
        match self {
            BatchState::Queued => "queued",
            BatchState::Planning => "planning",
            BatchState::Running => "running",
            BatchState::Succeeded => "succeeded",
            BatchState::Failed => "failed",
            BatchState::Cancelled => "cancelled",
        }
    }

    pub fn has_ended(self) -> bool {
        matches!(self, BatchState::Succeeded | BatchState::Failed | BatchState::Cancelled)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum StepState {
    /// For steps that it needs.
    Waiting,
    /// Ready, and waiting for its turn.
    Queued,
    Running,
    Succeeded,
    Failed,
    Cancelled,
    /// Never called: its condition did not hold, or what it needs is not there.
    Skipped,
    /// It was being called when the server stopped, and calling it again could do it twice.
    Unknown,
}

impl StepState {
    pub const ALL: [StepState; 8] = [
        StepState::Waiting,
        StepState::Queued,
        StepState::Running,
        StepState::Succeeded,
        StepState::Failed,
        StepState::Cancelled,
        StepState::Skipped,
        StepState::Unknown,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            StepState::Waiting => "waiting",
            StepState::Queued => "queued",
            StepState::Running => "running",
            StepState::Succeeded => "succeeded",
            StepState::Failed => "failed",
            StepState::Cancelled => "cancelled",
            StepState::Skipped => "skipped",
            StepState::Unknown => "unknown",
        }
    }

    pub fn has_ended(self) -> bool {
        !matches!(self, StepState::Waiting | StepState::Queued | StepState::Running)
    }
}

/// Why a batch or a step ended as it did: a code of `ErrorCode`, or one of its own: `ToolError`,
/// `ConditionNotMet`, `Skipped`, `Unknown`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reason {
    pub code: String,
    pub message: String,
}

impl Reason {
    pub fn new(code: &str, message: impl Into<String>) -> Reason {
        Reason { code: code.to_owned(), message: message.into() }
    }
}

impl From<&Error> for Reason {
    fn from(err: &Error) -> Reason {
        Reason::new(err.code().as_str(), err.to_string())
    }
}

/// Who a batch runs for. What they may is looked up anew at each step; this is the most it can be.
#[derive(Clone, Debug, PartialEq)]
pub struct RunsFor {
    pub user: UserId,
    pub permissions: Vec<Permission>,
    pub channel: Channel,
    pub client: Option<String>,
    pub tools: ToolAccess,
    /// The API key it was begun with; revoked, the batch goes no further.
    pub key: Option<ApiKeyId>,
    /// The profile of the endpoint that it was begun at.
    pub profile: Option<String>,
}

impl RunsFor {
    pub fn of(caller: &Caller, profile: Option<String>) -> RunsFor {
        RunsFor {
            user: caller.user.clone(),
            permissions: caller.permissions.clone(),
            channel: caller.channel,
            client: caller.client.clone(),
            tools: caller.tools.clone(),
            key: caller.key.clone(),
            profile,
        }
    }
}

/// How a batch is to run, from its request and the configuration.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Terms {
    /// Steps, and elements of them, that run at the same time.
    pub max_parallel: u32,
    /// Milliseconds for one attempt of a step that says nothing else.
    pub step_timeout_ms: u64,
    /// Times that a step that may be repeated is tried again.
    pub retries: u32,
    /// When it has to have ended.
    pub deadline: Timestamp,
    pub on_error: OnError,
}

/// A batch as it is kept, without its steps.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    pub id: BatchId,
    pub runs_for: RunsFor,
    pub state: BatchState,
    pub reason: Option<Reason>,
    /// What was asked for in words.
    pub request: Option<String>,
    pub client_token: Option<ClientToken>,
    /// SHA-256 of the arguments, in hexadecimal, for repeats with the token.
    pub arguments_hash: Option<String>,
    pub terms: Terms,
    /// The plan's.
    pub output: Option<Value>,
    /// What a model said of the results.
    pub answer: Option<String>,
    /// Steps of the plan. A plan that is being written grows.
    pub n_steps: u32,
    pub created_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
}

/// Which part of a batch a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Part {
    /// Place of the step in the plan.
    pub step: u32,
    /// Of `for_each`. None: the step as a whole.
    pub element: Option<u32>,
    /// It undoes the step.
    pub is_compensation: bool,
}

/// How far one part of a batch is.
#[derive(Clone, Debug, PartialEq)]
pub struct StepRun {
    pub part: Part,
    pub state: StepState,
    pub attempt: u32,
    pub reason: Option<Reason>,
    pub result: Option<Kept>,
    pub started_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
}

/// A tool's result as it is kept.
#[derive(Clone, Debug, PartialEq)]
pub enum Kept {
    /// As the protocol has it.
    Inline(Arc<Value>),
    /// Too large for a row: the file of that name beside the store has it.
    Large { name: String, n_bytes: u64 },
}

/// One change of a batch, durable together with others of the same commit.
#[derive(Clone, Debug)]
pub enum BatchChange {
    Put(Arc<Batch>),
    /// A step of the plan at its place.
    Define {
        batch: BatchId,
        place: u32,
        step: Arc<Step>,
    },
    Run {
        batch: BatchId,
        run: Arc<StepRun>,
    },
    /// All of it goes.
    Forget(BatchId),
}

/// A batch as it was found in the store.
#[derive(Clone, Debug)]
pub struct StoredBatch {
    pub batch: Batch,
    /// By place.
    pub steps: Vec<Arc<Step>>,
    /// By part, results included.
    pub runs: Vec<StepRun>,
}

impl StepId {
    /// For elements of plans made from plain calls.
    pub fn of_call(place: usize) -> StepId {
        StepId::try_new(format!("call_{place}")).expect("a word and a number")
    }
}
