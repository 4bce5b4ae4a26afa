//! `nodes import`: registers the machines of a `nodes.json`.

use serde_json::Value;

use super::args::{Globals, ImportArgs};
use super::client::Connection;
use super::{ExitStatus, call, print};
use crate::config::Env;
use crate::config::nodes_file::{self, NodeEntry, Plan};

pub(super) async fn import(
    env: &'static dyn Env,
    globals: &Globals,
    args: &ImportArgs,
) -> anyhow::Result<ExitStatus> {
    let simulate = args.engine.is_some();
    let entries = nodes_file::read(&args.file, simulate)?;
    let connection = call::connect(env, globals, &args.target).await?;
    let imported = import_all(&connection, entries).await;
    let closed = connection.close().await;
    let status = imported?;
    closed.map(|()| status)
}

async fn import_all(
    connection: &Connection,
    entries: Vec<NodeEntry>,
) -> anyhow::Result<ExitStatus> {
    let (mut n_registered, mut n_there, mut n_skipped, mut n_failed) = (0, 0, 0, 0);
    for NodeEntry { id, plan } in entries {
        let arguments = match plan {
            Plan::Register(arguments) => arguments,
            Plan::Skip(why) => {
                n_skipped += 1;
                print(format!("{id}: skipped: {why}"))?;
                continue;
            }
        };
        let never = std::future::pending();
        let answer = connection.call("register_node", arguments, None, never).await?;
        let Some(outcome) = answer else { continue };
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
            }
        }
    }
    print(format!(
        "{n_registered} registered, {n_there} already there, {n_skipped} skipped, {n_failed} failed"
    ))?;
    let is_done = n_failed == 0 && (n_skipped == 0 || n_registered + n_there != 0);
    Ok(if is_done { ExitStatus::Done } else { ExitStatus::Failed })
}
