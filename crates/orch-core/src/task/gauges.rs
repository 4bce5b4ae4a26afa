//! How much there is of what, for `/metrics`; set after each health sweep.

use orch_domain::instance::InstanceState;
use orch_domain::metrics::NodeMetrics;
use orch_domain::node::NodeStatus;

use crate::Orch;

/// A sample that is older than so many periods is none any more.
const PERIODS_FRESH: u32 = 3;

pub(super) fn set(orch: &Orch) {
    let fresh = orch.settings.health_period * PERIODS_FRESH + orch.settings.health_timeout;
    let now = orch.clock.now();
    orch.ledger.read(|book| {
        for state in InstanceState::ALL {
            let n = book.instances_after(None).filter(|it| it.state == state).count();
            metrics::gauge!("mcp_orch_instances", "state" => state.as_str()).set(n as f64);
        }
        for status in NodeStatus::ALL {
            let n = book.slots().filter(|it| it.node.status == status).count();
            metrics::gauge!("mcp_orch_nodes", "status" => status.as_str()).set(n as f64);
        }
        for slot in book.slots() {
            let node = slot.node.id.to_string();
            let load = orch_domain::placement::load(&slot.used, &slot.node.capacity);
            metrics::gauge!("mcp_orch_node_load", "node" => node.clone()).set(load);
            let is_up = slot.node.status == NodeStatus::Healthy;
            metrics::gauge!("mcp_orch_node_up", "node" => node.clone())
                .set(f64::from(u8::from(is_up)));
            if let Some(it) = orch.health.metrics(&slot.node.id) {
                let is_fresh = u128::from(now.since(it.sampled_at)) <= fresh.as_millis();
                set_machine(&node, &it, is_fresh);
            }
        }
    });
}

/// What is not known any more is no number: the last one would look like the present.
fn set_machine(node: &str, it: &NodeMetrics, is_fresh: bool) {
    let gauge = |name: &'static str, value: Option<f64>| {
        if let Some(value) = value {
            let value = if is_fresh { value } else { f64::NAN };
            metrics::gauge!(name, "node" => node.to_owned()).set(value);
        }
    };
    let bytes = |it: Option<u64>| it.map(|it| it as f64);
    gauge("mcp_orch_node_cpu_used_ratio", it.cpu_used);
    gauge("mcp_orch_node_load1", it.load_average.map(|it| it[0]));
    gauge("mcp_orch_node_memory_used_bytes", bytes(it.memory_used_bytes));
    gauge("mcp_orch_node_memory_total_bytes", bytes(it.memory_total_bytes));
    gauge("mcp_orch_node_disk_used_bytes", bytes(it.disk_used_bytes));
    gauge("mcp_orch_node_disk_total_bytes", bytes(it.disk_total_bytes));
    gauge("mcp_orch_node_containers_running", Some(f64::from(it.containers_running)));
    gauge("mcp_orch_node_containers", Some(f64::from(it.containers_total)));
    for gpu in it.gpus.iter().flatten() {
        let gauge = |name: &'static str, value: Option<f64>| {
            if let Some(value) = value {
                let value = if is_fresh { value } else { f64::NAN };
                let labels = [("node", node.to_owned()), ("gpu", gpu.index.to_string())];
                metrics::gauge!(name, &labels).set(value);
            }
        };
        gauge("mcp_orch_node_gpu_used_ratio", gpu.used);
        gauge("mcp_orch_node_gpu_memory_used_bytes", bytes(gpu.memory_used_bytes));
        gauge("mcp_orch_node_gpu_memory_total_bytes", bytes(gpu.memory_total_bytes));
    }
}
