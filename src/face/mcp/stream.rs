//! The protocol over any byte stream: standard input and output, a Unix socket, a pipe inside the process. A message is a
//! line.

use std::sync::Arc;
use std::time::Duration;

use orch_domain::Error;
use orch_domain::caller::Caller;
use orch_gateway::frame::{Frame, Kind, raw};
use orch_gateway::view::View;
use rmcp::service::ServerInitializeError;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Face;
use super::conversation::{Begun, Conversation, Turn};

/// What is longer is refused: it would fill the memory.
pub(super) const MAX_LINE: usize = 64 * 1024 * 1024;
/// Lines for a client that does not read; whoever has another waits.
const OUTGOING: usize = 256;
/// How long answers may take once the client has closed its side, and to be written.
const GRACE: Duration = Duration::from_secs(3);
/// How long they may take once the server is to end.
const DRAIN: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    #[error("the client did not begin as the protocol asks")]
    Handshake(#[source] Box<ServerInitializeError>),
    #[error("there is nothing to serve at this profile")]
    NoServer(#[source] Error),
    #[error("the task that serves the stream failed")]
    Task(#[source] tokio::task::JoinError),
}

impl Face {
    /// Serves one client until it closes the stream or the face is shut down; calls under way are given a moment to
    /// answer. The one `caller` stands behind everything on this stream, and `view` is all there is to it.
    pub async fn serve_stream(
        self: Arc<Face>,
        caller: Caller,
        view: View,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    ) -> Result<(), StreamError> {
        let caller = match &view.profile {
            Some(it) => it.admit(caller),
            None => caller,
        };
        let view = view.for_caller(Some(&caller));
        let direct = self.direct(&view).map_err(StreamError::NoServer)?;
        let ended = CancellationToken::new();
        let Begun { conversation, outside, run } =
            Conversation::begin(&self, &caller, view, direct, ended.clone());
        let mut running = self.orch.tracker.spawn(run);
        let (read, write) = tokio::io::split(stream);
        let (out, lines) = mpsc::channel(OUTGOING);
        let mut writing = self.orch.tracker.spawn(write_all(write, lines));
        let telling = self.orch.tracker.spawn(tell_all(outside, out.clone()));
        let turns = TaskTracker::new();
        let stream = Stream { conversation: conversation.clone(), caller, out, turns };
        let mut served = Ok(());
        let grace = tokio::select! {
            () = stream.inward(read) => GRACE,
            () = self.shutdown.cancelled() => DRAIN,
            () = self.orch.shutdown.cancelled() => DRAIN,
            result = &mut running => {
                served = result.unwrap_or_else(|err| Err(StreamError::Task(err)));
                Duration::ZERO
            }
            _ = &mut writing => Duration::ZERO,
        };
        // Who only sent its requests and closed may still want the answers.
        conversation.close();
        stream.turns.close();
        tokio::select! {
            _ = tokio::time::timeout(grace, stream.turns.wait()) => {}
            _ = &mut writing, if !writing.is_finished() => {}
        }
        conversation.end().await;
        stream.turns.wait().await;
        drop(stream);
        telling.abort();
        running.abort();
        // What was said goes out, unless nobody reads.
        if !writing.is_finished() {
            tokio::time::timeout(GRACE, &mut writing).await.ok();
            writing.abort();
        }
        served
    }
}

/// Goes on with what belongs to no request.
async fn tell_all(mut outside: mpsc::Receiver<Frame>, out: mpsc::Sender<Vec<u8>>) {
    while let Some(frame) = outside.recv().await {
        send(&out, &frame).await;
    }
}

struct Stream {
    conversation: Arc<Conversation>,
    caller: Caller,
    out: mpsc::Sender<Vec<u8>>,
    turns: TaskTracker,
}

impl Stream {
    /// From the client, until it closes.
    async fn inward(&self, read: impl AsyncRead + Unpin) {
        let mut read = BufReader::with_capacity(64 * 1024, read);
        let mut line = Vec::new();
        loop {
            line.clear();
            if !matches!(read_line(&mut read, &mut line).await, Ok(true)) {
                return;
            }
            self.take(&line).await;
        }
    }

    async fn take(&self, line: &[u8]) {
        let line = line.trim_ascii();
        if line.is_empty() {
            return;
        }
        let frame = match Frame::parse(line) {
            Ok(it) => it,
            Err(err) => {
                // What is no JSON at all is passed over: programs write much to their output that is not meant for us.
                if serde_json::from_slice::<serde::de::IgnoredAny>(line).is_ok() {
                    self.send(&Frame::error(raw(&()), -32600, &err.to_string())).await;
                }
                return;
            }
        };
        if frame.kind() != Kind::Request {
            return self.conversation.hear(frame, self.caller.clone()).await;
        }
        let is_hello = frame.is("initialize");
        let turn = self.conversation.ask(frame, self.caller.clone());
        if is_hello {
            // Nothing is to overtake it.
            return answer(turn, self.out.clone()).await;
        }
        self.turns.spawn(answer(turn, self.out.clone()));
    }

    async fn send(&self, frame: &Frame) {
        send(&self.out, frame).await;
    }
}

async fn answer(mut turn: Turn, out: mpsc::Sender<Vec<u8>>) {
    while let Some(frame) = turn.next().await {
        send(&out, &frame).await;
    }
}

async fn send(out: &mpsc::Sender<Vec<u8>>, frame: &Frame) {
    let mut line = frame.to_line();
    line.push(b'\n');
    // A client that is gone needs no answer.
    out.send(line).await.ok();
}

/// One line with its end. False: there are no more.
async fn read_line<R: AsyncRead + Unpin>(
    read: &mut BufReader<R>,
    line: &mut Vec<u8>,
) -> std::io::Result<bool> {
    loop {
        let available = read.fill_buf().await?;
        if available.is_empty() {
            // What has no end was broken off.
            return Ok(false);
        }
        let end = available.iter().position(|it| *it == b'\n');
        let n = end.map_or(available.len(), |it| it + 1);
        if MAX_LINE < line.len() + n {
            return Err(std::io::Error::other("the line is too long"));
        }
        line.extend_from_slice(&available[..n]);
        read.consume(n);
        if end.is_some() {
            return Ok(true);
        }
    }
}

async fn write_all(mut write: impl AsyncWrite + Unpin, mut lines: mpsc::Receiver<Vec<u8>>) {
    while let Some(line) = lines.recv().await {
        if write.write_all(&line).await.is_err() {
            return;
        }
        // Together, what is there together.
        if lines.is_empty() && write.flush().await.is_err() {
            return;
        }
    }
    write.shutdown().await.ok();
}
