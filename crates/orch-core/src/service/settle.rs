//! Brings an instance from a transitional state to where it should rest.
//!
//! The record says what to do: its state and goal were made durable before anything happened. Each step asks the
//! engine for something that may safely be asked twice, then records what was seen. So the same code runs a fresh
//! request, a repeated one, and one that an earlier process left half-done.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::FutureExt as _;
use orch_domain::Error;
use orch_domain::instance::{Goal, Instance, InstanceState, ReasonCode, StateReason};
use orch_domain::name::InstanceId;
use tracing::Instrument;

use crate::Orch;
use crate::ports::engine::{
    ContainerLabels, ContainerSpec, ContainerState, Engine, EngineError, PullProgress,
};
use crate::ports::failpoint::Failpoint;
use crate::service::flight::{Flight, Phase};
use crate::service::reconcile::why_it_ended;

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
const VERB_TIMEOUT: Duration = Duration::from_secs(60);

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

    /// `pending`: make the container run.
    async fn step_up(
        self: &Arc<Orch>,
        instance: &Instance,
        flight: &Flight,
        engine: &dyn Engine,
    ) -> Result<Step, Error> {
        let is_launch = instance.launched_at.is_none();
        self.failpoints.reach(if is_launch {
            Failpoint::LaunchReserved
        } else {
            Failpoint::StartRequested
        });
        let mut container_id = instance.container_id.clone();
        if is_launch {
            match self.create(instance, flight, engine).await {
                Ok(Some(id)) => container_id = Some(id),
                Ok(None) => return Ok(Step::Recorded),
                Err(err) => return self.up_failed(instance, flight, engine, err).await,
            }
            self.failpoints.reach(Failpoint::LaunchCreated);
        }
        flight.say("starting the container");
        let name = instance.id.container_name();
        let started = {
            let queue = self.flights.start_queue(&instance.node_id);
            let Some(_permit) =
                self.unless_changed(instance, flight, queue.enter(&instance.owner)).await
            else {
                return Ok(Step::Recorded);
            };
            limited(engine.start(&name)).await
        };
        if let Err(err) = started {
            return self.up_failed(instance, flight, engine, err).await;
        }
        self.failpoints.reach(if is_launch {
            Failpoint::LaunchStarted
        } else {
            Failpoint::StartStarted
        });
        let ended = self.ended_at_once(instance, engine).await;
        let now = self.clock.now();
        self.ledger
            .write(None, |book| {
                // A request to stop or terminate that came meanwhile wins; its own step follows.
                if book.instance(&instance.id).is_some_and(|it| it.state == InstanceState::Pending)
                {
                    book.set_running(&instance.id, container_id.unwrap_or_default(), now);
                    if let Some(reason) = ended {
                        book.change_instance(&instance.id, |it| it.goal = Goal::Stopped);
                        book.set_stopped(&instance.id, Some(reason), now);
                    }
                }
                Ok(())
            })
            .await?;
        self.failpoints.reach(if is_launch {
            Failpoint::LaunchRunning
        } else {
            Failpoint::StartRecorded
        });
        Ok(Step::Recorded)
    }

    /// Why a container that was just started does not run any more: its command had little to do. Nobody is told that it
    /// runs then. An engine that does not answer says nothing against it.
    async fn ended_at_once(&self, instance: &Instance, engine: &dyn Engine) -> Option<StateReason> {
        let seen = limited(engine.inspect(&instance.id.container_name())).await.ok()??;
        matches!(seen.state, ContainerState::Exited { .. }).then(|| why_it_ended(&seen.state))
    }

    /// Creates the container, pulling the image when the engine has none. `None`: not wanted any more.
    async fn create(
        self: &Arc<Orch>,
        instance: &Instance,
        flight: &Flight,
        engine: &dyn Engine,
    ) -> Result<Option<String>, EngineError> {
        let spec = self.container_spec(instance);
        flight.say("creating the container");
        // Most launches find their image there, so the question is not asked ahead.
        let missing = match limited(engine.create(&spec)).await {
            Err(EngineError::ImageNotFound { .. }) => true,
            other => return other.map(Some),
        };
        if missing {
            let phase = flight.phase.clone();
            flight.say(format!("pulling {}", instance.image));
            let report = Arc::new(move |it: PullProgress| {
                phase.send_replace(Phase {
                    message: it.message,
                    done: it.done_bytes,
                    total: it.total_bytes,
                });
            });
            match self.unless_changed(instance, flight, engine.pull(&instance.image, report)).await
            {
                None => return Ok(None),
                Some(pulled) => pulled?,
            }
            self.failpoints.reach(Failpoint::LaunchImagePresent);
        }
        flight.say("creating the container");
        limited(engine.create(&spec)).await.map(Some)
    }

    /// Waits for `work` as long as the record stays as `instance` has it.
    async fn unless_changed<T>(
        &self,
        instance: &Instance,
        flight: &Flight,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                out = &mut work => return Some(out),
                () = flight.changed.notified() => {
                    let same = self.ledger.read(|book| book.instance(&instance.id).is_some_and(|it| it.state == instance.state));
                    if !same {
                        return None;
                    }
                }
            }
        }
    }

    fn container_spec(&self, instance: &Instance) -> ContainerSpec {
        let node = self.ledger.read(|book| book.slot(&instance.node_id).map(|it| it.node.clone()));
        ContainerSpec {
            name: instance.id.container_name(),
            image: instance.image.clone(),
            command: instance.command.clone(),
            env: instance.env.clone(),
            resources: instance.resources,
            ports: instance.ports.clone(),
            publish_ip: node.map_or(std::net::Ipv4Addr::LOCALHOST.into(), |it| it.publish_ip()),
            labels: self.container_labels(instance),
            user_labels: instance
                .labels
                .iter()
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
        }
    }

    pub(crate) fn container_labels(&self, instance: &Instance) -> ContainerLabels {
        ContainerLabels {
            controller_id: self.ledger.store().identity().controller_id.clone(),
            instance_id: instance.id.clone(),
            generation: instance.generation,
            owner: instance.owner.clone(),
        }
    }

    /// What a failure on the way up means: other ports, another try, or the end of the attempt.
    async fn up_failed(
        self: &Arc<Orch>,
        instance: &Instance,
        flight: &Flight,
        engine: &dyn Engine,
        err: EngineError,
    ) -> Result<Step, Error> {
        let now = self.clock.now();
        let is_launch = instance.launched_at.is_none();
        if err.is_transient()
            && now.since(instance.state_since) < self.settings.launch_retry.as_millis() as u64
        {
            return Ok(Step::TryLater);
        }
        let reason = match err {
            EngineError::PortInUse { ports } if is_launch => {
                return self.move_ports(instance, flight, engine, ports).await;
            }
            EngineError::PortInUse { .. } => ReasonCode::PortsExhausted.because(
                "something else on the host took a port of this instance while it was stopped",
            ),
            EngineError::ImageNotFound { .. } => ReasonCode::ImageNotFound.because(err.to_string()),
            EngineError::InvalidCommand { .. } => {
                ReasonCode::InvalidCommand.because(err.to_string())
            }
            EngineError::NameTaken { .. } => ReasonCode::NameTaken.because(err.to_string()),
            EngineError::NoSuchContainer { .. } => {
                return self.container_is_gone(&instance.id).await;
            }
            err if err.is_transient() => ReasonCode::NodeUnreachable
                .because(format!("node `{}` did not answer: {err}", instance.node_id)),
            _ => ReasonCode::EngineError.because(err.to_string()),
        };
        tracing::info!("the way up ended: {}", reason.message);
        self.ledger
            .write(None, |book| {
                if book.instance(&instance.id).is_none_or(|it| it.state != InstanceState::Pending) {
                    return Ok(());
                }
                match is_launch {
                    true => book.shut_down(&instance.id, reason, now),
                    false => book.set_stopped(&instance.id, Some(reason), now),
                }
                Ok(())
            })
            .await?;
        if is_launch {
            self.failpoints.reach(Failpoint::LaunchFailed);
        }
        Ok(Step::Recorded)
    }

    /// The half-created container goes, the taken ports go into quarantine, and others are tried.
    async fn move_ports(
        self: &Arc<Orch>,
        instance: &Instance,
        flight: &Flight,
        engine: &dyn Engine,
        taken: Vec<u16>,
    ) -> Result<Step, Error> {
        let name = instance.id.container_name();
        if limited(engine.remove(&name)).await.is_err() {
            return Ok(Step::TryLater);
        }
        let now = self.clock.now();
        let until = now.plus_millis(self.settings.port_quarantine.as_millis() as u64);
        let own: Vec<u16> = instance.ports.iter().map(|it| it.host_port).collect();
        // An engine that does not say which port it was, or names one that is not ours, makes all of them suspect.
        let mut taken: Vec<u16> = taken.into_iter().filter(|it| own.contains(it)).collect();
        if taken.is_empty() {
            taken = own;
        }
        let attempt = flight.n_port_moves.fetch_add(1, Ordering::Relaxed);
        self.ledger
            .write(None, |book| {
                if book.instance(&instance.id).is_none_or(|it| it.state != InstanceState::Pending) {
                    return Ok(());
                }
                let moved = attempt <= MAX_PORT_MOVES
                    && book.move_ports(&instance.id, &taken, attempt, until, now).is_ok();
                if !moved {
                    let message =
                        format!("node `{}` has no free port left in its range", instance.node_id);
                    book.shut_down(&instance.id, ReasonCode::PortsExhausted.because(message), now);
                }
                Ok(())
            })
            .await?;
        self.failpoints.reach(Failpoint::LaunchPortsMoved);
        Ok(Step::Recorded)
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
                return self.container_is_gone(&instance.id).await;
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
                if book.instance(&instance.id).is_some_and(|it| it.state == InstanceState::Stopping)
                {
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
    async fn container_is_gone(self: &Arc<Orch>, id: &InstanceId) -> Result<Step, Error> {
        let now = self.clock.now();
        self.ledger
            .write(None, |book| {
                book.set_terminated(id, Some(container_removed()), now);
                Ok(())
            })
            .await?;
        Ok(Step::Recorded)
    }
}

pub(crate) fn container_removed() -> StateReason {
    ReasonCode::ContainerRemoved.because("its container was removed on the node, not by mcp-orch")
}

/// `verb`, or a timeout when the engine hangs.
pub(crate) async fn limited<T>(
    verb: impl Future<Output = Result<T, EngineError>>,
) -> Result<T, EngineError> {
    tokio::time::timeout(VERB_TIMEOUT, verb)
        .await
        .unwrap_or(Err(EngineError::Timeout { after: VERB_TIMEOUT }))
}
