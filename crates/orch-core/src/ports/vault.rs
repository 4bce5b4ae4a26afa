//! Where grants of servers behind are kept: encrypted, and durable before they are used.

use async_trait::async_trait;
use orch_domain::Error;
use orch_domain::grant::GrantKey;
use orch_domain::name::UserId;
use orch_domain::secret::Secret;
use orch_domain::time::Timestamp;

use crate::Cx;

/// A grant, open.
#[derive(Clone, Debug)]
pub struct OpenGrant {
    pub key: GrantKey,
    /// What only whoever keeps it can read.
    pub secret: Secret<Vec<u8>>,
    pub logged_in_at: Timestamp,
    /// Why it is not used any more.
    pub refused: Option<String>,
}

#[async_trait]
pub trait Vault: Send + Sync {
    /// What one holder has for a server, at every issuer; no user is the gateway itself. What cannot be decrypted is
    /// not there.
    fn grants(&self, server: &str, user: Option<&UserId>) -> Vec<OpenGrant>;

    /// The users that have a grant for a server, the one who logged in last first.
    fn holders(&self, server: &str) -> Vec<UserId>;

    /// In place of what the holder has there. Refused when the user is gone.
    async fn keep(&self, cx: Option<&Cx>, grant: OpenGrant) -> Result<(), Error>;

    async fn forget(&self, cx: Option<&Cx>, key: &GrantKey) -> Result<(), Error>;
}
