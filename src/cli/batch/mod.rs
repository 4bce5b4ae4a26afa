//! `batch`: plans run and watched from the shell. Each verb is an operation of a running server, or of this process when
//! none runs; then it stays until the batch has ended.

mod draw;
mod file;
mod follow;
mod run;
mod view;

use anyhow::Context;
use serde_json::{Map, Value, json};

use self::follow::Follow;
use self::view::View;
use super::args::{BatchCommand, Globals, OneBatchArgs, Output, Target};
use super::client::{Connection, Outcome};
use super::{ExitStatus, call, print, say, serve};
use crate::config::Env;

pub(super) async fn run(
    env: &'static dyn Env,
    globals: &Globals,
    command: BatchCommand,
) -> anyhow::Result<ExitStatus> {
    let (target, output, request) = match command {
        BatchCommand::Run(args) => return run::run(env, globals, &args).await,
        BatchCommand::Events { id, target } => return events(env, globals, &id, &target).await,
        BatchCommand::Status(args) => of_one(args, "batch_status"),
        BatchCommand::Cancel(args) => of_one(args, "batch_cancel"),
        BatchCommand::Result { step, of } => {
            let (target, output, (operation, mut arguments)) = of_one(of, "batch_result");
            if let Some(step) = step {
                arguments.insert("step".to_owned(), step.into());
            }
            (target, output, (operation, arguments))
        }
        BatchCommand::List { output, target } => (target, output, ("list_batches", Map::new())),
    };
    let connection = call::connect(env, globals, &target).await?;
    let status = show(&connection, request.0, request.1, output).await;
    let closed = connection.close().await;
    let status = status?;
    closed.map(|()| status)
}

type Request = (&'static str, Map<String, Value>);

fn of_one(args: OneBatchArgs, operation: &'static str) -> (Target, Output, Request) {
    let arguments = Map::from_iter([("task_id".to_owned(), args.id.into())]);
    (args.target, args.output, (operation, arguments))
}

async fn show(
    connection: &Connection,
    operation: &str,
    arguments: Map<String, Value>,
    output: Output,
) -> anyhow::Result<ExitStatus> {
    let outcome = ask(connection, operation, arguments).await?;
    if outcome.is_error {
        return refused(&outcome, output);
    }
    print_answer(&outcome, output)?;
    Ok(ExitStatus::Done)
}

async fn events(
    env: &'static dyn Env,
    globals: &Globals,
    id: &str,
    target: &Target,
) -> anyhow::Result<ExitStatus> {
    let connection = call::connect(env, globals, target).await?;
    let stop = serve::stop_on_signal()?;
    let mut view = View::plain_of_all();
    let followed = Follow::new(&connection, id, true).until(&mut view, stop.cancelled()).await;
    let closed = connection.close().await;
    let status = match followed? {
        follow::End::Ended(batch) => status_of(&batch),
        follow::End::Refused(outcome) => refused(&outcome, Output::Table)?,
        follow::End::Interrupted => ExitStatus::Interrupted,
    };
    closed.map(|()| status)
}

async fn ask(
    connection: &Connection,
    operation: &str,
    arguments: Map<String, Value>,
) -> anyhow::Result<Outcome> {
    let outcome = connection.call(operation, arguments, None, std::future::pending()).await?;
    outcome.context("the call was given up")
}

fn print_answer(outcome: &Outcome, output: Output) -> anyhow::Result<()> {
    match output {
        Output::Json => print(serde_json::to_string_pretty(&outcome.value)?),
        // What an agent reads is what a person reads; the terminal must not be steered by it.
        Output::Table => print(orch_domain::text::sanitize(&outcome.text)),
    }
}

fn refused(outcome: &Outcome, output: Output) -> anyhow::Result<ExitStatus> {
    if output == Output::Json {
        print(serde_json::to_string_pretty(&outcome.value)?)?;
    }
    let field = |name: &str| outcome.value.get(name).and_then(Value::as_str);
    match (field("error"), field("message")) {
        (Some(code), Some(message)) => say(format!("error: {code}: {message}")),
        _ => say(format!("error: {}", outcome.text)),
    }
    Ok(ExitStatus::Refused)
}

/// Of a batch that has ended.
fn status_of(batch: &Value) -> ExitStatus {
    match batch["state"].as_str() {
        Some("succeeded") => ExitStatus::Done,
        Some("cancelled") => ExitStatus::Interrupted,
        _ => ExitStatus::Failed,
    }
}

fn of_batch(id: &str) -> Map<String, Value> {
    Map::from_iter([("task_id".to_owned(), json!(id))])
}
