//! One node is asked how it is, now.

use std::sync::Arc;

use orch_domain::Error;
use orch_domain::caller::Permission;
use orch_domain::health::{Check, StatusChange};
use orch_domain::name::NodeId;
use orch_domain::node::NodeStatus;
use orch_domain::time::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::operation::{Operation, Route, Spec, Summary, spec};
use crate::{Cx, Orch};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckNode {
    pub node_id: NodeId,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct CheckedNode {
    pub node_id: NodeId,
    pub hostname: String,
    /// From the last checks, damped: it takes several results in a row to change.
    pub status: NodeStatus,
    pub status_since: Timestamp,
    /// This check.
    pub check: Check,
    /// The last checks, this one first.
    pub history: Vec<Check>,
    /// The last changes of its status, newest first; they outlive a restart of this server.
    pub status_changes: Vec<StatusChange>,
}

impl Summary for CheckedNode {
    fn summary(&self) -> String {
        let found = match (&self.check.message, self.check.latency_ms, &self.check.engine_version) {
            (None, Some(latency), Some(version)) => {
                format!("answered in {latency:.1} ms ({version})")
            }
            (Some(message), ..) => format!("is {}: {message}", self.check.status),
            _ => format!("is {}", self.check.status),
        };
        let mut text = format!("node `{}` {found}", self.node_id);
        if self.status != self.check.status {
            text.push_str(&format!(
                "; it still counts as {}, until more checks in a row say so",
                self.status
            ));
        }
        text
    }
}

impl Operation for CheckNode {
    const SPEC: Spec = spec!(
        "check_node",
        Nodes,
        Reads,
        Some(Permission::Read),
        [Route::get("/cluster/nodes/{node_id}/health")]
    );
    type Output = CheckedNode;

    async fn run(self, orch: &Arc<Orch>, _: &Cx) -> Result<CheckedNode, Error> {
        let node = |id: &NodeId| {
            let node = orch.ledger.read(|book| book.slot(id).map(|it| it.node.clone()));
            node.ok_or_else(|| Error::no_node(id))
        };
        let check = orch.check(&*node(&self.node_id)?).await?;
        let after = node(&self.node_id)?;
        Ok(CheckedNode {
            node_id: after.id.clone(),
            hostname: after.hostname.clone(),
            status: after.status,
            status_since: after.status_since,
            check,
            history: orch.health.history(&self.node_id),
            status_changes: after.status_changes.clone(),
        })
    }
}
