//! What a plan would do, without doing it.

use std::sync::Arc;

use orch_domain::Error;
use orch_domain::name::StepId;
use orch_domain::plan::{Limits, Plan, Step, StepNeeds, Toolbox, critical_path};
use schemars::JsonSchema;
use serde::Serialize;

use super::planner;
use super::toolbox::CallersTools;
use crate::ports::model::Model;
use crate::{Cx, Orch};

/// Elements of `for_each` that are assumed where the array is not known yet.
const ELEMENTS_ASSUMED: f64 = 10.0;

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Ahead {
    /// Steps of the longest way, first to last: nothing makes the batch quicker than these are.
    pub critical_path: Vec<StepId>,
    /// How long it takes when nothing has to wait for a turn, in milliseconds.
    pub critical_path_ms: f64,
    /// All calls together, one after the other, in milliseconds.
    pub work_ms: f64,
    /// As long as it takes at the most favourable, with so many at the same time as are allowed, in milliseconds.
    pub expected_ms: f64,
    pub steps: Vec<StepAhead>,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct StepAhead {
    pub id: StepId,
    /// Canonical.
    pub tool: String,
    /// Steps that have to end before it.
    pub needs: Vec<StepId>,
    /// When it can begin at the earliest, in milliseconds.
    pub starts_ms: f64,
    /// Learnt from earlier calls of the tool; 100 for one that was never called.
    pub expected_ms: f64,
    /// Whether the time was learnt.
    pub is_learnt: bool,
    pub is_critical: bool,
    /// It is called again after a failure that passes.
    pub is_repeatable: bool,
}

impl Orch {
    /// Has a model write a plan, of which nothing runs, and what it said.
    pub async fn draft_plan(
        self: &Arc<Orch>,
        words: &str,
        model: &Arc<dyn Model>,
        options: &planner::Options,
        cx: &Cx,
    ) -> Result<(Plan, Option<String>), Error> {
        let draft =
            planner::Draft::new(CallersTools::of(self, cx), Limits::DEFAULT, cx.cancel.clone());
        let outcome = planner::run(self, cx, model, words, options, &draft).await?;
        Ok((draft.into_plan(outcome.output), outcome.answer))
    }

    /// Checks a plan and says how it would go, for the caller's tools and what is known of them.
    pub async fn plan_ahead(
        self: &Arc<Orch>,
        plan: Plan,
        max_parallel: Option<u32>,
        cx: &Cx,
    ) -> Result<Ahead, Error> {
        let plan = Arc::new(plan);
        let tools = self.check_plan(plan.clone(), cx).await?;
        Ok(self.ahead(&plan, max_parallel, &tools))
    }

    fn ahead(&self, plan: &Plan, max_parallel: Option<u32>, tools: &CallersTools) -> Ahead {
        let max_parallel = max_parallel.unwrap_or(self.settings.batch.max_parallel).max(1);
        let one = |step: &Step| {
            let known =
                tools.tool(&step.tool).and_then(|it| self.batches.durations.known(&it.name));
            (known.unwrap_or_else(|| self.batches.durations.expected("")), known.is_some())
        };
        let n_elements = |step: &Step| match &step.for_each {
            None => 1.0,
            Some(serde_json::Value::Array(items)) => items.len() as f64,
            Some(_) => ELEMENTS_ASSUMED,
        };
        let expected = |step: &Step| {
            let at_once = step.max_parallel.unwrap_or(max_parallel).min(max_parallel).max(1);
            one(step).0 * (n_elements(step) / f64::from(at_once)).ceil()
        };
        let path = critical_path(plan, &expected);
        let work_ms: f64 = plan.steps.iter().map(|it| one(it).0 * n_elements(it)).sum();
        let on_path: std::collections::HashSet<usize> = path.steps.iter().copied().collect();
        let steps = plan.steps.iter().enumerate().map(|(at, step)| {
            let facts = tools.tool(&step.tool);
            let mut needs: Vec<StepId> = StepNeeds::of(step).all().cloned().collect();
            needs.sort();
            needs.dedup();
            let (_, is_learnt) = one(step);
            StepAhead {
                id: step.id.clone(),
                tool: facts.as_ref().map_or_else(|| step.tool.clone(), |it| it.name.to_string()),
                needs,
                starts_ms: path.starts[at],
                expected_ms: expected(step),
                is_learnt,
                is_critical: on_path.contains(&at),
                is_repeatable: facts.is_some_and(|it| super::calls::Target::of(&it).is_repeatable),
            }
        });
        Ahead {
            critical_path: path.steps.iter().map(|at| plan.steps[*at].id.clone()).collect(),
            critical_path_ms: path.milliseconds,
            work_ms,
            expected_ms: path.milliseconds.max(work_ms / f64::from(max_parallel)),
            steps: steps.collect(),
        }
    }
}
