//! A plan that is only looked at.

use std::collections::HashMap;

use async_trait::async_trait;
use orch_domain::name::StepId;
use orch_domain::plan::{self, Limits, Plan, Problem, Step, Toolbox};
use parking_lot::Mutex;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{Canvas, Ended};

/// Collects the steps that pass the check.
pub struct Draft<T> {
    tools: T,
    limits: Limits,
    taken: Mutex<Taken>,
    ended: CancellationToken,
}

/// Invariant: `places` has the place of each of `steps`.
#[derive(Default)]
struct Taken {
    steps: Vec<Step>,
    places: HashMap<StepId, usize>,
}

impl<T: Toolbox> Draft<T> {
    /// `ended` is cancelled when nobody waits for the plan any more.
    pub fn new(tools: T, limits: Limits, ended: CancellationToken) -> Draft<T> {
        Draft { tools, limits, taken: Mutex::default(), ended }
    }

    /// The plan so far, with `output` as the planner answered it.
    pub fn into_plan(self, output: Option<Value>) -> Plan {
        Plan { output, ..Plan::of(self.taken.into_inner().steps) }
    }
}

#[async_trait]
impl<T: Toolbox> Canvas for Draft<T> {
    fn add(&self, step: Step) -> Result<(), Vec<Problem>> {
        let mut taken = self.taken.lock();
        let place = taken.steps.len();
        if self.limits.steps <= place {
            return Err(vec![too_many(&step, place, self.limits.steps)]);
        }
        let problems = plan::check_step(&step, place, &taken.places, &self.tools);
        if !problems.is_empty() {
            return Err(problems);
        }
        taken.places.insert(step.id.clone(), place);
        taken.steps.push(step);
        Ok(())
    }

    fn check_output(&self, output: &Value) -> Vec<Problem> {
        let steps = self.taken.lock().steps.clone();
        problems_of_output(steps, output, &self.tools, &self.limits)
    }

    async fn settled(&self) -> Option<Vec<Ended>> {
        None
    }

    fn ended(&self) -> &CancellationToken {
        &self.ended
    }
}

/// What is wrong with `output` as the output of a plan of `steps`.
pub fn problems_of_output(
    steps: Vec<Step>,
    output: &Value,
    tools: &dyn Toolbox,
    limits: &Limits,
) -> Vec<Problem> {
    let plan = Plan { output: Some(output.clone()), ..Plan::of(steps) };
    let mut problems = plan::check(&plan, tools, limits);
    problems.retain(|it| it.place.starts_with("/output"));
    problems
}

pub(super) fn too_many(step: &Step, place: usize, limit: usize) -> Problem {
    Problem {
        place: format!("/steps/{place}"),
        step: Some(step.id.clone()),
        message: format!("a plan has at most {limit} steps; use `for_each` for what repeats"),
    }
}
