//! A fleet of engines in memory, for demos without Docker, tests of scale and tests of faults.
//!
//! An engine at rest is a few maps and no task, so thousands are cheap. What it is to do wrong is scripted: by its
//! [`SimConfig`], and at run time through a [`SimControl`]. Nothing is left to chance.

mod command;
mod control;
mod engine;
mod host;

use std::collections::HashMap;
use std::sync::Arc;

use orch_core::ports::clock::Clock;
use orch_core::ports::engine::Engine;
use orch_domain::name::NodeId;
use orch_domain::node::SimConfig;
use parking_lot::Mutex;

pub use self::control::SimControl;
pub use self::engine::SimEngine;

/// All simulated nodes of this process. A node keeps its containers when it is registered anew, as a machine does.
pub struct SimFleet {
    clock: Arc<dyn Clock>,
    nodes: Mutex<HashMap<NodeId, Registered>>,
}

struct Registered {
    /// As last registered. A script may have changed what is in force, which must survive the next use of the node.
    config: SimConfig,
    engine: SimEngine,
}

impl SimFleet {
    pub fn new(clock: Arc<dyn Clock>) -> SimFleet {
        SimFleet { clock, nodes: Mutex::default() }
    }

    /// The engine of a node, made when it is new; a changed registration takes effect at once.
    pub fn engine(&self, node_id: &NodeId, config: &SimConfig) -> Arc<dyn Engine> {
        let mut nodes = self.nodes.lock();
        let node = nodes.entry(node_id.clone()).or_insert_with(|| Registered {
            config: config.clone(),
            engine: SimEngine::new(node_id.as_str(), config.clone(), Arc::clone(&self.clock)),
        });
        if node.config != *config {
            node.config = config.clone();
            node.engine.control().configure(|it| *it = config.clone());
        }
        Arc::new(node.engine.clone())
    }

    /// The strings behind a node; none before its engine was first used.
    pub fn control(&self, node_id: &NodeId) -> Option<SimControl> {
        self.nodes.lock().get(node_id).map(|it| it.engine.control())
    }
}

#[cfg(test)]
mod tests;
