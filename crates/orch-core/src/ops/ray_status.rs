//! The Ray cluster at a glance, asked now.

use std::sync::Arc;

use orch_domain::Error;
use orch_domain::caller::Permission;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::operation::{Operation, Route, Spec, Summary, spec};
use crate::view::ray::RayView;
use crate::{Cx, Orch};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RayStatus {
    /// Ask Ray now; false answers what was last seen.
    #[serde(default = "super::yes")]
    pub run: bool,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct RayReport(pub RayView);

impl Summary for RayReport {
    fn summary(&self) -> String {
        self.0.line()
    }
}

impl Operation for RayStatus {
    const SPEC: Spec =
        spec!("ray_status", Ray, Reads, Some(Permission::Read), [Route::get("/ray/status")]);
    type Output = RayReport;

    async fn run(self, orch: &Arc<Orch>, _: &Cx) -> Result<RayReport, Error> {
        if self.run && orch.ray.is_configured() {
            // That it does not answer is the answer here.
            orch.look_at_ray().await.ok();
        }
        Ok(RayReport(orch.ray_view()))
    }
}
