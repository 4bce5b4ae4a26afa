//! A node lost is not an instance lost: what an instance is to do then, what it leaves behind when it moves, and how
//! callers see it meanwhile.

use std::collections::BTreeSet;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::instance::InstanceState;
use crate::name::{NodeId, Tag};
use crate::node::{NodeStatus, Role};
use crate::placement::Strategy;
use crate::port::PortBinding;
use crate::resource::Resources;
use crate::time::Timestamp;

/// What becomes of a running instance when its node stays unreachable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnNodeLoss {
    /// It waits for its node, which may still run it.
    #[default]
    Keep,
    /// After a grace it is started anew on another node, without the files it wrote; what the lost node still runs of
    /// it is stopped and removed as soon as that node is back.
    Reschedule,
}

impl OnNodeLoss {
    pub fn as_str(self) -> &'static str {
        match self {
            OnNodeLoss::Keep => "keep",
            OnNodeLoss::Reschedule => "reschedule",
        }
    }

    /// For digests: an argument that is not given changes none that was made before the argument existed.
    pub fn is_default(&self) -> bool {
        *self == OnNodeLoss::default()
    }
}

/// What a launch asked of the node, but for a node by name: that was about where it runs first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    pub role: Option<Role>,
    pub tags: BTreeSet<Tag>,
    pub strategy: Strategy,
}

/// What an earlier generation may still have on its node. Holds that node's capacity and ports until its container was
/// seen to be gone.
#[derive(Clone, Debug, PartialEq)]
pub struct Remnant {
    pub node_id: NodeId,
    pub generation: u32,
    pub resources: Resources,
    pub ports: Vec<PortBinding>,
    /// Indices of GPUs.
    pub gpus: Vec<u32>,
    /// When the instance left.
    pub since: Timestamp,
}

/// An instance's state as callers see it: what is recorded, unless its node does not answer.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum SeenState {
    Pending,
    Running,
    Stopping,
    Stopped,
    ShuttingDown,
    Terminated,
    // Its node does not answer: nobody knows what it does. It keeps its record and all that it holds. Not a doc comment,
    // because that would repeat every state in words in each of the many contracts that show one.
    Unreachable,
}

impl SeenState {
    pub const ALL: [SeenState; 7] = [
        SeenState::Pending,
        SeenState::Running,
        SeenState::Stopping,
        SeenState::Stopped,
        SeenState::ShuttingDown,
        SeenState::Terminated,
        SeenState::Unreachable,
    ];

    /// One that ends, or has ended, does so whatever its node does; all others are as lost as their node.
    pub fn of(state: InstanceState, node: Option<NodeStatus>) -> SeenState {
        match state {
            InstanceState::ShuttingDown => SeenState::ShuttingDown,
            InstanceState::Terminated => SeenState::Terminated,
            _ if node == Some(NodeStatus::Unreachable) => SeenState::Unreachable,
            InstanceState::Pending => SeenState::Pending,
            InstanceState::Running => SeenState::Running,
            InstanceState::Stopping => SeenState::Stopping,
            InstanceState::Stopped => SeenState::Stopped,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            SeenState::Pending => "pending",
            SeenState::Running => "running",
            SeenState::Stopping => "stopping",
            SeenState::Stopped => "stopped",
            SeenState::ShuttingDown => "shutting-down",
            SeenState::Terminated => "terminated",
            SeenState::Unreachable => "unreachable",
        }
    }
}

impl fmt::Display for SeenState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_is_seen_until_the_node_is_lost() {
        for state in InstanceState::ALL {
            for status in NodeStatus::ALL {
                let seen = SeenState::of(state, Some(status)).as_str();
                let ends = matches!(state, InstanceState::ShuttingDown | InstanceState::Terminated);
                match status {
                    NodeStatus::Unreachable if !ends => assert_eq!(seen, "unreachable"),
                    _ => assert_eq!(seen, state.as_str()),
                }
            }
            assert_eq!(SeenState::of(state, None).as_str(), state.as_str());
        }
    }
}
