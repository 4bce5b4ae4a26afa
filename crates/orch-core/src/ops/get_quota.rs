//! The caller's own limits, and what is left of them.

use std::sync::Arc;

use orch_domain::Error;
use orch_domain::caller::Permission;
use orch_domain::name::UserId;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::operation::{Operation, Route, Spec, Summary, spec};
use crate::view::user::QuotaView;
use crate::{Cx, Orch};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GetQuota {}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct OwnQuota {
    pub user: UserId,
    #[serde(flatten)]
    pub quota: QuotaView,
}

impl Summary for OwnQuota {
    fn summary(&self) -> String {
        format!("{}: {}.", self.user, self.quota.line())
    }
}

impl Operation for GetQuota {
    const SPEC: Spec =
        spec!("get_quota", Identity, Reads, Some(Permission::Read), [Route::get("/auth/quota")]);
    type Output = OwnQuota;

    async fn run(self, orch: &Arc<Orch>, cx: &Cx) -> Result<OwnQuota, Error> {
        let user = orch.user(&cx.caller()?.user)?;
        let used = orch.ledger.read(|book| book.usage(&user.id));
        Ok(OwnQuota { user: user.id.clone(), quota: QuotaView::of(user.quota, used) })
    }
}
