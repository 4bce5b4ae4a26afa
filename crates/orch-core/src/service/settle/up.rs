//! The way up: the container is created where there is none, started, and its running recorded.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use orch_domain::Error;
use orch_domain::book::Book;
use orch_domain::instance::{Goal, Instance, ReasonCode, StateReason};

use super::{MAX_PORT_MOVES, Step, limited};
use crate::Orch;
use crate::ports::engine::{
    ContainerLabels, ContainerSpec, ContainerState, Engine, EngineError, PullProgress,
};
use crate::ports::failpoint::Failpoint;
use crate::service::flight::{Flight, Phase};
use crate::service::reconcile::why_it_ended;

/// What the way up is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Up {
    /// Nothing of it ever ran: when it fails, nothing stays.
    Launch,
    /// A new generation on another node: when it fails, the record stays and can be started again.
    Move,
    /// Its container is there.
    Start,
}

impl Up {
    fn of(instance: &Instance) -> Up {
        match instance.launched_at {
            None => Up::Launch,
            Some(_) if instance.is_moving() => Up::Move,
            Some(_) => Up::Start,
        }
    }

    /// Where a crash would hurt: before anything, after the container is there, after it runs, after that is recorded.
    fn failpoints(self) -> [Option<Failpoint>; 4] {
        use Failpoint::{
            LaunchCreated, LaunchReserved, LaunchRunning, LaunchStarted, RescheduleCreated,
            RescheduleReserved, RescheduleRunning, RescheduleStarted, StartRecorded,
            StartRequested, StartStarted,
        };
        match self {
            Up::Launch => [LaunchReserved, LaunchCreated, LaunchStarted, LaunchRunning].map(Some),
            Up::Move => {
                [RescheduleReserved, RescheduleCreated, RescheduleStarted, RescheduleRunning]
                    .map(Some)
            }
            Up::Start => [Some(StartRequested), None, Some(StartStarted), Some(StartRecorded)],
        }
    }
}

/// Whether the record is where it was, and in the same generation: who asked for something else meanwhile wins.
pub(super) fn is_as(book: &Book, instance: &Instance) -> bool {
    book.instance(&instance.id)
        .is_some_and(|it| it.state == instance.state && it.generation == instance.generation)
}

impl Orch {
    /// `pending`: make the container run.
    pub(super) async fn step_up(
        self: &Arc<Orch>,
        instance: &Instance,
        flight: &Flight,
        engine: &dyn Engine,
    ) -> Result<Step, Error> {
        let up = Up::of(instance);
        let reach = |n: usize| {
            if let Some(at) = up.failpoints()[n] {
                self.failpoints.reach(at);
            }
        };
        reach(0);
        if up == Up::Move && !self.leave_behind(instance, flight).await? {
            return Ok(Step::TryLater);
        }
        let mut container_id = instance.container_id.clone();
        if up != Up::Start {
            match self.create(instance, flight, engine).await {
                Ok(Some(id)) => container_id = Some(id),
                Ok(None) => return Ok(Step::Recorded),
                Err(err) => return self.up_failed(instance, flight, engine, err).await,
            }
            reach(1);
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
        reach(2);
        let ended = self.ended_at_once(instance, engine).await;
        let now = self.clock.now();
        self.ledger
            .write(None, |book| {
                // A request to stop or terminate that came meanwhile wins; its own step follows.
                if is_as(book, instance) {
                    book.set_running(&instance.id, container_id.unwrap_or_default(), now);
                    if let Some(reason) = ended {
                        book.change_instance(&instance.id, |it| it.goal = Goal::Stopped);
                        book.set_stopped(&instance.id, Some(reason), now);
                    }
                }
                Ok(())
            })
            .await?;
        reach(3);
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
            let report = move |it: PullProgress| {
                phase.send_replace(Phase {
                    message: it.message,
                    done: it.done_bytes,
                    total: it.total_bytes,
                });
            };
            let pull = self.pull(&instance.node_id, &instance.image, report);
            match self.unless_changed(instance, flight, pull).await {
                None => return Ok(None),
                Some(pulled) => drop(pulled?),
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
                    if !self.ledger.read(|book| is_as(book, instance)) {
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
            gpus: instance.gpus.clone(),
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
        let up = Up::of(instance);
        let limit = self.settings.launch_retry.as_millis() as u64;
        // One that moves has nowhere to go back to: it goes on trying, or elsewhere when this node is lost as well.
        let may_retry = up == Up::Move || now.since(instance.state_since) < limit;
        if err.is_transient() && may_retry {
            return Ok(Step::TryLater);
        }
        if matches!(err, EngineError::CutShort { .. }) && up != Up::Start && may_retry {
            // It never ran, so nothing is lost with it, and the next try creates another.
            let removed = limited(engine.remove(&instance.id.container_name())).await.is_ok();
            tracing::info!("the container is to be created anew (gone: {removed}): {err}");
            return Ok(Step::TryLater);
        }
        let reason = match err {
            EngineError::PortInUse { ports } if up != Up::Start => {
                return self.move_ports(instance, flight, engine, ports).await;
            }
            EngineError::PortInUse { .. } => ReasonCode::PortsExhausted.because(
                "something else on the host took a port of this instance while it was stopped",
            ),
            EngineError::ImageNotFound { .. } | EngineError::LoginRefused { .. } => {
                ReasonCode::ImageNotFound.because(err.to_string())
            }
            EngineError::InvalidCommand { .. } => {
                ReasonCode::InvalidCommand.because(err.to_string())
            }
            // By an older generation, perhaps: that goes, and the name is free.
            EngineError::NameTaken { .. }
                if up == Up::Move
                    && matches!(self.remove_older(engine, &instance.id).await, Ok(true)) =>
            {
                return Ok(Step::TryLater);
            }
            EngineError::NameTaken { .. } => ReasonCode::NameTaken.because(err.to_string()),
            EngineError::NoSuchContainer { .. } => {
                return self.container_is_gone(instance).await;
            }
            err if err.is_transient() => ReasonCode::NodeUnreachable
                .because(format!("node `{}` did not answer: {err}", instance.node_id)),
            _ => ReasonCode::EngineError.because(err.to_string()),
        };
        tracing::info!("the way up ended: {}", reason.message);
        self.ledger
            .write(None, |book| {
                if !is_as(book, instance) {
                    return Ok(());
                }
                match up {
                    Up::Launch => book.shut_down(&instance.id, reason, now),
                    Up::Move | Up::Start => book.set_stopped(&instance.id, Some(reason), now),
                }
                Ok(())
            })
            .await?;
        if up == Up::Launch {
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
                if !is_as(book, instance) {
                    return Ok(());
                }
                let moved = attempt <= MAX_PORT_MOVES
                    && book.move_ports(&instance.id, &taken, attempt, until, now).is_ok();
                if !moved {
                    let message =
                        format!("node `{}` has no free port left in its range", instance.node_id);
                    let reason = ReasonCode::PortsExhausted.because(message);
                    match Up::of(instance) {
                        Up::Launch => book.shut_down(&instance.id, reason, now),
                        Up::Move | Up::Start => {
                            book.set_stopped(&instance.id, Some(reason), now);
                        }
                    }
                }
                Ok(())
            })
            .await?;
        self.failpoints.reach(Failpoint::LaunchPortsMoved);
        Ok(Step::Recorded)
    }
}
