//! A Ray cluster as we see it: its nodes, its jobs, and what of it counts for placement.
//!
//! Nothing here is believed of its form: Ray's versions differ, so whatever an answer may leave out is an `Option`.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::name::RayJobId;
use crate::resource::{Cpu, Memory};
use crate::time::Timestamp;

/// What there is and what is taken. `used` is absent where Ray did not say.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RayUse {
    pub cpu_used: Option<Cpu>,
    pub cpu_total: Cpu,
    /// Ray gives out parts of a GPU too.
    pub gpu_used: Option<f64>,
    pub gpu_total: f64,
    pub memory_used: Option<Memory>,
    pub memory_total: Memory,
}

impl RayUse {
    /// Share in use of the fuller of CPU and memory, 0 to 1; with `counts_gpu` of the fullest of all three. None where
    /// nothing is known.
    pub fn share(&self, counts_gpu: bool) -> Option<f64> {
        let share =
            |used: f64, total: f64| if total <= 0.0 { 0.0 } else { (used / total).min(1.0) };
        let cpu = self.cpu_used.map(|it| share(it.vcpu(), self.cpu_total.vcpu()));
        let memory = self.memory_used.map(|it| share(it.gib(), self.memory_total.gib()));
        let gpu = self.gpu_used.filter(|_| counts_gpu).map(|it| share(it, self.gpu_total));
        [cpu, memory, gpu].into_iter().flatten().reduce(f64::max)
    }

    /// The sum over nodes. What is in use is the sum of what is known of it.
    pub fn plus(&self, other: &RayUse) -> RayUse {
        fn sum<T>(a: Option<T>, b: Option<T>, add: impl Fn(T, T) -> T) -> Option<T> {
            match (a, b) {
                (Some(a), Some(b)) => Some(add(a, b)),
                (a, b) => a.or(b),
            }
        }
        let cpu = |a: Cpu, b: Cpu| Cpu::from_millis(a.millis().saturating_add(b.millis()));
        let memory = |a: Memory, b: Memory| Memory::from_mib(a.mib().saturating_add(b.mib()));
        RayUse {
            cpu_used: sum(self.cpu_used, other.cpu_used, cpu),
            cpu_total: cpu(self.cpu_total, other.cpu_total),
            gpu_used: sum(self.gpu_used, other.gpu_used, |a, b| a + b),
            gpu_total: self.gpu_total + other.gpu_total,
            memory_used: sum(self.memory_used, other.memory_used, memory),
            memory_total: memory(self.memory_total, other.memory_total),
        }
    }
}

#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum RayNodeState {
    Alive,
    Dead,
    /// A word that we do not know.
    Unknown,
}

impl RayNodeState {
    pub fn as_str(self) -> &'static str {
        match self {
            RayNodeState::Alive => "alive",
            RayNodeState::Dead => "dead",
            RayNodeState::Unknown => "unknown",
        }
    }
}

impl fmt::Display for RayNodeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct RayNode {
    pub node_id: String,
    /// As Ray knows it; usually an IP address.
    pub address: String,
    /// Its address again unless it was started with `--node-name`.
    pub name: String,
    pub state: RayNodeState,
    /// Why it is in this state.
    pub message: Option<String>,
    pub is_head: bool,
    pub usage: RayUse,
    /// How much there is of other resources, by the names they were started with.
    pub resources: BTreeMap<String, f64>,
    pub labels: BTreeMap<String, String>,
    pub started_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
}

/// The nodes of a cluster, found by where they run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RayNodes {
    all: Vec<RayNode>,
    /// Places in `all`, by address and by name.
    by_host: HashMap<String, usize>,
}

impl RayNodes {
    pub fn new(mut all: Vec<RayNode>) -> RayNodes {
        // A machine that was started anew is listed dead as well: the living one counts, then the newest.
        all.sort_by_key(|it| (it.state == RayNodeState::Alive, it.started_at, it.node_id.clone()));
        let mut by_host = HashMap::new();
        for (i, node) in all.iter().enumerate() {
            for host in [&node.address, &node.name] {
                if !host.is_empty() {
                    by_host.insert(host_key(host), i);
                }
            }
        }
        RayNodes { all, by_host }
    }

    /// Which of them runs on the machine at `address`.
    pub fn at(&self, address: &str) -> Option<&RayNode> {
        self.by_host.get(&host_key(address)).map(|i| &self.all[*i])
    }

    /// The living last.
    pub fn iter(&self) -> std::slice::Iter<'_, RayNode> {
        self.all.iter()
    }
}

/// Addresses are compared as addresses, names without regard to case.
fn host_key(host: &str) -> String {
    match host.parse::<IpAddr>() {
        Ok(it) => it.to_canonical().to_string(),
        Err(_) => host.to_ascii_lowercase(),
    }
}

#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum RayJobStatus {
    Pending,
    Running,
    Stopped,
    Succeeded,
    Failed,
    /// A word that we do not know.
    Unknown,
}

impl RayJobStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            RayJobStatus::Pending => "pending",
            RayJobStatus::Running => "running",
            RayJobStatus::Stopped => "stopped",
            RayJobStatus::Succeeded => "succeeded",
            RayJobStatus::Failed => "failed",
            RayJobStatus::Unknown => "unknown",
        }
    }

    /// Nothing more will happen to it.
    pub fn is_final(self) -> bool {
        matches!(self, RayJobStatus::Stopped | RayJobStatus::Succeeded | RayJobStatus::Failed)
    }
}

impl fmt::Display for RayJobStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct RayJob {
    /// Its submission id; Ray's own number for a driver that nobody submitted.
    pub id: String,
    /// Whether it can be asked for its logs and be stopped, which a driver that nobody submitted cannot.
    pub was_submitted: bool,
    pub status: RayJobStatus,
    pub entrypoint: String,
    pub message: Option<String>,
    pub error_type: Option<String>,
    pub exit_code: Option<i64>,
    pub started_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    pub metadata: BTreeMap<String, String>,
    /// Names of the variables its runtime environment sets.
    pub env_names: Vec<String>,
    pub driver_node_id: Option<String>,
    pub driver_address: Option<String>,
}

/// Metadata that only we write.
pub const RESERVED_METADATA: &str = "mcp-orch.";
/// Who submitted the job through us.
pub const OWNER: &str = "mcp-orch.owner";
/// Over what the job was asked for, so that a repeated submission can be told from another.
pub const ARGUMENTS: &str = "mcp-orch.arguments";

impl RayJob {
    /// The user who submitted it through us; none when it came by another way.
    pub fn owner(&self) -> Option<&str> {
        self.metadata.get(OWNER).map(String::as_str)
    }
}

/// A job to be run.
#[derive(Clone, Debug, PartialEq)]
pub struct RaySubmission {
    pub id: RayJobId,
    /// Handed to a shell on a node of the cluster.
    pub entrypoint: String,
    /// As Ray takes it: an object.
    pub runtime_env: serde_json::Map<String, serde_json::Value>,
    pub metadata: BTreeMap<String, String>,
    /// CPUs and GPUs reserved for the entrypoint itself.
    pub num_cpus: Option<f64>,
    pub num_gpus: Option<f64>,
}

/// What placement knows of Ray's use of the nodes. Given as data, so that a decision depends on nothing else.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum RayFigures {
    #[default]
    NotConfigured,
    /// Never seen, or seen too long ago to be weighed.
    Stale {
        age_ms: Option<u64>,
    },
    Fresh {
        age_ms: u64,
        nodes: Arc<RayNodes>,
    },
}

impl RayFigures {
    /// Share that Ray has in use at `address`, 0 to 1. A dead node is not in use by Ray.
    pub fn share_at(&self, address: &str, counts_gpu: bool) -> Option<f64> {
        let RayFigures::Fresh { nodes, .. } = self else { return None };
        nodes
            .at(address)
            .filter(|it| it.state != RayNodeState::Dead)
            .and_then(|it| it.usage.share(counts_gpu))
    }
}

#[cfg(any(test, feature = "fixtures"))]
impl RayNode {
    /// Alive, with 4 CPUs and 4 GiB, nothing of it in use.
    pub fn test(node_id: &str, address: &str) -> RayNode {
        RayNode {
            node_id: node_id.to_owned(),
            address: address.to_owned(),
            name: address.to_owned(),
            state: RayNodeState::Alive,
            message: None,
            is_head: false,
            usage: RayUse {
                cpu_used: Some(Cpu::ZERO),
                cpu_total: Cpu::from_millis(4000),
                gpu_used: None,
                gpu_total: 0.0,
                memory_used: Some(Memory::ZERO),
                memory_total: Memory::from_mib(4096),
            },
            resources: BTreeMap::new(),
            labels: BTreeMap::new(),
            started_at: None,
            ended_at: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_living_node_of_a_machine_counts_then_the_newest() {
        let at = |id: &str, state, millis| RayNode {
            state,
            started_at: Some(Timestamp::from_millis(millis)),
            ..RayNode::test(id, "10.0.0.1")
        };
        let (alive, dead) = (RayNodeState::Alive, RayNodeState::Dead);
        let seen = |nodes: &[RayNode]| {
            let nodes = RayNodes::new(nodes.to_vec());
            nodes.at("10.0.0.1").map(|it| it.node_id.clone())
        };
        let nodes = [at("a", dead, 3), at("b", alive, 1), at("c", dead, 2)];
        assert_eq!(seen(&nodes).as_deref(), Some("b"));
        assert_eq!(seen(&[at("a", dead, 3), at("c", dead, 9)]).as_deref(), Some("c"));
        assert_eq!(seen(&[RayNode::test("d", "10.0.0.2")]), None);
    }

    #[test]
    fn addresses_are_compared_as_addresses_and_names_as_names() {
        let nodes = [
            RayNode { name: "Camp-61".to_owned(), ..RayNode::test("a", "fd00::1") },
            RayNode { name: String::new(), ..RayNode::test("b", "10.0.0.1") },
        ];
        let nodes = RayNodes::new(nodes.into());
        for same in ["fd00:0::1", "camp-61", "10.0.0.1", "::ffff:10.0.0.1"] {
            assert!(nodes.at(same).is_some(), "{same}");
        }
        for other in ["", "fd00::11", "camp-6", "10.0.0.11"] {
            assert!(nodes.at(other).is_none(), "{other}");
        }
    }

    #[test]
    fn a_share_is_of_the_fuller_and_of_gpus_only_when_they_matter() {
        let usage = RayUse {
            cpu_used: Some(Cpu::from_millis(1000)),
            cpu_total: Cpu::from_millis(4000),
            gpu_used: Some(1.5),
            gpu_total: 2.0,
            memory_used: Some(Memory::from_mib(512)),
            memory_total: Memory::from_mib(1024),
        };
        assert_eq!(usage.share(false), Some(0.5));
        assert_eq!(usage.share(true), Some(0.75));
        assert_eq!(RayUse { cpu_total: usage.cpu_total, ..RayUse::default() }.share(true), None);
        let none = RayUse { cpu_used: Some(Cpu::ZERO), ..RayUse::default() };
        assert_eq!(none.share(false), Some(0.0), "a node that gives out no CPU has none in use");
    }
}
