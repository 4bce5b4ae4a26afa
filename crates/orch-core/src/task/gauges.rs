//! How much there is of what, for `/metrics`; set after each health sweep.

use orch_domain::node::NodeStatus;
use orch_domain::node_loss::SeenState;

use crate::Orch;

pub(super) fn set(orch: &Orch) {
    orch.ledger.read(|book| {
        let mut counts = std::collections::HashMap::new();
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
            let node = slot.node.id.to_string();
            let load = orch_domain::placement::load(&slot.used, &slot.node.capacity);
            metrics::gauge!("mcp_orch_node_load", "node" => node).set(load);
        }
    });
}
