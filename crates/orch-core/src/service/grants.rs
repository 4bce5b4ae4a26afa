//! Grants of servers behind: sealed when they are taken in, and opened for the gateway alone.

use async_trait::async_trait;
use orch_domain::Error;
use orch_domain::book::no_user;
use orch_domain::grant::{Grant, GrantKey};
use orch_domain::name::UserId;
use orch_domain::secret::Secret;

use crate::ports::vault::{OpenGrant, Vault};
use crate::{Cx, Orch};

impl Orch {
    fn open_grant(&self, grant: &Grant) -> Option<OpenGrant> {
        let secret = self.grant_seal.open(&about(&grant.key), &grant.sealed);
        if secret.is_none() {
            tracing::warn!(
                "a grant cannot be decrypted; its holder has to log in again: {}",
                grant.key
            );
        }
        Some(OpenGrant {
            key: grant.key.clone(),
            secret: Secret::new(secret?),
            logged_in_at: grant.logged_in_at,
            refused: grant.refused.clone(),
        })
    }
}

#[async_trait]
impl Vault for Orch {
    fn grants(&self, server: &str, user: Option<&UserId>) -> Vec<OpenGrant> {
        let kept: Vec<_> = self.ledger.read(|book| book.grants_at(server, user).cloned().collect());
        kept.iter().filter_map(|it| self.open_grant(it)).collect()
    }

    fn holders(&self, server: &str) -> Vec<UserId> {
        let mut holders: Vec<_> = self.ledger.read(|book| {
            let here = book.grants().filter(|it| it.key.server == server && it.refused.is_none());
            here.filter_map(|it| Some((it.logged_in_at, it.key.user.clone()?))).collect()
        });
        holders.sort();
        holders.into_iter().rev().map(|(_, user)| user).collect()
    }

    async fn keep(&self, cx: Option<&Cx>, grant: OpenGrant) -> Result<(), Error> {
        let OpenGrant { key, secret, logged_in_at, refused } = grant;
        let sealed = self.grant_seal.seal(&about(&key), secret.expose())?;
        let grant = Grant { key, sealed, logged_in_at, refused };
        self.ledger
            .write(cx, |book| match (book.put_grant(grant.clone()), &grant.key.user) {
                (false, Some(user)) => Err(no_user(user)),
                _ => Ok(()),
            })
            .await
    }

    async fn forget(&self, cx: Option<&Cx>, key: &GrantKey) -> Result<(), Error> {
        self.ledger
            .write(cx, |book| {
                book.remove_grant(key);
                Ok(())
            })
            .await
    }
}

/// No part has a newline: names have none, and the issuer is a parsed URL.
fn about(key: &GrantKey) -> String {
    let user = key.user.as_ref().map_or("", |it| it.as_str());
    format!("{}\n{user}\n{}", key.server, key.issuer)
}
