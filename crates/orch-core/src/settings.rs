//! What the services can be told. Parsed from files and flags on the floor above; plain data here.

use std::time::Duration;

use orch_domain::caller::Permission;
use orch_domain::health::Damping;
use orch_domain::port::PortRange;
use orch_domain::redact::SecretValues;
use orch_domain::resource::{Cpu, Memory};
use orch_domain::tool_access::ToolPatterns;
use orch_domain::user::Quota;

use crate::service::batch::SlotLimits;

#[derive(Clone, Debug)]
pub struct Settings {
    pub port_range: PortRange,
    /// For instances that name no size.
    pub default_cpu: Cpu,
    pub default_memory: Memory,
    /// How long an instance may take to end by itself when stopped.
    pub stop_grace: Duration,
    /// Containers started on one node at the same time.
    pub starts_per_node: usize,
    /// Nodes that pull for `pull_image` at the same time, over the whole fleet.
    pub pulls_at_once: usize,
    /// How long a caller with `wait` waits at most.
    pub wait_timeout: Duration,
    /// How long a launch goes on trying while the engine does not answer.
    pub launch_retry: Duration,
    pub reconcile_period: Duration,
    /// A container of ours without a record is removed when it is seen twice, so far apart.
    pub orphan_grace: Duration,
    /// A port that something else on the host uses is not offered again for so long.
    pub port_quarantine: Duration,
    pub health_period: Duration,
    pub health_timeout: Duration,
    pub damping: Damping,
    /// How long a node is unreachable before instances with `on_node_loss=reschedule` go elsewhere.
    pub reschedule_grace: Duration,
    /// Quota of a user that is given none.
    pub default_quota: Quota,
    pub token_lifetime: Duration,
    /// Signs access tokens instead of the store's own secret.
    pub token_secret: Option<Vec<u8>>,
    /// Bearer tokens that the configuration gives, beside the API keys of the store.
    pub configured_keys: Vec<ConfiguredKey>,
    /// Which tools those may use who are at the machine itself, and everybody where nobody logs in.
    pub local_tools: ToolPatterns,
    /// What must not be shown in the audit, wherever it occurs.
    pub secrets: SecretValues,
    pub audit_kept: u64,
    pub events_kept: u64,
    pub batch: BatchSettings,
    /// How long a stream of events is silent at most; who takes nothing for twice as long is cut off.
    pub heartbeat: Duration,
}

/// How batches run that say nothing else.
#[derive(Clone, Debug)]
pub struct BatchSettings {
    /// Steps of one batch at the same time.
    pub max_parallel: u32,
    /// For one attempt of a step.
    pub step_timeout: Duration,
    /// Times that a step that may be repeated is tried again.
    pub retries: u32,
    /// For a whole batch.
    pub deadline: Duration,
    /// Of all batches together.
    pub slots: SlotLimits,
    /// Batches of one user that have not ended.
    pub max_open_per_user: usize,
    /// Batches that have ended and are still shown; the oldest go first.
    pub kept: usize,
}

impl Default for BatchSettings {
    fn default() -> BatchSettings {
        BatchSettings {
            max_parallel: 10,
            step_timeout: Duration::from_secs(300),
            retries: 3,
            deadline: Duration::from_secs(3600),
            slots: SlotLimits::default(),
            max_open_per_user: 100,
            kept: 1000,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct ConfiguredKey {
    pub sha256: [u8; 32],
    pub permissions: Vec<Permission>,
    pub tools: ToolPatterns,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            port_range: PortRange::DEFAULT,
            default_cpu: Cpu::from_millis(500),
            default_memory: Memory::from_mib(256),
            stop_grace: Duration::from_secs(10),
            starts_per_node: 4,
            pulls_at_once: 32,
            wait_timeout: Duration::from_secs(300),
            launch_retry: Duration::from_secs(20),
            reconcile_period: Duration::from_secs(10),
            orphan_grace: Duration::from_secs(30),
            port_quarantine: Duration::from_secs(600),
            health_period: Duration::from_secs(15),
            health_timeout: Duration::from_secs(5),
            damping: Damping::DEFAULT,
            reschedule_grace: Duration::from_secs(60),
            default_quota: Quota::DEMO,
            token_lifetime: Duration::from_secs(12 * 3600),
            token_secret: None,
            configured_keys: Vec::new(),
            local_tools: ToolPatterns::default(),
            secrets: SecretValues::default(),
            audit_kept: 100_000,
            events_kept: 10_000,
            batch: BatchSettings::default(),
            heartbeat: Duration::from_secs(15),
        }
    }
}
