//! A server that is a child process and speaks on its stdin and stdout, a line a message.
//!
//! It leads a process group of its own, so that what it starts ends with it. It inherits nothing of our environment but
//! what a program needs to run: no secret of ours, none of another server.

use std::collections::VecDeque;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use orch_domain::text;
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::pending::Pending;
use super::{Exchange, Inbox, Link, LinkError, Terms, Unowned};
use crate::config::Reach;
use crate::frame::{Frame, Raw, raw};
use crate::safety::children::Place;

/// A longer message ends the connection: it would fill the memory.
const MAX_LINE: usize = 64 * 1024 * 1024;
/// Of what the child writes to its standard error, these lines are kept to explain its end.
const LINES_KEPT: usize = 20;
const LINE_SHOWN: usize = 500;
/// Messages that may wait for a child that does not read.
const OUTGOING: usize = 1024;
/// How long a child has to end by itself, after its stdin was closed and again after it was asked to.
const GRACE: Duration = Duration::from_secs(3);

/// What a program needs to find itself and its home. Everything else it is told in its configuration.
pub const INHERITED: [&str; 15] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "TERM",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "TMPDIR",
    "XDG_CONFIG_HOME",
    "XDG_CACHE_HOME",
    "XDG_DATA_HOME",
    "XDG_RUNTIME_DIR",
];

pub struct StdioLink {
    pending: Arc<Pending>,
    outgoing: mpsc::Sender<Bytes>,
    closed: CancellationToken,
    /// Asks the task that owns the child to end it.
    close: CancellationToken,
    ended: CancellationToken,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    reason: Mutex<String>,
    said: Mutex<VecDeque<String>>,
}

impl StdioLink {
    /// Starts the child in its place among all. `inherited` are the variables of `INHERITED` that this process has.
    pub fn start(
        reach: &Reach,
        inherited: &[(String, String)],
        inbox: Inbox,
        tasks: &TaskTracker,
        mut place: Place,
    ) -> Result<Arc<StdioLink>, LinkError> {
        let Reach::Stdio { command, args, env, cwd } = reach else {
            return Err(LinkError::Unreachable { message: "it is no child process".to_owned() });
        };
        let mut builder = Command::new(command);
        builder
            .args(args)
            .env_clear()
            .envs(inherited.iter().map(|(name, value)| (name, value)))
            .envs(env.iter().map(|(name, value)| (name, value.expose())))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        if let Some(cwd) = cwd {
            builder.current_dir(cwd);
        }
        let mut child = builder.spawn().map_err(|err| LinkError::Spawn {
            command: command.clone(),
            message: match err.kind() {
                std::io::ErrorKind::NotFound => {
                    "there is no such program on the PATH, or no such working directory".to_owned()
                }
                _ => err.to_string(),
            },
        })?;
        if let Some(group) = group_of(&child) {
            place.begun(group.as_raw_nonzero().get());
        }
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(stdin), Some(stdout), Some(stderr)) = (stdin, stdout, stderr) else {
            let message = "its streams could not be opened".to_owned();
            return Err(LinkError::Spawn { command: command.clone(), message });
        };
        let (outgoing, to_write) = mpsc::channel(OUTGOING);
        let link = Arc::new(StdioLink {
            pending: Pending::new(inbox),
            outgoing,
            closed: CancellationToken::new(),
            close: CancellationToken::new(),
            ended: CancellationToken::new(),
            state: Arc::default(),
        });
        let listener = tasks.spawn(listen(stderr, link.state.clone()));
        let reader = tasks.spawn(read(stdout, link.pending.clone()));
        let writer = tasks.spawn(write(stdin, to_write, link.close.clone()));
        tasks.spawn(own(child, reader, listener, writer, link.clone(), place));
        Ok(link)
    }

    async fn write(&self, frame: &Frame) -> Result<(), LinkError> {
        let mut line = frame.to_line();
        line.push(b'\n');
        let is_sent = tokio::select! {
            sent = self.outgoing.send(line.into()) => sent.is_ok(),
            () = self.closed.cancelled() => false,
        };
        if is_sent { Ok(()) } else { Err(LinkError::Closed { reason: self.reason() }) }
    }
}

#[async_trait]
impl Link for StdioLink {
    async fn send(&self, method: &str, params: Option<Raw>) -> Result<Exchange, LinkError> {
        let outgoing = self.outgoing.clone();
        let is_handshake = method == "initialize";
        let (_, frame, exchange) = self.pending.begin(method, params, move |id| {
            // The protocol forbids to cancel the handshake.
            if is_handshake {
                return;
            }
            let params = serde_json::json!({"requestId": id, "reason": "the caller went away"});
            let frame = Frame::notification("notifications/cancelled", Some(raw(&params)));
            let mut line = frame.to_line();
            line.push(b'\n');
            // A child that reads nothing for a thousand messages would not read this one either.
            outgoing.try_send(line.into()).ok();
        });
        self.write(&frame).await?;
        if self.closed.is_cancelled() {
            // It may have ended between the two, when nobody was there to be told.
            self.pending.fail_all(&self.reason());
        }
        Ok(exchange)
    }

    async fn tell(&self, frame: Frame) -> Result<(), LinkError> {
        self.write(&frame).await
    }

    fn settle(&self, _: Terms) {}

    fn attribute(&self, unowned: Unowned) {
        self.pending.attribute(unowned);
    }

    fn closed(&self) -> &CancellationToken {
        &self.closed
    }

    fn reason(&self) -> String {
        let mut reason = self.state.reason.lock().clone();
        let said = self.state.said.lock();
        if !said.is_empty() {
            let lines: Vec<&str> = said.iter().map(String::as_str).collect();
            reason.push_str(&format!("; it wrote: {}", lines.join(" / ")));
        }
        reason
    }

    async fn close(&self) {
        self.close.cancel();
        self.ended.cancelled().await;
    }
}

/// Keeps the child until it ends or is to end, and leaves nothing of it.
async fn own(
    mut child: Child,
    reader: tokio::task::JoinHandle<String>,
    listener: tokio::task::JoinHandle<()>,
    writer: tokio::task::JoinHandle<()>,
    link: Arc<StdioLink>,
    place: Place,
) {
    let group = group_of(&child);
    let mut reader = reader;
    let reason = tokio::select! {
        status = child.wait() => {
            // What it said before its end is still to be read.
            let rest = futures::future::join(&mut reader, listener);
            tokio::time::timeout(Duration::from_secs(1), rest).await.ok();
            status.map_or_else(|err| err.to_string(), |it| format!("the program ended ({it})"))
        }
        read = &mut reader => read.unwrap_or_else(|err| err.to_string()),
        () = link.close.cancelled() => "it was closed".to_owned(),
        reason = place.over_memory() => {
            // It is not asked: meanwhile it would take more.
            signal(group, Signal::KILL);
            reason
        }
    };
    *link.state.reason.lock() = reason.clone();
    link.closed.cancel();
    link.pending.fail_all(&reason);
    link.close.cancel();
    // Its stdin is closed now, which is how a server is told to end.
    writer.await.ok();
    if tokio::time::timeout(GRACE, child.wait()).await.is_err() {
        signal(group, Signal::TERM);
        if tokio::time::timeout(GRACE, child.wait()).await.is_err() {
            signal(group, Signal::KILL);
            child.wait().await.ok();
        }
    }
    // What it started may have outlived it.
    signal(group, Signal::KILL);
    reader.abort();
    drop(place);
    link.ended.cancel();
}

fn group_of(child: &Child) -> Option<Pid> {
    child.id().and_then(|it| Pid::from_raw(i32::try_from(it).ok()?))
}

fn signal(group: Option<Pid>, signal: Signal) {
    if let Some(group) = group {
        // Fails when nothing is left of the group, which is what is wanted.
        kill_process_group(group, signal).ok();
    }
}

/// Until the child closes its stdout or breaks the protocol; says which.
async fn read(stdout: ChildStdout, pending: Arc<Pending>) -> String {
    let mut stdout = BufReader::with_capacity(64 * 1024, stdout);
    let mut line = Vec::new();
    loop {
        line.clear();
        match read_line(&mut stdout, &mut line).await {
            Ok(0) => return "it closed its output".to_owned(),
            Ok(_) => {}
            Err(err) => return err.to_string(),
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        match Frame::parse(&line) {
            Ok(frame) => pending.deliver(frame),
            // Some programs greet on stdout; that is against the protocol and harmless.
            Err(err) => tracing::warn!(
                "a server wrote a line that is no message ({err}): {}",
                text::excerpt(&String::from_utf8_lossy(&line), 120)
            ),
        }
    }
}

async fn read_line(
    from: &mut (impl AsyncBufRead + Unpin),
    line: &mut Vec<u8>,
) -> std::io::Result<usize> {
    loop {
        let available = from.fill_buf().await?;
        if available.is_empty() {
            return Ok(line.len());
        }
        let end = available.iter().position(|it| *it == b'\n');
        let n = end.map_or(available.len(), |it| it + 1);
        if MAX_LINE < line.len() + n {
            return Err(std::io::Error::other(format!(
                "it sent a message of over {MAX_LINE} bytes"
            )));
        }
        line.extend_from_slice(&available[..n]);
        from.consume(n);
        if end.is_some() {
            return Ok(line.len());
        }
    }
}

async fn write(mut stdin: ChildStdin, mut lines: mpsc::Receiver<Bytes>, close: CancellationToken) {
    loop {
        let line = tokio::select! {
            line = lines.recv() => line,
            () = close.cancelled() => None,
        };
        let Some(line) = line else { return };
        let is_written = tokio::select! {
            written = stdin.write_all(&line) => written.is_ok(),
            () = close.cancelled() => false,
        };
        if !is_written {
            return;
        }
    }
}

/// Keeps the last lines of what the child says about itself, and logs them.
async fn listen(stderr: ChildStderr, state: Arc<State>) {
    let mut stderr = BufReader::new(stderr);
    let mut line = Vec::new();
    loop {
        line.clear();
        // Longer than any message may be: then nobody listens any more, and it finds its standard error closed.
        if !matches!(read_line(&mut stderr, &mut line).await, Ok(1..)) {
            return;
        }
        let line = text::excerpt(&String::from_utf8_lossy(line.trim_ascii_end()), LINE_SHOWN);
        tracing::debug!("a server says: {line}");
        let mut said = state.said.lock();
        if said.len() == LINES_KEPT {
            said.pop_front();
        }
        said.push_back(line);
    }
}
