//! Brings word of changes to one client: gathered for a moment, so that a busy cluster is one message and not fifty.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use orch_domain::caller::Caller;
use parking_lot::Mutex;
use rmcp::RoleServer;
use rmcp::model::{ResourceUpdatedNotificationParam, SubscriptionFilter};
use rmcp::service::{Peer, SubscriptionSink};
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use super::Face;
use super::change::Change;
use super::resource::Uri;

const GATHER: Duration = Duration::from_millis(50);
/// Of one client.
pub(super) const MAX_URIS: usize = 1000;

/// What a client wants to hear about, each URI as the client wrote it. Shared, because sessions add and remove.
pub(super) type Wanted = Arc<Mutex<BTreeMap<Uri, String>>>;

/// The two ways word reaches a client, one per era.
pub(super) enum Outlet {
    Session(Peer<RoleServer>),
    Listen(SubscriptionSink),
}

/// What of `requested` is served: resources that can be read at all, and only so many.
pub(super) fn accepted(requested: &SubscriptionFilter) -> SubscriptionFilter {
    let mut accepted = requested.clone();
    accepted.tools_list_changed = None;
    accepted.prompts_list_changed = None;
    if let Some(uris) = &mut accepted.resource_subscriptions {
        uris.retain(|it| Uri::parse(it).is_some());
        uris.truncate(MAX_URIS);
    }
    accepted
}

pub(super) fn wanted(filter: &SubscriptionFilter) -> Wanted {
    let uris = filter.resource_subscriptions.iter().flatten();
    let wanted = uris.filter_map(|it| Uri::parse(it).map(|uri| (uri, it.clone()))).collect();
    Arc::new(Mutex::new(wanted))
}

/// One client's subscription, for as long as it lasts.
pub(super) struct Subscription {
    pub(super) face: Arc<Face>,
    pub(super) caller: Caller,
    pub(super) wanted: Wanted,
    pub(super) wants_list: bool,
    pub(super) outlet: Outlet,
}

impl Subscription {
    /// Until `ended`, or the server ends.
    pub(super) async fn run(self, ended: CancellationToken) {
        let orch = &self.face.orch;
        let mut changes = self.face.changes.subscribe(orch);
        loop {
            let mut pending = Pending::default();
            let first = tokio::select! {
                change = changes.recv() => change,
                () = ended.cancelled() => return,
                () = self.face.shutdown.cancelled() => return,
                () = orch.shutdown.cancelled() => return,
            };
            match first {
                Ok(change) => self.note(change, &mut pending),
                Err(RecvError::Lagged(_)) => self.note(Change::Everything, &mut pending),
                Err(RecvError::Closed) => return,
            }
            let mut gathered = std::pin::pin!(tokio::time::sleep(GATHER));
            loop {
                tokio::select! {
                    biased;
                    () = ended.cancelled() => return,
                    () = &mut gathered => break,
                    change = changes.recv() => match change {
                        Ok(change) => self.note(change, &mut pending),
                        Err(RecvError::Lagged(_)) => self.note(Change::Everything, &mut pending),
                        Err(RecvError::Closed) => break,
                    },
                }
            }
            // A client that does not read holds up only this loop, which then tells it less and later.
            tokio::select! {
                () = self.tell(pending) => {}
                () = ended.cancelled() => return,
                () = self.face.shutdown.cancelled() => return,
            }
        }
    }

    fn note(&self, change: Change, pending: &mut Pending) {
        let wanted = self.wanted.lock();
        let mut add = |uri: Uri| {
            if let Some(as_written) = wanted.get(&uri) {
                pending.uris.insert(as_written.clone());
            }
        };
        match change {
            Change::Instance { id, owner, list_changed } => {
                add(Uri::Cluster);
                if self.caller.sees(&owner) {
                    add(Uri::Instance(id.clone()));
                    add(Uri::Logs(id));
                    pending.list_changed |= list_changed;
                }
            }
            Change::Node { id, list_changed } => {
                add(Uri::Cluster);
                add(Uri::Node(id));
                pending.list_changed |= list_changed;
            }
            Change::Cluster => add(Uri::Cluster),
            Change::Everything => {
                pending.uris.extend(wanted.values().cloned());
                pending.list_changed = true;
            }
        }
    }

    async fn tell(&self, pending: Pending) {
        if pending.list_changed && self.wants_list {
            // Who is gone is noticed by whoever reads from it, and ends this subscription.
            match &self.outlet {
                Outlet::Session(peer) => drop(peer.notify_resource_list_changed().await),
                Outlet::Listen(sink) => drop(sink.notify_resource_list_changed().await),
            }
        }
        for uri in pending.uris {
            match &self.outlet {
                Outlet::Session(peer) => {
                    let update = ResourceUpdatedNotificationParam::new(uri);
                    drop(peer.notify_resource_updated(update).await);
                }
                Outlet::Listen(sink) => drop(sink.notify_resource_updated(uri).await),
            }
        }
    }
}

#[derive(Default)]
struct Pending {
    uris: BTreeSet<String>,
    list_changed: bool,
}
