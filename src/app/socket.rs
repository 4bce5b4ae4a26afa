//! The Unix socket in the data directory: how other processes of the same user share this one's state.
//!
//! Each connection speaks MCP as the local administrator: only the owner of the directory can open it. A connection
//! whose first line is `{"control": …}` asks this process for something about itself instead.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures::StreamExt;
use orch_adapters::store::SledStore;
use orch_core::Orch;
use orch_domain::caller::Channel;
use orch_gateway::names::Dialect;
use orch_gateway::view::View;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::codec::{FramedRead, LinesCodec, LinesCodecError};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::face::mcp::Face;

/// A longer line is dropped, as no answer to it could be addressed.
const MAX_LINE: usize = 64 * 1024 * 1024;
/// Bytes on their way between a connection and the server behind it.
const BUFFER: usize = 256 * 1024;
/// How long the end of a connection waits for what was already sent.
const LEFTOVER: Duration = Duration::from_secs(1);

/// Id of a question that only tells how far the server has read.
const BARRIER: &str = "mcp-orch-barrier";

/// Tells the bridge at the other end that nothing more is begun, so that it ends its direction too.
pub const CLOSING: &str = "notifications/mcp-orch/closing";

/// Tells the bridge at the other end, as `params.id`, of a request that came when no more were begun.
pub const NOT_BEGUN: &str = "notifications/mcp-orch/not_begun";

/// What a process can be asked for beside MCP.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "control", rename_all = "snake_case", deny_unknown_fields)]
pub enum Control {
    /// Write everything to a file.
    Backup { file: PathBuf },
    /// Give the data directory up to the process that asks; refused by one that serves HTTP.
    Yield,
    /// Speak MCP on this connection after all, with what there is at another endpoint than that of everything.
    Enter { profile: Option<String>, names: Option<Dialect> },
}

/// Which endpoint a local client wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    pub profile: Option<String>,
    pub names: Option<Dialect>,
}

/// What connections of the socket stand on.
pub(super) struct Local {
    pub orch: Arc<Orch>,
    pub face: Arc<Face>,
    pub store: Arc<SledStore>,
    /// Cancelled first: from then on no call is begun.
    pub closing: CancellationToken,
    /// Connections whose calls may not all have been begun yet.
    pub unsettled: TaskTracker,
    pub shutdown: CancellationToken,
    pub tracker: TaskTracker,
    /// Cancelled when the directory is to be given up; none where it never is.
    pub yielded: Option<CancellationToken>,
}

/// A socket of a process that is gone is taken over: whoever calls holds the lock.
pub(super) fn bind(path: &Path) -> anyhow::Result<UnixListener> {
    use std::os::unix::fs::PermissionsExt;
    if let Err(err) = fs_err::remove_file(path)
        && err.kind() != std::io::ErrorKind::NotFound
    {
        return Err(err.into());
    }
    let listener = UnixListener::bind(path)
        .with_context(|| format!("the socket `{}` cannot be opened", path.display()))?;
    fs_err::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Accepts until `closing`.
pub(super) async fn serve(listener: UnixListener, local: Arc<Local>) {
    loop {
        let accepted = tokio::select! {
            it = listener.accept() => it,
            () = local.closing.cancelled() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                let connection = connection(local.clone(), stream);
                local.tracker.spawn(connection);
            }
            // Out of descriptors, mostly; what is open goes on.
            Err(err) => {
                tracing::warn!("a connection to the local socket was lost: {err}");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(local: Arc<Local>, stream: UnixStream) {
    let (read, mut write) = stream.into_split();
    let mut lines = FramedRead::new(read, LinesCodec::new_with_max_length(MAX_LINE));
    let first = tokio::select! {
        it = lines.next() => it,
        () = local.closing.cancelled() => None,
    };
    match first {
        Some(Ok(first)) => match serde_json::from_str::<Control>(&first) {
            Ok(Control::Enter { profile, names }) => {
                match local.face.view(profile.as_deref(), names) {
                    Ok(view) => {
                        say(&mut write, json!({}).to_string()).await;
                        let next = tokio::select! {
                            it = lines.next() => it,
                            () = local.closing.cancelled() => None,
                        };
                        match next {
                            Some(Ok(first)) => {
                                converse(&local, view, &mut lines, &mut write, first).await;
                            }
                            Some(Err(_)) => return,
                            None => {}
                        }
                    }
                    Err(err) => {
                        return say(&mut write, json!({ "error": chain(&err) }).to_string()).await;
                    }
                }
            }
            Ok(control) => {
                let answer = local.control(control).await.to_string();
                return say(&mut write, answer).await;
            }
            Err(_) => converse(&local, View::default(), &mut lines, &mut write, first).await,
        },
        Some(Err(_)) => return,
        None => {}
    }
    // The bridge at the other end says no more then, and what came too late it can give to the next server.
    say(&mut write, json!({ "jsonrpc": "2.0", "method": CLOSING }).to_string()).await;
    let leftover = async {
        while let Some(Ok(line)) = lines.next().await {
            if let Some(id) = request_id(&line) {
                let params = json!({ "id": id });
                let word = json!({ "jsonrpc": "2.0", "method": NOT_BEGUN, "params": params });
                say(&mut write, word.to_string()).await;
            }
        }
    };
    if tokio::time::timeout(LEFTOVER, leftover).await.is_err() {
        tracing::debug!("a local client did not take its leave");
    }
}

/// Both directions, until one of them ends.
async fn converse(
    local: &Arc<Local>,
    view: View,
    lines: &mut FramedRead<OwnedReadHalf, LinesCodec>,
    write: &mut OwnedWriteHalf,
    first: String,
) {
    let (ours, theirs) = tokio::io::duplex(BUFFER);
    let (from_server, to_server) = tokio::io::split(ours);
    let up = up(lines, to_server, first, &local.closing);
    let down = down(from_server, write, local.unsettled.token());
    tokio::select! {
        () = up => {}
        _ = async { tokio::join!(local.serve_stream(view, theirs), down) } => {}
    }
}

/// From the client to the server, whole lines only, until no more are to be begun. Never ends: the other direction does.
async fn up(
    lines: &mut FramedRead<OwnedReadHalf, LinesCodec>,
    mut server: impl AsyncWrite + Unpin,
    first: String,
    closing: &CancellationToken,
) {
    let mut next = Some(first);
    loop {
        if let Some(mut line) = next.take() {
            line.push('\n');
            if server.write_all(line.as_bytes()).await.is_err() {
                break;
            }
        }
        let read = tokio::select! {
            biased;
            () = closing.cancelled() => break,
            it = lines.next() => it,
        };
        match read {
            Some(Ok(line)) => next = Some(line),
            Some(Err(LinesCodecError::MaxLineLengthExceeded)) => {
                tracing::warn!("a message of more than {MAX_LINE} bytes was dropped");
            }
            Some(Err(LinesCodecError::Io(_))) | None => {
                // The client is gone, and the server learns it.
                drop(server);
                return std::future::pending().await;
            }
        }
    }
    // Its answer says that everything before it was begun. A server that is gone ends the other direction.
    let barrier = json!({ "jsonrpc": "2.0", "id": BARRIER, "method": "ping" }).to_string() + "\n";
    drop(server.write_all(barrier.as_bytes()).await);
    // Kept open: the server ends by itself, after it has answered.
    std::future::pending::<()>().await;
    drop(server);
}

/// From the server to the client, until one of them ends. `unsettled` is given back when the barrier was passed.
async fn down(
    server: impl AsyncRead + Unpin,
    write: &mut OwnedWriteHalf,
    unsettled: TaskTrackerToken,
) {
    let mut unsettled = Some(unsettled);
    let mut lines = FramedRead::new(server, LinesCodec::new_with_max_length(MAX_LINE));
    while let Some(Ok(mut line)) = lines.next().await {
        if unsettled.is_some() && line.contains(BARRIER) && is_answer_to_barrier(&line) {
            unsettled = None;
            continue;
        }
        line.push('\n');
        if let Err(err) = write.write_all(line.as_bytes()).await {
            tracing::debug!("a local client is gone: {err}");
            return;
        }
    }
}

fn is_answer_to_barrier(line: &str) -> bool {
    serde_json::from_str(line)
        .is_ok_and(|it: Value| it["id"] == BARRIER && it.get("method").is_none())
}

async fn say(write: &mut OwnedWriteHalf, mut line: String) {
    line.push('\n');
    if let Err(err) = write.write_all(line.as_bytes()).await {
        tracing::debug!("whoever asked is gone: {err}");
    }
}

fn request_id(line: &str) -> Option<Value> {
    let message: Value = serde_json::from_str(line).ok()?;
    message.get("method")?;
    message.get("id").cloned()
}

impl Local {
    /// Speaks MCP with whoever is at the other end of `stream`, as the local administrator, about what is in `view`.
    pub(super) async fn serve_stream(
        &self,
        view: View,
        stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    ) {
        let caller = self.orch.local_caller(Channel::Mcp);
        if let Err(err) = self.face.clone().serve_stream(caller, view, stream).await {
            tracing::debug!("a local connection ended: {err}");
        }
    }

    async fn control(&self, control: Control) -> Value {
        match control {
            Control::Backup { file } => {
                let (store, now) = (self.store.clone(), self.orch.clock.now());
                let written = tokio::task::spawn_blocking(move || store.backup(&file, now)).await;
                match written {
                    Ok(Ok(it)) => json!({ "counts": it.counts }),
                    Ok(Err(err)) => json!({ "error": chain(&err) }),
                    Err(err) => json!({ "error": err.to_string() }),
                }
            }
            Control::Yield => match &self.yielded {
                Some(it) => {
                    it.cancel();
                    json!({})
                }
                None => json!({ "error": "this process serves HTTP and keeps the data directory" }),
            },
            Control::Enter { .. } => unreachable!("it begins a conversation"),
        }
    }
}

fn chain(err: &dyn std::error::Error) -> String {
    let mut text = err.to_string();
    let mut source = err.source();
    while let Some(it) = source {
        text.push_str(&format!(": {it}"));
        source = it.source();
    }
    text
}

/// Has a new connection enter at `entry`. `None`: the process at the other end is ending, or is none of ours.
pub async fn enter(mut stream: UnixStream, entry: &Entry) -> anyhow::Result<Option<UnixStream>> {
    if *entry == Entry::default() {
        return Ok(Some(stream));
    }
    let Entry { profile, names } = entry.clone();
    let mut line = serde_json::to_vec(&Control::Enter { profile, names })?;
    line.push(b'\n');
    let mut answer = Vec::new();
    let asked = async {
        stream.write_all(&line).await?;
        // Byte by byte, as what follows the line is for others to read.
        loop {
            match stream.read_u8().await? {
                b'\n' => return std::io::Result::Ok(()),
                byte => answer.push(byte),
            }
        }
    };
    if let Err(err) = asked.await {
        tracing::debug!("the server does not let in: {err}");
        return Ok(None);
    }
    let Ok(answer) = serde_json::from_slice::<Value>(&answer) else { return Ok(None) };
    match answer.get("error").and_then(Value::as_str) {
        Some(err) => anyhow::bail!("{err}"),
        None if answer == json!({}) => Ok(Some(stream)),
        None => Ok(None),
    }
}

/// Asks the process that holds the data directory for something. `None`: there is none to ask.
pub async fn ask(socket: &Path, control: &Control) -> anyhow::Result<Option<Value>> {
    let Ok(stream) = UnixStream::connect(socket).await else { return Ok(None) };
    let (read, mut write) = stream.into_split();
    let mut line = serde_json::to_string(control)?;
    line.push('\n');
    write.write_all(line.as_bytes()).await?;
    let mut answer = String::new();
    BufReader::new(read).read_line(&mut answer).await?;
    let answer: Value = serde_json::from_str(&answer)
        .context("the running server did not answer; it may be ending")?;
    match answer.get("error").and_then(Value::as_str) {
        Some(err) => anyhow::bail!("{err}"),
        None => Ok(Some(answer)),
    }
}
