//! An instance is stopped and started again.

use std::sync::Arc;

use orch_domain::Error;
use orch_domain::caller::Permission;
use orch_domain::instance::Action;
use orch_domain::name::InstanceId;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::operation::{Operation, Route, Spec, spec};
use crate::view::instance::OneInstance;
use crate::{Cx, Orch};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RestartInstance {
    pub id: InstanceId,
    /// Answer when it is running again; false answers as soon as the request is durable.
    #[serde(default = "super::yes")]
    pub wait: bool,
}

impl Operation for RestartInstance {
    const SPEC: Spec = spec!(
        "restart_instance",
        Instances,
        Repeats,
        Some(Permission::Write),
        [Route::post("/instances/{id}/restart")]
    );
    type Output = OneInstance;

    async fn run(self, orch: &Arc<Orch>, cx: &Cx) -> Result<OneInstance, Error> {
        orch.act(cx, &self.id, Action::Restart, self.wait).await
    }
}
