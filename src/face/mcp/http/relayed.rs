//! Requests over HTTP that are for the servers behind, and our own lists with what those have.

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use orch_core::Cx;
use orch_domain::caller::{Caller, Channel};
use orch_gateway::catalog::List;
use orch_gateway::edge::Claim;
use orch_gateway::frame::{Frame, Kind};
use orch_gateway::members::Members;
use orch_gateway::view::View;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::{MAX_BODY, SESSION_ID, Sessions, refusal, text_of};
use crate::face::mcp::Face;
use crate::face::mcp::upstream::{Relay, cancelled_id, header_mismatch, is_stateless};

/// Own lists are read whole to be extended; they are ours, so this is generous.
const MAX_LIST: usize = 4 * MAX_BODY;
const METHOD: &str = "mcp-method";
const NAME: &str = "mcp-name";
const VERSION: &str = "mcp-protocol-version";

/// Invariant: has the requests of sessions that are at servers behind.
#[derive(Default)]
pub(in crate::face::mcp) struct Relays(Mutex<HashMap<(String, String), CancellationToken>>);

pub(super) enum Taken {
    Answered(Response),
    /// Ours to answer, with more to come to it.
    List(List, View),
    Not,
}

pub(super) async fn take(
    face: &Arc<Face>,
    sessions: &Sessions,
    parts: &Parts,
    frame: Frame,
    answering: TaskTrackerToken,
) -> Taken {
    let session = text_of(&parts.headers, SESSION_ID).map(str::to_owned);
    if let (Some(session), Some(id)) = (&session, cancelled_id(&frame)) {
        let relay = face.relays.0.lock().remove(&(session.clone(), id));
        return match relay {
            Some(it) => {
                it.cancel();
                Taken::Answered(StatusCode::ACCEPTED.into_response())
            }
            None => Taken::Not,
        };
    }
    let cx = Cx::new(caller(parts));
    let view = View::of(cx.maybe_caller());
    let forward = match face.claim(&frame, &cx, &view) {
        Claim::Own => return Taken::Not,
        Claim::List(list) => return Taken::List(list, view),
        Claim::Forward(it) => it,
    };
    let Some(id) = frame.id.clone() else { return Taken::Not };
    // What the library would refuse is left to it.
    let is_stateless = is_stateless(&frame);
    if !is_stateless && !matches!(&session, Some(it) if sessions.is_live(it).await) {
        return Taken::Not;
    }
    if is_stateless && let Err(message) = check_headers(&parts.headers, &frame) {
        let body = header_mismatch(frame.id.as_ref(), &message).to_line();
        return Taken::Answered(json(StatusCode::BAD_REQUEST, body));
    }
    let withdrawal = Withdrawal::of(face, session, id.get());
    let relay = tokio::select! {
        relay = face.relay(forward, id, &cx) => relay,
        () = withdrawal.token.cancelled() => return Taken::Answered(StatusCode::ACCEPTED.into_response()),
    };
    Taken::Answered(match relay {
        Err(refusal) => json(StatusCode::OK, refusal.to_line()),
        Ok(relay) if relay.wants_progress() && accepts_events(&parts.headers) => {
            stream(relay, withdrawal, answering)
        }
        Ok(relay) => answer(relay, withdrawal).await,
    })
}

/// The answer alone, as JSON.
async fn answer(mut relay: Relay, withdrawal: Withdrawal) -> Response {
    loop {
        let frame = tokio::select! {
            frame = relay.next() => frame,
            () = withdrawal.token.cancelled() => return StatusCode::ACCEPTED.into_response(),
        };
        if frame.kind() == Kind::Response {
            return json(StatusCode::OK, frame.to_line());
        }
    }
}

/// Progress as it comes, and the answer. A client that goes away drops the stream, and with it the request.
fn stream(relay: Relay, withdrawal: Withdrawal, answering: TaskTrackerToken) -> Response {
    let state = Some((relay, withdrawal, answering));
    let events = futures::stream::unfold(state, |state| async move {
        let (mut relay, withdrawal, answering) = state?;
        let frame = tokio::select! {
            frame = relay.next() => frame,
            () = withdrawal.token.cancelled() => return None,
        };
        let mut event = b"data: ".to_vec();
        event.extend(frame.to_line());
        event.extend(b"\n\n");
        let is_last = frame.kind() == Kind::Response;
        let rest = (!is_last).then_some((relay, withdrawal, answering));
        Some((Ok::<_, std::convert::Infallible>(Bytes::from(event)), rest))
    });
    let mut response = Body::from_stream(events).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// Our own answer of a list, with what the servers behind have.
pub(super) async fn extended(
    face: &Face,
    list: List,
    view: View,
    is_stream: bool,
    response: Response,
) -> Response {
    let Some(hub) = &face.hub else { return response };
    hub.settled().await;
    let (mut parts, body) = response.into_parts();
    let Ok(body) = axum::body::to_bytes(body, MAX_LIST).await else {
        return refusal(
            StatusCode::INTERNAL_SERVER_ERROR,
            rmcp::model::ErrorCode::INTERNAL_ERROR,
            "the list could not be read",
        );
    };
    let extend = |text: &[u8]| -> Option<Vec<u8>> {
        let mut frame = Frame::parse(text).ok()?;
        frame.result.as_ref()?;
        hub.extend(list, &view, &mut frame);
        Some(frame.to_line())
    };
    let body = if is_stream {
        let mut out = Vec::with_capacity(body.len());
        for line in body.split_inclusive(|it| *it == b'\n') {
            let data = line.strip_prefix(b"data:").map(<[u8]>::trim_ascii);
            match data.and_then(extend) {
                Some(extended) => {
                    out.extend(b"data: ");
                    out.extend(extended);
                    out.push(b'\n');
                }
                None => out.extend(line),
            }
        }
        out
    } else {
        extend(&body).unwrap_or_else(|| body.to_vec())
    };
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, Body::from(body))
}

/// Takes a request out of the list when it has ended, however it did.
struct Withdrawal {
    face: Arc<Face>,
    key: Option<(String, String)>,
    token: CancellationToken,
}

impl Withdrawal {
    fn of(face: &Arc<Face>, session: Option<String>, id: &str) -> Withdrawal {
        let token = CancellationToken::new();
        let key = session.map(|it| (it, id.to_owned()));
        if let Some(key) = &key {
            face.relays.0.lock().insert(key.clone(), token.clone());
        }
        Withdrawal { face: face.clone(), key, token }
    }
}

impl Drop for Withdrawal {
    fn drop(&mut self) {
        if let Some(key) = &self.key {
            self.face.relays.0.lock().remove(key);
        }
    }
}

/// The era without sessions repeats in headers what a proxy may want to know; they must say what the body does.
fn check_headers(headers: &HeaderMap, frame: &Frame) -> Result<(), String> {
    let method = frame.method.as_deref().unwrap_or_default();
    let params = Members::of_params(frame.params.as_ref());
    let meta = params.object("_meta").unwrap_or_default();
    let version = meta.text(orch_gateway::upstream::handshake::VERSION_KEY);
    let name = params.text(if method == "resources/read" { "uri" } else { "name" });
    let has_name = matches!(method, "tools/call" | "prompts/get" | "resources/read");
    for (header, wanted) in
        [(METHOD, Some(method.to_owned())), (VERSION, version), (NAME, name.filter(|_| has_name))]
    {
        let Some(wanted) = wanted else { continue };
        match text_of(headers, header).map(decoded) {
            Some(it) if it == wanted => {}
            Some(_) => {
                return Err(format!("the header `{header}` does not say what the body says"));
            }
            None => return Err(format!("the header `{header}` is missing")),
        }
    }
    Ok(())
}

/// What is not plain ASCII is sent in base64 between marks.
fn decoded(text: &str) -> String {
    use base64::Engine;
    let encoded = text.strip_prefix("=?base64?").and_then(|it| it.strip_suffix("?="));
    encoded
        .and_then(|it| base64::engine::general_purpose::STANDARD.decode(it).ok())
        .and_then(|it| String::from_utf8(it).ok())
        .unwrap_or_else(|| text.to_owned())
}

fn caller(parts: &Parts) -> Option<Caller> {
    let mut caller = parts.extensions.get::<Option<Caller>>().cloned().flatten()?;
    caller.channel = Channel::Mcp;
    Some(caller)
}

fn accepts_events(headers: &HeaderMap) -> bool {
    text_of(headers, header::ACCEPT.as_str()).is_some_and(|it| it.contains("text/event-stream"))
}

fn json(status: StatusCode, body: Vec<u8>) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}
