//! An instance goes for good, and what was reserved for it is free.

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
pub struct TerminateInstance {
    pub id: InstanceId,
    /// Answer when it is terminated; false answers as soon as the request is durable.
    #[serde(default = "super::yes")]
    pub wait: bool,
}

impl Operation for TerminateInstance {
    const SPEC: Spec = spec!(
        "terminate_instance",
        Instances,
        Destroys,
        Some(Permission::Write),
        [Route::delete("/instances/{id}")]
    );
    type Output = OneInstance;

    async fn run(self, orch: &Arc<Orch>, cx: &Cx) -> Result<OneInstance, Error> {
        orch.act(cx, &self.id, Action::Terminate, self.wait).await
    }
}
