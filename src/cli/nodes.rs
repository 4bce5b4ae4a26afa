//! `nodes import`: registers machines that are written down somewhere. `nodes add`: registers one behind SSH.

use futures::FutureExt;
use orch_domain::ssh::JumpName;
use serde_json::{Map, Value, json};

use super::args::{AddArgs, Globals, ImportArgs};
use super::client::{Connection, Outcome};
use super::{ExitStatus, call, host_key, print, say};
use crate::config::Env;
use crate::config::docker_contexts;
use crate::config::nodes_file::{self, NodeEntry, Plan};

pub(super) async fn import(
    env: &'static dyn Env,
    globals: &Globals,
    args: &ImportArgs,
) -> anyhow::Result<ExitStatus> {
    let mut entries = Vec::new();
    if let Some(file) = &args.file {
        entries.extend(nodes_file::read(file, args.engine.is_some())?);
    }
    if args.docker_contexts {
        entries.extend(docker_contexts::read(env)?);
    }
    if args.docker_host {
        entries.push(docker_contexts::docker_host(env)?);
    }
    if args.dry_run {
        return show(&entries);
    }
    let connection = call::connect(env, globals, &args.target).await?;
    let imported = import_all(&connection, entries).await;
    let closed = connection.close().await;
    let status = imported?;
    closed.map(|()| status)
}

fn show(entries: &[NodeEntry]) -> anyhow::Result<ExitStatus> {
    for NodeEntry { id, plan } in entries {
        match plan {
            Plan::Register(arguments) => {
                print(format!("{id}: would be registered: {}", json!(arguments)))?;
            }
            Plan::Skip(why) => print(format!("{id}: would be skipped: {why}"))?,
        }
    }
    let n_skipped = entries.iter().filter(|it| matches!(it.plan, Plan::Skip(_))).count();
    let n = entries.len() - n_skipped;
    print(format!("{n} to register, {n_skipped} to skip; nothing was changed"))?;
    Ok(ExitStatus::Done)
}

async fn import_all(
    connection: &Connection,
    entries: Vec<NodeEntry>,
) -> anyhow::Result<ExitStatus> {
    let (mut n_registered, mut n_there, mut n_skipped, mut n_failed) = (0, 0, 0, 0);
    for NodeEntry { id, plan } in entries {
        let mut arguments = match plan {
            Plan::Register(arguments) => arguments,
            Plan::Skip(why) => {
                n_skipped += 1;
                print(format!("{id}: skipped: {why}"))?;
                continue;
            }
        };
        let Some(outcome) = register(connection, &mut arguments).await? else { continue };
        match (outcome.is_error, outcome.value.get("error").and_then(Value::as_str)) {
            (false, _) => {
                n_registered += 1;
                print(format!("{id}: registered"))?;
            }
            (true, Some("Conflict")) => {
                n_there += 1;
                print(format!("{id}: already there; `update_node` changes it"))?;
            }
            (true, _) => {
                n_failed += 1;
                print(format!("{id}: failed: {}", outcome.text))?;
                let how = |_: &str, _: &str, arguments: &Map<String, Value>| {
                    format!(
                        "`mcp-orch call register_node --json '{}'` registers it",
                        json!(arguments)
                    )
                };
                if let Some(repeat) = host_key::repeat(&outcome, &arguments, how)? {
                    print(format!("{id}: {repeat}"))?;
                }
            }
        }
    }
    print(format!(
        "{n_registered} registered, {n_there} already there, {n_skipped} skipped, {n_failed} failed"
    ))?;
    let is_done = n_failed == 0 && (n_skipped == 0 || n_registered + n_there != 0);
    Ok(if is_done { ExitStatus::Done } else { ExitStatus::Failed })
}

async fn register(
    connection: &Connection,
    arguments: &mut Map<String, Value>,
) -> anyhow::Result<Option<Outcome>> {
    let never = || std::future::pending().boxed();
    host_key::call(connection, "register_node", arguments, || None, || (), never).await
}

pub(super) async fn add(
    env: &'static dyn Env,
    globals: &Globals,
    args: &AddArgs,
) -> anyhow::Result<ExitStatus> {
    let mut arguments = arguments(args)?;
    let connection = call::connect(env, globals, &args.target).await?;
    let added = register(&connection, &mut arguments).await;
    connection.close().await?;
    let Some(outcome) = added? else { return Ok(ExitStatus::Interrupted) };
    if !outcome.is_error {
        print(outcome.text)?;
        return Ok(ExitStatus::Done);
    }
    say(format!("error: {}", outcome.text));
    let how = |argument: &str, accepted: &str, _: &Map<String, Value>| {
        format!("repeat the command with `--{} {accepted}`", argument.replace('_', "-"))
    };
    if let Some(repeat) = host_key::repeat(&outcome, &arguments, how)? {
        say(format!("\nhint: {repeat}"));
    }
    Ok(ExitStatus::Refused)
}

/// What `register_node` is called with.
fn arguments(args: &AddArgs) -> anyhow::Result<Map<String, Value>> {
    let place = JumpName::parse(&args.place).map_err(anyhow::Error::msg)?;
    let mut arguments = Map::new();
    let mut ssh = Map::new();
    arguments.insert("hostname".to_owned(), place.host.clone().into());
    arguments.insert("address".to_owned(), place.host.into());
    let mut set = |name: &str, value: Option<Value>| {
        arguments.extend(value.map(|it| (name.to_owned(), it)));
    };
    set("id", args.id.clone().map(Value::from));
    set("role", args.role.clone().map(Value::from));
    set("description", args.description.clone().map(Value::from));
    set("tags", (!args.tags.is_empty()).then(|| json!(args.tags)));
    set("force", args.force.then_some(Value::Bool(true)));
    let mut set = |name: &str, value: Option<Value>| {
        ssh.extend(value.map(|it| (name.to_owned(), it)));
    };
    set("user", place.user.map(Value::from));
    set("port", place.port.map(Value::from));
    set("key", args.key.clone().map(Value::from));
    set("jump", args.jump.clone().map(Value::from));
    set("socket", args.socket.clone().map(Value::from));
    set("accept_host_key", args.accept_host_key.clone().map(Value::from));
    set("accept_jump_host_key", args.accept_jump_host_key.clone().map(Value::from));
    arguments.insert("ssh".to_owned(), Value::Object(ssh));
    Ok(arguments)
}
