//! `call`: one operation from the shell. `tools`: which there are.

use std::io::{IsTerminal, Read, Write};
use std::sync::Arc;

use anyhow::Context;
use futures::FutureExt;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value};

use super::args::{CallArgs, Globals, Output, Target};
use super::client::{Connection, Listener, ToolInfo};
use super::{ExitStatus, coerce, host_key, print, say, serve, show};
use crate::config::Env;
use crate::telemetry;

pub(super) async fn run(
    env: &'static dyn Env,
    globals: &Globals,
    args: &CallArgs,
) -> anyhow::Result<ExitStatus> {
    let connection = connect(env, globals, &args.target).await?;
    let status = call(&connection, args).await;
    let closed = connection.close().await;
    let status = status?;
    closed.map(|()| status)
}

pub(super) async fn tools(
    env: &'static dyn Env,
    globals: &Globals,
    target: &Target,
) -> anyhow::Result<ExitStatus> {
    let connection = connect(env, globals, target).await?;
    let tools = connection.tools().await;
    connection.close().await?;
    let tools = tools?;
    let width = tools.iter().map(|it| it.name.len()).max().unwrap_or(0);
    let lines: Vec<String> =
        tools.iter().map(|it| format!("{:width$}  {}", it.name, it.title)).collect();
    print(lines.join("\n"))?;
    Ok(ExitStatus::Done)
}

pub(super) async fn connect(
    env: &'static dyn Env,
    globals: &Globals,
    target: &Target,
) -> anyhow::Result<Connection> {
    if let Some(url) = &target.url {
        let bearer = target.api_key.clone().or_else(|| env.get("MCP_ORCH_API_KEY"));
        return Connection::http(url, bearer.as_deref()).await;
    }
    let mut config = globals.load(env)?;
    // What a server in this process has to say in passing is of no interest to a single call.
    if globals.log_level.is_none() && !config.server.debug {
        config.server.log_level = crate::config::LogLevel::Warn;
    }
    telemetry::start_logging(&config.server)?;
    Connection::local(config, env).await
}

async fn call(connection: &Connection, args: &CallArgs) -> anyhow::Result<ExitStatus> {
    let tools = connection.tools().await?;
    let tool = find(&tools, &args.operation)?;
    let mut arguments = coerce::arguments(&tool.input, base(args)?, &args.arguments)?;
    if tool.is_destructive && !args.yes && !confirm(&tool.name, &arguments)? {
        say("nothing was done");
        return Ok(ExitStatus::Failed);
    }
    let bar = bar();
    let stop = serve::stop_on_signal()?;
    let pause = || bar.iter().for_each(ProgressBar::finish_and_clear);
    let interrupt = || stop.clone().cancelled_owned().boxed();
    let outcome = host_key::call(
        connection,
        &tool.name,
        &mut arguments,
        || bar.as_ref().map(listener),
        pause,
        interrupt,
    )
    .await;
    pause();
    let Some(outcome) = outcome? else {
        say("cancelled");
        return Ok(ExitStatus::Interrupted);
    };
    match args.output {
        Output::Json => print(serde_json::to_string_pretty(&outcome.value)?)?,
        Output::Table if outcome.is_error => {}
        Output::Table => print(show::table_or_text(&outcome.value, &outcome.text))?,
    }
    if !outcome.is_error {
        return Ok(ExitStatus::Done);
    }
    let field = |name: &str| outcome.value.get(name).and_then(Value::as_str);
    match (field("error"), field("message")) {
        (Some(code), Some(message)) => say(format!("error: {code}: {message}")),
        _ => say(format!("error: {}", outcome.text)),
    }
    let how = |argument: &str, accepted: &str, _: &Map<String, Value>| {
        format!("repeat the call with `ssh.{argument}={accepted}`")
    };
    if let Some(repeat) = host_key::repeat(&outcome, &arguments, how)? {
        say(format!("\nhint: {repeat}"));
    }
    Ok(ExitStatus::Refused)
}

fn find<'a>(tools: &'a [ToolInfo], name: &str) -> anyhow::Result<&'a ToolInfo> {
    tools.iter().find(|it| it.name == name).with_context(|| {
        let near = coerce::nearest(name, tools.iter().map(|it| it.name.as_str()));
        let near: Vec<String> = near.iter().map(|it| format!("`{it}`")).collect();
        let meant = if near.is_empty() {
            String::new()
        } else {
            format!("did you mean {}? ", near.join(" or "))
        };
        format!("there is no operation `{name}`\nhint: {meant}`mcp-orch tools` lists them")
    })
}

/// The arguments given as JSON: as they are, from a file (`@FILE`), or from stdin (`-`).
fn base(args: &CallArgs) -> anyhow::Result<Map<String, Value>> {
    let Some(given) = &args.json else { return Ok(Map::new()) };
    let text = match given.strip_prefix('@') {
        Some(path) => fs_err::read_to_string(path)?,
        None if given == "-" => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("stdin cannot be read")?;
            text
        }
        None => given.clone(),
    };
    serde_json::from_str(&text).context("`--json` has to be a JSON object")
}

/// Asks, where somebody is there to answer.
fn confirm(name: &str, arguments: &Map<String, Value>) -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Ok(true);
    }
    let shown = serde_json::to_string(arguments)?;
    write!(std::io::stderr(), "{name} {shown}\nThis cannot be undone. Go on? [y/N] ")?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn bar() -> Option<ProgressBar> {
    if !std::io::stderr().is_terminal() {
        return None;
    }
    let bar = ProgressBar::new_spinner();
    bar.enable_steady_tick(std::time::Duration::from_millis(120));
    Some(bar)
}

fn listener(bar: &ProgressBar) -> Listener {
    let bar = bar.clone();
    Arc::new(move |progress, total, message| {
        if let Some(total) = total.filter(|it| 1.0 < *it)
            && let Ok(style) = ProgressStyle::with_template("{bar:30} {percent:>3}% {wide_msg}")
        {
            bar.set_style(style);
            bar.set_length(total as u64);
            bar.set_position(progress as u64);
        }
        bar.set_message(orch_domain::text::excerpt(message, 200));
    })
}
