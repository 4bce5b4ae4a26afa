//! The MCP clients of this machine, and which of them have mcp-orch.

use std::path::Path;

use clap::ValueEnum;
use serde_json::Value;

use super::{Places, SERVER};
use crate::cli::args::ClientName;
use crate::cli::{ExitStatus, print, say};

pub(super) fn run(places: &Places) -> anyhow::Result<ExitStatus> {
    let mut rows = Vec::new();
    let mut missing = Vec::new();
    for client in ClientName::value_variants() {
        let path = client.path(places);
        let name = client.to_possible_value().map(|it| it.get_name().to_owned());
        let name = name.unwrap_or_default();
        // Some make their file only when there is something to write into it.
        if path.exists() || path.parent().is_some_and(|it| it.exists() && *it != *places.home) {
            rows.push((name, state(*client, &path), path.display().to_string()));
        } else {
            missing.push(name);
        }
    }
    let width = rows.iter().map(|it| it.0.len()).max().unwrap_or(0);
    let wide = rows.iter().map(|it| it.1.chars().count()).max().unwrap_or(0);
    for (name, state, path) in &rows {
        print(format!("{name:width$}  {state:wide$}  {path}"))?;
    }
    if rows.is_empty() {
        say("no MCP client that is known here has a configuration on this machine");
    }
    if !missing.is_empty() {
        say(format!("not found: {}", missing.join(", ")));
    }
    say("\nhint: `mcp-orch install --client NAME` adds mcp-orch to one");
    Ok(ExitStatus::Done)
}

fn state(client: ClientName, path: &Path) -> String {
    let text = match fs_err::read_to_string(path) {
        Ok(it) => it,
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return "no file yet".to_owned(),
        Err(_) => return "cannot be read".to_owned(),
    };
    let text = text.trim_start_matches('\u{feff}');
    let Ok(root) = serde_json::from_str::<Value>(if text.trim().is_empty() { "{}" } else { text })
    else {
        return "is no plain JSON".to_owned();
    };
    let servers = root[client.key()].as_object();
    let n = servers.map_or(0, |it| it.keys().filter(|name| *name != SERVER).count());
    let has = if servers.is_some_and(|it| it.contains_key(SERVER)) { "yes" } else { "no" };
    let others = match n {
        0 => String::new(),
        1 => ", 1 other server".to_owned(),
        n => format!(", {n} other servers"),
    };
    format!("mcp-orch: {has}{others}")
}
