//! A node as callers see it.

use std::collections::BTreeSet;

use orch_domain::book::Slot;
use orch_domain::health::Check;
use orch_domain::label::Labels;
use orch_domain::metrics::Usage;
use orch_domain::name::{NodeId, Tag};
use orch_domain::node::{EngineConfig, NodeStatus, Role};
use orch_domain::resource::Resources;
use orch_domain::ssh::{HostKey, SshEndpoint};
use orch_domain::time::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use crate::operation::Summary;
use crate::service::health::HealthBoard;
use crate::view::ray::RayOnNode;
use crate::view::table::table;

#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct NodeView {
    pub id: NodeId,
    pub hostname: String,
    /// Where instances of this node are reached.
    pub address: String,
    pub role: Role,
    /// `docker` or `sim`.
    pub engine: String,
    /// How its machine is logged in to, when that is over SSH.
    pub ssh: Option<SshView>,
    /// From the last health checks, damped: one lost check changes nothing.
    pub status: NodeStatus,
    pub status_since: Timestamp,
    /// Takes no new instances.
    pub cordoned: bool,
    pub tags: BTreeSet<Tag>,
    pub labels: Labels,
    pub description: String,
    /// What it has to give out.
    pub capacity: Resources,
    /// What is reserved by instances, running or stopped.
    pub used: Resources,
    pub free: Resources,
    pub n_instances: usize,
    /// Instances that moved away and may still have a container here; it goes as soon as the node answers.
    pub n_remnants: usize,
    pub last_check: Option<Check>,
    /// How full its machine was when it last told, by whoever uses it; `get_node` and `node_status` have the figures.
    pub usage: Option<Usage>,
    /// What Ray says of the machine at this address; null when it is not in Ray.
    pub ray: Option<RayOnNode>,
    pub created_at: Timestamp,
}

/// What was made of the arguments and the SSH configuration; keys are named, never shown.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct SshView {
    pub host: String,
    pub port: u16,
    pub user: String,
    /// What proves who this server is, such as `SSH agent` or `key ~/.ssh/id_ed25519`.
    pub login: String,
    /// Path of the engine's socket on the machine.
    pub socket: String,
    /// By which the machine is recognised.
    pub host_key: Option<HostKey>,
    /// The machines on the way, the nearest first.
    pub jumps: Vec<JumpView>,
}

#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct JumpView {
    pub host: String,
    pub port: u16,
    pub user: String,
    pub login: String,
    pub host_key: Option<HostKey>,
}

impl From<&SshEndpoint> for SshView {
    fn from(it: &SshEndpoint) -> SshView {
        let jumps = it.jumps.iter().map(|it| JumpView {
            host: it.host.clone(),
            port: it.port,
            user: it.user.clone(),
            login: it.login.to_string(),
            host_key: it.host_key.clone(),
        });
        SshView {
            host: it.host.clone(),
            port: it.port,
            user: it.user.clone(),
            login: it.login.to_string(),
            socket: it.socket.clone(),
            host_key: it.host_key.clone(),
            jumps: jumps.collect(),
        }
    }
}

impl NodeView {
    pub fn of(slot: &Slot, health: &HealthBoard) -> NodeView {
        let node = &slot.node;
        NodeView {
            id: node.id.clone(),
            hostname: node.hostname.clone(),
            address: node.address.clone(),
            role: node.role,
            engine: node.engine.kind().to_owned(),
            ssh: match &node.engine {
                EngineConfig::DockerOverSsh(it) => Some(it.into()),
                EngineConfig::Docker { .. } | EngineConfig::Sim(_) => None,
            },
            status: node.status,
            status_since: node.status_since,
            cordoned: node.cordoned,
            tags: node.tags.clone(),
            labels: node.labels.clone(),
            description: node.description.clone(),
            capacity: node.capacity,
            used: slot.used,
            free: slot.free(),
            n_instances: slot.instances.len(),
            n_remnants: slot.remnants.len(),
            last_check: health.last_check(&node.id),
            usage: health.metrics(&node.id).map(|it| it.usage()),
            ray: None,
            created_at: node.created_at,
        }
    }

    pub fn with_ray(self, ray: Option<RayOnNode>) -> NodeView {
        NodeView { ray, ..self }
    }

    pub fn line(&self) -> String {
        let ray = self.ray.as_ref().map_or(String::new(), |it| {
            format!("; in Ray {}, {} ({:.0} s ago)", it.state, it.usage.line(), it.age_seconds)
        });
        let cordoned = if self.cordoned { ", cordoned" } else { "" };
        let gpu = match self.capacity.gpu {
            0 => String::new(),
            all => format!(", {} of {all} GPUs free", self.free.gpu),
        };
        format!(
            "node `{}` ({} {}) is {}{cordoned}: {} and {} free of {} and {}{gpu}, {} instances{ray}",
            self.id,
            self.role,
            shown_engine(&self.engine),
            self.status,
            self.free.cpu,
            self.free.memory,
            self.capacity.cpu,
            self.capacity.memory,
            self.n_instances,
        )
    }
}

/// Nobody should take a simulation for a machine.
fn shown_engine(kind: &str) -> &str {
    if kind == "sim" { "simulated" } else { kind }
}

pub fn node_table(nodes: &[NodeView]) -> String {
    let row = |it: &NodeView| {
        let status =
            if it.cordoned { format!("{} (cordoned)", it.status) } else { it.status.to_string() };
        [
            it.id.to_string(),
            it.role.to_string(),
            status,
            it.address.clone(),
            shown_engine(&it.engine).to_owned(),
            format!("{} of {}", it.free.cpu.vcpu(), it.capacity.cpu.vcpu()),
            format!("{} of {}", it.free.memory, it.capacity.memory),
            it.n_instances.to_string(),
        ]
    };
    table(
        ["ID", "ROLE", "STATUS", "ADDRESS", "ENGINE", "FREE CPU", "FREE MEMORY", "INSTANCES"],
        nodes.iter().map(row),
    )
}

/// One node, as `get_node`, `register_node` and the like answer it.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct OneNode(pub NodeView);

impl Summary for OneNode {
    fn summary(&self) -> String {
        self.0.line()
    }
}
