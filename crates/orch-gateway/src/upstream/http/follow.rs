//! Streams of events: read to the answer, and taken up where they broke.

use std::time::Duration;

use futures::StreamExt;
use http::Method;
use http::StatusCode;
use http::header::ACCEPT;
use reqwest::Response;
use sse_stream::{Sse, SseStream};

use super::{LAST_EVENT_ID, MAX_MESSAGE, MAX_RETRIES, MAX_RETRY, RETRY, Shared, media_type};
use crate::frame::Frame;
use crate::upstream::LinkError;

/// How a stream of events ended.
enum End {
    Answered,
    /// With the id of the last event, if it had one, and the time to wait that the server named.
    Broken {
        last: Option<String>,
        retry: Option<Duration>,
    },
}

impl Shared {
    /// Reads the stream of a request to its answer, over as many connections as that takes.
    pub(super) async fn follow(
        &self,
        id: u64,
        method: &str,
        response: Response,
    ) -> Result<(), LinkError> {
        let mut response = Some(response);
        let mut last = None;
        let mut n_tries = 0;
        loop {
            let mut wait = RETRY;
            if let Some(response) = response.take() {
                match self.read(response, |frame| self.pending.deliver_on(id, frame)).await {
                    End::Answered => return Ok(()),
                    End::Broken { last: seen, retry } => {
                        if seen.is_some() {
                            (last, n_tries) = (seen, 0);
                        }
                        wait = retry.unwrap_or(RETRY).min(MAX_RETRY);
                    }
                }
            }
            let Some(event) = &last else {
                let reason = "the stream of the answer broke off".to_owned();
                return Err(LinkError::Closed { reason });
            };
            n_tries += 1;
            if MAX_RETRIES < n_tries || !self.pending.is_waiting(id) {
                let reason =
                    "the stream of the answer broke off and could not be taken up".to_owned();
                return Err(LinkError::Closed { reason });
            }
            tokio::time::sleep(wait).await;
            let request = self.in_session(self.request(Method::GET)).header(LAST_EVENT_ID, event);
            match self.send(request.header(ACCEPT, "text/event-stream")).await {
                Ok(it) if it.status().is_success() => response = Some(it),
                Ok(it) if it.status() == StatusCode::NOT_FOUND => return Err(self.session_over()),
                Ok(it) => {
                    return Err(LinkError::Status {
                        status: it.status().as_u16(),
                        method: method.to_owned(),
                    });
                }
                Err(err) => tracing::debug!("a stream is not taken up yet: {err}"),
            }
        }
    }

    /// What the server says on its own, for as long as the connection lasts. Not every server has such a stream.
    pub(super) async fn listen(&self) {
        let mut last: Option<String> = None;
        let mut wait = RETRY;
        loop {
            let mut request =
                self.in_session(self.request(Method::GET)).header(ACCEPT, "text/event-stream");
            if let Some(last) = &last {
                request = request.header(LAST_EVENT_ID, last);
            }
            let response = self.send(request).await;
            self.listened.send_replace(true);
            match response {
                Ok(it) if it.status().is_success() && media_type(&it) == "text/event-stream" => {
                    let deliver = |frame| {
                        self.pending.deliver(frame);
                        false
                    };
                    if let End::Broken { last: seen, retry } = self.read(it, deliver).await {
                        wait = retry.unwrap_or(RETRY);
                        last = seen.or(last);
                    }
                }
                Ok(it)
                    if it.status() == StatusCode::NOT_FOUND && self.session_id.lock().is_some() =>
                {
                    self.session_over();
                    return;
                }
                Ok(it) if it.status().is_client_error() || it.status().is_success() => return,
                _ => wait = (wait * 2).min(MAX_RETRY),
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// Hands on every message of the stream, until `deliver` says that it was the last.
    async fn read(&self, response: Response, deliver: impl Fn(Frame) -> bool) -> End {
        let mut events = SseStream::from_bytes_stream(response.bytes_stream());
        let (mut last, mut retry) = (None, None);
        while let Some(Ok(event)) = events.next().await {
            let Sse { event: kind, data, id, retry: wait } = event;
            last = id.or(last);
            retry = wait.map(Duration::from_millis).or(retry);
            let Some(data) = data.filter(|it| !it.trim().is_empty()) else { continue };
            if kind.is_some_and(|it| it != "message") || MAX_MESSAGE < data.len() {
                continue;
            }
            match Frame::parse(data.as_bytes()) {
                Ok(frame) => {
                    if deliver(frame) {
                        return End::Answered;
                    }
                }
                Err(err) => tracing::warn!("a server sent an event that is no message: {err}"),
            }
        }
        End::Broken { last, retry }
    }
}
