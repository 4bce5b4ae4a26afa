//! Whether each node can be used: which levels work, and what to do about the first that does not.

use std::time::Duration;

use anyhow::{Context, bail};
use futures::{StreamExt, stream};
use orch_domain::health::Check;
use orch_domain::health::Level;
use orch_domain::trouble::Trouble;
use serde_json::{Map, Value, json};

use super::{Finding, bad, good, poor};
use crate::app::data_dir::{DataDir, Locking};
use crate::app::nodes;
use crate::app::nodes::{Answered, Failed, Look};
use crate::cli::chain;
use crate::cli::client::Connection;
use crate::config::{Config, Env};

const SUBJECT: &str = "nodes";
/// Checks that a server is asked for at the same time.
const AT_ONCE: usize = 16;
/// For a server to answer at all; a check has a limit of its own.
const PATIENCE: Duration = Duration::from_secs(60);
/// Older engines lack what the adapter uses.
const OLDEST_API: (u32, u32) = (1, 41);

pub(super) async fn look(
    env: &'static dyn Env,
    config: &Config,
    only: Option<&str>,
) -> Vec<Finding> {
    let mut looks = match all(env, config, only).await {
        Ok(it) => it,
        Err(err) => return vec![bad(SUBJECT, chain(&err))],
    };
    looks.retain(|it| only.is_none_or(|only| it.id == only));
    match (looks.is_empty(), only) {
        (false, _) => looks.iter().map(explain).collect(),
        (true, Some(id)) => {
            let text = format!(
                "there is no node `{id}`\nhint: `mcp-orch call list_nodes` shows those there are"
            );
            vec![bad(SUBJECT, text)]
        }
        (true, None) => vec![poor(
            SUBJECT,
            "none yet\nhint: `mcp-orch serve` registers this machine's engine; `mcp-orch nodes add` one behind SSH",
        )],
    }
}

/// As the server sees them, where one runs: it is the one that has to reach them.
async fn all(
    env: &'static dyn Env,
    config: &Config,
    only: Option<&str>,
) -> anyhow::Result<Vec<Look>> {
    let Some(dir) = DataDir::find(config)? else { return Ok(Vec::new()) };
    match dir.lock()? {
        Locking::Ours(lock) => {
            if !dir.path().join("store").exists() {
                return Ok(Vec::new());
            }
            let looks = nodes::look(config, env, dir.path()).await;
            drop(lock);
            looks
        }
        Locking::Held(_) => {
            // Who asks how things are takes nobody's place.
            let connection = Connection::attached(&dir).await?;
            let asked = tokio::time::timeout(PATIENCE, ask(&connection, only)).await;
            connection.close().await?;
            asked.context("the server does not answer")?
        }
    }
}

async fn ask(connection: &Connection, only: Option<&str>) -> anyhow::Result<Vec<Look>> {
    let mut nodes = Vec::new();
    match only {
        Some(id) => nodes.push(json!({"id": id})),
        None => {
            let mut token = Value::String(String::new());
            while nodes.is_empty() || token != "" {
                let page = call(connection, "list_nodes", json!({"page_token": token})).await?;
                token = page["next_page_token"].clone();
                let listed = page["nodes"].as_array().context("the server lists no nodes")?;
                if listed.is_empty() {
                    break;
                }
                nodes.extend(listed.iter().cloned());
            }
        }
    }
    let looks = nodes.iter().map(|node| async move {
        let id = node["id"].as_str().unwrap_or_default().to_owned();
        let checked = call(connection, "check_node", json!({"node_id": id})).await;
        // Removed meanwhile, or never there.
        let Ok(checked) = checked else { return Ok(None) };
        let node = call(connection, "get_node", json!({"node_id": id})).await.unwrap_or_default();
        let check: Check = serde_json::from_value(checked["check"].clone())
            .context("the server is of another version: restart it")?;
        anyhow::Ok(Some(Look { id, is_behind_ssh: node["ssh"].is_object(), found: found(check) }))
    });
    let looks: Vec<_> = stream::iter(looks).buffered(AT_ONCE).collect().await;
    looks.into_iter().filter_map(Result::transpose).collect()
}

fn found(check: Check) -> Result<Answered, Failed> {
    match (check.latency_ms, check.engine_version) {
        (Some(latency_ms), Some(version)) => Ok(Answered { version, latency_ms }),
        _ => Err(Failed {
            trouble: check.trouble.unwrap_or(Trouble::Other),
            message: check.message.unwrap_or_else(|| "it does not answer".to_owned()),
        }),
    }
}

async fn call(connection: &Connection, name: &str, arguments: Value) -> anyhow::Result<Value> {
    let arguments: Map<String, Value> = arguments.as_object().cloned().unwrap_or_default();
    let outcome = connection.call(name, arguments, None, std::future::pending()).await?;
    let outcome = outcome.context("nobody interrupts it")?;
    if outcome.is_error {
        bail!("{}", outcome.text);
    }
    Ok(outcome.value)
}

/// Level by level, up to the first that fails.
fn explain(look: &Look) -> Finding {
    let subject = format!("node {}", look.id);
    let levels = |until: Option<Level>| -> Vec<Level> {
        let is_passed = |it: &Level| match it {
            Level::Engine => true,
            Level::Ssh => look.is_behind_ssh,
            Level::Address => look.is_behind_ssh || until == Some(Level::Address),
        };
        Level::ALL
            .into_iter()
            .filter(is_passed)
            .filter(|it| until.is_none_or(|end| *it < end))
            .collect()
    };
    let works =
        |levels: Vec<Level>| -> String { levels.iter().map(|it| format!("{it} ok, ")).collect() };
    match &look.found {
        Ok(it) => {
            let before = works(levels(Some(Level::Engine)));
            let text = format!("{before}engine ok: {} in {:.0} ms", it.version, it.latency_ms);
            match api(&it.version) {
                Some(api) if api < OLDEST_API => {
                    poor(subject, format!("{text}\nhint: {}", Trouble::EngineTooOld.hint()))
                }
                _ => good(subject, text),
            }
        }
        Err(it) => {
            let level = it.trouble.level();
            let before = works(levels(Some(level)));
            // A check's message begins with its level, which is said here already.
            let message = Level::ALL
                .into_iter()
                .find_map(|named| it.message.strip_prefix(&format!("{named}: ")))
                .unwrap_or(&it.message);
            bad(subject, format!("{before}{level} FAILS: {message}\nhint: {}", it.trouble.hint()))
        }
    }
}

/// Of `docker 20.10.24 (API 1.41)`.
fn api(version: &str) -> Option<(u32, u32)> {
    let (_, rest) = version.split_once("(API ")?;
    let (major, minor) = rest.trim_end_matches(')').split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Verdict;

    fn look(is_behind_ssh: bool, found: Result<&str, Trouble>) -> Look {
        let found = match found {
            Ok(version) => Ok(Answered { version: version.to_owned(), latency_ms: 3.4 }),
            Err(trouble) => Err(Failed { trouble, message: "engine: it said so".to_owned() }),
        };
        Look { id: "h1".to_owned(), is_behind_ssh, found }
    }

    #[test]
    fn what_works_is_said_up_to_what_does_not() {
        for (it, verdict, wanted) in [
            (
                look(true, Ok("docker 20.10.24 (API 1.41)")),
                Verdict::Good,
                "address ok, ssh ok, engine ok: docker 20.10.24 (API 1.41) in 3 ms",
            ),
            (look(false, Ok("sim")), Verdict::Good, "engine ok: sim in 3 ms"),
            (
                look(true, Ok("docker 1.12 (API 1.24)")),
                Verdict::Poor,
                "address ok, ssh ok, engine ok: docker 1.12",
            ),
            (look(true, Err(Trouble::NameUnknown)), Verdict::Bad, "address FAILS: it said so"),
            (
                look(true, Err(Trouble::LoginRefused)),
                Verdict::Bad,
                "address ok, ssh FAILS: it said so",
            ),
            (
                look(true, Err(Trouble::EngineStopped)),
                Verdict::Bad,
                "address ok, ssh ok, engine FAILS: it said so",
            ),
            (look(false, Err(Trouble::SocketForbidden)), Verdict::Bad, "engine FAILS: it said so"),
            (look(false, Err(Trouble::NothingListens)), Verdict::Bad, "address FAILS: it said so"),
        ] {
            let finding = explain(&it);
            assert_eq!(finding.verdict, verdict, "{}", finding.text);
            assert!(finding.text.starts_with(wanted), "{}", finding.text);
            assert_eq!(
                finding.text.matches("hint: ").count(),
                usize::from(verdict != Verdict::Good)
            );
        }
    }

    #[test]
    fn every_trouble_has_its_one_hint() {
        for trouble in Trouble::ALL {
            let finding = explain(&look(true, Err(*trouble)));
            assert!(finding.text.ends_with(trouble.hint()), "{}", finding.text);
            assert_eq!(finding.text.matches("hint: ").count(), 1, "{}", finding.text);
        }
    }
}
