//! Durable state: what is acknowledged is here first.

use std::sync::Arc;

use orch_domain::audit::{AuditEntry, AuditId};
use orch_domain::batch::{Batch, BatchChange, Part, StepRun, StoredBatch};
use orch_domain::book::{Change, Rows};
use orch_domain::event::Event;
use orch_domain::name::{BatchId, UserId};
use orch_domain::plan::Step;
use tokio::sync::oneshot;

/// What becomes durable together, or not at all.
#[derive(Clone, Debug, Default)]
pub struct Commit {
    pub changes: Vec<Change>,
    /// Inserted, or replaced when the id exists.
    pub audit: Vec<AuditEntry>,
    /// What the changes tell.
    pub events: Vec<Arc<Event>>,
    /// In order: of two changes of one row the later counts.
    pub batches: Vec<BatchChange>,
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

    /// Everything but the audit and the batches.
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

    /// All batches, oldest first, without their steps. What is said here counts for all reads below: they see every commit
    /// queued before them, and a batch that is being forgotten is not there. Reading a batch that changed since the last
    /// checkpoint takes the time of one, so it does not belong into the way of a step.
    fn batches(&self) -> Result<Vec<Batch>, StoreError>;

    /// All of one batch: as large as it is.
    fn batch(&self, id: &BatchId) -> Result<Option<StoredBatch>, StoreError>;

    /// At most `limit` steps of the plan with their places, from the place `from` on. Empty where there is no such batch.
    fn batch_steps(
        &self,
        id: &BatchId,
        from: u32,
        limit: usize,
    ) -> Result<Vec<(u32, Arc<Step>)>, StoreError>;

    /// At most `limit` runs in the order of `Part`, from the part `from` on (with it, where it is there).
    fn batch_runs(
        &self,
        id: &BatchId,
        from: Option<Part>,
        limit: usize,
    ) -> Result<Vec<StepRun>, StoreError>;

    fn batch_run(&self, id: &BatchId, part: Part) -> Result<Option<StepRun>, StoreError>;
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
