//! Brings word of changes to one client: gathered for a moment, so that a busy cluster is one message and not fifty.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future;
use orch_domain::caller::Caller;
use orch_domain::name::InstanceId;
use orch_gateway::catalog::List;
use orch_gateway::members::Members;
use orch_gateway::session::watch::Watch;
use orch_gateway::view::View;
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
pub(super) fn accepted(face: &Face, requested: &SubscriptionFilter) -> SubscriptionFilter {
    let mut accepted = requested.clone();
    if let Some(uris) = &mut accepted.resource_subscriptions {
        let is_behind = |uri: &str| {
            face.hub.as_ref().is_some_and(|it| it.owner_of(uri, &View::default()).is_some())
        };
        uris.retain(|it| Uri::parse(it).is_some() || is_behind(it));
        uris.truncate(MAX_URIS);
    }
    accepted
}

/// Of which lists a client wants to hear that they changed.
#[derive(Clone, Copy)]
pub(super) struct WantedLists {
    pub(super) resources: bool,
    pub(super) tools: bool,
    pub(super) prompts: bool,
}

impl WantedLists {
    pub(super) const ALL: WantedLists = WantedLists { resources: true, tools: true, prompts: true };

    pub(super) fn of(filter: &SubscriptionFilter) -> WantedLists {
        WantedLists {
            resources: filter.resources_list_changed == Some(true),
            tools: filter.tools_list_changed == Some(true),
            prompts: filter.prompts_list_changed == Some(true),
        }
    }
}

/// One client's subscription, for as long as it lasts.
pub(super) struct Subscription {
    pub(super) face: Arc<Face>,
    pub(super) caller: Caller,
    pub(super) wanted: Arc<Wanted>,
    pub(super) wants: WantedLists,
    pub(super) outlet: Outlet,
    /// Made before the client is told that it is subscribed, so that it misses nothing from then on.
    pub(super) changes: broadcast::Receiver<Change>,
    /// Something changed between the two after all.
    pub(super) has_missed: bool,
    /// Resources of servers behind, each watched there.
    pub(super) behind: BTreeMap<String, Watch>,
}

/// Begins to watch those of `uris` that servers behind have and `view` shows.
pub(super) async fn watch_behind(
    face: &Face,
    view: &View,
    uris: &[String],
) -> BTreeMap<String, Watch> {
    let mut watches = BTreeMap::new();
    let Some(hub) = &face.hub else { return watches };
    for uri in uris.iter().filter(|it| Uri::parse(it).is_none()) {
        let Some(server) = hub.owner_of(uri, view) else { continue };
        match server.watch(uri).await {
            Ok(watch) => drop(watches.insert(uri.clone(), watch)),
            Err(err) => tracing::debug!("a resource of `{}` is not watched: {err}", server.name),
        }
    }
    watches
}

impl Subscription {
    /// Until `ended`, or the server ends.
    pub(super) async fn run(mut self, ended: CancellationToken) {
        let orch = self.face.orch.clone();
        let mut logs = LogWatch::default();
        let mut pending = Pending::default();
        let mut behind = self.face.hub.as_ref().map(|it| it.changes());
        if self.has_missed {
            self.note(Ok(Change::Everything), &mut pending);
        }
        loop {
            logs.follow(&orch, &self.caller, &self.wanted.logs());
            tokio::select! {
                () = future::ready(()), if !pending.is_empty() => {}
                change = changed_behind(&mut behind) => self.note_behind(change, &mut pending),
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
                    change = changed_behind(&mut behind) => self.note_behind(change, &mut pending),
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

    /// None: more changed than was kept.
    fn note_behind(&self, change: Option<Behind>, pending: &mut Pending) {
        match change {
            Some(Behind::List(list)) => pending.note_list(list),
            Some(Behind::Updated { server, uri }) => {
                if self.behind.get(&uri).is_some_and(|it| *it.server() == *server) {
                    pending.uris.insert(uri);
                }
            }
            None => {
                List::ALL.into_iter().for_each(|it| pending.note_list(it));
                pending.uris.extend(self.behind.keys().cloned());
            }
        }
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
        if pending.tools_changed && self.wants.tools {
            match &self.outlet {
                Outlet::Session(peer) => drop(peer.notify_tool_list_changed().await),
                Outlet::Listen(sink) => drop(sink.notify_tool_list_changed().await),
            }
        }
        if pending.prompts_changed && self.wants.prompts {
            match &self.outlet {
                Outlet::Session(peer) => drop(peer.notify_prompt_list_changed().await),
                Outlet::Listen(sink) => drop(sink.notify_prompt_list_changed().await),
            }
        }
        if pending.list_changed && self.wants.resources {
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
    tools_changed: bool,
    prompts_changed: bool,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.uris.is_empty() && !self.list_changed && !self.tools_changed && !self.prompts_changed
    }

    fn note_list(&mut self, list: List) {
        match list {
            List::Tools => self.tools_changed = true,
            List::Prompts => self.prompts_changed = true,
            List::Resources | List::Templates => self.list_changed = true,
        }
    }
}

/// What changed at a server behind.
enum Behind {
    List(List),
    Updated { server: Arc<str>, uri: String },
}

/// The next change there. None: there were more than were kept.
async fn changed_behind(
    changes: &mut Option<broadcast::Receiver<orch_gateway::server::Change>>,
) -> Option<Behind> {
    use orch_gateway::server::Change;
    let Some(receiver) = changes else { return future::pending().await };
    loop {
        match receiver.recv().await {
            Ok(Change::List { list, .. }) => return Some(Behind::List(list)),
            Ok(Change::Notification { server, frame })
                if frame.is("notifications/resources/updated") =>
            {
                let params = Members::of_params(frame.params.as_ref());
                if let Some(uri) = params.text("uri") {
                    return Some(Behind::Updated { server, uri });
                }
            }
            Ok(_) => {}
            Err(RecvError::Lagged(_)) => return None,
            Err(RecvError::Closed) => return future::pending().await,
        }
    }
}
