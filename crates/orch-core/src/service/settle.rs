//! Brings an instance from a transitional state to where it should rest.
//!
//! The record says what to do: its state and goal were made durable before anything happened. Each step asks the
//! engine for something that may safely be asked twice, then records what was seen. So the same code runs a fresh
//! request, a repeated one, and one that an earlier process left half-done. The way up is in `up`.

mod up;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::FutureExt as _;
use orch_domain::Error;
use orch_domain::book::Book;
use orch_domain::instance::{Instance, InstanceState, ReasonCode, StateReason};
use orch_domain::name::{InstanceId, NodeId};
use tracing::Instrument;

use crate::Orch;
use crate::ports::engine::{Engine, EngineError};
use crate::ports::failpoint::Failpoint;
use crate::service::flight::Flight;

/// What one step of a flight came to.
enum Step {
    /// The record moved on; look at it again.
    Recorded,
    /// The engine did not answer or the store refused; look again after a while.
    TryLater,
}

/// Other ports are tried so often before a launch gives up.
const MAX_PORT_MOVES: u32 = 64;
/// Longer than any engine verb should take; an engine that hangs past it counts as not answering.
pub(super) const VERB_TIMEOUT: Duration = Duration::from_secs(60);

impl Orch {
    /// Sees to it that a task works on `id` until it rests.
    pub fn settle(self: &Arc<Orch>, id: &InstanceId) {
        let Some(flight) = self.flights.begin(id) else { return };
        let (orch, id) = (self.clone(), id.clone());
        let span = tracing::info_span!(parent: None, "settle", instance = %id);
        let flying = async move {
            // A bug in one step must not keep the instance from ever being worked on again: the reconciler finds it.
            if AssertUnwindSafe(orch.fly(&id, &flight)).catch_unwind().await.is_err() {
                tracing::error!("settling {id} panicked; the reconciler begins anew");
                orch.flights.end(&id);
            }
        };
        self.tracker.spawn(flying.instrument(span));
    }

    async fn fly(self: &Arc<Orch>, id: &InstanceId, flight: &Flight) {
        let mut n_failures = 0;
        loop {
            let wanted = || {
                self.ledger
                    .read(|book| book.instance(id).filter(|it| it.state.is_transitional()).cloned())
            };
            let Some(instance) = wanted() else {
                if self.flights.end_unless(id, || wanted().is_some()) {
                    return self.look_after(id, flight).await;
                }
                continue;
            };
            let step = tokio::select! {
                step = self.step(&instance, flight) => step,
                // The next start finds the record and goes on from there.
                () = self.shutdown.cancelled() => return self.flights.end(id),
            };
            match step {
                Ok(Step::Recorded) => n_failures = 0,
                Ok(Step::TryLater) => n_failures += 1,
                Err(err) => {
                    tracing::warn!("settling is put off: {err}");
                    n_failures += 1;
                }
            }
            if n_failures != 0 {
                tokio::select! {
                    () = tokio::time::sleep(self.backoff(n_failures)) => {}
                    () = flight.changed.notified() => {}
                    () = self.shutdown.cancelled() => {}
                }
            }
        }
    }

    /// A command that ends at once may do so before its start is recorded, and its event then found a flight.
    async fn look_after(self: &Arc<Orch>, id: &InstanceId, flight: &Flight) {
        let is_running = |it: &Arc<Instance>| it.state == InstanceState::Running;
        if !flight.has_ended.load(Ordering::Relaxed)
            || !self.ledger.read(|book| book.instance(id).is_some_and(is_running))
        {
            return;
        }
        tokio::select! {
            result = self.reconcile_instance(id) => if let Err(err) = result {
                tracing::debug!("{id} could not be reconciled: {err}");
            },
            () = self.shutdown.cancelled() => {}
        }
    }

    /// Doubles from 100 ms to 10 s, with jitter, so that a node that comes back is not met by all at once.
    fn backoff(&self, n_failures: u32) -> Duration {
        let millis = 100u64 << n_failures.min(7).saturating_sub(1);
        Duration::from_millis(millis.min(10_000) / 2 + self.random() % (millis.min(10_000) / 2 + 1))
    }

    async fn step(self: &Arc<Orch>, instance: &Instance, flight: &Flight) -> Result<Step, Error> {
        let engine = self.engine(&instance.node_id)?;
        match instance.state {
            InstanceState::Pending => self.step_up(instance, flight, &*engine).await,
            InstanceState::Stopping => self.step_stop(instance, flight, &*engine).await,
            InstanceState::ShuttingDown => self.step_down(instance, flight, &*engine).await,
            InstanceState::Running | InstanceState::Stopped | InstanceState::Terminated => {
                Ok(Step::Recorded)
            }
        }
    }

    /// `stopping`: make the container stand still.
    async fn step_stop(
        self: &Arc<Orch>,
        instance: &Instance,
        flight: &Flight,
        engine: &dyn Engine,
    ) -> Result<Step, Error> {
        self.failpoints.reach(Failpoint::StopRequested);
        flight.say("stopping the container");
        let grace = self.settings.stop_grace;
        match tokio::time::timeout(
            grace + VERB_TIMEOUT,
            engine.stop(&instance.id.container_name(), grace),
        )
        .await
        {
            Ok(Ok(())) => {}
            Ok(Err(EngineError::NoSuchContainer { .. })) => {
                return self.container_is_gone(instance).await;
            }
            Ok(Err(err)) => {
                tracing::info!("stopping is tried again: {err}");
                return Ok(Step::TryLater);
            }
            Err(_) => return Ok(Step::TryLater),
        }
        self.failpoints.reach(Failpoint::StopStopped);
        let now = self.clock.now();
        let is_restart = self
            .ledger
            .write(None, |book| {
                if up::is_as(book, instance) {
                    book.set_stopped(&instance.id, None, now);
                }
                Ok(book.instance(&instance.id).is_some_and(|it| it.state == InstanceState::Pending))
            })
            .await?;
        self.failpoints.reach(if is_restart {
            Failpoint::RestartStopped
        } else {
            Failpoint::StopRecorded
        });
        Ok(Step::Recorded)
    }

    /// `shutting-down`: make the container go, and free what was reserved only then.
    async fn step_down(
        self: &Arc<Orch>,
        instance: &Instance,
        flight: &Flight,
        engine: &dyn Engine,
    ) -> Result<Step, Error> {
        self.failpoints.reach(Failpoint::TerminateRequested);
        flight.say("removing the container");
        let name = instance.id.container_name();
        // Only a container with our labels is ours to remove; another of that name was there before us.
        match limited(engine.inspect(&name)).await {
            Ok(Some(container))
                if container.labels.as_ref() == Some(&self.container_labels(instance)) =>
            {
                // One that never ran has nothing to say goodbye to.
                let grace = self.settings.stop_grace;
                if instance.launched_at.is_some() && container.state.is_up() {
                    match tokio::time::timeout(grace + VERB_TIMEOUT, engine.stop(&name, grace))
                        .await
                    {
                        Ok(Ok(()) | Err(EngineError::NoSuchContainer { .. })) => {}
                        Ok(Err(err)) => {
                            tracing::info!("it does not stop, and is removed all the same: {err}")
                        }
                        Err(_) => return Ok(Step::TryLater),
                    }
                }
                self.failpoints.reach(Failpoint::TerminateStopped);
                if let Err(err) = limited(engine.remove(&name)).await {
                    tracing::info!("removing is tried again: {err}");
                    return Ok(Step::TryLater);
                }
            }
            Ok(_) => {}
            Err(_) => return Ok(Step::TryLater),
        }
        self.failpoints.reach(Failpoint::TerminateRemoved);
        let now = self.clock.now();
        self.ledger
            .write(None, |book| {
                book.set_terminated(&instance.id, None, now);
                Ok(())
            })
            .await?;
        self.failpoints.reach(Failpoint::TerminateRecorded);
        Ok(Step::Recorded)
    }

    /// Somebody removed the container behind our back: the instance ends, and what it held is free.
    async fn container_is_gone(self: &Arc<Orch>, instance: &Instance) -> Result<Step, Error> {
        let now = self.clock.now();
        self.ledger
            .write(None, |book| {
                // Of an older generation that is to be so.
                if book
                    .instance(&instance.id)
                    .is_some_and(|it| it.generation == instance.generation)
                {
                    let why = container_removed(book, &instance.node_id);
                    book.set_terminated(&instance.id, Some(why), now);
                }
                Ok(())
            })
            .await?;
        Ok(Step::Recorded)
    }
}

pub(crate) fn container_removed(book: &Book, node_id: &NodeId) -> StateReason {
    let is_simulated = book.slot(node_id).is_some_and(|it| it.node.is_simulated());
    ReasonCode::ContainerRemoved.because(match is_simulated {
        true => "its simulated container is gone: a simulated node forgets its containers when the server ends",
        false => "its container was removed on the node, not by mcp-orch",
    })
}

/// `verb`, or a timeout when the engine hangs.
pub(crate) async fn limited<T>(
    verb: impl Future<Output = Result<T, EngineError>>,
) -> Result<T, EngineError> {
    tokio::time::timeout(VERB_TIMEOUT, verb)
        .await
        .unwrap_or(Err(EngineError::Timeout { after: VERB_TIMEOUT }))
}
