//! Compares every reachable node with its records, and keeps an ear on every engine's events.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use orch_domain::name::NodeId;
use orch_domain::node::{EngineConfig, NodeStatus};
use parking_lot::Mutex;
use tokio_util::sync::DropGuard;

use crate::Orch;

/// Nodes whose events are being followed. Invariant: one follower per entry.
#[derive(Default)]
pub(crate) struct Followers {
    nodes: Mutex<HashMap<NodeId, Follower>>,
}

struct Follower {
    /// Whose events they are: a node that gets another engine is followed anew.
    engine: EngineConfig,
    _stop: DropGuard,
}

/// Nodes compared at the same time.
const AT_ONCE: usize = 64;
const RECONNECT: Duration = Duration::from_millis(500);
const MAX_RECONNECT: Duration = Duration::from_secs(30);

pub(super) async fn activate(orch: Arc<Orch>) -> String {
    let nodes: Vec<(NodeId, NodeStatus)> = orch
        .ledger
        .read(|book| book.slots().map(|it| (it.node.id.clone(), it.node.status)).collect());
    orch.followers.nodes.lock().retain(|id, _| orch.ledger.read(|book| book.slot(id).is_some()));
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

/// One follower per node, until it is removed or gets another engine.
pub(crate) fn follow(orch: &Arc<Orch>, node_id: &NodeId) {
    let engine = orch.ledger.read(|book| book.slot(node_id).map(|it| it.node.engine.clone()));
    let Some(engine) = engine else { return };
    let stop = orch.shutdown.child_token();
    {
        let mut nodes = orch.followers.nodes.lock();
        if nodes.get(node_id).is_some_and(|it| it.engine == engine) {
            return;
        }
        nodes.insert(node_id.clone(), Follower { engine, _stop: stop.clone().drop_guard() });
    }
    let (orch, node_id) = (orch.clone(), node_id.clone());
    orch.tracker.clone().spawn(async move {
        let mut pause = RECONNECT;
        loop {
            let followed = tokio::select! {
                it = orch.follow_events(&node_id) => it,
                () = stop.cancelled() => return,
            };
            pause = if followed.is_ok() { RECONNECT } else { (pause * 2).min(MAX_RECONNECT) };
            let jitter = Duration::from_millis(orch.random() % (pause.as_millis() as u64 / 2 + 1));
            tokio::select! {
                () = tokio::time::sleep(pause / 2 + jitter) => {}
                () = stop.cancelled() => return,
            }
        }
    });
}

/// For a node that is removed.
pub(crate) fn unfollow(orch: &Orch, node_id: &NodeId) {
    orch.followers.nodes.lock().remove(node_id);
}
