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
    /// Milliseconds until the engine answered, all levels together; absent when it did not.
    pub latency_ms: Option<f64>,
    /// The level that failed and how, in words; absent when healthy.
    pub message: Option<String>,
    /// What failed, by a name that stays the same; absent when healthy.
    #[serde(default)]
    pub trouble: Option<Trouble>,
    /// Version of the engine, when it answered.
    pub engine_version: Option<String>,
    /// One after the other, to the first that failed.
    #[serde(default)]
    pub levels: Vec<LevelCheck>,
}

/// How far a check got.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Something answers where the machine, or the socket of its engine, should be.
    Address,
    /// Connected and logged in.
    Ssh,
    /// The engine answers.
    Engine,
}

impl Level {
    pub const ALL: [Level; 3] = [Level::Address, Level::Ssh, Level::Engine];

    pub fn as_str(self) -> &'static str {
        match self {
            Level::Address => "address",
            Level::Ssh => "ssh",
            Level::Engine => "engine",
        }
    }

    /// What a node is that fails here.
    pub fn failed(self) -> NodeStatus {
        match self {
            Level::Address | Level::Ssh => NodeStatus::Unreachable,
            Level::Engine => NodeStatus::Degraded,
        }
    }
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LevelCheck {
    pub level: Level,
    pub ok: bool,
    /// Milliseconds that this level took, whether it answered or not.
    pub latency_ms: f64,
    /// What failed; absent when it did not.
    pub message: Option<String>,
}

/// A status that lasted, after another that did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StatusChange {
    pub at: Timestamp,
    pub from: NodeStatus,
    pub to: NodeStatus,
    /// What the check said that tipped it.
    pub reason: String,
}

/// How many results in a row change a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damping {
    pub failures_to_fall: u32,
    pub successes_to_rise: u32,
    /// And for so long at least, in milliseconds: however often a node is checked, a link that comes and goes every
    /// second does not make it rise and fall with it.
    pub steady_to_rise_ms: u64,
}

impl Damping {
    pub const DEFAULT: Damping =
        Damping { failures_to_fall: 2, successes_to_rise: 2, steady_to_rise_ms: 3000 };
}

/// The damped status of a node and what it is moving to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Damped {
    status: NodeStatus,
    candidate: NodeStatus,
    n_in_a_row: u32,
    /// When the first of the row was seen.
    row_since: Timestamp,
}

impl Damped {
    pub fn starting_at(status: NodeStatus) -> Damped {
        Damped { status, candidate: status, n_in_a_row: 0, row_since: Timestamp::ZERO }
    }

    pub fn status(&self) -> NodeStatus {
        self.status
    }

    /// Takes one result and says whether the status changed. The first result ever counts at once: a node that was
    /// never checked has no past to protect.
    pub fn observe(&mut self, seen: NodeStatus, at: Timestamp, damping: Damping) -> bool {
        if seen == self.status {
            self.candidate = seen;
            self.n_in_a_row = 0;
            return false;
        }
        // Unreachable and degraded in turn are still failures in a row.
        let both_bad = seen != NodeStatus::Healthy && self.candidate != NodeStatus::Healthy;
        self.n_in_a_row = if seen == self.candidate || both_bad { self.n_in_a_row + 1 } else { 1 };
        self.candidate = seen;
        if self.n_in_a_row == 1 {
            self.row_since = at;
        }
        let needed = match (self.status, seen) {
            (NodeStatus::Unknown, _) => 1,
            (_, NodeStatus::Healthy) => damping.successes_to_rise,
            _ => damping.failures_to_fall,
        };
        let is_known = self.status != NodeStatus::Unknown;
        let is_steady =
            seen != NodeStatus::Healthy || damping.steady_to_rise_ms <= at.since(self.row_since);
        if self.n_in_a_row < needed || (is_known && !is_steady) {
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

    /// Lets `node` be seen as `seen`, `step` milliseconds apart, and counts the changes of its status.
    fn changes(node: &mut Damped, step: u64, seen: impl Iterator<Item = NodeStatus>) -> usize {
        let at = |n: usize| Timestamp::ZERO.plus_millis(n as u64 * step);
        let observed = seen.enumerate().map(|(n, it)| node.observe(it, at(n), Damping::DEFAULT));
        observed.filter(|it| *it).count()
    }

    #[test]
    fn one_lost_check_changes_nothing_and_two_do() {
        let mut it = Damped::default();
        assert_eq!(changes(&mut it, 15_000, [Healthy].into_iter()), 1);
        assert_eq!(changes(&mut it, 15_000, [Unreachable, Healthy, Unreachable].into_iter()), 0);
        assert_eq!(changes(&mut it, 15_000, [Unreachable].into_iter()), 1);
        assert_eq!(it.status(), Unreachable);
        assert_eq!(changes(&mut it, 15_000, [Healthy, Healthy].into_iter()), 1);
    }

    #[test]
    fn a_link_that_flaps_every_second_is_one_event_however_often_it_is_checked() {
        for step in [20, 100, 250, 500, 1000, 3000, 15_000] {
            let mut it = Damped::starting_at(Healthy);
            let is_up = |n: u64| (n * step / 1000) % 2 == 1;
            let seen = (0..30_000 / step).map(|n| if is_up(n) { Healthy } else { Unreachable });
            let n = changes(&mut it, step, seen);
            assert!(n <= 1, "checked every {step} ms: {n} changes");
        }
    }

    #[test]
    fn a_node_that_is_back_for_good_rises() {
        for step in [100, 1000, 15_000] {
            let mut it = Damped::starting_at(Unreachable);
            assert_eq!(changes(&mut it, step, std::iter::repeat_n(Healthy, 40)), 1, "{step}");
            assert_eq!(it.status(), Healthy);
        }
    }
}
