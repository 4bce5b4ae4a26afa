//! One instance as it is.

use std::sync::Arc;

use orch_domain::Error;
use orch_domain::caller::Permission;
use orch_domain::name::InstanceId;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::operation::{Operation, Route, Spec, spec};
use crate::view::instance::{InstanceView, OneInstance};
use crate::{Cx, Orch};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GetInstance {
    /// As `launch_instance` and `list_instances` name it.
    pub id: InstanceId,
}

impl Operation for GetInstance {
    const SPEC: Spec = spec!(
        "get_instance",
        Instances,
        Reads,
        Some(Permission::Read),
        [Route::get("/instances/{id}")]
    );
    type Output = OneInstance;

    async fn run(self, orch: &Arc<Orch>, cx: &Cx) -> Result<OneInstance, Error> {
        orch.ledger.read(|book| {
            let instance = orch.visible(cx, book, &self.id)?;
            Ok(OneInstance(InstanceView::of(&instance, book)))
        })
    }
}
