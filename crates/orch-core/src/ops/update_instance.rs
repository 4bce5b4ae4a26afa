//! Name, labels, protection and what a lost node means to an instance change; its container does not.

use std::sync::Arc;

use orch_domain::Error;
use orch_domain::caller::Permission;
use orch_domain::instance::InstanceState;
use orch_domain::label::Labels;
use orch_domain::name::{InstanceId, InstanceName};
use orch_domain::node_loss::OnNodeLoss;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::operation::{Operation, Route, Spec, spec};
use crate::view::instance::{InstanceView, OneInstance};
use crate::{Cx, Orch};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateInstance {
    pub id: InstanceId,
    /// New name.
    pub name: Option<InstanceName>,
    /// New labels, in place of all it has. The container keeps the labels it was launched with.
    pub labels: Option<Labels>,
    /// Whether `terminate_instance` is refused.
    pub termination_protection: Option<bool>,
    /// When its node stays unreachable: `keep` waits for the node; `reschedule` starts it anew on another, without the
    /// files it wrote.
    pub on_node_loss: Option<OnNodeLoss>,
}

impl Operation for UpdateInstance {
    const SPEC: Spec = spec!(
        "update_instance",
        Instances,
        Changes,
        Some(Permission::Write),
        [Route::put("/instances/{id}")]
    );
    type Output = OneInstance;

    async fn run(self, orch: &Arc<Orch>, cx: &Cx) -> Result<OneInstance, Error> {
        cx.audit_target(&self.id);
        orch.ledger
            .write(Some(cx), |book| {
                let before = orch.visible(cx, book, &self.id)?;
                if before.state == InstanceState::Terminated {
                    return Err(Error::IncorrectState {
                        id: self.id.to_string(),
                        state: before.state.to_string(),
                        message: format!("`{}` is terminated and only kept for reference", self.id),
                    });
                }
                book.change_instance(&self.id, |it| {
                    it.name = self.name.unwrap_or(it.name.clone());
                    it.labels = self.labels.unwrap_or(it.labels.clone());
                    it.termination_protection =
                        self.termination_protection.unwrap_or(it.termination_protection);
                    it.on_node_loss = self.on_node_loss.unwrap_or(it.on_node_loss);
                });
                let after = orch.visible(cx, book, &self.id)?;
                Ok(OneInstance(InstanceView::of(&after, book)))
            })
            .await
    }
}
