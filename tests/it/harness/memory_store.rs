//! A store that forgets, for tests of what lies above it.

use std::collections::BTreeMap;

use orch_core::ports::store::{AuditQuery, Commit, Store, StoreError, StoreIdentity};
use orch_domain::audit::{AuditEntry, AuditId};
use orch_domain::book::Rows;
use parking_lot::Mutex;
use tokio::sync::oneshot;

pub(crate) struct MemoryStore {
    identity: StoreIdentity,
    audit: Mutex<BTreeMap<AuditId, AuditEntry>>,
}

impl Default for MemoryStore {
    fn default() -> MemoryStore {
        let identity = StoreIdentity { controller_id: "c-test".to_owned(), token_secret: [7; 32] };
        MemoryStore { identity, audit: Mutex::default() }
    }
}

impl Store for MemoryStore {
    fn identity(&self) -> &StoreIdentity {
        &self.identity
    }

    fn load(&self) -> Result<Rows, StoreError> {
        Ok(Rows::default())
    }

    fn commit(&self, commit: Commit) -> oneshot::Receiver<Result<(), StoreError>> {
        self.audit.lock().extend(commit.audit.into_iter().map(|it| (it.id, it)));
        let (sender, receiver) = oneshot::channel();
        sender.send(Ok(())).ok();
        receiver
    }

    fn last_audit_id(&self) -> AuditId {
        AuditId::default()
    }

    fn audit(&self, query: &AuditQuery) -> Result<Vec<AuditEntry>, StoreError> {
        let audit = self.audit.lock();
        let wanted = |it: &&AuditEntry| {
            query.user.as_ref().is_none_or(|user| it.user.as_ref() == Some(user))
                && query.operation.as_ref().is_none_or(|name| it.operation == *name)
        };
        Ok(audit.values().rev().filter(wanted).take(query.limit).cloned().collect())
    }

    fn trim_audit(&self, last: AuditId) -> Result<usize, StoreError> {
        let mut audit = self.audit.lock();
        let n_before = audit.len();
        audit.retain(|id, _| last < *id);
        Ok(n_before - audit.len())
    }
}
