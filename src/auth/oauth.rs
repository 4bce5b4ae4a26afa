//! Access tokens of other issuers at the MCP endpoint, which is an OAuth 2.1 resource server as the protocol has it: who
//! issued a token, what for, until when, and what its scopes come to here. Nothing of it is stored, and no token goes on
//! to a server behind.

mod endpoint;
mod keys;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context, ensure};
use http::{HeaderMap, Uri, header};
use jsonwebtoken::{Algorithm, Validation};
use orch_core::Orch;
use orch_domain::Error;
use orch_domain::caller::{Caller, Channel, Permission};
use orch_domain::name::{UserId, UserName};
use orch_domain::tool_access::{ToolAccess, ToolPatterns};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::config;
pub use endpoint::protect;
use keys::{Issuer, Need, NoKeys};

/// Clocks of two machines differ; more is not forgiven.
const LEEWAY_S: u64 = 30;
/// Tokens whose signature need not be checked again.
const REMEMBERED: usize = 1024;
/// Characters of a name that an id repeats, for those who read the audit.
const NAME_IN_ID: usize = 40;

pub struct ResourceServer {
    issuers: Vec<Arc<Issuer>>,
    /// As configured, without a slash at its end. None: whatever `/mcp` is called by.
    audience: Option<String>,
    scopes: BTreeMap<String, Vec<Permission>>,
    required_scopes: Vec<String>,
    user_claim: Option<String>,
    tools_claim: Option<String>,
    /// Where it listens, for requests that do not say whom they mean.
    url: String,
    /// Names that a proxy in front serves it under, which is taken to speak TLS.
    proxied: Vec<String>,
    /// By the digest of the token. Invariant: their signatures were checked by a key that is still the issuer's.
    remembered: Arc<Mutex<HashMap<[u8; 32], Arc<Claims>>>>,
}

/// What a token says whose signature, issuer and dates are right. Whom it is for depends on the request.
struct Claims {
    issuer: String,
    subject: String,
    audience: Vec<String>,
    scopes: Vec<String>,
    /// What the configured claim calls the user.
    name: Option<String>,
    tools: ToolPatterns,
    /// Seconds since 1970.
    expires: u64,
}

#[derive(Deserialize)]
struct Payload {
    iss: String,
    sub: String,
    aud: OneOrMany,
    exp: u64,
    scope: Option<Scopes>,
    /// As some issuers call it.
    scp: Option<Scopes>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Scopes {
    Text(String),
    List(Vec<String>),
}

/// Why a token does not let its bearer in.
enum Refusal {
    Invalid(&'static str),
    /// It is good, but not for this.
    Scope,
    /// Nobody can say: the issuer does not answer, and its keys are not known.
    Unknown,
}

impl ResourceServer {
    /// None: no issuer is configured. `url` is where this server listens.
    pub fn build(config: &config::Config, url: &str) -> anyhow::Result<Option<ResourceServer>> {
        let oauth = &config.security.oauth;
        if oauth.issuers.is_empty() {
            return Ok(None);
        }
        ensure!(
            config.security.enable_auth,
            "`security.oauth` needs `security.enable_auth`: without it nobody is asked for a token"
        );
        ensure!(
            oauth.jwks_url.is_none() || oauth.issuers.len() == 1,
            "`security.oauth.jwks_url` is of one issuer; leave it out when there are several"
        );
        for (key, it) in (oauth.issuers.iter().map(|it| ("issuers", it)))
            .chain(oauth.jwks_url.iter().map(|it| ("jwks_url", it)))
        {
            ensure!(
                is_trustworthy(it),
                "`security.oauth.{key}`: `{it}` has to begin with `https://`; `http://` is for this machine alone"
            );
        }
        let client = keys::client().context("no HTTP client can be made")?;
        let issuer = |url: &String| {
            Arc::new(Issuer::new(url.clone(), oauth.jwks_url.clone(), client.clone()))
        };
        Ok(Some(ResourceServer {
            issuers: oauth.issuers.iter().map(issuer).collect(),
            audience: oauth.audience.as_deref().map(|it| it.trim_end_matches('/').to_owned()),
            scopes: oauth.scopes.clone(),
            required_scopes: oauth.required_scopes.clone(),
            user_claim: oauth.user_claim.clone(),
            tools_claim: oauth.tools_claim.clone(),
            url: url.to_owned(),
            proxied: config.server.allowed_hosts.clone(),
            remembered: Arc::default(),
        }))
    }

    /// The issuer that a token says it is of. Nothing is checked by that.
    fn issuer_of(&self, token: &str) -> Option<&Arc<Issuer>> {
        #[derive(Deserialize)]
        struct Said {
            iss: String,
        }
        let said: Said = jsonwebtoken::dangerous::insecure_decode_claims(token).ok()?;
        self.issuers.iter().find(|it| it.url == said.iss)
    }

    /// Whether a token is for us to judge, and not one of our own.
    pub fn judges(&self, token: &str) -> bool {
        self.issuer_of(token).is_some()
    }

    /// Sees to it that the keys are there that `token` is checked with, as far as its issuer gives them.
    async fn prepare(&self, token: &str, orch: &Orch) {
        let Some(issuer) = self.issuer_of(token).cloned() else { return };
        let Ok(header) = jsonwebtoken::decode_header(token) else { return };
        let need = issuer.need(header.kid.as_deref(), header.alg);
        let remembered = self.remembered.clone();
        let refresh = async move {
            if issuer.refresh_for(header.kid.as_deref(), header.alg).await {
                // A key that was taken back must not go on vouching for what it signed.
                remembered.lock().clear();
            }
        };
        match need {
            Need::Nothing => {}
            Need::Keys => refresh.await,
            // Who can do with the old ones does not wait for the new.
            Need::NewerKeys => {
                let ended = orch.shutdown.clone();
                orch.tracker.spawn(async move { ended.run_until_cancelled(refresh).await });
            }
        }
    }

    /// Whom a token stands for, on a request with these headers.
    pub fn caller(
        &self,
        orch: &Orch,
        token: &str,
        headers: &HeaderMap,
        channel: Channel,
    ) -> Result<Caller, Error> {
        let claims = self.claims(token, headers).map_err(|refusal| match refusal {
            Refusal::Invalid(why) => Error::Unauthenticated {
                message: format!(
                    "the access token is not accepted: {why}; get a new one from its issuer"
                ),
            },
            Refusal::Scope => Error::Unauthenticated {
                message: "the access token has no scope that permits anything here".to_owned(),
            },
            Refusal::Unknown => Error::Unavailable {
                message:
                    "the issuer of the access token does not give its keys; try again in a moment"
                        .to_owned(),
                source: None,
            },
        })?;
        let permissions = self.permissions(&claims);
        let local = claims
            .name
            .as_ref()
            .and_then(|it| UserName::try_new(it).ok())
            .and_then(|name| orch.ledger.read(|book| book.user_named(&name).cloned()));
        Ok(match local {
            Some(user) => {
                let mut both = permissions;
                let is_admin = user.permissions.contains(&Permission::Admin);
                both.retain(|it| is_admin || user.permissions.contains(it));
                let tools = ToolAccess::default().and(&user.tools).and(&claims.tools);
                Caller { tools, ..Caller::new(user.id.clone(), both, channel) }
            }
            None => {
                let tools = ToolAccess::default().and(&claims.tools);
                Caller { tools, ..Caller::new(external_id(&claims), permissions, channel) }
            }
        })
    }

    fn permissions(&self, claims: &Claims) -> Vec<Permission> {
        let given: Vec<Permission> =
            claims.scopes.iter().filter_map(|it| self.scopes.get(it)).flatten().copied().collect();
        Permission::ALL.into_iter().filter(|it| given.contains(it)).collect()
    }

    fn claims(&self, token: &str, headers: &HeaderMap) -> Result<Arc<Claims>, Refusal> {
        let digest: [u8; 32] = Sha256::digest(token).into();
        let known = self.remembered.lock().get(&digest).cloned();
        let claims = match known {
            Some(it) => it,
            None => {
                let claims = Arc::new(self.verify(token)?);
                let mut remembered = self.remembered.lock();
                if REMEMBERED <= remembered.len() {
                    remembered.clear();
                }
                remembered.insert(digest, claims.clone());
                claims
            }
        };
        if claims.expires + LEEWAY_S < jsonwebtoken::get_current_timestamp() {
            return Err(Refusal::Invalid("it has expired"));
        }
        let resource = self.resource(headers);
        if !claims.audience.iter().any(|it| it.trim_end_matches('/') == resource) {
            return Err(Refusal::Invalid("it was issued for another audience"));
        }
        let has_all = self.required_scopes.iter().all(|it| claims.scopes.contains(it));
        if !has_all || self.permissions(&claims).is_empty() {
            return Err(Refusal::Scope);
        }
        Ok(claims)
    }

    /// Everything about a token that stays so until its keys change.
    fn verify(&self, token: &str) -> Result<Claims, Refusal> {
        let issuer =
            self.issuer_of(token).ok_or(Refusal::Invalid("its issuer is not known here"))?;
        let header = jsonwebtoken::decode_header(token)
            .map_err(|_| Refusal::Invalid("its header cannot be read"))?;
        if !ACCEPTED.contains(&header.alg) {
            return Err(Refusal::Invalid("it is not signed with a private key"));
        }
        let keys = issuer.keys_for(header.kid.as_deref(), header.alg).map_err(|it| match it {
            NoKeys::NeverFetched => Refusal::Unknown,
            NoKeys::NoneFits => Refusal::Invalid("its issuer has no such key"),
        })?;
        let mut validation = Validation::new(header.alg);
        validation.leeway = LEEWAY_S;
        validation.validate_nbf = true;
        validation.set_issuer(&[&issuer.url]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        // Whom it is for is compared with each request, because a token is remembered over many.
        validation.validate_aud = false;
        let mut why = "its signature is wrong";
        for key in &keys {
            match jsonwebtoken::decode::<Payload>(token, key, &validation) {
                Ok(it) => return self.claims_of(it.claims),
                Err(err) => {
                    use jsonwebtoken::errors::ErrorKind;
                    why = match err.kind() {
                        ErrorKind::ExpiredSignature => "it has expired",
                        ErrorKind::ImmatureSignature => "it is not valid yet",
                        ErrorKind::InvalidSignature | ErrorKind::InvalidAlgorithm => continue,
                        ErrorKind::MissingRequiredClaim(_) | ErrorKind::Json(_) => {
                            "it has not all of `iss`, `sub`, `aud` and `exp`"
                        }
                        _ => "it cannot be read",
                    };
                }
            }
        }
        Err(Refusal::Invalid(why))
    }

    fn claims_of(&self, payload: Payload) -> Result<Claims, Refusal> {
        let scopes = payload.scope.into_iter().chain(payload.scp).flat_map(|it| match it {
            Scopes::Text(it) => it.split_whitespace().map(str::to_owned).collect(),
            Scopes::List(it) => it,
        });
        let claim = |name: &str| match name {
            "sub" => Some(Value::String(payload.sub.clone())),
            _ => payload.rest.get(name).cloned(),
        };
        // A limit that cannot be read must not be none.
        let tools = match self.tools_claim.as_deref().and_then(claim) {
            None | Some(Value::Null) => ToolPatterns::default(),
            Some(it) => {
                patterns(it).ok_or(Refusal::Invalid("its claim about tools cannot be read"))?
            }
        };
        let name = self.user_claim.as_deref().and_then(claim);
        Ok(Claims {
            issuer: payload.iss,
            audience: match payload.aud {
                OneOrMany::One(it) => vec![it],
                OneOrMany::Many(it) => it,
            },
            scopes: scopes.collect(),
            name: name.and_then(|it| it.as_str().map(str::to_owned)),
            tools,
            subject: payload.sub,
            expires: payload.exp,
        })
    }

    /// The resource identifier of the endpoint, as this client calls it. `Host` was checked to be one of ours.
    fn resource(&self, headers: &HeaderMap) -> String {
        match &self.audience {
            Some(it) => it.clone(),
            None => format!("{}/mcp", self.called(headers)),
        }
    }

    /// Scheme and host by which the client reaches us.
    fn called(&self, headers: &HeaderMap) -> String {
        let host = headers.get(header::HOST).and_then(|it| it.to_str().ok());
        let Some(host) = host else { return self.url.clone() };
        let host = host.to_ascii_lowercase();
        let name = host.rsplit_once(':').map_or(host.as_str(), |(name, _)| name);
        let scheme = if self.proxied.iter().any(|it| it == name) { "https" } else { "http" };
        format!("{scheme}://{host}")
    }

    /// Where the description of the resource is, for a client that has no token yet.
    fn metadata_url(&self, headers: &HeaderMap) -> String {
        let resource = self.resource(headers);
        let of_resource = resource.parse::<Uri>().ok().and_then(|it| {
            let (scheme, authority) = (it.scheme_str()?, it.authority()?);
            let path = it.path().trim_end_matches('/');
            scheme.starts_with("http").then(|| format!("{scheme}://{authority}{WELL_KNOWN}{path}"))
        });
        of_resource.unwrap_or_else(|| format!("{}{WELL_KNOWN}/mcp", self.called(headers)))
    }

    /// RFC 9728.
    fn metadata(&self, headers: &HeaderMap) -> Value {
        let mut scopes: Vec<&String> = self.scopes.keys().chain(&self.required_scopes).collect();
        scopes.sort();
        scopes.dedup();
        json!({
            "resource": self.resource(headers),
            "resource_name": "mcp-orch",
            "authorization_servers": self.issuers.iter().map(|it| &it.url).collect::<Vec<_>>(),
            "scopes_supported": scopes,
            "bearer_methods_supported": ["header"],
        })
    }

    /// Scopes to ask for: what every token must have, else all but those of an administrator.
    fn asked_scopes(&self) -> String {
        if !self.required_scopes.is_empty() {
            return self.required_scopes.join(" ");
        }
        let usual = self.scopes.iter().filter(|(_, it)| !it.contains(&Permission::Admin));
        usual.map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(" ")
    }
}

const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";

/// Signatures that only the issuer can make. A shared secret would let us, and whoever knows a public key, sign for it.
const ACCEPTED: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

/// `{allow, deny}`, or only what is allowed as a list or as words.
fn patterns(claim: Value) -> Option<ToolPatterns> {
    let allow = match claim {
        Value::Object(_) => return serde_json::from_value(claim).ok(),
        Value::Array(_) => claim,
        Value::String(words) => words.split_whitespace().collect(),
        _ => return None,
    };
    serde_json::from_value(json!({ "allow": allow })).ok()
}

/// An id that stays with the subject and that no other issuer can give, with a name to read.
fn external_id(claims: &Claims) -> UserId {
    let digest = Sha256::digest(format!("{}\0{}", claims.issuer, claims.subject));
    let is_plain = |it: &char| it.is_ascii_alphanumeric() || matches!(it, '-' | '_' | '.' | '@');
    let name = claims.name.as_ref().unwrap_or(&claims.subject);
    let name: String = name.chars().filter(is_plain).take(NAME_IN_ID).collect();
    let id = format!("{}{name}-{}", UserId::EXTERNAL, hex::encode(&digest[..6]));
    UserId::try_new(id).expect("it has plain characters and is short enough")
}

/// Whoever can change what is on the way could sign tokens.
fn is_trustworthy(url: &str) -> bool {
    let Ok(uri) = url.parse::<Uri>() else { return false };
    let host = uri.host().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let is_here = host == "localhost" || address.is_ok_and(|it| it.is_loopback());
    match uri.scheme_str() {
        Some("https") => !host.is_empty(),
        Some("http") => is_here,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_over_tls_or_from_this_machine() {
        for good in [
            "https://login.example.org/realm",
            "http://127.0.0.1:8080",
            "http://localhost/",
            "http://[::1]:1",
        ] {
            assert!(is_trustworthy(good), "{good}");
        }
        for bad in [
            "http://login.example.org",
            "http://10.0.0.1",
            "ftp://localhost",
            "login.example.org",
            "",
        ] {
            assert!(!is_trustworthy(bad), "{bad}");
        }
    }

    #[test]
    fn ids_part_issuers_and_keep_a_name() {
        let claims = |issuer: &str, subject: &str| Claims {
            issuer: issuer.to_owned(),
            subject: subject.to_owned(),
            audience: Vec::new(),
            scopes: Vec::new(),
            name: None,
            tools: ToolPatterns::default(),
            expires: 0,
        };
        let id = external_id(&claims("https://a", "ann smith|ü"));
        assert!(id.as_str().starts_with("oauth-annsmith-") && id.is_external(), "{id}");
        assert_ne!(id, external_id(&claims("https://b", "ann smith|ü")));
        assert_ne!(id, external_id(&claims("https://a", "annsmith")));
        assert!(external_id(&claims("https://a", &"ü".repeat(300))).is_external());
        assert!(external_id(&claims("https://a", &"x".repeat(300))).is_external());
    }

    #[test]
    fn claims_about_tools_are_read_in_three_forms_or_not_at_all() {
        let allows = |claim: Value| patterns(claim).map(|it| it.allow.len());
        assert_eq!(allows(json!({"allow": ["a.*"], "deny": ["b.c"]})), Some(1));
        assert_eq!(allows(json!(["a.*", "b.*"])), Some(2));
        assert_eq!(allows(json!("a.* b.*")), Some(2));
        for bad in [json!(""), json!([]), json!(["no pattern"]), json!({"alow": []}), json!(7)] {
            assert_eq!(allows(bad.clone()), None, "{bad}");
        }
    }
}
