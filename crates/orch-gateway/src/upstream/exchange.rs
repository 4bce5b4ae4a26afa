//! One request under way at an upstream, and all that is said about it.

use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::LinkError;
use crate::frame::Frame;
use crate::safety::turn::Turn;

/// Dropped before its answer came, it cancels the request at the upstream, and only that one.
pub struct Exchange {
    frames: mpsc::UnboundedReceiver<Result<Frame, LinkError>>,
    cancel: Option<Box<dyn FnOnce() + Send + Sync>>,
    /// Held until it ends, so that whoever is to stop can wait for it.
    under_way: Vec<TaskTrackerToken>,
    /// Likewise, for those who measure, and for whoever is next.
    turn: Option<Turn>,
}

pub(super) type Sender = mpsc::UnboundedSender<Result<Frame, LinkError>>;

impl Exchange {
    pub(super) fn new(cancel: impl FnOnce() + Send + Sync + 'static) -> (Sender, Exchange) {
        let (sender, frames) = mpsc::unbounded_channel();
        let cancel: Box<dyn FnOnce() + Send + Sync> = Box::new(cancel);
        (sender, Exchange { frames, cancel: Some(cancel), under_way: Vec::new(), turn: None })
    }

    pub(crate) fn counted_by(mut self, tracker: &TaskTracker) -> Exchange {
        self.under_way.push(tracker.token());
        self
    }

    pub(crate) fn measured(mut self, turn: Turn) -> Exchange {
        self.turn = Some(turn);
        self
    }

    /// Progress and requests of the server that belong to this request, and at last its answer, in the order they were
    /// sent. The answer has the id that the link gave the request.
    pub async fn next(&mut self) -> Result<Frame, LinkError> {
        let next = self.frames.recv().await.unwrap_or_else(|| {
            Err(LinkError::Closed { reason: "it ended before the answer came".to_owned() })
        });
        if next.as_ref().map_or(true, |it| it.method.is_none()) {
            // Answered or lost: there is nothing left to cancel.
            self.cancel = None;
            self.under_way.clear();
            if let Some(turn) = self.turn.take() {
                turn.end(next.as_ref());
            }
        }
        next
    }

    /// The answer alone.
    pub async fn answer(&mut self) -> Result<Frame, LinkError> {
        loop {
            let frame = self.next().await?;
            if frame.method.is_none() {
                return Ok(frame);
            }
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some(cancel) = self.cancel.take() {
            cancel();
        }
    }
}
