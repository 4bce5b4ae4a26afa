//! A lab as MCP clients meet it: healthy nodes, the two built-in users, and everybody has to show a key.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use mcp_orch::auth::{Access, Mode, Sites};
use orch_core::settings::Settings;
use orch_domain::caller::{Caller, Channel};
use orch_domain::node::SimConfig;

use super::caller::built_in;
pub(crate) use super::caller::{ADMIN, DEMO};
use super::lab::Lab;

pub(crate) struct World(Lab);

impl Deref for World {
    type Target = Lab;
    fn deref(&self) -> &Lab {
        &self.0
    }
}

impl World {
    /// With `n_nodes` healthy workers `n1`, `n2` …, each with 16 vCPU and 64 GiB.
    pub(crate) async fn with_nodes(n_nodes: usize) -> World {
        World::scripted(n_nodes, SimConfig::default()).await
    }

    pub(crate) async fn scripted(n_nodes: usize, script: SimConfig) -> World {
        let settings = Settings { stop_grace: Duration::from_millis(10), ..Settings::default() };
        let lab = Lab::empty(settings).await;
        for user in built_in() {
            lab.add_user(user).await;
        }
        lab.add_nodes(n_nodes, script).await;
        World(lab)
    }

    /// As it comes over a stream, before it has said what program it is.
    pub(crate) fn stranger(&self, user: &str) -> Caller {
        Caller { channel: Channel::Mcp, client: None, ..self.caller(user) }
    }

    pub(crate) fn access(&self) -> Arc<Access> {
        Arc::new(Access::new(self.orch().clone(), Mode::Login, Sites::loopback()))
    }
}
