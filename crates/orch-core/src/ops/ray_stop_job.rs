//! A Ray job is asked to end.

use std::sync::Arc;

use orch_domain::Error;
use orch_domain::caller::Permission;
use orch_domain::name::RayJobId;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::operation::{Operation, Route, Spec, Summary, spec};
use crate::view::ray::RayJobView;
use crate::{Cx, Orch};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RayStopJob {
    pub job_id: RayJobId,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct StoppedRayJob {
    /// As it was right after it was asked to end.
    #[serde(flatten)]
    pub job: RayJobView,
    /// False when it had ended already.
    pub stopped: bool,
}

impl Summary for StoppedRayJob {
    fn summary(&self) -> String {
        if self.stopped {
            format!("{}; it was asked to end, which takes a few seconds", self.job.line())
        } else {
            format!("{}; there was nothing to stop", self.job.line())
        }
    }
}

impl Operation for RayStopJob {
    const SPEC: Spec = spec!(
        "ray_stop_job",
        Ray,
        Destroys,
        Some(Permission::Execute),
        [Route::post("/ray/jobs/{job_id}/stop")]
    );
    type Output = StoppedRayJob;

    async fn run(self, orch: &Arc<Orch>, cx: &Cx) -> Result<StoppedRayJob, Error> {
        let (job, stopped) = orch.stop_ray_job(cx, &self.job_id).await?;
        Ok(StoppedRayJob { job: RayJobView::of(&job), stopped })
    }
}
