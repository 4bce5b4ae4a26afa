//! What a Ray job wrote, newest last.

use std::sync::Arc;

use orch_domain::Error;
use orch_domain::caller::Permission;
use orch_domain::name::RayJobId;
use orch_domain::text::{Tail, sanitize};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::instance_logs::{check_max_bytes, check_tail, default_max_bytes, default_tail};
use crate::operation::{Operation, Route, Spec, Summary, spec};
use crate::view::untrusted::{JOB_NOTICE, fenced_after};
use crate::{Cx, Orch};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RayJobLogs {
    pub job_id: RayJobId,
    /// Only so many of the last lines, 1 to 10000; 200 unless given.
    #[serde(default = "default_tail")]
    #[schemars(range(min = 1, max = 10_000))]
    pub tail: u32,
    /// Longest answer in bytes, 1 to 1048576; 65536 unless given. Older lines are left out first.
    #[serde(default = "default_max_bytes")]
    #[schemars(range(min = 1, max = 1_048_576))]
    pub max_bytes: u32,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct RayLogText {
    pub job_id: RayJobId,
    /// What `text` is and is not.
    pub notice: &'static str,
    /// What the job's driver wrote, oldest line first. Control characters, terminal escapes and invisible characters
    /// are taken out.
    pub text: String,
    pub n_lines: usize,
    /// True when older lines were left out to stay within `tail` or `max_bytes`.
    pub truncated: bool,
    #[serde(skip)]
    #[schemars(skip)]
    boundary: u64,
}

impl Summary for RayLogText {
    fn summary(&self) -> String {
        let cut = if self.truncated { "; older lines were left out" } else { "" };
        let title = format!("Last {} lines of Ray job {}{cut}", self.n_lines, self.job_id);
        fenced_after(&title, JOB_NOTICE, self.boundary, &self.text)
    }
}

impl Operation for RayJobLogs {
    const SPEC: Spec = spec!(
        "ray_job_logs",
        Ray,
        Reads,
        Some(Permission::Read),
        [Route::get("/ray/jobs/{job_id}/logs")]
    );
    type Output = RayLogText;

    async fn run(self, orch: &Arc<Orch>, cx: &Cx) -> Result<RayLogText, Error> {
        let wanted = check_tail(self.tail)? as usize;
        let max_bytes = check_max_bytes(self.max_bytes)?;
        let written = orch.ray_job_logs(cx, &self.job_id).await?;
        let logs = sanitize(&written.text);
        let n_lines = logs.lines().count();
        let mut tail = Tail::new(max_bytes);
        for line in logs.lines().skip(n_lines.saturating_sub(wanted)) {
            tail.push(line.to_owned());
        }
        Ok(RayLogText {
            job_id: self.job_id,
            notice: JOB_NOTICE,
            n_lines: tail.n_lines(),
            truncated: written.is_cut || tail.is_truncated() || wanted < n_lines,
            text: tail.text(),
            boundary: orch.random(),
        })
    }
}
