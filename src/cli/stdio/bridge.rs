//! Carries lines between the client on stdin and whatever server there is, and remembers what the next one must know.

use std::io;
use std::time::Duration;

use futures::StreamExt;
use parking_lot::Mutex;
use rmcp::transport::io::{StdioReader, StdioWriter};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio_util::codec::{FramedRead, LinesCodec, LinesCodecError};
use tokio_util::sync::CancellationToken;

use super::memory::Memory;

/// A longer line is dropped, as no answer to it could be addressed.
const MAX_LINE: usize = 64 * 1024 * 1024;

/// Why a conversation with one server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// The client is gone, or this process is to stop.
    Client,
    Server,
    /// The server, in this process, was asked to make way for another.
    Yielded,
}

/// The client, which outlives its servers.
pub(super) struct Client<R = StdioReader, W = StdioWriter> {
    lines: FramedRead<R, LinesCodec>,
    out: W,
    memory: Mutex<Memory>,
}

impl Client {
    pub(super) fn on_stdio() -> Client {
        let (read, write) = rmcp::transport::stdio_pipes();
        Client::new(read, write)
    }
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Client<R, W> {
    pub(super) fn new(read: R, out: W) -> Client<R, W> {
        let lines = FramedRead::new(read, LinesCodec::new_with_max_length(MAX_LINE));
        Client { lines, out, memory: Mutex::default() }
    }

    /// Carries lines both ways until one side ends. Calls that a former server left unanswered are answered first, and
    /// the new one is told what the former knew.
    pub(super) async fn pump<S: AsyncRead + AsyncWrite>(
        &mut self,
        server: S,
        stop: &CancellationToken,
        yielded: impl Future<Output = ()>,
        farewell: Duration,
    ) -> io::Result<Ended> {
        let (read, write) = tokio::io::split(server);
        let handover = self.memory.lock().hand_over();
        for answer in handover.answers {
            if !write_line(&mut self.out, &answer).await {
                return Ok(Ended::Client);
            }
        }
        let memory = &self.memory;
        let up = up(&mut self.lines, write, memory, handover.replay);
        let down = down(read, &mut self.out, memory);
        let (mut up, mut down) = (std::pin::pin!(up), std::pin::pin!(down));
        tokio::select! {
            ended = &mut up => return Ok(ended),
            ended = &mut down => return Ok(ended),
            () = stop.cancelled() => return Ok(Ended::Client),
            () = yielded => {}
        }
        // No new calls; what is under way may still answer.
        let answered = async {
            while memory.lock().is_waiting() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            ended = &mut down => return Ok(ended),
            () = stop.cancelled() => return Ok(Ended::Client),
            () = answered => {}
            () = tokio::time::sleep(farewell) => {}
        }
        Ok(Ended::Yielded)
    }
}

/// From the client to the server.
async fn up<R: AsyncRead + Unpin, S: AsyncWrite>(
    lines: &mut FramedRead<R, LinesCodec>,
    mut write: WriteHalf<S>,
    memory: &Mutex<Memory>,
    replay: Vec<String>,
) -> Ended {
    for line in replay {
        if !write_line(&mut write, &line).await {
            return gone().await;
        }
    }
    loop {
        match lines.next().await {
            Some(Ok(line)) => {
                // Before it is sent: what the server may have read counts as under way.
                memory.lock().note_sent(&line);
                if !write_line(&mut write, &line).await {
                    return gone().await;
                }
            }
            Some(Err(LinesCodecError::MaxLineLengthExceeded)) => {
                tracing::warn!("a message of more than {MAX_LINE} bytes was dropped");
            }
            Some(Err(LinesCodecError::Io(err))) => {
                tracing::debug!("stdin failed: {err}");
                return Ended::Client;
            }
            None => return Ended::Client,
        }
    }
}

/// The server takes no more, but what it said before is still to be read: the other direction finds its end.
async fn gone() -> Ended {
    std::future::pending().await
}

/// From the server to the client.
async fn down<S: AsyncRead>(
    read: ReadHalf<S>,
    out: &mut (impl AsyncWrite + Unpin),
    memory: &Mutex<Memory>,
) -> Ended {
    let mut lines = FramedRead::new(read, LinesCodec::new_with_max_length(MAX_LINE));
    while let Some(Ok(line)) = lines.next().await {
        let is_for_client = memory.lock().note_received(&line);
        if is_for_client && !write_line(out, &line).await {
            return Ended::Client;
        }
    }
    Ended::Server
}

async fn write_line(out: &mut (impl AsyncWrite + Unpin), line: &str) -> bool {
    let mut bytes = Vec::with_capacity(line.len() + 1);
    bytes.extend_from_slice(line.as_bytes());
    bytes.push(b'\n');
    out.write_all(&bytes).await.is_ok() && out.flush().await.is_ok()
}
