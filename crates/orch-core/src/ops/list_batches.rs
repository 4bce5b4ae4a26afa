//! Batches, newest first.

use std::sync::Arc;

use orch_domain::Error;
use orch_domain::batch::BatchState;
use orch_domain::caller::Permission;
use orch_domain::page::{self, PageSize};
use orch_domain::text::excerpt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::operation::{Operation, Route, Spec, Summary, spec};
use crate::view::batch::BatchView;
use crate::view::table::{more, table};
use crate::{Cx, Orch};

#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ListBatches {
    /// Only those in this state.
    pub state: Option<BatchState>,
    pub page_size: PageSize,
    /// `next_page_token` of the page before.
    pub page_token: String,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct BatchList {
    /// Newest first.
    pub batches: Vec<BatchView>,
    /// Empty on the last page.
    pub next_page_token: String,
    /// Of all pages.
    pub total_count: usize,
}

impl Summary for BatchList {
    fn summary(&self) -> String {
        let row = |it: &BatchView| {
            let ended = it.steps.total - it.steps.waiting - it.steps.queued - it.steps.running;
            [
                it.task_id.to_string(),
                it.state.as_str().to_owned(),
                format!("{ended}/{}", it.steps.total),
                it.owner.to_string(),
                it.created_at.to_string(),
                format!("{} ms", it.elapsed_ms),
                excerpt(it.request.as_deref().unwrap_or_default(), 60),
            ]
        };
        let heads = ["TASK", "STATE", "STEPS", "OWNER", "CREATED", "TOOK", "REQUEST"];
        let mut text = table(heads, self.batches.iter().map(row));
        text.push_str(&more(self.batches.len(), self.total_count, &self.next_page_token));
        text
    }
}

impl Operation for ListBatches {
    const SPEC: Spec =
        spec!("list_batches", Batches, Reads, Some(Permission::Read), [Route::get("/batch")]);
    type Output = BatchList;

    async fn run(self, orch: &Arc<Orch>, cx: &Cx) -> Result<BatchList, Error> {
        let found = orch.list_batches(self.state, cx)?;
        // Ids sort by age, and pages go from the newest on.
        let start = match page::key_of("batches", &self.page_token)? {
            Some(last) => found.partition_point(|it| *last <= *it.as_str()),
            None => 0,
        };
        let end = found.len().min(start + self.page_size.get());
        let ids = &found[start..end];
        let next_page_token = match ids.last() {
            Some(last) if end < found.len() => page::token_after("batches", last.as_str()),
            _ => String::new(),
        };
        let mut batches = Vec::with_capacity(ids.len());
        for id in ids {
            batches.push(orch.view_batch(id, cx).await?);
        }
        Ok(BatchList { batches, next_page_token, total_count: found.len() })
    }
}
