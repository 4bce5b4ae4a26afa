//! Forgets what has been kept long enough: terminated instances, port quarantines, old audit, old events and old batches.

use std::sync::Arc;

use orch_domain::audit::AuditId;

use crate::Orch;
use crate::ports::store::{Store, StoreError};

pub(super) async fn activate(orch: Arc<Orch>) -> String {
    let now = orch.clock.now();
    let written = orch
        .ledger
        .write(None, |book| Ok((book.expire_terminated(now), book.release_quarantines(now))))
        .await;
    let last_audit = orch.ledger.store().last_audit_id().0;
    let last_event = orch.ledger.log().extent().newest;
    let n_audit = trim(&orch, last_audit, orch.settings.audit_kept, |store, last| {
        store.trim_audit(AuditId(last))
    });
    let n_audit = n_audit.await;
    let n_events =
        trim(&orch, last_event, orch.settings.events_kept, |store, last| store.trim_events(last));
    let n_events = n_events.await;
    let n_batches = orch.forget_old_batches().await;
    match written {
        Ok((n_instances, n_ports)) => {
            format!(
                "forgot {n_instances} terminated instances, {n_ports} port quarantines, {n_audit} audit entries, {n_events} events, {n_batches} batches"
            )
        }
        Err(err) => format!("failed: {err}"),
    }
}

/// Deletes all but the last `kept`, where it keeps nobody waiting.
async fn trim(
    orch: &Arc<Orch>,
    last: u64,
    kept: u64,
    delete: fn(&dyn Store, u64) -> Result<usize, StoreError>,
) -> usize {
    let Some(oldest @ 1..) = last.checked_sub(kept) else { return 0 };
    let orch = orch.clone();
    let trim = move || delete(orch.ledger.store(), oldest);
    tokio::task::spawn_blocking(trim).await.ok().and_then(Result::ok).unwrap_or(0)
}
