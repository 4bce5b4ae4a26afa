//! One reading of what a container uses.

use bollard::models::{ContainerCpuStats, ContainerMemoryStats, ContainerStatsResponse};
use orch_core::ports::engine::ContainerStats;

/// None for a container that does not run: the engine then answers with an empty reading of the year 1.
pub(super) fn read(it: &ContainerStatsResponse) -> Option<ContainerStats> {
    if it.read.as_deref().is_none_or(|it| it.starts_with("0001-")) {
        return None;
    }
    let networks = it.networks.iter().flat_map(|it| it.values());
    let (received, sent) = networks.fold((0u64, 0u64), |sum, it| {
        (sum.0 + it.rx_bytes.unwrap_or_default(), sum.1 + it.tx_bytes.unwrap_or_default())
    });
    let blocks = it.blkio_stats.as_ref().and_then(|it| it.io_service_bytes_recursive.as_ref());
    let moved = |operation: &str| {
        let of_operation = |op: &Option<String>| {
            op.as_deref().is_some_and(|it| it.eq_ignore_ascii_case(operation))
        };
        let entries = blocks.into_iter().flatten().filter(|it| of_operation(&it.op));
        entries.map(|it| it.value.unwrap_or_default()).sum()
    };
    let memory = it.memory_stats.as_ref();
    Some(ContainerStats {
        cpu_used: cpu_used(it.precpu_stats.as_ref(), it.cpu_stats.as_ref()),
        memory_used_bytes: memory.map(memory_used).unwrap_or_default(),
        memory_limit_bytes: memory.and_then(|it| it.limit).unwrap_or_default(),
        network_received_bytes: received,
        network_sent_bytes: sent,
        block_read_bytes: moved("read"),
        block_written_bytes: moved("write"),
        n_processes: it.pids_stats.as_ref().and_then(|it| it.current).unwrap_or_default(),
    })
}

/// Share of one CPU between the two samples that the engine takes a second apart.
fn cpu_used(before: Option<&ContainerCpuStats>, after: Option<&ContainerCpuStats>) -> f64 {
    let (Some(before), Some(after)) = (before, after) else { return 0.0 };
    let total = |it: &ContainerCpuStats| it.cpu_usage.as_ref().and_then(|it| it.total_usage);
    let used = delta(total(before), total(after));
    let system = delta(before.system_cpu_usage, after.system_cpu_usage);
    if system == 0.0 {
        return 0.0;
    }
    used / system * f64::from(after.online_cpus.unwrap_or(1).max(1))
}

fn delta(before: Option<u64>, after: Option<u64>) -> f64 {
    match (before, after) {
        // A first sample is missing right after the start; the share since boot would be nonsense.
        (Some(before), Some(after)) if 0 < before => after.saturating_sub(before) as f64,
        _ => 0.0,
    }
}

/// Without the page cache that the kernel would give back first, as `docker stats` counts it.
fn memory_used(it: &ContainerMemoryStats) -> u64 {
    let detail = |key: &str| it.stats.as_ref().and_then(|it| it.get(key).copied());
    // cgroup v1 and v2 name it differently.
    let cache = detail("total_inactive_file").or_else(|| detail("inactive_file"));
    it.usage.unwrap_or_default().saturating_sub(cache.unwrap_or_default())
}
