//! What an instance uses of its machine right now.

use std::sync::Arc;

use orch_domain::Error;
use orch_domain::caller::Permission;
use orch_domain::name::InstanceId;
use orch_domain::resource::Cpu;
use orch_domain::time::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::operation::{Operation, Route, Spec, Summary, spec};
use crate::{Cx, Orch};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InstanceStats {
    pub id: InstanceId,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct InstanceUse {
    pub instance_id: InstanceId,
    pub at: Timestamp,
    /// In vCPU: 0.5 is half of one CPU.
    pub cpu_used: f64,
    /// What it was launched with.
    pub cpu_limit: Cpu,
    /// `cpu_used` of `cpu_limit`.
    pub cpu_percent: f64,
    pub memory_used_bytes: u64,
    pub memory_limit_bytes: u64,
    pub memory_percent: f64,
    /// Since its container started, as are the others below.
    pub network_received_bytes: u64,
    pub network_sent_bytes: u64,
    pub block_read_bytes: u64,
    pub block_written_bytes: u64,
    pub n_processes: u64,
}

impl Summary for InstanceUse {
    fn summary(&self) -> String {
        let mib = |it: u64| it as f64 / f64::from(1 << 20);
        format!(
            "{} uses {:.2} of {} ({:.0} %) and {:.1} of {:.0} MiB ({:.0} %), with {} processes; network {:.1} MiB in, \
             {:.1} MiB out",
            self.instance_id,
            self.cpu_used,
            self.cpu_limit,
            self.cpu_percent,
            mib(self.memory_used_bytes),
            mib(self.memory_limit_bytes),
            self.memory_percent,
            self.n_processes,
            mib(self.network_received_bytes),
            mib(self.network_sent_bytes),
        )
    }
}

impl Operation for InstanceStats {
    const SPEC: Spec = spec!(
        "instance_stats",
        Instances,
        Reads,
        Some(Permission::Read),
        [Route::get("/instances/{id}/stats")]
    );
    type Output = InstanceUse;

    async fn run(self, orch: &Arc<Orch>, cx: &Cx) -> Result<InstanceUse, Error> {
        let (instance, stats) = orch.stats(cx, &self.id).await?;
        let cpu_limit = instance.resources.cpu;
        Ok(InstanceUse {
            instance_id: self.id,
            at: orch.clock.now(),
            cpu_used: stats.cpu_used,
            cpu_limit,
            cpu_percent: percent(stats.cpu_used, cpu_limit.vcpu()),
            memory_used_bytes: stats.memory_used_bytes,
            memory_limit_bytes: stats.memory_limit_bytes,
            memory_percent: percent(
                stats.memory_used_bytes as f64,
                stats.memory_limit_bytes as f64,
            ),
            network_received_bytes: stats.network_received_bytes,
            network_sent_bytes: stats.network_sent_bytes,
            block_read_bytes: stats.block_read_bytes,
            block_written_bytes: stats.block_written_bytes,
            n_processes: stats.n_processes,
        })
    }
}

/// With one decimal; zero of nothing is nothing.
fn percent(used: f64, limit: f64) -> f64 {
    if limit <= 0.0 { 0.0 } else { (used / limit * 1000.0).round() / 10.0 }
}
