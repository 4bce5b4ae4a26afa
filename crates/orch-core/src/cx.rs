//! What a call carries along: who calls, whether they still wait, and where progress goes.

use std::sync::Arc;

use orch_domain::Error;
use orch_domain::audit::{AuditEntry, AuditId};
use orch_domain::caller::Caller;
use parking_lot::Mutex;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::ports::model::Model;

/// Made by a face for each call.
#[derive(Clone)]
pub struct Cx {
    caller: Option<Caller>,
    /// Cancelled when the caller withdraws the call.
    pub cancel: CancellationToken,
    pub progress: Progress,
    scope: Option<Arc<dyn Scope>>,
    model: Option<Arc<dyn Model>>,
    /// Whoever calls keeps large results itself.
    takes_whole: bool,
    audit: Arc<Mutex<AuditDraft>>,
    /// As audit may show them.
    arguments: Option<Arc<Value>>,
}

/// What there is at the endpoint that a call came in by. What it does not show is as if it were not there.
pub trait Scope: Send + Sync {
    /// Of the endpoint; None for the one that has everything. Batches keep it, to find the scope again after a restart.
    fn profile(&self) -> Option<&str> {
        None
    }

    /// Of the servers behind.
    fn shows_server(&self, server: &str) -> bool;

    /// Of a server behind, or of our own as the server `orch`.
    fn shows_tool(&self, server: &str, tool: &str) -> bool;
}

/// What audit will say of this call. Invariant: `is_written` once the entry went along with a commit.
#[derive(Default)]
struct AuditDraft {
    entry: Option<AuditEntry>,
    is_written: bool,
}

impl Cx {
    pub fn new(caller: Option<Caller>) -> Cx {
        Cx {
            caller,
            cancel: CancellationToken::new(),
            progress: Progress::default(),
            scope: None,
            model: None,
            takes_whole: false,
            audit: Arc::default(),
            arguments: None,
        }
    }

    /// `arguments` are shown to whoever reads the audit, so they have no secrets any more.
    pub(crate) fn with_arguments(self, arguments: Value) -> Cx {
        Cx { arguments: Some(Arc::new(arguments)), ..self }
    }

    pub(crate) fn arguments(&self) -> Option<&Value> {
        self.arguments.as_deref()
    }

    pub fn with_cancel(mut self, cancel: CancellationToken) -> Cx {
        self.cancel = cancel;
        self
    }

    pub fn with_progress(mut self, progress: Progress) -> Cx {
        self.progress = progress;
        self
    }

    pub fn with_scope(mut self, scope: Arc<dyn Scope>) -> Cx {
        self.scope = Some(scope);
        self
    }

    /// The model that the connected client lends, for as long as this call lasts.
    pub fn with_model(mut self, model: Arc<dyn Model>) -> Cx {
        self.model = Some(model);
        self
    }

    /// Results come whole, however large they are: the caller keeps them itself, as batches do. For others the gateway cuts
    /// off what would be too much to pass on.
    pub(crate) fn taking_whole(mut self) -> Cx {
        self.takes_whole = true;
        self
    }

    pub fn takes_whole(&self) -> bool {
        self.takes_whole
    }

    pub fn model(&self) -> Option<&Arc<dyn Model>> {
        self.model.as_ref()
    }

    /// The context of another call by the same caller at the same endpoint.
    pub fn anew(&self) -> Cx {
        Cx { scope: self.scope.clone(), ..Cx::new(self.caller.clone()) }
    }

    pub fn scope(&self) -> Option<&Arc<dyn Scope>> {
        self.scope.as_ref()
    }

    /// Whether anything of a server behind is there: at the endpoint, and for the caller.
    pub fn shows_server(&self, server: &str) -> bool {
        self.scope.as_ref().is_none_or(|it| it.shows_server(server))
            && self.caller.as_ref().is_none_or(|it| it.tools.shows_server(server))
    }

    /// Whether a tool is there: at the endpoint, and for the caller.
    pub fn shows_tool(&self, server: &str, tool: &str) -> bool {
        self.is_at_endpoint(server, tool)
            && self.caller.as_ref().is_none_or(|it| it.tools.permits(server, tool))
    }

    /// Whether a tool is there for whoever may use it.
    pub fn is_at_endpoint(&self, server: &str, tool: &str) -> bool {
        self.scope.as_ref().is_none_or(|it| it.shows_tool(server, tool))
    }

    pub fn caller(&self) -> Result<&Caller, Error> {
        self.caller.as_ref().ok_or_else(|| Error::Unauthenticated {
            message: "this needs a login: send `Authorization: Bearer TOKEN` with an API key or the `access_token` of `login`"
                .to_owned(),
        })
    }

    pub fn maybe_caller(&self) -> Option<&Caller> {
        self.caller.as_ref()
    }

    /// Names what the call changes, for audit.
    pub fn audit_target(&self, target: impl std::fmt::Display) {
        if let Some(it) = &mut self.audit.lock().entry {
            it.targets.push(target.to_string());
        }
    }

    pub(crate) fn begin_audit(&self, entry: AuditEntry) {
        *self.audit.lock() = AuditDraft { entry: Some(entry), is_written: false };
    }

    /// The entry to commit along with the first change, so that no durable change lacks its audit.
    pub(crate) fn audit_for_commit(&self) -> Option<AuditEntry> {
        let mut draft = self.audit.lock();
        if draft.is_written {
            return None;
        }
        draft.is_written = draft.entry.is_some();
        draft.entry.clone()
    }

    pub(crate) fn audit_id(&self) -> Option<AuditId> {
        self.audit.lock().entry.as_ref().map(|it| it.id)
    }

    pub(crate) fn audit_entry(&self) -> Option<(AuditEntry, bool)> {
        let draft = self.audit.lock();
        draft.entry.clone().map(|it| (it, draft.is_written))
    }
}

/// Where a long call reports to. Without a listener, reports cost nothing.
#[derive(Clone, Default)]
pub struct Progress(Option<Arc<dyn Fn(ProgressUpdate) + Send + Sync>>);

#[derive(Clone, Debug, PartialEq)]
pub struct ProgressUpdate {
    /// Grows with every update.
    pub progress: f64,
    pub total: Option<f64>,
    pub message: String,
}

impl Progress {
    pub fn to(listener: impl Fn(ProgressUpdate) + Send + Sync + 'static) -> Progress {
        Progress(Some(Arc::new(listener)))
    }

    pub fn is_wanted(&self) -> bool {
        self.0.is_some()
    }

    pub fn report(&self, progress: f64, total: Option<f64>, message: impl Into<String>) {
        if let Some(listener) = &self.0 {
            listener(ProgressUpdate { progress, total, message: message.into() });
        }
    }
}
