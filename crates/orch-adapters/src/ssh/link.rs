//! The connection to one machine: made when first needed, kept alive, and made anew when lost.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use orch_domain::health::Level;
use orch_domain::ssh::SshHop;
use orch_domain::trouble::Trouble;
use parking_lot::Mutex;
use russh::ChannelOpenFailure;
use russh::client::{self, Handle};
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::dial::{handshake, reach};
use super::host_key::{Verifier, only};
use super::run::{self, Printed};
use super::{Channel, SshError, SshSettings, login, look};

/// From the first packet to being logged in. Less than any call waits, so that who waits is told what hangs.
const CONNECT: Duration = Duration::from_secs(9);
/// A connection without an answer for so long may be dead: whether the machine is there is then asked anew.
const SILENCE: Duration = Duration::from_secs(1);
/// For the server to open a socket that is on its own machine.
const OPEN: Duration = Duration::from_secs(10);
/// The wait after the first failure, which doubles with each further one up to the longest.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// A connection that is lost sooner than this was no success.
const SETTLED: Duration = Duration::from_secs(5);

/// Streams of either kind that are open at the same time; more wait.
const MOST_CALLS: usize = 64;
const MOST_FOLLOWERS: usize = 256;

/// Where a stream ends.
#[derive(Clone, Debug)]
enum End {
    Socket(String),
    Port(String, u16),
}

/// What a stream is for: followers stay open for long, and must not take the place of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    Call,
    Follow,
}

pub struct Link {
    endpoint: SshHop,
    /// What it is reached through; none: from here.
    via: Option<Arc<Link>>,
    settings: SshSettings,
    state: Mutex<State>,
    calls: Arc<Semaphore>,
    followers: Arc<Semaphore>,
    runs: Arc<Semaphore>,
    n_handshakes: AtomicU64,
    /// Whether the attempt to connect that is under way has got to the SSH server.
    is_reached: AtomicBool,
    /// Told when it does.
    reached: Notify,
    /// Runs what must not end with the caller that began it.
    tasks: TaskTracker,
    closes: CancellationToken,
    _closes_when_dropped: DropGuard,
}

type Connecting = Shared<BoxFuture<'static, Result<Arc<Session>, SshError>>>;

/// Invariant: at most one attempt to connect is under way, and it is in `Connecting`.
enum State {
    Idle,
    Connecting(Connecting),
    Up { session: Arc<Session>, since: Instant, failures: u32 },
    Down { error: SshError, failures: u32, retry_at: Instant },
}

struct Session {
    handle: Handle<Verifier>,
}

impl Session {
    /// False: the connection was lost meanwhile.
    async fn answers(&self) -> bool {
        self.handle.send_ping().await.is_ok() && !self.handle.is_closed()
    }
}

impl Link {
    /// Connects to nothing yet.
    pub fn new(endpoint: SshHop, via: Option<Arc<Link>>, settings: SshSettings) -> Arc<Link> {
        let closes = CancellationToken::new();
        Arc::new(Link {
            endpoint,
            via,
            settings,
            state: Mutex::new(State::Idle),
            calls: Arc::new(Semaphore::new(MOST_CALLS)),
            followers: Arc::new(Semaphore::new(MOST_FOLLOWERS)),
            runs: Arc::new(Semaphore::new(1)),
            n_handshakes: AtomicU64::new(0),
            is_reached: AtomicBool::new(false),
            reached: Notify::new(),
            tasks: TaskTracker::new(),
            _closes_when_dropped: closes.clone().drop_guard(),
            closes,
        })
    }

    /// The machine it is reached through.
    pub fn via(&self) -> Option<&Arc<Link>> {
        self.via.as_ref()
    }

    /// What an attempt to connect waits for now, and where; None: there is none under way.
    pub fn waits_for(&self) -> Option<(String, Trouble)> {
        if let Some(it) = self.via.as_ref().and_then(|it| it.waits_for()) {
            return Some(it);
        }
        let is_connecting = matches!(&*self.state.lock(), State::Connecting(_));
        is_connecting.then(|| match self.is_reached.load(Ordering::Relaxed) {
            true => (self.endpoint.place(), Trouble::Silent),
            false => (self.endpoint.place(), Trouble::NoAnswer),
        })
    }

    /// Connections begun so far.
    pub fn n_handshakes(&self) -> u64 {
        self.n_handshakes.load(Ordering::Relaxed)
    }

    /// A stream to the Unix socket at `socket` on the machine.
    pub async fn open(self: &Arc<Link>, socket: &str, lane: Lane) -> Result<Channel, SshError> {
        self.open_end(End::Socket(socket.to_owned()), lane).await
    }

    /// A stream to a port of a machine that this one can reach. Boxed, as a connection is made through connections.
    pub(super) fn open_port(
        self: &Arc<Link>,
        to: &SshHop,
    ) -> BoxFuture<'static, Result<Channel, SshError>> {
        let (link, end) = (Arc::clone(self), End::Port(to.host.clone(), to.port));
        async move { link.open_end(end, Lane::Follow).await }.boxed()
    }

    async fn open_end(self: &Arc<Link>, end: End, lane: Lane) -> Result<Channel, SshError> {
        let lane = match lane {
            Lane::Call => &self.calls,
            Lane::Follow => &self.followers,
        };
        let permit = Arc::clone(lane).acquire_owned().await.map_err(|_| self.lost())?;
        let link = Arc::clone(self);
        // To its end even if the caller leaves, or the server would keep a channel that nobody closes.
        let open = self.tasks.spawn(async move {
            let channel = link.open_channel(&end).await?;
            Ok(Channel::new(channel, permit, &link.tasks, &link.closes))
        });
        open.await.unwrap_or_else(|_| Err(self.lost()))
    }

    /// Has the login shell of the machine run `command`, and answers what that printed within `within`. Text that is not
    /// part of this program goes to its `input`, and never into the command.
    ///
    /// Each run is a session, of which an SSH server allows few at the same time. So there is one at most, and as long
    /// as the machine does not end it, the next is refused.
    pub async fn run(
        self: &Arc<Link>,
        command: &'static str,
        input: String,
        within: Duration,
    ) -> Result<Printed, SshError> {
        let refused = |why: String| SshError::CommandRefused { place: self.endpoint.place(), why };
        let permit = Arc::clone(&self.runs)
            .try_acquire_owned()
            .map_err(|_| refused("the one before it has not ended yet".to_owned()))?;
        let (link, closes) = (Arc::clone(self), self.closes.child_token());
        let (told, answer) = oneshot::channel();
        self.tasks.spawn(async move {
            let opened = link.open_session(command).await;
            drop(link);
            match opened {
                Ok(channel) => tokio::select! {
                    () = run::attend(channel, input, within, told) => {}
                    () = closes.cancelled() => {}
                },
                // Whoever asked may have left.
                Err(err) => drop(told.send(Err(err))),
            }
            drop(permit);
        });
        match answer.await.map_err(|_| self.lost())? {
            Err(SshError::Protocol(err)) => Err(refused(err.to_string())),
            it => it,
        }
    }

    async fn open_session(
        self: &Arc<Link>,
        command: &'static str,
    ) -> Result<russh::Channel<client::Msg>, SshError> {
        let session = self.session().await?;
        let open = async {
            let channel = session.handle.channel_open_session().await?;
            channel.exec(false, command).await?;
            Ok(channel)
        };
        tokio::time::timeout(OPEN, open).await.unwrap_or_else(|_| Err(self.lost()))
    }

    /// Whether the machine is there: it answers on the connection to it or, where that is silent, takes a new one, which
    /// ends before a word is said. Where there is none, one is begun: a second beside it would only fill what the SSH
    /// server allows before the login. May wait for ever.
    pub async fn reach(self: &Arc<Link>) -> Result<(), SshError> {
        let session = match &*self.state.lock() {
            State::Up { session, .. } => Some(Arc::clone(session)),
            State::Idle | State::Connecting(_) | State::Down { .. } => None,
        };
        let Some(session) = session else { return self.reach_anew().await };
        if let Ok(true) = tokio::time::timeout(SILENCE, session.answers()).await {
            return Ok(());
        }
        self.reach_past_connections().await
    }

    async fn reach_anew(self: &Arc<Link>) -> Result<(), SshError> {
        let reached = self.reached.notified();
        let connecting = self.session();
        tokio::pin!(reached, connecting);
        // Begun before the look at how far it is.
        let outcome = match futures::poll!(&mut connecting) {
            Poll::Ready(outcome) => outcome,
            Poll::Pending if self.is_reached.load(Ordering::Relaxed) => return Ok(()),
            Poll::Pending => tokio::select! {
                outcome = connecting => outcome,
                () = reached => return Ok(()),
            },
        };
        match outcome {
            Err(err) if err.trouble().level() == Level::Address => Err(err),
            // Why it was lost is not known, and the next attempt is not due yet.
            Err(err) if err.trouble() == Trouble::Lost => self.reach_past_connections().await,
            // It was reached; what came of that is of the next level.
            _ => Ok(()),
        }
    }

    /// With a new connection, which ends before a word is said.
    async fn reach_past_connections(&self) -> Result<(), SshError> {
        match &self.via {
            None => reach(&self.endpoint).await.map(drop),
            // What is behind it is not to be reached from here, with a new connection or without.
            Some(first) => Box::pin(first.reach()).await.map_err(|err| SshError::OnTheWay {
                to: self.endpoint.place(),
                cause: Box::new(err),
            }),
        }
    }

    /// Whether we are logged in, and the SSH server answers. May wait for ever.
    pub async fn log_in(self: &Arc<Link>) -> Result<(), SshError> {
        let session = self.session().await?;
        if session.answers().await {
            return Ok(());
        }
        // It was lost, which was not known yet.
        let session = self.session().await?;
        if session.answers().await { Ok(()) } else { Err(self.lost()) }
    }

    async fn open_channel(
        self: &Arc<Link>,
        end: &End,
    ) -> Result<russh::Channel<client::Msg>, SshError> {
        let mut is_second = false;
        loop {
            let session = self.session().await?;
            let open = async {
                match end {
                    End::Socket(it) => session.handle.channel_open_direct_streamlocal(it).await,
                    End::Port(host, port) => {
                        let (handle, port) = (&session.handle, u32::from(*port));
                        handle.channel_open_direct_tcpip(host.as_str(), port, "127.0.0.1", 0).await
                    }
                }
            };
            match tokio::time::timeout(OPEN, open).await {
                Ok(Ok(channel)) => return Ok(channel),
                Ok(Err(russh::Error::ChannelOpenFailure(why))) => {
                    return Err(self.refused(end, why, &session).await);
                }
                // The connection was lost unnoticed. Nothing was sent yet, so that a new one may be tried.
                Ok(Err(_)) if !is_second => {
                    is_second = true;
                    self.forget(&session);
                }
                Ok(Err(_)) => return Err(self.lost()),
                Err(_) => {
                    let why = format!("no answer within {OPEN:?}");
                    let trouble = Trouble::Silent;
                    return Err(SshError::NoAnswer { place: self.endpoint.place(), why, trouble });
                }
            }
        }
    }

    /// What it means that the server did not open a stream.
    async fn refused(&self, end: &End, why: ChannelOpenFailure, session: &Session) -> SshError {
        let place = self.endpoint.place();
        match (end, why) {
            (End::Socket(socket), ChannelOpenFailure::ConnectFailed) => {
                let (trouble, why) = look::at_socket(&session.handle, socket, &self.tasks).await;
                SshError::SocketRefused { place, socket: socket.clone(), why, trouble }
            }
            (End::Socket(socket), ChannelOpenFailure::AdministrativelyProhibited) => {
                let why =
                    "it is configured not to; set `AllowStreamLocalForwarding yes`".to_owned();
                let trouble = Trouble::ForwardingForbidden;
                SshError::SocketRefused { place, socket: socket.clone(), why, trouble }
            }
            (End::Socket(socket), other) => SshError::SocketRefused {
                place,
                socket: socket.clone(),
                why: format!("{other:?}"),
                trouble: Trouble::EngineSilent,
            },
            (End::Port(host, port), why) => {
                let to = format!("{host}:{port}");
                let (why, trouble) = match why {
                    ChannelOpenFailure::ConnectFailed => (
                        "nothing answers there as seen from the jump".to_owned(),
                        Trouble::JumpCannotReach,
                    ),
                    ChannelOpenFailure::AdministrativelyProhibited => (
                        "it is configured not to; set `AllowTcpForwarding yes`".to_owned(),
                        Trouble::JumpForbids,
                    ),
                    other => (format!("{other:?}"), Trouble::JumpCannotReach),
                };
                SshError::WayRefused { place, to, why, trouble }
            }
        }
    }

    fn lost(&self) -> SshError {
        SshError::Lost { place: self.endpoint.place() }
    }

    /// The connection, which all who come meanwhile wait for together.
    async fn session(self: &Arc<Link>) -> Result<Arc<Session>, SshError> {
        let connecting = {
            let mut state = self.state.lock();
            if let State::Up { session, since, failures } = &*state
                && session.handle.is_closed()
            {
                let settled = SETTLED < since.elapsed();
                *state = match settled {
                    true => State::Idle,
                    false => down(self.lost(), failures + 1),
                };
            }
            match &*state {
                State::Up { session, .. } => return Ok(Arc::clone(session)),
                State::Connecting(it) => it.clone(),
                State::Down { error, retry_at, .. } if Instant::now() < *retry_at => {
                    let retry_in = *retry_at - Instant::now();
                    let retry_in = Duration::from_millis(retry_in.as_millis() as u64);
                    return Err(SshError::Waiting { last: Box::new(error.clone()), retry_in });
                }
                State::Idle => self.start_connecting(&mut state, 0),
                State::Down { failures, .. } => {
                    let failures = *failures;
                    self.start_connecting(&mut state, failures)
                }
            }
        };
        connecting.await
    }

    fn start_connecting(self: &Arc<Link>, state: &mut State, failures: u32) -> Connecting {
        let link = Arc::clone(self);
        self.is_reached.store(false, Ordering::Relaxed);
        let attempt = self.tasks.spawn(async move {
            let outcome =
                tokio::time::timeout(CONNECT, link.connect()).await.unwrap_or_else(|_| {
                    Err(SshError::Slow { place: link.endpoint.place(), after: CONNECT })
                });
            let outcome = outcome.map(Arc::new);
            *link.state.lock() = match &outcome {
                Ok(session) => {
                    tracing::info!("connected to `{}`", link.endpoint.place());
                    State::Up { session: Arc::clone(session), since: Instant::now(), failures }
                }
                Err(err) => {
                    if failures == 0 {
                        tracing::warn!("no connection: {err}");
                    }
                    down(err.clone(), failures + 1)
                }
            };
            outcome
        });
        let lost = self.lost();
        let connecting = attempt.map(move |it| it.unwrap_or(Err(lost))).boxed().shared();
        *state = State::Connecting(connecting.clone());
        connecting
    }

    async fn connect(&self) -> Result<Session, SshError> {
        self.n_handshakes.fetch_add(1, Ordering::Relaxed);
        metrics::counter!("mcp_orch_ssh_handshakes_total").increment(1);
        let pinned = self.endpoint.host_key.as_ref();
        let keys = only(pinned.and_then(|it| it.algorithm.as_deref()));
        let mut handle = {
            let verifier = Verifier::new(&self.endpoint);
            let reached = || {
                self.is_reached.store(true, Ordering::Relaxed);
                self.reached.notify_waiters();
            };
            handshake(&self.endpoint, self.via.as_ref(), verifier, keys, reached).await?
        };
        login::log_in(&mut handle, &self.endpoint, &self.settings).await?;
        Ok(Session { handle })
    }

    /// Unless somebody has made another meanwhile.
    fn forget(&self, dead: &Arc<Session>) {
        let mut state = self.state.lock();
        if let State::Up { session, .. } = &*state
            && Arc::ptr_eq(session, dead)
        {
            *state = State::Idle;
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Link").field(&self.endpoint.place()).finish()
    }
}

fn down(error: SshError, failures: u32) -> State {
    let doubled = FIRST_WAIT.saturating_mul(1 << failures.saturating_sub(1).min(10));
    State::Down { error, failures, retry_at: Instant::now() + jittered(doubled.min(LONGEST_WAIT)) }
}

/// Between half of it and all of it, so that those who failed together do not come back together.
fn jittered(wait: Duration) -> Duration {
    let mut byte = [u8::MAX];
    // Without random numbers it is the whole wait, which is as good.
    getrandom::fill(&mut byte).ok();
    wait / 2 + wait.mul_f64(f64::from(byte[0]) / 510.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_limit_and_differ() {
        for (failures, longest) in [(1, 500), (2, 1000), (3, 2000), (9, 10_000), (u32::MAX, 10_000)]
        {
            let before = Instant::now();
            let State::Down { retry_at, .. } =
                down(SshError::Lost { place: String::new() }, failures)
            else {
                panic!("it is down")
            };
            let wait = retry_at - before;
            let longest = Duration::from_millis(longest);
            assert!(longest / 2 <= wait && wait <= longest + Duration::from_secs(1), "{wait:?}");
        }
        let waits: std::collections::HashSet<_> =
            (0..64).map(|_| jittered(Duration::from_secs(1))).collect();
        assert!(1 < waits.len());
    }
}
