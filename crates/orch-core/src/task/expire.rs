//! Forgets what has been kept long enough: terminated instances, port quarantines, old audit.

use std::sync::Arc;

use orch_domain::audit::AuditId;

use crate::Orch;

pub(super) async fn activate(orch: Arc<Orch>) -> String {
    let now = orch.clock.now();
    let written = orch
        .ledger
        .write(None, |book| Ok((book.expire_terminated(now), book.release_quarantines(now))))
        .await;
    let last = orch.ledger.store().last_audit_id().0;
    let trimmed = match last.checked_sub(orch.settings.audit_kept) {
        Some(oldest @ 1..) => {
            let orch = orch.clone();
            let trim = move || orch.ledger.store().trim_audit(AuditId(oldest));
            tokio::task::spawn_blocking(trim).await.ok().and_then(Result::ok).unwrap_or(0)
        }
        _ => 0,
    };
    match written {
        Ok((n_instances, n_ports)) => {
            format!(
                "forgot {n_instances} terminated instances, {n_ports} port quarantines, {trimmed} audit entries"
            )
        }
        Err(err) => format!("failed: {err}"),
    }
}
