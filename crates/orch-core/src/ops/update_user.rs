//! Permissions, quota or password of a user change.

use std::collections::BTreeSet;
use std::sync::Arc;

use orch_domain::Error;
use orch_domain::book::no_user;
use orch_domain::caller::Permission;
use orch_domain::name::UserId;
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
pub struct UpdateUser {
    /// Its id or name, as `list_users` shows them.
    pub user_id: UserId,
    /// New password, at least 8 characters. Ends every login of the user; API keys stay.
    pub password: Option<Password>,
    /// New permissions, in place of all it has; none lock it out. Ends every login of the user.
    pub permissions: Option<BTreeSet<Permission>>,
    /// New limits. Lowered below what the user holds, they only refuse more.
    #[serde(default)]
    pub quota: QuotaChange,
    /// Which tools it may use from its next call on, in place of what was said before; `{}` is all.
    pub tools: Option<ToolPatterns>,
}

impl Operation for UpdateUser {
    const SPEC: Spec = spec!(
        "update_user",
        Identity,
        Changes,
        Some(Permission::Admin),
        [Route::put("/users/{user_id}")]
    );
    type Output = OneUser;

    async fn run(self, orch: &Arc<Orch>, cx: &Cx) -> Result<OneUser, Error> {
        let id = &orch.user_id(&self.user_id)?;
        cx.audit_target(id);
        let password_hash = match &self.password {
            Some(password) => {
                password.may_be_chosen("password")?;
                Some(orch.hash(password).await?)
            }
            None => None,
        };
        let ends_logins = password_hash.is_some() || self.permissions.is_some();
        let now = orch.clock.now();
        orch.ledger
            .write(Some(cx), |book| {
                let before = book.user(id).ok_or_else(|| no_user(id))?;
                let quota = self.quota.apply(&before.quota)?;
                let user = book.change_user(id, |it| {
                    it.quota = quota;
                    it.password_hash = password_hash.unwrap_or(it.password_hash.clone());
                    if let Some(permissions) = &self.permissions {
                        it.permissions = permissions.iter().copied().collect();
                    }
                    if let Some(tools) = &self.tools {
                        it.tools = tools.clone();
                    }
                    if ends_logins {
                        it.tokens_valid_from = now;
                    }
                })?;
                Ok(OneUser(UserView::of(&user, book)))
            })
            .await
    }
}
