//! The session with a remote endpoint of the era that has them: begun anew without the client's doing when the endpoint
//! has forgotten it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use http::Method;
use http::header::HeaderValue;
use sse_stream::SseStream;

use super::ask::{Place, malformed};
use super::{ACCEPTED, Bridge, FAREWELL};
use crate::frame::{Frame, Kind};
use crate::members::Members;
use crate::upstream::LinkError;
use crate::upstream::http::{MAX_RETRY, RETRY, SESSION_ID, VERSION, body, media_type, unreachable};

#[derive(Default)]
pub(super) struct Session {
    pub(super) id: Option<HeaderValue>,
    /// As it was agreed on.
    pub(super) version: Option<HeaderValue>,
    /// Counts how often it was begun.
    pub(super) generation: u64,
    /// The client's `initialize`.
    introduction: Option<Bytes>,
    /// What the client asked for that lasts: its log level, its subscriptions.
    lasting: BTreeMap<String, Bytes>,
}

impl Session {
    pub(super) fn mark(&self, mut request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        if let Some(id) = &self.id {
            request = request.header(SESSION_ID, id);
        }
        match &self.version {
            Some(it) => request.header(VERSION, it),
            None => request,
        }
    }

    pub(super) fn begin(&mut self, id: Option<HeaderValue>) {
        self.id = id;
        self.generation += 1;
    }

    /// Keeps what the next session has to be told.
    pub(super) fn remember(&mut self, method: &str, line: &Bytes, frame: &Frame) {
        let uri = || Members::of_params(frame.params.as_ref()).text("uri").unwrap_or_default();
        match method {
            "initialize" => {
                self.introduction = Some(line.clone());
                self.lasting.clear();
            }
            "logging/setLevel" => drop(self.lasting.insert(String::new(), line.clone())),
            "resources/subscribe" => drop(self.lasting.insert(uri(), line.clone())),
            "resources/unsubscribe" => drop(self.lasting.remove(&uri())),
            _ => {}
        }
    }
}

impl Bridge {
    /// Sends what is not answered.
    pub(super) async fn tell(self: &Arc<Bridge>, line: Bytes, frame: &Frame) {
        let what = frame.method.as_deref().unwrap_or("a response").to_owned();
        let generation = self.session.lock().generation;
        let sent = tokio::time::timeout(ACCEPTED, self.post(&line, frame).send()).await;
        match sent {
            Ok(Ok(it)) if it.status().is_success() => {}
            Ok(Ok(it)) if it.status().as_u16() == 404 && self.session.lock().id.is_some() => {
                // What belonged to the old session, such as an answer, has no place in a new one.
                if let Err(err) = self.renew(generation).await {
                    tracing::warn!("the session could not be begun anew: {err}");
                }
            }
            Ok(Ok(it)) => tracing::warn!("the endpoint answered {} to {what}", it.status()),
            Ok(Err(err)) => tracing::warn!("{what} was not delivered: {}", unreachable(err)),
            Err(_) => tracing::warn!("{what} was not accepted within {ACCEPTED:?}"),
        }
    }

    pub(super) fn start_listening(self: &Arc<Bridge>, generation: u64) {
        // Boxed, because it may begin another session, which is listened to in its turn.
        self.tasks.spawn(self.clone().listen(generation).boxed());
    }

    /// What the endpoint says on its own, for as long as the session lasts. Not every one has such a stream.
    async fn listen(self: Arc<Bridge>, generation: u64) {
        let mut place = Place::default();
        let mut wait = RETRY;
        loop {
            if self.session.lock().generation != generation {
                return;
            }
            let request = self.resume(&place);
            let listened = async {
                match request.send().await {
                    Ok(it)
                        if it.status().is_success() && media_type(&it) == "text/event-stream" =>
                    {
                        self.read(it, None, &mut place).await;
                        wait = place.wait();
                        true
                    }
                    Ok(it) if it.status().as_u16() == 404 && self.session.lock().id.is_some() => {
                        if let Err(err) = self.renew(generation).await {
                            tracing::warn!("the session could not be begun anew: {err}");
                            wait = (wait * 2).min(MAX_RETRY);
                            return true;
                        }
                        false
                    }
                    // There is no such stream.
                    Ok(it) if it.status().is_success() || it.status().is_client_error() => false,
                    _ => {
                        wait = (wait * 2).min(MAX_RETRY);
                        true
                    }
                }
            };
            let goes_on = tokio::select! {
                it = listened => it,
                () = self.closed.cancelled() => false,
            };
            if !goes_on {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.closed.cancelled() => return,
            }
        }
    }

    /// Begins another session in place of the one of `generation`, unless that was done meanwhile.
    pub(super) async fn renew(self: &Arc<Bridge>, generation: u64) -> Result<(), LinkError> {
        let _renewing = self.renewing.lock().await;
        let (introduction, lasting) = {
            let session = self.session.lock();
            if session.generation != generation {
                return Ok(());
            }
            (session.introduction.clone(), session.lasting.values().cloned().collect::<Vec<_>>())
        };
        let Some(line) = introduction else { return Err(LinkError::SessionOver) };
        tracing::info!("the endpoint has forgotten our session; beginning another");
        let frame = parse(&line)?;
        let response = self.post(&line, &frame).send().await.map_err(unreachable)?;
        if !response.status().is_success() {
            let status = response.status().as_u16();
            return Err(LinkError::Status { status, method: "initialize".to_owned() });
        }
        let id = response.headers().get(SESSION_ID).cloned();
        let answer = answer_of(response).await?;
        let version = answer.result.as_ref().and_then(Members::of);
        let version = version.and_then(|it| it.text("protocolVersion"));
        if answer.result.is_none() {
            return Err(LinkError::SessionOver);
        }
        let generation = {
            let mut session = self.session.lock();
            session.begin(id);
            session.version = version.and_then(|it| HeaderValue::try_from(it).ok());
            session.generation
        };
        let done = Frame::notification("notifications/initialized", None);
        let sent = self.post(&done.to_line().into(), &done).send().await.map_err(unreachable)?;
        drop(sent);
        for line in lasting {
            let frame = parse(&line)?;
            // The client had its answer long ago.
            self.post(&line, &frame).send().await.map_err(unreachable).map(drop)?;
        }
        self.start_listening(generation);
        Ok(())
    }

    /// Says goodbye.
    pub(super) async fn end_session(&self) {
        let id = self.session.lock().id.clone();
        if id.is_none() {
            return;
        }
        let request = self.client.request(Method::DELETE, &self.url).headers(self.headers.clone());
        let request = self.session.lock().mark(request);
        // An endpoint that is gone, or ends sessions by itself, needs none.
        tokio::time::timeout(FAREWELL, request.send()).await.ok();
    }
}

fn parse(line: &Bytes) -> Result<Frame, LinkError> {
    Frame::parse(line).map_err(|err| malformed("initialize", &err.to_string()))
}

/// Of a handshake, which the client does not see.
async fn answer_of(response: reqwest::Response) -> Result<Frame, LinkError> {
    let broken = || malformed("initialize", "there is no answer in what it said");
    if media_type(&response) == "application/json" {
        let text = body(response, "initialize").await?;
        return Frame::parse(&text).map_err(|_| broken());
    }
    let read = async {
        let mut events = SseStream::from_bytes_stream(response.bytes_stream());
        while let Some(Ok(event)) = events.next().await {
            let frame = event.data.and_then(|it| Frame::parse(it.as_bytes()).ok());
            if let Some(frame) = frame.filter(|it| it.kind() == Kind::Response) {
                return Ok(frame);
            }
        }
        Err(broken())
    };
    tokio::time::timeout(Duration::from_secs(30), read).await.unwrap_or_else(|_| Err(broken()))
}
