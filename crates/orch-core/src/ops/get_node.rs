//! One node as it is.

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
pub struct GetNode {
    /// As `list_nodes` names it.
    pub node_id: NodeId,
}

impl Operation for GetNode {
    const SPEC: Spec = spec!(
        "get_node",
        Nodes,
        Reads,
        Some(Permission::Read),
        [Route::get("/cluster/nodes/{node_id}")]
    );
    type Output = OneNode;

    async fn run(self, orch: &Arc<Orch>, _: &Cx) -> Result<OneNode, Error> {
        orch.node_view(&self.node_id).map(OneNode)
    }
}
