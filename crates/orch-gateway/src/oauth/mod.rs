//! Logins of users at the servers behind, as the protocol's authorization has it: found out from a server's refusal, begun
//! in a browser or with a code, kept encrypted, renewed by itself, and sent to the one server they are for.
//!
//! ```text
//! 401 ─► discover ─► client (configured, published, registered) ─► flow (code with PKCE, device) ─► vault
//! request ─► source (one server, one holder) ─► vault, renewed when due ─► `Authorization` to the server's origin
//! ```

mod client;
mod discover;
pub mod entry;
mod fetch;
mod flow;
mod held;
mod port;
mod renew;
mod source;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

use async_trait::async_trait;
use orch_core::ports::vault::{OpenGrant, Vault};
use orch_domain::Error;
use orch_domain::grant::GrantKey;
use orch_domain::name::UserId;
use orch_domain::time::Timestamp;
use parking_lot::Mutex;
use reqwest::{Client, Url};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::config::{Reach, Upstream};
use crate::upstream::LinkError;
use entry::OAuth;
use flow::Begun;
use held::Held;
use renew::Renewing;

/// Where browsers come back to after a login.
#[async_trait]
pub trait Redirects: Send + Sync {
    /// An address of ours on this machine that ends in `CALLBACK` and is listened on for as long as a login may take.
    async fn uri(&self) -> Result<String, Error>;
}

/// What can go wrong with an issuer.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Trouble {
    /// It said no; the code is of the protocol.
    #[error("the issuer said `{code}`{description}")]
    Refused { code: String, description: String },
    /// It may go another time.
    #[error("{0}")]
    Passing(String),
    /// It will not go this way at all.
    #[error("{0}")]
    Wrong(String),
}

pub struct Logins {
    vault: OnceLock<Weak<dyn Vault>>,
    redirects: OnceLock<Arc<dyn Redirects>>,
    /// Follows redirects within an origin.
    reads: Client,
    /// Follows none.
    posts: Client,
    now: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    tasks: TaskTracker,
    /// By what comes back with the browser.
    begun: Mutex<HashMap<String, Begun>>,
    /// What each server said when it last refused somebody.
    challenges: Mutex<HashMap<String, String>>,
    /// How the last login that was to end by itself did not.
    failures: Mutex<HashMap<(String, UserId), (Instant, String)>>,
    renewing: Mutex<HashMap<Holder, Arc<Renewing>>>,
    /// Counts logins begun, ended and refused.
    changes: watch::Sender<u64>,
}

/// A server by its name, and who has a login there; no user is the gateway itself.
type Holder = (String, Option<UserId>);

/// A server at which one may log in.
#[derive(Clone, Debug)]
pub struct LoginSite {
    server: Arc<str>,
    url: Url,
    entry: OAuth,
}

/// Whose token a connection is made with; another login of the same user is another connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    pub user: UserId,
    pub logged_in_at: Timestamp,
}

/// How a user stands with a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    Nothing,
    In(Owner),
    /// In words, with what to do.
    Over(String),
}

impl LoginSite {
    /// None: nobody logs in there, because it is a program or its configuration has the credential.
    pub fn of(server: &Arc<str>, spec: &Upstream) -> Option<LoginSite> {
        let Reach::Http { url, headers, oauth, .. } = &spec.reach else { return None };
        if headers.keys().any(|it| it.eq_ignore_ascii_case("authorization")) {
            return None;
        }
        let url = Url::parse(url).ok()?;
        Some(LoginSite { server: server.clone(), url, entry: oauth.clone().unwrap_or_default() })
    }

    fn origin(&self) -> String {
        self.url.origin().ascii_serialization()
    }

    fn what_to_do(&self) -> String {
        let name = &self.server;
        format!(
            "call `login_server` with `name={name}`, open the address that it answers in a browser, and call again"
        )
    }

    /// What somebody is told who never logged in.
    pub fn wanted(&self) -> String {
        format!("the server `{}` wants you to log in: {}", self.server, self.what_to_do())
    }

    fn over(&self, why: &str) -> String {
        let why = orch_domain::text::sanitize(why);
        format!("your login at the server `{}` is over ({why}): {}", self.server, self.what_to_do())
    }

    fn login_needed(&self, message: String) -> LinkError {
        LinkError::LoginNeeded { message }
    }
}

impl Logins {
    pub(crate) fn new(
        reads: Client,
        tasks: TaskTracker,
        now: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    ) -> reqwest::Result<Arc<Logins>> {
        Ok(Arc::new(Logins {
            vault: OnceLock::new(),
            redirects: OnceLock::new(),
            reads,
            posts: fetch::client()?,
            now,
            tasks,
            begun: Mutex::default(),
            challenges: Mutex::default(),
            failures: Mutex::default(),
            renewing: Mutex::default(),
            changes: watch::Sender::new(0),
        }))
    }

    /// Before it, nobody is logged in anywhere. Only the first call counts.
    pub fn open(&self, vault: Weak<dyn Vault>, redirects: Arc<dyn Redirects>) {
        self.vault.set(vault).ok();
        self.redirects.set(redirects).ok();
    }

    fn vault(&self) -> Option<Arc<dyn Vault>> {
        self.vault.get()?.upgrade()
    }

    /// Changes when somebody logged in or out, or a login was refused.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn tell_changed(&self) {
        self.changes.send_modify(|it| *it += 1);
    }

    /// The holder's newest login, for this server where it stands now: what was granted for another address that had the
    /// name, or by another issuer than the configured one, is not this server's.
    fn own(&self, site: &LoginSite, user: Option<&UserId>) -> Option<(OpenGrant, Held)> {
        let grants = self.vault()?.grants(&site.server, user);
        let fitting = grants.into_iter().filter_map(|it| {
            let held = Held::of(&it)?;
            let is_issuer =
                site.entry.issuer.as_ref().is_none_or(|issuer| same_url(issuer, &it.key.issuer));
            (held.origin == site.origin() && held.tokens.is_some() && is_issuer)
                .then_some((it, held))
        });
        fitting.max_by_key(|(it, _)| it.logged_in_at)
    }

    pub fn standing(&self, site: &LoginSite, user: &UserId) -> Standing {
        // With a login for all, nobody's own counts.
        if site.entry.client_credentials {
            return Standing::Nothing;
        }
        let Some((grant, _)) = self.own(site, Some(user)) else { return Standing::Nothing };
        match grant.refused {
            Some(why) => Standing::Over(site.over(&why)),
            None => Standing::In(Owner { user: user.clone(), logged_in_at: grant.logged_in_at }),
        }
    }

    /// The one who logged in last.
    fn last_in(&self, site: &LoginSite) -> Option<Owner> {
        let holders = self.vault()?.holders(&site.server);
        holders.iter().find_map(|user| match self.standing(site, user) {
            Standing::In(owner) => Some(owner),
            _ => None,
        })
    }

    pub fn has_any(&self, site: &LoginSite) -> bool {
        self.last_in(site).is_some()
    }

    fn heard(&self, site: &LoginSite, challenge: Option<&str>) {
        if let Some(it) = challenge {
            // Nobody has a longer one; who has is not to fill our memory.
            let kept = orch_domain::text::excerpt(it, 4000);
            self.challenges.lock().insert(site.server.to_string(), kept);
        }
    }

    /// The login is not used any more until the holder logs in anew.
    async fn refuse(&self, grant: OpenGrant, why: &str) {
        tracing::info!("a login is over: {}: {why}", grant.key);
        if let Some(vault) = self.vault()
            && let Err(err) =
                vault.keep(None, OpenGrant { refused: Some(why.to_owned()), ..grant }).await
        {
            tracing::warn!("that a login is over could not be kept: {err}");
        }
        self.tell_changed();
    }

    fn now(&self) -> Timestamp {
        (self.now)()
    }
}

fn same_url(left: &str, right: &str) -> bool {
    left.trim_end_matches('/') == right.trim_end_matches('/')
}

fn key(site: &LoginSite, user: Option<&UserId>, issuer: &str) -> GrantKey {
    GrantKey { server: site.server.to_string(), user: user.cloned(), issuer: issuer.to_owned() }
}
