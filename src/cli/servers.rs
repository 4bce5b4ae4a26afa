//! `servers`: the MCP servers behind this one, added, listed, taken away. Each is an operation of a running server, or of
//! this process when none runs; then the file is what remains.

use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::{Map, Value, json};

use super::args::{AddServerArgs, At, Globals, ServersCommand, Target};
use super::client::{Connection, Outcome};
use super::{ExitStatus, call, print, say};
use crate::config::Env;

/// How long a server may take to connect before what is shown of it is that it does.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(100);

pub(super) async fn run(
    env: &'static dyn Env,
    globals: &Globals,
    command: ServersCommand,
) -> anyhow::Result<ExitStatus> {
    let (target, request) = match command {
        ServersCommand::Add(args) => {
            let arguments = arguments(&args)?;
            let At { url, api_key } = args.at;
            (Target { url, api_key }, Request { operation: "add_server", arguments })
        }
        ServersCommand::List(target) => (target, Request::of("list_servers")),
        ServersCommand::Remove { name, target } => {
            let arguments = Map::from_iter([("name".to_owned(), json!(name))]);
            (target, Request { operation: "remove_server", arguments })
        }
        ServersCommand::Reload(target) => (target, Request::of("reload_servers")),
    };
    let connection = call::connect(env, globals, &target).await?;
    let status = request.make(&connection).await;
    let closed = connection.close().await;
    let status = status?;
    closed.map(|()| status)
}

struct Request {
    operation: &'static str,
    arguments: Map<String, Value>,
}

impl Request {
    fn of(operation: &'static str) -> Request {
        Request { operation, arguments: Map::new() }
    }

    async fn make(self, connection: &Connection) -> anyhow::Result<ExitStatus> {
        let name = self.arguments.get("name").and_then(Value::as_str).map(str::to_owned);
        let mut outcome = ask(connection, self.operation, self.arguments).await?;
        if outcome.is_error {
            let field = |name: &str| outcome.value.get(name).and_then(Value::as_str);
            match (field("error"), field("message")) {
                (Some(code), Some(message)) => say(format!("error: {code}: {message}")),
                _ => say(format!("error: {}", outcome.text)),
            }
            return Ok(ExitStatus::Refused);
        }
        match self.operation {
            "list_servers" => outcome = settled(connection, None).await?,
            "add_server" => {
                // What came of it says more than that it was begun.
                outcome = settled(connection, name.as_deref()).await?;
            }
            _ => {}
        }
        print(orch_domain::text::sanitize(&outcome.text))?;
        Ok(ExitStatus::Done)
    }
}

async fn ask(
    connection: &Connection,
    operation: &str,
    arguments: Map<String, Value>,
) -> anyhow::Result<Outcome> {
    let outcome = connection.call(operation, arguments, None, std::future::pending()).await?;
    outcome.context("the call was given up")
}

/// The list, when the servers, or the one that is meant, are connected or have failed.
async fn settled(connection: &Connection, name: Option<&str>) -> anyhow::Result<Outcome> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let outcome = ask(connection, "list_servers", Map::new()).await?;
        let servers = outcome.value["servers"].as_array().cloned().unwrap_or_default();
        let is_connecting = servers
            .iter()
            .filter(|it| name.is_none_or(|name| it["name"] == name))
            .any(|it| it["state"] == "connecting");
        if !is_connecting || deadline <= Instant::now() {
            return Ok(outcome);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

fn arguments(args: &AddServerArgs) -> anyhow::Result<Map<String, Value>> {
    let mut out = Map::new();
    let mut set = |key: &str, value: Value| drop(out.insert(key.to_owned(), value));
    set("name", json!(args.name));
    set("replace", json!(args.replace));
    if let Some((command, rest)) = args.command.split_first() {
        set("command", json!(command));
        set("args", json!(rest));
        set("env", pairs("--env", &args.env)?);
    } else {
        set("headers", pairs("--header", &args.headers)?);
    }
    if let Some(dir) = &args.cwd {
        let dir = std::path::absolute(dir).context("`--cwd` has no absolute path")?;
        set("cwd", json!(dir));
    }
    if let Some(url) = &args.url {
        set("url", json!(url));
    }
    if let Some(document) = &args.openapi {
        // The server that reads it may have another working directory.
        let is_url = document.starts_with("http://") || document.starts_with("https://");
        let absolute = || std::path::absolute(document).context("the document has no path");
        set("openapi", if is_url { json!(document) } else { json!(absolute()?) });
    }
    if let Some(url) = &args.base_url {
        set("base_url", json!(url));
    }
    Ok(out)
}

fn pairs(flag: &str, given: &[String]) -> anyhow::Result<Value> {
    let pairs: anyhow::Result<Map<String, Value>> = given
        .iter()
        .map(|it| {
            // The value may be a secret and is in no message.
            let (name, value) =
                it.split_once('=').with_context(|| format!("`{flag}` is NAME=VALUE"))?;
            Ok((name.trim().to_owned(), json!(value)))
        })
        .collect();
    Ok(Value::Object(pairs?))
}
