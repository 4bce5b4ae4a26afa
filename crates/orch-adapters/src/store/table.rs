//! The tables, their keys, and the row operations that a commit is made of.

use orch_core::ports::store::Commit;
use orch_domain::audit::AuditId;
use orch_domain::book::Change;
use orch_domain::grant::GrantKey;
use orch_domain::name::NodeId;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::batches::batch_of_key;
use super::stored::BadRow;
use super::stored::audit::AuditV1;
use super::stored::event::EventV1;
use super::stored::grant::GrantV1;
use super::stored::instance::InstanceV1;
use super::stored::node::NodeV1;
use super::stored::port::HolderV1;
use super::stored::registry::RegistryCredentialV1;
use super::stored::user::{ApiKeyV1, UserV1};

/// All tables share one tree, parted by the first byte of the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Table {
    Instances,
    Nodes,
    Ports,
    Users,
    ApiKeys,
    RegistryCredentials,
    Grants,
    Audit,
    Events,
    Batches,
    BatchSteps,
    BatchRuns,
    /// Batches whose rows are being removed. They are not answered any more.
    ForgottenBatches,
    /// The identity, and whatever belongs to the database as a whole.
    Meta,
}

impl Table {
    pub(super) const ALL: [Table; 14] = [
        Table::Instances,
        Table::Nodes,
        Table::Ports,
        Table::Users,
        Table::ApiKeys,
        Table::RegistryCredentials,
        Table::Grants,
        Table::Audit,
        Table::Events,
        Table::Batches,
        Table::BatchSteps,
        Table::BatchRuns,
        Table::ForgottenBatches,
        Table::Meta,
    ];

    pub(super) fn prefix(self) -> u8 {
        match self {
            Table::Instances => b'i',
            Table::Nodes => b'n',
            Table::Ports => b'p',
            Table::Users => b'u',
            Table::ApiKeys => b'k',
            Table::RegistryCredentials => b'r',
            Table::Grants => b'g',
            Table::Audit => b'a',
            Table::Events => b'e',
            Table::Batches => b'b',
            Table::BatchSteps => b's',
            Table::BatchRuns => b't',
            Table::ForgottenBatches => b'f',
            Table::Meta => b'm',
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Table::Instances => "instances",
            Table::Nodes => "nodes",
            Table::Ports => "ports",
            Table::Users => "users",
            Table::ApiKeys => "api_keys",
            Table::RegistryCredentials => "registry_credentials",
            Table::Grants => "grants",
            Table::Audit => "audit",
            Table::Events => "events",
            Table::Batches => "batches",
            Table::BatchSteps => "batch_steps",
            Table::BatchRuns => "batch_runs",
            Table::ForgottenBatches => "forgotten_batches",
            Table::Meta => "meta",
        }
    }

    pub(super) fn named(name: &str) -> Option<Table> {
        Table::ALL.into_iter().find(|it| it.name() == name)
    }

    pub(super) fn of_key(key: &[u8]) -> Option<Table> {
        let prefix = *key.first()?;
        Table::ALL.into_iter().find(|it| it.prefix() == prefix)
    }

    pub(super) fn key(self, rest: &[u8]) -> Vec<u8> {
        let mut key = Vec::with_capacity(1 + rest.len());
        key.push(self.prefix());
        key.extend_from_slice(rest);
        key
    }
}

/// Node ids have no zero byte, so it ends them; ports sort as numbers.
pub(super) fn port_key(node_id: &NodeId, port: u16) -> Vec<u8> {
    let mut rest = node_id.as_str().as_bytes().to_vec();
    rest.push(0);
    rest.extend_from_slice(&port.to_be_bytes());
    Table::Ports.key(&rest)
}

pub(super) fn port_of_key(key: &[u8]) -> Result<(NodeId, u16), BadRow> {
    let [_, rest @ .., 0, high, low] = key else { return Err(BadRow::Key) };
    let node_id = std::str::from_utf8(rest).map_err(|_| BadRow::Key)?;
    Ok((NodeId::try_new(node_id)?, u16::from_be_bytes([*high, *low])))
}

/// No part has a zero byte. Holders with a name never collide with the gateway, whose part is empty.
pub(super) fn grant_key(key: &GrantKey) -> Vec<u8> {
    let user = key.user.as_ref().map_or("", |it| it.as_str());
    Table::Grants.key([&key.server, user, &key.issuer].join("\0").as_bytes())
}

pub(super) fn audit_key(id: AuditId) -> Vec<u8> {
    Table::Audit.key(&id.0.to_be_bytes())
}

pub(super) fn event_key(revision: u64) -> Vec<u8> {
    Table::Events.key(&revision.to_be_bytes())
}

pub(super) fn audit_id_of_key(key: &[u8]) -> Option<AuditId> {
    let [prefix, rest @ ..] = key else { return None };
    let id: [u8; 8] = rest.try_into().ok()?;
    (*prefix == Table::Audit.prefix()).then_some(AuditId(u64::from_be_bytes(id)))
}

/// For messages: readable where the key is text.
pub(super) fn shown_key(key: &[u8]) -> String {
    match Table::of_key(key) {
        None => format!("the key 0x{}", hex::encode(key)),
        Some(Table::Audit) => match audit_id_of_key(key) {
            Some(id) => format!("audit entry {}", id.0),
            None => format!("the audit key 0x{}", hex::encode(key)),
        },
        Some(Table::Events) => match key.get(1..).and_then(|it| <[u8; 8]>::try_from(it).ok()) {
            Some(revision) => format!("event {}", u64::from_be_bytes(revision)),
            None => format!("the event key 0x{}", hex::encode(key)),
        },
        Some(Table::Ports) => match port_of_key(key) {
            Ok((node_id, port)) => format!("port {port} of node `{node_id}`"),
            Err(_) => format!("the port key 0x{}", hex::encode(key)),
        },
        Some(table @ (Table::BatchSteps | Table::BatchRuns)) => match batch_of_key(key) {
            Some(batch) => format!("a row of batch `{batch}` in table `{}`", table.name()),
            None => format!("the key 0x{} of table `{}`", hex::encode(key), table.name()),
        },
        Some(table) => {
            let rest = String::from_utf8_lossy(key.get(1..).unwrap_or_default()).into_owned();
            format!("`{}` of table `{}`", orch_domain::text::excerpt(&rest, 80), table.name())
        }
    }
}

/// Reads a stored row into its domain type.
pub(super) fn decode<V1, T>(json: &[u8]) -> Result<T, BadRow>
where
    V1: DeserializeOwned,
    T: TryFrom<V1, Error = BadRow>,
{
    T::try_from(serde_json::from_slice(json)?)
}

/// Row operations in the order given, as bytes: table prefix and key, then the row or nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct Operations {
    bytes: Vec<u8>,
    /// Highest audit id among them.
    pub(super) last_audit: AuditId,
}

/// A row is at most 4 GiB less one byte; this length says "deleted".
const DELETED: u32 = u32::MAX;

impl Operations {
    pub(super) fn of(commit: &Commit) -> Result<Operations, serde_json::Error> {
        let mut operations = Operations::default();
        for change in &commit.changes {
            match change {
                Change::Instance(id, it) => {
                    let row = it.as_deref().map(InstanceV1::from);
                    operations.push(&Table::Instances.key(id.as_str().as_bytes()), row.as_ref())?;
                }
                Change::Node(id, it) => {
                    let row = it.as_deref().map(NodeV1::from);
                    operations.push(&Table::Nodes.key(id.as_str().as_bytes()), row.as_ref())?;
                }
                Change::Port(node_id, port, it) => {
                    let row = it.as_ref().map(HolderV1::from);
                    operations.push(&port_key(node_id, *port), row.as_ref())?;
                }
                Change::User(id, it) => {
                    let row = it.as_deref().map(UserV1::from);
                    operations.push(&Table::Users.key(id.as_str().as_bytes()), row.as_ref())?;
                }
                Change::ApiKey(id, it) => {
                    let row = it.as_deref().map(ApiKeyV1::from);
                    operations.push(&Table::ApiKeys.key(id.as_str().as_bytes()), row.as_ref())?;
                }
                Change::RegistryCredential(registry, it) => {
                    let key = Table::RegistryCredentials.key(registry.as_str().as_bytes());
                    let row = it.as_deref().map(RegistryCredentialV1::from);
                    operations.push(&key, row.as_ref())?;
                }
                Change::Grant(key, it) => {
                    let row = it.as_deref().map(GrantV1::from);
                    operations.push(&grant_key(key), row.as_ref())?;
                }
            }
        }
        for entry in &commit.audit {
            operations.push(&audit_key(entry.id), Some(&AuditV1::from(entry)))?;
            operations.last_audit = operations.last_audit.max(entry.id);
        }
        for event in &commit.events {
            operations.push(&event_key(event.revision), Some(&EventV1::from(&**event)))?;
        }
        for change in &commit.batches {
            operations.push_batch(change)?;
        }
        Ok(operations)
    }

    pub(super) fn push<T: Serialize>(
        &mut self,
        key: &[u8],
        row: Option<&T>,
    ) -> Result<(), serde_json::Error> {
        match row {
            None => self.delete(key),
            Some(row) => {
                // Written in its place, and the length before it once that is known.
                self.push_head(key, 0);
                let start = self.bytes.len();
                serde_json::to_writer(&mut self.bytes, row)?;
                let len = self.bytes.len() - start;
                debug_assert!(len < DELETED as usize);
                self.bytes[start - 4..start].copy_from_slice(&(len as u32).to_le_bytes());
            }
        }
        Ok(())
    }

    pub(super) fn delete(&mut self, key: &[u8]) {
        self.push_head(key, DELETED);
    }

    fn push_head(&mut self, key: &[u8], len: u32) {
        self.bytes.extend_from_slice(&(key.len() as u16).to_le_bytes());
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(&len.to_le_bytes());
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Reads back what `Operations` wrote; None in place of a row means that it is deleted.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Reader<'a> {
    /// An error where the bytes are not operations.
    type Item = Result<(&'a [u8], Option<&'a [u8]>), BadRow>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let read = self.read();
        if read.is_none() {
            self.0 = &[];
        }
        Some(read.ok_or(BadRow::Key))
    }
}

impl<'a> Reader<'a> {
    fn read(&mut self) -> Option<(&'a [u8], Option<&'a [u8]>)> {
        let key_len = u16::from_le_bytes(self.take(2)?.try_into().ok()?);
        let key = self.take(usize::from(key_len))?;
        let len = u32::from_le_bytes(self.take(4)?.try_into().ok()?);
        if len == DELETED {
            return Some((key, None));
        }
        Some((key, Some(self.take(len as usize)?)))
    }

    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }
}
