//! Durable state: what is acknowledged is here first.

use std::sync::Arc;

use orch_domain::audit::{AuditEntry, AuditId};
use orch_domain::book::{Change, Rows};
use orch_domain::event::Event;
use orch_domain::name::UserId;
use tokio::sync::oneshot;

/// What becomes durable together, or not at all.
#[derive(Clone, Debug, Default)]
pub struct Commit {
    pub changes: Vec<Change>,
    /// Inserted, or replaced when the id exists.
    pub audit: Vec<AuditEntry>,
    /// What the changes tell.
    pub events: Vec<Arc<Event>>,
}

/// Made once with the data directory, and part of every backup.
#[derive(Clone)]
pub struct StoreIdentity {
    /// Marks our containers; a restored backup finds its own again.
    pub controller_id: String,
    /// Signs access tokens unless the configuration gives a secret.
    pub token_secret: [u8; 32],
}

pub trait Store: Send + Sync {
    fn identity(&self) -> &StoreIdentity;

    /// Everything but the audit.
    fn load(&self) -> Result<Rows, StoreError>;

    /// Queues `commit` behind those before it and returns at once. The receiver resolves when it is durable. After one
    /// failure everything queued behind it fails too, so that the order of what is durable has no holes; the caller
    /// then loads anew.
    fn commit(&self, commit: Commit) -> oneshot::Receiver<Result<(), StoreError>>;

    fn last_audit_id(&self) -> AuditId;

    /// Newest first, below `before`, at most `limit`.
    fn audit(&self, query: &AuditQuery) -> Result<Vec<AuditEntry>, StoreError>;

    /// Deletes the entries up to and including `last`.
    fn trim_audit(&self, last: AuditId) -> Result<usize, StoreError>;

    /// Deletes the events up to and including the revision `last`.
    fn trim_events(&self, last: u64) -> Result<usize, StoreError>;
}

#[derive(Clone, Debug, Default)]
pub struct AuditQuery {
    pub before: Option<AuditId>,
    pub limit: usize,
    pub user: Option<UserId>,
    pub operation: Option<String>,
    /// Entries that name this id among their targets.
    pub target: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the disk of the data directory is full")]
    DiskFull { source: Box<dyn std::error::Error + Send + Sync> },
    #[error("the database could not be written or read")]
    Io { source: Box<dyn std::error::Error + Send + Sync> },
    #[error("the database is damaged: {what}")]
    Corrupt { what: String },
    #[error(
        "the database was written by a newer version (schema {found}, this one knows up to {known})"
    )]
    NewerSchema { found: u32, known: u32 },
    #[error("the store is closed")]
    Closed,
}
