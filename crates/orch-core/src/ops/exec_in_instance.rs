//! A command runs inside an instance, and what it wrote comes back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use orch_domain::Error;
use orch_domain::caller::Permission;
use orch_domain::name::InstanceId;
use orch_domain::text;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::instance_logs::{check_max_bytes, default_max_bytes};
use super::launch_instance::{check_command, check_env};
use crate::operation::{Operation, Route, Spec, Summary, spec};
use crate::ports::engine::ExecRequest;
use crate::view::untrusted::{NOTICE, fenced};
use crate::{Cx, Orch};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecInInstance {
    pub id: InstanceId,
    /// Program and its arguments, one word each, such as `["ls", "-l", "/srv"]`. No shell is between: for pipes and
    /// variables use `["sh", "-c", "…"]`.
    #[schemars(length(min = 1, max = 64))]
    pub command: Vec<String>,
    /// Environment variables on top of the container's own, at most 128.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Absolute path to run it in; the container's own unless given.
    pub working_dir: Option<String>,
    /// The command is ended after so long, 1 to 600; 30 unless given.
    #[serde(default = "default_timeout")]
    #[schemars(range(min = 1, max = 600))]
    pub timeout_seconds: u32,
    /// Longest output in bytes, 1 to 1048576; 65536 unless given. What comes after is dropped.
    #[serde(default = "default_max_bytes")]
    #[schemars(range(min = 1, max = 1_048_576))]
    pub max_bytes: u32,
}

fn default_timeout() -> u32 {
    30
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ExecResult {
    pub instance_id: InstanceId,
    /// Of the command, 0 when it succeeded; null when it ran into its time limit.
    pub exit_code: Option<i64>,
    pub timed_out: bool,
    /// What `stdout` and `stderr` are and are not.
    pub notice: &'static str,
    /// Control characters, terminal escapes and invisible characters are taken out, here and in `stderr`.
    pub stdout: String,
    pub stderr: String,
    /// True when output was dropped to stay within `max_bytes`.
    pub truncated: bool,
    #[serde(skip)]
    #[schemars(skip)]
    boundary: u64,
}

impl Summary for ExecResult {
    fn summary(&self) -> String {
        let ended = match self.exit_code {
            Some(code) => format!("The command ended with exit code {code}"),
            None => "The command ran into its time limit and was ended".to_owned(),
        };
        let cut = if self.truncated { "; output beyond the limit was dropped" } else { "" };
        let mut output = self.stdout.clone();
        if !self.stderr.is_empty() {
            if !output.is_empty() && !output.ends_with('\n') {
                output.push('\n');
            }
            output.push_str("standard error:\n");
            output.push_str(&self.stderr);
        }
        if output.is_empty() {
            return format!("{ended} and wrote nothing.");
        }
        fenced(&format!("{ended}{cut}"), self.boundary, &output)
    }
}

impl Operation for ExecInInstance {
    const SPEC: Spec = spec!(
        "exec_in_instance",
        Instances,
        Executes,
        Some(Permission::Execute),
        [Route::post("/instances/{id}/exec")]
    );
    type Output = ExecResult;

    async fn run(self, orch: &Arc<Orch>, cx: &Cx) -> Result<ExecResult, Error> {
        let max_bytes = check_max_bytes(self.max_bytes)?;
        let request = self.check(max_bytes)?;
        let outcome = orch.exec(cx, &self.id, request).await?;
        let mut truncated = outcome.is_truncated;
        let mut room = max_bytes;
        let mut safe = |output: &[u8]| {
            let text = text::sanitize(&String::from_utf8_lossy(output));
            let kept = text::beginning(&text, room).to_owned();
            truncated |= kept.len() < text.len();
            room -= kept.len();
            kept
        };
        let (stdout, stderr) = (safe(&outcome.stdout), safe(&outcome.stderr));
        Ok(ExecResult {
            instance_id: self.id,
            exit_code: outcome.exit_code,
            timed_out: outcome.exit_code.is_none(),
            notice: NOTICE,
            stdout,
            stderr,
            truncated,
            boundary: orch.random(),
        })
    }
}

impl ExecInInstance {
    fn check(&self, max_output_bytes: usize) -> Result<ExecRequest, Error> {
        if self.command.is_empty() {
            return Err(Error::invalid("command", "it is empty; its first word is the program"));
        }
        check_command(&self.command)?;
        check_env(&self.env)?;
        if let Some(dir) = &self.working_dir
            && (!dir.starts_with('/') || 4096 < dir.len() || dir.contains('\0'))
        {
            return Err(Error::invalid("working_dir", "it is not an absolute path"));
        }
        if !(1..=600).contains(&self.timeout_seconds) {
            let message = format!("{} is not from 1 to 600", self.timeout_seconds);
            return Err(Error::invalid("timeout_seconds", message));
        }
        Ok(ExecRequest {
            command: self.command.clone(),
            env: self.env.clone(),
            working_dir: self.working_dir.clone(),
            timeout: Duration::from_secs(self.timeout_seconds.into()),
            max_output_bytes,
        })
    }
}
