//! Cluster, own instances and own quota at a glance.

use std::sync::Arc;

use orch_domain::Error;
use orch_domain::caller::Permission;
use orch_domain::cluster::{ClusterStatus, StateCounts, Totals};
use orch_domain::metrics::ClusterUsage;
use orch_domain::time::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::operation::{Operation, Route, Spec, Summary, spec};
use crate::view::ray::{RayNodeGlance, RayView};
use crate::view::user::QuotaView;
use crate::{Cx, Orch};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DashboardSummary {}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Dashboard {
    pub status: ClusterStatus,
    pub cluster: Totals,
    /// What is in use on the machines of healthy nodes, by whoever uses them, when they last told.
    pub usage: ClusterUsage,
    /// Your own, by state; everybody's for an administrator.
    pub instances: StateCounts,
    /// Yours.
    pub quota: QuotaView,
    /// When all nodes were last checked; null before the first time.
    pub checked_at: Option<Timestamp>,
    /// The Ray cluster, as it was last seen.
    pub ray: RayView,
    /// The first 50 of its nodes as they were last seen, the living first; `ray_nodes` has all.
    pub ray_nodes: Vec<RayNodeGlance>,
}

const N_RAY_NODES: usize = 50;

impl Summary for Dashboard {
    fn summary(&self) -> String {
        let it = &self.instances;
        let ray =
            if self.ray.configured { format!("\n{}", self.ray.line()) } else { String::new() };
        format!(
            "The cluster is {}: {}; {} of {} and {} of {} free.\nInstances: {} running, {} stopped, {} on their way, {}{} \
             in all.\nQuota: {}.{ray}",
            self.status,
            self.cluster.line(),
            self.cluster.free.cpu.vcpu(),
            self.cluster.capacity.cpu,
            self.cluster.free.memory,
            self.cluster.capacity.memory,
            it.running,
            it.stopped,
            it.pending + it.stopping + it.shutting_down,
            match it.unreachable {
                0 => String::new(),
                n => format!("{n} unreachable, "),
            },
            it.total,
            self.quota.line(),
        )
    }
}

impl Operation for DashboardSummary {
    const SPEC: Spec = spec!(
        "dashboard_summary",
        Cluster,
        Reads,
        Some(Permission::Read),
        [Route::get("/dashboard/summary")]
    );
    type Output = Dashboard;

    async fn run(self, orch: &Arc<Orch>, cx: &Cx) -> Result<Dashboard, Error> {
        let caller = cx.caller()?;
        let user = orch.user(&caller.user)?;
        Ok(orch.ledger.read(|book| {
            let totals = Totals::of(book.slots().map(|it| (&*it.node, it.used)));
            let instances = if caller.is_admin() {
                StateCounts::of(book.instances_after(None).map(|it| book.seen_state(it)))
            } else {
                StateCounts::of(
                    book.instances_from(Some(&caller.user), None).map(|it| book.seen_state(it)),
                )
            };
            Dashboard {
                status: totals.status(),
                cluster: totals,
                usage: orch.health.cluster_usage(book),
                instances,
                quota: QuotaView::of(user.quota, book.usage(&user.id)),
                checked_at: orch.health.last_sweep(),
                ray: orch.ray_view(),
                ray_nodes: orch.ray_glance(book, N_RAY_NODES),
            }
        }))
    }
}
