//! What is kept of a login: tokens, the client they were given to, and where they may go. Encrypted as a whole.

use orch_core::ports::vault::OpenGrant;
use orch_domain::grant::GrantKey;
use orch_domain::secret::Secret;
use orch_domain::time::Timestamp;
use serde::{Deserialize, Serialize};

/// Never printed: it has no `Debug`.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Held {
    /// Of this form.
    version: u8,
    pub(super) client: Registered,
    /// The origin of the server that the login was for. To no other a token is ever sent.
    pub(super) origin: String,
    pub(super) resource: String,
    pub(super) token_endpoint: String,
    pub(super) revocation_endpoint: Option<String>,
    /// None: only the client is registered.
    pub(super) tokens: Option<Tokens>,
}

/// A client as the issuer knows it.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Registered {
    pub(super) id: String,
    pub(super) secret: Option<String>,
    /// The secret goes into the body; else into a header.
    pub(super) in_body: bool,
    /// Where browsers come back to, for a client that was registered for that.
    pub(super) redirect_uri: Option<String>,
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Tokens {
    pub(super) access: String,
    pub(super) refresh: Option<String>,
    /// Milliseconds since 1970.
    pub(super) expires_at: Option<i64>,
    /// How long it was good for when it was new.
    pub(super) lifetime_ms: i64,
    pub(super) scopes: Vec<String>,
}

/// At most this long before its end a token is made new.
const AHEAD_MS: i64 = 60_000;

impl Tokens {
    pub(super) fn is_over(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|it| it <= now.as_millis())
    }

    /// Soon over, or over.
    pub(super) fn is_due(&self, now: Timestamp) -> bool {
        let ahead = (self.lifetime_ms / 5).min(AHEAD_MS);
        self.expires_at.is_some_and(|it| it - ahead <= now.as_millis())
    }
}

impl Held {
    pub(super) fn new(
        client: Registered,
        origin: String,
        resource: String,
        token_endpoint: String,
    ) -> Held {
        Held {
            version: 1,
            client,
            origin,
            resource,
            token_endpoint,
            revocation_endpoint: None,
            tokens: None,
        }
    }

    /// None: a version that this program does not know.
    pub(super) fn of(grant: &OpenGrant) -> Option<Held> {
        serde_json::from_slice(grant.secret.expose()).ok().filter(|it: &Held| it.version == 1)
    }

    pub(super) fn grant(
        &self,
        key: GrantKey,
        logged_in_at: Timestamp,
        refused: Option<String>,
    ) -> OpenGrant {
        let secret =
            serde_json::to_vec(self).expect("it has no maps and no numbers that JSON lacks");
        OpenGrant { key, secret: Secret::new(secret), logged_in_at, refused }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_due_a_fifth_of_its_life_and_at_most_a_minute_ahead() {
        let tokens = |lifetime_ms| Tokens {
            access: String::new(),
            refresh: None,
            expires_at: Some(1_000_000),
            lifetime_ms,
            scopes: Vec::new(),
        };
        let at = Timestamp::from_millis;
        assert!(!tokens(3_600_000).is_due(at(939_999)) && tokens(3_600_000).is_due(at(940_000)));
        assert!(!tokens(1_000).is_due(at(999_799)) && tokens(1_000).is_due(at(999_800)));
        assert!(!tokens(1_000).is_over(at(999_999)) && tokens(1_000).is_over(at(1_000_000)));
    }

    #[test]
    fn what_the_first_version_kept_is_read() {
        let kept = r#"{"version":1,"client":{"id":"c","secret":null,"in_body":false,"redirect_uri":null},"origin":"https://a",
            "resource":"https://a/mcp","token_endpoint":"https://i/token","revocation_endpoint":null,
            "tokens":{"access":"t","refresh":"r","expires_at":5,"lifetime_ms":4,"scopes":["x"]}}"#;
        let grant = |secret: String| OpenGrant {
            key: GrantKey { server: "a".to_owned(), user: None, issuer: "i".to_owned() },
            secret: Secret::new(secret.into_bytes()),
            logged_in_at: Timestamp::from_millis(0),
            refused: None,
        };
        let held = Held::of(&grant(kept.to_owned())).unwrap();
        assert_eq!(held.tokens.unwrap().refresh.as_deref(), Some("r"));
        assert!(Held::of(&grant(kept.replace("\"version\":1", "\"version\":2"))).is_none());
    }
}
