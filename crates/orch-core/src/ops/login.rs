//! A name and a password become a token.

use std::sync::Arc;

use orch_domain::Error;
use orch_domain::name::UserName;
use orch_domain::password::Password;
use orch_domain::tool_access::{ToolAccess, ToolPatterns};
use orch_domain::user::User;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::operation::{Operation, Route, Spec, Summary, spec};
use crate::service::identity::Token;
use crate::view::user::Me;
use crate::{Cx, Orch};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Login {
    pub username: UserName,
    pub password: Password,
    /// Limits the access token to some tools, for a program that needs no more; never wider than the user.
    #[serde(default)]
    pub tools: ToolPatterns,
}

#[derive(Clone, Serialize, JsonSchema)]
pub struct LoggedIn {
    /// Send it as `Authorization: Bearer …` with every further request.
    pub access_token: String,
    pub token_type: &'static str,
    /// Seconds from now.
    pub expires_in: u64,
    pub user: Me,
}

impl LoggedIn {
    pub(super) fn of(user: &User, limit: &ToolPatterns, token: Token) -> LoggedIn {
        LoggedIn {
            access_token: token.text,
            token_type: "bearer",
            expires_in: token.expires_in.as_secs(),
            user: Me {
                id: user.id.clone(),
                username: user.name.clone(),
                permissions: user.permissions.clone(),
                tools: ToolAccess::default().and(&user.tools).and(limit),
            },
        }
    }
}

impl Summary for LoggedIn {
    fn summary(&self) -> String {
        let minutes = self.expires_in / 60;
        format!(
            "{} The access token is valid for {minutes} minutes:\n{}",
            self.user.summary(),
            self.access_token
        )
    }
}

impl Operation for Login {
    const SPEC: Spec = spec!("login", Identity, Changes, None, [Route::post("/auth/login")]);
    type Output = LoggedIn;

    async fn run(self, orch: &Arc<Orch>, cx: &Cx) -> Result<LoggedIn, Error> {
        cx.audit_target(&self.username);
        let (user, token) =
            orch.login(&self.username, self.password.expose(), self.tools.clone()).await?;
        Ok(LoggedIn::of(&user, &self.tools, token))
    }
}
