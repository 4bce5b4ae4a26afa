//! An instance as callers see it.

use orch_domain::book::Book;
use orch_domain::image::ImageRef;
use orch_domain::instance::{Instance, InstanceState, StateReason};
use orch_domain::label::Labels;
use orch_domain::name::{InstanceId, InstanceName, NodeId, UserId};
use orch_domain::node_loss::{OnNodeLoss, Remnant, SeenState};
use orch_domain::port::PortBinding;
use orch_domain::resource::{Cpu, Memory};
use orch_domain::time::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use crate::operation::Summary;
use crate::view::table::table;

#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct InstanceView {
    pub id: InstanceId,
    pub name: InstanceName,
    pub image: ImageRef,
    /// `unreachable`: its node does not answer, and it keeps all it holds.
    pub state: SeenState,
    /// Why it is in this state, when that was not simply asked for.
    pub state_reason: Option<StateReason>,
    pub node_id: NodeId,
    /// Host name of the node.
    pub node_name: String,
    /// Its node is simulated: no program runs, and nothing answers at `address`.
    pub simulated: bool,
    /// `ip:port` where the first published port is reached; null when nothing is published, or it is terminated.
    pub address: Option<String>,
    pub ports: Vec<PortBinding>,
    /// vCPU.
    pub cpu: Cpu,
    /// GiB.
    pub memory: Memory,
    pub gpu: u32,
    /// Which GPUs of the node are its own, by index; no other instance has them.
    pub gpus: Vec<u32>,
    pub owner: UserId,
    pub labels: Labels,
    /// Replaces the image's own command when not empty.
    pub command: Vec<String>,
    /// Names of the environment variables that were set; their values are not shown.
    pub env_names: Vec<String>,
    pub termination_protection: bool,
    /// What becomes of it when its node stays unreachable.
    pub on_node_loss: OnNodeLoss,
    /// Grows when it is started anew on another node.
    pub generation: u32,
    /// What earlier generations may still have on the nodes they were on; it goes as soon as these answer.
    pub remnants: Vec<RemnantView>,
    pub created_at: Timestamp,
    /// First time it ran.
    pub launched_at: Option<Timestamp>,
    pub terminated_at: Option<Timestamp>,
}

// Holds that node's capacity and ports until its container was seen to be gone; said once, at the field.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct RemnantView {
    pub node_id: NodeId,
    pub generation: u32,
    /// When the instance left.
    pub since: Timestamp,
}

impl RemnantView {
    fn of(remnant: &Remnant) -> RemnantView {
        RemnantView {
            node_id: remnant.node_id.clone(),
            generation: remnant.generation,
            since: remnant.since,
        }
    }
}

impl InstanceView {
    pub fn of(instance: &Instance, book: &Book) -> InstanceView {
        let node = book.slot(&instance.node_id).map(|it| &it.node);
        let ip = node.map_or("", |it| it.address.as_str());
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
        // What it had may be somebody else's by now.
        let ports = match instance.state {
            InstanceState::Terminated => Vec::new(),
            _ => instance.ports.clone(),
        };
        InstanceView {
            id: instance.id.clone(),
            name: instance.name.clone(),
            image: instance.image.clone(),
            state: book.seen_state(instance),
            state_reason: book.seen_reason(instance),
            node_id: instance.node_id.clone(),
            simulated: node.is_some_and(|it| it.is_simulated()),
            node_name: node.map_or_else(|| instance.node_id.to_string(), |it| it.hostname.clone()),
            address: ports.first().map(|it| format!("{host}:{}", it.host_port)),
            ports,
            cpu: instance.resources.cpu,
            memory: instance.resources.memory,
            gpu: instance.resources.gpu,
            gpus: instance.gpus.clone(),
            owner: instance.owner.clone(),
            labels: instance.labels.clone(),
            command: instance.command.clone(),
            env_names: instance.env.keys().cloned().collect(),
            termination_protection: instance.termination_protection,
            on_node_loss: instance.on_node_loss,
            generation: instance.generation,
            remnants: instance.remnants.iter().map(RemnantView::of).collect(),
            created_at: instance.created_at,
            launched_at: instance.launched_at,
            terminated_at: instance.terminated_at,
        }
    }

    /// One line: id, name, state, and where it is reached.
    pub fn line(&self) -> String {
        let mut text = format!(
            "{} `{}` ({}) is {} on {}{}",
            self.id,
            self.name,
            self.image,
            self.state,
            self.node_id,
            if self.simulated { " (simulated)" } else { "" },
        );
        if let (Some(address), SeenState::Running) = (&self.address, self.state) {
            text.push_str(&format!(", reached at {address}"));
        }
        if let Some(reason) = &self.state_reason {
            text.push_str(&format!(": {}", reason.message));
        }
        text
    }
}

/// Instances as a table.
pub fn instance_table(instances: &[InstanceView]) -> String {
    let row = |it: &InstanceView| {
        [
            it.id.to_string(),
            it.name.to_string(),
            it.state.to_string(),
            match it.simulated {
                true => format!("{} (simulated)", it.node_id),
                false => it.node_id.to_string(),
            },
            it.address.clone().unwrap_or_else(|| "-".to_owned()),
            format!("{}", it.cpu.vcpu()),
            it.memory.to_string(),
            it.image.to_string(),
        ]
    };
    table(
        ["ID", "NAME", "STATE", "NODE", "ADDRESS", "CPU", "MEMORY", "IMAGE"],
        instances.iter().map(row),
    )
}

/// One instance, as `get_instance`, `stop_instance` and the like answer it.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct OneInstance(pub InstanceView);

impl Summary for OneInstance {
    fn summary(&self) -> String {
        self.0.line()
    }
}
