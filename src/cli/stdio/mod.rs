//! `stdio`: MCP on stdin and stdout, whoever has the data directory.
//!
//! The first process to come takes the lock and serves everybody; the others carry bytes between their client and its
//! socket. When it goes away one of them takes its place, and no client notices more than a call that failed.

mod bridge;
mod memory;
mod remote;

use std::time::{Duration, Instant};

use anyhow::bail;
use rustix::fs::FileType;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;

use super::args::{Globals, StdioArgs};
use super::{ExitStatus, serve};
use crate::app::data_dir::{DataDir, Locking};
use crate::app::socket::{self, Entry};
use crate::app::{App, Kind, Running};
use crate::config::{Config, Env};
use crate::telemetry;
pub(super) use bridge::Client;
use bridge::Ended;

/// How long to try between a server that goes and one that comes.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long whoever asked for the directory has to take it before we take it back.
const COURTESY: Duration = Duration::from_secs(5);
/// How long calls may go on when the directory was asked for.
const FAREWELL: Duration = Duration::from_secs(5);
/// Bytes on their way between the client and a server in this process.
const BUFFER: usize = 256 * 1024;

pub(super) async fn run(
    env: &'static dyn Env,
    globals: &Globals,
    args: &StdioArgs,
) -> anyhow::Result<ExitStatus> {
    if let Some(url) = &args.connect {
        return remote::run(env, globals, url, args).await;
    }
    let config = globals.load(env)?;
    telemetry::start_logging(&config.server)?;
    serve_client(env, &config, Kind::Stdio, &args.entry.entry()).await
}

/// Serves the client on stdin until it goes, or a signal comes.
pub(super) async fn serve_client(
    env: &'static dyn Env,
    config: &Config,
    kind: Kind,
    entry: &Entry,
) -> anyhow::Result<ExitStatus> {
    let stop = serve::stop_serving_on_signal()?;
    carry(Client::on_stdio(), env, config, kind, entry, stop).await?;
    Ok(ExitStatus::Done)
}

/// Serves a client over any two byte streams, here or through whoever has the data directory, until it goes.
pub(super) async fn carry<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    mut client: Client<R, W>,
    env: &'static dyn Env,
    config: &Config,
    kind: Kind,
    entry: &Entry,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    crate::app::gateway::check(config, env)?;
    let data_dir = DataDir::open(config)?;
    let mut may_lock_at = Instant::now();
    loop {
        let Some(server) = find(env, config, kind, &data_dir, entry, may_lock_at, &stop).await?
        else {
            return Ok(());
        };
        let ended = match server {
            Server::Here(running) => {
                serve::show_credentials(&running, &data_dir)?;
                let (ours, theirs) = tokio::io::duplex(BUFFER);
                if let Err(err) = running.serve_stream(entry, theirs) {
                    serve::drain(*running).await;
                    return Err(err.into());
                }
                let ended = client.pump(ours, &stop, running.yielded(), FAREWELL).await?;
                serve::drain(*running).await;
                ended
            }
            Server::There(stream) => {
                tracing::info!("attached to the server of `{}`", data_dir.path().display());
                may_lock_at = Instant::now();
                client.pump(stream, &stop, std::future::pending(), FAREWELL).await?
            }
        };
        match ended {
            Ended::Client => return Ok(()),
            Ended::Server => tracing::info!("the server is gone; looking for another"),
            Ended::Yielded => {
                tracing::info!("gave the data directory to another process");
                may_lock_at = Instant::now() + COURTESY;
            }
        }
    }
}

enum Server {
    /// This process.
    Here(Box<Running>),
    /// Another one, over its socket.
    There(UnixStream),
}

/// Becomes the server of the data directory, or finds it. `None`: stopped meanwhile.
async fn find(
    env: &'static dyn Env,
    config: &Config,
    kind: Kind,
    data_dir: &DataDir,
    entry: &Entry,
    may_lock_at: Instant,
    stop: &CancellationToken,
) -> anyhow::Result<Option<Server>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if may_lock_at <= Instant::now()
            && let Locking::Ours(lock) = data_dir.lock()?
        {
            if let Some(profile) = &entry.profile {
                config.profiles().get(profile)?;
            }
            let app = App::build(config, env, kind, data_dir.clone(), lock).await?;
            return Ok(Some(Server::Here(Box::new(app.start()?))));
        }
        if let Ok(stream) = UnixStream::connect(data_dir.socket()).await
            && let Some(stream) = socket::enter(stream, entry).await?
        {
            return Ok(Some(Server::There(stream)));
        }
        if deadline <= Instant::now() {
            let holder = data_dir.holder().map_or_else(String::new, |it| format!(" ({it})"));
            bail!(
                "another mcp-orch{holder} has the data directory `{}` and does not answer\n\
                 hint: end that process, or choose another directory with `--data-dir`",
                data_dir.path().display()
            );
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
            () = stop.cancelled() => return Ok(None),
        }
    }
}

/// Whether a program, and not a person or a file, is at both ends.
pub(super) fn is_piped() -> bool {
    fn is_pipe(fd: impl std::os::fd::AsFd) -> bool {
        rustix::fs::fstat(fd).is_ok_and(|it| {
            matches!(FileType::from_raw_mode(it.st_mode), FileType::Fifo | FileType::Socket)
        })
    }
    is_pipe(std::io::stdin()) && is_pipe(std::io::stdout())
}
