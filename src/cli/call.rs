//! `call`: one operation from the shell. `tools`: which there are.

use std::io::{BufRead, IsTerminal, Read, Write};
use std::sync::Arc;

use anyhow::Context;
use futures::FutureExt;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value};

use super::args::{CallArgs, Globals, Output, Target};
use super::client::{self, Connection, Listener, ToolInfo};
use super::{ExitStatus, coerce, follow, host_key, print, say, serve};
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
    let (follows, words) = follow::take(&tool.name, &args.arguments);
    let mut arguments = coerce::arguments(&tool.input, base(args)?, &words)?;
    if tool.is_destructive && !args.yes {
        if !(std::io::stdin().is_terminal() && std::io::stderr().is_terminal()) {
            say(format!(
                "error: `{}` cannot be undone, and nobody is there to ask\n\nhint: {}",
                tool.name,
                repeat(std::env::args_os())
            ));
            return Ok(ExitStatus::Misused);
        }
        let question = question(connection, &tools, &tool, &arguments).await?;
        if !confirm(&question, &mut std::io::stdin().lock(), &mut std::io::stderr())? {
            say("nothing was done");
            return Ok(ExitStatus::Failed);
        }
    }
    let bar = bar();
    let stop = serve::stop_on_signal()?;
    let pause = || bar.iter().for_each(ProgressBar::finish_and_clear);
    let outcome = if follows {
        follow::logs(connection, arguments.clone(), &stop).await
    } else {
        host_key::call(
            connection,
            &tool.name,
            &mut arguments,
            || bar.as_ref().map(listener),
            pause,
            || stop.clone().cancelled_owned().boxed(),
        )
        .await
    };
    pause();
    let Some(outcome) = outcome? else {
        if follows {
            return Ok(ExitStatus::Done);
        }
        say("cancelled");
        return Ok(ExitStatus::Interrupted);
    };
    match args.output {
        Output::Json => print(serde_json::to_string_pretty(&outcome.value)?)?,
        Output::Table if outcome.is_error => {}
        // What an agent reads is what a person reads; the terminal must not be steered by it.
        Output::Table => print(orch_domain::text::sanitize(&outcome.text))?,
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

/// What a server does not show may exist all the same, and then it is the server that says why it is not for us.
fn find(tools: &[ToolInfo], name: &str) -> anyhow::Result<ToolInfo> {
    let shown = tools.iter().find(|it| it.name == name).cloned();
    shown.or_else(|| client::known(name)).with_context(|| {
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

/// What is about to be done, with the name of the instance that is meant: an id says little to a person.
async fn question(
    connection: &Connection,
    tools: &[ToolInfo],
    tool: &ToolInfo,
    arguments: &Map<String, Value>,
) -> anyhow::Result<String> {
    let is_of_instances = tool.name.ends_with("_instance");
    let mut named = String::new();
    if let Some(id) = arguments.get("id").filter(|_| is_of_instances)
        && tools.iter().any(|it| it.name == "get_instance")
    {
        let wanted = Map::from_iter([("id".to_owned(), id.clone())]);
        let found = connection.call("get_instance", wanted, None, std::future::pending()).await?;
        if let Some(found) = found.filter(|it| !it.is_error) {
            named = format!("{}\n", found.text);
        }
    }
    let shown = serde_json::to_string(arguments)?;
    Ok(format!("{named}{} {shown}\nThis cannot be undone. Go on? [y/N] ", tool.name))
}

fn confirm(
    question: &str,
    answers: &mut impl BufRead,
    terminal: &mut impl Write,
) -> anyhow::Result<bool> {
    write!(terminal, "{question}")?;
    terminal.flush()?;
    let mut answer = String::new();
    answers.read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// The command line as it was, in a form that a shell takes, and with the consent that it lacks.
fn repeat(words: impl Iterator<Item = std::ffi::OsString>) -> String {
    let words = words.map(|it| {
        let it = it.to_string_lossy().into_owned();
        let is_plain = !it.is_empty()
            && it.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_=./:,@%+".contains(&b));
        if is_plain { it } else { format!("'{}'", it.replace('\'', r"'\''")) }
    });
    let words: Vec<String> = words.collect();
    format!("if you mean it, repeat it as `{} --yes`", words.join(" "))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_yes_is_one() {
        for (answer, is_yes) in [
            ("y\n", true),
            ("yes\n", true),
            ("Y", true),
            ("n\n", false),
            ("\n", false),
            ("", false),
        ] {
            let mut shown = Vec::new();
            assert_eq!(confirm("Go on? ", &mut answer.as_bytes(), &mut shown).unwrap(), is_yes);
            assert_eq!(shown, b"Go on? ");
        }
    }

    #[test]
    fn the_command_to_repeat_is_what_a_shell_takes() {
        let words = ["mcp-orch", "call", "x", "name=it's a b", "n=1"].map(Into::into);
        assert_eq!(
            repeat(words.into_iter()),
            r"if you mean it, repeat it as `mcp-orch call x 'name=it'\''s a b' n=1 --yes`"
        );
    }
}
