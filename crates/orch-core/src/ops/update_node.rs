//! What is known of a node changes, or where its engine is.

use std::collections::BTreeSet;
use std::sync::Arc;

use orch_domain::Error;
use orch_domain::caller::Permission;
use orch_domain::label::Labels;
use orch_domain::name::{NodeId, Tag};
use orch_domain::node::{EngineConfig, Node, Role, SimConfig, check_host};
use orch_domain::resource::{Cpu, Memory};
use orch_domain::ssh::Trust;
use orch_domain::text::check_line;
use schemars::JsonSchema;
use serde::Deserialize;

use super::register_node::{MAX_DESCRIPTION, check_gpu, check_tags};
use crate::operation::{Operation, Route, Spec, spec};
use crate::service::nodes::engine_parameter;
use crate::service::ssh_arguments::SshArguments;
use crate::view::node::OneNode;
use crate::{Cx, Orch};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateNode {
    pub node_id: NodeId,
    pub hostname: Option<String>,
    /// Where its instances are reached. Ports that are published already stay bound where they are.
    #[serde(alias = "tailscale_ip")]
    pub address: Option<String>,
    pub role: Option<Role>,
    /// Where its Docker engine listens; refused while the node holds instances.
    pub endpoint: Option<String>,
    /// How to log in to its machine; what is left out stays, and with a new `host` is taken from the SSH configuration.
    /// `accept_host_key` is for a machine that was set up anew.
    pub ssh: Option<SshArguments>,
    /// What its simulated engine has and how it misbehaves, in place of all it was told before.
    pub sim: Option<SimConfig>,
    /// New tags, in place of all it has.
    pub tags: Option<BTreeSet<Tag>>,
    /// New labels, in place of all it has.
    pub labels: Option<Labels>,
    /// One line, at most 200 characters.
    pub description: Option<String>,
    /// vCPU that may be given out. Fixes the capacity: it does not follow the engine any more.
    pub cpu_cores: Option<Cpu>,
    /// GiB that may be given out. Fixes the capacity: it does not follow the engine any more.
    pub memory_gb: Option<Memory>,
    /// GPUs that may be given out, by the indices 0 to one less. Fixes their number: it does not follow the machine any more.
    #[schemars(range(max = 64))]
    pub gpu: Option<u32>,
}

impl Operation for UpdateNode {
    const SPEC: Spec = spec!(
        "update_node",
        Nodes,
        Changes,
        Some(Permission::Admin),
        [Route::put("/cluster/nodes/{node_id}")]
    );
    type Output = OneNode;

    async fn run(self, orch: &Arc<Orch>, cx: &Cx) -> Result<OneNode, Error> {
        cx.audit_target(&self.node_id);
        self.check()?;
        let before = orch.ledger.read(|book| book.slot(&self.node_id).map(|it| it.node.clone()));
        let before = before.ok_or_else(|| Error::no_node(&self.node_id))?;
        let trust = self.ssh.as_ref().map_or(Ok(Trust::default()), SshArguments::trust)?;
        let mut engine = self.new_engine(orch, &before).await?;
        if let Some(engine) = &engine {
            orch.engines
                .check(engine)
                .map_err(|message| Error::invalid(engine_parameter(engine), message))?;
        }
        if let Some(it) = engine.take() {
            let moved = Node { engine: it, ..Node::clone(&before) };
            engine = Some(match &moved.engine {
                EngineConfig::DockerOverSsh(ssh) if !ssh.is_met() => {
                    orch.identify(&moved, &trust, false).await?
                }
                it => it.clone(),
            });
        }
        let id = self.node_id.clone();
        let is_moved = engine.is_some();
        orch.ledger
            .write(Some(cx), |book| book.change_node(&id, |node| self.apply(engine, node)))
            .await?;
        if is_moved {
            crate::task::follow(orch, &id);
            let node = orch.ledger.read(|book| book.slot(&id).map(|it| it.node.clone()));
            if let Some(node) = node {
                orch.check(&node).await?;
            }
        }
        orch.node_view(&id).map(OneNode)
    }
}

impl UpdateNode {
    fn check(&self) -> Result<(), Error> {
        if let Some(it) = &self.hostname {
            check_host("hostname", it)?;
        }
        if let Some(it) = &self.address {
            check_host("address", it)?;
        }
        if let Some(it) = &self.description {
            check_line("description", it, MAX_DESCRIPTION)?;
        }
        check_gpu(self.gpu)?;
        self.tags.as_ref().map_or(Ok(()), check_tags)
    }

    async fn new_engine(&self, orch: &Orch, node: &Node) -> Result<Option<EngineConfig>, Error> {
        let other_kind = |parameter: &str| {
            let kind = node.engine.kind();
            Error::invalid(parameter, format!("the engine of `{}` is `{kind}`", node.id))
        };
        if let Some(arguments) = &self.ssh {
            return match &node.engine {
                EngineConfig::DockerOverSsh(ssh)
                    if self.endpoint.is_none() && self.sim.is_none() =>
                {
                    let changed = arguments.clone().change(orch, ssh.clone()).await?;
                    Ok(Some(EngineConfig::DockerOverSsh(changed)))
                }
                EngineConfig::DockerOverSsh(_) => {
                    Err(Error::invalid("ssh", "it goes neither with `endpoint` nor with `sim`"))
                }
                _ => Err(Error::invalid(
                    "ssh",
                    format!("`{}` is not reached over SSH; register it anew for that", node.id),
                )),
            };
        }
        match (&node.engine, &self.endpoint, &self.sim) {
            (_, None, None) => Ok(None),
            (EngineConfig::DockerOverSsh(_), _, _) => {
                let parameter = if self.sim.is_some() { "sim" } else { "endpoint" };
                let message = format!("`{}` is reached over SSH; `ssh` changes how", node.id);
                Err(Error::invalid(parameter, message))
            }
            (EngineConfig::Docker { .. }, Some(endpoint), None) => {
                Ok(Some(EngineConfig::Docker { endpoint: endpoint.clone() }))
            }
            (EngineConfig::Sim(_), None, Some(sim)) => Ok(Some(EngineConfig::Sim(sim.clone()))),
            (EngineConfig::Docker { .. }, _, _) => Err(other_kind("sim")),
            (EngineConfig::Sim(_), _, _) => Err(other_kind("endpoint")),
        }
    }

    fn apply(self, engine: Option<EngineConfig>, node: &mut Node) {
        node.engine = engine.unwrap_or(node.engine.clone());
        node.hostname = self.hostname.unwrap_or(node.hostname.clone());
        node.address = self.address.unwrap_or(node.address.clone());
        node.role = self.role.unwrap_or(node.role);
        node.tags = self.tags.unwrap_or(node.tags.clone());
        node.labels = self.labels.unwrap_or(node.labels.clone());
        node.description = self.description.unwrap_or(node.description.clone());
        node.capacity_is_fixed |= self.cpu_cores.is_some() || self.memory_gb.is_some();
        node.gpu_is_fixed |= self.gpu.is_some();
        node.capacity.gpu = self.gpu.unwrap_or(node.capacity.gpu);
        node.capacity.cpu = self.cpu_cores.unwrap_or(node.capacity.cpu);
        node.capacity.memory = self.memory_gb.unwrap_or(node.capacity.memory);
    }
}
