//! Records and containers, made to agree: what a restart left half-done, what changed behind our back, and what is
//! nobody's.
//!
//! A container is removed only when it carries our controller id, has no live record, and was seen so twice, a grace
//! apart. A record never ends because a node does not answer. A list may be older than what happened since, so it
//! only points at what to look at; an inspection decides.

use std::collections::HashMap;
use std::sync::Arc;

use orch_domain::Error;
use orch_domain::event::News;
use orch_domain::instance::{Goal, Instance, InstanceState, ReasonCode, StateReason};
use orch_domain::name::{InstanceId, NodeId};
use orch_domain::time::Timestamp;
use parking_lot::Mutex;

use crate::Orch;
use crate::ports::engine::{Container, ContainerState, Engine, EngineError};
use crate::service::engines::engine_error;
use crate::service::settle::{container_removed, limited};

/// Containers without a live record, and when each was first seen so.
#[derive(Default)]
pub struct Orphans {
    first_seen: Mutex<HashMap<(NodeId, String), Timestamp>>,
}

/// What one pass over a node came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reconciled {
    pub n_containers: usize,
    pub n_corrected: usize,
    pub n_orphans_waiting: usize,
    pub n_orphans_removed: usize,
}

impl Orch {
    /// Goes on with everything an earlier process left half-done.
    pub fn recover(self: &Arc<Orch>) {
        let half_done: Vec<InstanceId> = self.ledger.read(|book| {
            book.instances_after(None)
                .filter(|it| it.state.is_transitional())
                .map(|it| it.id.clone())
                .collect()
        });
        if !half_done.is_empty() {
            tracing::info!("going on with {} instances that were left half-done", half_done.len());
        }
        half_done.iter().for_each(|it| self.settle(it));
    }

    /// Compares one node's records with its engine's containers.
    pub async fn reconcile_node(self: &Arc<Orch>, node_id: &NodeId) -> Result<Reconciled, Error> {
        // What moved away goes first: it must not be taken for anything else.
        if let Err(err) = self.clear_node(node_id).await {
            tracing::debug!("what moved away from `{node_id}` is removed later: {err}");
        }
        let engine = self.engine(node_id)?;
        let controller_id = self.ledger.store().identity().controller_id.clone();
        // Read before the list is asked for, so that nothing in it is newer than the list.
        let records: Vec<Arc<Instance>> = self.ledger.read(|book| {
            let slot = book.slot(node_id).into_iter();
            slot.flat_map(|it| &it.instances).filter_map(|id| book.instance(id).cloned()).collect()
        });
        let containers =
            limited(engine.list(&controller_id)).await.map_err(|err| engine_error(node_id, err))?;
        let mut report = Reconciled { n_containers: containers.len(), ..Reconciled::default() };
        let by_name: HashMap<&str, &Container> =
            containers.iter().map(|it| (it.name.as_str(), it)).collect();
        for instance in records {
            if instance.state.is_transitional() {
                self.settle(&instance.id);
                continue;
            }
            let container = by_name.get(instance.id.container_name().as_str());
            let agrees = match instance.state {
                InstanceState::Running => container.is_some_and(|it| it.state.is_up()),
                InstanceState::Stopped => match container {
                    Some(it) => !it.state.is_up(),
                    // It moved here and never ran.
                    None => instance.is_moving(),
                },
                _ => true,
            };
            if !agrees && self.reconcile_instance(&instance.id).await? {
                report.n_corrected += 1;
            }
        }
        for container in &containers {
            self.consider_orphan(node_id, &*engine, container, &mut report).await;
        }
        let names: Vec<&str> = by_name.keys().copied().collect();
        self.orphans
            .first_seen
            .lock()
            .retain(|(node, name), _| node != node_id || names.contains(&name.as_str()));
        Ok(report)
    }

    /// Looks at one instance's container and corrects the record. The answer says whether it had to.
    pub async fn reconcile_instance(self: &Arc<Orch>, id: &InstanceId) -> Result<bool, Error> {
        let Some(before) = self.ledger.read(|book| book.instance(id).cloned()) else {
            return Ok(false);
        };
        if before.state.is_transitional() {
            self.settle(id);
            return Ok(false);
        }
        let engine = self.engine(&before.node_id)?;
        let seen = limited(engine.inspect(&id.container_name()))
            .await
            .map_err(|err| engine_error(&before.node_id, err))?;
        // One of that name with other labels is somebody else's: ours is gone.
        let seen = seen.filter(|it| it.labels.as_ref() == Some(&self.container_labels(&before)));
        let Some(truth) = verdict(&before, seen) else { return Ok(false) };
        let now = self.clock.now();
        self.ledger
            .write(None, |book| {
                // Only if nothing happened to the record while the engine was asked.
                if book.instance(id).is_none_or(|it| **it != *before) {
                    return Ok(false);
                }
                match truth {
                    Truth::Runs(container_id) => book.set_running(id, container_id, now),
                    Truth::StandsStill(reason) => {
                        book.change_instance(id, |it| it.goal = Goal::Stopped);
                        book.set_stopped(id, Some(reason), now);
                    }
                    Truth::IsGone => {
                        let why = container_removed(book, &before.node_id);
                        book.set_terminated(id, Some(why), now);
                    }
                }
                Ok(true)
            })
            .await
    }

    async fn consider_orphan(
        self: &Arc<Orch>,
        node_id: &NodeId,
        engine: &dyn Engine,
        container: &Container,
        report: &mut Reconciled,
    ) {
        if self.is_superseded(container)
            && let Some(labels) = &container.labels
        {
            match self.remove_older(engine, &labels.instance_id).await {
                Ok(removed) => report.n_orphans_removed += usize::from(removed),
                Err(err) => tracing::warn!(
                    "`{}` on `{node_id}` is superseded and could not be removed: {err}",
                    container.name
                ),
            }
            return;
        }
        let key = (node_id.clone(), container.name.clone());
        if !self.is_orphan(container) {
            self.orphans.first_seen.lock().remove(&key);
            return;
        }
        let now = self.clock.now();
        let first_seen = *self.orphans.first_seen.lock().entry(key.clone()).or_insert(now);
        if now.since(first_seen) < self.settings.orphan_grace.as_millis() as u64
            || first_seen == now
        {
            report.n_orphans_waiting += 1;
            return;
        }
        // The list may be old; what is removed is looked at once more.
        let removed = match limited(engine.inspect(&container.name)).await {
            Ok(Some(it)) if it.id == container.id && self.is_orphan(&it) => {
                limited(engine.remove(&it.name)).await.map(|()| true)
            }
            Ok(_) => Ok(false),
            Err(err) => Err(err),
        };
        match removed {
            // Gone already, or another by now: nothing was done, and nothing is said.
            Ok(false) => drop(self.orphans.first_seen.lock().remove(&key)),
            Ok(true) => {
                tracing::warn!(
                    "removed the container `{}` on `{node_id}`: it carries our id and has no record",
                    container.name
                );
                self.orphans.first_seen.lock().remove(&key);
                report.n_orphans_removed += 1;
                self.tell_of_orphan(node_id, container).await;
            }
            Err(err) => tracing::warn!(
                "the orphan `{}` on `{node_id}` could not be removed: {err}",
                container.name
            ),
        }
    }

    async fn tell_of_orphan(&self, node_id: &NodeId, container: &Container) {
        let Some(labels) = &container.labels else { return };
        let name = &container.name;
        let news = News::orphan_removed(name, &labels.instance_id, &labels.owner, node_id);
        if let Err(err) = self.ledger.announce(None, news).await {
            tracing::warn!("that the orphan `{name}` was removed could not be recorded: {err}");
        }
    }

    /// Ours by its labels, and without a live record of its generation. Which node the record names does not matter:
    /// an instance that moves gets a new generation, and two nodes may turn out to be one engine under two addresses.
    fn is_orphan(&self, container: &Container) -> bool {
        let Some(labels) = &container.labels else { return false };
        if labels.controller_id != self.ledger.store().identity().controller_id {
            return false;
        }
        let record = self.ledger.read(|book| book.instance(&labels.instance_id).cloned());
        !record.is_some_and(|it| it.state.holds_reservation() && labels.generation == it.generation)
    }

    /// Reconciles a node in the background, as when it has just come back.
    pub fn reconcile_soon(self: &Arc<Orch>, node_id: &NodeId) {
        let (orch, node_id) = (self.clone(), node_id.clone());
        self.tracker.spawn(async move {
            tokio::select! {
                result = orch.reconcile_node(&node_id) => {
                    if let Err(err) = result {
                        tracing::debug!("`{node_id}` could not be reconciled: {err}");
                    }
                }
                () = orch.shutdown.cancelled() => {}
            }
        });
    }

    /// Follows what the engine of a node reports until the connection ends. Every event is looked into.
    pub async fn follow_events(self: &Arc<Orch>, node_id: &NodeId) -> Result<(), EngineError> {
        use futures::StreamExt;
        let Ok(engine) = self.engine(node_id) else { return Ok(()) };
        let controller_id = self.ledger.store().identity().controller_id.clone();
        let mut events = limited(engine.events(&controller_id)).await?;
        // What happened before the stream began.
        self.reconcile_soon(node_id);
        while let Some(event) = events.next().await {
            let event = event?;
            let Some(id) = event.instance_id else { continue };
            tracing::debug!("`{node_id}` reports {} of {id}", event.action);
            // An instance in flight is being looked after; its own step sees what happened.
            let is_looked_after = match event.action.as_str() {
                "die" | "oom" | "destroy" => self.flights.tell_end(&id),
                _ => self.flights.is_in_flight(&id),
            };
            if !is_looked_after && let Err(err) = self.reconcile_instance(&id).await {
                tracing::debug!("{id} could not be reconciled: {err}");
            }
        }
        Ok(())
    }
}

/// What an inspection says about an instance at rest.
enum Truth {
    Runs(String),
    StandsStill(StateReason),
    IsGone,
}

/// `None`: the record is right.
fn verdict(record: &Instance, seen: Option<Container>) -> Option<Truth> {
    match (record.state, seen) {
        // It moved here and never ran: there is nothing that could be gone.
        (InstanceState::Stopped, None) if record.is_moving() => None,
        (InstanceState::Running | InstanceState::Stopped, None) => Some(Truth::IsGone),
        (InstanceState::Running, Some(it)) if !it.state.is_up() => {
            Some(Truth::StandsStill(why_it_ended(&it.state)))
        }
        // Started on the node by hand: it is the same container, so the record follows.
        (InstanceState::Stopped, Some(it)) if it.state.is_up() => Some(Truth::Runs(it.id)),
        _ => None,
    }
}

pub(crate) fn why_it_ended(state: &ContainerState) -> StateReason {
    match state {
        ContainerState::Exited { out_of_memory: true, .. } => ReasonCode::OutOfMemory
            .because("it used more memory than it was launched with; launch it with more"),
        // 128 + SIGKILL and 128 + SIGTERM are what `docker stop` and `docker kill` leave.
        ContainerState::Exited { exit_code: exit_code @ (137 | 143), .. } => {
            ReasonCode::ContainerStopped
                .because(format!("its container was stopped on the node (exit code {exit_code})"))
        }
        ContainerState::Exited { exit_code: 0, .. } => ReasonCode::CommandCompleted
            .because("its command did what it had to and ended (exit code 0)"),
        ContainerState::Exited { exit_code, .. } => {
            ReasonCode::InstanceInitiatedShutdown.because(format!(
                "its command ended with exit code {exit_code}; `instance_logs` shows what it wrote"
            ))
        }
        _ => ReasonCode::ContainerStopped.because("its container does not run any more"),
    }
}
