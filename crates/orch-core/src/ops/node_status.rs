//! Load, use and latency of every node.

use std::sync::Arc;

use orch_domain::Error;
use orch_domain::book::Slot;
use orch_domain::caller::Permission;
use orch_domain::metrics::NodeMetrics;
use orch_domain::name::NodeId;
use orch_domain::node::{NodeStatus as Status, Role};
use orch_domain::page::{self, PageSize};
use orch_domain::placement::load;
use orch_domain::resource::{Cpu, Memory};
use orch_domain::time::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::operation::{Operation, Route, Spec, Summary, spec};
use crate::view::ray::RayOnNode;
use crate::view::table::{more, table};
use crate::{Cx, Orch};

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NodeStatus {
    pub page_size: PageSize,
    /// `next_page_token` of the page before.
    pub page_token: String,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct NodeStatuses {
    /// By id.
    pub nodes: Vec<NodeLoad>,
    /// Empty on the last page.
    pub next_page_token: String,
    /// Of all pages.
    pub total_count: usize,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct NodeLoad {
    pub id: NodeId,
    pub hostname: String,
    pub address: String,
    pub role: Role,
    pub status: Status,
    pub cordoned: bool,
    /// Reserved by instances, running or stopped.
    pub cpu_used: Cpu,
    pub cpu_total: Cpu,
    /// GiB.
    pub memory_used: Memory,
    /// GiB.
    pub memory_total: Memory,
    pub gpu_used: u32,
    pub gpu_total: u32,
    /// Share of the fuller of CPU and memory that is reserved, 0 to 1.
    pub load: f64,
    pub n_instances: usize,
    /// Milliseconds until the engine answered the last check; null when it did not.
    pub latency_ms: Option<f64>,
    pub checked_at: Option<Timestamp>,
    /// What is in use on its machine, by whoever uses it; null until it first told.
    pub metrics: Option<NodeMetrics>,
    /// What Ray says of the machine at this address; null when it is not in Ray.
    pub ray: Option<RayOnNode>,
}

impl NodeLoad {
    fn of(slot: &Slot, orch: &Orch) -> NodeLoad {
        let node = &slot.node;
        let check = orch.health.last_check(&node.id);
        NodeLoad {
            id: node.id.clone(),
            hostname: node.hostname.clone(),
            address: node.address.clone(),
            role: node.role,
            status: node.status,
            cordoned: node.cordoned,
            cpu_used: slot.used.cpu,
            cpu_total: node.capacity.cpu,
            memory_used: slot.used.memory,
            memory_total: node.capacity.memory,
            gpu_used: slot.used.gpu,
            gpu_total: node.capacity.gpu,
            load: load(&slot.used, &node.capacity),
            n_instances: slot.instances.len(),
            latency_ms: check.as_ref().and_then(|it| it.latency_ms),
            checked_at: check.map(|it| it.at),
            metrics: orch.health.metrics(&node.id),
            ray: orch.ray_on(node),
        }
    }
}

impl Summary for NodeStatuses {
    fn summary(&self) -> String {
        let row = |it: &NodeLoad| {
            let cordoned = if it.cordoned { " (cordoned)" } else { "" };
            let usage = it.metrics.as_ref().map(NodeMetrics::usage).unwrap_or_default();
            let share = |it: Option<f64>| {
                it.map_or_else(|| "-".to_owned(), |it| format!("{:.0} %", it * 100.0))
            };
            [
                it.id.to_string(),
                format!("{}{cordoned}", it.status),
                format!("{:.0} %", it.load * 100.0),
                format!("{} of {}", it.cpu_used.vcpu(), it.cpu_total.vcpu()),
                format!("{} of {}", it.memory_used, it.memory_total),
                it.n_instances.to_string(),
                it.latency_ms.map_or_else(|| "-".to_owned(), |it| format!("{it:.1} ms")),
                share(usage.cpu),
                share(usage.memory),
                share(usage.disk),
                share(usage.gpu),
            ]
        };
        let header = [
            "ID",
            "STATUS",
            "LOAD",
            "USED CPU",
            "USED MEMORY",
            "INSTANCES",
            "LATENCY",
            "CPU BUSY",
            "MEMORY BUSY",
            "DISK",
            "GPU BUSY",
        ];
        let mut text = table(header, self.nodes.iter().map(row));
        text.push_str(&more(self.nodes.len(), self.total_count, &self.next_page_token));
        text
    }
}

impl Operation for NodeStatus {
    const SPEC: Spec = spec!(
        "node_status",
        Cluster,
        Reads,
        Some(Permission::Read),
        [Route::get("/dashboard/nodes/status")]
    );
    type Output = NodeStatuses;

    async fn run(self, orch: &Arc<Orch>, _: &Cx) -> Result<NodeStatuses, Error> {
        orch.ledger.read(|book| {
            let slots: Vec<&Slot> = book.slots().collect();
            let (page, next_page_token) = page::cut(
                "node-status",
                &slots,
                |it| it.node.id.to_string(),
                &self.page_token,
                self.page_size,
            )?;
            Ok(NodeStatuses {
                nodes: page.iter().map(|it| NodeLoad::of(it, orch)).collect(),
                next_page_token,
                total_count: slots.len(),
            })
        })
    }
}
