//! What a client up to 2025-11-25 settles once for its session. Later clients say everything with each request.

use std::collections::BTreeMap;
use std::sync::Arc;

use orch_domain::Error;
use orch_domain::caller::Caller;
use parking_lot::Mutex;
use rmcp::RoleServer;
#[expect(deprecated, reason = "clients up to 2025-11-25 still ask for logging")]
use rmcp::model::LoggingLevel;
use rmcp::service::Peer;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Face;
use super::resource::Uri;
use super::subscription::{MAX_URIS, Outlet, Subscription, Wanted, WantedLists};

/// Made for every request of the stateless era too, so it holds nothing until it is used.
#[derive(Default)]
pub(super) struct Session(Mutex<State>);

#[derive(Default)]
#[expect(deprecated, reason = "clients up to 2025-11-25 still ask for logging")]
struct State {
    log_level: Option<LoggingLevel>,
    watch: Option<Watch>,
    listens: Listens,
}

/// Subscriptions of the later era that were promised and have not begun.
#[derive(Default)]
struct Listens {
    n_promised: u32,
    /// How many changes there were before the first of them was promised.
    n_changes: u64,
}

/// The subscription of the session; it ends when the session is dropped.
struct Watch {
    wanted: Arc<Wanted>,
    _ends_it: DropGuard,
}

#[expect(deprecated, reason = "clients up to 2025-11-25 still ask for logging")]
impl Session {
    pub(super) fn set_log_level(&self, level: LoggingLevel) {
        self.0.lock().log_level = Some(level);
    }

    pub(super) fn log_level(&self) -> Option<LoggingLevel> {
        self.0.lock().log_level
    }

    /// A subscription is about to be acknowledged, and begins some time after that.
    pub(super) fn promise_listen(&self, face: &Face) {
        let n_changes = face.changes.count(&face.orch);
        let listens = &mut self.0.lock().listens;
        if listens.n_promised == 0 {
            listens.n_changes = n_changes;
        }
        listens.n_promised += 1;
    }

    /// A promised subscription begins. Whether anything changed since it was promised; with several at once, since the
    /// first of them was.
    pub(super) fn begin_listen(&self, face: &Face) -> bool {
        let listens = &mut self.0.lock().listens;
        listens.n_promised = listens.n_promised.saturating_sub(1);
        listens.n_changes != face.changes.count(&face.orch)
    }

    /// Begins to tell the client when resources come and go.
    pub(super) fn watch(&self, face: &Arc<Face>, caller: Caller, peer: &Peer<RoleServer>) {
        self.wanted(face, caller, peer);
    }

    fn wanted(&self, face: &Arc<Face>, caller: Caller, peer: &Peer<RoleServer>) -> Arc<Wanted> {
        let mut state = self.0.lock();
        let watch = state.watch.get_or_insert_with(|| {
            let (wanted, ended) = (Arc::<Wanted>::default(), CancellationToken::new());
            let subscription = Subscription {
                face: face.clone(),
                caller,
                wanted: wanted.clone(),
                wants: WantedLists::ALL,
                outlet: Outlet::Session(peer.clone()),
                changes: face.changes.subscribe(&face.orch),
                has_missed: false,
                behind: BTreeMap::new(),
            };
            face.orch.tracker.spawn(subscription.run(ended.clone()));
            Watch { wanted, _ends_it: ended.drop_guard() }
        });
        watch.wanted.clone()
    }

    pub(super) fn subscribe(
        &self,
        face: &Arc<Face>,
        caller: Caller,
        peer: &Peer<RoleServer>,
        uri: Uri,
        as_written: String,
    ) -> Result<(), Error> {
        if self.wanted(face, caller, peer).add(uri, as_written) {
            return Ok(());
        }
        Err(Error::conflict(format!(
            "this session is subscribed to {MAX_URIS} resources already; unsubscribe from some first"
        )))
    }

    pub(super) fn unsubscribe(&self, uri: &Uri) {
        if let Some(watch) = &self.0.lock().watch {
            watch.wanted.remove(uri);
        }
    }
}
