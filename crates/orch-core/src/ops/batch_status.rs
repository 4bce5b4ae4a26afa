//! How far a batch is.

use std::sync::Arc;
use std::time::Duration;

use orch_domain::Error;
use orch_domain::caller::Permission;
use orch_domain::name::BatchId;
use orch_domain::page::{self, PageSize};
use orch_domain::text::excerpt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::operation::{Operation, Route, Spec, Summary, spec};
use crate::service::batch::{Run, Transition};
use crate::view::batch::{BatchView, StepView, batch_line};
use crate::view::table::table;
use crate::{Cx, Orch};

const LIST: &str = "steps of a batch";
/// Seconds.
const MAX_WAIT: u32 = 60;
/// In one answer.
const TRANSITIONS: usize = 1000;

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
    /// `last_transition` of an earlier answer, or 0: answer in `transitions` what has happened since, in place of
    /// `step_list`.
    pub since: Option<u64>,
    /// With `since`: when nothing has happened yet, wait up to so many seconds for it.
    #[serde(default)]
    #[schemars(range(max = 60))]
    pub wait_seconds: u32,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct BatchProgress {
    #[serde(flatten)]
    pub batch: BatchView,
    /// In the order of the plan; empty beside `transitions`.
    pub step_list: Vec<StepView>,
    /// What happened after `since`, at most 1000 of it, oldest first. Null when it was not asked for, when the batch has
    /// ended, and when not all of that is kept any more: then `step_list` says how things are.
    pub transitions: Option<Vec<Transition>>,
    /// For `since` of the next call; null when the batch has ended.
    pub last_transition: Option<u64>,
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
        if let Some(transitions) = &self.transitions {
            let lines: Vec<String> = transitions.iter().map(Transition::line).collect();
            return text + &lines.join("\n");
        }
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
        if MAX_WAIT < self.wait_seconds {
            let message = format!("{} is more than {MAX_WAIT}", self.wait_seconds);
            return Err(Error::invalid("wait_seconds", message));
        }
        if 0 < self.wait_seconds && self.since.is_none() {
            let message = "it goes with `since` only: the `last_transition` of an earlier answer";
            return Err(Error::invalid("wait_seconds", message));
        }
        let run = orch.follow_batch(&self.task_id, cx)?;
        if let (Some(run), Some(since)) = (&run, self.since)
            && let Some(found) = self.happened(run, since, orch, cx).await
        {
            let last = found.last().map_or(since, |it| it.number);
            return Ok(BatchProgress {
                batch: orch.view_batch(&self.task_id, cx).await?,
                step_list: Vec::new(),
                transitions: Some(found),
                last_transition: Some(last),
                next_page_token: String::new(),
            });
        }
        // The number first: what happens while the steps are read is told once more.
        let last_transition = run.map(|it| it.newest_transition());
        let from = place(LIST, &self.page_token)?;
        let found = orch.look_at_batch(&self.task_id, from, self.page_size.get(), cx).await?;
        Ok(BatchProgress {
            batch: found.view,
            step_list: found.steps,
            transitions: None,
            last_transition,
            next_page_token: found
                .next
                .map(|it| page::token_after(LIST, &it.to_string()))
                .unwrap_or_default(),
        })
    }
}

impl BatchStatus {
    /// What happened after `since`, once there is something. None: not all of it is kept.
    async fn happened(
        &self,
        run: &Run,
        since: u64,
        orch: &Orch,
        cx: &Cx,
    ) -> Option<Vec<Transition>> {
        let mut changed = run.last_transition();
        let found = run.transitions(since, TRANSITIONS)?;
        if !found.is_empty() || self.wait_seconds == 0 {
            return Some(found);
        }
        let something = async {
            loop {
                let is_told = changed.changed().await.is_err();
                if is_told || run.newest_transition() != since {
                    return;
                }
            }
        };
        let patience = Duration::from_secs(self.wait_seconds.into());
        tokio::select! {
            () = tokio::time::sleep(patience) => {}
            () = something => {}
            () = run.ended().cancelled() => {}
            () = cx.cancel.cancelled() => {}
            () = orch.shutdown.cancelled() => {}
        }
        run.transitions(since, TRANSITIONS)
    }
}
