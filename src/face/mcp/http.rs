//! The protocol over streamable HTTP at `/mcp`: sessions for clients up to 2025-11-25, single requests for later ones.
//!
//! Sessions are carried here (`session`, with `events` for what is streamed), as frames. A single request for a server
//! behind likewise (`single`); one for our own operations is the library's.

mod events;
mod session;
mod single;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use orch_domain::caller::{Caller, Channel};
use orch_gateway::edge::era_of;
use orch_gateway::frame::{Frame, Kind};
use orch_gateway::server::Server as Behind;
use orch_gateway::upstream::Era;
use orch_gateway::upstream::handshake::{SESSION as SESSION_VERSIONS, STATELESS};
use orch_gateway::view::View;
use rmcp::model::ErrorCode;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use serde::de::IgnoredAny;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use self::session::{Session, Sessions};
use super::conversation::Turn;
use super::server::Server;
use super::{Face, profile};
use crate::auth::{self, Access};

const MAX_BODY: usize = 4 * 1024 * 1024;
/// Of a body that is refused, this much is still read: a client that is cut off while it writes sees a broken
/// connection and not the refusal.
const MAX_DISCARDED: usize = 64 * 1024 * 1024;
/// How long answers may take once the server is to end.
const DRAIN: Duration = Duration::from_secs(10);

/// More of a plain-text refusal is not read.
const MAX_SAID: usize = 64 * 1024;

const SESSION_ID: &str = "mcp-session-id";
const VERSION: &str = orch_gateway::headers::VERSION;
const LAST_EVENT_ID: &str = "last-event-id";

#[derive(Clone)]
struct Endpoint {
    face: Arc<Face>,
    service: StreamableHttpService<Server, LocalSessionManager>,
    sessions: Arc<Sessions>,
    /// Responses that are not out yet.
    answers: TaskTracker,
    /// Cancelled when what only listens is to end.
    streams: CancellationToken,
}

/// What is served where a request came in.
#[derive(Clone, Default)]
struct Place {
    profile: Option<String>,
    view: View,
    /// The one server that is all there is.
    direct: Option<Arc<Behind>>,
}

impl Face {
    /// Serves `/mcp` to whoever `access` lets in. To be called inside a runtime.
    pub fn router(self: Arc<Face>, access: Arc<Access>) -> Router {
        let sessions = Arc::<Sessions>::default();
        let (streams, answers) = (CancellationToken::new(), TaskTracker::new());
        let config = StreamableHttpServerConfig::default()
            // `auth::layer` checks Host and Origin, by rules that know where the server is bound.
            .disable_allowed_hosts()
            // A stateless request that asks for no progress gets plain JSON, for two thirds of the work.
            .with_json_response(true)
            .with_max_request_body_bytes(MAX_BODY)
            .with_cancellation_token(streams.clone());
        let orch = self.orch.clone();
        let ending = end_streams(self.clone(), answers.clone(), streams.clone(), sessions.clone());
        orch.tracker.spawn(ending);
        orch.tracker.spawn(sessions.clone().sweep(self.shutdown.clone()));
        let face = self.clone();
        let service = StreamableHttpService::new(
            move || Ok(Server::new(self.clone(), None, View::default())),
            Arc::new(LocalSessionManager::default()),
            config,
        );
        Router::new()
            .route("/mcp", any(serve))
            .route("/mcp/{profile}", any(serve))
            .layer(from_fn_with_state(face.clone(), profile::enter))
            .layer(from_fn(auth::require_caller))
            .layer(from_fn_with_state((access, Channel::Mcp), auth::layer))
            .with_state(Endpoint { face, service, sessions, answers, streams })
    }
}

/// Ending a stream loses the answer that is on its way, so answers go first; what then is left only listens.
async fn end_streams(
    face: Arc<Face>,
    answers: TaskTracker,
    streams: CancellationToken,
    sessions: Arc<Sessions>,
) {
    tokio::select! {
        () = face.shutdown.cancelled() => {}
        () = face.orch.shutdown.cancelled() => {}
    }
    answers.close();
    if tokio::time::timeout(DRAIN, answers.wait()).await.is_err() {
        tracing::warn!(n_answers = answers.len(), "some answers were not out in time");
    }
    streams.cancel();
    sessions.end_all().await;
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
    let Some(caller) = caller_of(&request) else {
        return StatusCode::UNAUTHORIZED.into_response();
    };
    let view = request.extensions().get::<View>().cloned().unwrap_or_default();
    let view = view.for_caller(Some(&caller));
    let place = match endpoint.face.direct(&view) {
        Ok(direct) => Place { profile: view.profile_name().map(str::to_owned), view, direct },
        Err(err) => return profile::refused(&err),
    };
    let session = match text_of(request.headers(), SESSION_ID) {
        None => None,
        Some(id) => match endpoint.sessions.find(id, &caller.user) {
            Some(it) if it.profile == place.profile => Some((id.to_owned(), it)),
            // As for a session that does not exist: whose it is, is nobody's business.
            _ => {
                return refusal(
                    StatusCode::NOT_FOUND,
                    ErrorCode::INVALID_REQUEST,
                    "there is no such session; it is over or never was; begin anew with `initialize`",
                );
            }
        },
    };
    match (request.method(), session) {
        (&Method::POST, session) => {
            post(&endpoint, place, request, caller, session.map(|(_, it)| it)).await
        }
        (&Method::GET, Some((_, session))) => listen(&endpoint, &request, &session),
        (&Method::DELETE, Some((id, _))) => {
            endpoint.sessions.end(&id).await;
            // Some clients take anything but 200 and 204 for a failure.
            StatusCode::NO_CONTENT.into_response()
        }
        (&Method::GET | &Method::DELETE, None) => StatusCode::METHOD_NOT_ALLOWED.into_response(),
        _ => endpoint.service.handle(request).await.map(Body::new),
    }
}

/// What belongs to no request, or the rest of an answer whose stream broke.
fn listen(endpoint: &Endpoint, request: &Request, session: &Arc<Session>) -> Response {
    if !accepts(request.headers(), "text/event-stream") {
        return StatusCode::NOT_ACCEPTABLE.into_response();
    }
    let last = text_of(request.headers(), LAST_EVENT_ID).and_then(events::position);
    let ended = endpoint.streams.child_token();
    match last {
        None => session.outside.response(0, is_primed(request.headers()), ended, ()),
        Some((number, after)) => match session.stream(number) {
            Some(events) => events.response(after, false, ended, ()),
            None => refusal(
                StatusCode::NOT_FOUND,
                ErrorCode::INVALID_REQUEST,
                "the stream of that event is over; send the request again",
            ),
        },
    }
}

async fn post(
    endpoint: &Endpoint,
    place: Place,
    request: Request,
    caller: Caller,
    session: Option<Arc<Session>>,
) -> Response {
    let answering = endpoint.answers.token();
    let (parts, body) = request.into_parts();
    if !(accepts(&parts.headers, "application/json")
        || accepts(&parts.headers, "text/event-stream"))
    {
        return StatusCode::NOT_ACCEPTABLE.into_response();
    }
    let body = match read(body).await {
        Ok(body) => body,
        Err(refusal) => return refusal,
    };
    let is_json = text_of(&parts.headers, header::CONTENT_TYPE.as_str())
        .is_some_and(|it| it.trim_start().to_ascii_lowercase().starts_with("application/json"));
    if !is_json {
        return StatusCode::UNSUPPORTED_MEDIA_TYPE.into_response();
    }
    let Ok(frame) = Frame::parse(&body) else { return no_message(&body) };
    let says_version = text_of(&parts.headers, VERSION);
    if let Some(session) = session {
        if says_version.is_some_and(|it| !SESSION_VERSIONS.contains(&it)) {
            let versions = SESSION_VERSIONS.join(", ");
            let message = format!("the header `MCP-Protocol-Version` is not one of {versions}");
            return refusal(StatusCode::BAD_REQUEST, ErrorCode::INVALID_REQUEST, &message);
        }
        return in_session(endpoint, &parts, &session, frame, caller, answering).await;
    }
    let is_stateless =
        says_version == Some(STATELESS) || era_of(frame.params.as_ref()) == Era::Stateless;
    if !is_stateless && frame.is("initialize") && frame.kind() == Kind::Request {
        let Place { profile, view, direct } = place;
        let Some((id, session)) =
            endpoint.sessions.begin(&endpoint.face, &caller, view, profile, direct)
        else {
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        };
        let mut response = in_session(endpoint, &parts, &session, frame, caller, answering).await;
        if let Ok(id) = HeaderValue::try_from(id) {
            response.headers_mut().insert(SESSION_ID, id);
        }
        return response;
    }
    single::answer(endpoint, place, parts, body, frame, caller, answering).await
}

async fn in_session(
    endpoint: &Endpoint,
    parts: &Parts,
    session: &Arc<Session>,
    frame: Frame,
    caller: Caller,
    answering: TaskTrackerToken,
) -> Response {
    if frame.kind() != Kind::Request {
        session.conversation.hear(frame, caller).await;
        return StatusCode::ACCEPTED.into_response();
    }
    let mut turn = session.conversation.ask(frame, caller);
    let mut first = None;
    // Behind such a client stands a server that may break off any answer, to be taken up again.
    let may_break = session.conversation.is_direct() && is_primed(&parts.headers);
    if !(turn.wants_stream() || may_break) || !accepts(&parts.headers, "text/event-stream") {
        match turn.next().await {
            Some(frame) if frame.kind() == Kind::Response => {
                return json_of(StatusCode::OK, frame.to_line());
            }
            // It was withdrawn, or the session ended.
            None => return StatusCode::ACCEPTED.into_response(),
            frame => first = frame,
        }
    }
    let events = session.open();
    if let Some(frame) = first {
        events.push(&frame);
    }
    let response =
        events.response(0, is_primed(&parts.headers), endpoint.streams.child_token(), answering);
    let carrying = session.clone().carry(turn, events);
    endpoint.face.orch.tracker.spawn(carrying);
    response
}

/// The answer alone, as JSON; nobody is left to read anything else.
async fn plain(mut turn: Turn) -> Option<Frame> {
    loop {
        let frame = turn.next().await?;
        if frame.kind() == Kind::Response {
            return Some(frame);
        }
    }
}

/// Clients before 2025-11-25 take an event without data for a broken message.
fn is_primed(headers: &HeaderMap) -> bool {
    text_of(headers, VERSION) == Some("2025-11-25")
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

fn caller_of(request: &Request) -> Option<Caller> {
    let mut caller = request.extensions().get::<Option<Caller>>().cloned().flatten()?;
    caller.channel = Channel::Mcp;
    Some(caller)
}

fn accepts(headers: &HeaderMap, media_type: &str) -> bool {
    let mut said =
        headers.get_all(header::ACCEPT).iter().filter_map(|it| it.to_str().ok()).peekable();
    said.peek().is_none() || said.any(|it| it.contains(media_type) || it.contains("*/*"))
}

fn json_of(status: StatusCode, body: Vec<u8>) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

fn text_of<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}
