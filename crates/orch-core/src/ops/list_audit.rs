//! Who did what, newest first.

use std::sync::Arc;

use orch_domain::Error;
use orch_domain::audit::{AuditEntry, AuditId};
use orch_domain::caller::Permission;
use orch_domain::name::UserId;
use orch_domain::page::{self, PageSize};
use orch_domain::text::excerpt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::operation::{Operation, Route, Spec, Summary, spec};
use crate::ports::store::AuditQuery;
use crate::view::table::table;
use crate::{Cx, Orch};

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ListAudit {
    /// Only what this user did, by id or name.
    pub user: Option<UserId>,
    /// Only of this operation, such as `launch_instance`.
    pub operation: Option<String>,
    /// Only what was done to this id, such as an instance's or a node's.
    pub target: Option<String>,
    pub page_size: PageSize,
    /// `next_page_token` of the page before.
    pub page_token: String,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct AuditList {
    /// Newest first.
    pub entries: Vec<AuditEntry>,
    /// Empty on the last page.
    pub next_page_token: String,
}

impl Summary for AuditList {
    fn summary(&self) -> String {
        if self.entries.is_empty() {
            return "No entries of the audit match; leave out a filter to see more.".to_owned();
        }
        let row = |it: &AuditEntry| {
            let outcome = format!("{:?}", it.outcome).to_lowercase();
            [
                it.at.to_string(),
                it.user.as_ref().map_or("-", UserId::as_str).to_owned(),
                it.channel.as_str().to_owned(),
                it.operation.clone(),
                it.error.as_ref().map_or(outcome.clone(), |error| format!("{outcome}: {error}")),
                excerpt(&it.targets.join(", "), 80),
            ]
        };
        let mut text = table(
            ["AT", "USER", "CHANNEL", "OPERATION", "OUTCOME", "TARGETS"],
            self.entries.iter().map(row),
        );
        if !self.next_page_token.is_empty() {
            text.push_str(&format!("\n`page_token={}` shows older ones", self.next_page_token));
        }
        text
    }
}

impl Operation for ListAudit {
    const SPEC: Spec =
        spec!("list_audit", Identity, Reads, Some(Permission::Admin), [Route::get("/audit")]);
    type Output = AuditList;

    async fn run(self, orch: &Arc<Orch>, _: &Cx) -> Result<AuditList, Error> {
        let query = AuditQuery {
            before: page::place_of("audit", &self.page_token)?.map(AuditId),
            // One more than shown, to know whether there are more.
            limit: self.page_size.get() + 1,
            // What somebody did stays listed by id after the user is gone.
            user: self.user.map(|it| orch.user_id(&it).unwrap_or(it)),
            operation: self.operation,
            target: self.target,
        };
        let read = orch.audit(query).await?;
        let (entries, next_page_token) =
            page::trim("audit", read, |it| it.id.0.to_string(), self.page_size);
        Ok(AuditList { entries, next_page_token })
    }
}
