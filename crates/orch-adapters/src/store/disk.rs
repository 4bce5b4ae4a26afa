//! Journal, tables and evidence together: appending, checkpoints, and coming back after a stop or a crash.

use std::sync::Arc;

use orch_core::ports::store::StoreIdentity;
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

use super::error::{Failure, OpenError};
use super::journal::{Journal, Record};
use super::layout::{Acknowledged, Found, Layout};
use super::migration::{MIGRATIONS, Migration, SCHEMA, migrate};
use super::table::{Operations, Table};
use super::tables::{State, Tables, has_room};

/// Above this the tables take over what is in the journal. It bounds the time of a start after a crash.
const JOURNAL_LIMIT: u64 = 16 << 20;
/// How much of it they take over at once.
const BATCH: usize = 256 << 10;

const IDENTITY: &[u8] = b"identity";

/// Readers share the tables, which change at checkpoints only. None after a failure, until all is read anew.
pub(super) type SharedTables = Arc<RwLock<Option<Tables>>>;

pub(super) struct Disk {
    tables: SharedTables,
    journal: Journal,
    acknowledged: Acknowledged,
    /// Of the last record.
    sequence: u64,
}

/// Whether records that nobody was answered for count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unanswered {
    /// After a crash: whoever waited will look.
    Kept,
    /// After a failure: whoever waited was told so.
    Dropped,
}

#[derive(Serialize, Deserialize)]
struct IdentityV1 {
    controller_id: String,
    token_secret: String,
}

/// Makes the database when there is none.
pub(super) fn prepare(layout: &Layout) -> Result<(), OpenError> {
    if layout.inspect()? == Found::Ready {
        return Ok(());
    }
    let mut random = [0; 40];
    getrandom::fill(&mut random)
        .map_err(|err| OpenError::Random { source: std::io::Error::other(err.to_string()) })?;
    let (controller_id, token_secret) = random.split_at(8);
    let identity = IdentityV1 {
        controller_id: hex::encode(controller_id),
        token_secret: hex::encode(token_secret),
    };
    let mut operations = Operations::default();
    operations
        .push(&Table::Meta.key(IDENTITY), Some(&identity))
        .map_err(|err| OpenError::Io { source: err.into() })?;
    layout.begin()?;
    let fail = |err: Failure| err.open_error(layout.folder());
    let mut tables = Tables::create(&layout.sled(), State::new(SCHEMA)).map_err(fail)?;
    tables.apply(std::iter::once(operations.bytes()), |_| {}).map_err(fail)?;
    tables.make_durable().map_err(fail)?;
    drop(tables);
    Ok(layout.finish()?)
}

impl Disk {
    /// Opens what must be there, checks it, and brings the tables up to the last commit.
    pub(super) fn open(layout: &Layout, unanswered: Unanswered) -> Result<Disk, OpenError> {
        let tables = Arc::new(RwLock::new(None));
        Disk::open_into(layout, unanswered, tables, SCHEMA, MIGRATIONS)
    }

    /// As `open`, for readers that have `tables` already; it must be empty, so that sled is closed.
    pub(super) fn open_into(
        layout: &Layout,
        unanswered: Unanswered,
        tables: SharedTables,
        schema: u32,
        migrations: &[Migration],
    ) -> Result<Disk, OpenError> {
        let fail = |err: Failure| err.open_error(layout.folder());
        if layout.inspect()? != Found::Ready {
            return Err(layout.damaged("it is not there any more"));
        }
        // It will have to write, and without room opening would only read everything to say so.
        if unanswered == Unanswered::Dropped && !has_room(layout.folder(), 0).map_err(fail)? {
            return Err(fail(Failure::NoRoom));
        }
        let acknowledged = layout.open_acknowledged()?;
        let mut journal = Journal::open(&layout.journal())?;
        let opened = Tables::open(&layout.sled(), schema).map_err(fail)?;
        let state = opened.state().clone();
        let mut last = journal.recover(state.epoch, state.epoch_start)?;
        if last.max(state.sequence) < acknowledged.sequence {
            return Err(layout.damaged(&format!(
                "it ends at commit {}, and commit {} was acknowledged",
                last.max(state.sequence),
                acknowledged.sequence
            )));
        }
        if unanswered == Unanswered::Dropped {
            last = last.min(acknowledged.sequence);
        }
        let sequence = last.max(state.sequence);
        *tables.write() = Some(opened);
        let mut disk = Disk { tables, journal, acknowledged, sequence };
        // A new epoch even when there is nothing to take over, so that a record that was dropped stays dropped.
        if !disk.is_settled() || unanswered == Unanswered::Dropped {
            disk.acknowledged.set(sequence)?;
            disk.take_over().map_err(fail)?;
        }
        if let Some(tables) = disk.tables.write().as_mut() {
            migrate(tables, migrations).map_err(fail)?;
        }
        Ok(disk)
    }

    pub(super) fn tables(&self) -> SharedTables {
        self.tables.clone()
    }

    pub(super) fn identity(&self) -> Result<StoreIdentity, Failure> {
        let damaged = || Failure::Damaged("the identity of this controller is missing".to_owned());
        let tables = self.tables.read();
        let row = tables.as_ref().ok_or_else(damaged)?.get(&Table::Meta.key(IDENTITY))?;
        let identity: IdentityV1 = serde_json::from_slice(&row.ok_or_else(damaged)?)
            .map_err(|err| Failure::Damaged(format!("the identity of this controller: {err}")))?;
        let mut token_secret = [0; 32];
        hex::decode_to_slice(&identity.token_secret, &mut token_secret)
            .map_err(|err| Failure::Damaged(format!("the identity of this controller: {err}")))?;
        Ok(StoreIdentity { controller_id: identity.controller_id, token_secret })
    }

    /// Everything is in the tables, nothing in the journal.
    pub(super) fn is_settled(&self) -> bool {
        self.journal.is_empty()
    }

    /// Makes one record of `commits` durable.
    pub(super) fn append(&mut self, commits: &[Operations]) -> Result<(), Failure> {
        let n_bytes: usize = commits.iter().map(|it| it.bytes().len()).sum();
        if !self.journal.is_empty() && JOURNAL_LIMIT < self.journal.len() + n_bytes as u64 {
            self.settle()?;
        }
        let sequence = self.sequence + 1;
        self.journal.append(sequence, commits.iter().map(Operations::bytes))?;
        self.acknowledged.set(sequence)?;
        self.sequence = sequence;
        Ok(())
    }

    /// Waits for readers and brings the tables up to the last commit.
    pub(super) fn settle(&mut self) -> Result<(), Failure> {
        if self.is_settled() { Ok(()) } else { self.take_over() }
    }

    /// As `settle`, unless it would have to wait or the disk is too full.
    pub(super) fn settle_if_free(&mut self) -> Result<(), Failure> {
        let is_free = match self.tables.try_write().as_deref() {
            Some(Some(tables)) => tables.has_room_for(self.journal.len())?,
            _ => false,
        };
        if is_free { self.settle() } else { Ok(()) }
    }

    /// Applies the records in several batches, each of whole records: sled keeps all that a batch replaces in memory
    /// until the batch is done.
    fn take_over(&mut self) -> Result<(), Failure> {
        let mut tables = self.tables.write();
        let tables = tables.as_mut().ok_or_else(closed)?;
        if !tables.has_room_for(self.journal.len())? {
            return Err(Failure::NoRoom);
        }
        let mut batch: Vec<Record> = Vec::new();
        let mut n_bytes = 0;
        for record in self.journal.records() {
            let record = record?;
            if record.sequence <= tables.state().sequence || self.sequence < record.sequence {
                continue;
            }
            n_bytes += record.operations.len();
            batch.push(record);
            if BATCH <= n_bytes {
                apply(tables, &batch)?;
                batch.clear();
                n_bytes = 0;
            }
        }
        apply(tables, &batch)?;
        let epoch = tables.state().epoch + 1;
        tables.apply(std::iter::empty(), |state| {
            state.sequence = self.sequence;
            state.epoch = epoch;
            state.epoch_start = self.sequence;
        })?;
        tables.make_durable()?;
        // Not before the tables are durable, and not after what the journal holds is given up.
        self.acknowledged.sync()?;
        self.journal.reset(epoch, self.sequence);
        Ok(())
    }
}

fn apply(tables: &mut Tables, records: &[Record]) -> Result<(), Failure> {
    let Some(last) = records.last() else { return Ok(()) };
    tables.apply(records.iter().map(|it| it.operations.as_slice()), |state| {
        state.sequence = last.sequence;
    })
}

pub(super) fn closed() -> Failure {
    Failure::Io(std::io::Error::other("an earlier failure closed the database; load it anew"))
}
