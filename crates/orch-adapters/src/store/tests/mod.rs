//! Tests of the store as its users see it.

mod backup_results;
mod batches;
mod behaviour;
mod crash;
mod damage;
mod disk_full;
mod large_results;
mod round_trip;
mod sample;

use std::path::Path;

use orch_core::ports::store::{Commit, Store, StoreError};
use orch_domain::batch::BatchChange;
use orch_domain::book::{Change, Rows};

use super::SledStore;

fn commit(store: &SledStore, commit: Commit) -> Result<(), StoreError> {
    store.commit(commit).blocking_recv().unwrap_or(Err(StoreError::Closed))
}

fn changes(changes: Vec<Change>) -> Commit {
    Commit { changes, ..Commit::default() }
}

fn batches(batches: Vec<BatchChange>) -> Commit {
    Commit { batches, ..Commit::default() }
}

/// Rows in an order of their own, to be compared.
fn sorted(mut rows: Rows) -> Rows {
    rows.instances.sort_by(|a, b| a.id.cmp(&b.id));
    rows.nodes.sort_by(|a, b| a.id.cmp(&b.id));
    rows.ports.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
    rows.users.sort_by(|a, b| a.id.cmp(&b.id));
    rows.api_keys.sort_by(|a, b| a.id.cmp(&b.id));
    rows.registry_credentials.sort_by(|a, b| a.registry.cmp(&b.registry));
    rows.grants.sort_by(|a, b| a.key.cmp(&b.key));
    rows
}

fn shown(rows: Rows) -> String {
    format!("{:#?}", sorted(rows))
}

fn copy(from: &Path, to: &Path) {
    fs_err::create_dir_all(to).unwrap();
    for entry in fs_err::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs_err::copy(entry.path(), target).unwrap();
        }
    }
}
