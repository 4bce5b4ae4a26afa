//! The database of a data directory that no server has open, for commands that look at it or carry it about.

use std::collections::BTreeMap;
use std::path::Path;

use orch_adapters::store::SledStore;
use orch_core::ports::clock::{Clock, SystemClock};
use orch_domain::time::Timestamp;

/// A backup, as it was made.
pub struct Backup {
    pub created: Timestamp,
    /// Rows of each table.
    pub counts: BTreeMap<String, u64>,
}

/// Whether there is one, in whatever state.
pub fn is_there(data_dir: &Path) -> bool {
    SledStore::is_in(data_dir)
}

/// Opening it checks all of it.
pub fn check(data_dir: &Path) -> anyhow::Result<()> {
    SledStore::open(data_dir)?;
    Ok(())
}

pub fn backup(data_dir: &Path, file: &Path) -> anyhow::Result<Backup> {
    let summary = SledStore::open(data_dir)?.backup(file, SystemClock.now())?;
    Ok(Backup { created: summary.created, counts: summary.counts })
}

pub fn restore(file: &Path, data_dir: &Path) -> anyhow::Result<Backup> {
    let summary = SledStore::restore(file, data_dir)?;
    Ok(Backup { created: summary.created, counts: summary.counts })
}
