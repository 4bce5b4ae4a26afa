//! The rest of a tool's result that was too large to be passed on whole.

use std::sync::Arc;

use orch_domain::Error;
use orch_domain::caller::Permission;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::operation::{Operation, Route, Spec, Summary, spec};
use crate::ports::tool_server::ResultPart;
use crate::view::untrusted::{NOTICE_OF_TOOL, fenced_after};
use crate::{Cx, Orch};

/// Bytes of one part.
const MOST: u32 = 1 << 20;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GetResult {
    /// As the note at the end of the result says: `r-…`.
    pub id: String,
    /// Bytes to begin after: `next_offset` of the part before.
    #[serde(default)]
    pub offset: u64,
    /// Longest part in bytes, 1024 to 1048576; 65536 unless given.
    #[serde(default = "default_max_bytes")]
    #[schemars(range(min = 1024, max = 1_048_576))]
    pub max_bytes: u32,
}

fn default_max_bytes() -> u32 {
    64 * 1024
}

impl Summary for ResultPart {
    fn summary(&self) -> String {
        let end = self.offset + self.text.len() as u64;
        let more = match self.next_offset {
            Some(it) => format!("; go on with offset={it}"),
            None => "; this is the end".to_owned(),
        };
        let title = format!("Bytes {} to {end} of {} of {}{more}", self.offset, self.size, self.id);
        fenced_after(
            &title,
            NOTICE_OF_TOOL,
            self.boundary,
            &orch_domain::text::sanitize(&self.text),
        )
    }
}

impl Operation for GetResult {
    const SPEC: Spec =
        spec!("get_result", Tools, Reads, Some(Permission::Read), [Route::get("/results/{id}")]);
    type Output = ResultPart;

    async fn run(self, orch: &Arc<Orch>, cx: &Cx) -> Result<ResultPart, Error> {
        if !(1024..=MOST).contains(&self.max_bytes) {
            let message = format!("{} is not from 1024 to {MOST}", self.max_bytes);
            return Err(Error::invalid("max_bytes", message));
        }
        let max_bytes = self.max_bytes as usize;
        let part = orch.tool_servers.result(&self.id, self.offset, max_bytes, cx).await?;
        Ok(ResultPart { boundary: orch.random(), ..part })
    }
}
