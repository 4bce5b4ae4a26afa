//! A byte stream in front of one remote endpoint: what a client says on its stdout goes there over streamable HTTP as it
//! was written, and what is said there comes back as it was written.
//!
//! There is one client and one session, so ids and tokens need no mapping, and either era passes. What is added is what
//! HTTP wants and a stream does not have: sessions, which are begun anew when the endpoint has forgotten ours, headers,
//! and connections that break.

mod ask;
mod header_params;
mod session;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use orch_domain::secret::Secret;
use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::ask::failure;
use self::header_params::HeaderParams;
use self::session::Session;
use crate::edge::era_of;
use crate::frame::{Frame, Kind, raw};
use crate::headers;
use crate::members::Members;
use crate::upstream::Era;
use crate::upstream::handshake::VERSION_KEY;
use crate::upstream::http::{MAX_MESSAGE, METHOD, NAME, VERSION, client, header_text};

/// Frames for a client that does not read; the endpoint then has to wait.
const OUTGOING: usize = 256;
/// How long the endpoint may take to accept what is not answered.
const ACCEPTED: Duration = Duration::from_secs(30);
/// What is under way when the client closes its stream may still be answered for so long.
const FAREWELL: Duration = Duration::from_secs(2);

/// The endpoint, and what it is told with every request.
#[derive(Clone, Debug)]
pub struct Remote {
    pub url: String,
    pub headers: BTreeMap<String, Secret<String>>,
}

#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    #[error(
        "`{0}` is no address of an MCP endpoint\nhint: it starts with `http://` or `https://`, and mostly ends with `/mcp`"
    )]
    Url(String),
    #[error("the header `{0}` cannot be sent\nhint: a header is NAME=VALUE, in plain ASCII")]
    Header(String),
    #[error("no HTTP client can be made")]
    Client(#[from] reqwest::Error),
    #[error("the client's stream failed")]
    Stream(#[from] std::io::Error),
}

impl Remote {
    /// With a header `Authorization` for a bearer token.
    pub fn with_token(mut self, token: &str) -> Remote {
        let value = Secret::new(format!("Bearer {token}"));
        self.headers.insert(AUTHORIZATION.as_str().to_owned(), value);
        self
    }

    /// Carries messages both ways until the client closes its stream or `stop` says so.
    pub async fn carry(
        &self,
        read: impl AsyncRead + Unpin,
        write: impl AsyncWrite + Send + Unpin + 'static,
        stop: CancellationToken,
    ) -> Result<(), RemoteError> {
        let (out, lines) = mpsc::channel(OUTGOING);
        let bridge = Arc::new(Bridge::new(self, out)?);
        let writer = bridge.tasks.spawn(write_all(write, lines, stop.clone()));
        let taken = tokio::select! {
            taken = bridge.take_all(read) => taken,
            () = stop.cancelled() => Ok(()),
        };
        let answered = async {
            while bridge.has_unanswered() {
                bridge.ended.notified().await;
            }
        };
        tokio::select! {
            _ = tokio::time::timeout(FAREWELL, answered) => {}
            () = stop.cancelled() => {}
        }
        bridge.closed.cancel();
        bridge.end_session().await;
        bridge.tasks.close();
        drop(bridge);
        // It ends when nobody has anything more to write.
        tokio::time::timeout(FAREWELL, writer).await.ok();
        taken.map_err(RemoteError::Stream)
    }
}

struct Bridge {
    client: reqwest::Client,
    url: String,
    headers: HeaderMap,
    session: Mutex<Session>,
    /// One session is begun anew at a time.
    renewing: tokio::sync::Mutex<()>,
    /// By the client's ids.
    under_way: Mutex<HashMap<String, Arc<UnderWay>>>,
    /// Told when one of those has ended.
    ended: tokio::sync::Notify,
    params: HeaderParams,
    out: mpsc::Sender<Bytes>,
    tasks: TaskTracker,
    closed: CancellationToken,
}

/// A request of the client.
struct UnderWay {
    era: Era,
    withdrawn: CancellationToken,
    /// Its answer may stay away.
    is_withdrawn: AtomicBool,
}

impl Bridge {
    fn new(remote: &Remote, out: mpsc::Sender<Bytes>) -> Result<Bridge, RemoteError> {
        let is_http = reqwest::Url::parse(&remote.url)
            .is_ok_and(|it| matches!(it.scheme(), "http" | "https") && it.has_host());
        if !is_http {
            return Err(RemoteError::Url(orch_domain::text::excerpt(&remote.url, 200)));
        }
        let mut headers = HeaderMap::new();
        for (name, value) in &remote.headers {
            let bad = || RemoteError::Header(orch_domain::text::excerpt(name, 60));
            let key = HeaderName::try_from(name.as_str()).map_err(|_| bad())?;
            let mut value = HeaderValue::try_from(value.expose().as_str()).map_err(|_| bad())?;
            value.set_sensitive(true);
            headers.insert(key, value);
        }
        Ok(Bridge {
            client: client()?,
            url: remote.url.clone(),
            headers,
            session: Mutex::default(),
            renewing: tokio::sync::Mutex::default(),
            under_way: Mutex::default(),
            ended: tokio::sync::Notify::new(),
            params: HeaderParams::default(),
            out,
            tasks: TaskTracker::new(),
            closed: CancellationToken::new(),
        })
    }

    fn has_unanswered(&self) -> bool {
        let is_wanted = |it: &Arc<UnderWay>| !it.is_withdrawn.load(Ordering::Relaxed);
        self.under_way.lock().values().any(is_wanted)
    }

    /// From the client, until it closes.
    async fn take_all(self: &Arc<Bridge>, read: impl AsyncRead + Unpin) -> std::io::Result<()> {
        let mut read = BufReader::with_capacity(64 * 1024, read);
        loop {
            let mut line = Vec::new();
            if !read_line(&mut read, &mut line).await? {
                return Ok(());
            }
            let line = line.trim_ascii();
            if line.is_empty() {
                continue;
            }
            match Frame::parse(line) {
                Ok(frame) => self.take(Bytes::copy_from_slice(line), frame).await,
                Err(err) => {
                    self.send(&Frame::error(raw(&()), -32700, &err.to_string())).await;
                }
            }
        }
    }

    async fn take(self: &Arc<Bridge>, line: Bytes, frame: Frame) {
        let era = era_of(frame.params.as_ref());
        if frame.kind() != Kind::Request {
            if let Some(id) = cancelled_id(&frame)
                && let Some(request) = self.under_way.lock().get(&id).cloned()
            {
                request.is_withdrawn.store(true, Ordering::Relaxed);
                if request.era == Era::Stateless {
                    // Over HTTP, there, the end of the stream says it.
                    request.withdrawn.cancel();
                    return;
                }
            }
            // One after the other, so that they come in the order in which they were said.
            self.tell(line, &frame).await;
            if frame.is("notifications/initialized") {
                let generation = self.session.lock().generation;
                self.start_listening(generation);
            }
            return;
        }
        let id = frame.id.as_ref().map_or_else(String::new, |it| it.get().to_owned());
        let request = Arc::new(UnderWay {
            era,
            withdrawn: CancellationToken::new(),
            is_withdrawn: AtomicBool::new(false),
        });
        self.under_way.lock().insert(id.clone(), request.clone());
        let (bridge, is_handshake) = (self.clone(), frame.is("initialize"));
        let asked = self.tasks.spawn(async move {
            let asked = tokio::select! {
                asked = bridge.ask(&line, &frame, &request) => asked,
                () = request.withdrawn.cancelled() => Ok(()),
                () = bridge.closed.cancelled() => Ok(()),
            };
            bridge.under_way.lock().remove(&id);
            if let (Err(err), Some(id)) = (asked, frame.id)
                && !request.is_withdrawn.load(Ordering::Relaxed)
            {
                bridge.send(&failure(id, &err)).await;
            }
            bridge.ended.notify_one();
        });
        // What follows a handshake needs what it brings.
        if is_handshake {
            asked.await.ok();
        }
    }

    fn post(&self, line: &Bytes, frame: &Frame) -> reqwest::RequestBuilder {
        let mut request = self
            .client
            .post(&self.url)
            .headers(self.headers.clone())
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json, text/event-stream");
        let session = self.session.lock();
        let params = frame.params.as_ref();
        if era_of(params) == Era::Stateless {
            let params = Members::of_params(params);
            let meta = params.object("_meta").unwrap_or_default();
            request = request.header(VERSION, meta.text(VERSION_KEY).unwrap_or_default());
            if let Some(method) = &frame.method {
                request = request.header(METHOD, method);
                if let Some(name) = headers::name_of(method, &params) {
                    request = request.header(NAME, header_text(&name));
                }
                if method == "tools/call" {
                    for (name, value) in self.params.of_call(&params) {
                        request = request.header(name, header_text(&value));
                    }
                }
            }
        } else if !frame.is("initialize") {
            request = session.mark(request);
        }
        drop(session);
        request.body(line.clone())
    }

    async fn send(&self, frame: &Frame) {
        self.write(&frame.to_line()).await;
    }

    async fn write(&self, text: &[u8]) {
        let mut line = Vec::with_capacity(text.len() + 1);
        // JSON has line breaks between tokens only.
        line.extend(text.trim_ascii().iter().map(|it| match it {
            b'\n' | b'\r' => b' ',
            it => *it,
        }));
        line.push(b'\n');
        // A client that is gone reads nothing.
        self.out.send(line.into()).await.ok();
    }
}

fn cancelled_id(frame: &Frame) -> Option<String> {
    if !frame.is("notifications/cancelled") {
        return None;
    }
    let params = Members::of_params(frame.params.as_ref());
    params.get("requestId").map(|it| it.get().to_owned())
}

/// One line. False: there are no more.
async fn read_line<R: AsyncRead + Unpin>(
    read: &mut BufReader<R>,
    line: &mut Vec<u8>,
) -> std::io::Result<bool> {
    loop {
        let available = read.fill_buf().await?;
        if available.is_empty() {
            return Ok(!line.is_empty());
        }
        let end = available.iter().position(|it| *it == b'\n');
        let n = end.map_or(available.len(), |it| it + 1);
        if MAX_MESSAGE < line.len() + n {
            return Err(std::io::Error::other(format!("a message has over {MAX_MESSAGE} bytes")));
        }
        line.extend_from_slice(&available[..n]);
        read.consume(n);
        if end.is_some() {
            return Ok(true);
        }
    }
}

/// When the client takes no more, everything ends.
async fn write_all(
    mut write: impl AsyncWrite + Unpin,
    mut lines: mpsc::Receiver<Bytes>,
    stop: CancellationToken,
) {
    while let Some(line) = lines.recv().await {
        if write.write_all(&line).await.is_err() || write.flush().await.is_err() {
            stop.cancel();
            return;
        }
    }
}
