//! A server behind the gateway for batches: it counts every call by its `key`, waits where it is told to, and outlives the
//! server in front of it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use http::{Method, StatusCode};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// What of a plan it is: `work` must not be called twice, `read` may.
pub(crate) const NAME: &str = "shop";

#[derive(Clone)]
pub(crate) struct Workshop(Arc<Inner>);

struct Inner {
    calls: Mutex<Vec<Called>>,
    /// Calls that wait go on when it is open.
    gate: watch::Sender<bool>,
    /// Changes with everything that is seen.
    seen: watch::Sender<u64>,
}

#[derive(Clone, Debug)]
pub(crate) struct Called {
    pub(crate) key: String,
    pub(crate) arguments: Value,
    pub(crate) at: Instant,
    id: Value,
    pub(crate) ended: Option<Instant>,
    pub(crate) cancelled: Option<Instant>,
}

/// Whoever asked may be gone before there is an answer.
struct Under(Arc<Inner>, usize);

impl Drop for Under {
    fn drop(&mut self) {
        self.0.calls.lock()[self.1].ended = Some(Instant::now());
        self.0.seen.send_modify(|it| *it += 1);
    }
}

impl Workshop {
    pub(crate) fn new() -> Workshop {
        Workshop(Arc::new(Inner {
            calls: Mutex::default(),
            gate: watch::Sender::new(false),
            seen: watch::Sender::new(0),
        }))
    }

    /// Serves until the test ends; answers how a gateway's file names it.
    pub(crate) async fn start(&self) -> Value {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/mcp", listener.local_addr().unwrap());
        let router = Router::new().route("/mcp", any(serve)).with_state(self.clone());
        #[expect(clippy::disallowed_methods, reason = "it goes with the runtime of the test")]
        tokio::spawn(async move { axum::serve(listener, router).await });
        json!({"url": url})
    }

    /// All that wait go on, and nothing waits any more.
    pub(crate) fn open(&self) {
        self.0.gate.send_replace(true);
    }

    pub(crate) fn calls(&self) -> Vec<Called> {
        self.0.calls.lock().clone()
    }

    pub(crate) fn n_called(&self, key: &str) -> usize {
        self.0.calls.lock().iter().filter(|it| it.key == key).count()
    }

    pub(crate) fn by_key(&self) -> HashMap<String, usize> {
        let mut by_key = HashMap::new();
        for it in self.0.calls.lock().iter() {
            *by_key.entry(it.key.clone()).or_default() += 1;
        }
        by_key
    }

    /// Until what was seen of all calls is as it is to be.
    pub(crate) async fn until(&self, what: &str, is_so: impl Fn(&[Called]) -> bool) {
        let mut seen = self.0.seen.subscribe();
        super::within(what, async {
            while !is_so(&self.0.calls.lock()) {
                seen.changed().await.unwrap();
            }
        })
        .await;
    }
}

async fn serve(State(shop): State<Workshop>, method: Method, body: Bytes) -> Response {
    if method == Method::GET {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    if method != Method::POST {
        return StatusCode::OK.into_response();
    }
    let message: Value = serde_json::from_slice(&body).unwrap();
    let Some(id) = message.get("id").cloned() else {
        if message["method"] == "notifications/cancelled" {
            let of = &message["params"]["requestId"];
            let mut calls = shop.0.calls.lock();
            for it in calls.iter_mut().filter(|it| it.id == *of) {
                it.cancelled.get_or_insert_with(Instant::now);
            }
            drop(calls);
            shop.0.seen.send_modify(|it| *it += 1);
        }
        return StatusCode::ACCEPTED.into_response();
    };
    let result = match message["method"].as_str().unwrap() {
        "initialize" => json!({
            "protocolVersion": "2025-11-25", "capabilities": {"tools": {}},
            "serverInfo": {"name": "workshop", "version": "1"},
        }),
        "tools/list" => {
            let schema = json!({"type": "object"});
            json!({"tools": [
                {"name": "work", "inputSchema": schema},
                {"name": "read", "inputSchema": schema, "annotations": {"readOnlyHint": true}},
            ]})
        }
        "tools/call" => work(&shop, id.clone(), message["params"]["arguments"].clone()).await,
        _ => {
            let error = json!({"code": -32601, "message": "unknown"});
            return axum::Json(json!({"jsonrpc": "2.0", "id": id, "error": error})).into_response();
        }
    };
    axum::Json(json!({"jsonrpc": "2.0", "id": id, "result": result})).into_response()
}

/// `do` says what: nothing for an answer at once, `wait` for the gate, `hang` for ever, `fail`, or `big` with `mb`.
async fn work(shop: &Workshop, id: Value, arguments: Value) -> Value {
    let key = arguments["key"].as_str().unwrap_or_default().to_owned();
    let at = {
        let mut calls = shop.0.calls.lock();
        let (at, arguments) = (Instant::now(), arguments.clone());
        let key = key.clone();
        calls.push(Called { key, arguments, at, id, ended: None, cancelled: None });
        calls.len() - 1
    };
    shop.0.seen.send_modify(|it| *it += 1);
    let _under = Under(shop.0.clone(), at);
    if let Some(ms) = arguments["ms"].as_u64() {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
    match arguments["do"].as_str() {
        Some("wait") => drop(shop.0.gate.subscribe().wait_for(|it| *it).await),
        Some("hang") => std::future::pending().await,
        Some("fail") => {
            let content = json!([{"type": "text", "text": format!("{key} does not want to")}]);
            return json!({"content": content, "isError": true});
        }
        Some("big") => {
            let n = arguments["mb"].as_u64().unwrap() as usize * 1_000_000;
            let text = "x".repeat(n);
            let structured = json!({"head": key, "text": text});
            return json!({"content": [], "structuredContent": structured});
        }
        _ => {}
    }
    json!({"content": [{"type": "text", "text": "done"}], "structuredContent": {"key": key}})
}
