//! Where connections get their tokens from.

use std::sync::Arc;

use async_trait::async_trait;
use orch_domain::name::UserId;
use orch_domain::secret::Secret;

use super::{LoginSite, Logins, Owner, discover};
use crate::upstream::LinkError;
use crate::upstream::site::TokenSource;

impl Logins {
    /// For a connection that is this user's alone.
    pub fn source_of(self: &Arc<Logins>, site: &LoginSite, user: &UserId) -> Arc<dyn TokenSource> {
        let (logins, site, user) = (self.clone(), site.clone(), user.clone());
        Arc::new(OfUser { logins, site, user })
    }

    /// For connections of who has no login there: the gateway's own token where it has one, else none.
    pub fn source_without(self: &Arc<Logins>, site: &LoginSite) -> Arc<dyn TokenSource> {
        let (logins, site) = (self.clone(), site.clone());
        if site.entry.client_credentials {
            return Arc::new(OfGateway { logins, site });
        }
        Arc::new(OfNobody { logins, site })
    }

    /// For the connection that finds out what a server offers: the gateway's own token where it has one, else that of who
    /// logged in last, who then is its owner; else none.
    pub fn shared_source(
        self: &Arc<Logins>,
        site: &LoginSite,
    ) -> (Arc<dyn TokenSource>, Option<Owner>) {
        let owner = (!site.entry.client_credentials).then(|| self.last_in(site)).flatten();
        match owner {
            Some(owner) => (self.source_of(site, &owner.user), Some(owner)),
            None => (self.source_without(site), None),
        }
    }
}

struct OfUser {
    logins: Arc<Logins>,
    site: LoginSite,
    user: UserId,
}

#[async_trait]
impl TokenSource for OfUser {
    async fn bearer(&self) -> Result<Option<Secret<String>>, LinkError> {
        let Some((grant, held)) = self.logins.own(&self.site, Some(&self.user)) else {
            return Err(self.site.login_needed(self.site.wanted()));
        };
        if let Some(why) = &grant.refused {
            return Err(self.site.login_needed(self.site.over(why)));
        }
        let Some(tokens) = held.tokens else { return Ok(None) };
        let now = self.logins.now();
        if !tokens.is_due(now) || (tokens.refresh.is_none() && !tokens.is_over(now)) {
            return Ok(Some(Secret::new(tokens.access)));
        }
        let is_over = tokens.is_over(now);
        match self.logins.renew(&self.site, &self.user, tokens.access.clone()).await {
            Ok(it) => Ok(Some(Secret::new(it))),
            // It is good for a moment yet.
            Err(err) if !is_over && !matches!(err, LinkError::LoginNeeded { .. }) => {
                tracing::debug!("a token is not renewed yet: {err}");
                Ok(Some(Secret::new(tokens.access)))
            }
            Err(err) => Err(err),
        }
    }

    async fn renew(
        &self,
        refused: Option<&Secret<String>>,
        challenge: Option<&str>,
    ) -> Result<Secret<String>, LinkError> {
        self.logins.heard(&self.site, challenge);
        let stale = refused.map(|it| it.expose().clone()).unwrap_or_default();
        self.logins.renew(&self.site, &self.user, stale).await.map(Secret::new)
    }

    async fn give_up(&self, refused: &Secret<String>, challenge: Option<&str>) -> LinkError {
        self.logins.heard(&self.site, challenge);
        let why = "the server refused the renewed token";
        if let Some((grant, held)) = self.logins.own(&self.site, Some(&self.user))
            && held.tokens.is_some_and(|it| it.access == *refused.expose())
        {
            self.logins.refuse(grant, why).await;
        }
        self.site.login_needed(self.site.over(why))
    }

    async fn short_of(&self, challenge: &str) -> LinkError {
        self.logins.heard(&self.site, Some(challenge));
        let scopes = discover::parameters(challenge).into_iter().find(|(key, _)| key == "scope");
        let scopes =
            scopes.map(|(_, it)| format!(" (it wants `{}`)", orch_domain::text::excerpt(&it, 200)));
        LinkError::Forbidden {
            message: format!(
                "your login at the server `{}` does not allow this{}; to ask for more, {}",
                self.site.server,
                scopes.unwrap_or_default(),
                self.site.what_to_do()
            ),
        }
    }
}

struct OfNobody {
    logins: Arc<Logins>,
    site: LoginSite,
}

#[async_trait]
impl TokenSource for OfNobody {
    async fn bearer(&self) -> Result<Option<Secret<String>>, LinkError> {
        Ok(None)
    }

    async fn renew(
        &self,
        _: Option<&Secret<String>>,
        challenge: Option<&str>,
    ) -> Result<Secret<String>, LinkError> {
        self.logins.heard(&self.site, challenge);
        Err(self.site.login_needed(self.site.wanted()))
    }

    async fn give_up(&self, _: &Secret<String>, _: Option<&str>) -> LinkError {
        self.site.login_needed(self.site.wanted())
    }

    async fn short_of(&self, challenge: &str) -> LinkError {
        self.logins.heard(&self.site, Some(challenge));
        self.site.login_needed(self.site.wanted())
    }
}

struct OfGateway {
    logins: Arc<Logins>,
    site: LoginSite,
}

#[async_trait]
impl TokenSource for OfGateway {
    async fn bearer(&self) -> Result<Option<Secret<String>>, LinkError> {
        self.logins.own_token(&self.site, None).await.map(|it| Some(Secret::new(it)))
    }

    async fn renew(
        &self,
        refused: Option<&Secret<String>>,
        challenge: Option<&str>,
    ) -> Result<Secret<String>, LinkError> {
        self.logins.heard(&self.site, challenge);
        let stale = refused.map(|it| it.expose().clone());
        self.logins.own_token(&self.site, stale).await.map(Secret::new)
    }

    async fn give_up(&self, _: &Secret<String>, _: Option<&str>) -> LinkError {
        LinkError::Forbidden {
            message: "it refuses the token that its issuer gave the gateway; look at `oauth` in its configuration"
                .to_owned(),
        }
    }

    async fn short_of(&self, _: &str) -> LinkError {
        LinkError::Forbidden {
            message: "the gateway's own login does not allow this; look at `oauth.scopes` in its configuration".to_owned(),
        }
    }
}
