//! A login from its beginning to its tokens: with a browser that comes back, or with a code that is typed in.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::CONTENT_TYPE;
use oauth2::basic::BasicClient;
use oauth2::url::form_urlencoded::Serializer;
use oauth2::{
    AuthUrl, ClientId, CsrfToken, DeviceAuthorizationUrl, PkceCodeChallenge, PkceCodeVerifier,
    RedirectUrl, Scope, StandardDeviceAuthorizationResponse,
};
use orch_core::ports::server_login::{BegunLogin, FinishedLogin, LoginAnswer, LoginWay};
use orch_domain::Error;
use orch_domain::name::UserId;
use orch_domain::text::excerpt;
use orch_domain::time::Timestamp;

use super::client::{Ask, fixed, of, refused, register, taken, tokens};
use super::discover::{Found, discover};
use super::fetch::{Carrier, allowed};
use super::held::{Held, Registered, Tokens};
use super::{LoginSite, Logins, Trouble, key};

/// How long a browser may take.
const BEGUN: Duration = Duration::from_secs(600);
/// Logins under way, of one user and of all.
const MAX_OF_ONE: usize = 10;
const MAX_OF_ALL: usize = 1000;
/// A device's code lives as long as its issuer says, and not longer than this.
const MAX_DEVICE: Duration = Duration::from_secs(1800);

/// A login whose browser has not come back.
pub(super) struct Begun {
    site: LoginSite,
    user: UserId,
    found: Found,
    client: Registered,
    redirect_uri: String,
    verifier: PkceCodeVerifier,
    until: Instant,
}

impl Logins {
    pub(super) async fn begin(
        self: &Arc<Logins>,
        site: &LoginSite,
        user: &UserId,
        way: LoginWay,
    ) -> Result<BegunLogin, Error> {
        let challenge = self.challenges.lock().get(&*site.server).cloned();
        let failed = |err: Trouble| site.failed("the login cannot begin", &err);
        let mut found = discover(&self.reads, &site.url, challenge.as_deref(), &site.entry)
            .await
            .map_err(failed)?;
        // Who asks for more keeps what there is.
        if let Some((_, Held { tokens: Some(held), .. })) = self.own(site, Some(user)) {
            let more: Vec<_> =
                held.scopes.into_iter().filter(|it| !found.scopes.contains(it)).collect();
            found.scopes.extend(more);
        }
        let has_browser = found.metadata.authorization_endpoint.is_some();
        let redirect_uri = match (&site.entry.redirect_uri, self.redirects.get()) {
            _ if !has_browser => None,
            (Some(it), _) => Some(it.clone()),
            (None, Some(it)) => Some(it.uri().await?),
            (None, None) => None,
        };
        if redirect_uri.is_some() && way == LoginWay::Any {
            check_pkce(&found).map_err(failed)?;
        }
        let client = self.client(site, &found, redirect_uri.as_deref()).await.map_err(failed)?;
        match (way, redirect_uri) {
            (LoginWay::Any, Some(it)) => self.with_browser(site, user, found, client, it),
            _ => self.with_device(site, user, found, client).await,
        }
    }

    /// The configured client, or the one that was registered before, or a new one.
    async fn client(
        &self,
        site: &LoginSite,
        found: &Found,
        redirect_uri: Option<&str>,
    ) -> Result<Registered, Trouble> {
        if let Some(it) = fixed(&site.entry, &found.metadata) {
            return Ok(it);
        }
        let key = key(site, None, &found.metadata.issuer);
        let kept = self.vault().into_iter().flat_map(|it| it.grants(&site.server, None));
        let kept = kept.filter(|it| it.key == key).find_map(|it| Held::of(&it));
        if let Some(it) = kept
            && it.origin == site.origin()
            && it.client.redirect_uri.as_deref() == redirect_uri
        {
            return Ok(it.client);
        }
        let client = register(&self.posts, found, redirect_uri).await?;
        let endpoint = found.metadata.token_endpoint.clone();
        let held = Held::new(client.clone(), site.origin(), found.resource.clone(), endpoint);
        self.keep(&held, &key, self.now())
            .await
            .map_err(|err| Trouble::Passing(err.to_string()))?;
        Ok(client)
    }

    fn with_browser(
        &self,
        site: &LoginSite,
        user: &UserId,
        found: Found,
        client: Registered,
        redirect_uri: String,
    ) -> Result<BegunLogin, Error> {
        let metadata = &found.metadata;
        let bad = |err: oauth2::url::ParseError| {
            site.failed("the login cannot begin", &Trouble::Wrong(err.to_string()))
        };
        let endpoint = metadata.authorization_endpoint.clone().unwrap_or_default();
        let asking = BasicClient::new(ClientId::new(client.id.clone()))
            .set_auth_uri(AuthUrl::new(endpoint).map_err(bad)?)
            .set_redirect_uri(RedirectUrl::new(redirect_uri.clone()).map_err(bad)?);
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let (url, state) = asking
            .authorize_url(|| CsrfToken::new_random_len(32))
            .set_pkce_challenge(challenge)
            .add_scopes(found.scopes.iter().map(|it| Scope::new(it.clone())))
            .add_extra_param("resource", found.resource.clone())
            .url();
        let begun = BegunLogin {
            server: site.server.to_string(),
            issuer: metadata.issuer.clone(),
            url: url.into(),
            user_code: None,
            scopes: found.scopes.clone(),
            expires_at: after(self.now(), BEGUN),
        };
        let (site, user, until) = (site.clone(), user.clone(), Instant::now() + BEGUN);
        let login = Begun { site, user, found, client, redirect_uri, verifier, until };
        let mut all = self.begun.lock();
        all.retain(|_, it| Instant::now() < it.until);
        let n_own = all.values().filter(|it| it.user == login.user).count();
        if MAX_OF_ONE <= n_own || MAX_OF_ALL <= all.len() {
            return Err(Error::TooManyRequests {
                message: format!(
                    "{n_own} of your logins wait for their browser; finish one of them, or wait until they are given up"
                ),
                retry_after_ms: u64::try_from(BEGUN.as_millis()).unwrap_or(u64::MAX),
            });
        }
        all.insert(state.into_secret(), login);
        Ok(begun)
    }

    /// A browser came back.
    pub(super) async fn finish(&self, answer: LoginAnswer) -> Result<FinishedLogin, Error> {
        // Used once, whatever comes of it.
        let begun = answer.state.as_ref().and_then(|it| self.begun.lock().remove(it));
        let begun = begun.filter(|it| Instant::now() < it.until).ok_or_else(|| {
            Error::invalid("state", "no login waits for this; it took too long, or was answered before: begin anew with `login_server`")
        })?;
        let Begun { site, user, found, client, redirect_uri, verifier, .. } = begun;
        let failed = |err: Trouble| site.failed("the login failed", &err);
        let metadata = &found.metadata;
        // Said by another issuer, the code would be for that one (RFC 9207).
        let is_issuer = match &answer.iss {
            Some(it) => *it == metadata.issuer,
            None => !metadata.authorization_response_iss_parameter_supported,
        };
        if !is_issuer {
            return Err(failed(Trouble::Wrong(
                "the browser came back from another issuer than it was sent to".to_owned(),
            )));
        }
        if let Some(code) = &answer.error {
            let description =
                answer.error_description.as_ref().map(|it| format!(" ({})", excerpt(it, 200)));
            let (code, description) = (excerpt(code, 60), description.unwrap_or_default());
            return Err(failed(Trouble::Refused { code, description }));
        }
        let code = answer
            .code
            .as_ref()
            .ok_or_else(|| Error::invalid("code", "the issuer sent none along"))?;
        let asked = Ask::Code { code: code.expose(), verifier, redirect_uri: &redirect_uri };
        let got = tokens(
            &self.posts,
            &client,
            &metadata.token_endpoint,
            &found.resource,
            asked,
            self.now(),
        )
        .await;
        if let Err(Trouble::Refused { code, .. }) = &got
            && code == "invalid_client"
            && let Some(vault) = self.vault()
        {
            // It does not know us any more: the next login registers anew.
            vault.forget(None, &key(&site, None, &metadata.issuer)).await.ok();
        }
        let got = got.map_err(failed)?;
        self.enter(&site, &user, &found, client, got).await?;
        Ok(FinishedLogin { server: site.server.to_string(), user, issuer: found.metadata.issuer })
    }

    async fn enter(
        &self,
        site: &LoginSite,
        user: &UserId,
        found: &Found,
        client: Registered,
        mut got: Tokens,
    ) -> Result<(), Error> {
        if got.scopes.is_empty() {
            got.scopes.clone_from(&found.scopes);
        }
        let metadata = &found.metadata;
        let mut held = Held::new(
            client,
            site.origin(),
            found.resource.clone(),
            metadata.token_endpoint.clone(),
        );
        held.revocation_endpoint.clone_from(&metadata.revocation_endpoint);
        held.tokens = Some(got);
        let vault = self.vault().ok_or_else(|| Error::Unavailable {
            message: "the gateway is stopping".to_owned(),
            source: None,
        })?;
        let key = key(site, Some(user), &metadata.issuer);
        vault.keep(None, held.grant(key.clone(), self.now(), None)).await?;
        self.failures.lock().remove(&(site.server.to_string(), user.clone()));
        tracing::info!("logged in: {key}");
        self.tell_changed();
        Ok(())
    }

    async fn with_device(
        self: &Arc<Logins>,
        site: &LoginSite,
        user: &UserId,
        found: Found,
        client: Registered,
    ) -> Result<BegunLogin, Error> {
        let failed = |err: Trouble| site.failed("the login cannot begin", &err);
        let metadata = &found.metadata;
        let endpoint = metadata.device_authorization_endpoint.clone().ok_or_else(|| {
            let what = if metadata.authorization_endpoint.is_some() {
                "leave out `device`"
            } else {
                "it takes no logins of people"
            };
            failed(Trouble::Wrong(format!(
                "the issuer `{}` has no logins with a code; {what}",
                excerpt(&metadata.issuer, 200)
            )))
        })?;
        let endpoint = DeviceAuthorizationUrl::new(endpoint)
            .map_err(|err| failed(Trouble::Wrong(err.to_string())))?;
        let ready = of(&client, &metadata.token_endpoint)
            .map_err(failed)?
            .set_device_authorization_url(endpoint);
        let send = Carrier(self.posts.clone());
        let asked = ready
            .exchange_device_code()
            .add_scopes(found.scopes.iter().map(|it| Scope::new(it.clone())))
            .add_extra_param("resource", found.resource.clone())
            .request_async(&send)
            .await;
        let details: StandardDeviceAuthorizationResponse =
            asked.map_err(|err| failed(refused(err)))?;
        let plain = details.verification_uri().to_string();
        let url = details.verification_uri_complete().map_or(plain, |it| it.secret().clone());
        allowed(&url, &site.url).map_err(failed)?;
        let lifetime = details.expires_in().min(MAX_DEVICE);
        let begun = BegunLogin {
            server: site.server.to_string(),
            issuer: metadata.issuer.clone(),
            url,
            user_code: Some(excerpt(details.user_code().secret(), 60)),
            scopes: found.scopes.clone(),
            expires_at: after(self.now(), lifetime),
        };
        let (logins, site, user) = (self.clone(), site.clone(), user.clone());
        self.tasks.spawn(async move {
            let polled = ready
                .exchange_device_access_token(&details)
                .add_extra_param("resource", found.resource.clone())
                .request_async(&send, tokio::time::sleep, Some(lifetime))
                .await;
            let got = polled.map_err(refused).and_then(|it| taken(&it, None, logins.now()));
            let entered = match got {
                Ok(got) => logins.enter(&site, &user, &found, client, got).await,
                Err(err) => Err(site.failed("the login failed", &err)),
            };
            if let Err(err) = entered {
                tracing::info!("a login came to nothing: {err}");
                let key = (site.server.to_string(), user);
                logins.failures.lock().insert(key, (Instant::now(), err.to_string()));
                logins.tell_changed();
            }
        });
        Ok(begun)
    }

    /// How a login that was to end by itself did not, for as long as that is news.
    pub(super) fn failure(&self, site: &LoginSite, user: &UserId) -> Option<String> {
        let failures = self.failures.lock();
        let (at, said) = failures.get(&(site.server.to_string(), user.clone()))?;
        (at.elapsed() < BEGUN).then(|| said.clone())
    }

    /// Forgets the user's login, and has it revoked as far as the issuer takes word of that.
    pub(super) async fn end(
        &self,
        site: &LoginSite,
        user: &UserId,
        cx: &orch_core::Cx,
    ) -> Result<Option<Timestamp>, Error> {
        let Some(vault) = self.vault() else { return Ok(None) };
        let mut began = None;
        for grant in vault.grants(&site.server, Some(user)) {
            vault.forget(Some(cx), &grant.key).await?;
            began = began.max(Some(grant.logged_in_at));
            if let Some(held) = Held::of(&grant)
                && let Err(err) = self.revoke(site, &held).await
            {
                tracing::info!(
                    "a login is forgotten here and could not be revoked at its issuer: {err}"
                );
            }
        }
        self.tell_changed();
        Ok(began)
    }

    /// RFC 7009. With the token that makes others go those.
    async fn revoke(&self, site: &LoginSite, held: &Held) -> Result<(), Trouble> {
        let (Some(endpoint), Some(tokens)) = (&held.revocation_endpoint, &held.tokens) else {
            return Ok(());
        };
        let url = allowed(endpoint, &site.url)?;
        let (token, hint) = match &tokens.refresh {
            Some(it) => (it, "refresh_token"),
            None => (&tokens.access, "access_token"),
        };
        let mut form = vec![("token", token.as_str()), ("token_type_hint", hint)];
        let mut request = self.posts.post(url);
        match &held.client.secret {
            Some(secret) if !held.client.in_body => {
                request = request.basic_auth(&held.client.id, Some(secret));
            }
            secret => {
                form.push(("client_id", &held.client.id));
                form.extend(secret.iter().map(|it| ("client_secret", it.as_str())));
            }
        }
        let form = Serializer::new(String::new()).extend_pairs(form).finish();
        let request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(form);
        let answer = request.send().await;
        let answer = answer
            .map_err(|err| Trouble::Passing(crate::upstream::site::unreachable(err).to_string()))?;
        match answer.status() {
            it if it.is_success() => Ok(()),
            it => Err(Trouble::Wrong(format!("it answered {}", it.as_u16()))),
        }
    }
}

impl LoginSite {
    fn failed(&self, what: &str, err: &Trouble) -> Error {
        let said = orch_domain::text::sanitize(&err.to_string());
        Error::UpstreamError {
            server: self.server.to_string(),
            message: format!("{what} at the server `{}`: {said}", self.server),
        }
    }
}

/// Without it, whoever sees a code on its way could use it.
fn check_pkce(found: &Found) -> Result<(), Trouble> {
    let metadata = &found.metadata;
    if metadata.code_challenge_methods_supported.iter().any(|it| it == "S256") {
        return Ok(());
    }
    let issuer = excerpt(&metadata.issuer, 200);
    Err(Trouble::Wrong(format!("the issuer `{issuer}` does not take PKCE with S256")))
}

fn after(now: Timestamp, time: Duration) -> Timestamp {
    now.plus_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}
