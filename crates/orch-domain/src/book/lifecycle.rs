//! Instances that exist: what users ask of them, and what is seen to have become of them.

use std::sync::Arc;

use super::Book;
use crate::Error;
use crate::instance::{Action, Goal, Instance, InstanceState, ReasonCode, StateReason};
use crate::name::InstanceId;
use crate::port::PortRequest;
use crate::time::Timestamp;

/// How many records were forgotten.
pub type Expired = usize;

/// Terminated instances stay listed for so long.
const TERMINATED_KEPT_MS: u64 = 60 * 60 * 1000;

impl Book {
    /// Changes one record. `None`: it is gone.
    pub fn change_instance(
        &mut self,
        id: &InstanceId,
        change: impl FnOnce(&mut Instance),
    ) -> Option<Arc<Instance>> {
        let mut instance = (**self.instances.get(id)?).clone();
        change(&mut instance);
        self.put_instance(instance);
        self.instances.get(id).cloned()
    }

    /// Records what a user wants next. The answer says whether anything changed.
    pub fn request(
        &mut self,
        id: &InstanceId,
        action: Action,
        now: Timestamp,
    ) -> Result<bool, Error> {
        let instance = self.instances.get(id).ok_or_else(|| Error::no_instance(id))?;
        let Some((state, goal)) = instance.after(action)? else { return Ok(false) };
        let reason = match action {
            Action::Stop | Action::Terminate => Some(
                ReasonCode::UserInitiatedShutdown
                    .because(format!("{} on request of its user", describe(action))),
            ),
            Action::Start | Action::Restart => None,
        };
        self.change_instance(id, |it| {
            it.goal = goal;
            it.enter(state, reason, now);
        });
        Ok(true)
    }

    /// Its container runs.
    pub fn set_running(&mut self, id: &InstanceId, container_id: String, now: Timestamp) {
        self.change_instance(id, |it| {
            it.container_id = Some(container_id);
            it.launched_at = it.launched_at.or(Some(now));
            it.goal = Goal::Running;
            it.enter(InstanceState::Running, None, now);
        });
    }

    /// Its container is there and does not run. A restart goes on to `pending`.
    pub fn set_stopped(&mut self, id: &InstanceId, reason: Option<StateReason>, now: Timestamp) {
        self.change_instance(id, |it| {
            if it.state == InstanceState::Stopping && it.goal == Goal::Running {
                it.enter(InstanceState::Pending, None, now);
            } else {
                let reason = reason.or_else(|| it.state_reason.clone());
                it.goal = Goal::Stopped;
                it.enter(InstanceState::Stopped, reason, now);
            }
        });
    }

    /// It has to go, whatever it was doing. Keeps the first reason: what follows from it is not news.
    pub fn shut_down(&mut self, id: &InstanceId, reason: StateReason, now: Timestamp) {
        self.change_instance(id, |it| {
            if !matches!(it.state, InstanceState::ShuttingDown | InstanceState::Terminated) {
                it.goal = Goal::Terminated;
                it.enter(InstanceState::ShuttingDown, Some(reason), now);
            }
        });
    }

    /// Its container was seen to be gone: only now are its quota, capacity and ports free.
    pub fn set_terminated(&mut self, id: &InstanceId, reason: Option<StateReason>, now: Timestamp) {
        self.change_instance(id, |it| {
            if it.state != InstanceState::Terminated {
                let reason = reason.or_else(|| it.state_reason.clone());
                it.goal = Goal::Terminated;
                it.terminated_at = Some(now);
                it.enter(InstanceState::Terminated, reason, now);
            }
        });
    }

    /// The host turned out to use one of the instance's ports: that port goes into quarantine until `until`, and all
    /// ports of the instance move on, further with every `attempt`, so that a long run of taken ports is passed soon.
    pub fn move_ports(
        &mut self,
        id: &InstanceId,
        taken: &[u16],
        attempt: u32,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<(), Error> {
        let instance = self.instances.get(id).ok_or_else(|| Error::no_instance(id))?.clone();
        let wanted: Vec<PortRequest> = instance
            .ports
            .iter()
            .map(|it| PortRequest { container_port: it.container_port, protocol: it.protocol })
            .collect();
        // Free its own ports first, then quarantine, then choose.
        self.change_instance(id, |it| it.ports.clear());
        for port in taken {
            self.quarantine_port(&instance.node_id, *port, until);
        }
        let last = taken.iter().copied().max().unwrap_or(self.port_range.first());
        let start = last.saturating_add(1 << attempt.min(7));
        let ports = self.choose_ports(&instance.node_id, &wanted, start, now)?;
        self.change_instance(id, |it| it.ports = ports);
        Ok(())
    }

    /// Forgets terminated instances after an hour, but none that may still have a container somewhere.
    pub fn expire_terminated(&mut self, now: Timestamp) -> Expired {
        let over: Vec<InstanceId> = self
            .instances
            .values()
            .filter(|it| it.remnants.is_empty())
            .filter(|it| it.terminated_at.is_some_and(|at| TERMINATED_KEPT_MS <= now.since(at)))
            .map(|it| it.id.clone())
            .collect();
        for id in &over {
            self.remove_instance(id);
        }
        over.len()
    }
}

fn describe(action: Action) -> &'static str {
    match action {
        Action::Stop => "stopped",
        Action::Start => "started",
        Action::Restart => "restarted",
        Action::Terminate => "terminated",
    }
}
