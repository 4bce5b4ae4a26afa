//! Health checks: all nodes at once, each with its own time limit, and a status that does not flap.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use futures::{StreamExt, stream};
use orch_domain::Error;
use orch_domain::book::Book;
use orch_domain::cluster::{ClusterStatus, Totals};
use orch_domain::event::News;
use orch_domain::health::{Check, Damped};
use orch_domain::metrics::{ClusterUsage, CpuReading, NodeMetrics, Sample};
use orch_domain::name::NodeId;
use orch_domain::node::{Node, NodeStatus};
use orch_domain::resource::Resources;
use orch_domain::time::Timestamp;
use parking_lot::RwLock;
use tokio::sync::Mutex;

use crate::Orch;
use crate::event::Subject;
use crate::ports::engine::EngineInfo;
use crate::service::ledger::Ledger;

/// Checks kept per node.
const HISTORY: usize = 20;
/// Checks under way at the same time: enough for thousands of nodes, few enough for file descriptors.
const AT_ONCE: usize = 2048;

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
    /// The last sample, and the CPU reading that the next one is compared with.
    metrics: Option<NodeMetrics>,
    cpu: Option<CpuReading>,
}

/// What there is to say about a node.
#[derive(Clone, Copy, Default)]
struct Seen<'a> {
    check: Option<&'a Check>,
    info: Option<&'a EngineInfo>,
    /// How many GPUs its machine tells of; None: it did not say.
    n_gpus: Option<u32>,
}

impl Seen<'_> {
    /// Why its status is what it now is.
    fn reason(&self) -> String {
        let message = self.check.and_then(|it| it.message.clone());
        message.unwrap_or_else(|| "it answers".to_owned())
    }
}

pub(crate) fn n_gpus(sample: Option<&Sample>) -> Option<u32> {
    sample?.gpus.as_ref().map(|it| u32::try_from(it.len()).unwrap_or(u32::MAX))
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
                        ..NodeHealth::default()
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

    /// What was last seen in use on its machine; None before the first time.
    pub fn metrics(&self, node_id: &NodeId) -> Option<NodeMetrics> {
        self.nodes.read().get(node_id).and_then(|it| it.metrics.clone())
    }

    /// What is in use on the nodes that answer.
    pub fn cluster_usage(&self, book: &Book) -> ClusterUsage {
        let nodes = self.nodes.read();
        let healthy = book.slots().filter(|it| it.node.status == NodeStatus::Healthy);
        let metrics = healthy.filter_map(|it| nodes.get(&it.node.id)?.metrics.clone());
        ClusterUsage::of(&metrics.collect::<Vec<_>>())
    }

    /// Without a sample, what was known before stays, with the time it is from.
    pub(crate) fn note(
        &self,
        node_id: &NodeId,
        at: Timestamp,
        info: &EngineInfo,
        sample: Option<Sample>,
    ) {
        let mut nodes = self.nodes.write();
        let Some(health) = nodes.get_mut(node_id) else { return };
        if sample.is_none() && health.metrics.is_some() {
            return;
        }
        let sample = sample.unwrap_or_default();
        let before = match sample.cpu {
            Some(it) => health.cpu.replace(it),
            None => None,
        };
        let containers = (info.n_running, info.n_containers);
        health.metrics = Some(sample.into_metrics(at, &info.capacity, containers, before));
    }

    pub fn last_sweep(&self) -> Option<Timestamp> {
        *self.last_sweep.read()
    }

    /// A node that was probed before it was registered.
    pub(crate) fn enter(&self, node: &Node, check: Check) {
        let health = NodeHealth {
            damped: Damped::starting_at(node.status),
            history: VecDeque::from([check]),
            ..NodeHealth::default()
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

    /// Checks one node now, whatever its period.
    pub async fn check(self: &Arc<Orch>, node: &Node) -> Result<Check, Error> {
        let probed = self.probe(node).await;
        let is_current = |it: &Node| it.engine == node.engine && it.created_at == node.created_at;
        let is_there =
            || self.ledger.read(|book| book.slot(&node.id).is_some_and(|it| is_current(&it.node)));
        // It was removed, or got another engine, while it was being checked: then this says nothing about it.
        if !is_there() {
            return Ok(probed.check);
        }
        {
            let mut nodes = self.health.nodes.write();
            let health = nodes.entry(node.id.clone()).or_default();
            health.history.push_front(probed.check.clone());
            health.history.truncate(HISTORY);
            health.damped.observe(probed.check.status, probed.check.at, self.settings.damping);
        }
        let seen =
            Seen { check: Some(&probed.check), info: probed.answer.as_ref().ok(), n_gpus: None };
        self.record(&node.id, is_current, seen).await?;
        if let Ok(info) = &probed.answer {
            let sample = self.sample(node, info, probed.left()).await;
            let n_gpus = n_gpus(sample.as_ref());
            if is_there() {
                self.health.note(&node.id, self.clock.now(), info, sample);
                self.record(&node.id, is_current, Seen { n_gpus, ..Seen::default() }).await?;
            }
        }
        Ok(probed.check)
    }

    /// Makes the node's record say what its checks say. Compared with the record as it is, and not with what the last
    /// check changed, so that a write that failed is made up for by the next check.
    async fn record(
        self: &Arc<Orch>,
        id: &NodeId,
        is_current: impl Fn(&Node) -> bool,
        seen: Seen<'_>,
    ) -> Result<(), Error> {
        let is_being_cleared = self.is_being_cleared(id);
        let correction = |node: &Node| {
            let status = self.health.status(id)?;
            let waits = is_being_cleared && status == NodeStatus::Healthy;
            let status = if waits { node.status } else { status };
            let mut capacity = node.capacity;
            if let Some(engine_has) = seen.info.filter(|_| !node.capacity_is_fixed) {
                let gpu = capacity.gpu;
                capacity = Resources { gpu, ..engine_has.capacity };
            }
            if let Some(n_gpus) = seen.n_gpus.filter(|_| !node.gpu_is_fixed) {
                capacity.gpu = n_gpus;
            }
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
                    it.set_status(status, seen.reason(), now);
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
