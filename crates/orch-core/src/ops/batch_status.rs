//! How far a batch is.

use std::sync::Arc;

use orch_domain::Error;
use orch_domain::caller::Permission;
use orch_domain::name::BatchId;
use orch_domain::page::{self, PageSize};
use orch_domain::text::excerpt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::operation::{Operation, Route, Spec, Summary, spec};
use crate::view::batch::{BatchView, StepView, batch_line};
use crate::view::table::table;
use crate::{Cx, Orch};

const LIST: &str = "steps of a batch";

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchStatus {
    /// As `batch_execute` answered it.
    pub task_id: BatchId,
    /// Of its steps.
    #[serde(default)]
    pub page_size: PageSize,
    /// `next_page_token` of the page before.
    #[serde(default)]
    pub page_token: String,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct BatchProgress {
    #[serde(flatten)]
    pub batch: BatchView,
    /// In the order of the plan.
    pub step_list: Vec<StepView>,
    /// Empty on the last page.
    pub next_page_token: String,
}

impl Summary for BatchProgress {
    fn summary(&self) -> String {
        let row = |it: &StepView| {
            let elements =
                it.elements.map_or_else(String::new, |it| format!("{}/{}", it.succeeded, it.total));
            [
                it.id.to_string(),
                it.tool.clone(),
                it.state.as_str().to_owned(),
                elements,
                it.elapsed_ms.map_or_else(String::new, |it| format!("{it} ms")),
                it.reason.as_ref().map_or_else(String::new, |it| excerpt(&it.message, 120)),
            ]
        };
        let heads = ["STEP", "TOOL", "STATE", "OF", "TOOK", "WHY"];
        let mut text = format!("{}\n", batch_line(&self.batch));
        text.push_str(&table(heads, self.step_list.iter().map(row)));
        if !self.next_page_token.is_empty() {
            text.push_str(&format!("\n`page_token={}` shows more steps", self.next_page_token));
        }
        text
    }
}

/// Where a page of steps begins.
pub(super) fn place(list: &str, token: &str) -> Result<u32, Error> {
    Ok(page::place_of::<u32>(list, token)?.unwrap_or(0))
}

impl Operation for BatchStatus {
    const SPEC: Spec = spec!(
        "batch_status",
        Batches,
        Reads,
        Some(Permission::Read),
        [Route::get("/batch/status/{task_id}")]
    );
    type Output = BatchProgress;

    async fn run(self, orch: &Arc<Orch>, cx: &Cx) -> Result<BatchProgress, Error> {
        let from = place(LIST, &self.page_token)?;
        let found = orch.look_at_batch(&self.task_id, from, self.page_size.get(), cx).await?;
        Ok(BatchProgress {
            batch: found.view,
            step_list: found.steps,
            next_page_token: found
                .next
                .map(|it| page::token_after(LIST, &it.to_string()))
                .unwrap_or_default(),
        })
    }
}
