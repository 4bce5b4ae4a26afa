//! What is in use on a node's machine, whoever uses it. What cannot be told is absent, and never 0.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::resource::{Cpu, Resources};
use crate::time::Timestamp;

/// One look at a machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NodeMetrics {
    pub sampled_at: Timestamp,
    /// vCPU that the machine has.
    pub cpu_total: Cpu,
    /// Share of all its CPUs that was busy since the sample before, 0 to 1; from the second sample on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_used: Option<f64>,
    /// Processes that ran or waited to run, on average over the last 1, 5 and 15 minutes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_average: Option<[f64; 3]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_used_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_total_bytes: Option<u64>,
    /// Of the file system that the engine keeps its images and containers on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_used_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_total_bytes: Option<u64>,
    /// As its `nvidia-smi` tells; empty where there is none, absent where that could not be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpus: Option<Vec<GpuMetrics>>,
    /// Containers that run, ours or not.
    pub containers_running: u32,
    /// Containers in any state, ours or not.
    pub containers_total: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GpuMetrics {
    /// What instances know it by.
    pub index: u32,
    pub name: String,
    /// Share of the last moments in which it worked, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_used_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_total_bytes: Option<u64>,
}

/// How full a machine is: shares from 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct Usage {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<f64>,
    /// On average over its GPUs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu: Option<f64>,
}

impl NodeMetrics {
    pub fn usage(&self) -> Usage {
        let gpus = self.gpus.iter().flatten().filter_map(|it| it.used);
        Usage {
            cpu: self.cpu_used,
            memory: share(self.memory_used_bytes, self.memory_total_bytes),
            disk: share(self.disk_used_bytes, self.disk_total_bytes),
            gpu: mean(gpus.map(|it| (it, 1.0))),
        }
    }
}

/// What is in use of the whole cluster, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct ClusterUsage {
    /// Nodes whose use is in these sums.
    pub sampled_nodes: usize,
    /// Share of all CPUs that is busy, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_used: Option<f64>,
    pub memory_used_bytes: u64,
    /// Of the nodes that tell what they use.
    pub memory_total_bytes: u64,
    pub disk_used_bytes: u64,
    /// Of the nodes that tell what they use.
    pub disk_total_bytes: u64,
    /// GPUs that were seen working or idle.
    pub gpus: usize,
    /// On average over them, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_used: Option<f64>,
    pub containers_running: u64,
    pub containers_total: u64,
}

impl ClusterUsage {
    pub fn of(nodes: &[NodeMetrics]) -> ClusterUsage {
        let mut sum = ClusterUsage { sampled_nodes: nodes.len(), ..ClusterUsage::default() };
        for it in nodes {
            if let (Some(used), Some(total)) = (it.memory_used_bytes, it.memory_total_bytes) {
                sum.memory_used_bytes = sum.memory_used_bytes.saturating_add(used);
                sum.memory_total_bytes = sum.memory_total_bytes.saturating_add(total);
            }
            if let (Some(used), Some(total)) = (it.disk_used_bytes, it.disk_total_bytes) {
                sum.disk_used_bytes = sum.disk_used_bytes.saturating_add(used);
                sum.disk_total_bytes = sum.disk_total_bytes.saturating_add(total);
            }
            sum.gpus += it.gpus.as_ref().map_or(0, Vec::len);
            sum.containers_running += u64::from(it.containers_running);
            sum.containers_total += u64::from(it.containers_total);
        }
        sum.cpu_used =
            mean(nodes.iter().filter_map(|it| Some((it.cpu_used?, it.cpu_total.vcpu()))));
        let gpus = nodes.iter().flat_map(|it| it.gpus.iter().flatten());
        sum.gpu_used = mean(gpus.filter_map(|it| Some((it.used?, 1.0))));
        sum
    }
}

fn share(used: Option<u64>, total: Option<u64>) -> Option<f64> {
    match (used?, total?) {
        (_, 0) => None,
        (used, total) => Some((used as f64 / total as f64).min(1.0)),
    }
}

/// Of values with weights.
fn mean(values: impl Iterator<Item = (f64, f64)>) -> Option<f64> {
    let (sum, weight) = values.fold((0.0, 0.0), |(sum, weight), (it, its_weight)| {
        (sum + it * its_weight, weight + its_weight)
    });
    (0.0 < weight).then(|| sum / weight)
}

/// What a machine itself tells, before it is compared with what it told before.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    pub cpu: Option<CpuReading>,
    pub load_average: Option<[f64; 3]>,
    pub memory_used_bytes: Option<u64>,
    pub memory_total_bytes: Option<u64>,
    pub disk_used_bytes: Option<u64>,
    pub disk_total_bytes: Option<u64>,
    pub gpus: Option<Vec<GpuMetrics>>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum CpuReading {
    /// Of all CPUs, 0 to 1.
    Share(f64),
    /// Since the machine was started, in a unit of its own.
    Counted { busy: u64, total: u64 },
}

impl CpuReading {
    /// The share since the reading before. None: there is nothing to compare with, or the machine began anew.
    pub fn since(self, before: Option<CpuReading>) -> Option<f64> {
        match (self, before) {
            (CpuReading::Share(it), _) => Some(it.clamp(0.0, 1.0)),
            (
                CpuReading::Counted { busy, total },
                Some(CpuReading::Counted { busy: busy_before, total: total_before }),
            ) => {
                let passed = total.checked_sub(total_before).filter(|it| *it != 0)?;
                let busy = busy.checked_sub(busy_before)?;
                Some((busy as f64 / passed as f64).min(1.0))
            }
            (CpuReading::Counted { .. }, _) => None,
        }
    }
}

impl Sample {
    /// `before` is the CPU reading of the sample before this one; `machine` what the machine has.
    pub fn into_metrics(
        self,
        sampled_at: Timestamp,
        machine: &Resources,
        (containers_running, containers_total): (u32, u32),
        before: Option<CpuReading>,
    ) -> NodeMetrics {
        NodeMetrics {
            sampled_at,
            cpu_total: machine.cpu,
            cpu_used: self.cpu.and_then(|it| it.since(before)),
            load_average: self.load_average,
            memory_used_bytes: self.memory_used_bytes,
            memory_total_bytes: self.memory_total_bytes,
            disk_used_bytes: self.disk_used_bytes,
            disk_total_bytes: self.disk_total_bytes,
            gpus: self.gpus,
            containers_running,
            containers_total,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(busy: u64, total: u64) -> CpuReading {
        CpuReading::Counted { busy, total }
    }

    #[test]
    fn the_share_of_the_cpu_is_what_happened_between_two_samples() {
        assert_eq!(counted(150, 400).since(Some(counted(100, 200))), Some(0.25));
        assert_eq!(counted(150, 400).since(None), None, "since the machine was started is not now");
        assert_eq!(counted(1, 10).since(Some(counted(100, 200))), None, "it was started anew");
        assert_eq!(counted(1, 10).since(Some(counted(1, 10))), None, "no time passed");
        assert_eq!(CpuReading::Share(0.5).since(None), Some(0.5));
    }

    #[test]
    fn what_is_not_known_is_not_in_the_sums_and_not_in_the_json() {
        let known = NodeMetrics {
            cpu_total: Cpu::from_millis(3000),
            cpu_used: Some(0.8),
            memory_used_bytes: Some(1),
            memory_total_bytes: Some(4),
            ..NodeMetrics::default()
        };
        let idle = NodeMetrics {
            cpu_total: Cpu::from_millis(1000),
            cpu_used: Some(0.0),
            ..NodeMetrics::default()
        };
        let unknown = NodeMetrics { memory_total_bytes: Some(100), ..NodeMetrics::default() };
        let sum = ClusterUsage::of(&[known, idle, unknown.clone()]);
        assert_eq!(sum.sampled_nodes, 3);
        assert!((sum.cpu_used.unwrap() - 0.6).abs() < 1e-9, "a large node counts for more");
        assert_eq!((sum.memory_used_bytes, sum.memory_total_bytes), (1, 4));
        assert_eq!(unknown.usage(), Usage::default());
        let json = serde_json::to_value(&unknown).unwrap();
        assert!(json.get("cpu_used").is_none() && json.get("gpus").is_none(), "{json}");
    }
}
