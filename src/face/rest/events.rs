//! `GET /events` with `Accept: text/event-stream`: what happens, as server-sent events, from where the client left off.
//!
//! `id` is the revision, `event` the kind, `data` the event as `list_events` shows it. Nothing is kept for a client but
//! its place in the log and a few events on the way: one that does not read is cut off, and goes on from its
//! `Last-Event-ID` when it comes back.

mod line;
mod seats;

use std::sync::Arc;

use axum::response::Response;
use axum::response::sse::Event as Sent;
use http::HeaderMap;
use orch_core::Cx;
use orch_core::ops::ListEvents;
use orch_core::service::event_log::{Extent, Followed, Follower};
use orch_domain::Error;
use orch_domain::event::{Event, EventFilter, SubjectType};
use serde_json::{Map, Value, json};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

pub(super) use self::line::{End, Line, RETRY, last_event_id};
pub(super) use self::seats::Seats;
use crate::face::rest::problem::Problem;
use crate::face::rest::{Rest, call};

pub(super) const PATH: &str = "/events";

/// Answers a stream that ends with the client, the server, or the credential.
pub(super) async fn follow(
    rest: &Rest,
    cx: &Cx,
    headers: HeaderMap,
    arguments: Map<String, Value>,
) -> Result<Response, Problem> {
    cx.caller()?;
    let Wanted { since, filter } = wanted(&headers, arguments)?;
    let (line, receiver) = Line::open(rest, cx, headers, "list_events")?;
    let log = rest.orch.ledger.log();
    let since = since.unwrap_or_else(|| log.extent().newest);
    let stream = Stream { line, filter, follower: log.follow(since), at: since };
    rest.orch.tracker.spawn(stream.run());
    Ok(call::events(ReceiverStream::new(receiver).map(Ok)))
}

struct Wanted {
    since: Option<u64>,
    filter: EventFilter,
}

fn wanted(headers: &HeaderMap, mut arguments: Map<String, Value>) -> Result<Wanted, Error> {
    let of_query = arguments.remove("last_event_id").map(|it| match it {
        Value::String(text) => text,
        other => other.to_string(),
    });
    let last = line::last_event_id(headers, of_query)?;
    for name in ["before", "page_size", "page_token", "wait_seconds"] {
        if arguments.contains_key(name) {
            let message = "a stream does not take it; ask for `application/json` to list what was";
            return Err(Error::invalid(name, message));
        }
    }
    let request: ListEvents = serde_json::from_value(Value::Object(arguments)).map_err(|err| {
        Error::invalid("", format!("a stream of events cannot be read so: {err}"))
    })?;
    Ok(Wanted { since: last.or(request.since_revision), filter: request.filter()? })
}

/// One client's stream.
struct Stream {
    line: Line,
    filter: EventFilter,
    follower: Follower,
    /// Everything up to here was sent or is not for this client.
    at: u64,
}

impl Stream {
    async fn run(mut self) {
        let end = self.send_all().await;
        let last = match &end {
            End::Shutdown => Some(Sent::default().event("end").data("{}")),
            _ => None,
        };
        self.line.close(end, last);
    }

    async fn send_all(&mut self) -> End {
        let greeting = self.place().comment(format!("following after revision {}", self.at));
        if let Err(end) = self.line.send(greeting.retry(RETRY)).await {
            return end;
        }
        let mut beats = self.line.beats();
        loop {
            let followed = tokio::select! {
                end = self.line.cut() => return end,
                _ = beats.tick() => None,
                it = self.follower.next() => Some(it),
            };
            let sent = match followed {
                None => self.beat().await,
                Some(Followed::Missed(extent)) => self.reset(extent).await,
                Some(Followed::Events(events)) => self.send_events(&events).await,
            };
            if let Err(end) = sent {
                return end;
            }
        }
    }

    /// A sign of life that takes the client's place along, so that what was not for it is not looked at again.
    async fn beat(&mut self) -> Result<(), End> {
        self.line.look_again()?;
        let beat = self.place().comment("alive");
        self.line.send(beat).await
    }

    async fn reset(&mut self, extent: Extent) -> Result<(), End> {
        // A place ahead of all there is comes from another database, such as one before a `restore`.
        let why = match self.at > extent.newest {
            true => {
                format!("there is no revision {} here (the newest is {})", self.at, extent.newest)
            }
            false => format!(
                "the events after revision {} are not kept any more (the oldest is {})",
                self.at, extent.oldest
            ),
        };
        let data = json!({
            "oldest_revision": extent.oldest,
            "revision": extent.newest,
            "message": format!(
                "{why}; list anew what you watch, and go on with what comes after revision {}",
                extent.newest
            ),
        });
        self.at = extent.newest;
        let reset = self.place().event("reset").data(data.to_string());
        self.line.send(reset).await
    }

    async fn send_events(&mut self, events: &[Arc<Event>]) -> Result<(), End> {
        for event in events {
            if matches!(event.subject.kind, SubjectType::ApiKey | SubjectType::User) {
                self.line.look_again()?;
            }
            self.at = event.revision;
            if !self.filter.matches(event) {
                continue;
            }
            let Some(seen) = event.seen_by(&self.line.caller) else { continue };
            let data = serde_json::to_string(&seen).expect("an event is plain data");
            let event = self.place().event(&seen.kind).data(data);
            self.line.send(event).await?;
        }
        Ok(())
    }

    fn place(&self) -> Sent {
        Sent::default().id(self.at.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::line::LAST_EVENT_ID;
    use super::*;

    fn since(header: Option<&str>, arguments: Value) -> Result<Option<u64>, Error> {
        let mut headers = HeaderMap::new();
        if let Some(it) = header {
            headers.insert(LAST_EVENT_ID, it.parse().unwrap());
        }
        let Value::Object(arguments) = arguments else { panic!("an object") };
        wanted(&headers, arguments).map(|it| it.since)
    }

    #[test]
    fn the_header_is_newer_than_the_address() {
        assert_eq!(since(None, json!({})).unwrap(), None);
        assert_eq!(since(None, json!({"since_revision": 3})).unwrap(), Some(3));
        assert_eq!(
            since(None, json!({"since_revision": 3, "last_event_id": "4"})).unwrap(),
            Some(4)
        );
        assert_eq!(since(None, json!({"last_event_id": 4})).unwrap(), Some(4));
        assert_eq!(since(Some("5"), json!({"since_revision": 3})).unwrap(), Some(5));
    }

    #[test]
    fn what_a_stream_cannot_heed_is_refused() {
        assert!(since(Some("x"), json!({})).is_err());
        assert!(since(Some("-1"), json!({})).is_err());
        assert!(since(None, json!({"page_size": 3})).is_err());
        assert!(since(None, json!({"kind": "nonsense"})).is_err());
        assert!(since(None, json!({"follow": "yes"})).is_err());
    }
}
