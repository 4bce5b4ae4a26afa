//! All nodes are asked how they are, now.

use std::sync::Arc;

use orch_domain::Error;
use orch_domain::caller::Permission;
use orch_domain::cluster::{ClusterStatus, Totals};
use orch_domain::health::Check;
use orch_domain::name::NodeId;
use orch_domain::node::NodeStatus;
use orch_domain::time::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::operation::{Operation, Route, Spec, Summary, spec};
use crate::view::table::table;
use crate::{Cx, Orch};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClusterHealth {
    /// Check every node now; false answers what the last checks found.
    #[serde(default = "super::yes")]
    pub run: bool,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct HealthReport {
    pub status: ClusterStatus,
    pub total_nodes: usize,
    pub healthy_nodes: usize,
    pub degraded_nodes: usize,
    pub unreachable_nodes: usize,
    pub unknown_nodes: usize,
    /// When all nodes were last checked; null before the first time.
    pub checked_at: Option<Timestamp>,
    /// Those that are not healthy first, then by id.
    pub nodes: Vec<NodeHealth>,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct NodeHealth {
    pub id: NodeId,
    pub hostname: String,
    pub address: String,
    /// From the last checks, damped: it takes several results in a row to change.
    pub status: NodeStatus,
    pub status_since: Timestamp,
    pub cordoned: bool,
    /// The newest check; null before the first.
    pub check: Option<Check>,
}

impl Summary for HealthReport {
    fn summary(&self) -> String {
        let head = format!(
            "The cluster is {}: {} of {} nodes are healthy.",
            self.status, self.healthy_nodes, self.total_nodes
        );
        let sick: Vec<_> =
            self.nodes.iter().filter(|it| it.status != NodeStatus::Healthy).collect();
        if sick.is_empty() {
            return head;
        }
        let row = |it: &&NodeHealth| {
            let message = it.check.as_ref().and_then(|it| it.message.clone()).unwrap_or_default();
            [it.id.to_string(), it.status.to_string(), it.status_since.to_string(), message]
        };
        format!("{head}\n{}", table(["ID", "STATUS", "SINCE", ""], sick.iter().map(row)))
    }
}

impl Operation for ClusterHealth {
    const SPEC: Spec = spec!(
        "cluster_health",
        Cluster,
        Reads,
        Some(Permission::Read),
        [
            Route::post("/cluster/health-check"),
            Route::get("/dashboard/health").with(&[("run", "false")]),
        ]
    );
    type Output = HealthReport;

    async fn run(self, orch: &Arc<Orch>, _: &Cx) -> Result<HealthReport, Error> {
        if self.run {
            orch.sweep().await;
        }
        Ok(orch.ledger.read(|book| {
            let totals = Totals::of(book.slots().map(|it| (&*it.node, it.used)));
            let mut nodes: Vec<NodeHealth> = book
                .slots()
                .map(|slot| NodeHealth {
                    id: slot.node.id.clone(),
                    hostname: slot.node.hostname.clone(),
                    address: slot.node.address.clone(),
                    status: slot.node.status,
                    status_since: slot.node.status_since,
                    cordoned: slot.node.cordoned,
                    check: orch.health.last_check(&slot.node.id),
                })
                .collect();
            // Stable, so that each half stays in the order of its ids.
            nodes.sort_by_key(|it| it.status == NodeStatus::Healthy);
            HealthReport {
                status: totals.status(),
                total_nodes: totals.total_nodes,
                healthy_nodes: totals.healthy_nodes,
                degraded_nodes: totals.degraded_nodes,
                unreachable_nodes: totals.unreachable_nodes,
                unknown_nodes: totals.unknown_nodes,
                checked_at: orch.health.last_sweep(),
                nodes,
            }
        }))
    }
}
