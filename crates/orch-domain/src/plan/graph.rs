//! What a step waits for.

use super::condition::Condition;
use super::reference::{Needs, needs};
use super::{Plan, Step};
use crate::name::StepId;

/// The steps that one waits for, by what it wants of them. Those of a condition are no needs of the step itself: it decides
/// by them whether it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StepNeeds {
    /// Their results are taken over, so they have to have succeeded.
    pub results: Vec<StepId>,
    /// `depends_on`.
    pub after: Vec<StepId>,
    /// The condition looks at their results.
    pub looked_at: Vec<StepId>,
    /// The condition asks how they ended.
    pub asked_about: Vec<StepId>,
}

impl StepNeeds {
    pub fn of(step: &Step) -> StepNeeds {
        let mut results = Needs::default();
        for value in step.arguments.values().chain(&step.for_each) {
            needs(value, &mut results);
        }
        let condition = step.when.as_ref().and_then(|it| Condition::parse(it).ok());
        StepNeeds {
            results: results.steps,
            after: step.depends_on.clone(),
            looked_at: condition.as_ref().map(|it| it.needs().steps).unwrap_or_default(),
            asked_about: condition.map(|it| it.asks_about()).unwrap_or_default(),
        }
    }

    /// Each once per kind.
    pub fn all(&self) -> impl Iterator<Item = &StepId> {
        self.results.iter().chain(&self.after).chain(&self.looked_at).chain(&self.asked_about)
    }
}

/// Adds what `value` refers to, as far as it can be read.
pub fn collect_needs(value: &serde_json::Value, into: &mut Needs) {
    needs(value, into);
}

/// How long a plan takes when nothing has to wait for a turn, and which steps decide that.
#[derive(Clone, Debug, PartialEq)]
pub struct CriticalPath {
    pub milliseconds: f64,
    /// First to last.
    pub steps: Vec<usize>,
    /// When each step can begin at the earliest, in milliseconds.
    pub starts: Vec<f64>,
}

/// Of a plan without problems. `expected` is how long a step takes, in milliseconds.
pub fn critical_path(plan: &Plan, expected: &dyn Fn(&Step) -> f64) -> CriticalPath {
    let n = plan.steps.len();
    let places: std::collections::HashMap<&StepId, usize> =
        plan.steps.iter().enumerate().map(|(at, it)| (&it.id, at)).collect();
    let mut n_open = vec![0_usize; n];
    let mut dependents: Vec<Vec<usize>> = vec![Vec::new(); n];
    for (at, step) in plan.steps.iter().enumerate() {
        for need in StepNeeds::of(step).all() {
            if let Some(&on) = places.get(need) {
                dependents[on].push(at);
                n_open[at] += 1;
            }
        }
    }
    let mut starts = vec![0.0_f64; n];
    let mut before: Vec<Option<usize>> = vec![None; n];
    let mut ready: Vec<usize> = (0..n).filter(|at| n_open[*at] == 0).collect();
    let mut last: Option<(usize, f64)> = None;
    while let Some(at) = ready.pop() {
        let end = starts[at] + expected(&plan.steps[at]);
        if last.is_none_or(|(_, latest)| latest < end) {
            last = Some((at, end));
        }
        for &next in &dependents[at] {
            if starts[next] < end || before[next].is_none() {
                starts[next] = starts[next].max(end);
                before[next] = Some(at);
            }
            n_open[next] -= 1;
            if n_open[next] == 0 {
                ready.push(next);
            }
        }
    }
    let mut steps = Vec::new();
    let mut at = last.map(|it| it.0);
    while let Some(it) = at {
        steps.push(it);
        at = before[it];
    }
    steps.reverse();
    CriticalPath { milliseconds: last.map_or(0.0, |it| it.1), steps, starts }
}
