//! The Unix socket in the data directory: how other processes of the same user share this one's state.
//!
//! Each connection speaks MCP as the local administrator: only the owner of the directory can open it. A connection
//! whose first line is `{"control": …}` asks this process for something about itself instead.

use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use orch_adapters::store::SledStore;
use orch_core::Orch;
use orch_core::service::bootstrap::local_caller;
use orch_domain::caller::Channel;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::face::mcp;

/// What a process can be asked for beside MCP.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "control", rename_all = "snake_case", deny_unknown_fields)]
pub enum Control {
    /// Write everything to a file.
    Backup { file: PathBuf },
    /// Give the data directory up to the process that asks; refused by one that serves HTTP.
    Yield,
}

/// What connections of the socket stand on.
pub(super) struct Local {
    pub orch: Arc<Orch>,
    pub store: Arc<SledStore>,
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

/// Accepts until `shutdown`.
pub(super) async fn serve(listener: UnixListener, local: Arc<Local>) {
    loop {
        let accepted = tokio::select! {
            it = listener.accept() => it,
            () = local.shutdown.cancelled() => return,
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
    let mut read = BufReader::new(read);
    let mut first = Vec::new();
    let read_first = tokio::select! {
        it = read.read_until(b'\n', &mut first) => it,
        () = local.shutdown.cancelled() => return,
    };
    if !read_first.is_ok_and(|it| 0 < it) {
        return;
    }
    if let Ok(control) = serde_json::from_slice::<Control>(&first) {
        let mut answer = local.control(control).await.to_string();
        answer.push('\n');
        if let Err(err) = write.write_all(answer.as_bytes()).await {
            tracing::debug!("whoever asked is gone: {err}");
        }
        return;
    }
    let stream = tokio::io::join(Cursor::new(first).chain(read), write);
    local.serve_stream(stream).await;
}

impl Local {
    /// Speaks MCP with whoever is at the other end of `stream`, as the local administrator.
    pub(super) async fn serve_stream(
        &self,
        stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    ) {
        let caller = local_caller(Channel::Mcp);
        let served =
            mcp::serve_stream(self.orch.clone(), caller, stream, self.shutdown.clone()).await;
        if let Err(err) = served {
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
