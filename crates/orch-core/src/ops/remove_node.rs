//! A node is given up.

use std::sync::Arc;

use orch_domain::Error;
use orch_domain::caller::Permission;
use orch_domain::name::{InstanceId, NodeId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::operation::{Operation, Route, Spec, Summary, spec};
use crate::{Cx, Orch};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RemoveNode {
    pub node_id: NodeId,
    /// Give up the instances it still holds, as when the machine is lost for good: they end with `Server.NodeLost`, what
    /// others left there when they moved away is forgotten,
    /// and containers that may still run there are left alone.
    #[serde(default)]
    pub force: bool,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct RemovedNode {
    pub id: NodeId,
    /// Given up with it.
    pub instances_lost: Vec<InstanceId>,
}

impl Summary for RemovedNode {
    fn summary(&self) -> String {
        let mut text = format!("Node `{}` is not registered any more.", self.id);
        if !self.instances_lost.is_empty() {
            text.push_str(&format!(" {} instances were given up.", self.instances_lost.len()));
        }
        text
    }
}

impl Operation for RemoveNode {
    const SPEC: Spec = spec!(
        "remove_node",
        Nodes,
        Destroys,
        Some(Permission::Admin),
        [Route::delete("/cluster/nodes/{node_id}")]
    );
    type Output = RemovedNode;

    async fn run(self, orch: &Arc<Orch>, cx: &Cx) -> Result<RemovedNode, Error> {
        cx.audit_target(&self.node_id);
        let now = orch.clock.now();
        let instances_lost = orch
            .ledger
            .write(Some(cx), |book| {
                let lost = if self.force {
                    book.abandon_node(&self.node_id, now)?
                } else {
                    book.remove_node(&self.node_id)?;
                    Vec::new()
                };
                lost.iter().for_each(|it| cx.audit_target(it));
                Ok(lost)
            })
            .await?;
        orch.health.forget(&self.node_id);
        crate::task::unfollow(orch, &self.node_id);
        orch.engines.forget(&self.node_id);
        Ok(RemovedNode { id: self.node_id, instances_lost })
    }
}
