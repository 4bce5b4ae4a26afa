//! A user gives itself another password.

use std::sync::Arc;

use orch_domain::Error;
use orch_domain::caller::Permission;
use orch_domain::password::Password;
use orch_domain::tool_access::ToolPatterns;
use schemars::JsonSchema;
use serde::Deserialize;

use super::login::LoggedIn;
use crate::operation::{Operation, Route, Spec, spec};
use crate::{Cx, Orch};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangePassword {
    pub current_password: Password,
    /// At least 8 characters.
    pub new_password: Password,
}

impl Operation for ChangePassword {
    const SPEC: Spec = spec!(
        "change_password",
        Identity,
        Changes,
        Some(Permission::Read),
        [Route::post("/auth/password")]
    );
    type Output = LoggedIn;

    async fn run(self, orch: &Arc<Orch>, cx: &Cx) -> Result<LoggedIn, Error> {
        let id = &cx.caller()?.user;
        cx.audit_target(id);
        self.new_password.may_be_chosen("new_password")?;
        let user = orch.user(id)?;
        // Counts wrong passwords as a login does, so that a stolen token is no way to try them all.
        orch.login(&user.name, self.current_password.expose(), ToolPatterns::default())
            .await
            .map_err(|err| match err {
                Error::Unauthenticated { .. } => Error::invalid("current_password", "it is wrong"),
                err => err,
            })?;
        let password_hash = orch.hash(&self.new_password).await?;
        let now = orch.clock.now();
        orch.ledger
            .write(Some(cx), |book| {
                // An administrator who gives the user another password at this moment means to lock somebody out.
                if book.user(id).is_none_or(|it| it.password_hash != user.password_hash) {
                    return Err(Error::conflict("the password was changed meanwhile; log in anew"));
                }
                book.change_user(id, |it| {
                    it.password_hash = password_hash;
                    it.tokens_valid_from = now;
                })
            })
            .await?;
        let (user, token) =
            orch.login(&user.name, self.new_password.expose(), ToolPatterns::default()).await?;
        Ok(LoggedIn::of(&user, &ToolPatterns::default(), token))
    }
}
