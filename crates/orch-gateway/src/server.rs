//! One upstream server: connected, listed and connected again, whatever becomes of it.
//!
//! What it offers is kept here and served at once, also while it is slow or gone. A call is one request upstream.

mod connect;
mod heard;
mod offered;
mod state;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use orch_domain::time::Timestamp;
use parking_lot::RwLock;
use tokio::sync::{Semaphore, broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use state::{Change, State};

use crate::catalog::{List, fetch};
use crate::config::{Reach, Upstream, Wire};
use crate::frame::{Frame, Kind, raw};
use crate::members::Members;
use crate::oauth::{LoginSite, Logins, Owner};
use crate::offer::Offer;
use crate::safety::redact::Patterns;
use crate::safety::{Safety, metric};
use crate::session::connection::Personal;
use crate::session::watch::Watches;
use crate::upstream::handshake::{self, Client, Welcome};
use crate::upstream::{Era, Exchange, Link, LinkError};

pub(crate) use connect::CloseOnDrop;
pub(crate) use heard::{Heard, next_of};

/// To connect, shake hands and list.
pub(crate) const CONNECT_LIMIT: Duration = Duration::from_secs(30);
/// A list that is being made for the first time is waited for this long.
const FIRST_LIST: Duration = Duration::from_secs(3);
/// Before a subscription that ended is begun anew.
pub(crate) const RELISTEN: Duration = Duration::from_secs(1);
/// Before lists that could not be read are tried again.
const RELIST: Duration = Duration::from_secs(30);
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(60);
/// A connection that held this long was a good one: the next failure starts the wait anew.
const STABLE: Duration = Duration::from_secs(30);
/// Changes that come together are looked at together.
const COALESCE: Duration = Duration::from_millis(50);

/// What all servers share.
#[derive(Clone)]
pub struct Surroundings {
    pub http: reqwest::Client,
    /// Of this process's environment, what children may have.
    pub inherited: Arc<Vec<(String, String)>>,
    pub tasks: TaskTracker,
    pub now: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    /// Told what changed, for those who list.
    pub changes: broadcast::Sender<Change>,
    /// How this gateway introduces itself.
    pub client: Arc<Client>,
    pub logins: Arc<Logins>,
    pub safety: Arc<Safety>,
}

pub struct Server {
    pub name: Arc<str>,
    pub spec: Upstream,
    /// Where users log in for it, if that is not settled in its configuration.
    pub(crate) site: Option<LoginSite>,
    pub(crate) around: Surroundings,
    pub(crate) personal: Personal,
    pub(crate) watches: Watches,
    state: RwLock<(State, Timestamp)>,
    offer: Arc<Offer>,
    /// Turns of calls, where only so many may be under way.
    pub(crate) turns: Option<Arc<Semaphore>>,
    /// Of what it says, what no caller is shown.
    redact: Patterns,
    live: watch::Sender<Option<Arc<Live>>>,
    /// How a server over HTTP speaks, once that was found out.
    wire: OnceLock<Wire>,
    n_connections: AtomicU64,
    settle_by: tokio::time::Instant,
    /// Calls under way.
    pub(crate) calls: TaskTracker,
    /// Ends it for good.
    stop: CancellationToken,
    /// Has ended, with all that it started.
    stopped: CancellationToken,
}

/// A connection in use.
pub struct Live {
    pub link: Arc<dyn Link>,
    pub welcome: Welcome,
    /// Whose token it is made with. Nobody else's calls go over it.
    pub owner: Option<Owner>,
}

impl Server {
    /// Begins to connect at once, unless it is disabled.
    pub fn start(name: &str, spec: Upstream, around: Surroundings) -> Arc<Server> {
        let state = if spec.disabled { State::Disabled } else { State::Connecting };
        let server = Arc::new(Server {
            site: LoginSite::of(&name.into(), &spec),
            name: name.into(),
            offer: Arc::new(Offer::open(name, &spec, &around.safety, (around.now)())),
            turns: spec.guard.limits.concurrency.map(|it| Arc::new(Semaphore::new(it))),
            redact: around.safety.settings.redact.with(&spec.guard.redact),
            spec,
            state: RwLock::new((state, (around.now)())),
            around: around.clone(),
            personal: Personal::default(),
            watches: Watches::default(),
            live: watch::Sender::new(None),
            wire: OnceLock::new(),
            n_connections: AtomicU64::new(0),
            settle_by: tokio::time::Instant::now() + FIRST_LIST,
            calls: TaskTracker::new(),
            stop: CancellationToken::new(),
            stopped: CancellationToken::new(),
        });
        if server.spec.disabled {
            server.stopped.cancel();
        } else {
            around.tasks.spawn(server.clone().run());
        }
        server
    }

    /// Where it stands, and since when.
    pub fn state(&self) -> (State, Timestamp) {
        self.state.read().clone()
    }

    /// What it said about itself when it was last connected to.
    pub fn live(&self) -> Option<Arc<Live>> {
        self.live.borrow().clone()
    }

    /// How it speaks, as far as that is known.
    pub fn transport(&self) -> &'static str {
        match (&self.spec.reach, self.wire()) {
            (Reach::Stdio { .. }, _) => "stdio",
            (Reach::Http { .. }, Wire::Sse) => "sse",
            (Reach::Http { .. }, _) => "http",
            (Reach::OpenApi { .. }, _) => "openapi",
        }
    }

    fn wire(&self) -> Wire {
        match (&self.spec.reach, self.wire.get()) {
            (_, Some(found)) => *found,
            (Reach::Http { wire, .. }, None) => *wire,
            (Reach::Stdio { .. } | Reach::OpenApi { .. }, None) => Wire::Either,
        }
    }

    /// How often it was connected to since it was configured.
    pub fn n_connections(&self) -> u64 {
        self.n_connections.load(Ordering::Relaxed)
    }

    /// Lets calls under way end, at most for `grace`, and leaves nothing running.
    pub async fn stop(&self, grace: Duration) {
        self.calls.close();
        // Those that take longer are cut off.
        tokio::time::timeout(grace, self.calls.wait()).await.ok();
        self.stop.cancel();
        self.release_all().await;
        self.stopped.cancelled().await;
    }

    /// One request. A server whose session is over is connected to again, and asked once more: it did not take the
    /// request.
    pub async fn send(&self, method: &str, params: Members) -> Result<Exchange, LinkError> {
        let live = self.connected().await?;
        self.check_shared(&live)?;
        let sent = match self.send_over(&live, method, params.clone()).await {
            Err(LinkError::SessionOver) => {
                let live = self.connected().await?;
                self.send_over(&live, method, params).await
            }
            sent => sent,
        };
        sent.map(|it| it.counted_by(&self.calls))
    }

    async fn send_over(
        &self,
        live: &Live,
        method: &str,
        mut params: Members,
    ) -> Result<Exchange, LinkError> {
        if live.welcome.terms.era == Era::Stateless {
            let mut meta = params.object("_meta").unwrap_or_default();
            for (key, value) in
                handshake::meta(&self.around.client, &live.welcome.terms.version).iter()
            {
                if meta.get(key).is_none() {
                    meta.set(key, value);
                }
            }
            params.set("_meta", &meta);
        }
        live.link.send(method, Some(params.to_raw())).await
    }

    /// The connection, waited for while it is being made; a server that failed is not waited for.
    pub(crate) async fn connected(&self) -> Result<Arc<Live>, LinkError> {
        let mut live = self.live.subscribe();
        let deadline = Instant::now() + CONNECT_LIMIT;
        loop {
            if let Some(it) = live.borrow_and_update().clone()
                && !it.link.closed().is_cancelled()
            {
                return Ok(it);
            }
            let (state, _) = self.state();
            let reason = match state {
                State::Disabled => "it is disabled in its configuration".to_owned(),
                State::Failed { reason, next_retry } => {
                    format!("{reason}; it is tried again at {next_retry}")
                }
                State::NeedsLogin { reason } if !self.has_login() => {
                    return Err(LinkError::LoginNeeded { message: reason });
                }
                // Somebody just logged in: it goes on at once.
                State::NeedsLogin { .. }
                | State::Connecting
                | State::Ready
                | State::Degraded { .. } => {
                    let rest = deadline.saturating_duration_since(Instant::now());
                    match tokio::time::timeout(rest, live.changed()).await {
                        Ok(Ok(())) => continue,
                        _ => "it is still being connected to".to_owned(),
                    }
                }
            };
            return Err(LinkError::Closed { reason });
        }
    }

    /// Whether it is being tried for the first time, and not for too long.
    pub fn is_settling(&self) -> bool {
        self.n_connections() == 0
            && self.state().0 == State::Connecting
            && tokio::time::Instant::now() < self.settle_by
    }

    /// Returns when the first try to connect has come to something, or took too long: a client that asks at once after
    /// the start then sees servers that are quick. Who offered something in an earlier run is not waited for.
    pub async fn settled(&self) {
        let mut live = self.live.subscribe();
        let tried = async {
            while !self.offer.is_known()
                && self.n_connections() == 0
                && self.state().0 == State::Connecting
            {
                if live.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::time::timeout_at(self.settle_by, tried).await.ok();
    }

    async fn run(self: Arc<Server>) {
        let mut wait = FIRST_RETRY;
        let mut logins = self.around.logins.changes();
        loop {
            logins.mark_unchanged();
            self.enter(State::Connecting);
            let begun = Instant::now();
            let (inbox, frames) = mpsc::unbounded_channel();
            let n_before = self.n_connections();
            let reason = tokio::select! {
                connected = tokio::time::timeout(CONNECT_LIMIT, self.connect(inbox)) => match connected {
                    Ok(Ok(live)) => match self.serve(live, frames, &mut logins).await {
                        Some(reason) => reason,
                        None => {
                            self.live.send_replace(None);
                            continue;
                        }
                    },
                    Ok(Err(LinkError::LoginNeeded { message })) => {
                        self.enter(State::NeedsLogin { reason: message });
                        self.live.send_replace(None);
                        tokio::select! {
                            _ = logins.changed() => {}
                            () = tokio::time::sleep(LAST_RETRY) => {}
                            () = self.stop.cancelled() => break,
                        }
                        continue;
                    }
                    Ok(Err(err)) => err.to_string(),
                    Err(_) => format!("it was not ready within {CONNECT_LIMIT:?}"),
                },
                () = self.stop.cancelled() => String::new(),
            };
            if self.stop.is_cancelled() {
                break;
            }
            if self.n_connections() == n_before {
                metric::attempt(&self.name, false);
            }
            if STABLE < begun.elapsed() {
                wait = FIRST_RETRY;
            }
            // A little apart, so that many that failed together do not come back together.
            let jittered = wait.mul_f64(0.75 + 0.5 * jitter(&self.name, self.n_connections()));
            let next_retry = (self.around.now)().plus_millis(jittered.as_millis() as u64);
            tracing::warn!(
                "the server `{}` failed: {reason}; it is tried again in {jittered:?}",
                self.name
            );
            self.enter(State::Failed { reason, next_retry });
            self.live.send_replace(None);
            tokio::select! {
                () = tokio::time::sleep(jittered) => {}
                () = self.stop.cancelled() => break,
            }
            wait = (wait * 2).min(LAST_RETRY);
        }
        self.live.send_replace(None);
        metric::up(&self.name, None);
        self.stopped.cancel();
    }

    fn enter(&self, state: State) {
        let is_up = matches!(state, State::Ready | State::Degraded { .. });
        metric::up(&self.name, Some(is_up));
        *self.state.write() = (state, (self.around.now)());
        self.around.changes.send(Change::State { server: self.name.clone() }).ok();
        // Those who wait look at the state again.
        self.live.send_modify(|_| {});
    }

    /// Until the connection ends; says why it did. None: its login is over, and another may do.
    async fn serve(
        &self,
        live: Arc<Live>,
        mut frames: mpsc::UnboundedReceiver<Frame>,
        logins: &mut watch::Receiver<u64>,
    ) -> Option<String> {
        self.live.send_replace(Some(live.clone()));
        self.enter(State::Ready);
        self.watch_again(&live).await;
        let mut listening = self.listen(&live, &self.watched(&live)).await;
        let mut read_at = tokio::time::Instant::now();
        loop {
            let is_degraded = matches!(self.state().0, State::Degraded { .. });
            let ttl =
                self.offer.ttl(&self.spec).into_iter().chain(is_degraded.then_some(RELIST)).min();
            let stale = async {
                match ttl {
                    Some(it) => tokio::time::sleep_until(read_at + it).await,
                    None => std::future::pending().await,
                }
            };
            let frame = tokio::select! {
                Some(frame) = frames.recv() => Heard::Said(frame),
                heard = next_of(&mut listening) => heard,
                () = self.watches.changed.notified() => {
                    listening = self.listen(&live, &self.watched(&live)).await;
                    continue;
                }
                () = stale => {
                    for list in List::ALL {
                        self.relist(&live, list).await;
                    }
                    read_at = tokio::time::Instant::now();
                    continue;
                }
                () = live.link.closed().cancelled() => {
                    return self.is_logged_in(&live).then(|| live.link.reason());
                }
                Ok(()) = logins.changed() => {
                    self.release_stale().await;
                    if self.is_logged_in(&live) {
                        continue;
                    }
                    live.link.close().await;
                    return None;
                }
                () = self.stop.cancelled() => {
                    live.link.close().await;
                    return Some(String::new());
                }
            };
            match frame {
                Heard::Said(frame) => self.take(&live, frame, &mut frames).await,
                // It has no such thing: its lists are read again when they are old.
                Heard::Refused => listening = None,
                // The subscription ended: it is begun anew, and what may have been missed is looked at.
                Heard::End => {
                    listening = None;
                    tokio::select! {
                        () = tokio::time::sleep(RELISTEN) => {}
                        () = live.link.closed().cancelled() => return Some(live.link.reason()),
                        () = self.stop.cancelled() => continue,
                    }
                    listening = self.listen(&live, &self.watched(&live)).await;
                    for list in List::ALL {
                        self.relist(&live, list).await;
                    }
                }
            }
        }
    }

    async fn take(&self, live: &Live, frame: Frame, more: &mut mpsc::UnboundedReceiver<Frame>) {
        match frame.kind() {
            Kind::Response => {}
            Kind::Request => {
                let answer = answer(frame);
                // A connection that ends takes its questions along.
                live.link.tell(answer).await.ok();
            }
            // What is told over a connection with somebody's token is not for all.
            Kind::Notification if live.owner.is_some() && !is_of_lists(&frame) => {}
            Kind::Notification => {
                let lists = List::of_change(frame.method.as_deref().unwrap_or_default());
                if lists.is_empty() {
                    let change =
                        Change::Notification { server: self.name.clone(), frame: Arc::new(frame) };
                    self.around.changes.send(change).ok();
                    return;
                }
                let mut changed: Vec<List> = lists.to_vec();
                let mut rest = Vec::new();
                tokio::time::sleep(COALESCE).await;
                while let Ok(frame) = more.try_recv() {
                    match List::of_change(frame.method.as_deref().unwrap_or_default()) {
                        [] => rest.push(frame),
                        lists => changed.extend(lists.iter().filter(|it| !lists.contains(it))),
                    }
                }
                for list in changed {
                    self.relist(live, list).await;
                }
                for frame in rest {
                    Box::pin(self.take(live, frame, more)).await;
                }
            }
        }
    }

    async fn relist(&self, live: &Live, list: List) {
        match fetch(&*live.link, &live.welcome, &self.around.client, list, CONNECT_LIMIT).await {
            Ok(listed) => {
                let now = (self.around.now)();
                let items = self.usable(list, listed.items, live.welcome.terms.era);
                let told = self.offer.take_list(&self.spec, list, items, now);
                self.tell(told);
                if matches!(self.state().0, State::Degraded { .. }) {
                    self.enter(State::Ready);
                }
            }
            Err(err) => {
                tracing::warn!("`{}` of `{}`: {err}", list.method(), self.name);
                let reason = format!("`{}` could not be read again: {err}", list.method());
                self.enter(State::Degraded { reason });
            }
        }
    }
}

fn is_of_lists(frame: &Frame) -> bool {
    !List::of_change(frame.method.as_deref().unwrap_or_default()).is_empty()
}

/// What a server asks of nobody in particular: whether we are there.
pub(crate) fn answer(request: Frame) -> Frame {
    let id = request.id.clone().unwrap_or_else(|| raw(&()));
    match request.method.as_deref() {
        Some("ping") => Frame::result(id, raw(&serde_json::json!({}))),
        _ => Frame::error(
            id,
            -32601,
            "the gateway has nobody to ask this; it declared no such capability",
        ),
    }
}

/// 0 to 1, different for each server and try.
fn jitter(name: &str, n: u64) -> f64 {
    let mut hash = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(std::process::id());
    for byte in name.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    (hash % 1000) as f64 / 1000.0
}
