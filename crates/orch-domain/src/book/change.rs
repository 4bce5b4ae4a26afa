//! What a transaction changed, as rows to store, and how it is taken back.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Book, Slot};
use crate::instance::Instance;
use crate::name::{ApiKeyId, InstanceId, NodeId, UserId};
use crate::node::Node;
use crate::port::Holder;
use crate::user::{ApiKey, User};

/// One row to write, or to delete where the value is `None`. The changes of one transaction become durable together.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    Instance(InstanceId, Option<Arc<Instance>>),
    Node(NodeId, Option<Arc<Node>>),
    Port(NodeId, u16, Option<Holder>),
    User(UserId, Option<Arc<User>>),
    ApiKey(ApiKeyId, Option<Arc<ApiKey>>),
}

/// Everything stored, as read at start-up.
#[derive(Debug, Default)]
pub struct Rows {
    pub instances: Vec<Instance>,
    pub nodes: Vec<Node>,
    pub ports: Vec<(NodeId, u16, Holder)>,
    pub users: Vec<User>,
    pub api_keys: Vec<ApiKey>,
}

/// The rows that a step of the book replaced, to go back to.
pub struct Replaced(pub(super) Vec<Undo>);

/// What a row was before.
pub(super) enum Undo {
    Instance(InstanceId, Option<Arc<Instance>>),
    Node(NodeId, Option<Arc<Node>>),
    Quarantine(NodeId, u16, Option<Holder>),
    User(UserId, Option<Arc<User>>),
    ApiKey(ApiKeyId, Option<Arc<ApiKey>>),
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
        }
    }
}

/// The rows that a journal touched, each once, with their present values.
pub(super) fn changes(book: &Book, journal: &[Undo]) -> Vec<Change> {
    let mut changes = Vec::with_capacity(journal.len() + 2);
    let mut ports: BTreeSet<(NodeId, u16)> = BTreeSet::new();
    let mut seen: BTreeSet<String> = BTreeSet::new();
    for undo in journal {
        match undo {
            Undo::Instance(id, old) => {
                let new = book.instances.get(id);
                for it in old.iter().chain(new) {
                    ports.extend(it.ports.iter().map(|port| (it.node_id.clone(), port.host_port)));
                }
                if seen.insert(format!("i{id}")) {
                    changes.push(Change::Instance(id.clone(), new.cloned()));
                }
            }
            Undo::Node(id, _) => {
                if seen.insert(format!("n{id}")) {
                    changes.push(Change::Node(
                        id.clone(),
                        book.nodes.get(id).map(|it| it.node.clone()),
                    ));
                }
            }
            Undo::Quarantine(id, port, _) => {
                ports.insert((id.clone(), *port));
            }
            Undo::User(id, _) => {
                if seen.insert(format!("u{id}")) {
                    changes.push(Change::User(id.clone(), book.users.get(id).cloned()));
                }
            }
            Undo::ApiKey(id, _) => {
                if seen.insert(format!("k{id}")) {
                    changes.push(Change::ApiKey(id.clone(), book.api_keys.get(id).cloned()));
                }
            }
        }
    }
    for (node_id, port) in ports {
        let holder = book.nodes.get(&node_id).and_then(|it| it.ports.get(&port)).cloned();
        changes.push(Change::Port(node_id, port, holder));
    }
    changes
}
