//! Which user the caller acts for, and what it may do.

use std::sync::Arc;

use orch_domain::Error;
use orch_domain::caller::Permission;
use orch_domain::name::UserName;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::operation::{Operation, Route, Spec, spec};
use crate::view::user::Me;
use crate::{Cx, Orch};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Whoami {}

impl Operation for Whoami {
    const SPEC: Spec =
        spec!("whoami", Identity, Reads, Some(Permission::Read), [Route::get("/auth/me")]);
    type Output = Me;

    async fn run(self, orch: &Arc<Orch>, cx: &Cx) -> Result<Me, Error> {
        let caller = cx.caller()?;
        let user = orch.ledger.read(|book| book.user(&caller.user).cloned());
        if user.is_none() && caller.user.is_external() {
            return Ok(Me {
                id: caller.user.clone(),
                username: UserName::try_new(&*caller.user.to_string()).map_err(Error::internal)?,
                permissions: caller.permissions.clone(),
                tools: caller.tools.clone(),
            });
        }
        let user = user.ok_or_else(|| Error::Unauthenticated {
            message: "this user does not exist any more".to_owned(),
        })?;
        Ok(Me {
            id: user.id.clone(),
            username: user.name.clone(),
            permissions: caller.permissions.clone(),
            tools: caller.tools.clone(),
        })
    }
}
