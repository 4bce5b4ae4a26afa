//! Stored grants of servers behind; what is secret of them is encrypted before it comes here.

use orch_domain::grant::{Grant, GrantKey};
use orch_domain::name::UserId;
use orch_domain::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::BadRow;

#[derive(Debug, Serialize, Deserialize)]
pub(in crate::store) struct GrantV1 {
    server: String,
    /// None: the gateway itself.
    user: Option<String>,
    issuer: String,
    /// Hexadecimal.
    sealed: String,
    logged_in_at: i64,
    refused: Option<String>,
}

impl From<&Grant> for GrantV1 {
    fn from(it: &Grant) -> GrantV1 {
        GrantV1 {
            server: it.key.server.clone(),
            user: it.key.user.as_ref().map(UserId::to_string),
            issuer: it.key.issuer.clone(),
            sealed: hex::encode(&it.sealed),
            logged_in_at: it.logged_in_at.as_millis(),
            refused: it.refused.clone(),
        }
    }
}

impl TryFrom<GrantV1> for Grant {
    type Error = BadRow;
    fn try_from(it: GrantV1) -> Result<Grant, BadRow> {
        Ok(Grant {
            key: GrantKey {
                server: it.server,
                user: it.user.map(UserId::try_new).transpose()?,
                issuer: it.issuer,
            },
            sealed: hex::decode(it.sealed)?,
            logged_in_at: Timestamp::from_millis(it.logged_in_at),
            refused: it.refused,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_the_first_version_is_read() {
        let row = r#"{"server":"a","user":"ann","issuer":"https://i","sealed":"0102","logged_in_at":7,"refused":null}"#;
        let row: GrantV1 = serde_json::from_str(row).unwrap();
        let grant = Grant::try_from(row).unwrap();
        assert_eq!((grant.key.server.as_str(), &grant.sealed[..]), ("a", &[1, 2][..]));
        assert_eq!(serde_json::to_value(GrantV1::from(&grant)).unwrap()["user"], "ann");
    }
}
