//! How large an instance can be right now, and which usual sizes fit.

use std::sync::Arc;

use orch_domain::Error;
use orch_domain::book::Slot;
use orch_domain::caller::Permission;
use orch_domain::capacity::Options;
use orch_domain::cluster::Totals;
use orch_domain::resource::Resources;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::operation::{Operation, Route, Spec, Summary, spec};
use crate::{Cx, Orch};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClusterCapacity {}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct CapacityReport {
    #[serde(flatten)]
    pub options: Options,
    /// Nodes that take instances now: workers that are not cordoned, degraded or unreachable, and not simulated unless
    /// all are.
    pub n_nodes: usize,
    /// What these nodes have together.
    pub total: Resources,
    /// What instances hold of it, running or stopped.
    pub used: Resources,
    /// Spread over the nodes: one instance can be as large as `max_cpu` and `max_memory_gb` at most.
    pub free: Resources,
}

impl Summary for CapacityReport {
    fn summary(&self) -> String {
        if self.n_nodes == 0 {
            return "No node takes instances now; `list_nodes` shows why.".to_owned();
        }
        let sizes = |it: Vec<String>| if it.is_empty() { "none".to_owned() } else { it.join(", ") };
        format!(
            "The largest free CPU of a node is {}, the largest free memory {}; together {} of {} and {} of {} are free \
             on {} nodes.\nUsual sizes that fit: cpu {}; memory {}.",
            self.options.max_cpu,
            self.options.max_memory_gb,
            self.free.cpu.vcpu(),
            self.total.cpu,
            self.free.memory,
            self.total.memory,
            self.n_nodes,
            sizes(self.options.cpu_options.iter().map(|it| it.vcpu().to_string()).collect()),
            sizes(self.options.memory_options.iter().map(|it| it.gib().to_string()).collect()),
        )
    }
}

impl Operation for ClusterCapacity {
    const SPEC: Spec = spec!(
        "cluster_capacity",
        Cluster,
        Reads,
        Some(Permission::Read),
        [Route::get("/dashboard/capacity")]
    );
    type Output = CapacityReport;

    async fn run(self, orch: &Arc<Orch>, _: &Cx) -> Result<CapacityReport, Error> {
        Ok(orch.ledger.read(|book| {
            // As placement: next to a real node a simulated one is only for who asks for it.
            let has_real = book.slots().any(|it| !it.node.is_simulated());
            let takes = || {
                let is_open = move |it: &&Slot| !(has_real && it.node.is_simulated());
                book.slots().filter(|it| it.node.takes_instances()).filter(is_open)
            };
            let totals = Totals::of(takes().map(|it| (&*it.node, it.used)));
            CapacityReport {
                options: Options::of(takes().map(|it| it.free())),
                n_nodes: totals.total_nodes,
                total: totals.capacity,
                used: totals.used,
                free: totals.free,
            }
        }))
    }
}
