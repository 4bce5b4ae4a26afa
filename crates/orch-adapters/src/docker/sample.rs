//! What is in use on the machine of an engine: read from this one, or asked of a machine behind SSH by a fixed script.
//!
//! The engine itself tells nothing of it. What a machine answers is as hostile as any output: bounded, parsed line by
//! line, and what does not parse is not known.

use std::process::Stdio;
use std::sync::Arc;

use orch_core::ports::engine::{EngineError, EngineInfo};
use orch_domain::metrics::Sample;
use tokio::io::AsyncReadExt;

use super::connect::Endpoint;
use super::figures::{self, Figures};
use crate::ssh::Link;

/// What a program of this machine may print; all that it should is a tenth of that.
const MAX_BYTES: u64 = 64 << 10;

/// Prints each figure under a heading. Where the engine keeps its data comes by standard input, so that no text from
/// elsewhere is part of what a shell reads. The GPUs come last, because a sick driver may let its program hang: what came
/// before is known by then.
const SCRIPT: &str = "exec sh -c '\
    PATH=$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin; export PATH; LC_ALL=C; export LC_ALL; \
    IFS= read -r root; t=; command -v timeout >/dev/null && t=\"timeout 2\"; \
    echo @stat; head -n 1 /proc/stat; \
    echo @load; cat /proc/loadavg; \
    echo @memory; grep -E \"^(MemTotal|MemAvailable):\" /proc/meminfo; \
    echo @disk; [ -n \"$root\" ] && $t df -kP \"$root\"; \
    echo @gpus; \
    if command -v nvidia-smi >/dev/null; then \
        $t nvidia-smi --query-gpu=index,name,utilization.gpu,memory.used,memory.total --format=csv,noheader,nounits && echo @end; \
    else echo @end; fi' 2>/dev/null";

const GPU_QUERY: [&str; 2] = [
    "--query-gpu=index,name,utilization.gpu,memory.used,memory.total",
    "--format=csv,noheader,nounits",
];

pub(super) async fn of(endpoint: &Endpoint, info: &EngineInfo) -> Result<Sample, EngineError> {
    match endpoint {
        Endpoint::Ssh { link, .. } => over_ssh(link, info).await,
        Endpoint::Unix { .. } => Ok(of_this_machine(info).await),
        // Nothing but the engine is reached there, and it knows only how much memory there is.
        Endpoint::Tcp { .. } => {
            let total = u64::try_from(info.capacity.memory.bytes()).ok();
            Ok(Sample { memory_total_bytes: total, ..Sample::default() })
        }
    }
}

async fn over_ssh(link: &Arc<Link>, info: &EngineInfo) -> Result<Sample, EngineError> {
    // A name with a line break in it would be two lines of input, and is none that an engine has.
    let root = info.data_root.as_deref().filter(|it| !it.contains(['\n', '\0']));
    let input = format!("{}\n", root.unwrap_or_default());
    let printed = link.run(SCRIPT, input, figures::PATIENCE).await;
    let printed = printed.map_err(|err| EngineError::from(&err))?;
    let mut figures = Figures::default();
    figures.read(&String::from_utf8_lossy(&printed.bytes), printed.is_whole);
    Ok(figures.sample)
}

async fn of_this_machine(info: &EngineInfo) -> Sample {
    let read = async |path: &str| tokio::fs::read_to_string(path).await.unwrap_or_default();
    let mut figures = Figures::default();
    figures.stat(&read("/proc/stat").await);
    figures.load(&read("/proc/loadavg").await);
    figures.memory(&read("/proc/meminfo").await);
    if let Some(root) = info.data_root.clone() {
        // A file system may be on the network, and hang.
        let disk = tokio::task::spawn_blocking(move || rustix::fs::statvfs(root.as_str()));
        if let Ok(Ok(it)) = disk.await {
            let blocks = it.f_blocks.saturating_sub(it.f_bfree);
            figures.sample.disk_used_bytes = Some(blocks.saturating_mul(it.f_frsize));
            figures.sample.disk_total_bytes = Some(it.f_blocks.saturating_mul(it.f_frsize));
        }
    }
    figures.sample.gpus = gpus_of_this_machine().await;
    figures.sample
}

/// None: its program is there and does not work.
async fn gpus_of_this_machine() -> Option<Vec<orch_domain::metrics::GpuMetrics>> {
    let mut command = tokio::process::Command::new("nvidia-smi");
    command.args(GPU_QUERY).stdin(Stdio::null()).stderr(Stdio::null()).stdout(Stdio::piped());
    let mut child = match command.kill_on_drop(true).spawn() {
        Ok(it) => it,
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Some(Vec::new()),
        Err(_) => return None,
    };
    let mut answer = Vec::new();
    let stdout = child.stdout.take()?;
    let told = async {
        stdout.take(MAX_BYTES).read_to_end(&mut answer).await.ok()?;
        child.wait().await.ok().filter(std::process::ExitStatus::success)
    };
    tokio::time::timeout(figures::PATIENCE, told).await.ok()??;
    Some(figures::gpus(String::from_utf8_lossy(&answer).lines()))
}
