//! Reading the audit back.

use std::sync::Arc;

use orch_domain::Error;
use orch_domain::audit::AuditEntry;

use crate::Orch;
use crate::ports::store::AuditQuery;

impl Orch {
    /// Read from disk, so it runs where it keeps nobody waiting.
    pub async fn audit(self: &Arc<Orch>, query: AuditQuery) -> Result<Vec<AuditEntry>, Error> {
        let orch = self.clone();
        let read = move || orch.ledger.store().audit(&query);
        let entries = tokio::task::spawn_blocking(read).await.map_err(Error::internal)?;
        entries.map_err(|err| Error::Unavailable {
            message: "the audit could not be read; the server's log says why".to_owned(),
            source: Some(Box::new(err)),
        })
    }
}
