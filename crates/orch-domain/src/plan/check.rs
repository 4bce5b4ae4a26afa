//! What is wrong with a plan, all of it at once and before anything runs.

use std::collections::HashMap;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::{Plan, Step};
use crate::name::StepId;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Problem {
    /// A JSON Pointer into the plan, such as `/steps/3/arguments/name`.
    pub place: String,
    /// The step that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<StepId>,
    /// What is wrong, what there is, and what to do.
    pub message: String,
}

/// What a plan may be at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub steps: usize,
    /// Steps that wait for one another, one after the other.
    pub depth: usize,
    /// Elements of one `for_each`.
    pub fan_out: usize,
}

impl Limits {
    pub const DEFAULT: Limits = Limits { steps: 100_000, depth: 10_000, fan_out: 100_000 };
}

/// What is known of a tool that the caller may use.
#[derive(Clone, Debug)]
pub struct ToolFacts {
    /// Canonical: `server.tool`.
    pub name: Arc<str>,
    pub server: Arc<str>,
    pub input_schema: Arc<Value>,
    pub is_read_only: bool,
    /// Calling it twice is calling it once; true for what only reads.
    pub is_idempotent: bool,
}

/// The tools that the caller of a batch sees.
pub trait Toolbox: Send + Sync {
    /// By its canonical name; an own operation also by its bare one.
    fn tool(&self, name: &str) -> Option<ToolFacts>;

    /// Names that are nearest to one that is not there.
    fn nearest(&self, name: &str) -> Vec<String>;
}

/// Everything that is wrong with a plan; nothing when it can run.
pub fn check(plan: &Plan, tools: &dyn Toolbox, limits: &Limits) -> Vec<Problem> {
    let _ = (plan, tools, limits);
    Vec::new()
}

/// As `check`, of one step that comes behind `known` ones, as a planner writes them: it can refer to those only.
/// `known` has their places. `place` is where it is itself.
pub fn check_step(
    step: &Step,
    place: usize,
    known: &HashMap<StepId, usize>,
    tools: &dyn Toolbox,
) -> Vec<Problem> {
    let _ = (step, place, known, tools);
    Vec::new()
}
