//! A stream of server-sent events that a client can take up where it broke off.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::Stream;
use http::{HeaderValue, header};
use orch_gateway::frame::Frame;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// Proxies end connections on which nothing is said.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// When a client whose stream broke should try again.
const RETRY_MS: u64 = 1000;
/// Of what was sent already, this much is kept for a client that comes back.
const MAX_KEPT: usize = 256;
const MAX_KEPT_BYTES: usize = 1024 * 1024;
/// What a client has not read; beyond, it is given up.
const MAX_UNREAD_BYTES: usize = 96 * 1024 * 1024;

/// Of what belongs to no request, for a client that does not listen yet.
const MAX_OUTSIDE: usize = 1024;
/// The stream of what belongs to no request; those of requests have numbers from 1.
pub(super) const OUTSIDE: u64 = 0;

pub(super) struct Events {
    /// Tells the streams of a session apart: the ids of events begin with it.
    number: u64,
    state: Mutex<Kept>,
    more: Notify,
    /// Who reads: the latest, and how many.
    readers: watch::Sender<Readers>,
}

#[derive(Default)]
struct Kept {
    /// By their numbers, which have no gaps.
    events: VecDeque<(u64, Bytes)>,
    n_bytes: usize,
    last: u64,
    /// The last one a reader has taken.
    n_read: u64,
    is_done: bool,
}

#[derive(Clone, Copy, Default)]
struct Readers {
    latest: u64,
    n: usize,
}

impl Events {
    pub(super) fn new(number: u64) -> Arc<Events> {
        Arc::new(Events {
            number,
            state: Mutex::default(),
            more: Notify::new(),
            readers: watch::Sender::default(),
        })
    }

    /// False: the client has left too much unread.
    pub(super) fn push(&self, frame: &Frame) -> bool {
        let mut kept = self.state.lock();
        kept.last += 1;
        let id = kept.last;
        let mut event = format!("id: {}/{id}\ndata: ", self.number).into_bytes();
        event.extend(frame.to_line());
        event.extend(b"\n\n");
        kept.n_bytes += event.len();
        kept.events.push_back((id, event.into()));
        kept.forget_what_was_read();
        // What belongs to no request is for those who listen; others miss the oldest.
        while self.number == OUTSIDE && MAX_OUTSIDE < kept.events.len() {
            if let Some((_, event)) = kept.events.pop_front() {
                kept.n_bytes -= event.len();
            }
        }
        let is_read = kept.n_bytes <= MAX_UNREAD_BYTES;
        drop(kept);
        self.more.notify_waiters();
        is_read
    }

    /// Nothing more comes.
    pub(super) fn finish(&self) {
        self.state.lock().is_done = true;
        self.more.notify_waiters();
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Returns when nobody has read for `grace`.
    pub(super) async fn abandoned(&self, grace: Duration) {
        let mut readers = self.readers.subscribe();
        loop {
            if readers.borrow_and_update().n == 0 {
                match tokio::time::timeout(grace, readers.changed()).await {
                    Ok(Ok(())) => continue,
                    _ => return,
                }
            }
            if readers.changed().await.is_err() {
                return;
            }
        }
    }

    /// What comes after the event `after`, until the end, or until another reads. `held` is kept as long.
    pub(super) fn response<T: Send + 'static>(
        self: &Arc<Events>,
        after: u64,
        is_primed: bool,
        ended: CancellationToken,
        held: T,
    ) -> Response {
        let mut mine = 0;
        self.readers.send_modify(|it| {
            it.latest += 1;
            it.n += 1;
            mine = it.latest;
        });
        let reader =
            Reader { events: self.clone(), mine, at: after, is_primed, ended, _held: held };
        let mut response = Body::from_stream(reader.into_stream()).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        response
    }
}

impl Kept {
    fn forget_what_was_read(&mut self) {
        while let Some((id, event)) = self.events.front() {
            let is_much = MAX_KEPT < self.events.len() || MAX_KEPT_BYTES < self.n_bytes;
            if !is_much || self.n_read < *id {
                return;
            }
            self.n_bytes -= event.len();
            self.events.pop_front();
        }
    }
}

struct Reader<T> {
    events: Arc<Events>,
    mine: u64,
    at: u64,
    is_primed: bool,
    ended: CancellationToken,
    _held: T,
}

impl<T: Send + 'static> Reader<T> {
    fn into_stream(self) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
        futures::stream::unfold(self, |mut reader| async move {
            let bytes = reader.next().await?;
            Some((Ok(bytes), reader))
        })
    }

    async fn next(&mut self) -> Option<Bytes> {
        if self.is_primed {
            self.is_primed = false;
            let number = self.events.number;
            return Some(format!("id: {number}/{}\nretry: {RETRY_MS}\ndata: \n\n", self.at).into());
        }
        let mut readers = self.events.readers.subscribe();
        loop {
            // Before looking, so that what comes in between is not missed.
            let more = self.events.more.notified();
            let mut more = std::pin::pin!(more);
            more.as_mut().enable();
            if self.mine < readers.borrow_and_update().latest {
                return None;
            }
            {
                let mut kept = self.events.state.lock();
                let next = kept.events.iter().find(|(id, _)| self.at < *id).cloned();
                if let Some((id, event)) = next {
                    self.at = id;
                    kept.n_read = kept.n_read.max(id);
                    return Some(event);
                }
                if kept.is_done {
                    return None;
                }
            }
            tokio::select! {
                () = &mut more => {}
                _ = readers.changed() => {}
                () = self.ended.cancelled() => return None,
                () = tokio::time::sleep(KEEP_ALIVE) => return Some(Bytes::from_static(b": \n\n")),
            }
        }
    }
}

impl<T> Drop for Reader<T> {
    fn drop(&mut self) {
        self.events.readers.send_modify(|it| it.n -= 1);
    }
}

/// Which stream, and which event of it, an id names.
pub(super) fn position(id: &str) -> Option<(u64, u64)> {
    let (stream, event) = id.split_once('/')?;
    Some((stream.parse().ok()?, event.parse().ok()?))
}
