//! A batch ends before it is done.

use std::sync::Arc;

use orch_domain::Error;
use orch_domain::caller::Permission;
use orch_domain::name::BatchId;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::operation::{Operation, Route, Spec, Summary, spec};
use crate::view::batch::{BatchView, batch_line};
use crate::{Cx, Orch};

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchCancel {
    /// As `batch_execute` answered it.
    pub task_id: BatchId,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct CancelledBatch(pub BatchView);

impl Summary for CancelledBatch {
    fn summary(&self) -> String {
        batch_line(&self.0)
    }
}

impl Operation for BatchCancel {
    const SPEC: Spec = spec!(
        "batch_cancel",
        Batches,
        Destroys,
        Some(Permission::Execute),
        [Route::delete("/batch/cancel/{task_id}")]
    );
    type Output = CancelledBatch;

    async fn run(self, orch: &Arc<Orch>, cx: &Cx) -> Result<CancelledBatch, Error> {
        cx.audit_target(&self.task_id);
        orch.cancel_batch(&self.task_id, cx).await?;
        orch.view_batch(&self.task_id, cx).await.map(CancelledBatch)
    }
}
