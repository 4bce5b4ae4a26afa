//! `install`: adds mcp-orch to the configuration of an MCP client, and leaves everything else in it as it was. Without a
//! client it lists those of this machine.

mod edit;
mod import;
mod list;

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use etcetera::BaseStrategy;
use serde_json::json;

use super::args::{ClientName, Globals, InstallArgs};
use super::{ExitStatus, print, say};
use crate::config::Env;

const SERVER: &str = "mcp-orch";

pub(super) async fn run(
    env: &'static dyn Env,
    globals: &Globals,
    args: &InstallArgs,
) -> anyhow::Result<ExitStatus> {
    let Some(client) = args.client else { return list::run(&Places::of_user(env)?) };
    let path = match &args.file {
        Some(it) => it.clone(),
        None => client.path(&Places::of_user(env)?),
    };
    if args.import {
        let status = import::run(env, globals, client, &path).await?;
        if status != ExitStatus::Done {
            return Ok(status);
        }
    }
    add(globals, args, client, &path)
}

fn add(
    globals: &Globals,
    args: &InstallArgs,
    client: ClientName,
    path: &Path,
) -> anyhow::Result<ExitStatus> {
    let program = std::env::current_exe().context("where this program is cannot be found out")?;
    let mut arguments = vec!["stdio".to_owned()];
    if let Some(dir) = &globals.data_dir {
        let dir = std::path::absolute(dir).context("the data directory has no absolute path")?;
        arguments.extend(["--data-dir".to_owned(), dir.display().to_string()]);
    }
    let mut entry = json!({ "command": program, "args": arguments });
    if client == ClientName::Vscode {
        entry["type"] = json!("stdio");
    }
    let key = client.key();
    if args.print {
        print(serde_json::to_string_pretty(&json!({ key: { SERVER: entry } }))?)?;
        return Ok(ExitStatus::Done);
    }
    let before = match fs_err::read_to_string(path) {
        Ok(it) => Some(it),
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => None,
        Err(err) => return Err(err.into()),
    };
    let after = edit::with_server(before.as_deref().unwrap_or("{}"), key, SERVER, &entry)
        .with_context(|| {
            format!(
                "`{}` was left as it is\nhint: mend that file, or add by hand what `--print` shows",
                path.display()
            )
        })?;
    if before.as_deref() == Some(after.as_str()) {
        say(format!("{} already has mcp-orch: `{}`", client.title(), path.display()));
        return Ok(ExitStatus::Done);
    }
    if let Some(before) = &before {
        let backup = back_up(path, before)?;
        say(format!("kept the old file as `{}`", backup.display()));
    }
    write_whole(path, &after)?;
    say(format!("added mcp-orch to `{}`; restart {}", path.display(), client.title()));
    Ok(ExitStatus::Done)
}

/// Beside the file, under the first name that is free.
fn back_up(path: &Path, text: &str) -> anyhow::Result<PathBuf> {
    for n in 1..1000 {
        let mut name = path.file_name().context("the file has no name")?.to_owned();
        name.push(format!(".bak{n}"));
        let backup = path.with_file_name(name);
        if !backup.exists() {
            fs_err::write(&backup, text)?;
            return Ok(backup);
        }
    }
    bail!("there are a thousand backups of `{}` already; remove some", path.display())
}

/// Whole or not at all, so that a client that reads meanwhile never sees half a file.
fn write_whole(path: &Path, text: &str) -> anyhow::Result<()> {
    let parent = path.parent().context("the file has no folder")?;
    fs_err::create_dir_all(parent)?;
    // A configuration that is a link elsewhere stays one.
    let target = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let mut partial = target.clone().into_os_string();
    partial.push(".partial");
    fs_err::write(&partial, text)?;
    if let Ok(found) = fs_err::metadata(&target) {
        fs_err::set_permissions(&partial, found.permissions())?;
    }
    fs_err::rename(&partial, &target)?;
    Ok(())
}

/// Where programs of this user keep their configuration.
struct Places {
    home: PathBuf,
    /// `~/.config`, `~/Library/Application Support` or `%APPDATA%`.
    config: PathBuf,
}

impl Places {
    fn of_user(env: &dyn Env) -> anyhow::Result<Places> {
        let base = etcetera::choose_base_strategy().context("there is no home directory")?;
        let home = base.home_dir().to_owned();
        let config = if cfg!(target_os = "macos") {
            home.join("Library/Application Support")
        } else if cfg!(windows) {
            PathBuf::from(env.get("APPDATA").context("`APPDATA` is not set")?)
        } else {
            base.config_dir()
        };
        Ok(Places { home, config })
    }
}

impl ClientName {
    fn title(self) -> &'static str {
        match self {
            ClientName::ClaudeDesktop => "Claude Desktop",
            ClientName::ClaudeCode => "Claude Code",
            ClientName::Cursor => "Cursor",
            ClientName::Cline => "Cline",
            ClientName::Vscode => "VS Code",
        }
    }

    /// Under which key the client looks for servers.
    fn key(self) -> &'static str {
        match self {
            ClientName::Vscode => "servers",
            _ => "mcpServers",
        }
    }

    fn path(self, places: &Places) -> PathBuf {
        let vscode = places.config.join("Code/User");
        match self {
            ClientName::ClaudeDesktop => places.config.join("Claude/claude_desktop_config.json"),
            ClientName::ClaudeCode => places.home.join(".claude.json"),
            ClientName::Cursor => places.home.join(".cursor/mcp.json"),
            ClientName::Cline => {
                vscode.join("globalStorage/saoudrizwan.claude-dev/settings/cline_mcp_settings.json")
            }
            ClientName::Vscode => vscode.join("mcp.json"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_looks_in_its_own_place() {
        let places = Places { home: "/home/a".into(), config: "/home/a/.config".into() };
        let paths: Vec<String> = [
            ClientName::ClaudeDesktop,
            ClientName::ClaudeCode,
            ClientName::Cursor,
            ClientName::Cline,
            ClientName::Vscode,
        ]
        .map(|it| it.path(&places).display().to_string())
        .to_vec();
        assert_eq!(
            paths,
            [
                "/home/a/.config/Claude/claude_desktop_config.json",
                "/home/a/.claude.json",
                "/home/a/.cursor/mcp.json",
                "/home/a/.config/Code/User/globalStorage/saoudrizwan.claude-dev/settings/cline_mcp_settings.json",
                "/home/a/.config/Code/User/mcp.json",
            ]
        );
    }
}
