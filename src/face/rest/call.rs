//! One operation over HTTP: decode, call, answer as JSON or as a stream of progress.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequestParts, RawPathParams, Request};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use orch_core::cx::{Progress, ProgressUpdate};
use orch_core::operation::{Effect, Method, Route};
use orch_core::{Answer, Cx, Op, gate};
use orch_domain::Error;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use crate::face::rest::problem::Problem;
use crate::face::rest::{Rest, arguments, cx_of, events, logs, paths};

/// How long a call may take until its event stream begins; what fails sooner is answered with its HTTP status.
const STREAM_AFTER: Duration = Duration::from_millis(300);
/// Shorter than the idle timeout of common proxies.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(15);

/// One route of one operation.
pub(super) struct Endpoint {
    pub(super) rest: Arc<Rest>,
    pub(super) op: Arc<Op>,
    pub(super) route: &'static Route,
    /// Where what it creates is found by its `id`.
    pub(super) collection: Option<&'static str>,
}

pub(super) async fn handle(endpoint: Arc<Endpoint>, request: Request) -> Response {
    serve(&endpoint, request).await.unwrap_or_else(IntoResponse::into_response)
}

async fn serve(endpoint: &Endpoint, request: Request) -> Result<Response, Problem> {
    let Endpoint { rest, op, route, .. } = endpoint;
    let (mut parts, body) = request.into_parts();
    let cx = cx_of(&parts.extensions);
    // Before the body is read: who may not call is told so, whatever they sent.
    gate::admit(&rest.orch, &op.spec, &cx)?;
    let path = RawPathParams::from_request_parts(&mut parts, &())
        .await
        .map_err(|_| Error::invalid("", "the path is not valid percent-encoded text"))?;
    let path: Vec<(String, String)> = paths::parameters(route.path)
        .zip(path.iter())
        .map(|(name, (_, text))| (name.to_owned(), text.to_owned()))
        .collect();
    // What cannot be read is a refused call like any other, and audited where it would have changed something.
    let refuse = || {
        let unreadable = Error::invalid("", "the arguments could not be read");
        gate::refuse(&rest.orch, &op.spec, &cx, &unreadable);
    };
    let max = match route.takes_large_body {
        true => arguments::MAX_LARGE_BODY,
        false => arguments::MAX_BODY,
    };
    let body = arguments::read_body(&parts.headers, body, max).await;
    let mut body = body.inspect_err(|_| refuse())?;
    if let Some(parameter) = route.body {
        body = Map::from_iter([(parameter.to_owned(), Value::Object(body))]);
    }
    let mut arguments =
        arguments::merge(&op.input, route, &path, &parts.uri, body).inspect_err(|_| refuse())?;
    if route.path == logs::PATH && logs::take_follow(&mut arguments) {
        return logs::follow(rest, &cx, arguments).await;
    }
    if route.path == events::PATH && wants_events(&parts.headers) {
        return events::follow(rest, &cx, parts.headers, arguments).await;
    }

    let success = Success { status: status_of(op, &arguments), collection: endpoint.collection };
    let arguments = Value::Object(arguments);
    if wants_events(&parts.headers) {
        return stream(rest, op, cx, arguments).await;
    }
    let answer = (op.call)(rest.orch.clone(), cx, arguments).await?;
    Ok(success.answer(answer))
}

/// What a success looks like over HTTP.
struct Success {
    status: StatusCode,
    collection: Option<&'static str>,
}

impl Success {
    fn answer(&self, answer: Answer) -> Response {
        let mut response = (self.status, axum::Json(&answer.value)).into_response();
        let id = answer.value.get("id").and_then(Value::as_str);
        if let (StatusCode::CREATED, Some(collection), Some(id)) =
            (self.status, self.collection, id)
            && let Ok(location) = HeaderValue::from_str(&format!("{collection}/{id}"))
        {
            response.headers_mut().insert(header::LOCATION, location);
        }
        response
    }
}

fn status_of(op: &Op, arguments: &Map<String, Value>) -> StatusCode {
    if takes(op, "dry_run") && is_true(arguments, "dry_run") {
        return StatusCode::OK;
    }
    let waits = arguments.get("wait").and_then(Value::as_bool).unwrap_or_else(|| waits(op));
    if takes(op, "wait") && !waits {
        return StatusCode::ACCEPTED;
    }
    success_of(op.spec.effect)
}

pub(super) fn takes(op: &Op, name: &str) -> bool {
    op.input.get("properties").is_some_and(|it| it.get(name).is_some())
}

/// Whether it waits for what it begins when nothing is said of that.
pub(super) fn waits(op: &Op) -> bool {
    let wait = op.input.get("properties").and_then(|it| it.get("wait"));
    wait.is_some_and(|it| it["default"] != Value::Bool(false))
}

pub(super) fn success_of(effect: Effect) -> StatusCode {
    match effect {
        Effect::Creates => StatusCode::CREATED,
        Effect::Reads | Effect::Changes | Effect::Repeats | Effect::Executes | Effect::Destroys => {
            StatusCode::OK
        }
    }
}

/// The path of a collection whose members `catalogue` can read, when `op` adds to it.
pub(super) fn collection_of(op: &Op, route: &Route, catalogue: &[Arc<Op>]) -> Option<&'static str> {
    let reads_member = |it: &Route| {
        let member = it.path.strip_prefix(route.path).and_then(|it| it.strip_prefix("/{"));
        it.method == Method::Get && member.is_some_and(|it| !it.contains('/'))
    };
    let is_readable = catalogue.iter().flat_map(|it| it.spec.routes).any(reads_member);
    (op.spec.effect == Effect::Creates && is_readable).then_some(route.path)
}

fn is_true(arguments: &Map<String, Value>, name: &str) -> bool {
    arguments.get(name) == Some(&Value::Bool(true))
}

fn wants_events(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|it| it.to_str().ok())
        .flat_map(|it| it.split(','))
        .any(|it| it.split(';').next().is_some_and(|it| it.trim() == "text/event-stream"))
}

/// `progress` events, then one `result` or `error`.
async fn stream(rest: &Rest, op: &Op, cx: Cx, arguments: Value) -> Result<Response, Problem> {
    let (sender, mut updates) = mpsc::channel(64);
    // A slow reader misses some progress, which the next update makes good.
    let cx = cx.with_progress(Progress::to(move |update| drop(sender.try_send(update))));
    // When the client goes, only the waiting ends: a change runs to its end in a task of its own.
    let mut call = (op.call)(rest.orch.clone(), cx, arguments);
    let early = tokio::select! {
        biased;
        Some(update) = updates.recv() => Some(Event::from(Progressed(update))),
        result = &mut call => {
            let answer = result?;
            let only = futures::stream::once(async move { Ok(result_event(Ok(answer))) });
            return Ok(events(only));
        }
        () = tokio::time::sleep(STREAM_AFTER) => None,
    };
    let rest_of_it = futures::stream::unfold(Some((updates, call)), |state| async move {
        let (mut updates, mut call) = state?;
        tokio::select! {
            biased;
            Some(update) = updates.recv() => {
                Some((Event::from(Progressed(update)), Some((updates, call))))
            }
            result = &mut call => Some((result_event(result), None)),
        }
    });
    Ok(events(futures::stream::iter(early).chain(rest_of_it).map(Ok)))
}

pub(super) fn events(
    stream: impl Stream<Item = Result<Event, Infallible>> + Send + 'static,
) -> Response {
    let mut response =
        Sse::new(stream).keep_alive(KeepAlive::new().interval(HEARTBEAT)).into_response();
    // Or nginx collects events before it passes them on.
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

fn result_event(result: Result<Answer, Error>) -> Event {
    match result {
        Ok(answer) => Event::default().event("result").data(answer.value.to_string()),
        Err(err) => error_event(&err.into()),
    }
}

pub(super) fn error_event(problem: &Problem) -> Event {
    Event::default().event("error").data(Value::Object(problem.body().clone()).to_string())
}

struct Progressed(ProgressUpdate);

impl From<Progressed> for Event {
    fn from(Progressed(it): Progressed) -> Event {
        let data =
            json!({"progress": it.progress, "total": it.total, "message": it.message}).to_string();
        Event::default().event("progress").data(data)
    }
}
