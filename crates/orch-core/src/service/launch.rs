//! Launching: reserve in one transaction, then let a flight do the rest.

use std::sync::Arc;

use orch_domain::Error;
use orch_domain::book::{Launch, Reserved};
use orch_domain::instance::{Action, Instance, InstanceState, ReasonCode, StateReason};
use orch_domain::name::InstanceId;

use crate::{Cx, Orch};

impl Orch {
    /// Reserves and starts. Returns when the reservation is durable; `wait_for` then waits for the container.
    pub async fn launch(self: &Arc<Orch>, cx: &Cx, launch: Launch) -> Result<Reserved, Error> {
        let now = self.clock.now();
        let reserved = self
            .ledger
            .write(Some(cx), |book| {
                let reserved = book.reserve(&launch, now, || self.random() as u32)?;
                reserved.ids.iter().for_each(|it| cx.audit_target(it));
                Ok(reserved)
            })
            .await?;
        reserved.ids.iter().for_each(|it| self.settle(it));
        Ok(reserved)
    }

    /// What `launch` would do, without doing it.
    pub fn try_launch(&self, launch: &Launch) -> Result<Reserved, Error> {
        let now = self.clock.now();
        self.ledger.rehearse(|book| book.reserve(launch, now, || self.random() as u32))
    }

    /// Waits until all of a launch run. When the caller withdraws meanwhile, what was launched is terminated, so that
    /// a cancelled launch leaves nothing behind; a launch that existed before is not its to cancel.
    pub async fn wait_for_launch(
        self: &Arc<Orch>,
        cx: &Cx,
        reserved: &Reserved,
    ) -> Result<Vec<Arc<Instance>>, Error> {
        let instances = match self.wait_for(cx, &reserved.ids).await {
            Err(err @ Error::Cancelled { .. }) if !reserved.existed => {
                self.undo_launch(&reserved.ids, "its launch was cancelled by the caller").await;
                return Err(err);
            }
            // Its node is lost, and the launch with it: the others do not stay.
            Err(err @ Error::NodeUnreachable { .. })
                if !reserved.existed && 1 < reserved.ids.len() =>
            {
                let reason = format!("one that was launched with it failed: {err}");
                self.undo_launch(&reserved.ids, &reason).await;
                return Err(err);
            }
            other => other?,
        };
        // What an earlier call launched is answered in its present state, whatever that is by now.
        if reserved.existed {
            return Ok(instances);
        }
        // All or none: the others do not stay when one could not be launched.
        if let Some(failed) = instances.iter().find(|it| has_failed(it)) {
            if 1 < instances.len() {
                let reason = format!("`{}`, which was launched with it, failed", failed.id);
                self.undo_launch(&reserved.ids, &reason).await;
                self.wait_for(cx, &reserved.ids).await?;
            }
            return Err(launch_error(failed));
        }
        match instances.iter().find(|it| it.state != InstanceState::Running && !is_done(it)) {
            Some(ended) => Err(launch_error(ended)),
            None => Ok(instances),
        }
    }

    async fn undo_launch(self: &Arc<Orch>, ids: &[InstanceId], reason: &str) {
        let now = self.clock.now();
        let cancelled = self
            .ledger
            .write(None, |book| {
                for id in ids {
                    book.shut_down(id, ReasonCode::LaunchCancelled.because(reason), now);
                }
                Ok(())
            })
            .await;
        if let Err(err) = cancelled {
            tracing::warn!("a launch could not be undone: {err}");
        }
        ids.iter().for_each(|it| self.settle(it));
    }

    /// Records a request about an existing instance and sees to it.
    pub async fn request(
        self: &Arc<Orch>,
        cx: &Cx,
        id: &InstanceId,
        action: Action,
    ) -> Result<(), Error> {
        let now = self.clock.now();
        cx.audit_target(id);
        self.ledger
            .write(Some(cx), |book| {
                let instance = self.visible(cx, book, id)?;
                // To end is accepted always, and done when the node is back.
                if action != Action::Terminate && instance.after(action)?.is_some() {
                    self.refuse_if_lost(book, &instance)?;
                }
                book.request(id, action, now)
            })
            .await?;
        self.settle(id);
        Ok(())
    }
}

/// Whether its launch came to nothing, and not because somebody wanted it so.
fn has_failed(instance: &Instance) -> bool {
    let is_wanted = |it: &StateReason| {
        matches!(it.code, ReasonCode::LaunchCancelled | ReasonCode::UserInitiatedShutdown)
    };
    instance.state == InstanceState::Terminated
        && instance.launched_at.is_none()
        && !instance.state_reason.as_ref().is_some_and(is_wanted)
}

/// Whether its command has ended well by itself: a job that was done before anybody could look.
pub(crate) fn is_done(instance: &Instance) -> bool {
    instance.state == InstanceState::Stopped
        && instance.state_reason.as_ref().is_some_and(|it| it.code == ReasonCode::CommandCompleted)
}

/// The error of a launch that ended otherwise than running, from the reason its record keeps.
fn launch_error(instance: &Instance) -> Error {
    // It is still there, so it was launched.
    if instance.state == InstanceState::Stopped {
        return start_error(instance);
    }
    let reason = reason_of(instance);
    let message =
        format!("`{}` was not launched: {}; nothing of it is left", instance.id, reason.message);
    match reason.code {
        ReasonCode::ImageNotFound => Error::NotFound {
            kind: "image",
            id: instance.image.to_string(),
            hint: format!("{}; `list_images` shows what the nodes have", reason.message),
        },
        ReasonCode::InvalidCommand => Error::invalid("command", message),
        ReasonCode::LaunchCancelled | ReasonCode::UserInitiatedShutdown => {
            Error::Cancelled { message }
        }
        ReasonCode::NodeUnreachable => Error::unreachable(&instance.node_id, reason.message),
        _ => Error::EngineError {
            node_id: instance.node_id.clone(),
            message,
            source: reason.message.into(),
        },
    }
}

/// The error of a start after which the instance does not run.
pub(super) fn start_error(instance: &Instance) -> Error {
    let (id, reason) = (&instance.id, reason_of(instance));
    let incorrect = |message| Error::IncorrectState {
        id: id.to_string(),
        state: instance.state.to_string(),
        message,
    };
    match reason.code {
        // It did start, and then ended by itself: the caller should look at what it wrote.
        ReasonCode::InstanceInitiatedShutdown
        | ReasonCode::CommandCompleted
        | ReasonCode::OutOfMemory
        | ReasonCode::ContainerStopped => incorrect(format!(
            "`{id}` started and ended at once: {}; `instance_logs` shows what it wrote",
            reason.message
        )),
        ReasonCode::InvalidCommand => Error::invalid("command", reason.message),
        ReasonCode::UserInitiatedShutdown => incorrect(format!(
            "`{id}` is {} again: it was {} while this call waited",
            instance.state, reason.message
        )),
        ReasonCode::NodeUnreachable => Error::unreachable(&instance.node_id, reason.message),
        _ => Error::EngineError {
            node_id: instance.node_id.clone(),
            message: format!("`{id}` did not start: {}", reason.message),
            source: reason.message.into(),
        },
    }
}

fn reason_of(instance: &Instance) -> StateReason {
    instance.state_reason.clone().unwrap_or(StateReason {
        code: ReasonCode::EngineError,
        message: format!("it is {}", instance.state),
    })
}
