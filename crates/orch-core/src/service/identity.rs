//! Who a caller is: passwords, access tokens and API keys.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use orch_domain::Error;
use orch_domain::caller::{Caller, Channel, Permission};
use orch_domain::name::{ApiKeyId, UserId, UserName};
use orch_domain::password::Password;
use orch_domain::time::Timestamp;
use orch_domain::tool_access::{ToolAccess, ToolPatterns};
use orch_domain::user::User;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

pub use super::argon::hash_password;
use super::argon::is_password;
use crate::Orch;
use crate::ports::store::StoreIdentity;
use crate::settings::Settings;

const ISSUER: &str = "mcp-orch";
/// Wrong passwords for one name before it has to wait.
const MAX_FAILURES: u32 = 10;
const FAILURE_WINDOW: Duration = Duration::from_secs(60);
const MAX_AUDITED_NOBODY: u32 = 60;
/// Passwords hashed at the same time. Each takes 19 MiB and a whole CPU, and who asks need not have logged in.
const HASHES_AT_ONCE: usize = 4;

pub struct Identity {
    encoding: EncodingKey,
    decoding: DecodingKey,
    token_lifetime: Duration,
    /// Wrong passwords per name since the start of its window.
    failures: Mutex<HashMap<UserName, (u32, Instant)>>,
    /// Audited refusals of calls without a login since the start of their window.
    audited_nobody: Mutex<(u32, Instant)>,
    hashing: Semaphore,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    sub: UserId,
    /// Milliseconds; `iat` has seconds only, too coarse to tell a token from a password change after it.
    at: i64,
    iat: i64,
    exp: i64,
    /// What the token was limited to when it was issued; its user's own limits are looked up at each call.
    #[serde(default, skip_serializing_if = "ToolPatterns::is_empty")]
    tools: ToolPatterns,
}

pub struct Token {
    pub text: String,
    pub expires_in: Duration,
}

impl Identity {
    pub fn new(store: &StoreIdentity, settings: &Settings) -> Identity {
        let secret = settings.token_secret.as_deref().unwrap_or(&store.token_secret);
        Identity {
            encoding: EncodingKey::from_secret(secret),
            decoding: DecodingKey::from_secret(secret),
            token_lifetime: settings.token_lifetime,
            failures: Mutex::default(),
            audited_nobody: Mutex::new((0, Instant::now())),
            hashing: Semaphore::new(HASHES_AT_ONCE),
        }
    }

    /// Whether one more refusal of somebody unknown may be audited: so many a minute, to show an attack without
    /// letting it fill the audit.
    pub(crate) fn may_audit_nobody(&self) -> bool {
        let mut audited = self.audited_nobody.lock();
        if FAILURE_WINDOW <= audited.1.elapsed() {
            *audited = (0, Instant::now());
        }
        audited.0 += 1;
        audited.0 <= MAX_AUDITED_NOBODY
    }

    fn issue(&self, user: &User, tools: ToolPatterns, now: Timestamp) -> Result<Token, Error> {
        let lifetime = self.token_lifetime;
        let claims = Claims {
            iss: ISSUER.to_owned(),
            sub: user.id.clone(),
            // A clock that was set back must not make tokens that are older than the last change of the password.
            at: now.max(user.tokens_valid_from).as_millis(),
            iat: now.as_millis() / 1000,
            exp: now.plus_millis(lifetime.as_millis() as u64).as_millis() / 1000,
            tools,
        };
        let text = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.encoding)
            .map_err(Error::internal)?;
        Ok(Token { text, expires_in: lifetime })
    }

    fn claims(&self, token: &str) -> Option<Claims> {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_issuer(&[ISSUER]);
        validation.validate_aud = false;
        jsonwebtoken::decode::<Claims>(token, &self.decoding, &validation).ok().map(|it| it.claims)
    }

    fn check_failures(&self, name: &UserName) -> Result<(), Error> {
        let mut failures = self.failures.lock();
        failures.retain(|_, (_, since)| since.elapsed() < FAILURE_WINDOW);
        match failures.get(name) {
            Some((n, since)) if MAX_FAILURES <= *n => {
                let wait = FAILURE_WINDOW.saturating_sub(since.elapsed());
                Err(Error::TooManyRequests {
                    message: format!(
                        "too many wrong passwords for `{name}`; try again in {} s",
                        wait.as_secs() + 1
                    ),
                    retry_after_ms: wait.as_millis() as u64,
                })
            }
            _ => Ok(()),
        }
    }

    fn note_failure(&self, name: &UserName) {
        self.failures.lock().entry(name.clone()).or_insert((0, Instant::now())).0 += 1;
    }
}

/// A new API key: its id, the text to show once, and the digest to keep.
pub fn new_api_key(random: u64) -> Result<(ApiKeyId, String, [u8; 32]), Error> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(Error::internal)?;
    let id = ApiKeyId::new(random);
    let text = format!("mo-{}-{}", id.as_str().trim_start_matches("k-"), hex::encode(secret));
    Ok((id, text, Sha256::digest(secret).into()))
}

impl Orch {
    /// Hashing is meant to be slow, so it runs where it keeps nobody waiting, and not too much of it at once.
    pub async fn hash(&self, password: &Password) -> Result<String, Error> {
        let _turn = self.identity.hashing.acquire().await.map_err(Error::internal)?;
        let password = password.clone();
        tokio::task::spawn_blocking(move || hash_password(password.expose()))
            .await
            .map_err(Error::internal)?
    }

    /// Checks a password and issues an access token, which may be limited further than its user is.
    pub async fn login(
        &self,
        name: &UserName,
        password: &str,
        tools: ToolPatterns,
    ) -> Result<(std::sync::Arc<User>, Token), Error> {
        let _turn = self.identity.hashing.acquire().await.map_err(Error::internal)?;
        // Only when it is its turn, so that many guesses at once count like as many one after the other.
        self.identity.check_failures(name)?;
        let user = self.ledger.read(|book| book.user_named(name).cloned());
        // An unknown name costs the same time as a wrong password, so that names cannot be found out.
        let hash = user.as_ref().map_or_else(|| NOBODY.to_owned(), |it| it.password_hash.clone());
        let password = password.to_owned();
        let is_right = tokio::task::spawn_blocking(move || is_password(&password, &hash))
            .await
            .map_err(Error::internal)?;
        match user {
            Some(user) if is_right => {
                let token = self.identity.issue(&user, tools, self.clock.now())?;
                Ok((user, token))
            }
            _ => {
                self.identity.note_failure(name);
                Err(Error::Unauthenticated {
                    message: "the user name or the password is wrong".to_owned(),
                })
            }
        }
    }

    /// The caller that a bearer credential stands for: an access token or an API key.
    pub fn authenticate(&self, bearer: &str, channel: Channel) -> Result<Caller, Error> {
        let caller = if let Some(it) = self.by_configured_key(bearer) {
            it
        } else if bearer.starts_with("mo-") {
            self.by_api_key(bearer)?
        } else {
            self.by_token(bearer)?
        };
        Ok(Caller { channel, ..caller })
    }

    /// A token of the configuration acts for the administrator, with the permissions given there.
    fn by_configured_key(&self, bearer: &str) -> Option<Caller> {
        let keys = &self.settings.configured_keys;
        if keys.is_empty() {
            return None;
        }
        let digest: [u8; 32] = Sha256::digest(bearer).into();
        let key = keys.iter().find(|it| it.sha256 == digest)?;
        let admin = super::bootstrap::admin_id();
        let of_user = self.ledger.read(|book| book.user(&admin).map(|it| it.tools.clone()));
        let tools = ToolAccess::default().and(&of_user.unwrap_or_default()).and(&key.tools);
        Some(Caller { tools, ..Caller::new(admin, key.permissions.clone(), Channel::Rest) })
    }

    fn by_token(&self, token: &str) -> Result<Caller, Error> {
        let claims = self.identity.claims(token).ok_or_else(|| {
            refused("the access token is malformed or has expired; call `login` again")
        })?;
        let user = self.ledger.read(|book| book.user(&claims.sub).cloned());
        match user {
            Some(user) if user.tokens_valid_from.as_millis() <= claims.at => {
                let tools = ToolAccess::default().and(&user.tools).and(&claims.tools);
                let caller = Caller::new(user.id.clone(), user.permissions.clone(), Channel::Rest);
                Ok(Caller { tools, ..caller })
            }
            _ => Err(refused("the access token is not valid any more; call `login` again")),
        }
    }

    fn by_api_key(&self, text: &str) -> Result<Caller, Error> {
        let wrong = || {
            refused(
                "the API key is unknown, revoked or has expired; ask an administrator for a new one",
            )
        };
        let (id, secret) = text.trim_start_matches("mo-").split_once('-').ok_or_else(wrong)?;
        let id = ApiKeyId::try_new(format!("k-{id}")).map_err(|_| wrong())?;
        let secret = hex::decode(secret).map_err(|_| wrong())?;
        let digest: [u8; 32] = Sha256::digest(secret).into();
        let now = self.clock.now();
        self.ledger.read(|book| {
            let key = book.api_key(&id).ok_or_else(wrong)?;
            // Comparing digests leaks nothing useful by its time: the attacker does not choose the digest.
            if key.secret_sha256 != digest || key.expires_at.is_some_and(|it| it <= now) {
                return Err(wrong());
            }
            let user = book.user(&key.user).ok_or_else(wrong)?;
            let both = key.permissions.iter().filter(|it| {
                user.permissions.contains(it) || user.permissions.contains(&Permission::Admin)
            });
            Ok(Caller {
                tools: ToolAccess::default().and(&user.tools).and(&key.tools),
                key: Some(key.id.clone()),
                ..Caller::new(user.id.clone(), both.copied().collect(), Channel::Rest)
            })
        })
    }
}

fn refused(message: &str) -> Error {
    Error::Unauthenticated { message: message.to_owned() }
}

/// A hash that no password matches, with the cost of a real one.
const NOBODY: &str = "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
