use std::sync::Arc;

use orch_domain::Error;
use orch_domain::caller::Permission;
use orch_domain::name::{UserId, UserName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::operation::{Operation, Route, Spec, Summary, spec};
use crate::{Cx, Orch};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Whoami {}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Me {
    pub id: UserId,
    pub username: UserName,
    /// What this login or key may do; a key may do less than its user.
    pub permissions: Vec<Permission>,
}

impl Summary for Me {
    fn summary(&self) -> String {
        let may: Vec<&str> = self.permissions.iter().map(|it| it.as_str()).collect();
        format!("You are `{}` and may {}.", self.username, may.join(", "))
    }
}

impl Operation for Whoami {
    const SPEC: Spec =
        spec!("whoami", Identity, Reads, Some(Permission::Read), [Route::get("/auth/me")]);
    type Output = Me;

    async fn run(self, orch: &Arc<Orch>, cx: &Cx) -> Result<Me, Error> {
        let caller = cx.caller()?;
        let user = orch.ledger.read(|book| book.user(&caller.user).cloned());
        let user = user.ok_or_else(|| Error::Unauthenticated {
            message: "this user does not exist any more".to_owned(),
        })?;
        Ok(Me {
            id: user.id.clone(),
            username: user.name.clone(),
            permissions: caller.permissions.clone(),
        })
    }
}
