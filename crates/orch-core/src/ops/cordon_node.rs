//! A node gets no new instances.

use std::sync::Arc;

use orch_domain::Error;
use orch_domain::caller::Permission;
use orch_domain::name::NodeId;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::operation::{Operation, Route, Spec, spec};
use crate::view::node::OneNode;
use crate::{Cx, Orch};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CordonNode {
    pub node_id: NodeId,
}

impl Operation for CordonNode {
    const SPEC: Spec = spec!(
        "cordon_node",
        Nodes,
        Changes,
        Some(Permission::Admin),
        [Route::post("/cluster/nodes/{node_id}/cordon")]
    );
    type Output = OneNode;

    async fn run(self, orch: &Arc<Orch>, cx: &Cx) -> Result<OneNode, Error> {
        orch.set_cordon(cx, &self.node_id, true).await.map(OneNode)
    }
}
