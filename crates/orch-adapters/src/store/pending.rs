//! Which batches may have rows in the journal only. Reads of others need no checkpoint, so that looking at a batch that has
//! ended, page by page, does not slow down those that run.

use std::collections::HashMap;

use orch_domain::batch::BatchChange;
use orch_domain::name::BatchId;
use parking_lot::Mutex;

#[derive(Default)]
pub(super) struct Pending {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Counts the commits that changed batches.
    n_commits: u64,
    /// The last commit of each batch that is not known to be in the tables.
    last: HashMap<BatchId, u64>,
}

impl Pending {
    /// To be called once the commit is queued: one that is noted here is in front of any checkpoint asked for later.
    pub(super) fn note(&self, changes: &[BatchId]) {
        if changes.is_empty() {
            return;
        }
        let mut state = self.state.lock();
        state.n_commits += 1;
        let n_commits = state.n_commits;
        for id in changes {
            match state.last.get_mut(id) {
                Some(it) => *it = n_commits,
                None => drop(state.last.insert(id.clone(), n_commits)),
            }
        }
    }

    pub(super) fn has(&self, id: &BatchId) -> bool {
        self.state.lock().last.contains_key(id)
    }

    /// To be asked before a checkpoint, and told when it is done.
    pub(super) fn mark(&self) -> u64 {
        self.state.lock().n_commits
    }

    pub(super) fn settled(&self, mark: u64) {
        self.state.lock().last.retain(|_, it| mark < *it);
    }
}

/// The batches of the changes, of neighbours only one.
pub(super) fn batches_of(changes: &[BatchChange]) -> Vec<BatchId> {
    let mut ids: Vec<BatchId> = Vec::new();
    for change in changes {
        let id = match change {
            BatchChange::Put(it) => &it.id,
            BatchChange::Define { batch, .. } | BatchChange::Run { batch, .. } => batch,
            BatchChange::Forget(id) => id,
        };
        if ids.last() != Some(id) {
            ids.push(id.clone());
        }
    }
    ids
}

#[cfg(test)]
mod tests {
    use orch_domain::time::Timestamp;

    use super::*;

    #[test]
    fn a_batch_is_pending_until_a_checkpoint_that_was_asked_for_later() {
        let ids = [1, 2].map(|n| BatchId::new(Timestamp::ZERO, n));
        let pending = Pending::default();
        assert!(!pending.has(&ids[0]));
        pending.note(&ids);
        let mark = pending.mark();
        pending.note(&ids[1..]);
        pending.settled(mark);
        assert_eq!(ids.each_ref().map(|it| pending.has(it)), [false, true]);
        pending.settled(pending.mark());
        assert!(!pending.has(&ids[1]) && pending.state.lock().last.is_empty());
    }
}
