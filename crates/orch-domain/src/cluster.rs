//! The cluster as a whole: how many nodes are well, what they have, and what is in use.

use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;

use crate::node::{Node, NodeStatus};
use crate::node_loss::SeenState;
use crate::resource::Resources;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClusterStatus {
    /// Every node is healthy.
    Healthy,
    /// Some nodes are healthy and some are not.
    Degraded,
    /// No node is healthy.
    Down,
    /// No node has been checked yet.
    Unknown,
    /// No node is registered.
    Empty,
}

impl ClusterStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            ClusterStatus::Healthy => "healthy",
            ClusterStatus::Degraded => "degraded",
            ClusterStatus::Down => "down",
            ClusterStatus::Unknown => "unknown",
            ClusterStatus::Empty => "empty",
        }
    }
}

impl fmt::Display for ClusterStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Sums over nodes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct Totals {
    pub total_nodes: usize,
    pub healthy_nodes: usize,
    pub degraded_nodes: usize,
    pub unreachable_nodes: usize,
    /// Not checked yet.
    pub unknown_nodes: usize,
    /// Taking no new instances, whatever their status.
    pub cordoned_nodes: usize,
    /// What the nodes have to give out together.
    pub capacity: Resources,
    /// What instances hold of it, running or stopped.
    pub used: Resources,
    pub free: Resources,
}

impl Totals {
    /// Over nodes and what is in use on each.
    pub fn of<'a>(nodes: impl Iterator<Item = (&'a Node, Resources)>) -> Totals {
        let mut totals = Totals::default();
        for (node, used) in nodes {
            totals.total_nodes += 1;
            *match node.status {
                NodeStatus::Healthy => &mut totals.healthy_nodes,
                NodeStatus::Degraded => &mut totals.degraded_nodes,
                NodeStatus::Unreachable => &mut totals.unreachable_nodes,
                NodeStatus::Unknown => &mut totals.unknown_nodes,
            } += 1;
            totals.cordoned_nodes += usize::from(node.cordoned);
            totals.capacity = totals.capacity.plus(&node.capacity);
            totals.used = totals.used.plus(&used);
            totals.free = totals.free.plus(&node.capacity.minus(&used));
        }
        totals
    }

    pub fn status(&self) -> ClusterStatus {
        match self.total_nodes {
            0 => ClusterStatus::Empty,
            n if n == self.healthy_nodes => ClusterStatus::Healthy,
            n if n == self.unknown_nodes => ClusterStatus::Unknown,
            _ if self.healthy_nodes == 0 => ClusterStatus::Down,
            _ => ClusterStatus::Degraded,
        }
    }

    /// Such as `2 of 3 nodes healthy, 1 unreachable`.
    pub fn line(&self) -> String {
        let mut text = format!("{} of {} nodes healthy", self.healthy_nodes, self.total_nodes);
        for (n, word) in [
            (self.degraded_nodes, "degraded"),
            (self.unreachable_nodes, "unreachable"),
            (self.unknown_nodes, "not checked yet"),
            (self.cordoned_nodes, "cordoned"),
        ] {
            if n != 0 {
                text.push_str(&format!(", {n} {word}"));
            }
        }
        text
    }
}

/// How many instances are in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct StateCounts {
    pub total: usize,
    pub pending: usize,
    pub running: usize,
    pub stopping: usize,
    pub stopped: usize,
    pub shutting_down: usize,
    pub terminated: usize,
    /// On a node that does not answer, whatever they did when it last did.
    pub unreachable: usize,
}

impl StateCounts {
    pub fn of(states: impl Iterator<Item = SeenState>) -> StateCounts {
        let mut counts = StateCounts::default();
        for state in states {
            counts.total += 1;
            *match state {
                SeenState::Pending => &mut counts.pending,
                SeenState::Running => &mut counts.running,
                SeenState::Stopping => &mut counts.stopping,
                SeenState::Stopped => &mut counts.stopped,
                SeenState::ShuttingDown => &mut counts.shutting_down,
                SeenState::Terminated => &mut counts.terminated,
                SeenState::Unreachable => &mut counts.unreachable,
            } += 1;
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(
        healthy_nodes: usize,
        unreachable_nodes: usize,
        unknown_nodes: usize,
    ) -> &'static str {
        let total_nodes = healthy_nodes + unreachable_nodes + unknown_nodes;
        let totals = Totals {
            total_nodes,
            healthy_nodes,
            unreachable_nodes,
            unknown_nodes,
            ..Totals::default()
        };
        totals.status().as_str()
    }

    #[test]
    fn the_status_follows_from_the_nodes() {
        assert_eq!(status(0, 0, 0), "empty");
        assert_eq!(status(3, 0, 0), "healthy");
        assert_eq!(status(0, 0, 2), "unknown");
        assert_eq!(status(2, 1, 0), "degraded");
        assert_eq!(status(2, 0, 1), "degraded");
        assert_eq!(status(0, 1, 1), "down");
    }

    #[test]
    fn states_are_counted_under_their_own_names() {
        let counts = StateCounts::of(SeenState::ALL.into_iter());
        let json = serde_json::to_value(counts).unwrap();
        for state in SeenState::ALL {
            assert_eq!(json[state.as_str()], 1, "{state}");
        }
        assert_eq!(json["total"], 7);
    }
}
