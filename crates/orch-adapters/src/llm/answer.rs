//! An answer as it comes: pieces out of bytes, with limits on silence and on size.

use std::sync::Arc;
use std::time::Duration;

use orch_core::ports::model::Piece;
use reqwest::Response;
use tokio::time::Instant;

use super::fault::{self, Fault};
use super::wire::{Out, Reader};
use super::{About, Limits};

/// Dropped, it closes the connection.
pub(super) struct Answer {
    about: Arc<About>,
    response: Response,
    reader: Box<dyn Reader>,
    out: Out,
    /// Told after the pieces before it.
    fault: Option<Fault>,
    is_over: bool,
    n_text: usize,
    idle: Duration,
    max_text: usize,
}

impl Answer {
    pub(super) fn new(
        about: Arc<About>,
        response: Response,
        reader: Box<dyn Reader>,
        limits: &Limits,
    ) -> Answer {
        Answer {
            about,
            response,
            reader,
            out: Out::default(),
            fault: None,
            is_over: false,
            n_text: 0,
            idle: limits.idle,
            max_text: limits.max_text,
        }
    }

    /// Waits for the first piece, which stays where it is.
    pub(super) async fn begin(&mut self) -> Result<(), Fault> {
        self.fill().await;
        match self.fault.take_if(|_| self.out.pieces.is_empty()) {
            Some(fault) => Err(fault),
            None => Ok(()),
        }
    }

    /// None once the last piece, or a fault, was given.
    pub(super) async fn next(&mut self) -> Option<Result<Piece, Fault>> {
        if self.is_over {
            return None;
        }
        self.fill().await;
        let Some(piece) = self.out.pieces.pop_front() else {
            self.is_over = true;
            return self.fault.take().map(Err);
        };
        match &piece {
            Piece::Text(text) => {
                self.n_text += text.len();
                if self.max_text < self.n_text {
                    self.is_over = true;
                    return Some(Err(fault::too_long(&self.about, self.max_text)));
                }
            }
            Piece::End(_) => self.is_over = true,
        }
        Some(Ok(piece))
    }

    /// Reads until there is a piece or a fault.
    async fn fill(&mut self) {
        // From now, as the time that nobody asks for a piece is not the provider's.
        let mut deadline = Instant::now() + self.idle;
        while self.out.pieces.is_empty() && self.fault.is_none() {
            let chunk = tokio::time::timeout_at(deadline, self.response.chunk()).await;
            let read = match chunk {
                Err(_) => {
                    self.fault = Some(fault::silent(&self.about, self.idle));
                    return;
                }
                Ok(Err(err)) => {
                    self.fault = Some(fault::cut_off(&self.about, Some(err)));
                    return;
                }
                Ok(Ok(Some(bytes))) => self.reader.read(&bytes, &mut self.out),
                Ok(Ok(None)) => {
                    let read = self.reader.end(&mut self.out);
                    if !matches!(self.out.pieces.back(), Some(Piece::End(_))) {
                        self.fault = Some(fault::cut_off(&self.about, None));
                    }
                    read
                }
            };
            if let Err(broken) = read {
                self.fault = Some(fault::broken(&self.about, broken));
            }
            // Signs of life alone are no progress.
            if std::mem::take(&mut self.out.is_moving) {
                deadline = Instant::now() + self.idle;
            }
        }
    }
}
