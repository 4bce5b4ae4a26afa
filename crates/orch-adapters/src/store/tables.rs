//! The tables in sled: one tree that changes at checkpoints only, each in one atomic batch that also says what the whole
//! should be afterwards. A database that does not agree with that has lost or changed something and is refused.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use orch_domain::audit::AuditId;
use serde::{Deserialize, Serialize};

use super::error::{Failure, catching};
use super::table::{Reader, Table, audit_id_of_key, shown_key};

/// Pages kept in memory. Small, because everything but the audit is in the book of orch-core anyway.
const CACHE: u64 = 8 << 20;
/// How often sled looks for half-empty segments to clean; it does that in no other way. Nothing waits for it.
const CLEANING_MS: u64 = 5_000;
/// What sled may need beyond four times the rows (it writes whole pages, several times).
const SPARE_DISK: u64 = 4 << 20;

/// The row that describes all others.
pub(super) const STATE: &[u8] = b"mstate";

/// What the whole is at a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) schema: u32,
    /// Of the last commit that is in the tables.
    pub(super) sequence: u64,
    /// Of the records that come after it in the journal.
    pub(super) epoch: u64,
    /// The last commit before those records.
    pub(super) epoch_start: u64,
    /// The sum of the marks of all rows but this one: any row lost, changed or of an older time shows.
    digest: u64,
    counts: BTreeMap<String, u64>,
    /// The highest ever given, so that trimming does not make ids return.
    last_audit: AuditId,
}

impl State {
    pub(super) fn new(schema: u32) -> State {
        State {
            schema,
            sequence: 0,
            epoch: 1,
            epoch_start: 0,
            digest: 0,
            counts: BTreeMap::new(),
            last_audit: AuditId(0),
        }
    }

    pub(super) fn last_audit(&self) -> AuditId {
        self.last_audit
    }

    pub(super) fn restore_last_audit(&mut self, id: AuditId) {
        self.last_audit = self.last_audit.max(id);
    }

    pub(super) fn count(&self, table: Table) -> u64 {
        self.counts.get(table.name()).copied().unwrap_or(0)
    }

    fn add(&mut self, key: &[u8], row: &[u8]) {
        self.digest = self.digest.wrapping_add(mark(key, row));
        if let Some(table) = Table::of_key(key) {
            *self.counts.entry(table.name().to_owned()).or_default() += 1;
        }
        self.last_audit = self.last_audit.max(audit_id_of_key(key).unwrap_or_default());
    }

    fn remove(&mut self, key: &[u8], row: &[u8]) {
        self.digest = self.digest.wrapping_sub(mark(key, row));
        if let Some(table) = Table::of_key(key)
            && let Some(count) = self.counts.get_mut(table.name())
        {
            *count = count.saturating_sub(1);
        }
    }
}

/// A number for a row, spread over 64 bits so that sums of them do not collide by structure.
fn mark(key: &[u8], row: &[u8]) -> u64 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(&[0]);
    hasher.update(row);
    let seed = u64::from(hasher.finalize()) | (row.len() as u64) << 32;
    // The finaliser of SplitMix64.
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

pub(super) struct Tables {
    /// Taken out only to be dropped where a panic of it is caught.
    db: Option<sled::Db>,
    /// The file of sled's log. sled syncs what it writes with `sync_file_range`, which neither writes the file's length
    /// nor empties the cache of the disk.
    log: File,
    folder: PathBuf,
    state: State,
    synced_blobs: HashSet<OsString>,
}

impl Tables {
    pub(super) fn create(folder: &Path, state: State) -> Result<Tables, Failure> {
        let db = open_sled(folder)?;
        let log = open_log(folder)?;
        let synced_blobs = HashSet::new();
        let mut tables =
            Tables { db: Some(db), log, folder: folder.to_owned(), state, synced_blobs };
        tables.apply(std::iter::empty(), |_| {})?;
        Ok(tables)
    }

    /// Opens what must be there, and checks every row of it.
    pub(super) fn open(folder: &Path, known_schema: u32) -> Result<Tables, Failure> {
        let db = open_sled(folder)?;
        let log = open_log(folder)?;
        let found = catching("the database", || read_state(&db, known_schema));
        let (state, found) = match found {
            Ok(state) => (state, Ok(())),
            Err(err) => (State::new(0), Err(err)),
        };
        let synced_blobs = HashSet::new();
        let tables = Tables { db: Some(db), log, folder: folder.to_owned(), state, synced_blobs };
        found?;
        tables.verify()?;
        Ok(tables)
    }

    pub(super) fn state(&self) -> &State {
        &self.state
    }

    fn db(&self) -> &sled::Db {
        self.db.as_ref().expect("only `drop` takes it out")
    }

    fn verify(&self) -> Result<(), Failure> {
        let mut seen = State::new(self.state.schema);
        self.each(b"", |key, row| {
            if key != STATE {
                if Table::of_key(key).is_none() {
                    return Err(Failure::Damaged(format!("{} is of no table", shown_key(key))));
                }
                seen.add(key, row);
            }
            Ok(true)
        })?;
        for table in Table::ALL {
            let (seen, expected) = (seen.count(table), self.state.count(table));
            if seen != expected {
                return Err(Failure::Damaged(format!(
                    "table `{}` has {seen} rows and should have {expected}",
                    table.name()
                )));
            }
        }
        if seen.digest != self.state.digest {
            return Err(Failure::Damaged(
                "its rows are not the ones that were written last".to_owned(),
            ));
        }
        Ok(())
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Failure> {
        catching("the database", || Ok(self.db().get(key)?.map(|it| it.to_vec())))
    }

    /// Every row whose key begins with `prefix`, in order, until `visit` says false.
    pub(super) fn each(
        &self,
        prefix: &[u8],
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        catching("the database", || {
            for row in self.db().scan_prefix(prefix) {
                let (key, row) = row?;
                if !visit(&key, &row)? {
                    break;
                }
            }
            Ok(())
        })
    }

    /// As `each`, for the keys from `start` to before `end`.
    pub(super) fn each_from(
        &self,
        start: &[u8],
        end: &[u8],
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        catching("the database", || {
            for row in self.db().range(start..end) {
                let (key, row) = row?;
                if !visit(&key, &row)? {
                    break;
                }
            }
            Ok(())
        })
    }

    /// As `each`, from the last key below `end` backwards.
    pub(super) fn each_back(
        &self,
        start: &[u8],
        end: &[u8],
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        catching("the database", || {
            for row in self.db().range(start..end).rev() {
                let (key, row) = row?;
                if !visit(&key, &row)? {
                    break;
                }
            }
            Ok(())
        })
    }

    /// Applies operations in order and lets `change` set the rest of the state, all of it or nothing.
    pub(super) fn apply<'a>(
        &mut self,
        operations: impl Iterator<Item = &'a [u8]>,
        change: impl FnOnce(&mut State),
    ) -> Result<(), Failure> {
        let mut rows: BTreeMap<&[u8], Option<&[u8]>> = BTreeMap::new();
        for operation in operations.flat_map(Reader) {
            let (key, row) = operation
                .map_err(|err| Failure::Damaged(format!("a record of the journal: {err}")))?;
            rows.insert(key, row);
        }
        let mut state = self.state.clone();
        catching("the database", || {
            let mut batch = sled::Batch::default();
            for (key, row) in &rows {
                let old = self.db().get(key)?;
                if old.as_deref() == *row {
                    continue;
                }
                if let Some(old) = old {
                    state.remove(key, &old);
                }
                match row {
                    Some(row) => {
                        state.add(key, row);
                        batch.insert(*key, *row);
                    }
                    None => batch.remove(*key),
                }
            }
            change(&mut state);
            batch.insert(STATE, serde_json::to_vec(&state).map_err(std::io::Error::from)?);
            self.db().apply_batch(batch)?;
            Ok(())
        })?;
        self.state = state;
        Ok(())
    }

    /// Returns when everything applied survives a loss of power.
    pub(super) fn make_durable(&mut self) -> Result<(), Failure> {
        catching("the database", || Ok(self.db().flush()?))?;
        // Rows too large for the log are files of their own, which sled does not sync at all.
        let blobs = self.folder.join("blobs");
        let mut is_changed = false;
        for entry in fs_err::read_dir(&blobs)? {
            let entry = entry?;
            if self.synced_blobs.insert(entry.file_name()) {
                fs_err::File::open(entry.path())?.sync_all()?;
                is_changed = true;
            }
        }
        if is_changed {
            super::layout::sync_folder(&blobs)?;
        }
        self.log.sync_data()?;
        Ok(())
    }

    /// Whether sled can write so many bytes of rows. Asked before it begins, because out of space half-way it poisons
    /// itself until it is opened again.
    pub(super) fn has_room_for(&self, n_bytes: u64) -> Result<bool, Failure> {
        has_room(&self.folder, n_bytes)
    }
}

/// As `Tables::has_room_for`, for those that are not open.
pub(super) fn has_room(folder: &Path, n_bytes: u64) -> Result<bool, Failure> {
    let disk = rustix::fs::statvfs(folder).map_err(std::io::Error::from)?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    Ok(SPARE_DISK + 4 * n_bytes <= free)
}

impl Drop for Tables {
    fn drop(&mut self) {
        let db = self.db.take();
        // What it would still write is not needed: everything acknowledged is durable. So a failure changes nothing.
        if let Err(err) = catching("the database", || {
            drop(db);
            Ok(())
        }) {
            tracing::warn!(%err, "closing the database");
        }
    }
}

fn open_sled(folder: &Path) -> Result<sled::Db, Failure> {
    let config =
        sled::Config::new().path(folder).cache_capacity(CACHE).flush_every_ms(Some(CLEANING_MS));
    // After a close in this process, sled's threads may hold the lock of the file for a moment longer. Others cannot have
    // it: the folder is ours.
    let deadline = Instant::now() + Duration::from_secs(3);
    remove_unfinished_snapshots(folder)?;
    loop {
        match catching("the database", || Ok(config.open())) {
            Ok(Ok(db)) => return Ok(db),
            Ok(Err(sled::Error::Io(err)))
                if err.to_string().starts_with("could not acquire lock")
                    && Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(Err(err)) => return Err(err.into()),
            Err(err) => return Err(err),
        }
    }
}

/// sled writes its snapshots (an index of its log, made at each opening) under another name first and renames them when they
/// are durable, but at the next opening takes what a full disk or a crash left under that name for the newest snapshot, and
/// the database for corrupt. Without it, it goes by the snapshot before, which is removed after the renaming only.
fn remove_unfinished_snapshots(folder: &Path) -> Result<(), Failure> {
    if !folder.exists() {
        return Ok(());
    }
    for entry in fs_err::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            fs_err::remove_file(entry.path())?;
            tracing::info!(%name, "removed a snapshot of the database that was never finished");
        }
    }
    Ok(())
}

fn open_log(folder: &Path) -> Result<File, Failure> {
    Ok(fs_err::File::open(folder.join("db"))?.into_parts().0)
}

fn read_state(db: &sled::Db, known_schema: u32) -> Result<State, Failure> {
    #[derive(Deserialize)]
    struct Schema {
        schema: u32,
    }
    let missing = || Failure::Damaged("the row that describes the database is missing".to_owned());
    let unreadable =
        |_| Failure::Damaged("the row that describes the database is not readable".to_owned());
    let row = db.get(STATE)?.ok_or_else(missing)?;
    let Schema { schema } = serde_json::from_slice(&row).map_err(unreadable)?;
    if known_schema < schema {
        return Err(Failure::NewerSchema { found: schema, known: known_schema });
    }
    serde_json::from_slice(&row).map_err(unreadable)
}
