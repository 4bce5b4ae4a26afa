//! Who shares a connection to a server with whom.
//!
//! A server of the session era knows one client per connection: what it may ask, how much it logs, what it remembers. A
//! client that can be asked something therefore has connections of its own; all others share one.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use orch_domain::name::UserId;
use parking_lot::Mutex;
use tokio::sync::{broadcast, mpsc};
use tokio::time::Instant;

use super::Visitor;
use crate::frame::{Frame, Kind, Raw, raw};
use crate::members::Members;
use crate::oauth::{Owner, Standing};
use crate::server::{CONNECT_LIMIT, Live, Server};
use crate::upstream::handshake::{self, Client};
use crate::upstream::site::TokenSource;
use crate::upstream::{Era, LinkError, Unowned};

/// A connection that is not a session's ends when it was not used for this long.
const IDLE: Duration = Duration::from_secs(10 * 60);
/// Between two tries to make the same connection.
const RETRY: Duration = Duration::from_secs(1);
/// A server may not know `logging/setLevel`, and is not waited for longer.
const SET_LEVEL_LIMIT: Duration = Duration::from_secs(5);
/// Of what is told, for a listener that is slow; beyond, it misses the oldest.
const MAX_TOLD: usize = 256;
pub const MAX_POOL: usize = 100;

/// How long a connection lasts, and whose it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lifecycle {
    /// `Session` for clients that a server of the session era may ask something, `Shared` for all others.
    #[default]
    Auto,
    /// One for all. Servers are told that nobody can be asked anything.
    Shared,
    /// One for each session of a client; a client without sessions has one per user.
    Session,
    /// One for each user, and each set of capabilities of the user's clients.
    User,
    /// One for each call.
    Call,
    /// That many for all, a call going to the one with the fewest under way.
    Pool(usize),
}

impl Lifecycle {
    pub fn parse(text: &str) -> Option<Lifecycle> {
        Some(match text {
            "auto" => Lifecycle::Auto,
            "shared" => Lifecycle::Shared,
            "session" => Lifecycle::Session,
            "user" => Lifecycle::User,
            "call" => Lifecycle::Call,
            _ => {
                let n = text.strip_prefix("pool(")?.strip_suffix(')')?.trim().parse().ok()?;
                if !(1..=MAX_POOL).contains(&n) {
                    return None;
                }
                Lifecycle::Pool(n)
            }
        })
    }
}

/// Whose a connection is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Scope {
    Session(u64),
    /// With the capabilities that were declared on it.
    User(Arc<str>, String),
    Pool(usize),
    Call(u64),
}

/// The connections of one server that are not everybody's.
#[derive(Default)]
pub(crate) struct Personal {
    /// Invariant: has every connection that was begun and is not over, and perhaps some that are.
    slots: Mutex<HashMap<Scope, Arc<Slot>>>,
    last_call: AtomicU64,
}

struct Slot {
    /// What the server says of its own accord, for those who listen.
    told: broadcast::Sender<Arc<Frame>>,
    /// Held while it is made, so that two calls make one.
    state: tokio::sync::Mutex<Made>,
    n_uses: AtomicUsize,
    last_used: Mutex<Option<Instant>>,
}

impl Default for Slot {
    fn default() -> Slot {
        Slot {
            told: broadcast::Sender::new(MAX_TOLD),
            state: tokio::sync::Mutex::default(),
            n_uses: AtomicUsize::default(),
            last_used: Mutex::default(),
        }
    }
}

#[derive(Default)]
struct Made {
    live: Option<Arc<Live>>,
    /// The last try and what became of it.
    failed: Option<(Instant, LinkError)>,
    /// As the server was told last.
    log_level: Option<Raw>,
}

/// A connection in use by one request.
pub struct Connection {
    pub live: Arc<Live>,
    /// None: it is the shared one.
    slot: Option<Arc<Slot>>,
    /// It ends with the request.
    closes: Option<(Arc<Server>, Scope)>,
}

impl Connection {
    pub fn shared(live: Arc<Live>) -> Connection {
        Connection { live, slot: None, closes: None }
    }

    /// What the server says on it of its own accord. None: it is the shared one, of which the hub tells.
    pub fn told(&self) -> Option<broadcast::Receiver<Arc<Frame>>> {
        self.slot.as_ref().map(|it| it.told.subscribe())
    }

    /// Whether it is one client's alone, so that a server may ask that client something on it.
    pub fn is_shared(&self) -> bool {
        self.slot.is_none()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(slot) = &self.slot {
            slot.n_uses.fetch_sub(1, Ordering::Relaxed);
            *slot.last_used.lock() = Some(Instant::now());
        }
        if let Some((server, scope)) = self.closes.take() {
            let tasks = server.around.tasks.clone();
            tasks.spawn(async move { server.release(&scope).await });
        }
    }
}

impl Server {
    /// The connection for a request of `visitor`, made if need be.
    pub async fn connection_for(
        self: &Arc<Server>,
        visitor: &Arc<Visitor>,
    ) -> Result<Connection, LinkError> {
        let login = self.login_of(visitor)?;
        let shared = self.connected().await?;
        let scope = self.scope_for(visitor, shared.welcome.terms.era);
        match (scope, login) {
            // What has a token of somebody is shared with nobody, and what is shared takes nobody's.
            (None | Some(Scope::Pool(_)), Some(login)) => {
                self.personal(of_user(visitor), visitor, Some(login)).await
            }
            (Some(scope), login) => {
                if login.is_none() {
                    self.check_shared(&shared)?;
                }
                self.personal(scope, visitor, login).await
            }
            (None, None) => {
                self.check_shared(&shared)?;
                Ok(Connection::shared(shared))
            }
        }
    }

    /// The login that requests of `visitor` are made with. The error tells one whose login is over what to do.
    fn login_of(&self, visitor: &Visitor) -> Result<Option<Login>, LinkError> {
        let (Some(site), Ok(user)) = (&self.site, UserId::try_new(&*visitor.user)) else {
            return Ok(None);
        };
        match self.around.logins.standing(site, &user) {
            Standing::Nothing => Ok(None),
            Standing::Over(message) => Err(LinkError::LoginNeeded { message }),
            Standing::In(owner) => {
                let token = self.around.logins.source_of(site, &user);
                Ok(Some(Login { owner, token }))
            }
        }
    }

    /// What the visitor is to know when its login is what is missing.
    pub(crate) fn login_over(&self, visitor: &Visitor) -> Option<LinkError> {
        self.login_of(visitor).err()
    }

    fn scope_for(&self, visitor: &Visitor, era: Era) -> Option<Scope> {
        // Without sessions there is nothing to keep apart: each request says whose it is.
        if era == Era::Stateless {
            return None;
        }
        let of_session = || visitor.session.map_or_else(|| of_user(visitor), Scope::Session);
        match self.spec.lifecycle {
            Lifecycle::Auto => visitor.can_be_asked().then(of_session),
            Lifecycle::Shared => None,
            Lifecycle::Session => Some(of_session()),
            Lifecycle::User => Some(of_user(visitor)),
            Lifecycle::Call => {
                Some(Scope::Call(self.personal.last_call.fetch_add(1, Ordering::Relaxed)))
            }
            Lifecycle::Pool(n) => Some(self.personal.least_used(n)),
        }
    }

    /// The connection of a session that sees the server as it is, without others beside it.
    pub async fn connection_of_session(
        self: &Arc<Server>,
        visitor: &Arc<Visitor>,
    ) -> Result<Connection, LinkError> {
        let era = self.connected().await?.welcome.terms.era;
        match visitor.session {
            // A server without sessions has none to be kept apart.
            Some(session) if era == Era::Session => {
                let login = self.login_of(visitor)?;
                if login.is_none() {
                    self.check_shared(&*self.connected().await?)?;
                }
                self.personal(Scope::Session(session), visitor, login).await
            }
            _ => self.connection_for(visitor).await,
        }
    }

    async fn personal(
        self: &Arc<Server>,
        scope: Scope,
        visitor: &Arc<Visitor>,
        login: Option<Login>,
    ) -> Result<Connection, LinkError> {
        let slot = self.personal.slots.lock().entry(scope.clone()).or_default().clone();
        slot.n_uses.fetch_add(1, Ordering::Relaxed);
        // From here on, whatever happens, the use is given back.
        let given_back = UseOf(Some(slot.clone()));
        let mut made = slot.state.lock().await;
        let owner = login.as_ref().map(|it| &it.owner);
        let live = match &made.live {
            Some(it) if !it.link.closed().is_cancelled() && it.owner.as_ref() == owner => {
                it.clone()
            }
            before => {
                // Of another login, or of none.
                if let Some(it) = before {
                    it.link.close().await;
                }
                if let Some((at, err)) = &made.failed
                    && at.elapsed() < RETRY
                {
                    return Err(err.clone());
                }
                let connected = self.connect_for(&scope, visitor, &slot, login).await;
                let live = connected.inspect_err(|err| {
                    made.failed = Some((Instant::now(), err.clone()));
                })?;
                made.live = Some(live.clone());
                made.log_level = None;
                live
            }
        };
        if let Some(level) = visitor.log_level()
            && !matches!(scope, Scope::Pool(_))
            && made.log_level.as_ref().is_none_or(|it| it.get() != level.get())
        {
            set_level(&live, &level).await;
            made.log_level = Some(level);
        }
        drop(made);
        let closes = matches!(scope, Scope::Call(_)).then(|| (self.clone(), scope));
        Ok(Connection { live, slot: given_back.keep(), closes })
    }

    async fn connect_for(
        self: &Arc<Server>,
        scope: &Scope,
        visitor: &Arc<Visitor>,
        slot: &Arc<Slot>,
        login: Option<Login>,
    ) -> Result<Arc<Live>, LinkError> {
        let is_one_clients = !matches!(scope, Scope::Pool(_));
        let client = if is_one_clients { visitor.client() } else { Arc::new(Client::nobody()) };
        // A client that speaks to the server as it is says this itself.
        let says_so_itself = visitor.is_direct() && visitor.session.is_some();
        let (inbox, frames) = mpsc::unbounded_channel();
        let connecting = async {
            let (owner, token) = match (login, &self.site) {
                (Some(it), _) => (Some(it.owner), Some(it.token)),
                (None, Some(site)) => (None, Some(self.around.logins.source_without(site))),
                (None, None) => (None, None),
            };
            let link = self.open(inbox, token).await?;
            let guard = crate::server::CloseOnDrop::new(link.clone(), &self.around.tasks);
            let shared = self.live().map(|it| it.welcome.clone());
            // Without sessions there is no handshake: it is as the shared one found out, with another token.
            if let Some(welcome) = shared.filter(|it| it.terms.era == Era::Stateless)
                && owner.is_some()
            {
                link.settle(welcome.terms.clone());
                guard.keep();
                return Ok(Arc::new(Live { link, welcome, owner }));
            }
            let welcome =
                handshake::begin_session(&*link, &client, CONNECT_LIMIT).await.map_err(|err| {
                    match err {
                        LinkError::Closed { .. } => LinkError::Closed { reason: link.reason() },
                        err => err,
                    }
                })?;
            link.attribute(match scope {
                Scope::Session(_) => Unowned::OfSession,
                Scope::User(..) | Scope::Call(_) => Unowned::Latest,
                Scope::Pool(_) => Unowned::Sole,
            });
            if !says_so_itself {
                link.tell(Frame::notification("notifications/initialized", None)).await?;
            }
            guard.keep();
            Ok(Arc::new(Live { link, welcome, owner }))
        };
        let live = tokio::time::timeout(CONNECT_LIMIT, connecting).await.unwrap_or_else(|_| {
            Err(LinkError::Timeout { method: "initialize".to_owned(), after: CONNECT_LIMIT })
        })?;
        let of_session = matches!(scope, Scope::Session(_)).then(|| visitor.clone());
        let tasks = self.around.tasks.clone();
        tasks.spawn(self.clone().attend(live.clone(), frames, of_session, slot.clone()));
        Ok(live)
    }

    /// Hears what the server says on a connection beside its answers, until it ends or nobody uses it any more.
    async fn attend(
        self: Arc<Server>,
        live: Arc<Live>,
        mut frames: mpsc::UnboundedReceiver<Frame>,
        visitor: Option<Arc<Visitor>>,
        slot: Arc<Slot>,
    ) {
        loop {
            let frame = tokio::select! {
                frame = frames.recv() => frame,
                () = live.link.closed().cancelled() => break,
                () = tokio::time::sleep(IDLE), if visitor.is_none() => {
                    let is_idle = slot.n_uses.load(Ordering::Relaxed) == 0
                        && slot.last_used.lock().is_none_or(|it| IDLE <= it.elapsed());
                    if is_idle {
                        break;
                    }
                    continue;
                }
            };
            let Some(frame) = frame else { break };
            let Some(visitor) = &visitor else {
                if frame.kind() == Kind::Request {
                    live.link.tell(crate::server::answer(frame)).await.ok();
                } else {
                    // Nobody may listen.
                    slot.told.send(Arc::new(frame)).ok();
                }
                continue;
            };
            if let Some(said) = visitor.hear(&live.link, frame).await {
                visitor.tell(said);
            }
        }
        live.link.close().await;
    }

    /// Ends the connection of `scope`, if there is one.
    pub(crate) async fn release(&self, scope: &Scope) {
        let slot = self.personal.slots.lock().remove(scope);
        if let Some(slot) = slot {
            slot.end().await;
        }
    }

    /// Ends what was made for a session that is over.
    pub async fn release_session(&self, session: u64) {
        self.release(&Scope::Session(session)).await;
    }

    /// Ends those whose login is over, or another one by now.
    pub(crate) async fn release_stale(&self) {
        let Some(site) = &self.site else { return };
        let slots: Vec<_> = self.personal.slots.lock().values().cloned().collect();
        for slot in slots {
            // One that is being made asks for its token itself.
            let Ok(mut made) = slot.state.try_lock() else { continue };
            let is_stale =
                made.live.as_ref().and_then(|it| it.owner.clone()).is_some_and(|it| {
                    self.around.logins.standing(site, &it.user) != Standing::In(it)
                });
            if is_stale && let Some(live) = made.live.take() {
                live.link.close().await;
            }
        }
    }

    pub(crate) async fn release_all(&self) {
        let slots = std::mem::take(&mut *self.personal.slots.lock());
        futures::future::join_all(slots.values().map(|it| it.end())).await;
    }

    /// The connection that a session has already, for what is to reach all of its servers.
    pub async fn present(&self, session: u64) -> Option<Arc<Live>> {
        let slot = self.personal.slots.lock().get(&Scope::Session(session)).cloned()?;
        let made = slot.state.lock().await;
        made.live.clone().filter(|it| !it.link.closed().is_cancelled())
    }

    /// Connections that are open beside the shared one.
    pub fn n_personal(&self) -> usize {
        let mut slots = self.personal.slots.lock();
        slots.retain(|_, it| !it.is_over());
        slots.len()
    }
}

impl Personal {
    fn least_used(&self, n: usize) -> Scope {
        let slots = self.slots.lock();
        let uses = |i: &usize| {
            slots.get(&Scope::Pool(*i)).map_or(0, |it| it.n_uses.load(Ordering::Relaxed))
        };
        Scope::Pool((0..n).min_by_key(uses).unwrap_or(0))
    }
}

impl Slot {
    async fn end(&self) {
        let live = self.state.lock().await.live.take();
        if let Some(live) = live {
            live.link.close().await;
        }
    }

    fn is_over(&self) -> bool {
        self.n_uses.load(Ordering::Relaxed) == 0
            && self.state.try_lock().is_ok_and(|made| {
                made.live.as_ref().is_none_or(|it| it.link.closed().is_cancelled())
            })
    }
}

/// A use that is given back unless it is kept.
struct UseOf(Option<Arc<Slot>>);

impl UseOf {
    fn keep(mut self) -> Option<Arc<Slot>> {
        self.0.take()
    }
}

impl Drop for UseOf {
    fn drop(&mut self) {
        if let Some(slot) = &self.0 {
            slot.n_uses.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// With what a connection of one user is made, at a server where each logs in.
struct Login {
    owner: Owner,
    token: Arc<dyn TokenSource>,
}

fn of_user(visitor: &Visitor) -> Scope {
    Scope::User(visitor.user.clone(), key_of(&visitor.client()))
}

/// Connections are shared only by clients that declared the same.
fn key_of(client: &Client) -> String {
    client.capabilities.get().to_owned()
}

pub(crate) async fn set_level(live: &Live, level: &Raw) {
    if live.welcome.capabilities.get("logging").is_none() {
        return;
    }
    let mut params = Members::default();
    params.set("level", level);
    let asked = handshake::ask(&*live.link, "logging/setLevel", raw(&params), SET_LEVEL_LIMIT);
    if let Err(err) = asked.await {
        tracing::debug!("the level of logging was not taken: {err}");
    }
}
