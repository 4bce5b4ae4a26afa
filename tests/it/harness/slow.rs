//! A line to a server that lets only so much through until it is told to go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

pub(crate) struct SlowLine {
    /// `host:port`, in place of the server's own.
    pub(crate) address: String,
    state: Arc<State>,
    _accepting: AbortOnDropHandle<()>,
}

struct State {
    /// Bytes that may still come from the server; more wait.
    open: watch::Sender<bool>,
    left: AtomicU64,
    n_connections: AtomicUsize,
}

impl SlowLine {
    /// To `server`, and shut after so many bytes that it sent.
    pub(crate) async fn to(server: &str, n_bytes: u64) -> SlowLine {
        let host = server.rsplit_once(':').unwrap().0;
        let listener = TcpListener::bind((host, 0)).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(State {
            open: watch::Sender::new(false),
            left: AtomicU64::new(n_bytes),
            n_connections: AtomicUsize::new(0),
        });
        let (server, shared) = (server.to_owned(), state.clone());
        let tasks = TaskTracker::new();
        let accepting = tasks.clone().spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (server, state) = (server.clone(), shared.clone());
                tasks.spawn(async move {
                    state.n_connections.fetch_add(1, Ordering::Relaxed);
                    carry(client, &server, &state).await;
                    state.n_connections.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        SlowLine { address, state, _accepting: AbortOnDropHandle::new(accepting) }
    }

    /// Whether so much has come through that it is shut.
    pub(crate) fn is_shut(&self) -> bool {
        self.state.left.load(Ordering::Relaxed) == 0 && !*self.state.open.borrow()
    }

    /// Connections that neither end has closed.
    pub(crate) fn n_connections(&self) -> usize {
        self.state.n_connections.load(Ordering::Relaxed)
    }

    pub(crate) fn open(&self) {
        self.state.open.send_replace(true);
    }
}

/// Ends when either side does.
async fn carry(client: TcpStream, server: &str, state: &State) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let up = async {
        tokio::io::copy(&mut from_client, &mut to_server).await.ok();
    };
    let down = async {
        let mut bytes = vec![0; 16 << 10];
        while let Ok(n @ 1..) = from_server.read(&mut bytes).await {
            let before = state.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                Some(left.saturating_sub(n as u64))
            });
            if before.is_ok_and(|left| left < n as u64) {
                state.open.subscribe().wait_for(|it| *it).await.ok();
            }
            if to_client.write_all(&bytes[..n]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = up => {}
        () = down => {}
    }
}
