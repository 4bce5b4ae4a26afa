//! One request of the client at the endpoint, and all that is said about it, over as many connections as that takes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::Method;
use http::header::{ACCEPT, HeaderValue};
use reqwest::Response;
use sse_stream::SseStream;

use super::{Bridge, UnderWay};
use crate::frame::{Frame, Kind, Raw};
use crate::members::Members;
use crate::upstream::http::{
    LAST_EVENT_ID, MAX_MESSAGE, MAX_RETRIES, MAX_RETRY, RETRY, SESSION_ID, body, media_type,
    unreachable,
};
use crate::upstream::{Era, LinkError};

impl Bridge {
    /// Sends a request and hands on all that is said about it.
    pub(super) async fn ask(
        self: &Arc<Bridge>,
        line: &Bytes,
        frame: &Frame,
        request: &UnderWay,
    ) -> Result<(), LinkError> {
        let method = frame.method.as_deref().unwrap_or_default();
        if request.era == Era::Session {
            self.session.lock().remember(method, line, frame);
        }
        let mut is_second = false;
        let response = loop {
            let (generation, in_session) = {
                let session = self.session.lock();
                (session.generation, session.id.is_some() && request.era == Era::Session)
            };
            let response = self.post(line, frame).send().await.map_err(unreachable)?;
            let is_forgotten = response.status().as_u16() == 404 && in_session;
            if !is_forgotten || method == "initialize" {
                break response;
            }
            if is_second {
                return Err(LinkError::SessionOver);
            }
            is_second = true;
            // It did not take the request, so it may be made again.
            self.renew(generation).await?;
        };
        if method == "initialize" {
            let id = response.headers().get(SESSION_ID).cloned();
            self.session.lock().begin(id);
        }
        if !response.status().is_success() {
            return self.refused(response, frame).await;
        }
        match media_type(&response) {
            "application/json" => {
                let text = body(response, method).await?;
                if self.hand_on(&text, frame).await {
                    return Ok(());
                }
                Err(malformed(method, "the answer has another id than the request"))
            }
            "text/event-stream" => self.follow(response, frame, request).await,
            _ => Err(malformed(method, "it took the request and said nothing to it")),
        }
    }

    /// An answer of the protocol goes on as it is, and other refusals become one.
    async fn refused(&self, response: Response, request: &Frame) -> Result<(), LinkError> {
        let method = request.method.clone().unwrap_or_default();
        let status = response.status().as_u16();
        if status == 401 {
            return Err(LinkError::Unauthorized { challenge: None });
        }
        if media_type(&response) == "application/json"
            && let Ok(text) = body(response, &method).await
            && let Ok(mut frame) = Frame::parse(&text)
            && frame.error.is_some()
        {
            // It may not have got as far as to read the id.
            frame.id.clone_from(&request.id);
            self.send(&frame).await;
            return Ok(());
        }
        Err(LinkError::Status { status, method })
    }

    /// Reads the stream of a request to its answer, over as many connections as that takes.
    async fn follow(
        &self,
        response: Response,
        frame: &Frame,
        request: &UnderWay,
    ) -> Result<(), LinkError> {
        let method = frame.method.as_deref().unwrap_or_default();
        let mut place = Place::default();
        let mut response = Some(response);
        let mut n_tries = 0;
        loop {
            if let Some(response) = response.take() {
                let before = place.last.clone();
                if self.read(response, Some(frame), &mut place).await {
                    return Ok(());
                }
                if place.last != before {
                    n_tries = 0;
                }
            }
            n_tries += 1;
            if place.last.is_none() || request.era == Era::Stateless || MAX_RETRIES < n_tries {
                let reason = "the stream of the answer broke off".to_owned();
                return Err(LinkError::Closed { reason });
            }
            tokio::time::sleep(place.wait()).await;
            match self.resume(&place).send().await {
                Ok(it) if it.status().is_success() => response = Some(it),
                Ok(it) if it.status().is_client_error() => {
                    let status = it.status().as_u16();
                    return Err(LinkError::Status { status, method: method.to_owned() });
                }
                Ok(_) | Err(_) => tracing::debug!("a stream is not taken up yet"),
            }
        }
    }

    pub(super) fn resume(&self, place: &Place) -> reqwest::RequestBuilder {
        let request = self.client.request(Method::GET, &self.url).headers(self.headers.clone());
        let request = self.session.lock().mark(request).header(ACCEPT, "text/event-stream");
        match &place.last {
            Some(it) => request.header(LAST_EVENT_ID, it),
            None => request,
        }
    }

    /// Hands on every message of the stream; true when one was the answer to `request`.
    pub(super) async fn read(
        &self,
        response: Response,
        request: Option<&Frame>,
        place: &mut Place,
    ) -> bool {
        let mut events = SseStream::from_bytes_stream(response.bytes_stream());
        while let Some(Ok(event)) = events.next().await {
            place.last = event.id.or(place.last.take());
            place.retry = event.retry.map(Duration::from_millis).or(place.retry);
            let Some(data) = event.data.filter(|it| !it.trim().is_empty()) else { continue };
            if event.event.is_some_and(|it| it != "message") || MAX_MESSAGE < data.len() {
                continue;
            }
            let is_answer = match request {
                Some(it) => self.hand_on(data.as_bytes(), it).await,
                None => {
                    self.write(data.as_bytes()).await;
                    false
                }
            };
            if is_answer {
                return true;
            }
        }
        false
    }

    /// One message about a request; true when it is the answer.
    async fn hand_on(&self, text: &[u8], request: &Frame) -> bool {
        let Ok(frame) = Frame::parse(text) else {
            tracing::warn!("the endpoint said something that is no message");
            return false;
        };
        let id = |it: &Frame| it.id.as_ref().map(|it| it.get().to_owned());
        let is_answer = frame.kind() == Kind::Response && id(&frame) == id(request);
        if is_answer && let Some(result) = &frame.result {
            if request.is("tools/list") {
                self.params.learn(result);
            }
            if request.is("initialize") {
                self.session.lock().version = Members::of(result)
                    .and_then(|it| it.text("protocolVersion"))
                    .and_then(|it| HeaderValue::try_from(it).ok());
            }
        }
        self.write(text).await;
        is_answer
    }
}

/// How far a stream was read.
#[derive(Default)]
pub(super) struct Place {
    last: Option<String>,
    retry: Option<Duration>,
}

impl Place {
    pub(super) fn wait(&self) -> Duration {
        self.retry.unwrap_or(RETRY).min(MAX_RETRY)
    }
}

pub(super) fn failure(id: Raw, err: &LinkError) -> Frame {
    let message = match err {
        LinkError::Unauthorized { .. } => {
            "the endpoint wants a login (HTTP 401); give `mcp-orch stdio` a `--header Authorization=…` or `--token-env NAME`"
                .to_owned()
        }
        err => format!("the remote endpoint: {err}"),
    };
    Frame::error(id, -32603, &message)
}

pub(super) fn malformed(method: &str, message: &str) -> LinkError {
    LinkError::Malformed { method: method.to_owned(), message: message.to_owned() }
}
