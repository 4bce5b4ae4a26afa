//! One node as it is.

use std::sync::Arc;

use orch_domain::Error;
use orch_domain::caller::Permission;
use orch_domain::health::{Check, StatusChange};
use orch_domain::metrics::NodeMetrics;
use orch_domain::name::NodeId;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::operation::{Operation, Route, Spec, Summary, spec};
use crate::view::node::NodeView;
use crate::{Cx, Orch};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GetNode {
    /// As `list_nodes` names it.
    pub node_id: NodeId,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct NodeDetails {
    #[serde(flatten)]
    pub node: NodeView,
    /// What is in use on its machine, by whoever uses it; null until it first told.
    pub metrics: Option<NodeMetrics>,
    /// The last checks, newest first; empty after a restart of this server until the next.
    pub history: Vec<Check>,
    /// The last changes of its status, newest first; they outlive a restart of this server.
    pub status_changes: Vec<StatusChange>,
}

impl Summary for NodeDetails {
    fn summary(&self) -> String {
        let mut text = self.node.line();
        if let Some(it) = self.status_changes.first() {
            text.push_str(&format!("\n{} since {} (was {}): {}", it.to, it.at, it.from, it.reason));
        }
        text
    }
}

impl Operation for GetNode {
    const SPEC: Spec = spec!(
        "get_node",
        Nodes,
        Reads,
        Some(Permission::Read),
        [Route::get("/cluster/nodes/{node_id}")]
    );
    type Output = NodeDetails;

    async fn run(self, orch: &Arc<Orch>, _: &Cx) -> Result<NodeDetails, Error> {
        orch.ledger.read(|book| {
            let id = &self.node_id;
            let slot = book.slot(id).ok_or_else(|| Error::no_node(id))?;
            Ok(NodeDetails {
                node: NodeView::of(slot, &orch.health).with_ray(orch.ray_on(&slot.node)),
                metrics: orch.health.metrics(id),
                history: orch.health.history(id),
                status_changes: slot.node.status_changes.clone(),
            })
        })
    }
}
