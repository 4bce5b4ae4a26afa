//! What a server says on a subscription.

use crate::frame::Frame;
use crate::upstream::Exchange;

/// What a subscription brings.
pub(crate) enum Heard {
    Said(Frame),
    End,
    /// The server has no such thing.
    Refused,
}

pub(crate) async fn next_of(listening: &mut Option<Exchange>) -> Heard {
    let Some(exchange) = listening else { return std::future::pending().await };
    match exchange.next().await {
        Ok(frame) if frame.method.is_some() => Heard::Said(frame),
        Ok(frame) if frame.error.is_some() => Heard::Refused,
        _ => Heard::End,
    }
}
