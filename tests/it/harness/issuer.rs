//! An authorization server on loopback that lets everybody in at once: metadata under a path, registration, codes with PKCE,
//! refresh tokens that are good once, revocation, codes for devices, and clients' own tokens.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::{HeaderMap, StatusCode, header};
use parking_lot::Mutex;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;

/// A client that was registered by hand.
pub(crate) const KNOWN_CLIENT: (&str, &str) = ("known-client", "known-client-s3cret");

#[derive(Clone, Default)]
pub(crate) struct Issuer(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// `http://127.0.0.1:PORT/tenant`
    url: Mutex<String>,
    /// Members to put into the metadata, or to take out of it where they are null.
    metadata: Mutex<HashMap<String, Value>>,
    /// Who answers are said to be from; else the truth.
    iss: Mutex<Option<String>>,
    /// Seconds that access tokens are good for.
    lifetime: AtomicU64,
    is_out_of_order: AtomicBool,
    clients: Mutex<HashMap<String, Vec<String>>>,
    codes: Mutex<HashMap<String, Code>>,
    refreshes: Mutex<HashMap<String, Grant>>,
    accesses: Mutex<HashMap<String, Access>>,
    devices: Mutex<HashMap<String, (String, Option<String>)>>,
    revoked: Mutex<Vec<String>>,
    /// Every secret that was ever given out.
    secrets: Mutex<Vec<String>>,
    n_registered: AtomicUsize,
    n_refreshed: AtomicUsize,
    n_token_requests: AtomicUsize,
    n_made: AtomicU64,
}

struct Code {
    account: String,
    client: String,
    redirect_uri: String,
    challenge: String,
    resource: String,
    scope: String,
}

#[derive(Clone)]
struct Grant {
    account: String,
    client: String,
    resource: String,
    scope: String,
}

#[derive(Clone)]
pub(crate) struct Access {
    pub(crate) account: String,
    pub(crate) resource: String,
    until: Instant,
}

impl Issuer {
    pub(crate) async fn start() -> Issuer {
        let issuer = Issuer::default();
        issuer.lasting(3600);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        *issuer.0.url.lock() = format!("http://{}/tenant", listener.local_addr().unwrap());
        let router = Router::new()
            .route("/.well-known/oauth-authorization-server/tenant", get(metadata))
            .route("/tenant/register", post(register))
            .route("/tenant/authorize", get(authorize))
            .route("/tenant/token", post(token))
            .route("/tenant/revoke", post(revoke))
            .route("/tenant/device", post(device))
            .with_state(issuer.clone());
        #[expect(clippy::disallowed_methods, reason = "it goes with the runtime of the test")]
        tokio::spawn(async move { axum::serve(listener, router).await });
        issuer
    }

    pub(crate) fn url(&self) -> String {
        self.0.url.lock().clone()
    }

    /// Access tokens that are given out from now on are good for so many seconds.
    pub(crate) fn lasting(&self, seconds: u64) {
        self.0.lifetime.store(seconds, Ordering::Relaxed);
    }

    /// Answers every request for tokens with 503.
    pub(crate) fn out_of_order(&self, is: bool) {
        self.0.is_out_of_order.store(is, Ordering::Relaxed);
    }

    pub(crate) fn saying(&self, member: &str, value: Value) {
        self.0.metadata.lock().insert(member.to_owned(), value);
    }

    pub(crate) fn calling_itself(&self, iss: &str) {
        *self.0.iss.lock() = Some(iss.to_owned());
    }

    /// Nothing that `account` has is good any more.
    pub(crate) fn end_all_of(&self, account: &str) {
        self.0.refreshes.lock().retain(|_, it| it.account != account);
        self.0.accesses.lock().retain(|_, it| it.account != account);
    }

    /// Access tokens are not good any more, before their time.
    pub(crate) fn end_accesses(&self) {
        self.0.accesses.lock().clear();
    }

    pub(crate) fn access(&self, token: &str) -> Option<Access> {
        self.0.accesses.lock().get(token).filter(|it| Instant::now() < it.until).cloned()
    }

    pub(crate) fn approve(&self, user_code: &str, account: &str) {
        let mut devices = self.0.devices.lock();
        let (_, approved) = devices.values_mut().find(|(code, _)| code == user_code).unwrap();
        *approved = Some(account.to_owned());
    }

    pub(crate) fn secrets(&self) -> Vec<String> {
        self.0.secrets.lock().clone()
    }

    pub(crate) fn n_registered(&self) -> usize {
        self.0.n_registered.load(Ordering::Relaxed)
    }

    pub(crate) fn n_refreshed(&self) -> usize {
        self.0.n_refreshed.load(Ordering::Relaxed)
    }

    pub(crate) fn n_token_requests(&self) -> usize {
        self.0.n_token_requests.load(Ordering::Relaxed)
    }

    pub(crate) fn n_revoked(&self) -> usize {
        self.0.revoked.lock().len()
    }

    fn secret(&self, kind: &str) -> String {
        let n = self.0.n_made.fetch_add(1, Ordering::Relaxed);
        let made = format!("{kind}-canary-{n}-{}", std::process::id());
        self.0.secrets.lock().push(made.clone());
        made
    }

    fn tokens(&self, grant: Grant, with_refresh: bool) -> Response {
        let seconds = self.0.lifetime.load(Ordering::Relaxed);
        let access = self.secret("access");
        let until = Instant::now() + Duration::from_secs(seconds);
        let (account, resource) = (grant.account.clone(), grant.resource.clone());
        self.0.accesses.lock().insert(access.clone(), Access { account, resource, until });
        let mut answer = json!({
            "access_token": access, "token_type": "Bearer", "expires_in": seconds, "scope": grant.scope,
        });
        if with_refresh {
            let refresh = self.secret("refresh");
            self.0.refreshes.lock().insert(refresh.clone(), grant);
            answer["refresh_token"] = refresh.into();
        }
        axum::Json(answer).into_response()
    }
}

async fn metadata(State(issuer): State<Issuer>) -> Response {
    let url = issuer.url();
    let mut said = json!({
        "issuer": url,
        "authorization_endpoint": format!("{url}/authorize"),
        "token_endpoint": format!("{url}/token"),
        "registration_endpoint": format!("{url}/register"),
        "revocation_endpoint": format!("{url}/revoke"),
        "device_authorization_endpoint": format!("{url}/device"),
        "scopes_supported": ["notes", "offline_access"],
        "response_types_supported": ["code"],
        "code_challenge_methods_supported": ["S256"],
        "token_endpoint_auth_methods_supported": ["none", "client_secret_basic"],
        "authorization_response_iss_parameter_supported": true,
    });
    for (member, value) in issuer.0.metadata.lock().iter() {
        match value {
            Value::Null => drop(said.as_object_mut().unwrap().remove(member)),
            it => said[member] = it.clone(),
        }
    }
    axum::Json(said).into_response()
}

async fn register(State(issuer): State<Issuer>, axum::Json(asked): axum::Json<Value>) -> Response {
    issuer.0.n_registered.fetch_add(1, Ordering::Relaxed);
    let id = format!("client-{}", issuer.n_registered());
    let uris = asked["redirect_uris"].as_array().into_iter().flatten();
    let uris = uris.map(|it| it.as_str().unwrap().to_owned()).collect();
    issuer.0.clients.lock().insert(id.clone(), uris);
    (
        StatusCode::CREATED,
        axum::Json(json!({"client_id": id, "token_endpoint_auth_method": "none"})),
    )
        .into_response()
}

type Pairs = HashMap<String, String>;

fn form(body: &str) -> Pairs {
    let Query(pairs) = Query::try_from_uri(&format!("/?{body}").parse().unwrap()).unwrap();
    pairs
}

/// Lets in whom `login` names; who denies is sent back with that.
async fn authorize(State(issuer): State<Issuer>, Query(asked): Query<Pairs>) -> Response {
    let (client, redirect_uri) = (&asked["client_id"], &asked["redirect_uri"]);
    let registered = issuer.0.clients.lock().get(client).cloned().unwrap_or_default();
    if !registered.contains(redirect_uri) && client != KNOWN_CLIENT.0 {
        return (StatusCode::BAD_REQUEST, "unknown client or redirect URI").into_response();
    }
    assert_eq!((&*asked["response_type"], &*asked["code_challenge_method"]), ("code", "S256"));
    let iss = issuer.0.iss.lock().clone().unwrap_or_else(|| issuer.url());
    let account = asked["login"].clone();
    let said = if account == "nobody" {
        format!("error=access_denied&error_description={}", "%3Cb%3Eno%3C/b%3E")
    } else {
        let code = issuer.secret("code");
        let kept = Code {
            account,
            client: client.clone(),
            redirect_uri: redirect_uri.clone(),
            challenge: asked["code_challenge"].clone(),
            resource: asked["resource"].clone(),
            scope: asked.get("scope").cloned().unwrap_or_default(),
        };
        issuer.0.codes.lock().insert(code.clone(), kept);
        format!("code={code}")
    };
    let back = format!("{redirect_uri}?{said}&state={}&iss={iss}", asked["state"]);
    (StatusCode::FOUND, [(header::LOCATION, back)]).into_response()
}

fn no(code: &str) -> Response {
    let said = json!({"error": code, "error_description": "says the issuer of the test"});
    (StatusCode::BAD_REQUEST, axum::Json(said)).into_response()
}

async fn token(State(issuer): State<Issuer>, headers: HeaderMap, body: String) -> Response {
    let asked = form(&body);
    issuer.0.n_token_requests.fetch_add(1, Ordering::Relaxed);
    if issuer.0.is_out_of_order.load(Ordering::Relaxed) {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let basic = headers.get(header::AUTHORIZATION).map(|it| {
        let it = it.to_str().unwrap().strip_prefix("Basic ").unwrap();
        String::from_utf8(STANDARD.decode(it).unwrap()).unwrap()
    });
    let known = basic.as_ref().map(|it| it.split_once(':').unwrap());
    if known.is_some_and(|it| it != KNOWN_CLIENT) {
        return no("invalid_client");
    }
    let client = known.map_or_else(|| asked["client_id"].clone(), |(id, _)| id.to_owned());
    let resource = asked.get("resource").cloned().unwrap_or_default();
    match asked["grant_type"].as_str() {
        "authorization_code" => {
            let Some(code) = issuer.0.codes.lock().remove(&asked["code"]) else {
                return no("invalid_grant");
            };
            let digest = URL_SAFE_NO_PAD.encode(Sha256::digest(&asked["code_verifier"]));
            let is_good = digest == code.challenge
                && code.redirect_uri == asked["redirect_uri"]
                && code.client == client
                && code.resource == resource;
            if !is_good {
                return no("invalid_grant");
            }
            issuer
                .tokens(Grant { account: code.account, client, resource, scope: code.scope }, true)
        }
        "refresh_token" => {
            // Good once: used again, it is stolen.
            let Some(grant) = issuer.0.refreshes.lock().remove(&asked["refresh_token"]) else {
                return no("invalid_grant");
            };
            if grant.client != client || grant.resource != resource {
                return no("invalid_grant");
            }
            issuer.0.n_refreshed.fetch_add(1, Ordering::Relaxed);
            issuer.tokens(grant, true)
        }
        "urn:ietf:params:oauth:grant-type:device_code" => {
            let found = issuer.0.devices.lock().get(&asked["device_code"]).cloned();
            match found {
                Some((_, Some(account))) => {
                    let scope = "notes".to_owned();
                    issuer.tokens(Grant { account, client, resource, scope }, true)
                }
                Some(_) => no("authorization_pending"),
                None => no("invalid_grant"),
            }
        }
        "client_credentials" if basic.is_some() => {
            let scope = asked.get("scope").cloned().unwrap_or_default();
            issuer
                .tokens(Grant { account: "the gateway".to_owned(), client, resource, scope }, false)
        }
        _ => no("unsupported_grant_type"),
    }
}

async fn revoke(State(issuer): State<Issuer>, body: String) -> Response {
    let asked = form(&body);
    let token = asked["token"].clone();
    if let Some(grant) = issuer.0.refreshes.lock().remove(&token) {
        issuer.0.accesses.lock().retain(|_, it| it.account != grant.account);
    }
    issuer.0.revoked.lock().push(token);
    StatusCode::OK.into_response()
}

async fn device(State(issuer): State<Issuer>) -> Response {
    let (code, user_code) =
        (issuer.secret("device"), format!("WDJB-{}", issuer.0.n_made.load(Ordering::Relaxed)));
    issuer.0.devices.lock().insert(code.clone(), (user_code.clone(), None));
    let url = issuer.url();
    axum::Json(json!({
        "device_code": code, "user_code": user_code, "verification_uri": format!("{url}/activate"),
        "expires_in": 60, "interval": 1,
    }))
    .into_response()
}
