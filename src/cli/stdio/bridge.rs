//! Carries lines between the client on stdin and whatever server there is, and remembers what the next one must know.

use std::io;
use std::time::Duration;

use futures::StreamExt;
use parking_lot::Mutex;
use rmcp::transport::io::{StdioReader, StdioWriter};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::Notify;
use tokio_util::codec::{FramedRead, LinesCodec, LinesCodecError};
use tokio_util::sync::CancellationToken;

use super::memory::{Handover, Memory};

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
pub(in crate::cli) struct Client<R = StdioReader, W = StdioWriter> {
    lines: FramedRead<R, LinesCodec>,
    out: W,
    memory: Mutex<Memory>,
    /// Told when a new server has answered the introduction, and when one says that it closes.
    news: Notify,
}

impl Client {
    pub(super) fn on_stdio() -> Client {
        let (read, write) = rmcp::transport::stdio_pipes();
        Client::new(read, write)
    }
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Client<R, W> {
    pub(in crate::cli) fn new(read: R, out: W) -> Client<R, W> {
        let lines = FramedRead::new(read, LinesCodec::new_with_max_length(MAX_LINE));
        Client { lines, out, memory: Mutex::default(), news: Notify::new() }
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
        for answer in &handover.answers {
            if !write_line(&mut self.out, answer).await {
                return Ok(Ended::Client);
            }
        }
        let (memory, news) = (&self.memory, &self.news);
        let up = async {
            let mut write = write;
            if resume(&mut write, memory, news, handover).await
                && let Some(ended) = up(&mut self.lines, &mut write, memory, news).await
            {
                return ended;
            }
            // The server takes no more, but what it said before is still to be read: the other direction finds its end.
            drop(write.shutdown().await);
            std::future::pending().await
        };
        let down = down(read, &mut self.out, memory, news);
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

/// Brings a new server to where the former was; false when it takes no more.
async fn resume<S: AsyncWrite>(
    write: &mut WriteHalf<S>,
    memory: &Mutex<Memory>,
    news: &Notify,
    handover: Handover,
) -> bool {
    if let Some(line) = handover.introduction {
        if !write_line(write, &line).await {
            return false;
        }
        // Until it answers, nothing is given to it that it could leave half done.
        while memory.lock().is_unintroduced() {
            if memory.lock().is_closing() {
                return false;
            }
            news.notified().await;
        }
    }
    for line in handover.replay {
        if !send(write, memory, &line).await {
            return false;
        }
    }
    true
}

/// Gives the server a line, and keeps in mind whether it has it.
async fn send<S: AsyncWrite>(write: &mut WriteHalf<S>, memory: &Mutex<Memory>, line: &str) -> bool {
    memory.lock().note_resent(line);
    let is_sent = write_line(write, line).await;
    if !is_sent {
        memory.lock().note_unsent(line);
    }
    is_sent
}

/// From the client to the server. `None`: the server takes no more.
async fn up<R: AsyncRead + Unpin, S: AsyncWrite>(
    lines: &mut FramedRead<R, LinesCodec>,
    write: &mut WriteHalf<S>,
    memory: &Mutex<Memory>,
    news: &Notify,
) -> Option<Ended> {
    loop {
        if memory.lock().is_closing() {
            return None;
        }
        let read = tokio::select! {
            biased;
            () = news.notified() => continue,
            it = lines.next() => it,
        };
        match read {
            Some(Ok(line)) => {
                // Before it is sent: what the server may have read counts as under way.
                memory.lock().note_sent(&line);
                if !send(write, memory, &line).await {
                    return None;
                }
            }
            Some(Err(LinesCodecError::MaxLineLengthExceeded)) => {
                tracing::warn!("a message of more than {MAX_LINE} bytes was dropped");
            }
            Some(Err(LinesCodecError::Io(err))) => {
                tracing::debug!("stdin failed: {err}");
                return Some(Ended::Client);
            }
            None => return Some(Ended::Client),
        }
    }
}

/// From the server to the client.
async fn down<S: AsyncRead>(
    read: ReadHalf<S>,
    out: &mut (impl AsyncWrite + Unpin),
    memory: &Mutex<Memory>,
    news: &Notify,
) -> Ended {
    let mut lines = FramedRead::new(read, LinesCodec::new_with_max_length(MAX_LINE));
    while let Some(Ok(line)) = lines.next().await {
        let (is_for_client, has_news) = {
            let mut memory = memory.lock();
            let before = (memory.is_unintroduced(), memory.is_closing());
            let is_for_client = memory.note_received(&line);
            (is_for_client, before != (memory.is_unintroduced(), memory.is_closing()))
        };
        if has_news {
            news.notify_one();
        }
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
