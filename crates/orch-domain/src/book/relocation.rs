//! An instance goes to another node: a new generation with a reservation of its own, and a remnant that holds what the
//! old one had until its container is seen to be gone.

use std::collections::{BTreeMap, BTreeSet};

use super::Book;
use super::node::Held;
use crate::Error;
use crate::instance::{Goal, Instance, InstanceState, ReasonCode, StateReason};
use crate::name::{InstanceId, NodeId};
use crate::node::{Node, NodeStatus};
use crate::node_loss::{OnNodeLoss, Remnant, SeenState};
use crate::placement::{self, Decision, Demand};
use crate::port::{Holder, PortBinding, PortRequest};
use crate::ray::RayFigures;
use crate::time::Timestamp;

/// Where an instance goes, and as which generation.
#[derive(Clone, Debug)]
pub struct Moved {
    pub from: NodeId,
    pub decision: Decision,
    pub generation: u32,
}

impl Instance {
    /// It runs, is being restarted, or was on its way to run elsewhere.
    fn may_move(&self) -> bool {
        match self.state {
            InstanceState::Running => true,
            InstanceState::Stopping => self.goal == Goal::Running,
            InstanceState::Pending => self.is_moving(),
            _ => false,
        }
    }

    /// What it holds on that node, now or still.
    pub(super) fn ports_on<'a>(
        &'a self,
        node_id: &'a NodeId,
    ) -> impl Iterator<Item = &'a PortBinding> {
        let own = (self.state.holds_reservation() && self.node_id == *node_id)
            .then_some(&self.ports)
            .into_iter();
        let left =
            self.remnants.iter().filter(move |it| it.node_id == *node_id).map(|it| &it.ports);
        own.chain(left).flatten()
    }
}

impl Book {
    /// Starts the next generation on another node than this one, those that still have a remnant of it, and `but`. Its
    /// quota counts once, as before; capacity and ports are held on both nodes. Only an instance that runs, is
    /// being restarted, or was on its way to another node, moves.
    pub fn relocate(
        &mut self,
        id: &InstanceId,
        why: StateReason,
        but: &BTreeSet<NodeId>,
        ray: &RayFigures,
        now: Timestamp,
    ) -> Result<Moved, Error> {
        let instance = self.instances.get(id).ok_or_else(|| Error::no_instance(id))?.clone();
        if !instance.may_move() {
            return Err(Error::IncorrectState {
                id: id.to_string(),
                state: instance.state.to_string(),
                message: format!("`{id}` is {}, and only a running instance moves", instance.state),
            });
        }
        let wanted: Vec<PortRequest> = instance
            .ports
            .iter()
            .map(|it| PortRequest { container_port: it.container_port, protocol: it.protocol })
            .collect();
        let demand = Demand {
            resources: instance.resources,
            n_ports: wanted.len(),
            node_id: None,
            role: instance.wishes.role,
            tags: instance.wishes.tags.clone(),
            strategy: instance.wishes.strategy,
            ray: ray.clone(),
        };
        // A second container of one name would be taken for the first.
        let had = |node: &NodeId| {
            *node == instance.node_id || instance.remnants.iter().any(|it| it.node_id == *node)
        };
        // What runs for real does not end up on a simulated node because all real ones are lost.
        let is_real = self.nodes.get(&instance.node_id).is_some_and(|it| !it.node.is_simulated());
        let fits = |it: &Node| !(is_real && demand.tags.is_empty() && it.is_simulated());
        let elsewhere = self
            .candidates(demand.n_ports)
            .filter(|it| !had(&it.node.id) && !but.contains(&it.node.id) && fits(it.node));
        let n_elsewhere = elsewhere.clone().count();
        let decision = placement::place(elsewhere, &demand).map_err(|mut it| {
            if n_elsewhere == 0 {
                it.reasons = vec!["there is no other node that it could go to".to_owned()];
            }
            Error::InsufficientCapacity(Box::new(it))
        })?;
        let to = &decision.node_id;
        let ports = self.choose_ports(to, &wanted, self.first_to_try(to), now)?;
        let gpus = self.choose_gpus(to, demand.resources.gpu)?;
        let generation = instance.generation + 1;
        let to = to.clone();
        self.change_instance(id, |it| {
            let resources = it.resources;
            it.remnants.push(Remnant {
                node_id: std::mem::replace(&mut it.node_id, to),
                generation: std::mem::replace(&mut it.generation, generation),
                resources,
                ports: std::mem::replace(&mut it.ports, ports),
                gpus: std::mem::replace(&mut it.gpus, gpus),
                since: now,
            });
            it.container_id = None;
            it.goal = Goal::Running;
            it.enter(InstanceState::Pending, Some(why), now);
            it.state_since = now;
        });
        Ok(Moved { from: instance.node_id.clone(), decision, generation })
    }

    /// Its container on that node was seen to be gone: what it held there is free.
    pub fn release_remnant(&mut self, id: &InstanceId, node_id: &NodeId) {
        let has_one = |it: &Instance| it.remnants.iter().any(|it| it.node_id == *node_id);
        if self.instances.get(id).is_some_and(|it| has_one(it)) {
            self.change_instance(id, |it| it.remnants.retain(|it| it.node_id != *node_id));
        }
    }

    /// What instances that moved away left on a node.
    pub fn remnants_on<'a>(
        &'a self,
        node_id: &'a NodeId,
    ) -> impl Iterator<Item = (&'a InstanceId, &'a Remnant)> {
        let ids = self.nodes.get(node_id).into_iter().flat_map(|it| &it.remnants);
        ids.filter_map(|id| self.instances.get(id)).flat_map(move |instance| {
            let here = instance.remnants.iter().filter(move |it| it.node_id == *node_id);
            here.map(move |it| (&instance.id, it))
        })
    }

    /// The running instances that go elsewhere when `node_id` stays lost.
    pub fn to_reschedule(&self, node_id: &NodeId) -> Vec<InstanceId> {
        let wants = |it: &Instance| it.on_node_loss == OnNodeLoss::Reschedule && it.may_move();
        let ids = self.nodes.get(node_id).into_iter().flat_map(|it| &it.instances);
        ids.filter(|id| self.instances.get(*id).is_some_and(|it| wants(it))).cloned().collect()
    }

    /// Replaces what is known of instances that could not move, and returns those of which it changed.
    pub fn set_stuck(&mut self, stuck: BTreeMap<InstanceId, String>) -> Vec<InstanceId> {
        let old = std::mem::replace(&mut self.stuck, stuck);
        let ids: BTreeSet<&InstanceId> = old.keys().chain(self.stuck.keys()).collect();
        ids.into_iter().filter(|id| old.get(*id) != self.stuck.get(*id)).cloned().collect()
    }

    /// The state that callers see.
    pub fn seen_state(&self, instance: &Instance) -> SeenState {
        let node = self.nodes.get(&instance.node_id);
        SeenState::of(instance.state, node.map(|it| it.node.status))
    }

    /// Why it is in the state that callers see.
    pub fn seen_reason(&self, instance: &Instance) -> Option<StateReason> {
        let node = self.nodes.get(&instance.node_id).map(|it| &it.node);
        let lost = node.filter(|it| it.status == NodeStatus::Unreachable);
        match (lost, self.seen_state(instance)) {
            (Some(node), SeenState::Unreachable) => Some(self.why_unreachable(instance, node)),
            (Some(node), SeenState::ShuttingDown) => instance.state_reason.clone().map(|it| {
                let message = format!(
                    "{}; its node `{}` has not answered since {}, and it ends when that is back",
                    it.message, node.id, node.status_since
                );
                StateReason { message, ..it }
            }),
            _ => instance.state_reason.clone(),
        }
    }

    fn why_unreachable(&self, instance: &Instance, node: &Node) -> StateReason {
        let moves = instance.on_node_loss == OnNodeLoss::Reschedule && instance.may_move();
        let then = match self.stuck.get(&instance.id) {
            Some(why) => format!("it is to go to another node, which is tried again: {why}"),
            None if moves => "it goes to another node when that lasts".to_owned(),
            None => "it keeps all it holds, and shows again what it does when the node is back"
                .to_owned(),
        };
        ReasonCode::NodeUnreachable.because(format!(
            "its node `{}` has not answered since {}; it was {} then; {then}",
            node.id, node.status_since, instance.state
        ))
    }

    pub(super) fn check_holds(
        &self,
        it: &Instance,
        node_id: &NodeId,
        held: &Held<'_>,
    ) -> Result<(), String> {
        let slot = self.nodes.get(node_id);
        for gpu in held.gpus {
            let holder = slot.and_then(|slot| slot.gpus.get(gpu));
            if holder != Some(&it.id) {
                return Err(format!("GPU {gpu} of {node_id} is held by {holder:?}, not {}", it.id));
            }
        }
        if held.gpus.len() != held.resources.gpu as usize {
            return Err(format!("{} holds GPUs {:?} of {}", it.id, held.gpus, held.resources.gpu));
        }
        for port in held.ports {
            let holder = slot.and_then(|slot| slot.ports.get(&port.host_port));
            if holder != Some(&Holder::Instance(it.id.clone())) {
                return Err(format!(
                    "port {} of {node_id} is held by {holder:?}, not {}",
                    port.host_port, it.id
                ));
            }
        }
        Ok(())
    }

    pub(super) fn check_remnants(&self, it: &Instance) -> Result<(), String> {
        let mut nodes = BTreeSet::new();
        for left in &it.remnants {
            self.check_holds(it, &left.node_id, &Held::by_remnant(left))?;
            if it.generation <= left.generation {
                return Err(format!("{} left a generation that is not older", it.id));
            }
            if it.state.holds_reservation() && left.node_id == it.node_id
                || !nodes.insert(&left.node_id)
            {
                return Err(format!("{} is on {} twice", it.id, left.node_id));
            }
            let is_listed =
                self.nodes.get(&left.node_id).is_some_and(|slot| slot.remnants.contains(&it.id));
            if !is_listed {
                return Err(format!("{} does not list what {} left there", left.node_id, it.id));
            }
        }
        Ok(())
    }
}
