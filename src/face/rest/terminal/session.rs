//! The life of one open terminal: bytes both ways until the command, the client, the server or patience ends it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use orch_core::ports::engine::{EngineError, Terminal, TerminalSize};
use orch_domain::audit::Outcome;
use serde::Deserialize;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const PING_PERIOD: Duration = Duration::from_secs(20);
/// Nothing typed and nothing shown for so long: somebody forgot to close it.
const IDLE_LIMIT: Duration = Duration::from_secs(30 * 60);
/// No answer to a ping: the client is gone without a word.
const SILENCE_LIMIT: Duration = Duration::from_secs(90);
/// A client that does not read, or a command that does not, may hold the session up so long.
const STALL_LIMIT: Duration = Duration::from_secs(60);
/// Of those for applications (4000 to 4999).
const CLOSE_IDLE: u16 = 4008;
/// How long a client may take to answer the close frame.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);
const TEXT_RULE: &str =
    r#"text frames are {"resize": {"columns": 80, "rows": 24}}; type in binary frames"#;

type Resize =
    Arc<dyn Fn(TerminalSize) -> BoxFuture<'static, Result<(), EngineError>> + Send + Sync>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Control {
    resize: Size,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Size {
    columns: u16,
    rows: u16,
}

/// Code and words of the close frame. `None`: the client closed it.
type Ending = Option<(u16, &'static str)>;

/// When the client was last heard and the terminal last used, in milliseconds since `opened`.
struct Activity {
    opened: Instant,
    heard: AtomicU64,
    used: AtomicU64,
}

pub(super) async fn run(
    shutdown: &CancellationToken,
    socket: WebSocket,
    terminal: Terminal,
) -> Outcome {
    let (mut sink, mut stream) = socket.split();
    let Terminal { mut output, mut input, resize } = terminal;
    let activity =
        Activity { opened: Instant::now(), heard: AtomicU64::new(0), used: AtomicU64::new(0) };
    // Side by side, because a command that waits for its output to be read does not read its input.
    let ending = tokio::select! {
        it = outbound(&mut output, &mut sink, &activity) => it,
        it = inbound(&mut stream, &mut input, &resize, &activity) => it,
        () = shutdown.cancelled() => Some((close_code::AWAY, "the server is shutting down")),
    };
    // The command ends with the terminal, also when the client does not answer the close frame.
    drop((output, input, resize));
    if let Some((code, reason)) = ending {
        let frame = CloseFrame { code, reason: reason.into() };
        let close = async {
            sink.send(Message::Close(Some(frame))).await.ok();
            while let Some(Ok(_)) = stream.next().await {}
        };
        tokio::time::timeout(CLOSE_LIMIT, close).await.ok();
    }
    match ending {
        Some((close_code::ERROR, _)) => Outcome::Failed,
        _ => Outcome::Succeeded,
    }
}

async fn outbound(
    output: &mut BoxStream<'static, Result<Bytes, EngineError>>,
    sink: &mut SplitSink<WebSocket, Message>,
    activity: &Activity,
) -> Ending {
    let mut pings = tokio::time::interval(PING_PERIOD);
    loop {
        let message = tokio::select! {
            shown = output.next() => match shown {
                Some(Ok(bytes)) => {
                    activity.note(&activity.used);
                    Message::Binary(bytes)
                }
                Some(Err(_)) => return Some((close_code::ERROR, "the node's engine broke off")),
                None => return Some((close_code::NORMAL, "the command ended")),
            },
            _ = pings.tick() => {
                if SILENCE_LIMIT < activity.since(&activity.heard) {
                    return Some((close_code::AWAY, "the client does not answer"));
                }
                if IDLE_LIMIT < activity.since(&activity.used) {
                    return Some((CLOSE_IDLE, "nothing happened for 30 minutes"));
                }
                Message::Ping(Bytes::new())
            }
        };
        match timely(sink.send(message)).await {
            Some(Ok(())) => {}
            Some(Err(_)) => return None,
            None => return Some((close_code::POLICY, "the client does not read")),
        }
    }
}

async fn inbound(
    stream: &mut SplitStream<WebSocket>,
    input: &mut Pin<Box<dyn AsyncWrite + Send>>,
    resize: &Resize,
    activity: &Activity,
) -> Ending {
    loop {
        let message = match stream.next().await {
            Some(Ok(Message::Close(_))) | None => return None,
            Some(Err(_)) => return Some((close_code::PROTOCOL, "not a valid frame")),
            Some(Ok(it)) => it,
        };
        activity.note(&activity.heard);
        match message {
            Message::Binary(bytes) => {
                activity.note(&activity.used);
                let typed = async {
                    input.write_all(&bytes).await?;
                    input.flush().await
                };
                // When the command has ended, what it wrote last is still to be shown.
                if timely(typed).await.is_none() {
                    return Some((close_code::POLICY, "the command does not read"));
                }
            }
            Message::Text(text) => {
                activity.note(&activity.used);
                let Ok(Control { resize: wanted }) = serde_json::from_str(&text) else {
                    return Some((close_code::UNSUPPORTED, TEXT_RULE));
                };
                if !(1..=1000).contains(&wanted.columns) || !(1..=1000).contains(&wanted.rows) {
                    return Some((close_code::POLICY, "columns and rows go from 1 to 1000"));
                }
                let size = TerminalSize { columns: wanted.columns, rows: wanted.rows };
                // A size that the engine does not take is no reason to end: the next one may fit.
                drop(timely(resize(size)).await);
            }
            _ => {}
        }
    }
}

impl Activity {
    fn now(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn note(&self, moment: &AtomicU64) {
        moment.store(self.now(), Ordering::Relaxed);
    }

    fn since(&self, moment: &AtomicU64) -> Duration {
        Duration::from_millis(self.now().saturating_sub(moment.load(Ordering::Relaxed)))
    }
}

async fn timely<T>(work: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(STALL_LIMIT, work).await.ok()
}
