//! Compares every reachable node with its records, and keeps an ear on every engine's events.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use orch_domain::name::NodeId;
use orch_domain::node::NodeStatus;
use parking_lot::Mutex;

use crate::Orch;

/// Nodes whose events are being followed. Invariant: one follower per entry.
#[derive(Default)]
pub(crate) struct Followers {
    nodes: Mutex<HashSet<NodeId>>,
}

/// Nodes compared at the same time.
const AT_ONCE: usize = 64;
const RECONNECT: Duration = Duration::from_millis(500);
const MAX_RECONNECT: Duration = Duration::from_secs(30);

pub(super) async fn activate(orch: Arc<Orch>) -> String {
    let nodes: Vec<(NodeId, NodeStatus)> = orch
        .ledger
        .read(|book| book.slots().map(|it| (it.node.id.clone(), it.node.status)).collect());
    for (node_id, _) in &nodes {
        follow(&orch, node_id);
    }
    // A node that is down has nothing to say, and its health check tells when that changes.
    let reachable: Vec<NodeId> = nodes
        .into_iter()
        .filter(|(_, status)| *status != NodeStatus::Unreachable)
        .map(|(node_id, _)| node_id)
        .collect();
    let reconcile = |node_id: NodeId| {
        let orch = orch.clone();
        async move { orch.reconcile_node(&node_id).await }
    };
    let results: Vec<_> = stream::iter(reachable.into_iter().map(reconcile))
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let n_failed = results.iter().filter(|it| it.is_err()).count();
    let sum = |count: fn(&crate::service::reconcile::Reconciled) -> usize| -> usize {
        results.iter().flatten().map(count).sum()
    };
    format!(
        "{} nodes compared, {n_failed} failed: {} containers, {} records corrected, {} orphans removed, {} waiting",
        results.len(),
        sum(|it| it.n_containers),
        sum(|it| it.n_corrected),
        sum(|it| it.n_orphans_removed),
        sum(|it| it.n_orphans_waiting),
    )
}

/// One follower per node, until the node is removed.
pub(crate) fn follow(orch: &Arc<Orch>, node_id: &NodeId) {
    if !orch.followers.nodes.lock().insert(node_id.clone()) {
        return;
    }
    let (orch, node_id) = (orch.clone(), node_id.clone());
    orch.tracker.clone().spawn(async move {
        let mut pause = RECONNECT;
        while orch.ledger.read(|book| book.slot(&node_id).is_some()) {
            let followed = tokio::select! {
                it = orch.follow_events(&node_id) => it,
                () = orch.shutdown.cancelled() => return,
            };
            pause = if followed.is_ok() { RECONNECT } else { (pause * 2).min(MAX_RECONNECT) };
            let jitter = Duration::from_millis(orch.random() % (pause.as_millis() as u64 / 2 + 1));
            tokio::select! {
                () = tokio::time::sleep(pause / 2 + jitter) => {}
                () = orch.shutdown.cancelled() => return,
            }
        }
        orch.followers.nodes.lock().remove(&node_id);
    });
}
