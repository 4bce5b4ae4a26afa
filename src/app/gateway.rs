//! The MCP servers behind this one, from their file to connections.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use orch_core::Orch;
use orch_core::ports::clock::Clock;
use orch_domain::event::News;
use orch_gateway::config::{McpConfig, Upstream};
use orch_gateway::hub::Hub;
use orch_gateway::port::{Gateway, Lookup};
use orch_gateway::safety::Settings;
use orch_gateway::safety::pin::PinMode;
use orch_gateway::safety::redact::Patterns;
use orch_gateway::server::Change;
use orch_gateway::upstream::stdio::INHERITED;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::data_dir::DataDir;
use crate::config::{Config, Env, Gateway as GatewaySection, Pin};

/// In the data directory: what servers offered, pins, results, and the list of children.
const DIR: &str = "gateway";
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
    let safety = safety(&config.gateway, data_dir.path())?;
    let hub = Hub::new(inherited, tasks, Arc::new(move || clock.now()), per_caller, safety)
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
    let place = DataDir::place(config)?;
    Gateway::read(&file(config, &place), &lookup)?;
    safety(&config.gateway, &place).map(drop)
}

fn safety(config: &GatewaySection, data_dir: &Path) -> anyhow::Result<Settings> {
    let redact = Patterns::parse(&config.redact)
        .map_err(|(i, message)| anyhow::anyhow!("`gateway.redact[{i}]`: {message}"))?;
    Ok(Settings {
        dir: Some(data_dir.join(DIR)),
        pin: match config.pin {
            Pin::Off => PinMode::Off,
            Pin::Warn => PinMode::Warn,
            Pin::Enforce => PinMode::Enforce,
        },
        redact,
        max_result_bytes: (config.max_result_bytes != 0).then_some(config.max_result_bytes),
        max_children: Some(config.max_children),
    })
}

/// That a tool is not what it was, is told as what happens to nodes is, until `ended`.
pub(super) async fn tell_of_tools(
    mut changes: Receiver<Change>,
    orch: Arc<Orch>,
    ended: CancellationToken,
) {
    loop {
        let change = tokio::select! {
            change = changes.recv() => change,
            () = ended.cancelled() => return,
        };
        match change {
            Ok(Change::Flagged { server, flag }) => {
                let differs = flag.differs.as_str();
                let news = News::tool_flagged(&server, &flag.origin, differs, flag.is_quarantined);
                if let Err(err) = orch.ledger.announce(None, news).await {
                    tracing::warn!("that a tool of `{server}` differs is not recorded: {err}");
                }
            }
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}

fn file(config: &Config, data_dir: &Path) -> PathBuf {
    match &config.gateway.mcp_config {
        Some(it) => it.clone(),
        None if Path::new(FILE).exists() => FILE.into(),
        None => data_dir.join(FILE),
    }
}
