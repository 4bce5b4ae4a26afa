//! A request in words becomes steps: a model writes them, and each goes to the runner as soon as it is complete.
//!
//! The planner never waits for a step while the model writes, and no step waits for the model. What runs steps is a
//! `Canvas`, and the planner knows no more of it.

use std::sync::Arc;

use async_trait::async_trait;
use orch_domain::Error;
use orch_domain::batch::{Reason, StepState};
use orch_domain::name::StepId;
use orch_domain::plan::{Problem, Step};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::ports::model::Model;
use crate::{Cx, Orch};

/// What the planner writes on: a running batch, or a draft that is only looked at.
#[async_trait]
pub trait Canvas: Send + Sync {
    /// Takes a step behind those it has, after checking it; what is wrong with it otherwise, all at once. It runs as
    /// soon as it can. Returns at once: the planner calls it between two pieces of the model's text.
    fn add(&self, step: Step) -> Result<(), Vec<Problem>>;

    /// What is wrong with `output` as the output of the steps taken so far (`Plan::output`).
    fn check_output(&self, output: &Value) -> Vec<Problem>;

    /// When everything added so far has ended: how each did, in the order of the plan. None: nothing runs here.
    async fn settled(&self) -> Option<Vec<Ended>>;

    /// Cancelled when the batch is, or fails for good, so that a silent planner holds up nothing.
    fn ended(&self) -> &CancellationToken;
}

/// How a step did.
#[derive(Clone, Debug)]
pub struct Ended {
    pub id: StepId,
    pub tool: String,
    pub state: StepState,
    pub reason: Option<Reason>,
    /// As the protocol has it; the planner shows the model its beginning only. None: there is none, or it is too large
    /// to be in memory.
    pub result: Option<Arc<Value>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Times that a model is asked to mend what is wrong with a plan, or to go on where it was cut off.
    pub max_repairs: u32,
    /// Times that a model may ask for further steps when it has seen results.
    pub max_replans: u32,
    /// Whether the results go back to the model at all.
    pub wants_answer: bool,
    /// What the descriptions of tools may take, in tokens of about four bytes.
    pub tool_budget_tokens: usize,
    /// Of all rounds together.
    pub max_steps: usize,
    /// What one reply of the model may have.
    pub max_output_tokens: u32,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            max_repairs: 2,
            max_replans: 1,
            wants_answer: true,
            tool_budget_tokens: 8_000,
            max_steps: 1_000,
            max_output_tokens: 8_192,
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// What the model said of the results, or instead of a plan.
    pub answer: Option<String>,
    /// Times that the model was asked.
    pub rounds: u32,
    /// Steps that the canvas took.
    pub n_steps: usize,
    /// `Plan::output`, which `Canvas::check_output` found nothing wrong with.
    pub output: Option<Value>,
}

/// Has `model` plan what `request` asks for. Returns when the plan is complete and, where an answer is wanted and the
/// canvas runs what it takes, when the model has answered. Steps that were taken stay taken, also when this fails.
///
/// Errors: `Cancelled` when the canvas ended first; `InvalidParameter` when the model says that it cannot be done;
/// `UpstreamError` when it writes no usable plan; those of the model when it cannot be asked.
pub async fn run(
    orch: &Arc<Orch>,
    cx: &Cx,
    model: &Arc<dyn Model>,
    request: &str,
    options: &Options,
    canvas: &dyn Canvas,
) -> Result<Outcome, Error> {
    let _ = (orch, cx, model, request, options, canvas);
    Ok(Outcome::default())
}
