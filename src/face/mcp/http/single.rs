//! Single requests of clients without sessions.

use std::convert::Infallible;

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, StatusCode, header};
use orch_domain::caller::Caller;
use orch_gateway::catalog::List;
use orch_gateway::frame::{Frame, Kind, Raw, raw};
use orch_gateway::headers;
use orch_gateway::members::Members;
use orch_gateway::upstream::handshake::{CAPABILITIES_KEY, STATELESS, VERSION_KEY};
use orch_gateway::view::View;
use rmcp::model::ErrorCode;
use serde_json::json;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::{Endpoint, MAX_BODY, Place, accepts, json_of, plain, refusal, text_of};
use crate::face::mcp::Face;
use crate::face::mcp::conversation::{Conversation, Single, Turn};

/// Own lists are read whole to be extended; they are ours, so this is generous.
const MAX_LIST: usize = 4 * MAX_BODY;
const HEADER_MISMATCH: i64 = -32020;
const UNSUPPORTED_VERSION: i64 = -32022;
const INVALID_PARAMS: i64 = -32602;

pub(super) async fn answer(
    endpoint: &Endpoint,
    place: Place,
    parts: Parts,
    body: Bytes,
    frame: Frame,
    caller: Caller,
    answering: TaskTrackerToken,
) -> Response {
    let face = &endpoint.face;
    let is_direct = place.direct.is_some();
    // What concerns nobody behind is the library's to judge, as it is.
    if !is_direct && (frame.kind() != Kind::Request || !is_stateless(&frame)) {
        return own(endpoint, parts, body, None, answering).await;
    }
    if frame.kind() != Kind::Request {
        return StatusCode::ACCEPTED.into_response();
    }
    if is_direct {
        if let Err(message) = headers::check_version(&parts.headers, &frame) {
            return error(StatusCode::BAD_REQUEST, frame.id, HEADER_MISMATCH, &message, None);
        }
        if let Err(response) = check_request(&frame) {
            return *response;
        }
    }
    let (view, id) = (place.view.for_caller(Some(&caller)), frame.id.clone());
    let checked = frame.clone();
    let turn = match Conversation::single(face, &caller, place.view, place.direct, frame) {
        Single::Turn(it) => it,
        Single::List(list) => {
            return own(endpoint, parts, body, Some((list, view)), answering).await;
        }
        Single::Own => return own(endpoint, parts, body, None, answering).await,
    };
    if let Err(message) = headers::check(&parts.headers, &checked, turn.tool().as_ref()) {
        return error(StatusCode::BAD_REQUEST, id, HEADER_MISMATCH, &message, None);
    }
    let wants_stream = turn.wants_stream() || is_direct && prefers_stream(&parts.headers);
    if wants_stream && accepts(&parts.headers, "text/event-stream") {
        return stream(turn, answering).await;
    }
    match plain(*turn).await {
        Some(frame) => json_of(status_of(&frame), frame.to_line()),
        None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

/// The client takes both, and names the stream first.
fn prefers_stream(headers: &http::HeaderMap) -> bool {
    let said = text_of(headers, header::ACCEPT.as_str()).unwrap_or_default();
    match (said.find("text/event-stream"), said.find("application/json")) {
        (Some(stream), Some(json)) => stream < json,
        _ => false,
    }
}

fn is_stateless(frame: &Frame) -> bool {
    orch_gateway::edge::era_of(frame.params.as_ref()) == orch_gateway::upstream::Era::Stateless
}

/// What each request has to say about its sender.
fn check_request(frame: &Frame) -> Result<(), Box<Response>> {
    let id = frame.id.clone();
    let meta = Members::of_params(frame.params.as_ref()).object("_meta").unwrap_or_default();
    let bad = StatusCode::BAD_REQUEST;
    match meta.text(VERSION_KEY) {
        None => {
            let message = format!(
                "`_meta` has no `{VERSION_KEY}`; begin with `initialize`, or say it with each request"
            );
            return Err(Box::new(error(bad, id, INVALID_PARAMS, &message, None)));
        }
        Some(it) if it != STATELESS => {
            let data = json!({"supported": [STATELESS], "requested": it});
            let message = "the protocol version is not served here";
            return Err(Box::new(error(bad, id, UNSUPPORTED_VERSION, message, Some(data))));
        }
        Some(_) => {}
    }
    if meta.object(CAPABILITIES_KEY).is_none() {
        let message = format!("`_meta` has no `{CAPABILITIES_KEY}`");
        return Err(Box::new(error(bad, id, INVALID_PARAMS, &message, None)));
    }
    Ok(())
}

fn error(
    status: StatusCode,
    id: Option<Raw>,
    code: i64,
    message: &str,
    data: Option<serde_json::Value>,
) -> Response {
    let mut said = json!({"code": code, "message": message});
    if let Some(data) = data {
        said["data"] = data;
    }
    let mut frame = Frame::error(id.unwrap_or_else(|| raw(&())), code, message);
    frame.error = Some(raw(&said));
    json_of(status, frame.to_line())
}

/// Some errors of the protocol have a status of their own.
fn status_of(answer: &Frame) -> StatusCode {
    let code = answer.error.as_ref().and_then(Members::of).and_then(|it| it.get("code").cloned());
    match code.as_ref().map(|it| it.get()) {
        Some("-32601") => StatusCode::NOT_FOUND,
        Some("-32020" | "-32021" | "-32022") => StatusCode::BAD_REQUEST,
        _ => StatusCode::OK,
    }
}

/// Progress as it comes, and the answer. A client that goes away drops the stream, and with it the request.
async fn stream(mut turn: Box<Turn>, answering: TaskTrackerToken) -> Response {
    // What is refused at once is refused with its status.
    let first = turn.next().await;
    if let Some(frame) = &first
        && frame.kind() == Kind::Response
        && status_of(frame) != StatusCode::OK
    {
        return json_of(status_of(frame), frame.to_line());
    }
    let events = futures::stream::unfold(Some((first, turn, answering)), |state| async move {
        let (first, mut turn, answering) = state?;
        let frame = match first {
            Some(it) => it,
            None => turn.next().await?,
        };
        let mut event = b"data: ".to_vec();
        event.extend(frame.to_line());
        event.extend(b"\n\n");
        let rest = (frame.kind() != Kind::Response).then_some((None, turn, answering));
        Some((Ok::<_, Infallible>(Bytes::from(event)), rest))
    });
    let mut response = Body::from_stream(events).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// Our own operations, by the library.
async fn own(
    endpoint: &Endpoint,
    parts: Parts,
    body: Bytes,
    list: Option<(List, View)>,
    answering: TaskTrackerToken,
) -> Response {
    let request = Request::from_parts(parts, Body::from(body));
    let response = endpoint.service.handle(request).await.map(Body::new);
    let is_stream = text_of(response.headers(), header::CONTENT_TYPE.as_str())
        .is_some_and(|it| it.starts_with("text/event-stream"));
    if let Some((list, view)) = list {
        return extended(&endpoint.face, list, view, is_stream, response).await;
    }
    if !is_stream {
        return response;
    }
    response.map(|body| {
        use futures::StreamExt;
        Body::from_stream(body.into_data_stream().inspect(move |_| {
            let _held_to_the_end = &answering;
        }))
    })
}

/// Our own answer of a list, with what the servers behind have.
async fn extended(
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
            ErrorCode::INTERNAL_ERROR,
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
