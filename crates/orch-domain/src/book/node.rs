//! Nodes in the book: register, change, remove, and the ports their hosts turn out to use.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::change::Undo;
use super::{Book, Slot};
use crate::Error;
use crate::instance::Instance;
use crate::instance::ReasonCode;
use crate::name::{InstanceId, NodeId};
use crate::node::{EngineConfig, Node};
use crate::node_loss::Remnant;
use crate::port::{Holder, PortBinding};
use crate::resource::Resources;
use crate::time::Timestamp;

/// What one generation of an instance holds on one node.
pub(super) struct Held<'a> {
    pub(super) resources: &'a Resources,
    pub(super) ports: &'a [PortBinding],
    pub(super) gpus: &'a [u32],
}

impl<'a> Held<'a> {
    pub(super) fn by(instance: &'a Instance) -> Held<'a> {
        Held { resources: &instance.resources, ports: &instance.ports, gpus: &instance.gpus }
    }

    pub(super) fn by_remnant(remnant: &'a Remnant) -> Held<'a> {
        Held { resources: &remnant.resources, ports: &remnant.ports, gpus: &remnant.gpus }
    }
}

impl Slot {
    pub(super) fn empty(node: Arc<Node>) -> Slot {
        Slot {
            node,
            used: Resources::default(),
            instances: BTreeSet::new(),
            ports: BTreeMap::new(),
            remnants: BTreeSet::new(),
            gpus: BTreeMap::new(),
        }
    }

    pub(super) fn hold(&mut self, id: &InstanceId, held: &Held<'_>) {
        self.used = self.used.plus(held.resources);
        for port in held.ports {
            self.ports.insert(port.host_port, Holder::Instance(id.clone()));
        }
        self.gpus.extend(held.gpus.iter().map(|gpu| (*gpu, id.clone())));
    }

    pub(super) fn let_go(&mut self, id: &InstanceId, held: &Held<'_>) {
        self.used = self.used.minus(held.resources);
        for port in held.ports {
            if self.ports.get(&port.host_port) == Some(&Holder::Instance(id.clone())) {
                self.ports.remove(&port.host_port);
            }
        }
        self.gpus.retain(|gpu, holder| holder != id || !held.gpus.contains(gpu));
    }

    /// An error when another holds one of its ports or GPUs already.
    pub(super) fn refuse_second_holder(
        &self,
        id: &InstanceId,
        held: &Held<'_>,
    ) -> Result<(), String> {
        let is_held =
            |it: &&PortBinding| matches!(self.ports.get(&it.host_port), Some(Holder::Instance(_)));
        if let Some(it) = held.ports.iter().find(is_held) {
            return Err(format!(
                "port {} of node {} has two holders, one is {id}",
                it.host_port, self.node.id
            ));
        }
        match held.gpus.iter().find(|it| self.gpus.contains_key(it)) {
            None => Ok(()),
            Some(it) => {
                Err(format!("GPU {it} of node {} has two holders, one is {id}", self.node.id))
            }
        }
    }
}

impl Book {
    pub fn add_node(&mut self, node: Node) -> Result<(), Error> {
        if self.nodes.contains_key(&node.id) {
            return Err(Error::conflict(format!(
                "there is already a node `{}`; choose another id, or change it with `update_node`",
                node.id
            )));
        }
        self.refuse_shared_engine(&node)?;
        self.put_node(node);
        Ok(())
    }

    /// Another node with the very same engine.
    pub fn node_with_engine(&self, engine: &EngineConfig, but: &NodeId) -> Option<&Slot> {
        self.nodes.values().find(|it| it.node.id != *but && it.node.engine.is_same_engine(engine))
    }

    /// The containers stay behind on the old engine, and would look as if somebody had removed them.
    fn check_engine_change(&self, slot: &Slot, node: &Node) -> Result<(), Error> {
        let stays = match (&slot.node.engine, &node.engine) {
            (EngineConfig::Sim(_), EngineConfig::Sim(_)) => true,
            (old, new) => old.is_same_engine(new),
        };
        if !stays && !slot.remnants.is_empty() {
            return Err(Error::conflict(format!(
                "the present engine of node `{}` may still have what {} instances that moved away left there; it goes \
                 when the engine answers",
                node.id,
                slot.remnants.len()
            )));
        }
        if !stays && !slot.instances.is_empty() {
            return Err(Error::conflict(format!(
                "node `{}` has {} instances on its present engine; terminate them before it gets another",
                node.id,
                slot.instances.len()
            )));
        }
        self.refuse_shared_engine(node)
    }

    fn refuse_shared_engine(&self, node: &Node) -> Result<(), Error> {
        match self.node_with_engine(&node.engine, &node.id) {
            Some(other) => Err(Error::conflict(format!(
                "node `{}` already uses that engine; an engine belongs to one node",
                other.node.id
            ))),
            None => Ok(()),
        }
    }

    pub fn change_node(
        &mut self,
        id: &NodeId,
        change: impl FnOnce(&mut Node),
    ) -> Result<Arc<Node>, Error> {
        let slot = self.nodes.get(id).ok_or_else(|| Error::no_node(id))?;
        let mut node = (*slot.node).clone();
        change(&mut node);
        if slot.node.engine != node.engine {
            self.check_engine_change(slot, &node)?;
        }
        self.put_node(node);
        Ok(self.nodes[id].node.clone())
    }

    /// Gives up a node that will not come back: its instances end, and what they, and others that had moved away, held
    /// there is free. Returns the ids of those that ended.
    pub fn abandon_node(&mut self, id: &NodeId, now: Timestamp) -> Result<Vec<InstanceId>, Error> {
        let slot = self.nodes.get(id).ok_or_else(|| Error::no_node(id))?;
        let held: Vec<InstanceId> = slot.instances.iter().cloned().collect();
        let left: Vec<InstanceId> = slot.remnants.iter().cloned().collect();
        for instance in &held {
            let reason = ReasonCode::NodeLost.because(format!("its node `{id}` was given up"));
            self.set_terminated(instance, Some(reason), now);
        }
        for instance in &left {
            self.release_remnant(instance, id);
        }
        self.remove_node(id)?;
        Ok(held)
    }

    /// Refused while the node holds instances: their containers would be nobody's.
    pub fn remove_node(&mut self, id: &NodeId) -> Result<(), Error> {
        let slot = self.nodes.get(id).ok_or_else(|| Error::no_node(id))?;
        if !slot.instances.is_empty() {
            return Err(Error::conflict(format!(
                "node `{id}` still holds instances ({}); empty it first with `drain_node` and `action=move` or \
                 `action=terminate`, or give them up with `force=true` when the machine is lost",
                slot.instances.len()
            )));
        }
        if !slot.remnants.is_empty() {
            return Err(Error::conflict(format!(
                "node `{id}` may still have what {} instances that moved away left there; that goes as soon as the node \
                 answers, or is given up with `force=true` when the machine is lost",
                slot.remnants.len()
            )));
        }
        let ports: Vec<u16> = slot.ports.keys().copied().collect();
        for port in ports {
            self.set_quarantine(id, port, None);
        }
        let old = self.nodes.remove(id).map(|it| it.node);
        self.journal.push(Undo::Node(id.clone(), old));
        Ok(())
    }

    /// Something that is not ours listens on `port` of the host. Not offered again before `until`.
    pub fn quarantine_port(&mut self, id: &NodeId, port: u16, until: Timestamp) {
        self.set_quarantine(id, port, Some(Holder::Quarantine { until }));
    }

    /// Forgets quarantines that have run out.
    pub fn release_quarantines(&mut self, now: Timestamp) -> usize {
        let over: Vec<(NodeId, u16)> = self
            .nodes
            .iter()
            .flat_map(|(id, slot)| slot.ports.iter().map(move |(port, holder)| (id, port, holder)))
            .filter(
                |(_, _, holder)| matches!(holder, Holder::Quarantine { until } if *until <= now),
            )
            .map(|(id, port, _)| (id.clone(), *port))
            .collect();
        for (id, port) in &over {
            self.set_quarantine(id, *port, None);
        }
        over.len()
    }

    fn set_quarantine(&mut self, id: &NodeId, port: u16, holder: Option<Holder>) {
        let Some(slot) = self.nodes.get_mut(id) else { return };
        // An instance that holds the port keeps it; quarantine is for ports that nobody here has.
        if let Some(Holder::Instance(_)) = slot.ports.get(&port) {
            return;
        }
        let old = match holder {
            Some(it) => slot.ports.insert(port, it),
            None => slot.ports.remove(&port),
        };
        self.journal.push(Undo::Quarantine(id.clone(), port, old));
    }

    pub(super) fn put_node(&mut self, node: Node) {
        let id = node.id.clone();
        let node = Arc::new(node);
        let old = match self.nodes.get_mut(&id) {
            Some(slot) => Some(std::mem::replace(&mut slot.node, node)),
            None => {
                self.nodes.insert(id.clone(), Slot::empty(node));
                None
            }
        };
        self.journal.push(Undo::Node(id, old));
    }
}
