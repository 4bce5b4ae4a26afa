//! What was granted at the servers behind: tokens of users, and this gateway's own registrations. Encrypted, in memory
//! too.

use crate::name::UserId;
use crate::time::Timestamp;

/// One holder has one grant at one issuer for one server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GrantKey {
    /// By its configured name.
    pub server: String,
    /// None: the gateway itself.
    pub user: Option<UserId>,
    /// The authorization server, by its URL.
    pub issuer: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Grant {
    pub key: GrantKey,
    /// Only the service that made it can open it.
    pub sealed: Vec<u8>,
    /// When the holder logged in; making a token new does not change it.
    pub logged_in_at: Timestamp,
    /// Why it is not used any more, until the holder logs in again.
    pub refused: Option<String>,
}

impl std::fmt::Display for GrantKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let holder = self.user.as_ref().map_or("the gateway", |it| it.as_str());
        write!(f, "{holder} at {} for {}", self.issuer, self.server)
    }
}
