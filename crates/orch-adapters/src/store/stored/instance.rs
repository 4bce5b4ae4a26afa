//! Stored instances.

use std::collections::BTreeMap;

use orch_domain::image::ImageRef;
use orch_domain::instance::{Goal, Instance, InstanceState, LaunchToken, ReasonCode, StateReason};
use orch_domain::label::Labels;
use orch_domain::name::{ClientToken, InstanceId, InstanceName, NodeId, Tag, UserId};
use orch_domain::node::Role;
use orch_domain::node_loss::{OnNodeLoss, Remnant, Wishes};
use orch_domain::placement::Strategy;
use orch_domain::port::{PortBinding, Protocol};
use orch_domain::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::node::RoleV1;
use super::{BadRow, ResourcesV1, stored_enum};

stored_enum!(StateV1 is InstanceState {
    Pending = "pending",
    Running = "running",
    Stopping = "stopping",
    Stopped = "stopped",
    ShuttingDown = "shutting-down",
    Terminated = "terminated",
});

stored_enum!(GoalV1 is Goal { Running = "running", Stopped = "stopped", Terminated = "terminated" });

stored_enum!(ReasonCodeV1 is ReasonCode {
    UserInitiatedShutdown = "user-initiated-shutdown",
    InstanceInitiatedShutdown = "instance-initiated-shutdown",
    CommandCompleted = "command-completed",
    LaunchCancelled = "launch-cancelled",
    ImageNotFound = "image-not-found",
    InvalidCommand = "invalid-command",
    InsufficientInstanceCapacity = "insufficient-instance-capacity",
    PortsExhausted = "ports-exhausted",
    NodeLost = "node-lost",
    NodeUnreachable = "node-unreachable",
    Relocated = "relocated",
    OutOfMemory = "out-of-memory",
    ContainerRemoved = "container-removed",
    ContainerStopped = "container-stopped",
    NameTaken = "name-taken",
    EngineError = "engine-error",
});

stored_enum!(OnNodeLossV1 is OnNodeLoss { Keep = "keep", Reschedule = "reschedule" });

stored_enum!(StrategyV1 is Strategy { Spread = "spread", Binpack = "binpack", RayAware = "ray-aware" });

stored_enum!(ProtocolV1 is Protocol { Tcp = "tcp", Udp = "udp" });

#[derive(Debug, Serialize, Deserialize)]
pub(in crate::store) struct InstanceV1 {
    id: String,
    name: String,
    image: String,
    state: StateV1,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    state_reason: Option<ReasonV1>,
    state_since: i64,
    goal: GoalV1,
    node_id: String,
    generation: u32,
    resources: ResourcesV1,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ports: Vec<BindingV1>,
    /// Not there in rows from before GPUs were given out by index.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    gpus: Vec<u32>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    env: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    command: Vec<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
    owner: String,
    created_at: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    launched_at: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    terminated_at: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token: Option<TokenV1>,
    #[serde(default)]
    termination_protection: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    container_id: Option<String>,
    #[serde(default = "keep")]
    on_node_loss: OnNodeLossV1,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    role: Option<RoleV1>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tags: Vec<String>,
    #[serde(default = "spread")]
    strategy: StrategyV1,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    remnants: Vec<RemnantV1>,
}

/// What rows mean that were written before there was a choice.
fn keep() -> OnNodeLossV1 {
    OnNodeLossV1::Keep
}

fn spread() -> StrategyV1 {
    StrategyV1::Spread
}

#[derive(Debug, Serialize, Deserialize)]
struct RemnantV1 {
    node_id: String,
    generation: u32,
    resources: ResourcesV1,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ports: Vec<BindingV1>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    gpus: Vec<u32>,
    since: i64,
}

#[derive(Debug, Serialize, Deserialize)]
struct ReasonV1 {
    code: ReasonCodeV1,
    message: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct BindingV1 {
    container_port: u16,
    host_port: u16,
    protocol: ProtocolV1,
}

#[derive(Debug, Serialize, Deserialize)]
struct TokenV1 {
    token: String,
    is_derived: bool,
    arguments_sha256: String,
}

impl From<&Instance> for InstanceV1 {
    fn from(it: &Instance) -> InstanceV1 {
        InstanceV1 {
            id: it.id.to_string(),
            name: it.name.to_string(),
            image: it.image.to_string(),
            state: it.state.into(),
            state_reason: it
                .state_reason
                .as_ref()
                .map(|it| ReasonV1 { code: it.code.into(), message: it.message.clone() }),
            state_since: it.state_since.as_millis(),
            goal: it.goal.into(),
            node_id: it.node_id.to_string(),
            generation: it.generation,
            resources: it.resources.into(),
            ports: it.ports.iter().map(BindingV1::from).collect(),
            gpus: it.gpus.clone(),
            env: it.env.clone(),
            command: it.command.clone(),
            labels: it.labels.iter().map(|(key, value)| (key.into(), value.into())).collect(),
            owner: it.owner.to_string(),
            created_at: it.created_at.as_millis(),
            launched_at: it.launched_at.map(Timestamp::as_millis),
            terminated_at: it.terminated_at.map(Timestamp::as_millis),
            token: it.token.as_ref().map(|it| TokenV1 {
                token: it.token.to_string(),
                is_derived: it.is_derived,
                arguments_sha256: it.arguments_sha256.clone(),
            }),
            termination_protection: it.termination_protection,
            container_id: it.container_id.clone(),
            on_node_loss: it.on_node_loss.into(),
            role: it.wishes.role.map(RoleV1::from),
            tags: it.wishes.tags.iter().map(Tag::to_string).collect(),
            strategy: it.wishes.strategy.into(),
            remnants: it.remnants.iter().map(RemnantV1::from).collect(),
        }
    }
}

impl TryFrom<InstanceV1> for Instance {
    type Error = BadRow;
    fn try_from(it: InstanceV1) -> Result<Instance, BadRow> {
        let token = match it.token {
            None => None,
            Some(it) => Some(LaunchToken {
                token: ClientToken::try_new(it.token)?,
                is_derived: it.is_derived,
                arguments_sha256: it.arguments_sha256,
            }),
        };
        Ok(Instance {
            id: InstanceId::try_new(it.id)?,
            name: InstanceName::try_new(it.name)?,
            image: ImageRef::try_new(it.image)?,
            state: it.state.into(),
            state_reason: it
                .state_reason
                .map(|it| StateReason { code: it.code.into(), message: it.message }),
            state_since: Timestamp::from_millis(it.state_since),
            goal: it.goal.into(),
            node_id: NodeId::try_new(it.node_id)?,
            generation: it.generation,
            resources: it.resources.into(),
            ports: it.ports.into_iter().map(PortBinding::from).collect(),
            gpus: it.gpus,
            env: it.env,
            command: it.command,
            labels: Labels::try_new(it.labels)?,
            owner: UserId::try_new(it.owner)?,
            created_at: Timestamp::from_millis(it.created_at),
            launched_at: it.launched_at.map(Timestamp::from_millis),
            terminated_at: it.terminated_at.map(Timestamp::from_millis),
            token,
            termination_protection: it.termination_protection,
            container_id: it.container_id,
            on_node_loss: it.on_node_loss.into(),
            wishes: Wishes {
                role: it.role.map(Role::from),
                tags: it.tags.into_iter().map(Tag::try_new).collect::<Result<_, _>>()?,
                strategy: it.strategy.into(),
            },
            remnants: it.remnants.into_iter().map(Remnant::try_from).collect::<Result<_, _>>()?,
        })
    }
}

impl From<&Remnant> for RemnantV1 {
    fn from(it: &Remnant) -> RemnantV1 {
        RemnantV1 {
            node_id: it.node_id.to_string(),
            generation: it.generation,
            resources: it.resources.into(),
            ports: it.ports.iter().map(BindingV1::from).collect(),
            gpus: it.gpus.clone(),
            since: it.since.as_millis(),
        }
    }
}

impl TryFrom<RemnantV1> for Remnant {
    type Error = BadRow;
    fn try_from(it: RemnantV1) -> Result<Remnant, BadRow> {
        Ok(Remnant {
            node_id: NodeId::try_new(it.node_id)?,
            generation: it.generation,
            resources: it.resources.into(),
            ports: it.ports.into_iter().map(PortBinding::from).collect(),
            gpus: it.gpus,
            since: Timestamp::from_millis(it.since),
        })
    }
}

impl From<&PortBinding> for BindingV1 {
    fn from(it: &PortBinding) -> BindingV1 {
        BindingV1 {
            container_port: it.container_port,
            host_port: it.host_port,
            protocol: it.protocol.into(),
        }
    }
}

impl From<BindingV1> for PortBinding {
    fn from(it: BindingV1) -> PortBinding {
        PortBinding {
            container_port: it.container_port,
            host_port: it.host_port,
            protocol: it.protocol.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the first version wrote it, before an instance had a choice when its node is lost.
    const OLD: &str = r#"{
        "id": "i-0199aa6c1f3e00007", "name": "web", "image": "nginx:alpine", "state": "running", "state_since": 5,
        "goal": "running", "node_id": "n1", "generation": 1,
        "resources": {"cpu_millis": 500, "memory_mib": 256, "gpu": 0},
        "ports": [{"container_port": 80, "host_port": 8000, "protocol": "tcp"}],
        "owner": "ann", "created_at": 4, "launched_at": 5, "termination_protection": false, "container_id": "c1"
    }"#;

    #[test]
    fn an_old_row_keeps_its_place_when_its_node_is_lost() {
        let row: InstanceV1 = serde_json::from_str(OLD).unwrap();
        let it = Instance::try_from(row).unwrap();
        assert_eq!(it.on_node_loss, OnNodeLoss::Keep);
        assert_eq!(it.wishes, Wishes::default());
        assert!(it.remnants.is_empty() && !it.is_moving());
    }

    #[test]
    fn a_row_from_before_gpus_had_indices_loads() {
        let row = r#"{"id":"i-0190a0000000000a1","name":"web","image":"nginx","state":"running",
            "state_since":1,"goal":"running","node_id":"n1","generation":1,
            "resources":{"cpu_millis":1000,"memory_mib":512,"gpu":2},"owner":"ann","created_at":1}"#;
        let instance: Instance =
            serde_json::from_str::<InstanceV1>(row).unwrap().try_into().unwrap();
        assert_eq!((instance.resources.gpu, instance.gpus), (2, vec![]));
    }
}
