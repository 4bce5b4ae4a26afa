//! The `Store` port on sled: typed tables, one durable commit for many writers, refusal of damage, backup and restore.
//!
//! ```text
//! commit() ─► writer thread ─► journal (one fdatasync for all that wait) ─► answers
//!                                  │ at checkpoints: idle, full, before reads and at the end
//!                                  ▼
//!                               tables (sled, one atomic batch that says what the whole must be)
//! ```
//!
//! sled alone costs two or three syncs for a commit and keeps no promise about a damaged tail. So commits are durable in a
//! journal first, and sled is written at checkpoints, where being slow does not matter and where `State` can be compared
//! with the rows. Reading the journal back at a checkpoint is the same code as reading it after a crash.

mod backup;
mod batches;
mod disk;
mod error;
mod files;
mod forget;
mod journal;
mod layout;
mod migration;
mod pending;
mod stored;
mod table;
mod tables;
mod writer;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Sender, SyncSender};
use std::thread::JoinHandle;

use orch_core::ports::store::{AuditQuery, Commit, Store, StoreError, StoreIdentity};
use orch_domain::audit::{AuditEntry, AuditId};
use orch_domain::batch::{Batch, BatchChange, Part, StepRun, StoredBatch};
use orch_domain::book::Rows;
use orch_domain::name::BatchId;
use orch_domain::plan::Step;
use tokio::sync::oneshot;

pub use backup::{BackupError, BackupSummary};
pub use error::OpenError;

use disk::{Disk, SharedTables, Unanswered};
use error::Failure;
use files::Files;
use forget::Forgetter;
use layout::Layout;
use pending::{Pending, batches_of};
use stored::BadRow;
use stored::audit::AuditV1;
use stored::event::EventV1;
use stored::grant::GrantV1;
use stored::instance::InstanceV1;
use stored::node::NodeV1;
use stored::port::HolderV1;
use stored::registry::RegistryCredentialV1;
use stored::user::{ApiKeyV1, UserV1};
use table::{Operations, Table, audit_key, decode, event_key, port_of_key, shown_key};
use tables::Tables;
use writer::{Reply, Request, Writer};

/// The folder inside the data directory that belongs to the store.
const FOLDER: &str = "store";

/// The store of one data directory. Dropping it waits for what is queued and closes it.
pub struct SledStore {
    identity: StoreIdentity,
    /// None while dropping, which tells the writer to end.
    handle: Option<Handle>,
    last_audit: Arc<AtomicU64>,
    files: Arc<Files>,
    pending: Pending,
    forgetter: Forgetter,
    writer: Option<JoinHandle<()>>,
    /// Declared last: everything else is closed when it is released.
    _lock: File,
}

impl SledStore {
    /// Whether `data_dir` has a database, in whatever state.
    pub fn is_in(data_dir: &Path) -> bool {
        data_dir.join(FOLDER).exists()
    }

    /// Opens the database of `data_dir` and checks all of it, or makes one where there never was one.
    pub fn open(data_dir: &Path) -> Result<SledStore, OpenError> {
        let folder = data_dir.join(FOLDER);
        let layout = Layout::new(&folder);
        let lock = layout.lock()?;
        disk::prepare(&layout)?;
        let disk = Disk::open(&layout, Unanswered::Kept)?;
        let identity = disk.identity().map_err(|err| err.open_error(&folder))?;
        let tables = disk.tables();
        let last_audit = Arc::new(AtomicU64::new(Writer::last_audit(&tables).0));
        let files = Arc::new(Files::new(layout.results()));
        let writer = Writer::new(layout, disk, last_audit.clone());
        let (requests, received) = mpsc::channel();
        let handle = Handle { requests, tables, folder };
        let forgotten = handle.read(batches::forgotten)?;
        let writer = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer.run(&received))?;
        let forgetter = Forgetter::start(handle.clone(), files.clone(), forgotten)?;
        Ok(SledStore {
            identity,
            handle: Some(handle),
            last_audit,
            files,
            pending: Pending::default(),
            forgetter,
            writer: Some(writer),
            _lock: lock,
        })
    }

    fn handle(&self) -> Result<&Handle, StoreError> {
        self.handle.as_ref().ok_or(StoreError::Closed)
    }

    fn ask(&self, request: impl FnOnce(Reply) -> Request) -> Result<(), StoreError> {
        self.handle()?.ask(request)
    }

    fn read<T>(&self, read: impl FnOnce(&Tables) -> Result<T, Failure>) -> Result<T, StoreError> {
        Ok(self.handle()?.read(read)?)
    }

    /// As `read`, with every commit queued before in the tables.
    fn read_settled<T>(
        &self,
        read: impl FnOnce(&Tables) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        let mark = self.pending.mark();
        self.ask(|reply| Request::Settle { reply })?;
        self.pending.settled(mark);
        self.read(read)
    }

    /// As `read`, with every commit queued before that changed the batch in the tables.
    fn read_batch<T>(
        &self,
        id: &BatchId,
        read: impl FnOnce(&Tables) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        if self.pending.has(id) { self.read_settled(read) } else { self.read(read) }
    }

    /// Deletes the rows from `start` to before `end`.
    fn trim(&self, start: &[u8], end: &[u8]) -> Result<usize, StoreError> {
        self.ask(|reply| Request::Settle { reply })?;
        let mut operations = Operations::default();
        let n_rows = self.read(|tables| {
            let mut n_rows = 0;
            tables.each_back(start, end, |key, _| {
                operations.delete(key);
                n_rows += 1;
                Ok(true)
            })?;
            Ok(n_rows)
        })?;
        if n_rows != 0 {
            self.ask(|reply| Request::Commit { operations, reply })?;
        }
        Ok(n_rows)
    }
}

/// The way to the writer and to the tables, for every thread that needs it.
#[derive(Clone)]
struct Handle {
    requests: Sender<Request>,
    tables: SharedTables,
    folder: PathBuf,
}

impl Handle {
    fn send(&self, request: Request) -> Result<(), StoreError> {
        self.requests.send(request).map_err(|_| StoreError::Closed)
    }

    /// Sends a request and waits for its answer.
    fn ask(&self, request: impl FnOnce(Reply) -> Request) -> Result<(), StoreError> {
        let (answer, answered): (SyncSender<_>, _) = mpsc::sync_channel(1);
        let reply: Reply = Box::new(move |result| {
            // Nobody waits any more only when the asking thread is gone.
            drop(answer.send(result));
        });
        self.send(request(reply))?;
        answered.recv().map_err(|_| StoreError::Closed)?
    }

    /// Runs `read` on the tables as of now. Commits go on meanwhile; they come to the tables afterwards.
    fn read<T>(&self, read: impl FnOnce(&Tables) -> Result<T, Failure>) -> Result<T, OpenError> {
        let tables = self.tables.read();
        tables
            .as_ref()
            .ok_or_else(disk::closed)
            .and_then(read)
            .map_err(|err| err.open_error(&self.folder))
    }
}

impl Store for SledStore {
    fn identity(&self) -> &StoreIdentity {
        &self.identity
    }

    fn load(&self) -> Result<Rows, StoreError> {
        self.ask(|reply| Request::Rearm { reply })?;
        self.read(load_rows)
    }

    fn commit(&self, commit: Commit) -> oneshot::Receiver<Result<(), StoreError>> {
        let (answer, answered) = oneshot::channel();
        let forgotten: Vec<BatchId> = commit.batches.iter().filter_map(forgotten_by).collect();
        let marked = (!forgotten.is_empty()).then(|| self.forgetter.marked());
        let reply: Reply = Box::new(move |result| {
            if let (Some(marked), Ok(())) = (marked, &result) {
                forgotten.into_iter().for_each(|it| marked.tell(it));
            }
            // The caller may have stopped waiting; the commit is durable all the same.
            drop(answer.send(result));
        });
        match Operations::of(&commit) {
            Ok(operations) => {
                // When the writer is gone, so is `reply`, and the receiver says so.
                if let Some(handle) = &self.handle {
                    drop(handle.send(Request::Commit { operations, reply }));
                }
                self.pending.note(&batches_of(&commit.batches));
            }
            Err(err) => reply(Err(StoreError::Io { source: err.into() })),
        }
        answered
    }

    fn last_audit_id(&self) -> AuditId {
        AuditId(self.last_audit.load(Ordering::Acquire))
    }

    fn audit(&self, query: &AuditQuery) -> Result<Vec<AuditEntry>, StoreError> {
        self.ask(|reply| Request::Settle { reply })?;
        let end = query.before.unwrap_or(AuditId(u64::MAX));
        self.read(|tables| {
            let mut entries = Vec::new();
            if query.limit == 0 {
                return Ok(entries);
            }
            tables.each_back(&audit_key(AuditId(0)), &audit_key(end), |key, row| {
                let entry = decode::<AuditV1, AuditEntry>(row).map_err(|err| bad(key, &err))?;
                if is_asked(query, &entry) {
                    entries.push(entry);
                }
                Ok(entries.len() < query.limit)
            })?;
            Ok(entries)
        })
    }

    fn trim_audit(&self, last: AuditId) -> Result<usize, StoreError> {
        self.trim(&audit_key(AuditId(0)), &audit_key(AuditId(last.0.saturating_add(1))))
    }

    fn trim_events(&self, last: u64) -> Result<usize, StoreError> {
        self.trim(&event_key(0), &event_key(last.saturating_add(1)))
    }

    fn batches(&self) -> Result<Vec<Batch>, StoreError> {
        self.read_settled(batches::headers)
    }

    fn batch(&self, id: &BatchId) -> Result<Option<StoredBatch>, StoreError> {
        self.read_batch(id, |tables| batches::whole(tables, id))
    }

    fn batch_steps(
        &self,
        id: &BatchId,
        from: u32,
        limit: usize,
    ) -> Result<Vec<(u32, Arc<Step>)>, StoreError> {
        self.read_batch(id, |tables| batches::steps_from(tables, id, from, limit))
    }

    fn batch_runs(
        &self,
        id: &BatchId,
        from: Option<Part>,
        limit: usize,
    ) -> Result<Vec<StepRun>, StoreError> {
        self.read_batch(id, |tables| batches::runs_from(tables, id, from, limit))
    }

    fn batch_run(&self, id: &BatchId, part: Part) -> Result<Option<StepRun>, StoreError> {
        self.read_batch(id, |tables| batches::run_at(tables, id, part))
    }
}

fn forgotten_by(change: &BatchChange) -> Option<BatchId> {
    match change {
        BatchChange::Forget(id) => Some(id.clone()),
        BatchChange::Put(_) | BatchChange::Define { .. } | BatchChange::Run { .. } => None,
    }
}

impl Drop for SledStore {
    fn drop(&mut self) {
        self.forgetter.end();
        self.handle = None;
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the writer of the store panicked");
        }
    }
}

fn is_asked(query: &AuditQuery, entry: &AuditEntry) -> bool {
    let AuditQuery { before: _, limit: _, user, operation, target } = query;
    user.as_ref().is_none_or(|it| entry.user.as_ref() == Some(it))
        && operation.as_ref().is_none_or(|it| entry.operation == *it)
        && target.as_ref().is_none_or(|it| entry.targets.contains(it))
}

fn load_rows(tables: &Tables) -> Result<Rows, Failure> {
    let mut rows = Rows::default();
    tables.each(&Table::Instances.key(b""), |key, row| {
        rows.instances.push(decode::<InstanceV1, _>(row).map_err(|err| bad(key, &err))?);
        Ok(true)
    })?;
    tables.each(&Table::Nodes.key(b""), |key, row| {
        rows.nodes.push(decode::<NodeV1, _>(row).map_err(|err| bad(key, &err))?);
        Ok(true)
    })?;
    tables.each(&Table::Ports.key(b""), |key, row| {
        let (node_id, port) = port_of_key(key).map_err(|err| bad(key, &err))?;
        let holder = decode::<HolderV1, _>(row).map_err(|err| bad(key, &err))?;
        rows.ports.push((node_id, port, holder));
        Ok(true)
    })?;
    tables.each(&Table::Users.key(b""), |key, row| {
        rows.users.push(decode::<UserV1, _>(row).map_err(|err| bad(key, &err))?);
        Ok(true)
    })?;
    tables.each(&Table::ApiKeys.key(b""), |key, row| {
        rows.api_keys.push(decode::<ApiKeyV1, _>(row).map_err(|err| bad(key, &err))?);
        Ok(true)
    })?;
    // Their keys sort as numbers, so these are oldest first.
    tables.each(&Table::Events.key(b""), |key, row| {
        rows.events.push(decode::<EventV1, _>(row).map_err(|err| bad(key, &err))?);
        Ok(true)
    })?;
    tables.each(&Table::RegistryCredentials.key(b""), |key, row| {
        let row = decode::<RegistryCredentialV1, _>(row).map_err(|err| bad(key, &err))?;
        rows.registry_credentials.push(row);
        Ok(true)
    })?;
    tables.each(&Table::Grants.key(b""), |key, row| {
        rows.grants.push(decode::<GrantV1, _>(row).map_err(|err| bad(key, &err))?);
        Ok(true)
    })?;
    Ok(rows)
}

fn bad(key: &[u8], err: &BadRow) -> Failure {
    Failure::Damaged(format!("{}: {err}", shown_key(key)))
}
