//! Stored nodes.

use std::collections::{BTreeMap, BTreeSet};

use orch_domain::health::StatusChange;
use orch_domain::label::Labels;
use orch_domain::name::{NodeId, Tag};
use orch_domain::node::{EngineConfig, Node, NodeStatus, Role, SimConfig};
use orch_domain::resource::{Cpu, Memory};
use orch_domain::ssh::{Fingerprint, HostKey, SshEndpoint, SshHop, SshLogin};
use orch_domain::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::{BadRow, ResourcesV1, stored_enum};

stored_enum!(RoleV1 is Role { Master = "master", Worker = "worker", Storage = "storage" });

stored_enum!(StatusV1 is NodeStatus {
    Healthy = "healthy",
    Degraded = "degraded",
    Unreachable = "unreachable",
    Unknown = "unknown",
});

#[derive(Debug, Serialize, Deserialize)]
pub(in crate::store) struct NodeV1 {
    id: String,
    hostname: String,
    address: String,
    role: RoleV1,
    engine: EngineV1,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tags: Vec<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    description: String,
    capacity: ResourcesV1,
    capacity_is_fixed: bool,
    #[serde(default)]
    gpu_is_fixed: bool,
    #[serde(default)]
    cordoned: bool,
    created_at: i64,
    status: StatusV1,
    status_since: i64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    status_changes: Vec<StatusChangeV1>,
}

#[derive(Debug, Serialize, Deserialize)]
struct StatusChangeV1 {
    at: i64,
    from: StatusV1,
    to: StatusV1,
    reason: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
enum EngineV1 {
    Docker { endpoint: String },
    DockerOverSsh(SshV1),
    Sim(SimV1),
}

#[derive(Debug, Serialize, Deserialize)]
struct SshV1 {
    host: String,
    port: u16,
    user: String,
    login: LoginV1,
    socket: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    host_key: Option<HostKeyV1>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    jumps: Vec<JumpV1>,
}

#[derive(Debug, Serialize, Deserialize)]
struct JumpV1 {
    host: String,
    port: u16,
    user: String,
    login: LoginV1,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    host_key: Option<HostKeyV1>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum LoginV1 {
    Usual,
    Agent,
    KeyFile(String),
    Files { paths: Vec<String>, only_these: bool },
}

#[derive(Debug, Serialize, Deserialize)]
struct HostKeyV1 {
    fingerprint: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    algorithm: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SimV1 {
    resources: ResourcesV1,
    #[serde(default)]
    delay_ms: u64,
    #[serde(default)]
    start_delay_ms: u64,
    #[serde(default)]
    pull_delay_ms: u64,
    #[serde(default)]
    fail_starts: u32,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    foreign_ports: Vec<u16>,
    #[serde(default)]
    hung: bool,
    #[serde(default)]
    unreachable: bool,
}

impl From<&Node> for NodeV1 {
    fn from(it: &Node) -> NodeV1 {
        NodeV1 {
            id: it.id.to_string(),
            hostname: it.hostname.clone(),
            address: it.address.clone(),
            role: it.role.into(),
            engine: (&it.engine).into(),
            tags: it.tags.iter().map(Tag::to_string).collect(),
            labels: it.labels.iter().map(|(key, value)| (key.into(), value.into())).collect(),
            description: it.description.clone(),
            capacity: it.capacity.into(),
            capacity_is_fixed: it.capacity_is_fixed,
            gpu_is_fixed: it.gpu_is_fixed,
            cordoned: it.cordoned,
            created_at: it.created_at.as_millis(),
            status: it.status.into(),
            status_since: it.status_since.as_millis(),
            status_changes: it
                .status_changes
                .iter()
                .map(|it| StatusChangeV1 {
                    at: it.at.as_millis(),
                    from: it.from.into(),
                    to: it.to.into(),
                    reason: it.reason.clone(),
                })
                .collect(),
        }
    }
}

impl TryFrom<NodeV1> for Node {
    type Error = BadRow;
    fn try_from(it: NodeV1) -> Result<Node, BadRow> {
        Ok(Node {
            id: NodeId::try_new(it.id)?,
            hostname: it.hostname,
            address: it.address,
            role: it.role.into(),
            engine: it.engine.try_into()?,
            tags: it.tags.into_iter().map(Tag::try_new).collect::<Result<BTreeSet<_>, _>>()?,
            labels: Labels::try_new(it.labels)?,
            description: it.description,
            capacity: it.capacity.into(),
            capacity_is_fixed: it.capacity_is_fixed,
            gpu_is_fixed: it.gpu_is_fixed,
            cordoned: it.cordoned,
            created_at: Timestamp::from_millis(it.created_at),
            status: it.status.into(),
            status_since: Timestamp::from_millis(it.status_since),
            status_changes: it
                .status_changes
                .into_iter()
                .map(|it| StatusChange {
                    at: Timestamp::from_millis(it.at),
                    from: it.from.into(),
                    to: it.to.into(),
                    reason: it.reason,
                })
                .collect(),
        })
    }
}

impl From<&EngineConfig> for EngineV1 {
    fn from(it: &EngineConfig) -> EngineV1 {
        match it {
            EngineConfig::Docker { endpoint } => EngineV1::Docker { endpoint: endpoint.clone() },
            EngineConfig::DockerOverSsh(it) => EngineV1::DockerOverSsh(it.into()),
            EngineConfig::Sim(it) => EngineV1::Sim(SimV1 {
                resources: ResourcesV1 {
                    cpu_millis: it.cpu.millis(),
                    memory_mib: it.memory.mib(),
                    gpu: it.gpu,
                },
                delay_ms: it.delay_ms,
                start_delay_ms: it.start_delay_ms,
                pull_delay_ms: it.pull_delay_ms,
                fail_starts: it.fail_starts,
                foreign_ports: it.foreign_ports.clone(),
                hung: it.hung,
                unreachable: it.unreachable,
            }),
        }
    }
}

impl From<&SshEndpoint> for SshV1 {
    fn from(it: &SshEndpoint) -> SshV1 {
        SshV1 {
            host: it.host.clone(),
            port: it.port,
            user: it.user.clone(),
            login: (&it.login).into(),
            socket: it.socket.clone(),
            host_key: it.host_key.as_ref().map(HostKeyV1::from),
            jumps: it.jumps.iter().map(JumpV1::from).collect(),
        }
    }
}

impl From<&SshHop> for JumpV1 {
    fn from(it: &SshHop) -> JumpV1 {
        JumpV1 {
            host: it.host.clone(),
            port: it.port,
            user: it.user.clone(),
            login: (&it.login).into(),
            host_key: it.host_key.as_ref().map(HostKeyV1::from),
        }
    }
}

impl From<&SshLogin> for LoginV1 {
    fn from(it: &SshLogin) -> LoginV1 {
        match it {
            SshLogin::Usual => LoginV1::Usual,
            SshLogin::Agent => LoginV1::Agent,
            SshLogin::KeyFile(path) => LoginV1::KeyFile(path.clone()),
            SshLogin::Files { paths, only_these } => {
                LoginV1::Files { paths: paths.clone(), only_these: *only_these }
            }
        }
    }
}

impl From<LoginV1> for SshLogin {
    fn from(it: LoginV1) -> SshLogin {
        match it {
            LoginV1::Usual => SshLogin::Usual,
            LoginV1::Agent => SshLogin::Agent,
            LoginV1::KeyFile(path) => SshLogin::KeyFile(path),
            LoginV1::Files { paths, only_these } => SshLogin::Files { paths, only_these },
        }
    }
}

impl From<&HostKey> for HostKeyV1 {
    fn from(it: &HostKey) -> HostKeyV1 {
        HostKeyV1 { fingerprint: it.fingerprint.to_string(), algorithm: it.algorithm.clone() }
    }
}

impl TryFrom<HostKeyV1> for HostKey {
    type Error = BadRow;
    fn try_from(it: HostKeyV1) -> Result<HostKey, BadRow> {
        let fingerprint = Fingerprint::try_new(&it.fingerprint).map_err(BadRow::Fingerprint)?;
        Ok(HostKey { fingerprint, algorithm: it.algorithm })
    }
}

impl TryFrom<SshV1> for SshEndpoint {
    type Error = BadRow;
    fn try_from(it: SshV1) -> Result<SshEndpoint, BadRow> {
        Ok(SshEndpoint {
            host: it.host,
            port: it.port,
            user: it.user,
            login: it.login.into(),
            socket: it.socket,
            host_key: it.host_key.map(HostKey::try_from).transpose()?,
            jumps: it.jumps.into_iter().map(SshHop::try_from).collect::<Result<_, _>>()?,
        })
    }
}

impl TryFrom<JumpV1> for SshHop {
    type Error = BadRow;
    fn try_from(it: JumpV1) -> Result<SshHop, BadRow> {
        Ok(SshHop {
            host: it.host,
            port: it.port,
            user: it.user,
            login: it.login.into(),
            host_key: it.host_key.map(HostKey::try_from).transpose()?,
        })
    }
}

impl TryFrom<EngineV1> for EngineConfig {
    type Error = BadRow;
    fn try_from(it: EngineV1) -> Result<EngineConfig, BadRow> {
        Ok(match it {
            EngineV1::Docker { endpoint } => EngineConfig::Docker { endpoint },
            EngineV1::DockerOverSsh(it) => EngineConfig::DockerOverSsh(it.try_into()?),
            EngineV1::Sim(it) => EngineConfig::Sim(SimConfig {
                cpu: Cpu::from_millis(it.resources.cpu_millis),
                memory: Memory::from_mib(it.resources.memory_mib),
                gpu: it.resources.gpu,
                delay_ms: it.delay_ms,
                start_delay_ms: it.start_delay_ms,
                pull_delay_ms: it.pull_delay_ms,
                fail_starts: it.fail_starts,
                foreign_ports: it.foreign_ports,
                hung: it.hung,
                unreachable: it.unreachable,
            }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_from_before_status_changes_and_gpu_counts_loads() {
        let row = r#"{"id":"n1","hostname":"n1","address":"127.0.0.1","role":"worker",
            "engine":{"kind":"docker","endpoint":"unix:///var/run/docker.sock"},
            "capacity":{"cpu_millis":2000,"memory_mib":1024,"gpu":0},"capacity_is_fixed":true,
            "created_at":5,"status":"healthy","status_since":7}"#;
        let node: Node = serde_json::from_str::<NodeV1>(row).unwrap().try_into().unwrap();
        assert!(node.capacity_is_fixed && !node.gpu_is_fixed);
        assert_eq!(node.status_changes, []);
    }

    #[test]
    fn a_machine_that_was_stored_before_there_were_jumps_is_read() {
        let row = r#"{"kind": "docker-over-ssh", "host": "10.0.0.7", "port": 22, "user": "root",
                      "login": {"key-file": "~/.ssh/id"}, "socket": "/var/run/docker.sock"}"#;
        let row: EngineV1 = serde_json::from_str(row).unwrap();
        let EngineConfig::DockerOverSsh(ssh) = row.try_into().unwrap() else { panic!("over SSH") };
        assert_eq!(ssh.login, SshLogin::KeyFile("~/.ssh/id".to_owned()));
        assert!(ssh.jumps.is_empty());
    }
}
