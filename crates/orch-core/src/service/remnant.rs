//! What an instance left on a node when it moved: stopped and removed as soon as the node answers, and only then is
//! what it held there free.
//!
//! A container is known to be superseded by its generation: a record with a higher one proves it, so there is no grace
//! as there is for orphans. A node that was lost does not count as healthy again before nothing of that kind runs on it.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::{FutureExt as _, StreamExt, stream};
use orch_domain::Error;
use orch_domain::instance::Instance;
use orch_domain::name::{InstanceId, NodeId};
use parking_lot::Mutex;

use crate::Orch;
use crate::ports::engine::{Container, Engine, EngineError};
use crate::ports::failpoint::Failpoint;
use crate::service::engines::engine_error;
use crate::service::flight::Flight;
use crate::service::settle::limited;

/// Remnants of one node removed at the same time.
const AT_ONCE: usize = 16;

/// The nodes that are being cleared before they count as healthy again.
#[derive(Default)]
pub(crate) struct Fences {
    nodes: Mutex<HashMap<NodeId, Fence>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fence {
    UnderWay,
    /// The engine answered and refused: the node is not kept away for that, and the reconciler goes on trying.
    Refused,
}

impl Orch {
    /// Whether a node that answers again has to wait with counting as healthy, because of what may still run there.
    /// Sees to it that this goes.
    pub(crate) fn is_being_cleared(self: &Arc<Orch>, node_id: &NodeId) -> bool {
        let has_remnants = |book: &orch_domain::book::Book| {
            book.slot(node_id).is_some_and(|it| !it.remnants.is_empty())
        };
        let mut nodes = self.fences.nodes.lock();
        if !self.ledger.read(has_remnants) {
            nodes.remove(node_id);
            return false;
        }
        match nodes.get(node_id) {
            Some(Fence::UnderWay) => return true,
            Some(Fence::Refused) => return false,
            None => nodes.insert(node_id.clone(), Fence::UnderWay),
        };
        drop(nodes);
        let (orch, node_id) = (self.clone(), node_id.clone());
        self.tracker.spawn(async move {
            // A bug in here must not keep the node away for ever.
            let cleared = tokio::select! {
                it = AssertUnwindSafe(orch.clear_node(&node_id)).catch_unwind() => it,
                () = orch.shutdown.cancelled() => return,
            };
            match cleared.unwrap_or_else(|_| Err(Error::internal("clearing it panicked"))) {
                Err(err) if !matches!(err, Error::NodeUnreachable { .. }) => {
                    tracing::warn!(
                        "what moved away from `{node_id}` could not be removed there: {err}"
                    );
                    orch.fences.nodes.lock().insert(node_id, Fence::Refused);
                }
                cleared => {
                    orch.fences.nodes.lock().remove(&node_id);
                    // Nothing keeps it away any more: not another period until that is known.
                    let node =
                        orch.ledger.read(|book| book.slot(&node_id).map(|it| it.node.clone()));
                    if let (Ok(()), Some(node)) = (cleared, node)
                        && let Err(err) = orch.check(&node).await
                    {
                        tracing::debug!("the health of `{node_id}` could not be recorded: {err}");
                    }
                }
            }
        });
        true
    }

    /// Removes everything that moved away from a node and may still be there. The first failure is told, and does not
    /// keep the others.
    pub(crate) async fn clear_node(self: &Arc<Orch>, node_id: &NodeId) -> Result<(), Error> {
        let left: Vec<InstanceId> = self.ledger.read(|book| {
            book.slot(node_id).map(|it| it.remnants.iter().cloned().collect()).unwrap_or_default()
        });
        let clear = |id: InstanceId| async move { self.clear_remnant(&id, node_id).await };
        let cleared: Vec<Result<(), Error>> =
            stream::iter(left.into_iter().map(clear)).buffer_unordered(AT_ONCE).collect().await;
        cleared.into_iter().collect()
    }

    /// Stops and removes what `id` left on that node, sees that it is gone, and frees what it held.
    async fn clear_remnant(
        self: &Arc<Orch>,
        id: &InstanceId,
        node_id: &NodeId,
    ) -> Result<(), Error> {
        let engine = self.engine(node_id)?;
        self.remove_older(&*engine, id).await.map_err(|err| engine_error(node_id, err))?;
        self.failpoints.reach(Failpoint::RemnantRemoved);
        self.ledger
            .write(None, |book| {
                book.release_remnant(id, node_id);
                Ok(())
            })
            .await?;
        self.failpoints.reach(Failpoint::RemnantReleased);
        Ok(())
    }

    /// Stops and removes the container of an older generation of `id`, and says whether there was one. Afterwards
    /// there is none: what has the name is of the present generation or not ours.
    pub(crate) async fn remove_older(
        &self,
        engine: &dyn Engine,
        id: &InstanceId,
    ) -> Result<bool, EngineError> {
        let name = id.container_name();
        let look = async || -> Result<Option<Container>, EngineError> {
            let seen = limited(engine.inspect(&name)).await?;
            Ok(seen.filter(|it| self.is_superseded(it)))
        };
        let Some(container) = look().await? else { return Ok(false) };
        if container.state.is_up() {
            let grace = self.settings.stop_grace;
            match tokio::time::timeout(
                grace + super::settle::VERB_TIMEOUT,
                engine.stop(&name, grace),
            )
            .await
            {
                Ok(Ok(()) | Err(EngineError::NoSuchContainer { .. })) => {}
                Ok(Err(err)) if err.is_transient() => return Err(err),
                Ok(Err(err)) => {
                    tracing::info!("it does not stop, and is removed all the same: {err}")
                }
                Err(_) => return Err(EngineError::Timeout { after: grace }),
            }
        }
        self.failpoints.reach(Failpoint::RemnantStopped);
        limited(engine.remove(&name)).await?;
        match look().await? {
            None => {}
            Some(_) => {
                let message = format!("the container `{name}` is still there after its removal");
                return Err(EngineError::Refused { message });
            }
        }
        tracing::info!("removed `{name}` of an older generation from its node");
        Ok(true)
    }

    /// Ours, and of an older generation than the record is.
    pub(crate) fn is_superseded(&self, container: &Container) -> bool {
        let Some(labels) = &container.labels else { return false };
        labels.controller_id == self.ledger.store().identity().controller_id
            && self.ledger.read(|book| {
                book.instance(&labels.instance_id)
                    .is_some_and(|it| labels.generation < it.generation)
            })
    }

    /// Before a new generation starts, the old one goes wherever its node answers, so that the two never run at once.
    /// A node that does not answer is not waited for. False: not yet.
    pub(super) async fn leave_behind(
        self: &Arc<Orch>,
        instance: &Instance,
        flight: &Flight,
    ) -> Result<bool, Error> {
        for left in &instance.remnants {
            let status = self.ledger.read(|book| book.slot(&left.node_id).map(|it| it.node.status));
            if !status.is_some_and(|it| it.may_take_instances()) {
                continue;
            }
            flight.say(format!("stopping what is left on `{}`", left.node_id));
            if let Err(err) = self.clear_remnant(&instance.id, &left.node_id).await {
                tracing::info!("what is left on `{}` is removed later: {err}", left.node_id);
                return Ok(false);
            }
        }
        Ok(true)
    }
}
