//! Every change of a batch on its way to the store, in order.

use std::sync::Arc;

use orch_domain::Error;
use orch_domain::batch::BatchChange;
use tokio::sync::watch;

use crate::Orch;

/// Whether a commit is durable. None: not yet.
pub(super) type Durable = watch::Receiver<Option<Result<(), String>>>;

pub(super) enum Journal {
    Ledger(Arc<Orch>),
    /// Benches measure with and without.
    Nothing,
}

impl Journal {
    /// Queues the changes and returns at once. `failed` is told when they could not be written.
    pub(super) fn write(
        &self,
        changes: Vec<BatchChange>,
        failed: impl FnOnce(Error) + Send + 'static,
    ) -> Durable {
        let (tell, durable) = watch::channel(None);
        let Journal::Ledger(orch) = self else {
            tell.send_replace(Some(Ok(())));
            return durable;
        };
        if changes.is_empty() {
            tell.send_replace(Some(Ok(())));
            return durable;
        }
        match orch.ledger.queue_batches(changes, None) {
            Ok(queued) => {
                let of_task = orch.clone();
                orch.tracker.spawn(async move {
                    let written = of_task.ledger.batches_durable(queued).await;
                    tell.send_replace(Some(
                        written.as_ref().map(|()| ()).map_err(Error::to_string),
                    ));
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

/// Returns when it is durable.
pub(super) async fn settled(mut durable: Durable) -> Result<(), String> {
    match durable.wait_for(Option::is_some).await {
        Ok(it) => it.clone().unwrap_or(Ok(())),
        Err(_) => Err("the server ends".to_owned()),
    }
}
