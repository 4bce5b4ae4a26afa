//! A user goes, with its keys.

use std::sync::Arc;

use orch_domain::Error;
use orch_domain::caller::Permission;
use orch_domain::name::UserId;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::operation::{Operation, Route, Spec, Summary, spec};
use crate::service::bootstrap::ADMIN_ID;
use crate::{Cx, Orch};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeleteUser {
    /// Its id or name, as `list_users` shows them.
    pub user_id: UserId,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct DeletedUser {
    pub id: UserId,
}

impl Summary for DeletedUser {
    fn summary(&self) -> String {
        format!("User `{}` and its API keys are deleted.", self.id)
    }
}

impl Operation for DeleteUser {
    const SPEC: Spec = spec!(
        "delete_user",
        Identity,
        Destroys,
        Some(Permission::Admin),
        [Route::delete("/users/{user_id}")]
    );
    type Output = DeletedUser;

    async fn run(self, orch: &Arc<Orch>, cx: &Cx) -> Result<DeletedUser, Error> {
        let id = orch.user_id(&self.user_id)?;
        cx.audit_target(&id);
        // Whoever is at the machine itself acts as this user, and the next start would want it back under a name that
        // somebody else may have by then.
        if id.as_str() == ADMIN_ID {
            return Err(Error::conflict(format!(
                "`{ADMIN_ID}` is built in and cannot be deleted; give it another password with `update_user`"
            )));
        }
        orch.ledger.write(Some(cx), |book| book.remove_user(&id)).await?;
        Ok(DeletedUser { id })
    }
}
