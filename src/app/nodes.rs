//! The nodes of a data directory that no server has open, looked at once from this process.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use orch_adapters::engines::NodeEngines;
use orch_adapters::store::SledStore;
use orch_core::ports::clock::SystemClock;
use orch_core::ports::engine::{EngineError, Engines};
use orch_core::ports::store::Store;
use orch_domain::node::{EngineConfig, Node};
use orch_domain::trouble::Trouble;
use tokio_util::task::TaskTracker;

use crate::config::{Config, Env};

/// Longer than each step may take by itself, so that the one that hangs is named.
const PATIENCE: Duration = Duration::from_secs(15);
const AT_ONCE: usize = 32;

/// One look at one node.
#[derive(Debug, PartialEq)]
pub struct Look {
    pub id: String,
    /// Whether its machine is logged in to before its engine is asked.
    pub is_behind_ssh: bool,
    pub found: Result<Answered, Failed>,
}

#[derive(Debug, PartialEq)]
pub struct Answered {
    /// Such as `docker 20.10.24 (API 1.41)`.
    pub version: String,
    /// Milliseconds.
    pub latency_ms: f64,
}

#[derive(Debug, PartialEq)]
pub struct Failed {
    pub trouble: Trouble,
    pub message: String,
}

/// By id. Nothing is recorded and no container is touched. Wants the lock of the data directory.
pub async fn look(config: &Config, env: &dyn Env, data_dir: &Path) -> anyhow::Result<Vec<Look>> {
    let mut nodes = {
        let store = SledStore::open(data_dir)?;
        store.load()?.nodes
    };
    nodes.sort_by(|a, b| a.id.cmp(&b.id));
    let engines = NodeEngines::new(Arc::new(SystemClock), TaskTracker::new())
        .with_ssh(super::ssh_settings(config, env));
    let looks = nodes.iter().map(|it| look_at(&engines, it));
    Ok(stream::iter(looks).buffered(AT_ONCE).collect().await)
}

async fn look_at(engines: &NodeEngines, node: &Node) -> Look {
    let started = Instant::now();
    let answer = match engines.engine(node) {
        Ok(engine) => tokio::time::timeout(PATIENCE, engine.describe())
            .await
            .unwrap_or(Err(EngineError::Timeout { after: PATIENCE })),
        Err(err) => Err(err),
    };
    let latency_ms = started.elapsed().as_secs_f64() * 1000.0;
    Look {
        id: node.id.to_string(),
        is_behind_ssh: matches!(node.engine, EngineConfig::DockerOverSsh(_)),
        found: match answer {
            Ok(info) => Ok(Answered { version: info.version, latency_ms }),
            Err(err) => Err(Failed { trouble: err.trouble(), message: err.to_string() }),
        },
    }
}
