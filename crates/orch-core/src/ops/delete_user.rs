use std::sync::Arc;

use orch_domain::Error;
use orch_domain::caller::Permission;
use orch_domain::name::UserId;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::operation::{Operation, Route, Spec, Summary, spec};
use crate::{Cx, Orch};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeleteUser {
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
        cx.audit_target(&self.user_id);
        orch.ledger.write(Some(cx), |book| book.remove_user(&self.user_id)).await?;
        Ok(DeletedUser { id: self.user_id })
    }
}
