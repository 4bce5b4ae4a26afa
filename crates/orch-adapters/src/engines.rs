//! The engine of each node, made when first asked for and kept, so that connections and simulated state persist.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use orch_core::ports::clock::Clock;
use orch_core::ports::engine::{Engine, EngineError, Engines};
use orch_domain::name::NodeId;
use orch_domain::node::{EngineConfig, Node};
use orch_domain::ssh::{SshEndpoint, SshWanted, Trust};
use parking_lot::Mutex;
use tokio_util::task::TaskTracker;

use crate::docker::DockerEngine;
use crate::sim::SimFleet;
use crate::ssh::{self, Jumps, Link, SshSettings};

/// For a machine to show its key.
const MEETING: Duration = Duration::from_secs(10);

struct OverSsh {
    made_for: SshEndpoint,
    link: Arc<Link>,
    engine: Arc<DockerEngine>,
}

pub struct NodeEngines {
    tracker: TaskTracker,
    fleet: Arc<SimFleet>,
    /// With the endpoint each was made for: a node that moves gets a new one.
    docker: Mutex<HashMap<NodeId, (String, Arc<DockerEngine>)>>,
    ssh: SshSettings,
    jumps: Jumps,
    over_ssh: Mutex<HashMap<NodeId, OverSsh>>,
}

impl NodeEngines {
    /// `tracker` runs what an engine still has to do when a caller has left.
    pub fn new(clock: Arc<dyn Clock>, tracker: TaskTracker) -> NodeEngines {
        NodeEngines {
            tracker,
            fleet: Arc::new(SimFleet::new(clock)),
            docker: Mutex::default(),
            ssh: SshSettings::default(),
            jumps: Jumps::default(),
            over_ssh: Mutex::default(),
        }
    }

    /// With what the user of this server has for SSH.
    pub fn with_ssh(mut self, ssh: SshSettings) -> NodeEngines {
        self.jumps = Jumps::new(ssh.clone());
        self.ssh = ssh;
        self
    }

    /// How often a connection to the machine before this one was begun; None: it is not behind another.
    pub fn n_jump_handshakes(&self, node_id: &NodeId) -> Option<u64> {
        self.over_ssh.lock().get(node_id)?.link.via().map(|it| it.n_handshakes())
    }

    /// How often a connection to this machine was begun; None: it is not reached over SSH, or was not needed yet.
    pub fn n_handshakes(&self, node_id: &NodeId) -> Option<u64> {
        self.over_ssh.lock().get(node_id).map(|it| it.link.n_handshakes())
    }

    /// The simulated nodes, for whoever scripts them.
    pub fn fleet(&self) -> &Arc<SimFleet> {
        &self.fleet
    }

    fn over_ssh(&self, node: &Node, endpoint: &SshEndpoint) -> Arc<DockerEngine> {
        let mut engines = self.over_ssh.lock();
        if let Some(it) = engines.get(&node.id)
            && it.made_for == *endpoint
        {
            return Arc::clone(&it.engine);
        }
        let link = self.jumps.link(endpoint);
        let socket = endpoint.socket.clone();
        let engine =
            Arc::new(DockerEngine::over_ssh(Arc::clone(&link), socket, self.tracker.clone()));
        let made = OverSsh { made_for: endpoint.clone(), link, engine: Arc::clone(&engine) };
        engines.insert(node.id.clone(), made);
        engine
    }

    fn docker(&self, node: &Node, endpoint: &str) -> Result<Arc<DockerEngine>, EngineError> {
        let mut docker = self.docker.lock();
        if let Some((made_for, engine)) = docker.get(&node.id)
            && made_for == endpoint
        {
            return Ok(Arc::clone(engine));
        }
        let engine = DockerEngine::new(endpoint, self.tracker.clone())
            .map_err(|message| EngineError::Refused { message })?;
        let engine = Arc::new(engine);
        docker.insert(node.id.clone(), (endpoint.to_owned(), Arc::clone(&engine)));
        Ok(engine)
    }
}

#[async_trait]
impl Engines for NodeEngines {
    fn engine(&self, node: &Node) -> Result<Arc<dyn Engine>, EngineError> {
        match &node.engine {
            EngineConfig::Docker { endpoint } => {
                self.docker(node, endpoint).map(|it| it as Arc<dyn Engine>)
            }
            EngineConfig::DockerOverSsh(endpoint) => Ok(self.over_ssh(node, endpoint)),
            EngineConfig::Sim(config) => Ok(self.fleet.engine(&node.id, config)),
        }
    }

    fn forget(&self, node_id: &NodeId) {
        self.docker.lock().remove(node_id);
        self.over_ssh.lock().remove(node_id);
    }

    fn check(&self, config: &EngineConfig) -> Result<(), String> {
        match config {
            EngineConfig::Docker { endpoint } => DockerEngine::check(endpoint),
            EngineConfig::DockerOverSsh(it) => it.check().map_err(|err| err.to_string()),
            EngineConfig::Sim(_) => Ok(()),
        }
    }

    async fn resolve(&self, wanted: SshWanted) -> Result<SshEndpoint, String> {
        let settings = self.ssh.clone();
        let resolved = tokio::task::spawn_blocking(move || ssh::resolve(wanted, &settings)).await;
        resolved.unwrap_or_else(|err| Err(format!("the SSH configuration was not read: {err}")))
    }

    async fn identify(
        &self,
        config: &EngineConfig,
        trust: &Trust,
    ) -> Result<EngineConfig, EngineError> {
        let EngineConfig::DockerOverSsh(endpoint) = config else { return Ok(config.clone()) };
        let known = self.jumps.identify(endpoint, trust, MEETING).await;
        Ok(EngineConfig::DockerOverSsh(known.map_err(|err| EngineError::from(&err))?))
    }
}

#[cfg(test)]
mod tests {
    use orch_core::ports::clock::SystemClock;

    use super::*;

    fn node(id: &str, engine: EngineConfig) -> Node {
        Node { engine, ..Node::test(id) }
    }

    fn engines() -> NodeEngines {
        NodeEngines::new(Arc::new(SystemClock), TaskTracker::new())
    }

    #[test]
    fn one_engine_per_node_and_endpoint() {
        let engines = engines();
        let at = |id: &str, endpoint: &str| {
            let config = EngineConfig::Docker { endpoint: endpoint.to_owned() };
            Arc::as_ptr(&engines.docker(&node(id, config), endpoint).unwrap())
        };
        let first = at("a", "unix:///a.sock");
        assert_eq!(first, at("a", "unix:///a.sock"));
        assert_ne!(first, at("b", "unix:///a.sock"));
        assert_ne!(first, at("a", "tcp://127.0.0.1:2375"));
    }

    #[tokio::test]
    async fn a_scripted_change_outlives_the_next_use_of_a_simulated_node() {
        let engines = engines();
        let node = Node::test("s");
        engines.engine(&node).unwrap().describe().await.unwrap();
        let control = engines.fleet().control(&node.id).unwrap();
        control.configure(|it| it.unreachable = true);
        let err = engines.engine(&node).unwrap().describe().await.unwrap_err();
        assert!(matches!(err, EngineError::Unreachable { .. }), "{err:?}");
    }

    #[test]
    fn a_wrong_endpoint_is_refused_before_it_is_used() {
        let config = EngineConfig::Docker { endpoint: "ssh://h".to_owned() };
        assert!(engines().check(&config).unwrap_err().contains("unix://"));
        assert!(matches!(engines().engine(&node("a", config)), Err(EngineError::Refused { .. })));
    }
}
