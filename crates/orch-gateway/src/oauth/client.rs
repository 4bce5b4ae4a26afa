//! As whom the gateway asks an issuer: the configured client, a published document, or a registration of its own; and the
//! requests for tokens.

use std::borrow::Cow;

use oauth2::basic::{BasicClient, BasicTokenResponse};
use oauth2::{
    AuthType, AuthorizationCode, ClientId, ClientSecret, EndpointNotSet, EndpointSet,
    PkceCodeVerifier, RedirectUrl, RefreshToken, RequestTokenError, Scope, TokenResponse, TokenUrl,
};
use orch_domain::text::excerpt;
use orch_domain::time::Timestamp;
use reqwest::{Client, Url};
use serde::Deserialize;
use serde_json::json;

use super::Trouble;
use super::discover::{Found, Metadata};
use super::entry::OAuth;
use super::fetch::{Carrier, post_json};
use super::held::{Registered, Tokens};

/// Where the issuer's metadata says nothing.
const LIFETIME_MS: i64 = 3_600_000;

type Ready =
    BasicClient<EndpointNotSet, EndpointNotSet, EndpointNotSet, EndpointNotSet, EndpointSet>;

/// The client that is fixed beforehand. None: it has to be registered.
pub(super) fn fixed(entry: &OAuth, metadata: &Metadata) -> Option<Registered> {
    let of = |id: &str, secret: Option<String>| Registered {
        id: id.to_owned(),
        in_body: secret.is_some() && in_body(metadata),
        secret,
        redirect_uri: None,
    };
    if let Some(id) = &entry.client_id {
        return Some(of(id, entry.client_secret.as_ref().map(|it| it.expose().clone())));
    }
    let document = entry.client_metadata_url.as_ref();
    document.filter(|_| metadata.client_id_metadata_document_supported).map(|it| of(it, None))
}

fn in_body(metadata: &Metadata) -> bool {
    let methods = &metadata.token_endpoint_auth_methods_supported;
    let has = |it: &str| methods.iter().any(|method| method == it);
    has("client_secret_post") && !has("client_secret_basic")
}

#[derive(Deserialize)]
struct Registration {
    client_id: String,
    client_secret: Option<String>,
    token_endpoint_auth_method: Option<String>,
}

/// RFC 7591.
pub(super) async fn register(
    http: &Client,
    found: &Found,
    redirect_uri: Option<&str>,
) -> Result<Registered, Trouble> {
    let metadata = &found.metadata;
    let Some(endpoint) = &metadata.registration_endpoint else {
        return Err(Trouble::Wrong(format!(
            "the issuer `{}` takes only clients that it knows; register one there with the redirect URI `{}`, and put its \
             `client_id` into `oauth` of the server's configuration",
            excerpt(&metadata.issuer, 200),
            redirect_uri.unwrap_or("(none, for devices)")
        )));
    };
    let methods = &metadata.token_endpoint_auth_methods_supported;
    let method = match methods.iter().any(|it| it == "none") || methods.is_empty() {
        true => "none",
        false if in_body(metadata) => "client_secret_post",
        false => "client_secret_basic",
    };
    let mut grants = vec!["refresh_token"];
    if redirect_uri.is_some() {
        grants.insert(0, "authorization_code");
    }
    if metadata.device_authorization_endpoint.is_some() {
        grants.push("urn:ietf:params:oauth:grant-type:device_code");
    }
    let is_here = redirect_uri.is_none_or(|it| it.starts_with("http://"));
    let mut asked = json!({
        "client_name": "mcp-orch",
        "application_type": if is_here { "native" } else { "web" },
        "grant_types": grants,
        "token_endpoint_auth_method": method,
    });
    if let Some(uri) = redirect_uri {
        asked["redirect_uris"] = json!([uri]);
        asked["response_types"] = json!(["code"]);
    }
    if !found.scopes.is_empty() {
        asked["scope"] = found.scopes.join(" ").into();
    }
    let url = Url::parse(endpoint).map_err(|err| Trouble::Wrong(err.to_string()))?;
    let (status, answer) = post_json(http, &url, &asked).await?;
    match serde_json::from_value::<Registration>(answer.clone()) {
        Ok(it) if status.is_success() => Ok(Registered {
            id: it.client_id,
            in_body: it.token_endpoint_auth_method.as_deref().unwrap_or(method)
                == "client_secret_post",
            secret: it.client_secret.filter(|it| !it.is_empty()),
            redirect_uri: redirect_uri.map(str::to_owned),
        }),
        _ => Err(Trouble::Wrong(format!(
            "the issuer registers no client for us (HTTP {}): {}",
            status.as_u16(),
            excerpt(
                answer["error_description"]
                    .as_str()
                    .or(answer["error"].as_str())
                    .unwrap_or("it does not say why"),
                200
            )
        ))),
    }
}

pub(super) fn of(client: &Registered, token_endpoint: &str) -> Result<Ready, Trouble> {
    let url =
        TokenUrl::new(token_endpoint.to_owned()).map_err(|err| Trouble::Wrong(err.to_string()))?;
    let ready = BasicClient::new(ClientId::new(client.id.clone()))
        .set_auth_type(if client.in_body { AuthType::RequestBody } else { AuthType::BasicAuth })
        .set_token_uri(url);
    Ok(match &client.secret {
        Some(it) => ready.set_client_secret(ClientSecret::new(it.clone())),
        None => ready,
    })
}

/// With what tokens are asked for.
pub(super) enum Ask<'a> {
    Code { code: &'a str, verifier: PkceCodeVerifier, redirect_uri: &'a str },
    Refresh { token: &'a str },
    Own { scopes: &'a [String] },
}

pub(super) async fn tokens(
    http: &Client,
    client: &Registered,
    token_endpoint: &str,
    resource: &str,
    ask: Ask<'_>,
    now: Timestamp,
) -> Result<Tokens, Trouble> {
    let ready = of(client, token_endpoint)?;
    let send = Carrier(http.clone());
    let answer = match &ask {
        Ask::Code { code, verifier, redirect_uri } => {
            let redirect_uri = RedirectUrl::new((*redirect_uri).to_owned())
                .map_err(|err| Trouble::Wrong(err.to_string()))?;
            ready
                .exchange_code(AuthorizationCode::new((*code).to_owned()))
                .set_pkce_verifier(PkceCodeVerifier::new(verifier.secret().clone()))
                .set_redirect_uri(Cow::Owned(redirect_uri))
                .add_extra_param("resource", resource.to_owned())
                .request_async(&send)
                .await
        }
        Ask::Refresh { token } => {
            ready
                .exchange_refresh_token(&RefreshToken::new((*token).to_owned()))
                .add_extra_param("resource", resource.to_owned())
                .request_async(&send)
                .await
        }
        Ask::Own { scopes } => {
            ready
                .exchange_client_credentials()
                .add_scopes(scopes.iter().map(|it| Scope::new(it.clone())))
                .add_extra_param("resource", resource.to_owned())
                .request_async(&send)
                .await
        }
    };
    let before = match &ask {
        Ask::Refresh { token } => Some((*token).to_owned()),
        _ => None,
    };
    taken(&answer.map_err(refused)?, before, now)
}

/// `before`: the refresh token that stays good where the issuer gives no other.
pub(super) fn taken(
    answer: &BasicTokenResponse,
    before: Option<String>,
    now: Timestamp,
) -> Result<Tokens, Trouble> {
    if !answer.token_type().as_ref().eq_ignore_ascii_case("bearer") {
        return Err(Trouble::Wrong(
            "the issuer gives tokens of a kind that is not `Bearer`".to_owned(),
        ));
    }
    let lifetime =
        answer.expires_in().map(|it| i64::try_from(it.as_millis()).unwrap_or(i64::MAX / 4));
    Ok(Tokens {
        access: answer.access_token().secret().clone(),
        refresh: answer.refresh_token().map(|it| it.secret().clone()).or(before),
        expires_at: lifetime.map(|it| now.as_millis().saturating_add(it)),
        lifetime_ms: lifetime.unwrap_or(LIFETIME_MS),
        scopes: answer.scopes().into_iter().flatten().map(|it| it.to_string()).collect(),
    })
}

/// Never with the body, which may hold tokens.
pub(super) fn refused<T>(
    err: RequestTokenError<Trouble, oauth2::StandardErrorResponse<T>>,
) -> Trouble
where
    T: oauth2::ErrorResponseType + std::fmt::Display + 'static,
{
    match err {
        RequestTokenError::Request(it) => it,
        RequestTokenError::ServerResponse(it) => {
            let description = it.error_description().map(|it| format!(" ({})", excerpt(it, 200)));
            let code = excerpt(&it.error().to_string(), 60);
            Trouble::Refused { code, description: description.unwrap_or_default() }
        }
        RequestTokenError::Parse(..) | RequestTokenError::Other(_) => {
            Trouble::Wrong("the issuer's answer is none of the protocol".to_owned())
        }
    }
}
