//! The protocol over streamable HTTP at `/mcp`: sessions for clients up to 2025-11-25, single requests for later ones.
//!
//! The library speaks the protocol; here is what it leaves to its user: who may come in, whose a session is and how
//! many there are, bodies that are too large or no JSON, and an end that lets answers out.

mod relayed;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{RawPathParams, Request, State};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use http::{HeaderMap, Method, StatusCode, header};
use orch_domain::Error;
use orch_domain::caller::{Caller, Channel};
use orch_domain::name::UserId;
use orch_gateway::frame::Frame;
use orch_gateway::view::View;
use parking_lot::Mutex;
use rmcp::model::ErrorCode;
use rmcp::transport::streamable_http_server::session::SessionManager;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Face;
use super::profile;
use super::server::Server;
use crate::auth::{self, Access};
pub(super) use relayed::Relays;
use relayed::Taken;

const MAX_BODY: usize = 4 * 1024 * 1024;
/// Of a body that is refused, this much is still read: a client that is cut off while it writes sees a broken
/// connection and not the refusal.
const MAX_DISCARDED: usize = 64 * 1024 * 1024;
/// A session without a message for this long is over; its client gets 404 and begins anew.
const SESSION_KEEP_ALIVE: Duration = Duration::from_secs(30 * 60);
/// Clients that never end their sessions would fill the memory (0.15 MB each); the one unused for longest goes first.
const MAX_SESSIONS: usize = 256;
const MAX_SESSIONS_OF_USER: usize = 64;
/// How long answers may take once the server is to end.
const DRAIN: Duration = Duration::from_secs(10);

/// More of a plain-text refusal is not read.
const MAX_SAID: usize = 64 * 1024;

const SESSION_ID: &str = "mcp-session-id";

#[derive(Clone)]
struct Endpoint {
    face: Arc<Face>,
    service: StreamableHttpService<Server, LocalSessionManager>,
    sessions: Arc<Sessions>,
    /// Responses that are not out yet.
    answers: TaskTracker,
}

impl Face {
    /// Serves `/mcp` to whoever `access` lets in. To be called inside a runtime.
    pub fn router(self: Arc<Face>, access: Arc<Access>) -> Router {
        let mut manager = LocalSessionManager::default();
        manager.session_config.keep_alive = Some(SESSION_KEEP_ALIVE);
        let sessions = Arc::new(Sessions { manager: Arc::new(manager), bound: Mutex::default() });
        let (streams, answers) = (CancellationToken::new(), TaskTracker::new());
        let config = StreamableHttpServerConfig::default()
            // `auth::layer` checks Host and Origin, by rules that know where the server is bound.
            .disable_allowed_hosts()
            // A stateless request that asks for no progress gets plain JSON, for two thirds of the work.
            .with_json_response(true)
            .with_max_request_body_bytes(MAX_BODY)
            .with_cancellation_token(streams.clone());
        let orch = self.orch.clone();
        orch.tracker.spawn(end_streams(self.clone(), answers.clone(), streams));
        let face = self.clone();
        let service = StreamableHttpService::new(
            move || Ok(Server::new(self.clone(), None, View::default())),
            sessions.manager.clone(),
            config,
        );
        Router::new()
            .route("/mcp", any(serve))
            .route("/mcp/{profile}", any(serve))
            .layer(from_fn_with_state(face.clone(), enter))
            .layer(from_fn(auth::require_caller))
            .layer(from_fn_with_state((access, Channel::Mcp), auth::layer))
            .with_state(Endpoint { face, service, sessions, answers })
    }
}

/// Puts the view among the extensions of a request, and leaves the caller there what it may do in it.
async fn enter(
    State(face): State<Arc<Face>>,
    path: RawPathParams,
    mut request: Request,
    next: Next,
) -> Response {
    let name = path.iter().find(|(name, _)| *name == "profile").map(|it| it.1);
    let view = profile::dialect_of(request.uri().query())
        .and_then(|names| face.view(name, names))
        .map_err(|err| not_entered(&err));
    let view = match view {
        Ok(it) => it,
        Err(refusal) => return refusal,
    };
    let extensions = request.extensions_mut();
    if let (Some(profile), Some(caller)) =
        (&view.profile, extensions.get::<Option<Caller>>().cloned().flatten())
    {
        extensions.insert(Some(profile.admit(caller)));
    }
    extensions.insert(view);
    next.run(request).await
}

fn not_entered(err: &Error) -> Response {
    let status = match err {
        Error::NotFound { .. } => StatusCode::NOT_FOUND,
        _ => StatusCode::BAD_REQUEST,
    };
    let error = json!({"code": ErrorCode::INVALID_REQUEST.0, "message": err.to_string(), "data": Value::Object(err.describe())});
    (status, axum::Json(json!({"jsonrpc": "2.0", "id": null, "error": error}))).into_response()
}

/// Ending a stream loses the answer that is on its way, so answers go first; what then is left only listens.
async fn end_streams(face: Arc<Face>, answers: TaskTracker, streams: CancellationToken) {
    tokio::select! {
        () = face.shutdown.cancelled() => {}
        () = face.orch.shutdown.cancelled() => {}
    }
    answers.close();
    if tokio::time::timeout(DRAIN, answers.wait()).await.is_err() {
        tracing::warn!(n_answers = answers.len(), "some answers were not out in time");
    }
    streams.cancel();
}

async fn serve(State(endpoint): State<Endpoint>, request: Request) -> Response {
    in_json(answer(endpoint, request).await).await
}

/// The library refuses in plain text, which clients of the protocol show badly or not at all.
async fn in_json(response: Response) -> Response {
    let status = response.status();
    let is_json = text_of(response.headers(), header::CONTENT_TYPE.as_str())
        .is_some_and(|it| it.starts_with("application/json"));
    if !(status.is_client_error() || status.is_server_error()) || is_json {
        return response;
    }
    let hint = match status {
        StatusCode::NOT_FOUND => "the session is over or never was; begin anew with `initialize`",
        StatusCode::METHOD_NOT_ALLOWED => {
            "send messages with POST; GET listens and DELETE ends a session"
        }
        StatusCode::NOT_ACCEPTABLE => {
            "send the header `Accept: application/json, text/event-stream`"
        }
        StatusCode::UNSUPPORTED_MEDIA_TYPE => "send the header `Content-Type: application/json`",
        StatusCode::UNPROCESSABLE_ENTITY | StatusCode::BAD_REQUEST => {
            "begin with `initialize`, or send the protocol version and its headers with each request"
        }
        _ => "the server's log may say more",
    };
    let (mut parts, body) = response.into_parts();
    let said = axum::body::to_bytes(body, MAX_SAID).await.unwrap_or_default();
    let said = orch_domain::text::sanitize(&String::from_utf8_lossy(&said));
    let said = match said.trim() {
        "" => status.canonical_reason().unwrap_or("refused").to_owned(),
        it => orch_domain::text::excerpt(it, 300),
    };
    let (json, body) =
        refusal(status, ErrorCode::INVALID_REQUEST, &format!("{said}; {hint}")).into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.extend(json.headers);
    Response::from_parts(parts, body)
}

async fn answer(endpoint: Endpoint, request: Request) -> Response {
    let Some(user) = user_of(&request) else {
        return StatusCode::UNAUTHORIZED.into_response();
    };
    let owner = Owner { user, profile: profile_of(request.extensions()) };
    if let Some(id) = text_of(request.headers(), SESSION_ID)
        && !endpoint.sessions.admits(id, &owner)
    {
        // As for a session that does not exist: whose it is, is nobody's business.
        return refusal(
            StatusCode::NOT_FOUND,
            ErrorCode::INVALID_REQUEST,
            "there is no such session",
        );
    }
    match *request.method() {
        Method::POST => post(&endpoint, request, owner).await,
        Method::DELETE => {
            let mut response = endpoint.service.handle(request).await.map(Body::new);
            // Some clients take anything but 200 and 204 for a failure.
            if response.status() == StatusCode::ACCEPTED {
                *response.status_mut() = StatusCode::NO_CONTENT;
            }
            response
        }
        _ => endpoint.service.handle(request).await.map(Body::new),
    }
}

async fn post(endpoint: &Endpoint, request: Request, owner: Owner) -> Response {
    let answering = endpoint.answers.token();
    let (parts, body) = request.into_parts();
    let body = match read(body).await {
        Ok(body) => body,
        Err(refusal) => return refusal,
    };
    let mut list = None;
    if endpoint.face.hub.as_ref().is_some_and(|it| !it.is_empty())
        && let Ok(frame) = Frame::parse(&body)
    {
        match relayed::take(&endpoint.face, &endpoint.sessions, &parts, frame, answering.clone())
            .await
        {
            Taken::Answered(response) => return response,
            Taken::List(it, view) => list = Some((it, view)),
            Taken::Not => {}
        }
    }
    let is_json = text_of(&parts.headers, header::CONTENT_TYPE.as_str())
        .is_some_and(|it| it.trim_start().to_ascii_lowercase().starts_with("application/json"));
    let request = Request::from_parts(parts, Body::from(body.clone()));
    let response = endpoint.service.handle(request).await.map(Body::new);
    if response.status() == StatusCode::UNSUPPORTED_MEDIA_TYPE && is_json {
        return no_message(&body);
    }
    if let Some(id) = text_of(response.headers(), SESSION_ID) {
        endpoint.sessions.bind(id, owner).await;
    }
    let is_stream = text_of(response.headers(), header::CONTENT_TYPE.as_str())
        .is_some_and(|it| it.starts_with("text/event-stream"));
    if let Some((list, view)) = list {
        return relayed::extended(&endpoint.face, list, view, is_stream, response).await;
    }
    if !is_stream {
        return response;
    }
    response.map(|body| {
        Body::from_stream(body.into_data_stream().inspect(move |_| {
            let _held_to_the_end = &answering;
        }))
    })
}

/// The whole body, or the refusal to send.
async fn read(body: Body) -> Result<Bytes, Response> {
    let mut chunks = body.into_data_stream();
    let (mut read, mut n_read) = (BytesMut::new(), 0_usize);
    while let Some(chunk) = chunks.next().await {
        let Ok(chunk) = chunk else {
            return Err(refusal(
                StatusCode::BAD_REQUEST,
                ErrorCode::PARSE_ERROR,
                "the body broke off",
            ));
        };
        n_read = n_read.saturating_add(chunk.len());
        if n_read <= MAX_BODY {
            read.extend_from_slice(&chunk);
        } else if MAX_DISCARDED < n_read {
            break;
        }
    }
    if MAX_BODY < n_read {
        let message = format!("the body is larger than the limit of {MAX_BODY} bytes");
        return Err(refusal(StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::INVALID_REQUEST, &message));
    }
    Ok(read.freeze())
}

/// What was sent as JSON is none, or is no message of the protocol.
fn no_message(body: &[u8]) -> Response {
    let status = StatusCode::BAD_REQUEST;
    match serde_json::from_slice::<IgnoredAny>(body) {
        Err(err) => {
            refusal(status, ErrorCode::PARSE_ERROR, &format!("the body is not JSON: {err}"))
        }
        Ok(_) if body.trim_ascii_start().starts_with(b"[") => refusal(
            status,
            ErrorCode::INVALID_REQUEST,
            "batches of messages are not served; send each message by itself",
        ),
        Ok(_) => {
            refusal(status, ErrorCode::INVALID_REQUEST, "the body is not a JSON-RPC 2.0 message")
        }
    }
}

fn refusal(status: StatusCode, code: ErrorCode, message: &str) -> Response {
    let error = json!({"code": code.0, "message": message});
    (status, axum::Json(json!({"jsonrpc": "2.0", "id": null, "error": error}))).into_response()
}

fn user_of(request: &Request) -> Option<UserId> {
    let caller = request.extensions().get::<Option<Caller>>()?;
    caller.as_ref().map(|it| it.user.clone())
}

fn text_of<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Whose a session is, and of which profile it was begun.
#[derive(Clone, PartialEq)]
struct Owner {
    user: UserId,
    profile: Option<String>,
}

fn profile_of(extensions: &http::Extensions) -> Option<String> {
    extensions.get::<View>()?.profile_name().map(str::to_owned)
}

/// Whose each session is. The library makes and ends sessions, but gives one to whoever knows its id.
pub(super) struct Sessions {
    manager: Arc<LocalSessionManager>,
    /// Invariant: has every session a client was told of, and perhaps some that are over.
    bound: Mutex<HashMap<String, Bound>>,
}

struct Bound {
    owner: Owner,
    last_used: Instant,
}

impl Sessions {
    async fn is_live(&self, id: &str) -> bool {
        self.manager.sessions.read().await.contains_key(id)
    }

    /// Whether `owner` may use the session `id`. One that nobody has is for the library to refuse.
    fn admits(&self, id: &str, owner: &Owner) -> bool {
        match self.bound.lock().get_mut(id) {
            Some(bound) if bound.owner == *owner => {
                bound.last_used = Instant::now();
                true
            }
            Some(_) => false,
            None => true,
        }
    }

    /// Gives a new session to `owner`, and ends those that are too many.
    async fn bind(&self, id: &str, owner: Owner) {
        let too_many = {
            // Held meanwhile, so that no session is begun that would be missed here and then forgotten.
            let live = self.manager.sessions.read().await;
            let mut bound = self.bound.lock();
            bound.retain(|id, _| live.contains_key(id.as_str()));
            let last_used = Instant::now();
            bound.insert(id.to_owned(), Bound { owner: owner.clone(), last_used });
            let of_user = too_many(&bound, MAX_SESSIONS_OF_USER, |it| it.owner.user == owner.user);
            let of_all = too_many(&bound, MAX_SESSIONS, |_| true);
            let too_many: Vec<String> = of_user.into_iter().chain(of_all).collect();
            too_many.iter().for_each(|it| drop(bound.remove(it)));
            too_many
        };
        for id in too_many {
            if let Err(err) = self.manager.close_session(&id.as_str().into()).await {
                tracing::warn!("a session could not be ended: {err}");
            }
        }
    }
}

/// The longest unused of `bound` above `max`.
fn too_many(
    bound: &HashMap<String, Bound>,
    max: usize,
    counts: impl Fn(&Bound) -> bool,
) -> Vec<String> {
    let mut ids: Vec<(&String, Instant)> =
        bound.iter().filter(|(_, it)| counts(it)).map(|(id, it)| (id, it.last_used)).collect();
    let n_over = ids.len().saturating_sub(max);
    ids.sort_by_key(|(_, last_used)| *last_used);
    ids.into_iter().take(n_over).map(|(id, _)| id.clone()).collect()
}
