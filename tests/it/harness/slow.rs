//! A line to a server on which every connection slows down to a trickle half-way, until it is told to go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

const BETWEEN_BYTES: Duration = Duration::from_millis(50);

pub(crate) struct SlowLine {
    /// `host:port`, in place of the server's own.
    pub(crate) address: String,
    state: Arc<State>,
    _accepting: AbortOnDropHandle<()>,
}

struct State {
    /// What each connection lets through at full speed.
    n_bytes: usize,
    open: watch::Sender<bool>,
    n_slow: AtomicUsize,
}

/// A connection that trickles and that neither end has given up.
struct Slow<'a>(&'a AtomicUsize);

impl<'a> Slow<'a> {
    fn new(counter: &'a AtomicUsize) -> Slow<'a> {
        counter.fetch_add(1, Ordering::Relaxed);
        Slow(counter)
    }
}

impl Drop for Slow<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl SlowLine {
    /// To `server`, whose answers slow down after so many bytes on each connection.
    pub(crate) async fn to(server: &str, n_bytes: usize) -> SlowLine {
        let host = server.rsplit_once(':').unwrap().0;
        let listener = TcpListener::bind((host, 0)).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (open, n_slow) = (watch::Sender::new(false), AtomicUsize::new(0));
        let state = Arc::new(State { n_bytes, open, n_slow });
        let (server, shared) = (server.to_owned(), state.clone());
        let tasks = TaskTracker::new();
        let accepting = tasks.clone().spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (server, state) = (server.clone(), shared.clone());
                tasks.spawn(async move { carry(client, &server, &state).await });
            }
        });
        SlowLine { address, state, _accepting: AbortOnDropHandle::new(accepting) }
    }

    /// Connections that trickle and that neither end has given up.
    pub(crate) fn n_slow(&self) -> usize {
        self.state.n_slow.load(Ordering::Relaxed)
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
        let mut left = state.n_bytes;
        while let Ok(n @ 1..) = from_server.read(&mut bytes).await {
            let mut rest = &bytes[..n];
            if left < n {
                let _slow = Slow::new(&state.n_slow);
                let mut open = state.open.subscribe();
                // Not quite still: an engine sees only with the next byte that nobody wants the download any more.
                while let Some((byte, others)) = rest.split_first()
                    && !*open.borrow_and_update()
                {
                    if to_client.write_all(std::slice::from_ref(byte)).await.is_err() {
                        return;
                    }
                    rest = others;
                    tokio::time::timeout(BETWEEN_BYTES, open.changed()).await.ok();
                }
            }
            left = left.saturating_sub(n);
            if to_client.write_all(rest).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = up => {}
        () = down => {}
    }
}
