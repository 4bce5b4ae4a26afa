//! The MCP servers behind this one, from their file to connections.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use orch_core::ports::clock::Clock;
use orch_gateway::config::{McpConfig, Upstream};
use orch_gateway::hub::Hub;
use orch_gateway::port::{Gateway, Lookup};
use orch_gateway::upstream::stdio::INHERITED;
use tokio_util::task::TaskTracker;

use super::data_dir::DataDir;
use crate::config::{Config, Env};

/// Read from the working directory, where it is there, and else from the data directory.
const FILE: &str = "mcp-config.json";

/// Read and checked, so that a mistake is told at start; nothing is connected to yet.
pub(super) fn build(
    config: &Config,
    env: &'static dyn Env,
    data_dir: &DataDir,
    clock: Arc<dyn Clock>,
    tasks: TaskTracker,
) -> anyhow::Result<(Arc<Gateway>, McpConfig)> {
    let file = file(config, data_dir.path());
    let lookup: Lookup = Arc::new(|name| env.get(name));
    if config.gateway.mcp_config.is_some() && !file.exists() {
        anyhow::bail!("`gateway.mcp_config` names `{}`, which is not there", file.display());
    }
    let servers = Gateway::read(&file, &lookup)?;
    let inherited = INHERITED
        .iter()
        .filter_map(|name| env.get(name).map(|value| ((*name).to_owned(), value)))
        .collect();
    let per_caller = config.gateway.rate.rate().context("`gateway.rate`")?;
    let hub = Hub::new(inherited, tasks, Arc::new(move || clock.now()), per_caller)
        .context("no HTTP client can be made")?;
    let mut gateway = Gateway::new(hub, file, lookup);
    let (name, words) = (&config.gateway.publish_as, &config.gateway.publish);
    if !words.is_empty() {
        let server = Upstream::of_command(name, words).context("`gateway.publish`")?;
        gateway = gateway.publishing(name.clone(), server);
    }
    Ok((Arc::new(gateway), servers))
}

/// Tells a mistake in the file of servers before anything is opened.
pub fn check(config: &Config, env: &'static dyn Env) -> anyhow::Result<()> {
    let lookup: Lookup = Arc::new(|name| env.get(name));
    Gateway::read(&file(config, &DataDir::place(config)?), &lookup)?;
    Ok(())
}

fn file(config: &Config, data_dir: &Path) -> PathBuf {
    match &config.gateway.mcp_config {
        Some(it) => it.clone(),
        None if Path::new(FILE).exists() => FILE.into(),
        None => data_dir.join(FILE),
    }
}
