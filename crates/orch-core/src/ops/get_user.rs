//! One user, its quota and what it uses.

use std::sync::Arc;

use orch_domain::Error;
use orch_domain::caller::Permission;
use orch_domain::name::UserId;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::operation::{Operation, Route, Spec, spec};
use crate::view::user::{OneUser, UserView};
use crate::{Cx, Orch};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GetUser {
    /// Its id or name, as `list_users` shows them.
    pub user_id: UserId,
}

impl Operation for GetUser {
    const SPEC: Spec = spec!(
        "get_user",
        Identity,
        Reads,
        Some(Permission::Admin),
        [Route::get("/users/{user_id}")]
    );
    type Output = OneUser;

    async fn run(self, orch: &Arc<Orch>, _: &Cx) -> Result<OneUser, Error> {
        orch.ledger.read(|book| {
            let user = book.user_called(&self.user_id)?;
            Ok(OneUser(UserView::of(user, book)))
        })
    }
}
