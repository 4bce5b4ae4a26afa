//! The public keys of an issuer: found by its metadata, kept, and fetched anew when a token names one that is not there.

use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use orch_domain::rate::{Bucket, Rate, RateWritten};
use parking_lot::RwLock;
use reqwest::redirect::Policy;
use serde::Deserialize;
use serde_json::Value;

use super::{ACCEPTED, is_trustworthy};

const TIMEOUT: Duration = Duration::from_secs(5);
/// Keys older than this are fetched again, so that one that was taken back stops counting.
const STALE: Duration = Duration::from_secs(600);
const MAX_BODY: usize = 1024 * 1024;
const MAX_KEYS: usize = 64;
/// Base64 of 2048 bits; shorter RSA keys can be factored.
const MIN_RSA: usize = 342;
/// Anybody can name a key that is not there. A few times at once the issuer is asked for it, then twice a minute.
const FETCHES: RateWritten = RateWritten { per_second: None, per_minute: Some(2), burst: Some(5) };

pub(super) struct Issuer {
    /// As tokens say it in `iss`, to the letter.
    pub(super) url: String,
    jwks_url: Option<String>,
    client: reqwest::Client,
    keys: RwLock<Arc<Keys>>,
    /// One fetch at a time, and not too many.
    fetching: tokio::sync::Mutex<Bucket>,
    rate: Rate,
    started: Instant,
}

#[derive(Default)]
struct Keys {
    keys: Vec<Key>,
    /// None: never.
    fetched: Option<Instant>,
}

struct Key {
    kid: Option<String>,
    algorithms: Vec<Algorithm>,
    decoding: DecodingKey,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    Nothing,
    /// It cannot be checked without.
    Keys,
    /// It can be checked, by keys that may have been taken back.
    NewerKeys,
}

pub(super) enum NoKeys {
    NeverFetched,
    NoneFits,
}

/// Without redirects: keys come from where the configuration and the issuer say, and from nowhere else.
pub(super) fn client() -> reqwest::Result<reqwest::Client> {
    // Fails only when it was done before.
    drop(rustls::crypto::ring::default_provider().install_default());
    reqwest::Client::builder()
        .timeout(TIMEOUT)
        .redirect(Policy::none())
        .user_agent(concat!("mcp-orch/", env!("CARGO_PKG_VERSION")))
        .build()
}

impl Issuer {
    pub(super) fn new(url: String, jwks_url: Option<String>, client: reqwest::Client) -> Issuer {
        Issuer {
            url,
            jwks_url,
            client,
            keys: RwLock::default(),
            fetching: tokio::sync::Mutex::default(),
            rate: FETCHES.rate().ok().flatten().expect("the constant is a rate"),
            started: Instant::now(),
        }
    }

    /// Keys that may have signed a token with this header.
    pub(super) fn keys_for(
        &self,
        kid: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Vec<DecodingKey>, NoKeys> {
        let keys = self.keys.read().clone();
        let fitting: Vec<DecodingKey> =
            keys.fitting(kid, algorithm).map(|it| it.decoding.clone()).collect();
        match (fitting.is_empty(), keys.fetched) {
            (false, _) => Ok(fitting),
            (true, None) => Err(NoKeys::NeverFetched),
            (true, Some(_)) => Err(NoKeys::NoneFits),
        }
    }

    /// What a token with this header needs of us before it can be checked.
    pub(super) fn need(&self, kid: Option<&str>, algorithm: Algorithm) -> Need {
        let keys = self.keys.read();
        if !ACCEPTED.contains(&algorithm) {
            Need::Nothing
        } else if !keys.has(kid, algorithm) {
            Need::Keys
        } else if keys.fetched.is_none_or(|it| STALE <= it.elapsed()) {
            Need::NewerKeys
        } else {
            Need::Nothing
        }
    }

    /// Fetches the keys, unless somebody else just has or it was done too often. Whether they are others now. An issuer
    /// that does not answer leaves the keys as they are.
    pub(super) async fn refresh_for(&self, kid: Option<&str>, algorithm: Algorithm) -> bool {
        let mut used = self.fetching.lock().await;
        let now = self.started.elapsed();
        let is_needed = self.need(kid, algorithm) != Need::Nothing;
        if !is_needed || !used.wait(&self.rate, now).is_zero() {
            return false;
        }
        used.take(&self.rate, now);
        let fetched = tokio::time::timeout(TIMEOUT, self.fetch()).await;
        match fetched.unwrap_or_else(|_| Err(anyhow::anyhow!("it takes longer than {TIMEOUT:?}"))) {
            Ok(keys) => {
                *self.keys.write() = Arc::new(Keys { keys, fetched: Some(Instant::now()) });
                true
            }
            Err(err) => {
                tracing::warn!("the keys of the issuer `{}` cannot be fetched: {err:#}", self.url);
                false
            }
        }
    }

    async fn fetch(&self) -> anyhow::Result<Vec<Key>> {
        let url = match &self.jwks_url {
            Some(it) => it.clone(),
            None => self.discover().await?,
        };
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<Value>,
        }
        let set: Set = serde_json::from_slice(&self.get(&url).await?)?;
        // One that we cannot use does not take the others with it.
        let keys: Vec<Key> = set.keys.into_iter().take(MAX_KEYS).filter_map(key).collect();
        anyhow::ensure!(!keys.is_empty(), "`{url}` has no key for signatures that is understood");
        Ok(keys)
    }

    /// Where the issuer says its keys are: RFC 8414, and OpenID Connect in both of its places.
    async fn discover(&self) -> anyhow::Result<String> {
        #[derive(Deserialize)]
        struct Metadata {
            issuer: String,
            jwks_uri: String,
        }
        let url = self.url.trim_end_matches('/');
        let origin_end = url.find("://").map_or(0, |it| it + 3);
        let path_start = url[origin_end..].find('/').map_or(url.len(), |it| origin_end + it);
        let (origin, path) = url.split_at(path_start);
        let mut places = vec![
            format!("{origin}/.well-known/oauth-authorization-server{path}"),
            format!("{origin}/.well-known/openid-configuration{path}"),
            format!("{url}/.well-known/openid-configuration"),
        ];
        places.dedup();
        let mut said = Vec::new();
        for place in places {
            let read = async {
                let metadata: Metadata = serde_json::from_slice(&self.get(&place).await?)?;
                // Else one issuer could speak for another.
                anyhow::ensure!(
                    metadata.issuer == self.url,
                    "it calls itself `{}`",
                    orch_domain::text::excerpt(&metadata.issuer, 200)
                );
                anyhow::ensure!(
                    is_trustworthy(&metadata.jwks_uri),
                    "its `jwks_uri` does not begin with `https://`"
                );
                Ok(metadata.jwks_uri)
            };
            match read.await {
                Ok(it) => return Ok(it),
                Err(err) => said.push(format!("{place}: {err}")),
            }
        }
        anyhow::bail!("no metadata: {}", said.join("; "))
    }

    async fn get(&self, url: &str) -> anyhow::Result<Vec<u8>> {
        let mut response = self.client.get(url).send().await?;
        anyhow::ensure!(response.status().is_success(), "it answers {}", response.status());
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            body.extend_from_slice(&chunk);
            anyhow::ensure!(body.len() <= MAX_BODY, "its answer is too long");
        }
        Ok(body)
    }
}

impl Keys {
    fn fitting(&self, kid: Option<&str>, algorithm: Algorithm) -> impl Iterator<Item = &Key> {
        self.keys.iter().filter(move |it| {
            let is_named = kid.is_none_or(|kid| it.kid.as_deref() == Some(kid));
            is_named && it.algorithms.contains(&algorithm)
        })
    }

    fn has(&self, kid: Option<&str>, algorithm: Algorithm) -> bool {
        self.fitting(kid, algorithm).next().is_some()
    }
}

/// A key that signatures can be checked with, and by which algorithms: those of its kind, never those that a token names.
fn key(value: Value) -> Option<Key> {
    let jwk: Jwk = serde_json::from_value(value).ok()?;
    if matches!(jwk.common.public_key_use, Some(PublicKeyUse::Encryption)) {
        return None;
    }
    use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
    let mut algorithms = match &jwk.algorithm {
        AlgorithmParameters::RSA(it) if MIN_RSA <= it.n.len() => {
            vec![RS256, RS384, RS512, PS256, PS384, PS512]
        }
        AlgorithmParameters::EllipticCurve(it) => match it.curve {
            EllipticCurve::P256 => vec![ES256],
            EllipticCurve::P384 => vec![ES384],
            _ => return None,
        },
        AlgorithmParameters::OctetKeyPair(it) if it.curve == EllipticCurve::Ed25519 => vec![EdDSA],
        _ => return None,
    };
    if let Some(only) = jwk.common.key_algorithm {
        let only = Algorithm::from_str(&only.to_string()).ok()?;
        algorithms.retain(|it| *it == only);
    }
    let decoding = DecodingKey::from_jwk(&jwk).ok()?;
    (!algorithms.is_empty()).then_some(Key { kid: jwk.common.key_id, algorithms, decoding })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_public_keys_for_signatures_are_taken() {
        let ec = json!({
            "kty": "EC", "crv": "P-256", "kid": "a",
            "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"
        });
        let with = |name: &str, value: &str| {
            let mut it = ec.clone();
            it[name] = value.into();
            it
        };
        assert_eq!(key(ec.clone()).unwrap().algorithms, [Algorithm::ES256]);
        assert_eq!(key(with("use", "sig")).unwrap().kid.as_deref(), Some("a"));
        assert!(key(with("use", "enc")).is_none());
        assert!(key(with("alg", "ES384")).is_none(), "not of its kind");
        assert!(key(with("alg", "HS256")).is_none());
        assert!(key(json!({"kty": "oct", "k": "c2VjcmV0"})).is_none(), "a shared secret");
        assert!(key(json!({"kty": "RSA", "n": "AQAB", "e": "AQAB"})).is_none(), "a short one");
        assert!(key(json!({"kty": "other"})).is_none());
    }
}
