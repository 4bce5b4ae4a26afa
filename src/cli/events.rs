//! `events`: what happened, one line each, oldest first, and with `--follow` what goes on happening.

use std::io::Write;

use orch_domain::text::{excerpt, sanitize};
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use super::args::{EventsArgs, Globals};
use super::client::Connection;
use super::{ExitStatus, call, say, serve};
use crate::config::Env;

/// Without `--since`.
const SHOWN: u32 = 20;
const PAGE: u32 = 1000;
/// How long one call waits for something new.
const WAIT_SECONDS: u32 = 30;
const MAX_MESSAGE: usize = 400;

pub(super) async fn run(
    env: &'static dyn Env,
    globals: &Globals,
    args: &EventsArgs,
) -> anyhow::Result<ExitStatus> {
    let connection = call::connect(env, globals, &args.target).await?;
    let stop = serve::stop_on_signal()?;
    let status = show(&connection, args, &stop).await;
    let closed = connection.close().await;
    let status = status?;
    closed.map(|()| status)
}

async fn show(
    connection: &Connection,
    args: &EventsArgs,
    stop: &CancellationToken,
) -> anyhow::Result<ExitStatus> {
    let mut arguments = Map::new();
    if let Some(kind) = &args.kind {
        arguments.insert("kind".to_owned(), json!(kind));
    }
    let (mut since, mut wait) = (args.since, 0);
    loop {
        let found = match list(connection, &arguments, since, wait, stop).await? {
            Listed::Found(it) => it,
            Listed::Ended(status) => return Ok(status),
        };
        if let Some(since) = since
            && since.saturating_add(1) < found.oldest
        {
            say(format!(
                "what came after {since} and before {} is not kept any more",
                found.oldest
            ));
        }
        for event in found.events.iter().rev() {
            if !print_line(event)? {
                return Ok(ExitStatus::Done);
            }
        }
        if !args.follow {
            return Ok(ExitStatus::Done);
        }
        (since, wait) = (Some(found.revision), WAIT_SECONDS);
    }
}

struct Found {
    /// Newest first.
    events: Vec<Value>,
    revision: u64,
    oldest: u64,
}

enum Listed {
    Found(Found),
    /// Interrupted or refused.
    Ended(ExitStatus),
}

/// All since `since`, or the last few.
async fn list(
    connection: &Connection,
    filter: &Map<String, Value>,
    since: Option<u64>,
    wait: u32,
    stop: &CancellationToken,
) -> anyhow::Result<Listed> {
    let mut arguments = filter.clone();
    arguments.insert("page_size".to_owned(), json!(since.map_or(SHOWN, |_| PAGE)));
    if let Some(since) = since {
        arguments.insert("since_revision".to_owned(), json!(since));
        arguments.insert("wait_seconds".to_owned(), json!(wait));
    }
    let mut found: Option<Found> = None;
    loop {
        let call = connection.call("list_events", arguments.clone(), None, stop.cancelled());
        let Some(outcome) = call.await? else { return Ok(Listed::Ended(ExitStatus::Interrupted)) };
        if outcome.is_error {
            say(format!("error: {}", outcome.text));
            return Ok(Listed::Ended(ExitStatus::Refused));
        }
        let number = |name: &str| outcome.value.get(name).and_then(Value::as_u64).unwrap_or(0);
        let found = found.get_or_insert_with(|| Found {
            events: Vec::new(),
            revision: number("revision"),
            oldest: number("oldest_revision"),
        });
        let events = outcome.value.get("events").and_then(Value::as_array);
        found.events.extend(events.into_iter().flatten().cloned());
        let next = outcome.value.get("next_page_token").and_then(Value::as_str).unwrap_or("");
        if next.is_empty() || since.is_none() {
            break;
        }
        arguments.insert("page_token".to_owned(), json!(next));
    }
    Ok(match found {
        Some(it) => Listed::Found(it),
        None => Listed::Ended(ExitStatus::Failed),
    })
}

/// False: whoever reads has enough, as `head` does.
fn print_line(event: &Value) -> anyhow::Result<bool> {
    let written = writeln!(std::io::stdout(), "{}", line(event));
    match written.and_then(|()| std::io::stdout().flush()) {
        Err(err) if err.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        other => Ok(other.map(|()| true)?),
    }
}

fn line(event: &Value) -> String {
    let text = |name: &str| event.get(name).and_then(Value::as_str).unwrap_or_default();
    let revision = event.get("revision").and_then(Value::as_u64).unwrap_or(0);
    let by = match text("actor") {
        "" => String::new(),
        actor => format!(" (by {actor})"),
    };
    let line = format!("{} {revision:>6} {:<20} {}{by}", text("at"), text("kind"), text("message"));
    excerpt(&sanitize(&line), MAX_MESSAGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_that_misleads_nobody() {
        let event = json!({
            "revision": 7, "at": "2026-11-20T08:30:00.000Z", "kind": "node.cordoned", "actor": "ann",
            "message": "node `n1` takes\nno \u{1b}[31mnew instances",
        });
        let line = line(&event);
        assert!(
            line.starts_with(
                "2026-11-20T08:30:00.000Z      7 node.cordoned        node `n1` takes"
            ),
            "{line}"
        );
        assert!(
            line.ends_with("no new instances (by ann)") && !line.contains(['\n', '\u{1b}']),
            "{line}"
        );
    }
}
