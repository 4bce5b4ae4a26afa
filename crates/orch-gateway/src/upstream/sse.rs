//! A server over HTTP with SSE, as the protocol had it up to 2024-11-05: one stream from the server, whose first event
//! says where requests are posted, and on which all answers come.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use http::header::{ACCEPT, CONTENT_TYPE, HeaderName};
use http::{Method, StatusCode};
use orch_domain::secret::Secret;
use parking_lot::Mutex;
use reqwest::{Client, Url};
use sse_stream::{Sse, SseStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::pending::Pending;
use super::site::{Site, TokenSource, challenge, media_type};
use super::{Exchange, Inbox, Link, LinkError, Terms, Unowned};
use crate::frame::{Frame, Raw, raw};

const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
/// For the stream to be there, and its first event with it.
const OPEN_LIMIT: Duration = Duration::from_secs(10);
/// One message, as over stdio.
const MAX_MESSAGE: usize = 64 * 1024 * 1024;
/// How long the word that a request is given up may take.
const GOODBYE: Duration = Duration::from_secs(2);

pub struct SseLink {
    shared: Arc<Shared>,
    tasks: TaskTracker,
}

struct Shared {
    site: Site,
    /// Where messages are posted.
    endpoint: String,
    pending: Arc<Pending>,
    terms: Mutex<Option<Terms>>,
    closed: CancellationToken,
    reason: Mutex<String>,
}

type Events = BoxStream<'static, Result<Sse, sse_stream::Error>>;

impl SseLink {
    /// Opens the stream and waits for its first event.
    pub async fn open(
        client: Client,
        url: &str,
        headers: &BTreeMap<String, Secret<String>>,
        token: Option<Arc<dyn TokenSource>>,
        inbox: Inbox,
        tasks: &TaskTracker,
    ) -> Result<Arc<SseLink>, LinkError> {
        let site = Site::new(client, headers, token)?;
        let opened = tokio::time::timeout(OPEN_LIMIT, open(&site, url)).await;
        let late = || LinkError::Timeout { method: "GET".to_owned(), after: OPEN_LIMIT };
        let (endpoint, events) = opened.map_err(|_| late())??;
        let shared = Arc::new(Shared {
            site,
            endpoint,
            pending: Pending::new(inbox),
            terms: Mutex::default(),
            closed: CancellationToken::new(),
            reason: Mutex::default(),
        });
        let reading = shared.clone();
        tasks.spawn(async move {
            let closed = reading.closed.clone();
            let reason = tokio::select! {
                reason = reading.read(events) => reason,
                () = closed.cancelled() => reading.reason.lock().clone(),
            };
            reading.end(&reason);
            reading.pending.fail_all(&reading.reason.lock().clone());
        });
        Ok(Arc::new(SseLink { shared, tasks: tasks.clone() }))
    }
}

async fn open(site: &Site, url: &str) -> Result<(String, Events), LinkError> {
    let request = site.request(Method::GET, url).header(ACCEPT, "text/event-stream");
    let response = site.send(request).await?;
    let status = response.status();
    if status == StatusCode::UNAUTHORIZED {
        return Err(LinkError::Unauthorized { challenge: challenge(&response) });
    }
    if !status.is_success() {
        return Err(LinkError::Status { status: status.as_u16(), method: "GET".to_owned() });
    }
    let malformed = |message: String| LinkError::Malformed { method: "GET".to_owned(), message };
    if media_type(&response) != "text/event-stream" {
        let message = format!("its answer is of the type `{}`", media_type(&response));
        return Err(malformed(message));
    }
    let base = response.url().clone();
    let mut events = SseStream::from_bytes_stream(response.bytes_stream()).boxed();
    let said = first(&mut events, "endpoint").await;
    let said =
        said.ok_or_else(|| malformed("its stream ended before it said where to post".to_owned()))?;
    let endpoint = endpoint(&base, &said).map_err(malformed)?;
    Ok((endpoint.into(), events))
}

async fn first(
    events: &mut (impl Stream<Item = Result<Sse, sse_stream::Error>> + Unpin),
    kind: &str,
) -> Option<String> {
    while let Some(Ok(event)) = events.next().await {
        if event.event.as_deref() == Some(kind) {
            return event.data;
        }
    }
    None
}

/// Where to post, as the server says it. Elsewhere it must not lead: headers with secrets go there.
fn endpoint(base: &Url, said: &str) -> Result<Url, String> {
    let said = said.trim();
    let shown = orch_domain::text::excerpt(said.split('?').next().unwrap_or_default(), 100);
    let endpoint = base
        .join(said)
        .map_err(|_| format!("it wants to be posted to `{shown}`, which is no address"))?;
    if endpoint.origin() != base.origin() {
        return Err(format!(
            "it wants to be posted to `{shown}`, which is at another origin than its own"
        ));
    }
    Ok(endpoint)
}

#[async_trait]
impl Link for SseLink {
    async fn send(&self, method: &str, params: Option<Raw>) -> Result<Exchange, LinkError> {
        let gone = CancellationToken::new();
        let (cancel, shared, tasks) = (gone.clone(), self.shared.clone(), self.tasks.clone());
        let (id, frame, exchange) = self.shared.pending.begin(method, params, move |id| {
            cancel.cancel();
            let params = serde_json::json!({"requestId": id, "reason": "the caller went away"});
            let frame = Frame::notification("notifications/cancelled", Some(raw(&params)));
            tasks.spawn(async move {
                // Nobody is left to be told that it did not arrive.
                tokio::time::timeout(GOODBYE, shared.post(&frame)).await.ok();
            });
        });
        let shared = self.shared.clone();
        self.tasks.spawn(async move {
            let posted = tokio::select! {
                posted = shared.post(&frame) => posted,
                () = gone.cancelled() => return,
                () = shared.closed.cancelled() => Err(LinkError::Closed { reason: shared.reason.lock().clone() }),
            };
            if let Err(err) = posted {
                shared.pending.fail(id, err);
            }
        });
        Ok(exchange)
    }

    async fn tell(&self, frame: Frame) -> Result<(), LinkError> {
        self.shared.post(&frame).await
    }

    fn settle(&self, terms: Terms) {
        *self.shared.terms.lock() = Some(terms);
    }

    fn attribute(&self, unowned: Unowned) {
        self.shared.pending.attribute(unowned);
    }

    fn is_of_before(&self) -> bool {
        true
    }

    fn closed(&self) -> &CancellationToken {
        &self.shared.closed
    }

    fn reason(&self) -> String {
        self.shared.reason.lock().clone()
    }

    async fn close(&self) {
        self.shared.end("it was closed");
    }
}

impl Shared {
    fn end(&self, reason: &str) {
        if !self.closed.is_cancelled() {
            *self.reason.lock() = reason.to_owned();
            self.closed.cancel();
        }
    }

    /// To the end of the stream; says how it ended.
    async fn read(&self, mut events: Events) -> String {
        while let Some(event) = events.next().await {
            let event = match event {
                Ok(it) => it,
                Err(err) => return format!("its stream broke off: {err}"),
            };
            let Some(data) = event.data.filter(|it| !it.trim().is_empty()) else { continue };
            if event.event.is_some_and(|it| it != "message") {
                continue;
            }
            if MAX_MESSAGE < data.len() {
                return format!("it sent a message of more than {MAX_MESSAGE} bytes");
            }
            match Frame::parse(data.as_bytes()) {
                Ok(frame) => self.pending.deliver(frame),
                Err(err) => tracing::warn!("a server sent an event that is no message: {err}"),
            }
        }
        "its stream ended".to_owned()
    }

    /// Answers come on the stream; all that is said here is whether the message was taken.
    async fn post(&self, frame: &Frame) -> Result<(), LinkError> {
        let mut request = self
            .site
            .request(Method::POST, &self.endpoint)
            .header(CONTENT_TYPE, "application/json")
            .body(frame.to_line());
        if let Some(terms) = &*self.terms.lock() {
            request = request.header(VERSION, &terms.version);
        }
        let response = match self.site.send(request).await {
            Ok(it) => it,
            Err(err) => {
                if matches!(err, LinkError::LoginNeeded { .. }) {
                    self.end(&err.to_string());
                }
                return Err(err);
            }
        };
        match response.status() {
            status if status.is_success() => Ok(()),
            StatusCode::UNAUTHORIZED => {
                Err(LinkError::Unauthorized { challenge: challenge(&response) })
            }
            StatusCode::NOT_FOUND => {
                self.end("it has forgotten our session");
                Err(LinkError::SessionOver)
            }
            status => {
                let method = frame.method.clone().unwrap_or_else(|| "a response".to_owned());
                Err(LinkError::Status { status: status.as_u16(), method })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_posted_to_the_origin_of_the_stream_alone() {
        let base = Url::parse("https://example.org:8443/a/sse?k=1").unwrap();
        let of = |said: &str| endpoint(&base, said).map(String::from);
        assert_eq!(of("/message?s=1").unwrap(), "https://example.org:8443/message?s=1");
        assert_eq!(of("message").unwrap(), "https://example.org:8443/a/message");
        assert_eq!(of("https://example.org:8443/x").unwrap(), "https://example.org:8443/x");
        for foreign in [
            "https://example.org/x",
            "http://example.org:8443/x",
            "//evil.example/x",
            "https://example.org:8443@evil.example/x",
            "javascript:alert(1)",
        ] {
            assert!(of(foreign).unwrap_err().contains("another origin"), "{foreign}");
        }
        assert!(of("https://").unwrap_err().contains("no address"));
    }
}
