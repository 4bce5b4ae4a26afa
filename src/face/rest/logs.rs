//! `GET /instances/{id}/logs?follow=true`: what a container writes, as server-sent events, while the client listens.

use axum::response::Response;
use axum::response::sse::Event;
use futures::StreamExt;
use orch_core::Cx;
use orch_core::ports::engine::{LogLine, LogQuery, LogStream};
use orch_domain::Error;
use orch_domain::name::InstanceId;
use orch_domain::text;
use orch_domain::time::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::face::rest::problem::Problem;
use crate::face::rest::{Rest, call};

pub(super) const PATH: &str = "/instances/{id}/logs";
/// Lines that are there already, unless `tail` says otherwise.
const DEFAULT_TAIL: u32 = 200;
const MAX_TAIL: u32 = 10_000;
const MAX_LINE: usize = 16 * 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FollowLogs {
    id: InstanceId,
    tail: Option<u32>,
    since: Option<Timestamp>,
}

/// Whether the lines to come are wanted too. The operation itself only knows those that are there.
pub(super) fn take_follow(arguments: &mut Map<String, Value>) -> bool {
    match arguments.remove("follow") {
        Some(Value::Bool(it)) => it,
        Some(Value::String(text)) => {
            ["", "true", "1", "yes", "on"].contains(&text.to_ascii_lowercase().as_str())
        }
        _ => false,
    }
}

/// `log` events, then one `end` or `error`.
pub(super) async fn follow(
    rest: &Rest,
    cx: &Cx,
    arguments: Map<String, Value>,
) -> Result<Response, Problem> {
    let request: FollowLogs = serde_json::from_value(Value::Object(arguments)).map_err(|err| {
        Error::invalid("", format!("`follow` goes with `tail` and `since` only: {err}"))
    })?;
    let tail = request.tail.unwrap_or(DEFAULT_TAIL);
    if MAX_TAIL < tail {
        return Err(Error::invalid("tail", format!("{tail} is more than {MAX_TAIL}")).into());
    }
    let query = LogQuery { tail: Some(tail), since: request.since, follow: true };
    let lines = rest.orch.logs(cx, &request.id, query).await?;
    let logs = lines
        // An error is the last event, and not a broken connection.
        .map(|it| match it {
            Ok(line) => line_event(&line),
            Err(err) => call::error_event(&err.into()),
        })
        .take_until(rest.orch.shutdown.clone().cancelled_owned());
    let end = futures::stream::once(async { Event::default().event("end").data("{}") });
    Ok(call::events(logs.chain(end).map(Ok)))
}

fn line_event(line: &LogLine) -> Event {
    let stream = match line.stream {
        LogStream::Stdout => "stdout",
        LogStream::Stderr => "stderr",
    };
    let text = match line.text.len() {
        0..=MAX_LINE => line.text.clone(),
        _ => text::excerpt(&line.text, MAX_LINE),
    };
    let data = json!({"at": line.at, "stream": stream, "text": text});
    Event::default().event("log").data(data.to_string())
}
