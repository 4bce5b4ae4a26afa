//! Everything that is reserved or registered, in memory, with the rules that span records.
//!
//! Invariants, kept by `put_instance` and `remove_instance` alone and asserted by `check`:
//! a host port of a node has one holder, and so has a GPU; the reservations of a node add up to `Slot::used`; what a user holds adds up
//! to its `Usage`. A mutation runs inside `transaction`: refused, it leaves the book as it was; accepted, it tells the
//! exact changes that must become durable together.

mod change;
mod grant;
mod launch;
mod lifecycle;
mod node;
mod registry;
mod relocation;
mod user;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

pub use change::{Change, Changes, Replaced, Rows};
pub use launch::{Launch, Reserved};
pub use lifecycle::Expired;
pub use relocation::Moved;
pub use user::no_user;

use crate::Error;
use crate::grant::{Grant, GrantKey};
use crate::instance::Instance;
use crate::name::{ApiKeyId, ClientToken, InstanceId, NodeId, UserId};
use crate::node::Node;
use crate::placement::Candidate;
use crate::port::{Holder, PortRange};
use crate::registry::{RegistryCredential, RegistryHost};
use crate::resource::Resources;
use crate::user::{ApiKey, Usage, User};
use change::Undo;
use node::Held;

pub struct Book {
    port_range: PortRange,
    instances: BTreeMap<InstanceId, Arc<Instance>>,
    nodes: BTreeMap<NodeId, Slot>,
    users: BTreeMap<UserId, Arc<User>>,
    api_keys: BTreeMap<ApiKeyId, Arc<ApiKey>>,
    registry_credentials: BTreeMap<RegistryHost, Arc<RegistryCredential>>,
    grants: BTreeMap<GrantKey, Arc<Grant>>,
    usage: HashMap<UserId, Usage>,
    by_owner: HashMap<UserId, BTreeSet<InstanceId>>,
    by_token: HashMap<(UserId, ClientToken), BTreeSet<InstanceId>>,
    /// Why instances that were to move could not. Not stored: the next attempt finds out again.
    stuck: BTreeMap<InstanceId, String>,
    journal: Vec<Undo>,
}

/// A node and what is given out of it.
pub struct Slot {
    pub node: Arc<Node>,
    pub used: Resources,
    pub instances: BTreeSet<InstanceId>,
    /// Of this node, by instances of it and by what instances that moved away left behind.
    pub ports: BTreeMap<u16, Holder>,
    /// Instances that moved away and whose container has not been seen to be gone.
    pub remnants: BTreeSet<InstanceId>,
    /// Who has which GPU, by its index.
    pub gpus: BTreeMap<u32, InstanceId>,
}

impl Slot {
    pub fn free(&self) -> Resources {
        self.node.capacity.minus(&self.used)
    }

    /// Indices below `n_gpus` that nobody holds, lowest first.
    fn free_gpus(&self, n_gpus: u32) -> impl Iterator<Item = u32> {
        (0..n_gpus).filter(|it| !self.gpus.contains_key(it))
    }
}

impl Book {
    pub fn new(port_range: PortRange) -> Book {
        Book {
            port_range,
            instances: BTreeMap::new(),
            nodes: BTreeMap::new(),
            users: BTreeMap::new(),
            api_keys: BTreeMap::new(),
            registry_credentials: BTreeMap::new(),
            grants: BTreeMap::new(),
            usage: HashMap::new(),
            by_owner: HashMap::new(),
            by_token: HashMap::new(),
            stuck: BTreeMap::new(),
            journal: Vec::new(),
        }
    }

    /// Builds the book from what is stored; an error names the first contradiction found.
    pub fn load(port_range: PortRange, rows: Rows) -> Result<Book, String> {
        let mut book = Book::new(port_range);
        for node in rows.nodes {
            book.put_node(node);
        }
        for (node_id, port, holder) in rows.ports {
            if let Holder::Quarantine { .. } = holder
                && let Some(slot) = book.nodes.get_mut(&node_id)
            {
                slot.ports.insert(port, holder);
            }
        }
        for user in rows.users {
            book.put_user(user);
        }
        for key in rows.api_keys {
            book.put_api_key(key);
        }
        for credential in rows.registry_credentials {
            book.set_registry_credential(credential);
        }
        for grant in rows.grants {
            book.put_grant(grant);
        }
        // Rows from before GPUs were given out by index say how many they hold and not which: they come last and get
        // what is left.
        let (told, untold): (Vec<Instance>, Vec<Instance>) =
            rows.instances.into_iter().partition(|it| !it.gpus.is_empty() || it.resources.gpu == 0);
        for mut instance in told.into_iter().chain(untold) {
            if instance.state.holds_reservation() {
                let Some(slot) = book.nodes.get(&instance.node_id) else {
                    return Err(format!(
                        "instance {} is on node {}, which is not stored",
                        instance.id, instance.node_id
                    ));
                };
                if instance.gpus.is_empty() {
                    instance.gpus =
                        slot.free_gpus(u32::MAX).take(instance.resources.gpu as usize).collect();
                }
                slot.refuse_second_holder(&instance.id, &Held::by(&instance))?;
            }
            for remnant in &instance.remnants {
                let Some(slot) = book.nodes.get(&remnant.node_id) else {
                    return Err(format!(
                        "instance {} left something on node {}, which is not stored",
                        instance.id, remnant.node_id
                    ));
                };
                slot.refuse_second_holder(&instance.id, &Held::by_remnant(remnant))?;
            }
            book.put_instance(instance);
        }
        book.journal.clear();
        Ok(book)
    }

    /// Runs `work` on the book. Refused: everything is as before. Accepted: the changes to store, in one piece, and what
    /// they tell.
    pub fn transaction<T>(
        &mut self,
        work: impl FnOnce(&mut Book) -> Result<T, Error>,
    ) -> Result<(T, Changes), Error> {
        self.step(work).map(|(out, changes, _)| (out, changes))
    }

    /// As `transaction`, with what the changes replaced: until they are durable they may have to go again.
    pub fn step<T>(
        &mut self,
        work: impl FnOnce(&mut Book) -> Result<T, Error>,
    ) -> Result<(T, Changes, Replaced), Error> {
        debug_assert!(self.journal.is_empty(), "transactions do not nest");
        match work(self) {
            Ok(out) => {
                let journal = std::mem::take(&mut self.journal);
                Ok((out, change::changes(self, &journal), Replaced(journal)))
            }
            Err(err) => {
                self.take_back();
                Err(err)
            }
        }
    }

    /// Runs `work` and takes back all it did: what it would answer.
    pub fn rehearse<T>(
        &mut self,
        work: impl FnOnce(&mut Book) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let out = work(self);
        self.take_back();
        out
    }

    /// Takes back a step. Only the last one that was not taken back can be.
    pub fn revert(&mut self, replaced: Replaced) {
        debug_assert!(self.journal.is_empty(), "nothing is under way");
        self.journal = replaced.0;
        self.take_back();
    }

    fn take_back(&mut self) {
        while let Some(undo) = self.journal.pop() {
            undo.apply(self);
        }
        // Undoing goes through the same paths as doing, which write the journal too.
        self.journal.clear();
    }

    pub fn port_range(&self) -> PortRange {
        self.port_range
    }

    pub fn instance(&self, id: &InstanceId) -> Option<&Arc<Instance>> {
        self.instances.get(id)
    }

    /// All instances after `id`, oldest first.
    pub fn instances_after<'a>(
        &'a self,
        id: Option<&InstanceId>,
    ) -> impl Iterator<Item = &'a Arc<Instance>> + use<'a> {
        use std::ops::Bound::{Excluded, Unbounded};
        self.instances
            .range::<InstanceId, _>((id.map_or(Unbounded, Excluded), Unbounded))
            .map(|(_, it)| it)
    }

    /// The instances of one owner, or of all, after `id`, oldest first.
    pub fn instances_from<'a>(
        &'a self,
        owner: Option<&UserId>,
        id: Option<&InstanceId>,
    ) -> Box<dyn Iterator<Item = &'a Arc<Instance>> + 'a> {
        use std::ops::Bound::{Excluded, Unbounded};
        let Some(owner) = owner else { return Box::new(self.instances_after(id)) };
        let Some(ids) = self.by_owner.get(owner) else { return Box::new(std::iter::empty()) };
        let ids = ids.range::<InstanceId, _>((id.map_or(Unbounded, Excluded), Unbounded));
        Box::new(ids.filter_map(|it| self.instances.get(it)))
    }

    /// How many instances one owner has, or all.
    pub fn n_instances(&self, owner: Option<&UserId>) -> usize {
        match owner {
            Some(owner) => self.by_owner.get(owner).map_or(0, BTreeSet::len),
            None => self.instances.len(),
        }
    }

    pub fn slot(&self, id: &NodeId) -> Option<&Slot> {
        self.nodes.get(id)
    }

    pub fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.nodes.values()
    }

    pub fn user(&self, id: &UserId) -> Option<&Arc<User>> {
        self.users.get(id)
    }

    pub fn users(&self) -> impl Iterator<Item = &Arc<User>> {
        self.users.values()
    }

    pub fn api_key(&self, id: &ApiKeyId) -> Option<&Arc<ApiKey>> {
        self.api_keys.get(id)
    }

    pub fn api_keys(&self) -> impl Iterator<Item = &Arc<ApiKey>> {
        self.api_keys.values()
    }

    pub fn usage(&self, user: &UserId) -> Usage {
        self.usage.get(user).copied().unwrap_or_default()
    }

    /// As placement sees the nodes for a launch with `n_ports`.
    fn candidates(&self, n_ports: usize) -> impl Iterator<Item = Candidate<'_>> + Clone {
        self.nodes.values().map(move |slot| Candidate {
            node: &slot.node,
            used: slot.used,
            n_instances: slot.instances.len() as u32,
            n_free_ports: self.n_free_ports(slot, n_ports),
        })
    }

    /// Exact only where it is less than `enough`.
    fn n_free_ports(&self, slot: &Slot, enough: usize) -> usize {
        let at_least = self.port_range.len().saturating_sub(slot.ports.len());
        if enough <= at_least {
            return at_least;
        }
        // A node may still hold ports of another range than the present one.
        let held = slot.ports.range(self.port_range.first()..=self.port_range.last());
        self.port_range.len() - held.count()
    }

    /// Inserts or replaces; all that is derived from instances follows here and nowhere else.
    fn put_instance(&mut self, instance: Instance) {
        let old = self.take_instance(&instance.id.clone());
        let instance = Arc::new(instance);
        self.journal.push(Undo::Instance(instance.id.clone(), old));
        self.enter_instance(instance);
    }

    fn remove_instance(&mut self, id: &InstanceId) {
        let old = self.take_instance(id);
        self.journal.push(Undo::Instance(id.clone(), old));
    }

    fn enter_instance(&mut self, instance: Arc<Instance>) {
        let it = &instance;
        self.by_owner.entry(it.owner.clone()).or_default().insert(it.id.clone());
        if let Some(token) = &it.token {
            self.by_token
                .entry((it.owner.clone(), token.token.clone()))
                .or_default()
                .insert(it.id.clone());
        }
        if it.state.holds_reservation() {
            let usage = self.usage.entry(it.owner.clone()).or_default();
            usage.instances += 1;
            usage.cpu =
                crate::resource::Cpu::from_millis(usage.cpu.millis() + it.resources.cpu.millis());
            usage.memory =
                crate::resource::Memory::from_mib(usage.memory.mib() + it.resources.memory.mib());
            if let Some(slot) = self.nodes.get_mut(&it.node_id) {
                slot.hold(&it.id, &Held::by(it));
                slot.instances.insert(it.id.clone());
            }
        }
        for remnant in &it.remnants {
            if let Some(slot) = self.nodes.get_mut(&remnant.node_id) {
                slot.hold(&it.id, &Held::by_remnant(remnant));
                slot.remnants.insert(it.id.clone());
            }
        }
        self.instances.insert(it.id.clone(), instance);
    }

    fn take_instance(&mut self, id: &InstanceId) -> Option<Arc<Instance>> {
        let it = self.instances.remove(id)?;
        if let Some(ids) = self.by_owner.get_mut(&it.owner) {
            ids.remove(id);
            if ids.is_empty() {
                self.by_owner.remove(&it.owner);
            }
        }
        if let Some(token) = &it.token {
            let key = (it.owner.clone(), token.token.clone());
            if let Some(ids) = self.by_token.get_mut(&key) {
                ids.remove(id);
                if ids.is_empty() {
                    self.by_token.remove(&key);
                }
            }
        }
        if it.state.holds_reservation() {
            if let Some(usage) = self.usage.get_mut(&it.owner) {
                usage.instances -= 1;
                usage.cpu = crate::resource::Cpu::from_millis(
                    usage.cpu.millis() - it.resources.cpu.millis(),
                );
                usage.memory = crate::resource::Memory::from_mib(
                    usage.memory.mib() - it.resources.memory.mib(),
                );
            }
            if let Some(slot) = self.nodes.get_mut(&it.node_id) {
                slot.let_go(id, &Held::by(&it));
                slot.instances.remove(id);
            }
        }
        for remnant in &it.remnants {
            if let Some(slot) = self.nodes.get_mut(&remnant.node_id) {
                slot.let_go(id, &Held::by_remnant(remnant));
                slot.remnants.remove(id);
            }
        }
        Some(it)
    }

    /// Recomputes everything derived and names the first difference. For tests and `doctor`.
    pub fn check(&self) -> Result<(), String> {
        let mut usage: HashMap<&UserId, Usage> = HashMap::new();
        for it in self.instances.values().filter(|it| it.state.holds_reservation()) {
            let sum = usage.entry(&it.owner).or_default();
            sum.instances += 1;
            sum.cpu =
                crate::resource::Cpu::from_millis(sum.cpu.millis() + it.resources.cpu.millis());
            sum.memory =
                crate::resource::Memory::from_mib(sum.memory.mib() + it.resources.memory.mib());
            self.check_holds(it, &it.node_id, &Held::by(it))?;
        }
        for it in self.instances.values() {
            self.check_remnants(it)?;
        }
        for (user, held) in &self.usage {
            let counted = usage.get(user).copied().unwrap_or_default();
            if *held != counted {
                return Err(format!("usage of {user} is {held:?}, counted {counted:?}"));
            }
        }
        for (id, slot) in &self.nodes {
            let live = |it: &&InstanceId| {
                self.instances.get(*it).is_some_and(|it| it.state.holds_reservation())
            };
            let sum = slot
                .instances
                .iter()
                .filter(live)
                .fold(Resources::default(), |sum, it| sum.plus(&self.instances[it].resources));
            let sum = self.remnants_on(id).fold(sum, |sum, (_, it)| sum.plus(&it.resources));
            if sum != slot.used {
                return Err(format!("{id} has {:?} in use, counted {sum:?}", slot.used));
            }
            for (gpu, holder) in &slot.gpus {
                let is_held = |it: &Arc<Instance>| {
                    it.node_id == *id && it.gpus.contains(gpu)
                        || it.remnants.iter().any(|it| it.node_id == *id && it.gpus.contains(gpu))
                };
                if !self.instances.get(holder).is_some_and(is_held) {
                    return Err(format!("GPU {gpu} of {id} is leaked by {holder}"));
                }
            }
            for (port, holder) in &slot.ports {
                if let Holder::Instance(instance) = holder
                    && !self
                        .instances
                        .get(instance)
                        .is_some_and(|it| it.ports_on(id).any(|it| it.host_port == *port))
                {
                    return Err(format!("port {port} of {id} is leaked by {instance}"));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
