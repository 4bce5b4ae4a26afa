//! What an instance wrote, newest last.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use orch_domain::Error;
use orch_domain::caller::Permission;
use orch_domain::name::InstanceId;
use orch_domain::text::Tail;
use orch_domain::time::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::operation::{Operation, Route, Spec, Summary, spec};
use crate::ports::engine::LogQuery;
use crate::view::untrusted::{NOTICE, fenced};
use crate::{Cx, Orch};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InstanceLogs {
    pub id: InstanceId,
    /// Only so many of the last lines, 1 to 10000; 200 unless given.
    #[serde(default = "default_tail")]
    #[schemars(range(min = 1, max = 10_000))]
    pub tail: u32,
    /// Only what was written from this moment on.
    pub since: Option<Timestamp>,
    /// Begin each line with the time it was written.
    #[serde(default)]
    pub timestamps: bool,
    /// Longest answer in bytes, 1 to 1048576; 65536 unless given. Older lines are left out first.
    #[serde(default = "default_max_bytes")]
    #[schemars(range(min = 1, max = 1_048_576))]
    pub max_bytes: u32,
}

pub(super) fn default_tail() -> u32 {
    200
}

pub(super) fn default_max_bytes() -> u32 {
    64 * 1024
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct LogText {
    pub instance_id: InstanceId,
    /// What `text` is and is not.
    pub notice: &'static str,
    /// Standard output and standard error in the order they were written, oldest line first. Control characters,
    /// terminal escapes and invisible characters are taken out.
    pub text: String,
    pub n_lines: usize,
    /// True when older lines were left out to stay within `max_bytes`.
    pub truncated: bool,
    #[serde(skip)]
    #[schemars(skip)]
    boundary: u64,
}

impl Summary for LogText {
    fn summary(&self) -> String {
        let cut = if self.truncated { "; older lines were left out" } else { "" };
        let title = format!("Last {} lines of {}{cut}", self.n_lines, self.instance_id);
        fenced(&title, self.boundary, &self.text)
    }
}

/// An engine that takes longer to hand them out counts as stuck.
const READ_LIMIT: Duration = Duration::from_secs(30);

impl Operation for InstanceLogs {
    const SPEC: Spec = spec!(
        "instance_logs",
        Instances,
        Reads,
        Some(Permission::Read),
        [Route::get("/instances/{id}/logs")]
    );
    type Output = LogText;

    async fn run(self, orch: &Arc<Orch>, cx: &Cx) -> Result<LogText, Error> {
        check_tail(self.tail)?;
        let max_bytes = check_max_bytes(self.max_bytes)?;
        let query = LogQuery { tail: Some(self.tail), since: self.since, follow: false };
        let mut lines = orch.logs(cx, &self.id, query).await?;
        let mut tail = Tail::new(max_bytes);
        let read = async {
            while let Some(line) = lines.next().await {
                let line = line?;
                match line.at.filter(|_| self.timestamps) {
                    Some(at) => tail.push(format!("{at} {}", line.text)),
                    None => tail.push(line.text),
                }
            }
            Ok(())
        };
        tokio::time::timeout(READ_LIMIT, read).await.unwrap_or_else(|_| {
            let message =
                "the engine was too slow in handing out the logs; ask for fewer lines with `tail`";
            Err(Error::DeadlineExceeded { message: message.to_owned() })
        })?;
        Ok(LogText {
            instance_id: self.id,
            notice: NOTICE,
            n_lines: tail.n_lines(),
            truncated: tail.is_truncated(),
            text: tail.text(),
            boundary: orch.random(),
        })
    }
}

pub(super) fn check_tail(tail: u32) -> Result<u32, Error> {
    if !(1..=10_000).contains(&tail) {
        return Err(Error::invalid("tail", format!("{tail} is not from 1 to 10000")));
    }
    Ok(tail)
}

const MAX_BYTES: u32 = 1 << 20;

pub(super) fn check_max_bytes(max_bytes: u32) -> Result<usize, Error> {
    if !(1..=MAX_BYTES).contains(&max_bytes) {
        let message = format!("{max_bytes} is not from 1 to {MAX_BYTES}");
        return Err(Error::invalid("max_bytes", message));
    }
    Ok(max_bytes as usize)
}
