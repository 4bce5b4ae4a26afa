//! `batch run`: a plan is begun and watched; interrupted, it is cancelled.

use anyhow::{Context, bail};
use serde_json::{Map, Value, json};
use tokio::signal::unix::{SignalKind, signal};

use super::follow::{End, Follow};
use super::view::View;
use super::{ask, draw, file, of_batch, print_answer, refused, status_of};
use crate::app::data_dir::{DataDir, Locking};
use crate::cli::args::{Globals, Output, RunBatchArgs};
use crate::cli::client::{Connection, Outcome};
use crate::cli::{ExitStatus, call, print, say};
use crate::config::Env;

const PAGE: u32 = 1000;

pub(super) async fn run(
    env: &'static dyn Env,
    globals: &Globals,
    args: &RunBatchArgs,
) -> anyhow::Result<ExitStatus> {
    let written = match args.file.as_deref().map(file::read).transpose() {
        Ok(it) => it,
        Err(err) => {
            say(format!("error: {}", crate::cli::chain(&err)));
            return Ok(ExitStatus::Misused);
        }
    };
    if args.detach && args.target.url.is_none() && !is_served(env, globals)? {
        say("error: no server runs here, so the batch would end with this command\n\n\
             hint: start one with `mcp-orch serve`, name one with `--url`, or leave out `--detach`");
        return Ok(ExitStatus::Misused);
    }
    let connection = call::connect(env, globals, &args.target).await?;
    let status = match args.dry_run {
        true => plan(&connection, args, written.as_ref()).await,
        false => begin(&connection, args, written.as_ref()).await,
    };
    let closed = connection.close().await;
    let status = status?;
    closed.map(|()| status)
}

/// Whether a server has the data directory already.
fn is_served(env: &dyn Env, globals: &Globals) -> anyhow::Result<bool> {
    let data_dir = DataDir::open(&globals.load(env)?)?;
    Ok(matches!(data_dir.lock()?, Locking::Held(_)))
}

/// What an operation is asked, from the file and the flags, which count more.
fn arguments(args: &RunBatchArgs, written: Option<&file::Written>) -> Map<String, Value> {
    let mut arguments = written.map(|it| it.body.clone()).unwrap_or_default();
    let given = [
        ("request", args.request.as_ref().map(|it| json!(it))),
        ("max_parallel_tasks", args.max_parallel.map(|it| json!(it))),
        ("task_timeout", args.timeout.map(|it| json!(it))),
        ("retry_count", args.retries.map(|it| json!(it))),
        ("deadline", args.deadline.map(|it| json!(it))),
        ("client_token", args.token.as_ref().map(|it| json!(it))),
    ];
    for (name, value) in given {
        if let Some(value) = value {
            arguments.insert(name.to_owned(), value);
        }
    }
    arguments
}

async fn plan(
    connection: &Connection,
    args: &RunBatchArgs,
    written: Option<&file::Written>,
) -> anyhow::Result<ExitStatus> {
    let mut arguments = arguments(args, written);
    // What decides how it runs and not what it is.
    arguments
        .retain(|it, _| ["plan", "calls", "request", "max_parallel_tasks"].contains(&it.as_str()));
    let outcome = ask(connection, "batch_plan", arguments).await?;
    if outcome.is_error {
        return unaccepted(&outcome, written, args.output);
    }
    match args.output {
        Output::Json => print(serde_json::to_string_pretty(&outcome.value)?)?,
        Output::Table => {
            print(orch_domain::text::sanitize(&draw::draw(&outcome.value)))?;
            if let Some(answer) = outcome.value["answer"].as_str() {
                print(format!("The model said: {}", orch_domain::text::sanitize(answer)))?;
            }
        }
    }
    Ok(ExitStatus::Done)
}

/// Shows what is wrong with a plan, each with its place, or why it is refused.
fn unaccepted(
    outcome: &Outcome,
    written: Option<&file::Written>,
    output: Output,
) -> anyhow::Result<ExitStatus> {
    let Some(problems) = outcome.value["problems"].as_array() else {
        let status = refused(outcome, output)?;
        return Ok(match outcome.value["error"].as_str() {
            Some("InvalidParameter") => ExitStatus::Misused,
            _ => status,
        });
    };
    if output == Output::Json {
        print(serde_json::to_string_pretty(&outcome.value)?)?;
    }
    let n = problems.len();
    say(format!("error: the plan cannot run: {n} problem{}", if n == 1 { "" } else { "s" }));
    match written {
        Some(written) => written.problems(problems).iter().for_each(say),
        None => say(orch_domain::text::sanitize(&outcome.text)),
    }
    Ok(ExitStatus::Misused)
}

async fn begin(
    connection: &Connection,
    args: &RunBatchArgs,
    written: Option<&file::Written>,
) -> anyhow::Result<ExitStatus> {
    let mut signals = Signals::new()?;
    let mut arguments = arguments(args, written);
    // It is followed instead, so that leaving is not cancelling unless it is said.
    arguments.insert("wait".to_owned(), false.into());
    let begun = connection.call("batch_execute", arguments, None, signals.next()).await?;
    let Some(begun) = begun else {
        say(
            "interrupted before the server had accepted it; `mcp-orch batch list` shows whether it did",
        );
        return Ok(ExitStatus::Interrupted);
    };
    if begun.is_error {
        return unaccepted(&begun, written, args.output);
    }
    let id = begun.value["task_id"].as_str().context("the server names no batch")?.to_owned();
    if args.detach {
        match args.output {
            Output::Json => print(serde_json::to_string_pretty(&begun.value)?)?,
            Output::Table => print(&id)?,
        }
        return Ok(ExitStatus::Done);
    }
    let again = if begun.value["existed"] == true {
        ", begun by an earlier call with this token"
    } else {
        ""
    };
    say(format!("batch {id}{again}"));
    let mut view = View::of_stderr();
    let mut follow = Follow::new(connection, &id, view.is_lines());
    let mut is_cancelled = false;
    let ended = loop {
        match follow.until(&mut view, signals.next()).await? {
            End::Ended(batch) => break batch,
            End::Refused(outcome) => {
                view.close();
                return refused(&outcome, args.output);
            }
            End::Interrupted if is_cancelled => {
                view.close();
                say(format!("left; `mcp-orch batch status {id}` shows what becomes of it"));
                return Ok(ExitStatus::Interrupted);
            }
            End::Interrupted => {
                is_cancelled = true;
                view.say(
                    "cancelling the batch; interrupt again to leave without waiting for its end",
                );
                let cancel = connection.call("batch_cancel", of_batch(&id), None, signals.next());
                match cancel.await? {
                    Some(outcome) if outcome.is_error => {
                        view.close();
                        return refused(&outcome, args.output);
                    }
                    Some(_) => {}
                    None => bail!("left before the server had taken the cancellation"),
                }
            }
        }
    };
    view.close();
    let outcome = result(connection, &id).await?;
    if outcome.is_error {
        return refused(&outcome, args.output);
    }
    print_answer(&outcome, args.output)?;
    Ok(status_of(&ended))
}

/// All pages of `batch_result` as one.
async fn result(connection: &Connection, id: &str) -> anyhow::Result<Outcome> {
    let mut arguments = of_batch(id);
    arguments.insert("page_size".to_owned(), json!(PAGE));
    let mut whole = ask(connection, "batch_result", arguments.clone()).await?;
    loop {
        let next = whole.value["next_page_token"].take();
        let Some(next) = next.as_str().filter(|it| !it.is_empty()) else { break };
        arguments.insert("page_token".to_owned(), json!(next));
        let mut page = ask(connection, "batch_result", arguments.clone()).await?;
        if page.is_error {
            return Ok(page);
        }
        whole.value["next_page_token"] = page.value["next_page_token"].take();
        let further = page.value["results"].take();
        if let (Some(all), Value::Array(further)) = (whole.value["results"].as_array_mut(), further)
        {
            all.extend(further);
        }
    }
    if let Some(value) = whole.value.as_object_mut() {
        value.insert("next_page_token".to_owned(), "".into());
    }
    Ok(whole)
}

/// Requests to end, one after the other.
struct Signals([tokio::signal::unix::Signal; 3]);

impl Signals {
    fn new() -> anyhow::Result<Signals> {
        Ok(Signals([
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        ]))
    }

    async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
