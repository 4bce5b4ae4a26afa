//! Every change of a batch on its way to the store, in order.

use std::sync::Arc;

use orch_domain::Error;
use orch_domain::batch::{BatchChange, Kept, Part};
use serde_json::Value;
use tokio::sync::watch;

use super::bench::Record;
use crate::Orch;

/// Whether a commit is durable. None: not yet.
pub(super) type Durable = watch::Receiver<Option<Result<(), String>>>;

pub(super) enum Journal {
    Ledger(Arc<Orch>),
    /// Benches measure with and without.
    Nothing,
    Recorded(Arc<Record>),
}

impl Journal {
    /// Queues the changes and returns at once. `done` is told what came of it, before those who wait for it.
    pub(super) fn write(
        &self,
        changes: Vec<BatchChange>,
        done: impl FnOnce(Result<(), Error>) + Send + 'static,
    ) -> Durable {
        let (tell, durable) = watch::channel(None);
        let settle = move |written: Result<(), Error>| {
            let told = written.as_ref().copied().map_err(Error::to_string);
            done(written);
            tell.send_replace(Some(told));
        };
        match self {
            Journal::Nothing => settle(Ok(())),
            Journal::Recorded(record) => record.write(changes, Box::new(settle)),
            Journal::Ledger(orch) => match orch.ledger.queue_batches(changes, None) {
                Ok(queued) => {
                    let of_task = orch.clone();
                    orch.tracker.spawn(async move {
                        settle(of_task.ledger.batches_durable(queued).await);
                    });
                }
                Err(err) => settle(Err(err)),
            },
        }
        durable
    }
}

impl Journal {
    /// What a bench has of a part. Of a ledger, the store knows.
    pub(super) fn recorded(&self, part: Part) -> Option<Arc<Value>> {
        let Journal::Recorded(record) = self else { return None };
        match record.run(part)?.result? {
            Kept::Inline(it) => Some(it),
            Kept::Large { .. } => None,
        }
    }
}

/// Returns when it is durable.
pub(super) async fn settled(mut durable: Durable) -> Result<(), String> {
    match durable.wait_for(Option::is_some).await {
        Ok(it) => it.clone().unwrap_or(Ok(())),
        Err(_) => Err("the server ends".to_owned()),
    }
}
