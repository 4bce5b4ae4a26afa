//! Stands between a client and a Docker engine, and can take away the event streams alone.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Streams {
    Pass,
    /// They stay open, and nothing comes.
    Silent,
    /// They are closed, and so is whoever asks for one.
    Refused,
}

pub(crate) struct Proxy {
    streams: watch::Sender<Streams>,
    n_asked: Arc<AtomicUsize>,
    _listener: AbortOnDropHandle<()>,
}

impl Proxy {
    pub(crate) fn start(path: &Path, engine: PathBuf) -> Proxy {
        let listener = UnixListener::bind(path).unwrap();
        let (streams, mode) = watch::channel(Streams::Pass);
        let n_asked = Arc::new(AtomicUsize::new(0));
        let (tasks, counter) = (TaskTracker::new(), n_asked.clone());
        let accept = async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(engine) = UnixStream::connect(&engine).await else { continue };
                tasks.spawn(carry(client, engine, mode.clone(), counter.clone()));
            }
        };
        let listener = AbortOnDropHandle::new(TaskTracker::new().spawn(accept));
        Proxy { streams, n_asked, _listener: listener }
    }

    pub(crate) fn set(&self, streams: Streams) {
        self.streams.send_replace(streams);
    }

    /// Event streams that were asked for, refused or not.
    pub(crate) fn n_asked(&self) -> usize {
        self.n_asked.load(Ordering::Relaxed)
    }
}

/// One connection, which is one of events from the request for them on.
async fn carry(
    client: UnixStream,
    engine: UnixStream,
    mut mode: watch::Receiver<Streams>,
    n_asked: Arc<AtomicUsize>,
) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_engine, mut to_engine) = engine.into_split();
    let (mut request, mut answer) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    let mut is_events = false;
    loop {
        let now = *mode.borrow_and_update();
        if is_events && now == Streams::Refused {
            return;
        }
        tokio::select! {
            n = from_client.read(&mut request) => match n {
                Ok(n @ 1..) => {
                    if request[..n].windows(8).any(|it| it == b"/events?") {
                        is_events = true;
                        n_asked.fetch_add(1, Ordering::Relaxed);
                        if now == Streams::Refused {
                            return;
                        }
                    }
                    if to_engine.write_all(&request[..n]).await.is_err() {
                        return;
                    }
                }
                // Half closed is as good as gone: nobody here says anything after that.
                _ => return,
            },
            n = from_engine.read(&mut answer) => match n {
                Ok(n @ 1..) => {
                    let is_lost = is_events && *mode.borrow() == Streams::Silent;
                    if !is_lost && to_client.write_all(&answer[..n]).await.is_err() {
                        return;
                    }
                }
                _ => return,
            },
            changed = mode.changed() => if changed.is_err() {
                return;
            },
        }
    }
}
