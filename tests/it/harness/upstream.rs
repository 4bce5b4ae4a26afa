//! A server behind the gateway that does what the test wants and counts what it is asked: over streamable HTTP, with
//! sessions, in bare JSON, so that what goes through can be compared byte by byte.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use parking_lot::Mutex;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::net::TcpListener;
use tokio::sync::Notify;

/// A result with all that a typed model loses: numbers as written, unknown members, escapes, their order.
pub(crate) const STRANGE: &str = concat!(
    r#"{"zeta":1,"content":[{"type":"text","text":"caf\u00e9","vendor":{"x":0.70}},{"type":"hologram","data":[1e3,50.0]}],"#,
    r#""structuredContent":{"n":123456789012345678901234567890,"p":0.7},"isError":false,"_meta":{"a/b":null}}"#
);
/// A tool with members that nobody knows.
pub(crate) const TOOL: &str = concat!(
    r#"{"vendor":{"z":1,"a":0.70},"name":"strange","description":"d","inputSchema":{"type":"object","x-order":[3,1]},"#,
    r#""execution":{"taskSupport":"optional"},"annotations":{"priority":0.7}}"#
);
pub(crate) const N_PROGRESS: usize = 20;

#[derive(Clone, Default)]
pub(crate) struct Upstream(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// Methods, in the order they were asked.
    asked: Mutex<Vec<String>>,
    /// Ids of requests that were cancelled.
    cancelled: Mutex<Vec<Value>>,
    n_sessions: AtomicUsize,
    /// Sessions up to this one are forgotten.
    forgotten: AtomicUsize,
    /// Further tools are listed.
    is_grown: AtomicBool,
    /// `tools/list` is not answered.
    is_hung: AtomicBool,
    /// `tools/list` is answered by an error.
    is_broken: AtomicBool,
    seen: Notify,
    grown: Notify,
}

impl Upstream {
    /// Serves until the test ends; answers its URL.
    pub(crate) async fn start(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/mcp", listener.local_addr().unwrap());
        let router = Router::new().route("/mcp", any(serve)).with_state(self.clone());
        #[expect(clippy::disallowed_methods, reason = "it goes with the runtime of the test")]
        tokio::spawn(async move { axum::serve(listener, router).await });
        url
    }

    pub(crate) fn hang(&self) {
        self.0.is_hung.store(true, Ordering::Relaxed);
    }

    pub(crate) fn break_lists(&self, is_broken: bool) {
        self.0.is_broken.store(is_broken, Ordering::Relaxed);
    }

    /// One more tool, and word of it.
    pub(crate) fn grow(&self) {
        self.0.is_grown.store(true, Ordering::Relaxed);
        self.0.grown.notify_waiters();
    }

    pub(crate) fn forget_sessions(&self) {
        self.0.forgotten.store(self.0.n_sessions.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    pub(crate) fn n_asked(&self, method: &str) -> usize {
        self.0.asked.lock().iter().filter(|it| *it == method).count()
    }

    pub(crate) fn cancelled(&self) -> Vec<Value> {
        self.0.cancelled.lock().clone()
    }

    /// Until `method` was asked that often.
    pub(crate) async fn until(&self, method: &str, n: usize) {
        super::within(method, async {
            loop {
                let seen = self.0.seen.notified();
                if n <= self.n_asked(method) {
                    return;
                }
                seen.await;
            }
        })
        .await;
    }
}

#[derive(serde::Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    method: Option<String>,
    #[serde(default)]
    params: Value,
}

async fn serve(
    State(upstream): State<Upstream>,
    method: Method,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let inner = upstream.0.clone();
    let session =
        headers.get("mcp-session-id").and_then(|it| it.to_str().ok()?.parse::<usize>().ok());
    if session.is_some_and(|it| it <= inner.forgotten.load(Ordering::Relaxed)) {
        return StatusCode::NOT_FOUND.into_response();
    }
    if method == Method::GET {
        let changed = futures::stream::unfold(inner, |inner| async move {
            inner.grown.notified().await;
            let word =
                "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/tools/list_changed\"}\n\n";
            Some((Ok::<_, std::io::Error>(word), inner))
        });
        return events(Body::from_stream(changed));
    }
    if method != Method::POST {
        return StatusCode::OK.into_response();
    }
    let message: Message<'_> = serde_json::from_slice(&body).unwrap();
    let asked = message.method.clone().unwrap_or_default();
    inner.asked.lock().push(asked.clone());
    inner.seen.notify_waiters();
    let Some(id) = message.id else {
        if asked == "notifications/cancelled" {
            inner.cancelled.lock().push(message.params["requestId"].clone());
            inner.seen.notify_waiters();
        }
        return StatusCode::ACCEPTED.into_response();
    };
    let answer =
        |result: &str| format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, id.get());
    match asked.as_str() {
        "initialize" => {
            let n = inner.n_sessions.fetch_add(1, Ordering::Relaxed) + 1;
            let result = r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{"listChanged":true}},"serverInfo":{"name":"counting","version":"1"}}"#;
            (
                [("content-type", "application/json"), ("mcp-session-id", &n.to_string())],
                answer(result),
            )
                .into_response()
        }
        "tools/list" => {
            if inner.is_hung.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
            if inner.is_broken.load(Ordering::Relaxed) {
                let error = r#"{"code":-32603,"message":"the shelf is gone"}"#;
                return json(format!(r#"{{"jsonrpc":"2.0","id":{},"error":{error}}}"#, id.get()));
            }
            let more = if inner.is_grown.load(Ordering::Relaxed) {
                r#",{"name":"new","inputSchema":{"type":"object"}}"#
            } else {
                ""
            };
            let slow = r#"{"name":"slow","inputSchema":{"type":"object"}}"#;
            json(answer(&format!(r#"{{"tools":[{TOOL},{slow}{more}]}}"#)))
        }
        "tools/call" if message.params["name"] == "slow" => {
            std::future::pending::<()>().await;
            unreachable!("it waits for ever")
        }
        "tools/call" => {
            let token = &message.params["_meta"]["progressToken"];
            if token.is_null() {
                return json(answer(STRANGE));
            }
            let mut stream = String::new();
            for i in 1..=N_PROGRESS {
                stream.push_str(&format!(
                    "data: {{\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{{\"progressToken\":{token},\"progress\":{i},\"vendor\":0.70}}}}\n\n"
                ));
            }
            stream.push_str(&format!("data: {}\n\n", answer(STRANGE)));
            events(Body::from(stream))
        }
        _ => json(format!(
            r#"{{"jsonrpc":"2.0","id":{},"error":{{"code":-32601,"message":"unknown","data":{{"x":0.70}}}}}}"#,
            id.get()
        )),
    }
}

fn json(text: String) -> Response {
    ([("content-type", "application/json")], text).into_response()
}

fn events(body: Body) -> Response {
    ([("content-type", "text/event-stream")], body).into_response()
}
