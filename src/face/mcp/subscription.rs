//! Brings word of changes to one client: gathered for a moment, so that a busy cluster is one message and not fifty.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future;
use orch_domain::caller::Caller;
use orch_domain::name::InstanceId;
use parking_lot::Mutex;
use rmcp::RoleServer;
use rmcp::model::{ResourceUpdatedNotificationParam, SubscriptionFilter};
use rmcp::service::{Peer, SubscriptionSink};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, broadcast};
use tokio_util::sync::CancellationToken;

use super::Face;
use super::change::Change;
use super::follow::LogWatch;
use super::resource::Uri;

const GATHER: Duration = Duration::from_millis(100);
/// Of one client.
pub(super) const MAX_URIS: usize = 1000;

/// What a client wants to hear about. Shared, because sessions add and remove.
#[derive(Default)]
pub(super) struct Wanted {
    /// Each as the client wrote it.
    uris: Mutex<BTreeMap<Uri, String>>,
    added: Notify,
}

impl Wanted {
    pub(super) fn of(filter: &SubscriptionFilter) -> Wanted {
        let uris = filter.resource_subscriptions.iter().flatten();
        let uris = uris.filter_map(|it| Uri::parse(it).map(|uri| (uri, it.clone()))).collect();
        Wanted { uris: Mutex::new(uris), added: Notify::new() }
    }

    /// False: there are too many already.
    pub(super) fn add(&self, uri: Uri, as_written: String) -> bool {
        let mut uris = self.uris.lock();
        if MAX_URIS <= uris.len() && !uris.contains_key(&uri) {
            return false;
        }
        uris.insert(uri, as_written);
        self.added.notify_one();
        true
    }

    pub(super) fn remove(&self, uri: &Uri) {
        self.uris.lock().remove(uri);
    }

    fn logs(&self) -> Vec<InstanceId> {
        let uris = self.uris.lock();
        let logs = uris.keys().filter_map(|it| match it {
            Uri::Logs(id) => Some(id.clone()),
            _ => None,
        });
        logs.collect()
    }
}

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

/// One client's subscription, for as long as it lasts.
pub(super) struct Subscription {
    pub(super) face: Arc<Face>,
    pub(super) caller: Caller,
    pub(super) wanted: Arc<Wanted>,
    pub(super) wants_list: bool,
    pub(super) outlet: Outlet,
    /// Made before the client is told that it is subscribed, so that it misses nothing from then on.
    pub(super) changes: broadcast::Receiver<Change>,
    /// Something changed between the two after all.
    pub(super) has_missed: bool,
}

impl Subscription {
    /// Until `ended`, or the server ends.
    pub(super) async fn run(mut self, ended: CancellationToken) {
        let orch = self.face.orch.clone();
        let mut logs = LogWatch::default();
        let mut pending = Pending::default();
        if self.has_missed {
            self.note(Ok(Change::Everything), &mut pending);
        }
        loop {
            logs.follow(&orch, &self.caller, &self.wanted.logs());
            tokio::select! {
                () = future::ready(()), if !pending.uris.is_empty() || pending.list_changed => {}
                change = self.changes.recv() => self.note(change, &mut pending),
                id = logs.next() => self.note_lines(id, &mut pending),
                () = self.wanted.added.notified() => continue,
                () = ended.cancelled() => return,
                () = self.face.shutdown.cancelled() => return,
                () = orch.shutdown.cancelled() => return,
            }
            let mut gathered = std::pin::pin!(tokio::time::sleep(GATHER));
            loop {
                tokio::select! {
                    biased;
                    () = ended.cancelled() => return,
                    () = &mut gathered => break,
                    change = self.changes.recv() => self.note(change, &mut pending),
                    id = logs.next() => self.note_lines(id, &mut pending),
                }
            }
            // A client that does not read holds up only this loop, which then tells it less and later.
            tokio::select! {
                () = self.tell(&pending) => {}
                () = ended.cancelled() => return,
                () = self.face.shutdown.cancelled() => return,
                () = orch.shutdown.cancelled() => return,
            }
            pending.changed.iter().for_each(|it| logs.retry(it));
            pending = Pending::default();
        }
    }

    fn note_lines(&self, id: InstanceId, pending: &mut Pending) {
        pending.uris.extend(self.wanted.uris.lock().get(&Uri::Logs(id)).cloned());
    }

    fn note(&self, change: Result<Change, RecvError>, pending: &mut Pending) {
        let wanted = self.wanted.uris.lock();
        let mut add = |uri: Uri| {
            if let Some(as_written) = wanted.get(&uri) {
                pending.uris.insert(as_written.clone());
            }
        };
        match change.unwrap_or(Change::Everything) {
            Change::Instance { id, owner, list_changed } => {
                add(Uri::Cluster);
                if self.caller.sees(&owner) {
                    add(Uri::Events);
                    add(Uri::Instance(id.clone()));
                    add(Uri::Logs(id.clone()));
                    pending.changed.insert(id);
                    pending.list_changed |= list_changed;
                }
            }
            Change::Node { id, list_changed } => {
                add(Uri::Cluster);
                add(Uri::Events);
                add(Uri::Node(id));
                pending.list_changed |= list_changed;
            }
            Change::Other { owner } => {
                if owner.is_none_or(|it| self.caller.sees(&it)) {
                    add(Uri::Events);
                }
            }
            Change::Cluster => add(Uri::Cluster),
            Change::Everything => {
                pending.uris.extend(wanted.values().cloned());
                pending.list_changed = true;
            }
        }
    }

    async fn tell(&self, pending: &Pending) {
        if pending.list_changed && self.wants_list {
            // Who is gone is noticed by whoever reads from it, and ends this subscription.
            match &self.outlet {
                Outlet::Session(peer) => drop(peer.notify_resource_list_changed().await),
                Outlet::Listen(sink) => drop(sink.notify_resource_list_changed().await),
            }
        }
        for uri in &pending.uris {
            match &self.outlet {
                Outlet::Session(peer) => {
                    let update = ResourceUpdatedNotificationParam::new(uri.as_str());
                    drop(peer.notify_resource_updated(update).await);
                }
                Outlet::Listen(sink) => drop(sink.notify_resource_updated(uri.as_str()).await),
            }
        }
    }
}

#[derive(Default)]
struct Pending {
    uris: BTreeSet<String>,
    changed: BTreeSet<InstanceId>,
    list_changed: bool,
}
