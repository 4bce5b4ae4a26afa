//! Logs to stderr, and the recorder that `/metrics` shows.

use anyhow::Context;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, LogLevel, Server};

/// Starts logging. Stdout stays free: in stdio mode it belongs to the protocol.
pub fn start_logging(server: &Server) -> anyhow::Result<()> {
    let level = if server.debug { server.log_level.max(LogLevel::Debug) } else { server.log_level };
    // The protocol library logs whole payloads at info and debug, and those may hold secrets.
    let filter = format!("{level},rmcp=warn,hyper=warn,h2=warn,sled=warn", level = level.as_str());
    let filter = EnvFilter::try_new(filter).context("the log filter is malformed")?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // Otherwise a line that cannot be written, because the disk is full or nobody reads any more, is a panic in
        // whatever wrote it: it is complained of on stderr too.
        .log_internal_errors(false)
        .with_target(false);
    let started = match server.log_format {
        LogFormat::Json => builder.json().try_init(),
        LogFormat::Text => {
            let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
            builder.with_ansi(is_terminal).try_init()
        }
    };
    started.map_err(|err| anyhow::anyhow!("logging cannot be started: {err}"))
}

/// Collects from now on what services count and measure.
pub fn start_metrics() -> anyhow::Result<PrometheusHandle> {
    PrometheusBuilder::new().install_recorder().context("the metrics recorder cannot be installed")
}
