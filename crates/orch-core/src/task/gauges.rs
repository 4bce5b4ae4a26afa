//! How much there is of what, for `/metrics`; set after each health sweep.

use std::collections::{BTreeSet, HashMap};

use orch_domain::metrics::NodeMetrics;
use orch_domain::node::NodeStatus;
use orch_domain::node_loss::SeenState;
use parking_lot::Mutex;

use crate::Orch;

/// A sample that is older than so many periods is none any more.
const PERIODS_FRESH: u32 = 3;

/// A figure of a node, or of one of its GPUs.
type Key = (&'static str, String, Option<u32>);

/// What is not known any more is no number: the last one would look like the present.
#[derive(Default)]
pub(super) struct Gauges {
    /// Those that have a number.
    known: Mutex<BTreeSet<Key>>,
}

impl Gauges {
    pub(super) fn set(&self, orch: &Orch) {
        let mut known = BTreeSet::new();
        let mut set = |name: &'static str, node: &str, gpu: Option<u32>, value: f64| {
            let key = (name, node.to_owned(), gpu);
            publish(&key, value);
            known.insert(key);
        };
        let fresh = orch.settings.health_period * PERIODS_FRESH + orch.settings.health_timeout;
        let now = orch.clock.now();
        orch.ledger.read(|book| {
            let mut counts = HashMap::new();
            for instance in book.instances_after(None) {
                *counts.entry(book.seen_state(instance)).or_insert(0usize) += 1;
            }
            for state in SeenState::ALL {
                let n = counts.get(&state).copied().unwrap_or(0);
                metrics::gauge!("mcp_orch_instances", "state" => state.as_str()).set(n as f64);
            }
            for status in NodeStatus::ALL {
                let n = book.slots().filter(|it| it.node.status == status).count();
                metrics::gauge!("mcp_orch_nodes", "status" => status.as_str()).set(n as f64);
            }
            for slot in book.slots() {
                let node = slot.node.id.as_str();
                let load = orch_domain::placement::load(&slot.used, &slot.node.capacity);
                set("mcp_orch_node_load", node, None, load);
                let is_up = slot.node.status == NodeStatus::Healthy;
                set("mcp_orch_node_up", node, None, f64::from(u8::from(is_up)));
                let is_fresh =
                    |it: &NodeMetrics| u128::from(now.since(it.sampled_at)) <= fresh.as_millis();
                if let Some(it) = orch.health.metrics(&slot.node.id).filter(is_fresh) {
                    machine(&it, |name, gpu, value| set(name, node, gpu, value));
                }
            }
        });
        let before = std::mem::replace(&mut *self.known.lock(), known.clone());
        before.difference(&known).for_each(|it| publish(it, f64::NAN));
    }
}

fn publish((name, node, gpu): &Key, value: f64) {
    let mut labels = vec![("node", node.clone())];
    labels.extend(gpu.map(|it| ("gpu", it.to_string())));
    metrics::gauge!(*name, &labels).set(value);
}

/// Every figure that is known of a machine.
fn machine(it: &NodeMetrics, mut set: impl FnMut(&'static str, Option<u32>, f64)) {
    let bytes = |it: Option<u64>| it.map(|it| it as f64);
    let figures = [
        ("mcp_orch_node_cpu_used_ratio", it.cpu_used),
        ("mcp_orch_node_load1", it.load_average.map(|it| it[0])),
        ("mcp_orch_node_memory_used_bytes", bytes(it.memory_used_bytes)),
        ("mcp_orch_node_memory_total_bytes", bytes(it.memory_total_bytes)),
        ("mcp_orch_node_disk_used_bytes", bytes(it.disk_used_bytes)),
        ("mcp_orch_node_disk_total_bytes", bytes(it.disk_total_bytes)),
        ("mcp_orch_node_containers_running", Some(f64::from(it.containers_running))),
        ("mcp_orch_node_containers", Some(f64::from(it.containers_total))),
    ];
    for (name, value) in figures {
        value.into_iter().for_each(|it| set(name, None, it));
    }
    for gpu in it.gpus.iter().flatten() {
        let figures = [
            ("mcp_orch_node_gpu_used_ratio", gpu.used),
            ("mcp_orch_node_gpu_memory_used_bytes", bytes(gpu.memory_used_bytes)),
            ("mcp_orch_node_gpu_memory_total_bytes", bytes(gpu.memory_total_bytes)),
        ];
        for (name, value) in figures {
            value.into_iter().for_each(|it| set(name, Some(gpu.index), it));
        }
    }
}
