//! The whole cluster in figures: nodes, what they have, what is in use.

use std::sync::Arc;

use orch_domain::Error;
use orch_domain::book::Slot;
use orch_domain::caller::Permission;
use orch_domain::cluster::{ClusterStatus as Status, StateCounts, Totals};
use orch_domain::time::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::operation::{Operation, Route, Spec, Summary, spec};
use crate::view::node::{NodeView, node_table};
use crate::{Cx, Orch};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClusterStatus {
    /// Answer every node along with the sums.
    #[serde(default)]
    pub include_nodes: bool,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ClusterReport {
    pub status: Status,
    #[serde(flatten)]
    pub totals: Totals,
    /// Of all users, by state.
    pub instances: StateCounts,
    /// The label `mcp-orch.controller-id` that every container of this server carries on its engine.
    pub controller_id: String,
    /// When all nodes were last checked; null before the first time.
    pub checked_at: Option<Timestamp>,
    /// With `include_nodes`, by id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Vec<NodeView>>,
}

impl Summary for ClusterReport {
    fn summary(&self) -> String {
        let (free, capacity) = (&self.totals.free, &self.totals.capacity);
        let mut text = format!(
            "The cluster is {}: {}; {} of {} and {} of {} free; {} instances running, {} in all.",
            self.status,
            self.totals.line(),
            free.cpu.vcpu(),
            capacity.cpu,
            free.memory,
            capacity.memory,
            self.instances.running,
            self.instances.total,
        );
        if self.instances.unreachable != 0 {
            text.push_str(&format!(
                " {} instances are unreachable with their nodes.",
                self.instances.unreachable
            ));
        }
        if let Some(nodes) = self.nodes.as_ref().filter(|it| !it.is_empty()) {
            text.push_str(&format!("\n{}", node_table(nodes)));
        }
        text
    }
}

impl Operation for ClusterStatus {
    const SPEC: Spec = spec!(
        "cluster_status",
        Cluster,
        Reads,
        Some(Permission::Read),
        [Route::get("/cluster/status")]
    );
    type Output = ClusterReport;

    async fn run(self, orch: &Arc<Orch>, _: &Cx) -> Result<ClusterReport, Error> {
        Ok(orch.ledger.read(|book| {
            let totals = Totals::of(book.slots().map(|it| (&*it.node, it.used)));
            let view = |it: &Slot| NodeView::of(it, &orch.health).with_ray(orch.ray_on(&it.node));
            ClusterReport {
                status: totals.status(),
                totals,
                instances: StateCounts::of(
                    book.instances_after(None).map(|it| book.seen_state(it)),
                ),
                controller_id: orch.ledger.store().identity().controller_id.clone(),
                checked_at: orch.health.last_sweep(),
                nodes: self.include_nodes.then(|| book.slots().map(view).collect()),
            }
        }))
    }
}
