//! Tools of a server that are not what they were are taken as they are now.

use std::sync::Arc;

use orch_domain::Error;
use orch_domain::caller::Permission;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::operation::{Operation, Route, Spec, Summary, spec};
use crate::ports::tool_server::FlaggedTool;
use crate::{Cx, Orch};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApproveTools {
    /// As `list_servers` shows it.
    pub server: String,
    /// As the server calls them; all that are flagged unless given.
    #[serde(default)]
    pub tools: Vec<String>,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ApprovedTools {
    pub server: String,
    /// As they were flagged before. Others that were named needed no approval.
    pub approved: Vec<FlaggedTool>,
}

impl Summary for ApprovedTools {
    fn summary(&self) -> String {
        if self.approved.is_empty() {
            return format!("nothing of the server `{}` needed approval", self.server);
        }
        let names: Vec<String> = self.approved.iter().map(|it| format!("`{}`", it.tool)).collect();
        format!("approved as they are now, of the server `{}`: {}", self.server, names.join(", "))
    }
}

impl Operation for ApproveTools {
    const SPEC: Spec = spec!(
        "approve_tools",
        Tools,
        Changes,
        Some(Permission::Admin),
        [Route::post("/servers/{server}/approve")]
    );
    type Output = ApprovedTools;

    async fn run(self, orch: &Arc<Orch>, cx: &Cx) -> Result<ApprovedTools, Error> {
        cx.audit_target(&self.server);
        let approved = orch.tool_servers.approve(&self.server, &self.tools).await?;
        for it in &approved {
            cx.audit_target(format!(
                "{}.{}",
                self.server,
                orch_domain::text::excerpt(&it.tool, 100)
            ));
        }
        Ok(ApprovedTools { server: self.server, approved })
    }
}
