//! Machines that run instances, and how they are reached.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::health::StatusChange;
use crate::label::Labels;
use crate::name::{NodeId, Tag};
use crate::resource::Resources;
use crate::ssh::SshEndpoint;
use crate::time::Timestamp;

#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Controls the cluster; runs instances only when asked for by `role` or `node_id`.
    Master,
    #[default]
    Worker,
    /// Holds data; runs instances only when asked for by `role` or `node_id`.
    Storage,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Master => "master",
            Role::Worker => "worker",
            Role::Storage => "storage",
        })
    }
}

/// What the last health checks say, after damping.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum NodeStatus {
    Healthy,
    /// Reachable, but its engine is sick.
    Degraded,
    Unreachable,
    /// Not checked yet.
    #[default]
    Unknown,
}

impl NodeStatus {
    pub const ALL: [NodeStatus; 4] =
        [NodeStatus::Healthy, NodeStatus::Degraded, NodeStatus::Unreachable, NodeStatus::Unknown];

    pub fn as_str(self) -> &'static str {
        match self {
            NodeStatus::Healthy => "healthy",
            NodeStatus::Degraded => "degraded",
            NodeStatus::Unreachable => "unreachable",
            NodeStatus::Unknown => "unknown",
        }
    }
}

impl NodeStatus {
    /// Unknown is given a chance: the launch itself then finds out.
    pub fn may_take_instances(self) -> bool {
        matches!(self, NodeStatus::Healthy | NodeStatus::Unknown)
    }
}

impl fmt::Display for NodeStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How the node's engine is reached.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum EngineConfig {
    /// A Docker engine at `unix:///var/run/docker.sock` or `tcp://127.0.0.1:2375`.
    Docker { endpoint: String },
    /// A Docker engine that listens on a socket of a machine behind SSH.
    #[serde(rename = "docker-over-ssh")]
    DockerOverSsh(SshEndpoint),
    /// A simulated engine in memory.
    Sim(SimConfig),
}

impl EngineConfig {
    pub fn kind(&self) -> &'static str {
        match self {
            EngineConfig::Docker { .. } | EngineConfig::DockerOverSsh(_) => "docker",
            EngineConfig::Sim(_) => "sim",
        }
    }
}

/// The script of a simulated engine. All delays are in milliseconds; failures are counted, not drawn by chance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SimConfig {
    /// vCPU the engine reports.
    pub cpu: crate::resource::Cpu,
    /// GiB the engine reports.
    pub memory: crate::resource::Memory,
    pub gpu: u32,
    /// How long every call takes.
    pub delay_ms: u64,
    /// How long a start takes on top.
    pub start_delay_ms: u64,
    /// How long a pull takes.
    pub pull_delay_ms: u64,
    /// The next so many starts fail.
    pub fail_starts: u32,
    /// Ports of the range that something else on the host listens on.
    pub foreign_ports: Vec<u16>,
    /// Calls never answer.
    pub hung: bool,
    /// Calls fail at once, as when the host is down.
    pub unreachable: bool,
}

impl Default for SimConfig {
    fn default() -> SimConfig {
        SimConfig {
            cpu: crate::resource::Cpu::from_millis(16_000),
            memory: crate::resource::Memory::from_mib(64 * 1024),
            gpu: 0,
            delay_ms: 0,
            start_delay_ms: 0,
            pull_delay_ms: 0,
            fail_starts: 0,
            foreign_ports: Vec::new(),
            hung: false,
            unreachable: false,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub id: NodeId,
    pub hostname: String,
    /// Where instances of this node are reached: an IP address or a host name.
    pub address: String,
    pub role: Role,
    pub engine: EngineConfig,
    pub tags: BTreeSet<Tag>,
    pub labels: Labels,
    pub description: String,
    /// What may be given out; CPU and memory are read from the engine unless `capacity_is_fixed`.
    pub capacity: Resources,
    pub capacity_is_fixed: bool,
    /// How many GPUs it has is what an administrator said, and not what the machine tells.
    pub gpu_is_fixed: bool,
    pub cordoned: bool,
    pub created_at: Timestamp,
    /// The last damped status. Kept, so that a restart does not forget that a node was down.
    pub status: NodeStatus,
    pub status_since: Timestamp,
    /// Newest first; [`STATUS_CHANGES_KEPT`] at most.
    pub status_changes: Vec<StatusChange>,
}

/// How many changes of its status a node remembers.
pub const STATUS_CHANGES_KEPT: usize = 20;

impl EngineConfig {
    /// Where instances of a node with this engine are reached, when nobody says otherwise.
    pub fn default_address(&self) -> &str {
        match self {
            EngineConfig::Docker { endpoint } => endpoint
                .strip_prefix("tcp://")
                .and_then(|it| it.trim_end_matches('/').rsplit_once(':'))
                .map_or("127.0.0.1", |(host, _)| host.trim_matches(['[', ']'])),
            EngineConfig::DockerOverSsh(ssh) => &ssh.host,
            EngineConfig::Sim(_) => "127.0.0.1",
        }
    }

    /// Whether both surely mean one and the same engine. Its containers would count twice, and each node would take
    /// the other's for orphans.
    pub fn is_same_engine(&self, other: &EngineConfig) -> bool {
        let place =
            |endpoint: &str| endpoint.trim_end_matches('/').replace("///var/run/", "///run/");
        match (self, other) {
            (EngineConfig::Docker { endpoint: a }, EngineConfig::Docker { endpoint: b }) => {
                place(a) == place(b)
            }
            (EngineConfig::DockerOverSsh(a), EngineConfig::DockerOverSsh(b)) => a.is_same_engine(b),
            _ => false,
        }
    }
}

/// Whether `text` is an IP address or a host name.
pub fn check_host(parameter: &str, text: &str) -> Result<(), Error> {
    let is_label = |it: &str| {
        (1..=63).contains(&it.len())
            && it.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
            && !it.starts_with('-')
            && !it.ends_with('-')
    };
    let is_name = text.len() <= 253 && text.split('.').all(is_label);
    if is_name || text.parse::<IpAddr>().is_ok() {
        return Ok(());
    }
    let shown = crate::text::excerpt(text, 60);
    let message =
        format!("`{shown}` is not an IP address or a host name such as `camp-61.example`");
    Err(Error::invalid(parameter, message))
}

impl Node {
    /// Its engine is a script in memory, and what it "runs" does nothing.
    pub fn is_simulated(&self) -> bool {
        matches!(self.engine, EngineConfig::Sim(_))
    }

    /// Takes on another status and remembers why. Nothing happens when it has it already.
    pub fn set_status(&mut self, status: NodeStatus, reason: String, now: Timestamp) {
        if self.status == status {
            return;
        }
        let change = StatusChange { at: now, from: self.status, to: status, reason };
        self.status_changes.insert(0, change);
        self.status_changes.truncate(STATUS_CHANGES_KEPT);
        self.status = status;
        self.status_since = now;
    }

    /// Whether an instance that names no node can go here at all.
    pub fn takes_instances(&self) -> bool {
        self.role == Role::Worker && !self.cordoned && self.status.may_take_instances()
    }

    /// The address that published ports bind to: the node's own when it is an IP, so that a port of a loopback node
    /// is not open to the network.
    pub fn publish_ip(&self) -> IpAddr {
        self.address.parse().unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn docker(endpoint: &str) -> EngineConfig {
        EngineConfig::Docker { endpoint: endpoint.to_owned() }
    }

    #[test]
    fn instances_are_reached_where_the_engine_is() {
        for (endpoint, address) in [
            ("unix:///var/run/docker.sock", "127.0.0.1"),
            ("tcp://10.0.0.7:2375", "10.0.0.7"),
            ("tcp://camp-61:2375/", "camp-61"),
            ("tcp://[fd00::7]:2375", "fd00::7"),
        ] {
            assert_eq!(docker(endpoint).default_address(), address);
        }
    }

    #[test]
    fn one_socket_under_two_names_is_one_engine() {
        let socket = docker("unix:///var/run/docker.sock");
        assert!(socket.is_same_engine(&docker("unix:///run/docker.sock")));
        assert!(!socket.is_same_engine(&docker("unix:///run/other.sock")));
        let sim = EngineConfig::Sim(SimConfig::default());
        assert!(!sim.is_same_engine(&sim));
    }

    #[test]
    fn hosts_are_addresses_or_names_and_nothing_else() {
        for good in ["127.0.0.1", "fd00::1", "camp-61", "a.b.example", "node_1"] {
            assert!(check_host("address", good).is_ok(), "{good}");
        }
        for bad in ["", "a b", "-x", "a..b", "http://a", "a/b", "a;b", "a\n", &"x".repeat(64)] {
            assert!(check_host("address", bad).is_err(), "{bad:?}");
        }
    }
}
