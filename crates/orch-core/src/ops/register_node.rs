//! A machine with an engine becomes a node.

use std::collections::BTreeSet;
use std::sync::Arc;

use orch_domain::Error;
use orch_domain::caller::Permission;
use orch_domain::label::Labels;
use orch_domain::name::{NodeId, Tag};
use orch_domain::node::{EngineConfig, Role, SimConfig, check_host};
use orch_domain::resource::{Cpu, Memory};
use orch_domain::ssh::Trust;
use orch_domain::text::check_line;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::operation::{Operation, Route, Spec, spec};
use crate::service::nodes::Enrolment;
use crate::service::ssh_arguments::SshArguments;
use crate::view::node::OneNode;
use crate::{Cx, Orch};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RegisterNode {
    /// What to call the node from now on; its host name unless given.
    pub id: Option<NodeId>,
    /// What people call the machine.
    pub hostname: String,
    /// IP address or host name where instances of the node are reached; `127.0.0.1` for a local engine, the engine's
    /// own host for one at `tcp://`, `hostname` for one over SSH. A name that only the SSH configuration of this server's
    /// user knows stands for what it says there. Published ports bind to it when it is an IP address. `tailscale_ip` is the same.
    #[serde(alias = "tailscale_ip")]
    pub address: Option<String>,
    /// Only a `worker` is given instances that name no node.
    #[serde(default)]
    pub role: Role,
    /// `docker`, or `sim` for a simulated engine in memory.
    #[serde(default)]
    pub engine: EngineKind,
    /// Where the Docker engine listens: `unix:///var/run/docker.sock` (unless given) or `tcp://HOST:PORT`.
    pub endpoint: Option<String>,
    /// For a Docker engine on a machine behind SSH: how to log in there. Goes in place of `endpoint`. What is left out is
    /// taken from the SSH configuration (`~/.ssh/config`) of this server's user, as `ssh` does.
    pub ssh: Option<SshArguments>,
    /// What a simulated engine has and how it misbehaves.
    pub sim: Option<SimConfig>,
    /// To choose nodes by, such as `gpu` or `production`; at most 64.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub tags: BTreeSet<Tag>,
    #[serde(default)]
    pub labels: Labels,
    /// One line, at most 200 characters.
    #[serde(default)]
    pub description: String,
    /// vCPU that may be given out; read from the engine, and kept up to date, unless this or `memory_gb` is given.
    pub cpu_cores: Option<Cpu>,
    /// GiB that may be given out.
    pub memory_gb: Option<Memory>,
    /// GPUs that may be given out, by the indices 0 to one less; as many as `nvidia-smi` tells of on the machine unless given.
    #[schemars(range(max = 64))]
    pub gpu: Option<u32>,
    /// Register it even though its engine does not answer now.
    #[serde(default)]
    pub force: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    #[default]
    Docker,
    Sim,
}

const DOCKER_SOCKET: &str = "unix:///var/run/docker.sock";

impl Operation for RegisterNode {
    const SPEC: Spec = spec!(
        "register_node",
        Nodes,
        Creates,
        Some(Permission::Admin),
        [Route::post("/cluster/nodes")]
    );
    type Output = OneNode;

    async fn run(self, orch: &Arc<Orch>, cx: &Cx) -> Result<OneNode, Error> {
        let enrolment = self.check(orch).await?;
        cx.audit_target(&enrolment.id);
        orch.enrol(Some(cx), enrolment).await.map(OneNode)
    }
}

impl RegisterNode {
    /// The rules that types alone do not carry.
    async fn check(mut self, orch: &Orch) -> Result<Enrolment, Error> {
        check_host("hostname", &self.hostname)?;
        check_line("description", &self.description, MAX_DESCRIPTION)?;
        check_tags(&self.tags)?;
        check_gpu(self.gpu)?;
        let trust = self.ssh.as_ref().map_or(Ok(Trust::default()), SshArguments::trust)?;
        let engine = match self.engine {
            EngineKind::Docker if self.ssh.is_some() => {
                refuse_given("sim", self.sim.is_some(), "sim")?;
                if self.endpoint.is_some() {
                    let message = "the engine is either at an `endpoint` or behind `ssh`; give one";
                    return Err(Error::invalid("endpoint", message));
                }
                let host = self.address.as_ref().unwrap_or(&self.hostname).clone();
                let arguments = self.ssh.take().unwrap_or_default();
                let is_named = arguments.host.is_none();
                let endpoint = arguments.resolve(orch, host.clone()).await?;
                // An address that only the SSH configuration knows is of no use to those who call an instance.
                if is_named && endpoint.host != host {
                    self.address = Some(endpoint.host.clone());
                }
                EngineConfig::DockerOverSsh(endpoint)
            }
            EngineKind::Docker => {
                refuse_given("sim", self.sim.is_some(), "sim")?;
                let endpoint = self.endpoint.unwrap_or_else(|| DOCKER_SOCKET.to_owned());
                EngineConfig::Docker { endpoint }
            }
            EngineKind::Sim => {
                refuse_given("endpoint", self.endpoint.is_some(), "docker")?;
                refuse_given("ssh", self.ssh.is_some(), "docker")?;
                EngineConfig::Sim(self.sim.unwrap_or_default())
            }
        };
        let id = match self.id {
            Some(id) => id,
            None => NodeId::try_new(&self.hostname).map_err(|_| {
                Error::invalid("id", "the host name cannot be the id of the node; give an `id`")
            })?,
        };
        let address = self.address.unwrap_or_else(|| engine.default_address().to_owned());
        check_host("address", &address)?;
        Ok(Enrolment {
            id,
            hostname: self.hostname,
            address,
            role: self.role,
            engine,
            trust,
            tags: self.tags,
            labels: self.labels,
            description: self.description,
            cpu: self.cpu_cores,
            memory: self.memory_gb,
            gpu: self.gpu,
            force: self.force,
        })
    }
}

pub(super) const MAX_DESCRIPTION: usize = 200;

pub(super) fn check_gpu(gpu: Option<u32>) -> Result<(), Error> {
    match gpu.unwrap_or_default() {
        0..=64 => Ok(()),
        n => Err(Error::invalid("gpu", format!("{n} is more than 64"))),
    }
}

pub(super) fn check_tags(tags: &BTreeSet<Tag>) -> Result<(), Error> {
    match tags.len() {
        0..=64 => Ok(()),
        n => Err(Error::invalid("tags", format!("{n} tags; at most 64 are allowed"))),
    }
}

fn refuse_given(parameter: &str, is_given: bool, kind: &str) -> Result<(), Error> {
    if is_given {
        return Err(Error::invalid(parameter, format!("it goes with `engine={kind}` only")));
    }
    Ok(())
}
