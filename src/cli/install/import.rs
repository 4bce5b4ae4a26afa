//! The servers that a client has, put behind mcp-orch too.

use std::path::Path;

use anyhow::Context;
use serde_json::{Map, Value, json};

use super::SERVER;
use crate::cli::args::{ClientName, Globals, Target};
use crate::cli::client::Connection;
use crate::cli::{ExitStatus, call, print, say};
use crate::config::Env;

/// Of an entry, what is taken over; the rest is the client's own.
const TAKEN: [&str; 6] = ["command", "args", "env", "cwd", "url", "headers"];

pub(super) async fn run(
    env: &'static dyn Env,
    globals: &Globals,
    client: ClientName,
    path: &Path,
) -> anyhow::Result<ExitStatus> {
    let text = match fs_err::read_to_string(path) {
        Ok(it) => it,
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => "{}".to_owned(),
        Err(err) => return Err(err.into()),
    };
    let text = text.trim_start_matches('\u{feff}');
    let root: Value = serde_json::from_str(if text.trim().is_empty() { "{}" } else { text })
        .with_context(|| {
            format!(
                "`{}` is no plain JSON; nothing was taken over\nhint: mend that file, or leave `--import` away",
                path.display()
            )
        })?;
    let servers = root[client.key()].as_object().cloned().unwrap_or_default();
    let servers: Map<String, Value> =
        servers.into_iter().filter(|(name, _)| name != SERVER).collect();
    if servers.is_empty() {
        say(format!("{} has no other servers to take over", client.title()));
        return Ok(ExitStatus::Done);
    }
    let connection = call::connect(env, globals, &Target::default()).await?;
    let taken = take_all(&connection, servers).await;
    let closed = connection.close().await;
    let status = taken?;
    closed.map(|()| status)
}

async fn take_all(
    connection: &Connection,
    servers: Map<String, Value>,
) -> anyhow::Result<ExitStatus> {
    let mut status = ExitStatus::Done;
    for (name, entry) in servers {
        if entry["disabled"] == true {
            print(format!("{name}: skipped, it is disabled there"))?;
            continue;
        }
        let mut arguments: Map<String, Value> = TAKEN
            .iter()
            .filter_map(|key| Some(((*key).to_owned(), entry.get(key)?.clone())))
            .collect();
        arguments.insert("name".to_owned(), json!(name));
        let called = connection.call("add_server", arguments, None, std::future::pending()).await?;
        let Some(outcome) = called else { break };
        let error = outcome.value.get("error").and_then(Value::as_str);
        match (outcome.is_error, error) {
            (false, _) => print(format!("{name}: taken over"))?,
            (true, Some("Conflict")) => {
                print(format!("{name}: there is one of that name already"))?
            }
            (true, _) => {
                let said = outcome.value.get("message").and_then(Value::as_str);
                say(format!("{name}: not taken over: {}", said.unwrap_or(&outcome.text)));
                status = ExitStatus::Refused;
            }
        }
    }
    if status == ExitStatus::Done {
        say("they are behind mcp-orch now; remove them from the client's own file when you like");
    }
    Ok(status)
}
