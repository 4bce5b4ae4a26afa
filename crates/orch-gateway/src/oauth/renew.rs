//! Tokens made new: by one at a time, slower after each failure, and never again after a refusal.

use std::sync::Arc;
use std::time::{Duration, Instant};

use orch_domain::name::UserId;

use super::client::{Ask, tokens};
use super::discover::discover;
use super::held::Held;
use super::{LoginSite, Logins, Trouble, client, key};
use crate::upstream::LinkError;

const FIRST_WAIT: Duration = Duration::from_secs(1);
const LAST_WAIT: Duration = Duration::from_secs(60);

/// One holder's at one server. Who waits for the lock finds the token that another got.
#[derive(Default)]
pub(super) struct Renewing(tokio::sync::Mutex<Backoff>);

#[derive(Default)]
struct Backoff {
    wait: Duration,
    /// Not before.
    next: Option<(Instant, String)>,
}

impl Backoff {
    fn check(&self) -> Result<(), LinkError> {
        match &self.next {
            Some((at, said)) if Instant::now() < *at => Err(unreachable(said)),
            _ => Ok(()),
        }
    }

    fn failed(&mut self, said: String) -> LinkError {
        self.wait = (self.wait * 2).clamp(FIRST_WAIT, LAST_WAIT);
        let err = unreachable(&said);
        self.next = Some((Instant::now() + self.wait, said));
        err
    }
}

fn unreachable(said: &str) -> LinkError {
    LinkError::Unreachable { message: format!("the login could not be renewed: {said}") }
}

impl Logins {
    fn renewing(&self, site: &LoginSite, user: Option<&UserId>) -> Arc<Renewing> {
        let key = (site.server.to_string(), user.cloned());
        self.renewing.lock().entry(key).or_default().clone()
    }

    /// A token in place of `stale`. Goes on when whoever wants it goes away: what the issuer gave must be kept.
    pub(super) async fn renew(
        self: &Arc<Logins>,
        site: &LoginSite,
        user: &UserId,
        stale: String,
    ) -> Result<String, LinkError> {
        let (logins, site, user) = (self.clone(), site.clone(), user.clone());
        let task = self.tasks.spawn(async move { logins.renew_now(&site, &user, &stale).await });
        task.await.unwrap_or_else(|err| Err(unreachable(&err.to_string())))
    }

    async fn renew_now(
        &self,
        site: &LoginSite,
        user: &UserId,
        stale: &str,
    ) -> Result<String, LinkError> {
        let renewing = self.renewing(site, Some(user));
        let mut backoff = renewing.0.lock().await;
        let wanted = || site.login_needed(site.wanted());
        let (grant, mut held) = self.own(site, Some(user)).ok_or_else(wanted)?;
        if let Some(why) = &grant.refused {
            return Err(site.login_needed(site.over(why)));
        }
        let before = held.tokens.clone().ok_or_else(wanted)?;
        if before.access != stale {
            return Ok(before.access);
        }
        let Some(token) = &before.refresh else {
            let why = "it has ended, and the issuer gave nothing to renew it with";
            self.refuse(grant, why).await;
            return Err(site.login_needed(site.over(why)));
        };
        backoff.check()?;
        let asked = Ask::Refresh { token };
        let (endpoint, resource) = (held.token_endpoint.clone(), held.resource.clone());
        match tokens(&self.posts, &held.client, &endpoint, &resource, asked, self.now()).await {
            Ok(mut new) => {
                *backoff = Backoff::default();
                if new.scopes.is_empty() {
                    new.scopes = before.scopes;
                }
                let access = new.access.clone();
                held.tokens = Some(new);
                self.keep(&held, &grant.key, grant.logged_in_at).await?;
                Ok(access)
            }
            Err(Trouble::Refused { code, description }) if !is_passing(&code) => {
                let why = format!("the issuer said `{code}`{description}");
                self.refuse(grant, &why).await;
                Err(site.login_needed(site.over(&why)))
            }
            Err(err) => Err(backoff.failed(err.to_string())),
        }
    }

    /// The gateway's own token, in place of `stale`.
    pub(super) async fn own_token(
        self: &Arc<Logins>,
        site: &LoginSite,
        stale: Option<String>,
    ) -> Result<String, LinkError> {
        let (logins, site) = (self.clone(), site.clone());
        let task = self.tasks.spawn(async move { logins.own_token_now(&site, stale).await });
        task.await.unwrap_or_else(|err| Err(unreachable(&err.to_string())))
    }

    async fn own_token_now(
        &self,
        site: &LoginSite,
        stale: Option<String>,
    ) -> Result<String, LinkError> {
        let renewing = self.renewing(site, None);
        let mut backoff = renewing.0.lock().await;
        if let Some((_, Held { tokens: Some(it), .. })) = self.own(site, None)
            && !it.is_due(self.now())
            && stale.as_ref() != Some(&it.access)
        {
            return Ok(it.access);
        }
        backoff.check()?;
        let asked = async {
            let challenge = self.challenges.lock().get(&*site.server).cloned();
            let found = discover(&self.reads, &site.url, challenge.as_deref(), &site.entry).await?;
            let client = client::fixed(&site.entry, &found.metadata)
                .ok_or_else(|| Trouble::Wrong("it needs a `client_id`".to_owned()))?;
            let endpoint = &found.metadata.token_endpoint;
            let asked = Ask::Own { scopes: &found.scopes };
            let new =
                tokens(&self.posts, &client, endpoint, &found.resource, asked, self.now()).await?;
            let mut held = Held::new(client, site.origin(), found.resource, endpoint.clone());
            held.tokens = Some(new);
            Ok::<_, Trouble>((held, found.metadata.issuer))
        };
        let (held, issuer) = asked.await.map_err(|err| backoff.failed(err.to_string()))?;
        *backoff = Backoff::default();
        self.keep(&held, &key(site, None, &issuer), self.now()).await?;
        Ok(held.tokens.map(|it| it.access).unwrap_or_default())
    }

    pub(super) async fn keep(
        &self,
        held: &Held,
        key: &orch_domain::grant::GrantKey,
        logged_in_at: orch_domain::time::Timestamp,
    ) -> Result<(), LinkError> {
        let vault = self.vault().ok_or_else(|| unreachable("the gateway is stopping"))?;
        let kept = vault.keep(None, held.grant(key.clone(), logged_in_at, None)).await;
        kept.map_err(|err| unreachable(&err.to_string()))
    }
}

/// Codes that say "not now".
fn is_passing(code: &str) -> bool {
    matches!(code, "temporarily_unavailable" | "server_error" | "slow_down")
}
