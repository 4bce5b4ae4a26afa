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
    /// Queues the changes and returns at once. `failed` is told when they could not be written.
    pub(super) fn write(
        &self,
        changes: Vec<BatchChange>,
        failed: impl FnOnce(Error) + Send + 'static,
    ) -> Durable {
        let (tell, durable) = watch::channel(None);
        let orch = match self {
            _ if changes.is_empty() => {
                tell.send_replace(Some(Ok(())));
                return durable;
            }
            Journal::Nothing => {
                tell.send_replace(Some(Ok(())));
                return durable;
            }
            Journal::Recorded(record) => {
                record.write(changes, tell, Box::new(failed));
                return durable;
            }
            Journal::Ledger(orch) => orch,
        };
        match orch.ledger.queue_batches(changes, None) {
            Ok(queued) => {
                let of_task = orch.clone();
                orch.tracker.spawn(async move {
                    let written = of_task.ledger.batches_durable(queued).await;
                    tell.send_replace(Some(written.as_ref().copied().map_err(Error::to_string)));
                    if let Err(err) = written {
                        failed(err);
                    }
                });
            }
            Err(err) => {
                tell.send_replace(Some(Err(err.to_string())));
                failed(err);
            }
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
