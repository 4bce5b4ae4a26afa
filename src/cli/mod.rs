//! The command line: what can be asked for, one file per verb.
//!
//! Data goes to stdout, everything said to a person to stderr.

mod args;
mod backup;
mod batch;
mod call;
mod client;
mod coerce;
mod demo;
mod doctor;
mod events;
mod follow;
mod host_key;
mod install;
mod nodes;
mod serve;
mod servers;
mod stdio;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use crate::config::{Env, ProcessEnv};
use args::{Cli, Command, NodesCommand};

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// What was asked for was done.
    Done = 0,
    /// It was not, and stderr says why.
    Failed = 1,
    /// It has to be asked for in another way, as clap ends too.
    Misused = 2,
    /// The operation was refused or failed; its error was shown.
    Refused = 3,
    /// A signal ended it.
    Interrupted = 130,
}

/// Runs the program with the arguments of the process.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(it) => it,
        Err(err) => {
            say(format!("error: no runtime: {err}"));
            return ExitCode::FAILURE;
        }
    };
    let status = runtime.block_on(dispatch(cli)).unwrap_or_else(|err| {
        say(format!("error: {}", chain(&err)));
        ExitStatus::Failed
    });
    // A read of stdin that blocks its thread must not keep the process.
    runtime.shutdown_background();
    ExitCode::from(status as u8)
}

/// Whether a command line is understood; for the tests of the documents.
pub fn check(words: &[&str]) -> Result<(), String> {
    Cli::try_parse_from(words).map(drop).map_err(|err| err.to_string())
}

async fn dispatch(cli: Cli) -> anyhow::Result<ExitStatus> {
    let env: &'static dyn Env = &ProcessEnv;
    let globals = cli.globals;
    match cli.command {
        Some(Command::Serve(args)) => serve::run(env, &globals, &args).await,
        Some(Command::Call(args)) => call::run(env, &globals, &args).await,
        Some(Command::Batch { command }) => batch::run(env, &globals, command).await,
        Some(Command::Tools(target)) => call::tools(env, &globals, &target).await,
        Some(Command::Events(args)) => events::run(env, &globals, &args).await,
        Some(Command::Install(args)) => install::run(env, &globals, &args).await,
        Some(Command::Nodes { command: NodesCommand::Import(args) }) => {
            nodes::import(env, &globals, &args).await
        }
        Some(Command::Nodes { command: NodesCommand::Add(args) }) => {
            nodes::add(env, &globals, &args).await
        }
        Some(Command::Doctor(args)) => doctor::run(env, &globals, &args).await,
        Some(Command::Backup { file, force }) => backup::backup(env, &globals, &file, force).await,
        Some(Command::Restore { file }) => backup::restore(env, &globals, &file).await,
        Some(Command::Completions { shell }) => {
            clap_complete::generate(
                shell,
                &mut args::command(),
                "mcp-orch",
                &mut std::io::stdout(),
            );
            Ok(ExitStatus::Done)
        }
        Some(Command::Demo(args)) => demo::run(env, &globals, &args).await,
        Some(Command::Stdio(args)) => stdio::run(env, &globals, &args).await,
        Some(Command::Servers { command }) => servers::run(env, &globals, command).await,
        None if cli.mode.is_some() => {
            serve::run_mode(env, &globals, &cli.serve, cli.mode, &cli.entry.entry()).await
        }
        None => {
            args::print_help()?;
            Ok(ExitStatus::Failed)
        }
    }
}

/// Tells a person something.
fn say(text: impl std::fmt::Display) {
    // Without a stderr there is nobody to tell.
    drop(writeln!(std::io::stderr(), "{text}"));
}

/// Writes data.
fn print(text: impl std::fmt::Display) -> anyhow::Result<()> {
    match writeln!(std::io::stdout(), "{text}") {
        // Whoever reads has enough, as `head` does.
        Err(err) if err.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// The error and what it came from, with the hint at the end, where it is read last.
fn chain(err: &anyhow::Error) -> String {
    let (mut text, mut hints) = (String::new(), String::new());
    let mut last = String::new();
    for cause in err.chain() {
        let whole = cause.to_string();
        // A cause that its error repeats is said once.
        if last.contains(&whole) {
            continue;
        }
        let (said, hint) = whole.split_once("\nhint: ").unwrap_or((&whole, ""));
        let separator = if text.is_empty() { "" } else { ": " };
        text.push_str(&format!("{separator}{}", said.trim_end()));
        if !hint.is_empty() {
            hints.push_str(&format!("\n\nhint: {}", hint.trim_end()));
        }
        last = whole;
    }
    text + &hints
}
