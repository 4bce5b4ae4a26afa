//! What a transaction changed, as rows to store, and how it is taken back.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Book, Slot};
use crate::event::{self, Event, News};
use crate::grant::{Grant, GrantKey};
use crate::instance::Instance;
use crate::name::{ApiKeyId, InstanceId, NodeId, UserId};
use crate::node::Node;
use crate::port::{Holder, PortBinding};
use crate::registry::{RegistryCredential, RegistryHost};
use crate::user::{ApiKey, User};

/// One row to write, or to delete where the value is `None`. The changes of one transaction become durable together.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    Instance(InstanceId, Option<Arc<Instance>>),
    Node(NodeId, Option<Arc<Node>>),
    Port(NodeId, u16, Option<Holder>),
    User(UserId, Option<Arc<User>>),
    ApiKey(ApiKeyId, Option<Arc<ApiKey>>),
    RegistryCredential(RegistryHost, Option<Arc<RegistryCredential>>),
    Grant(GrantKey, Option<Arc<Grant>>),
}

/// What a transaction comes to.
#[derive(Debug, Default)]
pub struct Changes {
    /// What has to become durable.
    pub rows: Vec<Change>,
    /// What it tells those who follow events; durable with the rows.
    pub news: Vec<News>,
}

/// Everything stored, as read at start-up.
#[derive(Debug, Default)]
pub struct Rows {
    pub instances: Vec<Instance>,
    pub nodes: Vec<Node>,
    pub ports: Vec<(NodeId, u16, Holder)>,
    pub users: Vec<User>,
    pub api_keys: Vec<ApiKey>,
    /// Oldest first.
    pub events: Vec<Event>,
    pub registry_credentials: Vec<RegistryCredential>,
    pub grants: Vec<Grant>,
}

/// The rows that a step of the book replaced, to go back to.
#[derive(Default)]
pub struct Replaced(pub(super) Vec<Undo>);

/// What a row was before.
pub(super) enum Undo {
    Instance(InstanceId, Option<Arc<Instance>>),
    Node(NodeId, Option<Arc<Node>>),
    Quarantine(NodeId, u16, Option<Holder>),
    User(UserId, Option<Arc<User>>),
    ApiKey(ApiKeyId, Option<Arc<ApiKey>>),
    RegistryCredential(RegistryHost, Option<Arc<RegistryCredential>>),
    Grant(GrantKey, Option<Arc<Grant>>),
}

impl Undo {
    pub(super) fn apply(self, book: &mut Book) {
        match self {
            Undo::Instance(id, old) => {
                book.take_instance(&id);
                if let Some(it) = old {
                    book.enter_instance(it);
                }
            }
            Undo::Node(id, old) => match old {
                None => {
                    book.nodes.remove(&id);
                }
                Some(node) => match book.nodes.get_mut(&id) {
                    Some(slot) => slot.node = node,
                    None => {
                        book.nodes.insert(id, Slot::empty(node));
                    }
                },
            },
            Undo::Quarantine(id, port, old) => {
                if let Some(slot) = book.nodes.get_mut(&id) {
                    match old {
                        Some(it) => slot.ports.insert(port, it),
                        None => slot.ports.remove(&port),
                    };
                }
            }
            Undo::User(id, old) => {
                match old {
                    Some(it) => book.users.insert(id, it),
                    None => book.users.remove(&id),
                };
            }
            Undo::ApiKey(id, old) => {
                match old {
                    Some(it) => book.api_keys.insert(id, it),
                    None => book.api_keys.remove(&id),
                };
            }
            Undo::RegistryCredential(registry, old) => {
                match old {
                    Some(it) => book.registry_credentials.insert(registry, it),
                    None => book.registry_credentials.remove(&registry),
                };
            }
            Undo::Grant(key, old) => {
                match old {
                    Some(it) => book.grants.insert(key, it),
                    None => book.grants.remove(&key),
                };
            }
        }
    }
}

/// The rows that a journal touched, each once, with their present values, and what became of each.
pub(super) fn changes(book: &Book, journal: &[Undo]) -> Changes {
    let mut rows = Vec::with_capacity(journal.len() + 2);
    let mut news = Vec::with_capacity(journal.len());
    let mut ports: BTreeSet<(NodeId, u16)> = BTreeSet::new();
    let mut seen: BTreeSet<String> = BTreeSet::new();
    // The first entry about a row has it as it was before the transaction.
    for undo in journal {
        match undo {
            Undo::Instance(id, old) => {
                let new = book.instances.get(id);
                for it in old.iter().chain(new) {
                    ports.extend(it.ports.iter().map(|port| (it.node_id.clone(), port.host_port)));
                    for left in &it.remnants {
                        let here = |port: &PortBinding| (left.node_id.clone(), port.host_port);
                        ports.extend(left.ports.iter().map(here));
                    }
                }
                if seen.insert(format!("i{id}")) {
                    event::instance(old.as_deref(), new.map(|it| &**it), &mut news);
                    rows.push(Change::Instance(id.clone(), new.cloned()));
                }
            }
            Undo::Node(id, old) => {
                if seen.insert(format!("n{id}")) {
                    let new = book.nodes.get(id).map(|it| it.node.clone());
                    event::node(old.as_deref(), new.as_deref(), &mut news);
                    rows.push(Change::Node(id.clone(), new));
                }
            }
            // Ports are told of with the instance that has them.
            Undo::Quarantine(id, port, _) => {
                ports.insert((id.clone(), *port));
            }
            Undo::User(id, old) => {
                if seen.insert(format!("u{id}")) {
                    let new = book.users.get(id).cloned();
                    event::user(old.as_deref(), new.as_deref(), &mut news);
                    rows.push(Change::User(id.clone(), new));
                }
            }
            Undo::ApiKey(id, old) => {
                if seen.insert(format!("k{id}")) {
                    let new = book.api_keys.get(id).cloned();
                    event::api_key(old.as_deref(), new.as_deref(), &mut news);
                    rows.push(Change::ApiKey(id.clone(), new));
                }
            }
            Undo::RegistryCredential(registry, old) => {
                if seen.insert(format!("r{registry}")) {
                    let new = book.registry_credentials.get(registry).cloned();
                    event::registry_credential(old.as_deref(), new.as_deref(), &mut news);
                    rows.push(Change::RegistryCredential(registry.clone(), new));
                }
            }
            // Nobody follows them: tokens are made new all the time, and logging in is in the audit.
            Undo::Grant(key, _) => {
                if seen.insert(format!("g{key}")) {
                    rows.push(Change::Grant(key.clone(), book.grants.get(key).cloned()));
                }
            }
        }
    }
    for (node_id, port) in ports {
        let holder = book.nodes.get(&node_id).and_then(|it| it.ports.get(&port)).cloned();
        rows.push(Change::Port(node_id, port, holder));
    }
    Changes { rows, news }
}
