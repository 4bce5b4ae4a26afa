//! An authorization server as far as we need one: metadata, keys that change, and tokens with whatever a test wants in
//! them.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use parking_lot::Mutex;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair};
use serde_json::{Value, json};
use tokio::net::TcpListener;

#[derive(Clone)]
pub(crate) struct Key {
    pub(crate) kid: String,
    algorithm: Algorithm,
    private: EncodingKey,
}

impl Key {
    /// Freshly made.
    pub(crate) fn new(kid: &str, algorithm: Algorithm) -> Key {
        let random = SystemRandom::new();
        let private = match algorithm {
            Algorithm::ES256 => {
                let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random);
                EncodingKey::from_ec_der(pkcs8.unwrap().as_ref())
            }
            Algorithm::EdDSA => {
                // The version of the format without the public half, which the library reads.
                let seed: [u8; 32] = ring::rand::generate(&random).unwrap().expose();
                assert!(Ed25519KeyPair::from_seed_unchecked(&seed).is_ok());
                let head = hex::decode("302e020100300506032b657004220420").unwrap();
                EncodingKey::from_ed_der(&[head, seed.to_vec()].concat())
            }
            Algorithm::RS256 => {
                let dir = tempfile::tempdir().unwrap();
                let path = dir.path().join("key");
                let made = Command::new("ssh-keygen")
                    .args(["-q", "-t", "rsa", "-b", "2048", "-m", "PEM", "-N", "", "-f"])
                    .arg(&path)
                    .status();
                assert!(made.unwrap().success());
                let pem = fs_err::read_to_string(&path).unwrap();
                let body: String = pem.lines().filter(|it| !it.starts_with("-----")).collect();
                EncodingKey::from_rsa_der(&STANDARD.decode(body).unwrap())
            }
            other => panic!("no test has keys for {other:?}"),
        };
        Key { kid: kid.to_owned(), algorithm, private }
    }

    pub(crate) fn public(&self) -> Value {
        let mut jwk = Jwk::from_encoding_key(&self.private, self.algorithm).unwrap();
        jwk.common.key_id = Some(self.kid.clone());
        serde_json::to_value(jwk).unwrap()
    }

    /// A token with these claims, whatever they are.
    pub(crate) fn sign(&self, claims: &Value) -> String {
        let header = Header { kid: Some(self.kid.clone()), ..Header::new(self.algorithm) };
        jsonwebtoken::encode(&header, claims, &self.private).unwrap()
    }
}

#[derive(Clone)]
pub(crate) struct Authority(Arc<Inner>);

struct Inner {
    url: String,
    /// What it says its name is.
    name: Mutex<String>,
    keys: Mutex<Vec<Key>>,
    is_down: AtomicBool,
    n_fetched: AtomicUsize,
}

impl Authority {
    /// Serves until the test ends.
    pub(crate) async fn start(keys: Vec<Key>) -> Authority {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/realm", listener.local_addr().unwrap());
        let authority = Authority(Arc::new(Inner {
            name: Mutex::new(url.clone()),
            url,
            keys: Mutex::new(keys),
            is_down: AtomicBool::default(),
            n_fetched: AtomicUsize::default(),
        }));
        let router = Router::new()
            .route("/.well-known/oauth-authorization-server/realm", get(metadata))
            .route("/keys", get(keys_of))
            .with_state(authority.clone());
        #[expect(clippy::disallowed_methods, reason = "it goes with the runtime of the test")]
        tokio::spawn(async move { axum::serve(listener, router).await });
        authority
    }

    pub(crate) fn url(&self) -> &str {
        &self.0.url
    }

    pub(crate) fn set_keys(&self, keys: Vec<Key>) {
        *self.0.keys.lock() = keys;
    }

    /// Every question is answered with a failure.
    pub(crate) fn set_down(&self, is_down: bool) {
        self.0.is_down.store(is_down, Ordering::Relaxed);
    }

    /// Calls itself by another name than its own.
    pub(crate) fn lie(&self, name: &str) {
        *self.0.name.lock() = name.to_owned();
    }

    /// How often its keys were asked for.
    pub(crate) fn n_fetched(&self) -> usize {
        self.0.n_fetched.load(Ordering::Relaxed)
    }

    /// Claims of a good token for `audience`, with `more` in place of some.
    pub(crate) fn claims(&self, audience: &str, more: Value) -> Value {
        let now = jsonwebtoken::get_current_timestamp();
        let mut claims = json!({
            "iss": self.url(), "sub": "00u-ann", "aud": audience, "iat": now, "exp": now + 300,
            "scope": "openid mcp-orch:read mcp-orch:execute",
        });
        for (name, value) in more.as_object().unwrap() {
            if value.is_null() {
                claims.as_object_mut().unwrap().remove(name);
            } else {
                claims[name] = value.clone();
            }
        }
        claims
    }
}

async fn metadata(State(authority): State<Authority>) -> Response {
    if authority.0.is_down.load(Ordering::Relaxed) {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let keys = authority.0.url.replace("/realm", "/keys");
    let name = authority.0.name.lock().clone();
    axum::Json(json!({"issuer": name, "jwks_uri": keys})).into_response()
}

async fn keys_of(State(authority): State<Authority>) -> Response {
    authority.0.n_fetched.fetch_add(1, Ordering::Relaxed);
    if authority.0.is_down.load(Ordering::Relaxed) {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let mut keys: Vec<Value> = authority.0.keys.lock().iter().map(Key::public).collect();
    // What is not understood is beside what is.
    keys.insert(0, json!({"kty": "future", "kid": "f"}));
    axum::Json(json!({ "keys": keys })).into_response()
}
