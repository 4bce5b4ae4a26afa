//! A server behind the gateway that wants a token of each of its users, for itself, and keeps account of who came with whose.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::issuer::Issuer;

#[derive(Clone)]
pub(crate) struct Protected(Arc<Inner>);

struct Inner {
    issuer: Issuer,
    url: Mutex<String>,
    /// What it says that it is; else the truth.
    resource: Mutex<Option<String>>,
    /// Requests are sent on to there.
    leads_to: Mutex<Option<String>>,
    refuses_all: AtomicBool,
    /// It speaks the era in which there are none.
    is_without_sessions: AtomicBool,
    /// By number, with the account that began it.
    sessions: Mutex<HashMap<usize, String>>,
    /// Account and tool of each call.
    calls: Mutex<Vec<(String, String)>>,
    /// What must not be: somebody came into another's session.
    mixed: Mutex<Vec<String>>,
    /// Every `Authorization` that came.
    authorizations: Mutex<Vec<String>>,
    n_refused: AtomicUsize,
}

impl Protected {
    pub(crate) async fn start(issuer: &Issuer) -> Protected {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/mcp", listener.local_addr().unwrap());
        let protected = Protected(Arc::new(Inner {
            issuer: issuer.clone(),
            url: Mutex::new(url),
            resource: Mutex::default(),
            leads_to: Mutex::default(),
            refuses_all: AtomicBool::new(false),
            is_without_sessions: AtomicBool::new(false),
            sessions: Mutex::default(),
            calls: Mutex::default(),
            mixed: Mutex::default(),
            authorizations: Mutex::default(),
            n_refused: AtomicUsize::new(0),
        }));
        let router = Router::new()
            .route("/mcp", any(serve))
            .route("/.well-known/oauth-protected-resource/mcp", get(metadata))
            .with_state(protected.clone());
        #[expect(clippy::disallowed_methods, reason = "it goes with the runtime of the test")]
        tokio::spawn(async move { axum::serve(listener, router).await });
        protected
    }

    pub(crate) fn url(&self) -> String {
        self.0.url.lock().clone()
    }

    pub(crate) fn calling_itself(&self, resource: &str) {
        *self.0.resource.lock() = Some(resource.to_owned());
    }

    pub(crate) fn leading_to(&self, url: &str) {
        *self.0.leads_to.lock() = Some(url.to_owned());
    }

    /// Also tokens that are good.
    pub(crate) fn refusing_all(&self, is: bool) {
        self.0.refuses_all.store(is, Ordering::Relaxed);
    }

    pub(crate) fn without_sessions(&self) {
        self.0.is_without_sessions.store(true, Ordering::Relaxed);
    }

    pub(crate) fn n_sessions(&self) -> usize {
        self.0.sessions.lock().len()
    }

    pub(crate) fn calls(&self) -> Vec<(String, String)> {
        self.0.calls.lock().clone()
    }

    pub(crate) fn mixed(&self) -> Vec<String> {
        self.0.mixed.lock().clone()
    }

    pub(crate) fn authorizations(&self) -> Vec<String> {
        self.0.authorizations.lock().clone()
    }

    pub(crate) fn n_refused(&self) -> usize {
        self.0.n_refused.load(Ordering::Relaxed)
    }
}

async fn metadata(State(protected): State<Protected>) -> Response {
    let resource = protected.0.resource.lock().clone().unwrap_or_else(|| protected.url());
    axum::Json(json!({
        "resource": resource, "authorization_servers": [protected.0.issuer.url()],
        "scopes_supported": ["notes", "admin"],
    }))
    .into_response()
}

async fn serve(
    State(protected): State<Protected>,
    method: Method,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let inner = &protected.0;
    if let Some(elsewhere) = &*inner.leads_to.lock() {
        return (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, elsewhere.clone())])
            .into_response();
    }
    let sent = headers.get(header::AUTHORIZATION).map(|it| it.to_str().unwrap().to_owned());
    inner.authorizations.lock().extend(sent.clone());
    let token = sent.as_deref().and_then(|it| it.strip_prefix("Bearer "));
    let access = token.and_then(|it| inner.issuer.access(it));
    let good = access
        .filter(|it| it.resource == protected.url() && !inner.refuses_all.load(Ordering::Relaxed));
    let Some(access) = good else {
        inner.n_refused.fetch_add(1, Ordering::Relaxed);
        let place = protected.url().replace("/mcp", "/.well-known/oauth-protected-resource/mcp");
        let challenge = format!("Bearer resource_metadata=\"{place}\", scope=\"notes\"");
        return (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, challenge)]).into_response();
    };
    let session =
        headers.get("mcp-session-id").and_then(|it| it.to_str().ok()?.parse::<usize>().ok());
    if let Some(began) = session.and_then(|it| inner.sessions.lock().get(&it).cloned())
        && began != access.account
    {
        inner.mixed.lock().push(format!("{} in the session of {began}", access.account));
    }
    if method != Method::POST {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    let message: Value = serde_json::from_slice(&body).unwrap();
    let Some(id) = message.get("id") else { return StatusCode::ACCEPTED.into_response() };
    let answer = |result: Value| axum::Json(json!({"jsonrpc": "2.0", "id": id, "result": result}));
    match message["method"].as_str().unwrap_or_default() {
        "server/discover" if inner.is_without_sessions.load(Ordering::Relaxed) => answer(json!({
            "resultType": "complete", "supportedVersions": ["2026-07-28"],
            "capabilities": {"tools": {}}, "ttlMs": 0, "cacheScope": "private",
        }))
        .into_response(),
        "initialize" => {
            let mut sessions = inner.sessions.lock();
            let n = sessions.len() + 1;
            sessions.insert(n, access.account);
            let result = json!({
                "protocolVersion": "2025-11-25", "capabilities": {"tools": {}},
                "serverInfo": {"name": "protected", "version": "1"},
            });
            ([("mcp-session-id", n.to_string())], answer(result)).into_response()
        }
        "tools/list" => {
            let tool = |name: &str| json!({"name": name, "inputSchema": {"type": "object"}});
            answer(json!({"tools": [tool("whoami"), tool("administer")]})).into_response()
        }
        "tools/call" if message["params"]["name"] == "administer" => {
            let challenge = "Bearer error=\"insufficient_scope\", scope=\"notes admin\"";
            (StatusCode::FORBIDDEN, [(header::WWW_AUTHENTICATE, challenge)]).into_response()
        }
        "tools/call" => {
            let tool = message["params"]["name"].as_str().unwrap().to_owned();
            inner.calls.lock().push((access.account.clone(), tool));
            answer(json!({"content": [{"type": "text", "text": access.account}]})).into_response()
        }
        _ => {
            let error = json!({"code": -32601, "message": "unknown"});
            axum::Json(json!({"jsonrpc": "2.0", "id": id, "error": error})).into_response()
        }
    }
}
