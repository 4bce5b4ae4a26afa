//! `serve`: HTTP until a signal. `--mode`: the same, and MCP on stdin when a client started it.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::args::{Globals, ModeArg, ServeArgs};
use super::{ExitStatus, say, stdio};
use crate::app::data_dir::{DataDir, Lock, Locking};
use crate::app::hangup::Terminal;
use crate::app::socket::{self, Control, Entry};
use crate::app::{App, Kind, Running};
use crate::config::{Config, Env};
use crate::telemetry;

/// How long a process that was asked for the data directory may take to give it up.
const PATIENCE: Duration = Duration::from_secs(15);

pub(super) async fn run(
    env: &'static dyn Env,
    globals: &Globals,
    args: &ServeArgs,
) -> anyhow::Result<ExitStatus> {
    let config = globals.load_for_serving(env, args, None)?;
    serve(env, globals, &config, args.demo).await
}

/// The seed's form of starting: with pipes on both ends an MCP client is there, and is served too.
pub(super) async fn run_mode(
    env: &'static dyn Env,
    globals: &Globals,
    args: &ServeArgs,
    mode: Option<ModeArg>,
    entry: &Entry,
) -> anyhow::Result<ExitStatus> {
    let config = globals.load_for_serving(env, args, mode)?;
    if !stdio::is_piped() {
        if let Some(profile) = &entry.profile {
            config.profiles().get(profile)?;
            say(format!("  no client is at stdin; over HTTP the profile is at `/mcp/{profile}`"));
        }
        return serve(env, globals, &config, args.demo).await;
    }
    telemetry::start_logging(&config.server)?;
    tell_unused(&config);
    warn_of_openness(&config, args.demo);
    stdio::serve_client(env, &config, Kind::Server { demo: args.demo }, entry).await
}

/// HTTP until a signal.
async fn serve(
    env: &'static dyn Env,
    globals: &Globals,
    config: &Config,
    demo: bool,
) -> anyhow::Result<ExitStatus> {
    telemetry::start_logging(&config.server)?;
    tell_unused(config);
    crate::app::gateway::check(config, env)?;
    let data_dir = DataDir::open(config)?;
    let lock = take_lock(&data_dir).await?;
    let stop = stop_serving_on_signal()?;
    let app = App::build(config, env, Kind::Server { demo }, data_dir.clone(), lock).await?;
    let running = app.start()?;
    announce(&running, globals, &data_dir);
    warn_of_openness(config, demo);
    show_credentials(&running, &data_dir)?;
    stop.cancelled().await;
    Ok(drain(running).await)
}

/// Takes the lock; a process that only serves an MCP client over stdio gives it up and goes on as a guest.
async fn take_lock(data_dir: &DataDir) -> anyhow::Result<Lock> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let holder = match data_dir.lock()? {
            Locking::Ours(lock) => return Ok(lock),
            Locking::Held(holder) => holder,
        };
        if holder.is_some_and(|it| it.port.is_some()) || deadline <= Instant::now() {
            return data_dir.lock_or_refuse();
        }
        // One that is just starting or ending does not answer; it is asked again.
        if let Err(err) = socket::ask(&data_dir.socket(), &Control::Yield).await {
            tracing::debug!("the data directory is not given up yet: {err}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Cancelled by the first SIGTERM, SIGINT or SIGHUP; the second ends the process at once.
pub(super) fn stop_on_signal() -> anyhow::Result<CancellationToken> {
    stop_on_signal_but(|| true)
}

/// The same for one that serves: there a SIGHUP reloads, unless it says that the terminal is gone.
pub(super) fn stop_serving_on_signal() -> anyhow::Result<CancellationToken> {
    let terminal = Terminal::of_process();
    stop_on_signal_but(move || terminal.is_lost())
}

fn stop_on_signal_but(
    ends_at_hangup: impl Fn() -> bool + Send + 'static,
) -> anyhow::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let mut signals = [
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
        signal(SignalKind::hangup())?,
    ];
    let cancelled = stop.clone();
    let waiting = async move {
        let [terminate, interrupt, hangup] = &mut signals;
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                _ = hangup.recv() => if !ends_at_hangup() { continue },
            }
            if cancelled.is_cancelled() {
                say("stopped at once; the next start finishes what was under way");
                end_now();
            }
            cancelled.cancel();
        }
    };
    #[expect(clippy::disallowed_methods, reason = "it lives as long as the process")]
    tokio::spawn(waiting);
    Ok(stop)
}

#[expect(clippy::disallowed_methods, reason = "the user asked twice and does not want to wait")]
fn end_now() -> ! {
    std::process::exit(130)
}

pub(super) async fn drain(running: Running) -> ExitStatus {
    if !running.drain().await {
        say("some work was still under way; the next start finishes it");
    }
    ExitStatus::Done
}

fn announce(running: &Running, globals: &Globals, data_dir: &DataDir) {
    let url = running.url().unwrap_or_default();
    let config = globals.config_file().map_or("defaults".to_owned(), |it| it.display().to_string());
    say(format!(
        "mcp-orch {} is ready (Ctrl-C stops it)\n  \
         MCP       {url}/mcp\n  \
         REST      {url}  (documentation: {url}/docs)\n  \
         data      {}\n  \
         config    {config}",
        env!("CARGO_PKG_VERSION"),
        data_dir.path().display(),
    ));
}

/// What a person should not overlook.
pub(super) fn warn_of_openness(config: &Config, demo: bool) {
    if demo {
        say("  DEMO      demo/demo and admin/admin can log in, and `X-User-ID` needs no password");
    }
    if !config.security.enable_auth {
        say("  NO LOGIN  everybody on this machine is the administrator");
    }
}

/// On a terminal, once. Where stderr goes to a log that others keep and read, into a file that only its owner can read.
pub(super) fn show_credentials(running: &Running, data_dir: &DataDir) -> anyhow::Result<()> {
    let Some(it) = &running.credentials else { return Ok(()) };
    let shown = format!(
        "    user      {}\n    password  {}\n    API key   {}\n",
        it.username, it.password, it.api_key
    );
    if std::io::stderr().is_terminal() {
        say(format!("\n  The administrator's credentials, shown this once:\n{shown}"));
    } else {
        let path = data_dir.keep_credentials(&shown)?;
        say(format!(
            "\n  The administrator's credentials are in `{}`; remove it when you have read them\n",
            path.display()
        ));
    }
    Ok(())
}

/// Says which keys are without effect.
fn tell_unused(config: &Config) {
    for key in config.unused() {
        tracing::info!("`{key}` is checked and has no effect in this version");
    }
}
