//! Where browsers come back to after a login at a server behind: the HTTP server where one runs, else a listener on
//! loopback that is there for as long as a login may take.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use orch_core::Orch;
use orch_core::ports::vault::Vault;
use orch_domain::Error;
use orch_gateway::oauth::{Logins, Redirects};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::http::url_of;
use crate::face::rest::login_page;

/// After a login began.
const OPEN: Duration = Duration::from_secs(660);

/// Logins are kept in the store from now on. `address`: where HTTP is served.
pub(super) fn open(
    logins: &Arc<Logins>,
    orch: &Arc<Orch>,
    address: Option<SocketAddr>,
    tasks: &TaskTracker,
    shutdown: &CancellationToken,
) {
    let vault: Weak<Orch> = Arc::downgrade(orch);
    let redirects: Arc<dyn Redirects> = match address {
        Some(it) => Arc::new(Served(format!("{}{}", url_of(it), login_page::PATH))),
        None => Arc::new(Loopback {
            orch: vault.clone(),
            tasks: tasks.clone(),
            shutdown: shutdown.clone(),
            listening: Arc::default(),
        }),
    };
    logins.open(vault as Weak<dyn Vault>, redirects);
}

struct Served(String);

#[async_trait]
impl Redirects for Served {
    async fn uri(&self) -> Result<String, Error> {
        Ok(self.0.clone())
    }
}

struct Loopback {
    orch: Weak<Orch>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    /// Where, and until when.
    listening: Arc<Mutex<Option<(SocketAddr, Instant)>>>,
}

#[async_trait]
impl Redirects for Loopback {
    async fn uri(&self) -> Result<String, Error> {
        let uri = |address: SocketAddr| format!("http://{address}{}", login_page::PATH);
        if let Some((address, until)) = &mut *self.listening.lock()
            && Instant::now() < *until
        {
            *until = Instant::now() + OPEN;
            return Ok(uri(*address));
        }
        let unavailable = |err: std::io::Error| Error::Unavailable {
            message: "no port of this machine can be listened on for the browser to come back to"
                .to_owned(),
            source: Some(Box::new(err)),
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(unavailable)?;
        let address = listener.local_addr().map_err(unavailable)?;
        *self.listening.lock() = Some((address, Instant::now() + OPEN));
        self.tasks.spawn(serve(listener, self.orch.clone(), self.ended(address)));
        Ok(uri(address))
    }
}

impl Loopback {
    /// Resolves when no login can come back to `address` any more.
    fn ended(&self, address: SocketAddr) -> impl Future<Output = ()> + Send + 'static {
        let (listening, shutdown) = (self.listening.clone(), self.shutdown.clone());
        async move {
            loop {
                let until = match &*listening.lock() {
                    Some((it, until)) if *it == address && Instant::now() < *until => *until,
                    _ => return,
                };
                tokio::select! {
                    () = tokio::time::sleep_until(until.into()) => {}
                    () = shutdown.cancelled() => return,
                }
            }
        }
    }
}

async fn serve(
    listener: TcpListener,
    orch: Weak<Orch>,
    ended: impl Future<Output = ()> + Send + 'static,
) {
    let Ok(address) = listener.local_addr() else { return };
    let served = axum::serve(listener, login_page::alone(address, orch));
    if let Err(err) = served.with_graceful_shutdown(ended).await {
        tracing::warn!("browsers cannot come back from a login any more: {err}");
    }
}
