//! All batches that are known: those under way, and those that have ended and are still shown.

use std::collections::BTreeMap;
use std::sync::Arc;

use orch_domain::Error;
use orch_domain::batch::{Batch, BatchChange, Reason};
use orch_domain::name::{BatchId, ClientToken, UserId};
use parking_lot::Mutex;

use super::durations::Durations;
use super::live::Run;
use super::slots::Slots;
use crate::settings::BatchSettings;
use crate::view::batch::StepCounts;
use crate::{Cx, Orch};

pub struct Batches {
    entries: Mutex<BTreeMap<BatchId, Entry>>,
    pub(super) slots: Arc<Slots>,
    pub(super) durations: Durations,
}

#[derive(Clone)]
pub(super) struct Entry {
    /// As it was when it was last written; of one under way, its `run` knows more.
    pub(super) batch: Arc<Batch>,
    pub(super) run: Option<Arc<Run>>,
    /// Of one that has ended, once somebody has counted.
    pub(super) counts: Option<StepCounts>,
}

impl Batches {
    pub(crate) fn new(settings: &BatchSettings) -> Batches {
        Batches {
            entries: Mutex::default(),
            slots: Slots::new(settings.slots.clone()),
            durations: Durations::default(),
        }
    }

    pub(super) fn put(&self, batch: Batch, run: Option<Arc<Run>>) {
        let id = batch.id.clone();
        let entry = Entry { batch: Arc::new(batch), run, counts: None };
        self.entries.lock().insert(id, entry);
    }

    /// Its machine and its results are let go; what is asked of it from now on is read from the store.
    pub(super) fn ended(&self, run: &Run) {
        let live = run.live.lock();
        let (batch, counts) = (Arc::new(live.batch.clone()), live.counts());
        drop(live);
        let entry = Entry { batch, run: None, counts: Some(counts) };
        self.entries.lock().insert(run.id.clone(), entry);
    }

    /// The server ends, and the next one goes on.
    pub(super) fn suspended(&self, id: &BatchId) {
        if let Some(it) = self.entries.lock().get_mut(id) {
            it.run = None;
        }
    }

    pub(super) fn entry(&self, id: &BatchId) -> Option<Entry> {
        self.entries.lock().get(id).cloned()
    }

    pub(super) fn set_counts(&self, id: &BatchId, counts: StepCounts) {
        if let Some(it) = self.entries.lock().get_mut(id) {
            it.counts = Some(counts);
        }
    }

    /// Newest first.
    pub(super) fn all(&self) -> Vec<Entry> {
        self.entries.lock().values().rev().cloned().collect()
    }

    /// Takes a new batch, unless its owner has one with its token: that one then.
    pub(super) fn put_new(&self, run: &Arc<Run>) -> Option<Entry> {
        let batch = run.live.lock().batch.clone();
        let mut entries = self.entries.lock();
        let is_it = |it: &&Entry| {
            it.batch.runs_for.user == batch.runs_for.user
                && it.batch.client_token.is_some()
                && it.batch.client_token == batch.client_token
        };
        if let Some(it) = entries.values().rev().find(is_it) {
            return Some(it.clone());
        }
        let id = batch.id.clone();
        let entry = Entry { batch: Arc::new(batch), run: Some(run.clone()), counts: None };
        entries.insert(id, entry);
        None
    }

    pub(super) fn with_token(&self, owner: &UserId, token: &ClientToken) -> Option<Entry> {
        let entries = self.entries.lock();
        let is_it = |it: &&Entry| {
            it.batch.runs_for.user == *owner && it.batch.client_token.as_ref() == Some(token)
        };
        entries.values().rev().find(is_it).cloned()
    }

    pub(super) fn n_open(&self, owner: &UserId) -> usize {
        let entries = self.entries.lock();
        entries.values().filter(|it| it.run.is_some() && it.batch.runs_for.user == *owner).count()
    }

    pub(super) fn remove(&self, id: &BatchId) {
        self.entries.lock().remove(id);
    }
}

impl Orch {
    /// A batch that `cx` may see. "Not yours" and "not there" are the same.
    pub(super) fn batch_entry(&self, id: &BatchId, cx: &Cx) -> Result<Entry, Error> {
        let caller = cx.caller()?;
        let entry = self.batches.entry(id).filter(|it| caller.sees(&it.batch.runs_for.user));
        entry.ok_or_else(|| no_batch(id))
    }

    /// Withdraws a batch: every call under way is told, and nothing is dispatched once this has returned. What was done
    /// stays done. One that has ended stays as it ended.
    pub async fn cancel_batch(&self, id: &BatchId, cx: &Cx) -> Result<(), Error> {
        let entry = self.batch_entry(id, cx)?;
        let Some(run) = &entry.run else { return Ok(()) };
        let by = cx.maybe_caller().map_or("nobody", |it| it.user.as_str());
        if run.withdraw(Reason::new("Cancelled", format!("it was cancelled by `{by}`"))) {
            tokio::select! {
                () = run.ended.cancelled() => {}
                () = run.left.cancelled() => return Err(Error::Unavailable {
                    message: "the server ends, and the batch may go on when it starts again; look then".to_owned(),
                    source: None,
                }),
            }
        }
        Ok(())
    }

    /// Forgets the oldest of those that have ended, beyond what is kept. Answers how many.
    pub(crate) async fn forget_old_batches(&self) -> usize {
        let ended: Vec<BatchId> = (self.batches.all().into_iter())
            .filter(|it| it.run.is_none() && it.batch.state.has_ended())
            .map(|it| it.batch.id.clone())
            .collect();
        let mut n = 0;
        for id in ended.into_iter().skip(self.settings.batch.kept) {
            let forgotten = self.ledger.commit_batches(vec![BatchChange::Forget(id.clone())], None);
            if forgotten.await.is_err() {
                break;
            }
            self.batches.remove(&id);
            n += 1;
        }
        n
    }
}

pub(super) fn no_batch(id: &BatchId) -> Error {
    Error::NotFound {
        kind: "batch",
        id: id.to_string(),
        hint: "`list_batches` shows yours; those that ended long ago are forgotten".to_owned(),
    }
}
