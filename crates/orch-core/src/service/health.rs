//! Health checks: all nodes at once, each with its own time limit, and a status that does not flap.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use futures::{StreamExt, stream};
use orch_domain::Error;
use orch_domain::book::Book;
use orch_domain::cluster::{ClusterStatus, Totals};
use orch_domain::event::News;
use orch_domain::health::{Check, Damped};
use orch_domain::name::NodeId;
use orch_domain::node::{Node, NodeStatus};
use orch_domain::time::Timestamp;
use parking_lot::RwLock;
use tokio::sync::Mutex;

use crate::Orch;
use crate::event::Subject;
use crate::ports::engine::{EngineError, EngineInfo};
use crate::service::ledger::Ledger;

/// Checks kept per node.
const HISTORY: usize = 20;
/// Checks under way at the same time: enough for thousands of nodes, few enough for file descriptors.
const AT_ONCE: usize = 512;

pub struct HealthBoard {
    nodes: RwLock<HashMap<NodeId, NodeHealth>>,
    last_sweep: RwLock<Option<Timestamp>>,
    /// As last told of.
    cluster: Mutex<ClusterStatus>,
}

#[derive(Default)]
struct NodeHealth {
    damped: Damped,
    /// Newest first.
    history: VecDeque<Check>,
}

impl HealthBoard {
    /// Starts from the stored statuses: a node that was down before a restart needs the same proof to count as up.
    pub fn new(ledger: &Ledger) -> HealthBoard {
        let nodes = ledger.read(|book| {
            let entry = |node: &Node| {
                (
                    node.id.clone(),
                    NodeHealth {
                        damped: Damped::starting_at(node.status),
                        history: VecDeque::new(),
                    },
                )
            };
            book.slots().map(|it| entry(&it.node)).collect()
        });
        let cluster = Mutex::new(ledger.read(totals).status());
        HealthBoard { nodes: RwLock::new(nodes), last_sweep: RwLock::new(None), cluster }
    }

    /// Newest first; empty before the first check.
    pub fn history(&self, node_id: &NodeId) -> Vec<Check> {
        self.nodes
            .read()
            .get(node_id)
            .map(|it| it.history.iter().cloned().collect())
            .unwrap_or_default()
    }

    pub fn last_check(&self, node_id: &NodeId) -> Option<Check> {
        self.nodes.read().get(node_id).and_then(|it| it.history.front().cloned())
    }

    /// Damped; `None` before the first check.
    fn status(&self, node_id: &NodeId) -> Option<NodeStatus> {
        self.nodes.read().get(node_id).map(|it| it.damped.status())
    }

    pub fn last_sweep(&self) -> Option<Timestamp> {
        *self.last_sweep.read()
    }

    /// A node that was probed before it was registered.
    pub(crate) fn enter(&self, node: &Node, check: Check) {
        let health = NodeHealth {
            damped: Damped::starting_at(node.status),
            history: VecDeque::from([check]),
        };
        self.nodes.write().insert(node.id.clone(), health);
    }

    pub fn forget(&self, node_id: &NodeId) {
        self.nodes.write().remove(node_id);
    }
}

impl Orch {
    /// Checks every node and returns when the slowest has answered or run into its limit.
    pub async fn sweep(self: &Arc<Orch>) {
        let nodes: Vec<Arc<Node>> =
            self.ledger.read(|book| book.slots().map(|it| it.node.clone()).collect());
        let check = async |node: Arc<Node>| {
            if let Err(err) = self.check(&node).await {
                tracing::warn!("the health of `{}` could not be recorded: {err}", node.id);
            }
        };
        stream::iter(nodes).for_each_concurrent(AT_ONCE, check).await;
        *self.health.last_sweep.write() = Some(self.clock.now());
        self.tell_of_cluster().await;
        self.events.publish(Subject::Cluster);
    }

    /// The state of the cluster follows from its nodes; that it is another one is an event of its own.
    async fn tell_of_cluster(&self) {
        // Held to the end, so that sweeps at the same time tell one after the other and of what is so then.
        let mut told = self.health.cluster.lock().await;
        let totals = self.ledger.read(totals);
        let status = totals.status();
        if *told == status {
            return;
        }
        let news = News::cluster(*told, status, &totals.line());
        match self.ledger.announce(None, news).await {
            Ok(()) => *told = status,
            Err(err) => tracing::warn!("that the cluster is {status} could not be recorded: {err}"),
        }
    }

    /// Asks the engine of `node` once; nothing is recorded.
    pub(crate) async fn probe(&self, node: &Node) -> (Check, Result<EngineInfo, EngineError>) {
        let started = Instant::now();
        let timeout = self.settings.health_timeout;
        let answer = match self.engines.engine(node) {
            Ok(engine) => match tokio::time::timeout(timeout, engine.describe()).await {
                Ok(it) => it,
                Err(_) => {
                    Err(engine.waits_for().unwrap_or(EngineError::Timeout { after: timeout }))
                }
            },
            Err(err) => Err(err),
        };
        let check = Check {
            at: self.clock.now(),
            status: match &answer {
                Ok(_) => NodeStatus::Healthy,
                Err(EngineError::EngineDown { .. }) => NodeStatus::Degraded,
                Err(err) if err.is_transient() => NodeStatus::Unreachable,
                Err(_) => NodeStatus::Degraded,
            },
            latency_ms: answer.is_ok().then(|| started.elapsed().as_secs_f64() * 1000.0),
            message: answer.as_ref().err().map(|err| format!("engine: {err}")),
            trouble: answer.as_ref().err().map(EngineError::trouble),
            engine_version: answer.as_ref().ok().map(|it| it.version.clone()),
        };
        (check, answer)
    }

    /// Checks one node now, whatever its period.
    pub async fn check(self: &Arc<Orch>, node: &Node) -> Result<Check, Error> {
        let (check, answer) = self.probe(node).await;
        let is_current = |it: &Node| it.engine == node.engine && it.created_at == node.created_at;
        // It was removed, or got another engine, while it was being checked: then this says nothing about it.
        if self.ledger.read(|book| book.slot(&node.id).is_none_or(|it| !is_current(&it.node))) {
            return Ok(check);
        }
        {
            let mut nodes = self.health.nodes.write();
            let health = nodes.entry(node.id.clone()).or_default();
            health.history.push_front(check.clone());
            health.history.truncate(HISTORY);
            health.damped.observe(check.status, self.settings.damping);
        }
        self.record(&node.id, is_current, answer.ok()).await?;
        Ok(check)
    }

    /// Makes the node's record say what its checks say. Compared with the record as it is, and not with what the last
    /// check changed, so that a write that failed is made up for by the next check.
    async fn record(
        self: &Arc<Orch>,
        id: &NodeId,
        is_current: impl Fn(&Node) -> bool,
        info: Option<EngineInfo>,
    ) -> Result<(), Error> {
        let is_being_cleared = info.is_some() && self.is_being_cleared(id);
        let correction = |node: &Node| {
            let status = self.health.status(id)?;
            let waits = is_being_cleared && status == NodeStatus::Healthy;
            let status = if waits { node.status } else { status };
            let engine_has = info.as_ref().filter(|_| !node.capacity_is_fixed);
            let capacity = engine_has.map_or(node.capacity, |it| it.capacity);
            let differs = status != node.status || capacity != node.capacity;
            (differs && is_current(node)).then_some((status, capacity))
        };
        if self.ledger.read(|book| book.slot(id).and_then(|it| correction(&it.node))).is_none() {
            return Ok(());
        }
        let now = self.clock.now();
        let changed = self
            .ledger
            .write(None, |book| {
                let Some(before) = book.slot(id).map(|it| it.node.clone()) else { return Ok(None) };
                let Some((status, capacity)) = correction(&before) else { return Ok(None) };
                book.change_node(id, |it| {
                    it.capacity = capacity;
                    if it.status != status {
                        it.status = status;
                        it.status_since = now;
                    }
                })?;
                Ok((before.status != status).then_some((before.status, status)))
            })
            .await?;
        if let Some((before, status)) = changed {
            tracing::info!("node `{id}` is {status} (was {before})");
            self.tell_loss(id, before, status);
            if status == NodeStatus::Healthy {
                self.reconcile_soon(id);
            }
        }
        Ok(())
    }
}

fn totals(book: &Book) -> Totals {
    Totals::of(book.slots().map(|it| (&*it.node, it.used)))
}
