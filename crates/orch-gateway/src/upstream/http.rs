//! A server over streamable HTTP: every request is a POST, answered by JSON or by a stream of events.
//!
//! In the session era there is besides one GET stream for what belongs to no request, a broken stream is taken up where
//! it broke, and a request is cancelled by a message. In the stateless era closing the stream cancels.

mod follow;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use orch_domain::secret::Secret;
use parking_lot::Mutex;
use reqwest::redirect::Policy;
use reqwest::{Client, Response};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::handshake::VERSION_KEY;
use super::pending::Pending;
use super::site::{Site, TokenSource, challenge, malformed};
pub(crate) use super::site::{media_type, unreachable};
use super::{Era, Exchange, Inbox, Link, LinkError, Terms, Unowned};
use crate::frame::{Frame, Raw, raw};
use crate::headers;
use crate::members::Members;

pub(crate) const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
pub(crate) const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
pub(crate) const METHOD: HeaderName = HeaderName::from_static("mcp-method");
pub(crate) const NAME: HeaderName = HeaderName::from_static("mcp-name");
pub(crate) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// One message, as over stdio.
pub(crate) const MAX_MESSAGE: usize = 64 * 1024 * 1024;
/// Between two tries to take up a broken stream, unless the server names another time.
pub(crate) const RETRY: Duration = Duration::from_secs(1);
pub(crate) const MAX_RETRY: Duration = Duration::from_secs(30);
/// Tries in a row that bring nothing.
pub(crate) const MAX_RETRIES: u32 = 5;
/// A server is to answer to our listening within this, or is asked without.
const LISTEN_LIMIT: Duration = Duration::from_millis(500);
/// How long the goodbye to a session may take.
const GOODBYE: Duration = Duration::from_secs(2);

/// A client for all servers: connections are kept and used again.
pub fn client() -> reqwest::Result<Client> {
    // Fails only when it was done before.
    drop(rustls::crypto::ring::default_provider().install_default());
    // To another host, headers with secrets must not follow.
    let policy = Policy::custom(|attempt| {
        let is_same =
            attempt.previous().last().is_some_and(|it| it.origin() == attempt.url().origin());
        if is_same && attempt.previous().len() < 5 { attempt.follow() } else { attempt.stop() }
    });
    Client::builder()
        .tcp_nodelay(true)
        .connect_timeout(CONNECT_TIMEOUT)
        .redirect(policy)
        .user_agent(concat!("mcp-orch/", env!("CARGO_PKG_VERSION")))
        .build()
}

pub struct HttpLink {
    shared: Arc<Shared>,
    tasks: TaskTracker,
}

struct Shared {
    site: Site,
    url: String,
    pending: Arc<Pending>,
    terms: Mutex<Option<Terms>>,
    /// Until when requests wait for `listened`. None: the server is not listened to.
    listen_by: Mutex<Option<Instant>>,
    /// The server has answered to our listening, however it did.
    listened: watch::Sender<bool>,
    session_id: Mutex<Option<HeaderValue>>,
    closed: CancellationToken,
    reason: Mutex<String>,
}

impl HttpLink {
    pub fn new(
        client: Client,
        url: &str,
        headers: &BTreeMap<String, Secret<String>>,
        token: Option<Arc<dyn TokenSource>>,
        inbox: Inbox,
        tasks: &TaskTracker,
    ) -> Result<Arc<HttpLink>, LinkError> {
        let shared = Shared {
            site: Site::new(client, headers, token)?,
            url: url.to_owned(),
            pending: Pending::with_streams(inbox),
            terms: Mutex::default(),
            listen_by: Mutex::default(),
            listened: watch::Sender::default(),
            session_id: Mutex::default(),
            closed: CancellationToken::new(),
            reason: Mutex::default(),
        };
        Ok(Arc::new(HttpLink { shared: Arc::new(shared), tasks: tasks.clone() }))
    }
}

#[async_trait]
impl Link for HttpLink {
    async fn send(&self, method: &str, params: Option<Raw>) -> Result<Exchange, LinkError> {
        self.send_with(method, params, Vec::new()).await
    }

    async fn send_with(
        &self,
        method: &str,
        params: Option<Raw>,
        headers: Vec<(String, String)>,
    ) -> Result<Exchange, LinkError> {
        let gone = CancellationToken::new();
        let (cancel, shared, tasks) = (gone.clone(), self.shared.clone(), self.tasks.clone());
        let is_session = shared.era() == Some(Era::Session);
        let (id, frame, exchange) = self.shared.pending.begin(method, params, move |id| {
            cancel.cancel();
            if is_session {
                let params = serde_json::json!({"requestId": id, "reason": "the caller went away"});
                let frame = Frame::notification("notifications/cancelled", Some(raw(&params)));
                tasks.spawn(async move {
                    // Nobody is left to be told that it did not arrive.
                    tokio::time::timeout(GOODBYE, shared.tell(&frame)).await.ok();
                });
            }
        });
        let shared = self.shared.clone();
        let method = method.to_owned();
        self.tasks.spawn(async move {
            let asked = tokio::select! {
                asked = shared.ask(id, &method, &frame, headers) => asked,
                () = gone.cancelled() => return,
                () = shared.closed.cancelled() => Err(LinkError::Closed { reason: shared.reason.lock().clone() }),
            };
            if let Err(err) = asked {
                shared.pending.fail(id, err);
            }
        });
        Ok(exchange)
    }

    async fn tell(&self, frame: Frame) -> Result<(), LinkError> {
        self.shared.tell(&frame).await
    }

    fn settle(&self, terms: Terms) {
        let era = terms.era;
        *self.shared.terms.lock() = Some(terms);
        if era == Era::Session {
            *self.shared.listen_by.lock() = Some(Instant::now() + LISTEN_LIMIT);
            let shared = self.shared.clone();
            self.tasks.spawn(async move {
                let closed = shared.closed.clone();
                tokio::select! {
                    () = shared.listen() => {}
                    () = closed.cancelled() => {}
                }
            });
        }
    }

    async fn listened(&self) {
        self.shared.until_listened().await;
    }

    fn attribute(&self, unowned: Unowned) {
        self.shared.pending.attribute(unowned);
    }

    fn closed(&self) -> &CancellationToken {
        &self.shared.closed
    }

    fn reason(&self) -> String {
        self.shared.reason.lock().clone()
    }

    async fn close(&self) {
        self.shared.end("it was closed");
        let session_id = self.shared.session_id.lock().take();
        if let Some(id) = session_id {
            let goodbye = self.shared.request(Method::DELETE).header(SESSION_ID, id);
            let goodbye = self.shared.site.send(goodbye);
            // A server that is gone, or keeps no sessions, needs none.
            tokio::time::timeout(GOODBYE, goodbye).await.ok();
        }
    }
}

impl Shared {
    fn era(&self) -> Option<Era> {
        self.terms.lock().as_ref().map(|it| it.era)
    }

    fn end(&self, reason: &str) {
        if !self.closed.is_cancelled() {
            *self.reason.lock() = reason.to_owned();
            self.closed.cancel();
        }
    }

    /// What a server asks during a call may come on the stream of what belongs to no request; servers lose it while there
    /// is none. Some open it only with its first event, so that is not waited for long.
    async fn until_listened(&self) {
        let Some(listen_by) = *self.listen_by.lock() else { return };
        let mut listened = self.listened.subscribe();
        let opened = listened.wait_for(|it| *it);
        tokio::time::timeout_at(listen_by, opened).await.ok();
    }

    fn request(&self, method: Method) -> reqwest::RequestBuilder {
        let mut request = self.site.request(method, &self.url);
        if let Some(terms) = &*self.terms.lock() {
            request = request.header(VERSION, &terms.version);
        }
        request
    }

    /// The version that a request says of itself while none is agreed on.
    fn proposed(&self, frame: &Frame) -> Option<String> {
        if self.terms.lock().is_some() {
            return None;
        }
        Members::of_params(frame.params.as_ref()).object("_meta")?.text(VERSION_KEY)
    }

    /// Without a login there is nothing left to be said over this connection.
    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Response, LinkError> {
        let sent = self.site.send(request).await;
        if let Err(err @ LinkError::LoginNeeded { .. }) = &sent {
            self.end(&err.to_string());
        }
        sent
    }

    fn in_session(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        match self.session_id.lock().clone() {
            Some(id) => request.header(SESSION_ID, id),
            None => request,
        }
    }

    fn post(&self, frame: &Frame) -> reqwest::RequestBuilder {
        let mut request = self
            .in_session(self.request(Method::POST))
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json, text/event-stream");
        if let Some(version) = self.proposed(frame) {
            request = request.header(VERSION, version);
        }
        if self.era() != Some(Era::Session)
            && let Some(method) = &frame.method
        {
            request = request.header(METHOD, method);
            if let Some(name) = headers::name_of(method, &Members::of_params(frame.params.as_ref()))
            {
                request = request.header(NAME, header_text(&name));
            }
        }
        request.body(frame.to_line())
    }

    /// Sends a request and takes in all that is answered.
    async fn ask(
        &self,
        id: u64,
        method: &str,
        frame: &Frame,
        headers: Vec<(String, String)>,
    ) -> Result<(), LinkError> {
        let mut request = self.post(frame);
        for (name, value) in &headers {
            request = request.header(name, header_text(value));
        }
        let response = self.send(request).await?;
        let response = match self.refused(response, method).await? {
            Ok(response) => response,
            // The status repeats what the answer says.
            Err(mut answer) => {
                answer.id = Some(raw(&id));
                self.pending.deliver_on(id, answer);
                return Ok(());
            }
        };
        let response = self.checked(response, method).await?;
        if let Some(id) = response.headers().get(SESSION_ID)
            && method == "initialize"
        {
            *self.session_id.lock() = Some(id.clone());
        }
        match media_type(&response) {
            "application/json" => {
                let body = body(response, method).await?;
                let frame = Frame::parse(&body).map_err(|err| malformed(method, &err))?;
                if self.pending.deliver_on(id, frame) {
                    return Ok(());
                }
                Err(LinkError::Malformed {
                    method: method.to_owned(),
                    message: "the answer has another id than the request".to_owned(),
                })
            }
            "text/event-stream" => self.follow(id, method, response).await,
            other => Err(LinkError::Malformed {
                method: method.to_owned(),
                message: format!("its answer is of the type `{other}`"),
            }),
        }
    }

    async fn tell(&self, frame: &Frame) -> Result<(), LinkError> {
        let what = frame.method.as_deref().unwrap_or("a response");
        let response = self.send(self.post(frame)).await?;
        self.checked(response, what).await.map(drop)
    }

    fn session_over(&self) -> LinkError {
        self.session_id.lock().take();
        self.end("it has forgotten our session");
        LinkError::SessionOver
    }

    /// A refusal that is an answer of the protocol, as servers of the later era give it.
    async fn refused(
        &self,
        response: Response,
        method: &str,
    ) -> Result<Result<Response, Frame>, LinkError> {
        let status = response.status();
        let is_ours = status == StatusCode::UNAUTHORIZED
            || status == StatusCode::NOT_FOUND && self.session_id.lock().is_some();
        if status.is_success() || is_ours || media_type(&response) != "application/json" {
            return Ok(Ok(response));
        }
        let body = body(response, method).await?;
        match Frame::parse(&body) {
            Ok(frame) if frame.error.is_some() => Ok(Err(frame)),
            _ => Err(LinkError::Status { status: status.as_u16(), method: method.to_owned() }),
        }
    }

    /// Refusals become errors.
    async fn checked(&self, response: Response, method: &str) -> Result<Response, LinkError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        if status == StatusCode::UNAUTHORIZED {
            return Err(LinkError::Unauthorized { challenge: challenge(&response) });
        }
        if status == StatusCode::NOT_FOUND && self.session_id.lock().is_some() {
            return Err(self.session_over());
        }
        let status = status.as_u16();
        if media_type(&response) == "application/json"
            && let Ok(body) = body(response, method).await
            && let Ok(frame) = Frame::parse(&body)
            && let Some(error) = frame.error.as_ref().and_then(Members::of)
        {
            // The era without handshakes says in this way which versions it speaks.
            let code = error.get("code").and_then(|it| it.get().parse().ok()).unwrap_or(0);
            let message = error.text("message").unwrap_or_default();
            return Err(LinkError::Refused { method: method.to_owned(), code, message });
        }
        Err(LinkError::Status { status, method: method.to_owned() })
    }
}

pub(crate) async fn body(response: Response, method: &str) -> Result<Vec<u8>, LinkError> {
    let mut body = Vec::new();
    let mut chunks = response.bytes_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(unreachable)?;
        if MAX_MESSAGE < body.len() + chunk.len() {
            return Err(LinkError::Malformed {
                method: method.to_owned(),
                message: format!("it is larger than {MAX_MESSAGE} bytes"),
            });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// What the header `Mcp-Name` repeats of the body.
/// Text as a header has it: what is not plain ASCII is sent in base64 between marks.
pub(crate) fn header_text(text: &str) -> String {
    use base64::Engine;
    let is_plain = text.bytes().all(|it| (0x20..0x7f).contains(&it))
        && text.trim() == text
        && !(text.starts_with("=?base64?") && text.ends_with("?="));
    if is_plain {
        return text.to_owned();
    }
    format!("=?base64?{}?=", base64::engine::general_purpose::STANDARD.encode(text))
}
