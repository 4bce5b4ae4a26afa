//! A stream to a socket of the machine, inside the one connection to it.
//!
//! All streams share the connection, and whoever reads it hands every packet to its stream before it reads the next.
//! So a reader that stops would stop all others. Each stream therefore has a buffer, and a reader that leaves it full
//! for too long loses its stream, not the others theirs.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use russh::client::Msg;
use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// What a stream may be behind.
const BUFFER: usize = 4 << 20;
/// A full buffer has to drain by [`PROGRESS`] bytes in this time.
const STALL: Duration = Duration::from_secs(1);
const PROGRESS: usize = 256 << 10;

const OPEN: u8 = 0;
const LOST: u8 = 1;
const STALLED: u8 = 2;

pub struct Channel {
    reader: DuplexStream,
    writer: Pin<Box<dyn AsyncWrite + Send>>,
    /// Why reading ended; [`OPEN`]: because the other side had no more to say.
    ending: Arc<AtomicU8>,
    _closes: DropGuard,
    _permit: OwnedSemaphorePermit,
}

impl Channel {
    pub(super) fn new(
        channel: russh::Channel<Msg>,
        permit: OwnedSemaphorePermit,
        tasks: &TaskTracker,
        link_closes: &CancellationToken,
    ) -> Channel {
        let (incoming, outgoing) = channel.split();
        let writer = Box::pin(outgoing.make_writer());
        let (reader, buffer) = tokio::io::duplex(BUFFER);
        let ending = Arc::new(AtomicU8::new(OPEN));
        let closes = link_closes.child_token();
        tasks.spawn(pump(incoming, outgoing, buffer, ending.clone(), closes.clone()));
        Channel { reader, writer, ending, _closes: closes.drop_guard(), _permit: permit }
    }
}

/// Fills the buffer as packets come; ends the channel when the stream is dropped.
async fn pump(
    mut incoming: ChannelReadHalf,
    outgoing: ChannelWriteHalf<Msg>,
    buffer: DuplexStream,
    ending: Arc<AtomicU8>,
    closes: CancellationToken,
) {
    let fill = async {
        let mut buffer = Some(buffer);
        loop {
            let message = incoming.wait().await;
            match (message, &mut buffer) {
                (Some(ChannelMsg::Data { data }), Some(stream)) => {
                    if !write(stream, &data).await {
                        ending.store(STALLED, Ordering::Release);
                        return;
                    }
                }
                // It may still be written to; what comes after is its end.
                (Some(ChannelMsg::Eof), it) => *it = None,
                (Some(ChannelMsg::Close), _) => return,
                (Some(_), _) => {}
                (None, it) => {
                    if it.is_some() {
                        ending.store(LOST, Ordering::Release);
                    }
                    return;
                }
            }
        }
    };
    tokio::select! {
        () = fill => {}
        () = closes.cancelled() => {}
    }
    // The connection may be gone, and the channel with it.
    outgoing.close().await.ok();
}

/// Whether the reader kept up.
async fn write(buffer: &mut DuplexStream, mut data: &[u8]) -> bool {
    while !data.is_empty() {
        let n = data.len().min(PROGRESS);
        let (now, later) = data.split_at(n);
        match tokio::time::timeout(STALL, buffer.write_all(now)).await {
            Ok(Ok(())) => data = later,
            // Dropped by its reader, who is gone: not worth a word.
            Ok(Err(_)) => return true,
            Err(_) => return false,
        }
    }
    true
}

impl AsyncRead for Channel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.reader).poll_read(cx, buf))?;
        if buf.filled().len() != before || buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        Poll::Ready(match self.ending.load(Ordering::Acquire) {
            LOST => {
                Err(io::Error::new(io::ErrorKind::ConnectionReset, "the SSH connection was lost"))
            }
            STALLED => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "what came over SSH was not read in time",
            )),
            _ => Ok(()),
        })
    }
}

impl AsyncWrite for Channel {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.writer.as_mut().poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writer.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writer.as_mut().poll_shutdown(cx)
    }
}
