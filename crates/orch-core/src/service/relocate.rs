//! Instances go to another node: because theirs is lost and they are to, or because it is drained.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use futures::{StreamExt, stream};
use orch_domain::Error;
use orch_domain::book::{Book, Moved};
use orch_domain::image::ImageRef;
use orch_domain::instance::{Instance, InstanceState, ReasonCode, StateReason};
use orch_domain::name::{InstanceId, NodeId};
use orch_domain::node::NodeStatus;

use crate::event::Subject;
use crate::ports::engine::EngineError;
use crate::service::engines::engine_error;
use crate::service::launch::{is_done, start_error};
use crate::service::nodes::Emptied;
use crate::service::settle::limited;
use crate::{Cx, Orch};

/// Instances moved at the same time.
const AT_ONCE: usize = 16;

/// What one look at the lost nodes came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rescheduled {
    pub n_moved: usize,
    /// They were to go and found no place.
    pub n_stuck: usize,
}

impl fmt::Display for Rescheduled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} instances moved from lost nodes, {} found no place",
            self.n_moved, self.n_stuck
        )
    }
}

impl Orch {
    /// Moves the instances that are to leave a node which has been lost for longer than the grace.
    pub async fn reschedule_lost(self: &Arc<Orch>) -> Rescheduled {
        let ids: Vec<(InstanceId, NodeId)> = self.ledger.read(|book| {
            let lost =
                book.slots().map(|it| &it.node.id).filter(|id| self.is_lost_for_long(book, id));
            lost.flat_map(|node| book.to_reschedule(node).into_iter().map(|id| (id, node.clone())))
                .collect()
        });
        let move_one = |(id, from): (InstanceId, NodeId)| async move {
            let why = ReasonCode::Relocated.because(format!(
                "its node `{from}` does not answer, and it is started on another node"
            ));
            // Looked at again when it is done: the node may be back, or somebody wants something else.
            let is_wanted = |book: &Book, it: &Instance| {
                it.node_id == from
                    && self.is_lost_for_long(book, &from)
                    && book.to_reschedule(&from).contains(&it.id)
            };
            let moved = self.relocate(None, &id, &why, is_wanted).await;
            (id, moved)
        };
        let moved: Vec<_> =
            stream::iter(ids.into_iter().map(move_one)).buffer_unordered(AT_ONCE).collect().await;
        let mut report = Rescheduled::default();
        let mut stuck = BTreeMap::new();
        for (id, moved) in moved {
            match moved {
                Ok(moved) => report.n_moved += usize::from(moved.is_some()),
                Err(err) => {
                    tracing::debug!("{id} found no other node: {err}");
                    stuck.insert(id, err.to_string());
                }
            }
        }
        report.n_stuck = stuck.len();
        let noted = self.ledger.write(None, |book| Ok(book.set_stuck(stuck))).await;
        for id in noted.unwrap_or_default() {
            self.events.publish(Subject::Instance(id));
        }
        report
    }

    /// Its status says so for longer than the grace, and so does the last check: not one from before a restart.
    fn is_lost_for_long(&self, book: &Book, node_id: &NodeId) -> bool {
        let Some(slot) = book.slot(node_id) else { return false };
        let grace = self.settings.reschedule_grace.as_millis() as u64;
        let last = self.health.last_check(node_id);
        slot.node.status == NodeStatus::Unreachable
            && grace <= self.clock.now().since(slot.node.status_since)
            && last.is_some_and(|it| it.status == NodeStatus::Unreachable)
    }

    /// Reserves a place on another node that has the image, or can get it, and starts the next generation there.
    /// `None`: not wanted any more.
    async fn relocate(
        self: &Arc<Orch>,
        cx: Option<&Cx>,
        id: &InstanceId,
        why: &StateReason,
        is_wanted: impl Fn(&Book, &Instance) -> bool,
    ) -> Result<Option<Moved>, Error> {
        let mut but = BTreeSet::new();
        let mut unfit = None;
        loop {
            let now = self.clock.now();
            let image = self.ledger.read(|book| book.instance(id).map(|it| it.image.clone()));
            let image = image.ok_or_else(|| Error::no_instance(id))?;
            // As in a launch: what Ray has in use weighs for those who asked for it to.
            let ray = self.ray_figures();
            let planned =
                self.ledger.rehearse(|book| book.relocate(id, why.clone(), &but, &ray, now));
            let to = match (planned, unfit.take()) {
                (Ok(it), _) => it.decision.node_id,
                // Why the last node that had room was none says more than that no other has.
                (Err(Error::InsufficientCapacity(_)), Some(err)) => return Err(err),
                (Err(err), _) => return Err(err),
            };
            // Before anything is given up: a place without the image is none.
            if let Err(err) = self.prepare(&to, &image).await {
                unfit = Some(err);
                but.insert(to);
                continue;
            }
            let moved = self
                .ledger
                .write(cx, |book| match book.instance(id) {
                    Some(it) if is_wanted(book, it) => {
                        book.relocate(id, why.clone(), &but, &ray, now).map(Some)
                    }
                    _ => Ok(None),
                })
                .await?;
            if let Some(moved) = &moved {
                tracing::warn!(
                    "{id} goes from `{}` to `{}` as generation {}",
                    moved.from,
                    moved.decision.node_id,
                    moved.generation
                );
                self.settle(id);
            }
            return Ok(moved);
        }
    }

    /// Sees to it that a node has an image.
    async fn prepare(self: &Arc<Orch>, node_id: &NodeId, image: &ImageRef) -> Result<(), Error> {
        let engine = self.engine(node_id)?;
        let prepared = async {
            if limited(engine.has_image(image)).await? {
                return Ok(());
            }
            let limit = self.settings.wait_timeout;
            tokio::time::timeout(limit, self.pull(node_id, image, |_| ()))
                .await
                .unwrap_or(Err(EngineError::Timeout { after: limit }))
                .map(drop)
        };
        prepared.await.map_err(|err| engine_error(node_id, err))
    }

    /// Moves every running instance of a node and tells what became of each, oldest first.
    pub async fn move_all(
        self: &Arc<Orch>,
        cx: &Cx,
        node_id: &NodeId,
        wait: bool,
    ) -> Result<Vec<Emptied>, Error> {
        let held: Vec<InstanceId> = self.ledger.read(|book| {
            book.slot(node_id).map(|it| it.instances.iter().cloned().collect()).unwrap_or_default()
        });
        let move_one = |id: InstanceId| async move {
            let refusal = self.move_one(cx, &id, node_id, wait).await.err();
            Emptied { id, refusal }
        };
        let moved = stream::iter(held.into_iter().map(move_one)).buffered(AT_ONCE).collect().await;
        if cx.cancel.is_cancelled() {
            return Err(Error::Cancelled {
                message: format!(
                    "the call was cancelled; `{node_id}` stays cordoned, and instances that were already moving go on"
                ),
            });
        }
        Ok(moved)
    }

    async fn move_one(
        self: &Arc<Orch>,
        cx: &Cx,
        id: &InstanceId,
        from: &NodeId,
        wait: bool,
    ) -> Result<(), Error> {
        let ids = std::slice::from_ref(id);
        let is_on_its_way = |it: &Arc<Instance>| it.state.is_transitional() && !it.is_moving();
        if wait && self.ledger.read(|book| book.instance(id).is_some_and(is_on_its_way)) {
            self.wait_for(cx, ids).await?;
        }
        let Some(before) = self.ledger.read(|book| book.instance(id).cloned()) else {
            return Ok(());
        };
        if before.state == InstanceState::Terminated || before.node_id != *from {
            return Ok(());
        }
        if before.state == InstanceState::Stopped {
            return Err(Error::IncorrectState {
                id: id.to_string(),
                state: before.state.to_string(),
                message: format!(
                    "`{id}` is stopped and stays, because its files would: start it first to have it moved without \
                     them, or terminate it"
                ),
            });
        }
        cx.audit_target(id);
        let why = ReasonCode::Relocated
            .because(format!("its node `{from}` is drained, and it is started on another node"));
        let is_still_there = |_: &Book, it: &Instance| it.node_id == *from;
        self.relocate(Some(cx), id, &why, is_still_there).await?;
        if wait {
            self.wait_for(cx, ids).await?;
        }
        match self.ledger.read(|book| book.instance(id).cloned()) {
            Some(it) if it.state == InstanceState::Stopped && !is_done(&it) => {
                Err(start_error(&it))
            }
            _ => Ok(()),
        }
    }
}
