//! What a batch would do.

use std::sync::Arc;

use orch_domain::Error;
use orch_domain::caller::Permission;
use orch_domain::plan::Plan;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::batch_execute::{BatchExecute, PlainCall};
use crate::operation::{Operation, Route, Spec, Summary, spec};
use crate::service::batch::{Ahead, Ask, StepAhead};
use crate::view::table::table;
use crate::{Cx, Orch};

#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BatchPlan {
    /// Steps with what each needs of the others. One of `plan`, `calls` and `request` is given.
    pub plan: Option<Plan>,
    /// Calls that need nothing of one another.
    #[schemars(length(max = 10_000))]
    pub calls: Option<Vec<PlainCall>>,
    /// What is to be done, in words; a model makes the plan.
    pub request: Option<String>,
    /// As for `batch_execute`.
    #[schemars(range(min = 1, max = 1000))]
    pub max_parallel_tasks: Option<u32>,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct PlannedBatch {
    /// As `batch_execute` takes it.
    pub plan: Plan,
    #[serde(flatten)]
    pub ahead: Ahead,
    /// What the model said instead of a plan, or beside it.
    pub answer: Option<String>,
}

impl Summary for PlannedBatch {
    fn summary(&self) -> String {
        let row = |it: &StepAhead| {
            let needs: Vec<&str> = it.needs.iter().map(|it| it.as_str()).collect();
            [
                if it.is_critical { "*" } else { "" }.to_owned(),
                it.id.to_string(),
                it.tool.clone(),
                needs.join(", "),
                format!("{:.0} ms", it.starts_ms),
                format!("{}{:.0} ms", if it.is_learnt { "" } else { "~" }, it.expected_ms),
            ]
        };
        let mut text = format!(
            "Nothing was run. {} steps, about {:.0} ms; the longest way takes {:.0} ms (marked *), one after the other {:.0} ms.\n",
            self.ahead.steps.len(),
            self.ahead.expected_ms,
            self.ahead.critical_path_ms,
            self.ahead.work_ms
        );
        let heads = ["", "STEP", "TOOL", "NEEDS", "STARTS", "TAKES"];
        text.push_str(&table(heads, self.ahead.steps.iter().map(row)));
        if let Some(answer) = &self.answer {
            text.push_str(&format!("\nThe model said: {}", orch_domain::text::sanitize(answer)));
        }
        text
    }
}

impl Operation for BatchPlan {
    const SPEC: Spec = spec!(
        "batch_plan",
        Batches,
        Reads,
        Some(Permission::Execute),
        [Route::post("/batch/plan").taking_large_bodies()]
    );
    type Output = PlannedBatch;

    async fn run(self, orch: &Arc<Orch>, cx: &Cx) -> Result<PlannedBatch, Error> {
        let BatchPlan { plan, calls, request, max_parallel_tasks } = self;
        let mut asked = BatchExecute { plan, calls, request, ..BatchExecute::default() };
        let (plan, answer) = match asked.ask(orch, cx)? {
            Ask::Plan(plan) => (plan, None),
            Ask::Request { words, model, options } => {
                let drafted = orch.draft_plan(&words, &model, &options, cx);
                tokio::select! {
                    drafted = drafted => drafted?,
                    () = cx.cancel.cancelled() => {
                        return Err(Error::Cancelled { message: "the call was withdrawn".to_owned() });
                    }
                }
            }
        };
        if plan.steps.is_empty() && answer.is_some() {
            let ahead = Ahead {
                critical_path: Vec::new(),
                critical_path_ms: 0.0,
                work_ms: 0.0,
                expected_ms: 0.0,
                steps: Vec::new(),
            };
            return Ok(PlannedBatch { plan, ahead, answer });
        }
        let ahead = orch.plan_ahead(plan.clone(), max_parallel_tasks, cx).await?;
        Ok(PlannedBatch { plan, ahead, answer })
    }
}
