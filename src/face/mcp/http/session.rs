//! Sessions of clients up to 2025-11-25: whose each is, how many there are, and when they are over.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use orch_domain::caller::Caller;
use orch_domain::name::UserId;
use orch_gateway::server::Server;
use orch_gateway::view::View;
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::events::{Events, OUTSIDE};
use crate::face::mcp::Face;
use crate::face::mcp::conversation::{Begun, Conversation, Turn};

/// A session without a message for this long is over; its client gets 404 and begins anew.
const KEEP_ALIVE: Duration = Duration::from_secs(30 * 60);
const SWEEP: Duration = Duration::from_secs(60);
/// Clients that never end their sessions would fill the memory; the one unused for longest goes first.
const MAX: usize = 2048;
pub(super) const MAX_OF_USER: usize = 1024;
/// An answer that is being streamed to nobody is kept this long for a client that takes it up again.
const ABANDONED: Duration = Duration::from_secs(30);

pub(super) struct Session {
    pub(super) user: UserId,
    /// The profile it was begun in; it is good for no other.
    pub(super) profile: Option<String>,
    pub(super) conversation: Arc<Conversation>,
    pub(super) outside: Arc<Events>,
    streams: Mutex<HashMap<u64, Arc<Events>>>,
    last_stream: AtomicU64,
    last_used: Mutex<Instant>,
}

#[derive(Default)]
pub(super) struct Sessions {
    /// Invariant: has every session that is not over.
    live: Mutex<HashMap<String, Arc<Session>>>,
}

impl Sessions {
    /// None: there is none such of this user.
    pub(super) fn find(&self, id: &str, user: &UserId) -> Option<Arc<Session>> {
        let session = self.live.lock().get(id).filter(|it| it.user == *user).cloned()?;
        *session.last_used.lock() = Instant::now();
        Some(session)
    }

    /// A new session and its id. Those that are too many end.
    pub(super) fn begin(
        self: &Arc<Sessions>,
        face: &Arc<Face>,
        caller: &Caller,
        view: View,
        profile: Option<String>,
        direct: Option<Arc<Server>>,
    ) -> Option<(String, Arc<Session>)> {
        let mut secret = [0; 16];
        getrandom::fill(&mut secret).ok()?;
        let id = hex::encode(secret);
        let ended = CancellationToken::new();
        let Begun { conversation, mut outside, run } =
            Conversation::begin(face, caller, view, direct, ended.clone());
        let session = Arc::new(Session {
            user: caller.user.clone(),
            profile,
            conversation,
            outside: Events::new(OUTSIDE),
            streams: Mutex::default(),
            last_stream: AtomicU64::new(OUTSIDE),
            last_used: Mutex::new(Instant::now()),
        });
        let (events, of_end) = (session.outside.clone(), ended.clone());
        face.orch.tracker.spawn(async move {
            let telling = async {
                while let Some(frame) = outside.recv().await {
                    // A client that does not listen is told less.
                    if !events.push(&frame) {
                        return;
                    }
                }
            };
            tokio::select! {
                () = telling => {}
                () = of_end.cancelled() => {}
            }
            events.finish();
        });
        let (sessions, of_run) = (Arc::downgrade(self), id.clone());
        face.orch.tracker.spawn(async move {
            tokio::select! {
                result = run => if let Err(err) = result {
                    tracing::debug!("a session ended: {err}");
                },
                () = ended.cancelled() => {}
            }
            if let Some(sessions) = sessions.upgrade() {
                sessions.end(&of_run).await;
            }
        });
        let too_many = {
            let mut live = self.live.lock();
            live.insert(id.clone(), session.clone());
            let of_user = too_many(&live, MAX_OF_USER, |it| it.user == caller.user);
            of_user.into_iter().chain(too_many(&live, MAX, |_| true)).collect::<Vec<_>>()
        };
        for id in too_many {
            let sessions = self.clone();
            face.orch.tracker.spawn(async move { sessions.end(&id).await });
        }
        Some((id, session))
    }

    /// Whether there was one.
    pub(super) async fn end(&self, id: &str) -> bool {
        let session = self.live.lock().remove(id);
        match session {
            Some(it) => {
                it.conversation.end().await;
                true
            }
            None => false,
        }
    }

    /// Ends sessions that nobody uses, until the server ends.
    pub(super) async fn sweep(self: Arc<Sessions>, shutdown: CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(SWEEP) => {}
                () = shutdown.cancelled() => return,
            }
            let unused: Vec<String> = {
                let live = self.live.lock();
                let is_unused = |it: &Session| KEEP_ALIVE < it.last_used.lock().elapsed();
                live.iter().filter(|(_, it)| is_unused(it)).map(|(id, _)| id.clone()).collect()
            };
            for id in unused {
                self.end(&id).await;
            }
        }
    }

    pub(super) async fn end_all(&self) {
        let live = std::mem::take(&mut *self.live.lock());
        futures::future::join_all(live.values().map(|it| it.conversation.end())).await;
    }
}

impl Session {
    /// The stream of one request. What is said is kept for a while for a client whose connection broke.
    pub(super) fn open(self: &Arc<Session>) -> Arc<Events> {
        let number = self.last_stream.fetch_add(1, Ordering::Relaxed) + 1;
        let events = Events::new(number);
        self.streams.lock().insert(number, events.clone());
        events
    }

    pub(super) fn stream(&self, number: u64) -> Option<Arc<Events>> {
        if number == OUTSIDE {
            return Some(self.outside.clone());
        }
        self.streams.lock().get(&number).cloned()
    }

    /// Carries a turn into its stream. A client that goes away may come back for the rest; one that does not gives it up.
    pub(super) async fn carry(self: Arc<Session>, mut turn: Turn, events: Arc<Events>) {
        let carrying = async {
            while let Some(frame) = turn.next().await {
                if !events.push(&frame) {
                    return;
                }
            }
        };
        tokio::select! {
            () = carrying => {}
            () = events.abandoned(ABANDONED) => {}
        }
        drop(turn);
        events.finish();
        events.abandoned(ABANDONED).await;
        self.streams.lock().remove(&events.number());
    }
}

/// The longest unused above `max`.
fn too_many(
    live: &HashMap<String, Arc<Session>>,
    max: usize,
    counts: impl Fn(&Session) -> bool,
) -> Vec<String> {
    let mut ids: Vec<(&String, Instant)> = live
        .iter()
        .filter(|(_, it)| counts(it))
        .map(|(id, it)| (id, *it.last_used.lock()))
        .collect();
    let n_over = ids.len().saturating_sub(max);
    ids.sort_by_key(|(_, last_used)| *last_used);
    ids.into_iter().take(n_over).map(|(id, _)| id.clone()).collect()
}
