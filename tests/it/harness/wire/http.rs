//! Streamable HTTP in both eras: every message is a request of its own, and what comes back is put among the frames.

use futures::StreamExt;
use reqwest::header::CONTENT_TYPE;
use serde_json::Value;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::AbortHandle;

use super::{Era, LEGACY, MODERN, spawn};

pub(super) struct Http {
    client: reqwest::Client,
    url: String,
    session: Option<String>,
    pub(super) version: &'static str,
    /// Whom a demo takes it for.
    pub(super) user: Option<&'static str>,
    sink: UnboundedSender<Value>,
    /// Response streams. They end with the client, as those of a program that goes away do.
    streams: Vec<AbortHandle>,
}

impl Http {
    pub(super) fn new(url: &str, sink: UnboundedSender<Value>) -> Http {
        let client = crate::harness::http();
        Http {
            client,
            url: url.to_owned(),
            session: None,
            version: LEGACY,
            user: None,
            sink,
            streams: Vec::new(),
        }
    }

    fn with_session(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        match &self.session {
            Some(session) => request
                .header("mcp-session-id", session)
                .header("mcp-protocol-version", self.version),
            None => request,
        }
    }

    /// Opens the stream of what belongs to no request.
    pub(super) async fn listen(&mut self) {
        let request = self.client.get(&self.url).header("accept", "text/event-stream");
        let response = self.with_session(request).send().await.unwrap();
        if response.status().is_success() {
            self.streams.push(spawn(read(response, self.sink.clone())));
        }
    }

    pub(super) async fn end(self) {
        let goodbye = self.with_session(self.client.delete(&self.url)).send().await.unwrap();
        assert!(goodbye.status().is_success(), "{goodbye:?}");
    }

    /// Sends it; the answer is read beside. A session is taken from the answer to `initialize`.
    pub(super) async fn send(&mut self, frame: Value, era: Era) {
        let mut request = self
            .client
            .post(&self.url)
            .header("content-type", "application/json")
            .header("accept", "application/json, text/event-stream")
            .body(frame.to_string());
        if let Some(user) = self.user {
            request = request.header("x-user-id", user);
        }
        let params = &frame["params"];
        if era == Era::Modern {
            request = request.header("mcp-protocol-version", MODERN);
            if let Some(method) = frame["method"].as_str() {
                request = request.header("mcp-method", method);
            }
            let name = ["name", "uri", "taskId"].iter().find_map(|it| params[*it].as_str());
            if let Some(name) = name {
                request = request.header("mcp-name", name);
            }
            if let Some(region) = params["arguments"]["region"].as_str() {
                request = request.header("mcp-param-region", region);
            }
        }
        let request = self.with_session(request);
        if frame["method"] == "initialize" {
            let response = request.send().await.unwrap();
            let session = response.headers().get("mcp-session-id");
            self.session = session.map(|it| it.to_str().unwrap().to_owned());
            self.streams.push(spawn(read(response, self.sink.clone())));
            return;
        }
        let sink = self.sink.clone();
        if frame.get("id").is_none() || frame.get("method").is_none() {
            // Once it is there; the next message must not overtake it.
            let response = request.send().await.unwrap();
            assert!(response.status().is_success(), "{frame}: {response:?}");
            return;
        }
        self.streams.push(spawn(async move {
            // The test may have hung up.
            if let Ok(response) = request.send().await {
                read(response, sink).await;
            }
        }));
    }
}

impl Drop for Http {
    fn drop(&mut self) {
        self.streams.iter().for_each(AbortHandle::abort);
    }
}

/// Puts all messages of a response among the frames.
async fn read(response: reqwest::Response, sink: UnboundedSender<Value>) {
    let kind = response.headers().get(CONTENT_TYPE).map(|it| it.to_str().unwrap().to_owned());
    let is_stream = kind.is_some_and(|it| it.starts_with("text/event-stream"));
    let status = response.status();
    if !is_stream {
        let body = response.text().await.unwrap_or_default();
        if !body.trim().is_empty() {
            let frame = serde_json::from_str(&body);
            let frame = frame.unwrap_or_else(|_| panic!("{status}: {body}"));
            sink.send(frame).ok();
        }
        return;
    }
    let (mut chunks, mut buffer) = (response.bytes_stream(), Vec::new());
    while let Some(Ok(chunk)) = chunks.next().await {
        buffer.extend_from_slice(&chunk);
        while let Some(end) = buffer.windows(2).position(|it| it == b"\n\n") {
            let event: Vec<u8> = buffer.drain(..end + 2).collect();
            let event = String::from_utf8(event).unwrap();
            let data: String = event
                .lines()
                .filter_map(|it| it.strip_prefix("data:"))
                .map(|it| it.strip_prefix(' ').unwrap_or(it))
                .collect();
            if !data.is_empty() {
                sink.send(serde_json::from_str(&data).unwrap()).ok();
            }
        }
    }
}
