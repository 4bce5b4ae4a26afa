//! The way to one client that follows: who it is and whether it still may, signs of life, and how it is cut off.

use std::sync::Arc;
use std::time::Duration;

use axum::response::sse::Event as Sent;
use http::HeaderMap;
use orch_core::{Cx, Orch, gate};
use orch_domain::Error;
use orch_domain::caller::{Caller, Channel, Permission};
use tokio::sync::mpsc;
use tokio::time::Interval;

use super::seats::Seat;
use crate::auth::Access;
use crate::face::rest::{Rest, call};

/// As browsers send it when they connect again.
pub(in crate::face::rest) const LAST_EVENT_ID: &str = "last-event-id";
/// How long a client should wait before it connects again.
pub(in crate::face::rest) const RETRY: Duration = Duration::from_secs(1);
/// On the way to one client.
const BUFFER: usize = 64;
const SHORTEST_HEARTBEAT: Duration = Duration::from_millis(50);

pub(in crate::face::rest) struct Line {
    pub(in crate::face::rest) orch: Arc<Orch>,
    pub(in crate::face::rest) caller: Caller,
    access: Arc<Access>,
    /// With the credential, which is looked at again and again.
    headers: HeaderMap,
    /// Whoever may call it may follow.
    operation: &'static str,
    sender: mpsc::Sender<Sent>,
    heartbeat: Duration,
    _seat: Seat,
}

/// Why a stream ends.
pub(in crate::face::rest) enum End {
    /// The client is gone, or does not read.
    Silent,
    Shutdown,
    Refused(Error),
}

impl Line {
    /// The error says that there are too many streams.
    pub(in crate::face::rest) fn open(
        rest: &Rest,
        cx: &Cx,
        headers: HeaderMap,
        operation: &'static str,
    ) -> Result<(Line, mpsc::Receiver<Sent>), Error> {
        let caller = cx.caller()?.clone();
        let seat = rest.event_seats.take(&caller.user)?;
        let (sender, receiver) = mpsc::channel(BUFFER);
        let line = Line {
            orch: rest.orch.clone(),
            caller,
            access: rest.access.clone(),
            headers,
            operation,
            sender,
            heartbeat: rest.orch.settings.heartbeat.max(SHORTEST_HEARTBEAT),
            _seat: seat,
        };
        Ok((line, receiver))
    }

    /// When a sign of life is due.
    pub(in crate::face::rest) fn beats(&self) -> Interval {
        let mut beats = tokio::time::interval(self.heartbeat);
        beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        beats.reset();
        beats
    }

    /// Until the client or the server goes.
    pub(in crate::face::rest) async fn cut(&self) -> End {
        tokio::select! {
            () = self.orch.shutdown.cancelled() => End::Shutdown,
            () = self.sender.closed() => End::Silent,
        }
    }

    /// Whether this is still who it was, and may still look.
    pub(in crate::face::rest) fn look_again(&mut self) -> Result<(), End> {
        let caller = self.access.look_again(&self.headers, Channel::Rest).map_err(End::Refused)?;
        gate::permit(self.operation, Permission::Read, &Cx::new(Some(caller.clone())))
            .map_err(End::Refused)?;
        self.caller = caller;
        Ok(())
    }

    pub(in crate::face::rest) async fn send(&self, event: Sent) -> Result<(), End> {
        tokio::select! {
            sent = self.sender.send_timeout(event, 2 * self.heartbeat) => sent.map_err(|err| {
                if let mpsc::error::SendTimeoutError::Timeout(_) = err {
                    tracing::info!(user = %self.caller.user, "a client takes no events and is cut off");
                }
                End::Silent
            }),
            () = self.orch.shutdown.cancelled() => Err(End::Shutdown),
        }
    }

    /// Says why it ends, and when the server does, `last`.
    pub(in crate::face::rest) fn close(self, end: End, last: Option<Sent>) {
        let last = match end {
            End::Silent => None,
            End::Refused(err) => Some(call::error_event(&err.into())),
            End::Shutdown => last,
        };
        if let Some(last) = last {
            // Who has no room for it is told by the end of the stream.
            drop(self.sender.try_send(last));
        }
    }
}

/// Where a client left off. A browser connects again with the address it began with, so what it says beside that, in the
/// header, is newer.
pub(in crate::face::rest) fn last_event_id(
    headers: &HeaderMap,
    of_query: Option<String>,
) -> Result<Option<u64>, Error> {
    let last = match headers.get(LAST_EVENT_ID) {
        Some(it) => Some(it.to_str().unwrap_or("?").to_owned()),
        None => of_query,
    };
    let number = |it: String| {
        it.trim().parse::<u64>().map_err(|_| {
            let message = "it is not the `id` of an event, which is a whole number";
            Error::invalid("last_event_id", message)
        })
    };
    last.map(number).transpose()
}
