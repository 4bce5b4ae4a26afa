//! Logins of users at the servers behind, where those want one of each.

use async_trait::async_trait;
use orch_domain::Error;
use orch_domain::name::UserId;
use orch_domain::secret::Secret;
use orch_domain::time::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use crate::Cx;

/// Where browsers come back to, on whichever address of ours.
pub const CALLBACK: &str = "/oauth/callback";

#[async_trait]
pub trait ServerLogins: Send + Sync {
    /// Why the server takes no calls of this user before a login, and what to do. None: it does.
    fn needed(&self, server: &str, user: &UserId) -> Option<String>;

    /// Begins a login of the caller.
    async fn begin(&self, server: &str, way: LoginWay, cx: &Cx) -> Result<BegunLogin, Error>;

    /// A browser came back from the issuer.
    async fn finish(&self, answer: LoginAnswer) -> Result<FinishedLogin, Error>;

    /// Ends the caller's login, there as well where the issuer takes word of it. The answer is when it began; None:
    /// there was none.
    async fn end(&self, server: &str, cx: &Cx) -> Result<Option<Timestamp>, Error>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginWay {
    /// What the issuer has, a browser first.
    Any,
    /// A code that is typed in on any device.
    Device,
}

#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct BegunLogin {
    pub server: String,
    /// Who asks for the login, by URL.
    pub issuer: String,
    /// To open in a browser: on this machine, unless there is a `user_code`.
    pub url: String,
    /// To type in there.
    pub user_code: Option<String>,
    /// What is asked for.
    pub scopes: Vec<String>,
    /// After this, begin anew.
    pub expires_at: Timestamp,
}

/// The query of the callback.
#[derive(Clone, Debug, Default)]
pub struct LoginAnswer {
    pub state: Option<String>,
    pub code: Option<Secret<String>>,
    /// Who says it.
    pub iss: Option<String>,
    pub error: Option<String>,
    pub error_description: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct FinishedLogin {
    pub server: String,
    pub user: UserId,
    pub issuer: String,
}
