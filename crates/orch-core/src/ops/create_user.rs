//! A new user, with a quota and permissions.

use std::collections::BTreeSet;
use std::sync::Arc;

use orch_domain::Error;
use orch_domain::caller::Permission;
use orch_domain::name::{UserId, UserName};
use orch_domain::password::Password;
use orch_domain::tool_access::ToolPatterns;
use orch_domain::user::QuotaChange;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::operation::{Operation, Route, Spec, spec};
use crate::view::user::{OneUser, UserView};
use crate::{Cx, Orch};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateUser {
    /// What the user logs in with; nobody else may have it.
    pub username: UserName,
    /// At least 8 characters.
    pub password: Password,
    /// `read`, `write` and `execute` unless given.
    #[serde(default = "usual_permissions")]
    pub permissions: BTreeSet<Permission>,
    /// Limits other than the usual ones.
    #[serde(default)]
    pub quota: QuotaChange,
    /// Which tools it may use, by whatever credential, such as `{"deny": ["github.delete_*"]}`; all unless given.
    #[serde(default)]
    pub tools: ToolPatterns,
}

fn usual_permissions() -> BTreeSet<Permission> {
    BTreeSet::from([Permission::Read, Permission::Write, Permission::Execute])
}

impl Operation for CreateUser {
    const SPEC: Spec =
        spec!("create_user", Identity, Creates, Some(Permission::Admin), [Route::post("/users")]);
    type Output = OneUser;

    async fn run(self, orch: &Arc<Orch>, cx: &Cx) -> Result<OneUser, Error> {
        self.password.may_be_chosen("password")?;
        let quota = self.quota.apply(&orch.settings.default_quota)?;
        // Random, because a name may be given to somebody else later, who must not inherit anything.
        let id = UserId::try_new(format!("user-{:012x}", orch.random() >> 16))
            .map_err(Error::internal)?;
        cx.audit_target(&id);
        let permissions = self.permissions.into_iter().collect();
        let user = orch
            .make_user(id, self.username, &self.password, permissions, quota, self.tools)
            .await?;
        orch.ledger
            .write(Some(cx), |book| {
                book.add_user(user.clone())?;
                Ok(OneUser(UserView::of(&user, book)))
            })
            .await
    }
}
