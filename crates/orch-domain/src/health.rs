//! From single checks to a status: a change needs several results in a row, so that a flapping link is one event.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::node::NodeStatus;
use crate::time::Timestamp;
use crate::trouble::Trouble;

/// One check of one node: what answered, how fast, and what did not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Check {
    pub at: Timestamp,
    /// What this check alone says.
    pub status: NodeStatus,
    /// Milliseconds until the engine answered; absent when it did not.
    pub latency_ms: Option<f64>,
    /// The level that failed and how, in words; absent when healthy.
    pub message: Option<String>,
    /// What failed, by a name that stays the same; absent when healthy.
    #[serde(default)]
    pub trouble: Option<Trouble>,
    /// Version of the engine, when it answered.
    pub engine_version: Option<String>,
}

/// How many results in a row change a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damping {
    pub failures_to_fall: u32,
    pub successes_to_rise: u32,
}

impl Damping {
    pub const DEFAULT: Damping = Damping { failures_to_fall: 2, successes_to_rise: 2 };
}

/// The damped status of a node and what it is moving to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Damped {
    status: NodeStatus,
    candidate: NodeStatus,
    n_in_a_row: u32,
}

impl Damped {
    pub fn starting_at(status: NodeStatus) -> Damped {
        Damped { status, candidate: status, n_in_a_row: 0 }
    }

    pub fn status(&self) -> NodeStatus {
        self.status
    }

    /// Takes one result and says whether the status changed. The first result ever counts at once: a node that was
    /// never checked has no past to protect.
    pub fn observe(&mut self, seen: NodeStatus, damping: Damping) -> bool {
        if seen == self.status {
            self.candidate = seen;
            self.n_in_a_row = 0;
            return false;
        }
        // Unreachable and degraded in turn are still failures in a row.
        let both_bad = seen != NodeStatus::Healthy && self.candidate != NodeStatus::Healthy;
        self.n_in_a_row = if seen == self.candidate || both_bad { self.n_in_a_row + 1 } else { 1 };
        self.candidate = seen;
        let needed = match (self.status, seen) {
            (NodeStatus::Unknown, _) => 1,
            (_, NodeStatus::Healthy) => damping.successes_to_rise,
            _ => damping.failures_to_fall,
        };
        if self.n_in_a_row < needed {
            return false;
        }
        *self = Damped::starting_at(seen);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use NodeStatus::{Healthy, Unreachable};

    #[test]
    fn one_lost_check_changes_nothing_and_two_do() {
        let mut it = Damped::default();
        assert!(it.observe(Healthy, Damping::DEFAULT));
        assert!(!it.observe(Unreachable, Damping::DEFAULT));
        assert!(!it.observe(Healthy, Damping::DEFAULT));
        assert!(!it.observe(Unreachable, Damping::DEFAULT));
        assert!(it.observe(Unreachable, Damping::DEFAULT));
        assert_eq!(it.status(), Unreachable);
    }

    #[test]
    fn a_link_that_flaps_every_check_is_no_event() {
        let mut it = Damped::starting_at(Healthy);
        let changes = (0..60)
            .filter(|i| {
                it.observe(if i % 2 == 0 { Unreachable } else { Healthy }, Damping::DEFAULT)
            })
            .count();
        assert_eq!(changes, 0);
    }
}
