//! What a client without a good token is told: where the endpoint is described, and which scopes to ask for.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{HeaderMap, HeaderValue, Uri, header};

use super::{Refusal, ResourceServer, WELL_KNOWN};
use crate::auth::{Access, credential};
use crate::face::rest::problem::Problem;

/// The status of whoever `auth::layer` does not know.
const UNAUTHORIZED: u16 = 401;

/// `router`, which serves `/mcp`, as a protected resource. Without an issuer in the configuration it stays as it is.
pub fn protect(router: Router, access: &Arc<Access>) -> Router {
    if access.oauth.is_none() {
        return router;
    }
    let described = Router::new()
        .route(WELL_KNOWN, get(describe))
        .route(&format!("{WELL_KNOWN}/mcp"), get(describe))
        // A profile is a part of the resource, and tokens are for the whole of it.
        .route(&format!("{WELL_KNOWN}/mcp/{{profile}}"), get(describe))
        .with_state(access.clone());
    router.layer(from_fn_with_state(access.clone(), guard)).merge(described)
}

/// For everybody: who has no token has to read it first.
async fn describe(State(access): State<Arc<Access>>, uri: Uri, headers: HeaderMap) -> Response {
    if let Err(refusal) = access.sites.check(&uri, &headers) {
        return Problem::from(refusal).into_response();
    }
    match &access.oauth {
        Some(it) => axum::Json(it.metadata(&headers)).into_response(),
        None => Problem::no_such_path(uri.path(), Vec::new()).into_response(),
    }
}

/// Goes outside of `auth::layer`, which is the one to let in: fetches the keys that it will need, and says to those whom
/// it refuses what the protocol wants them told.
async fn guard(State(access): State<Arc<Access>>, request: Request, next: Next) -> Response {
    let Some(oauth) = &access.oauth else { return next.run(request).await };
    if access.sites.check(request.uri(), request.headers()).is_err() {
        return next.run(request).await;
    }
    let sent = credential(request.headers());
    let is_refused = !matches!(sent, Ok(None));
    if let Ok(Some(token)) = sent
        && oauth.judges(token)
    {
        oauth.prepare(token, &access.orch).await;
        if let Err(Refusal::Scope) = oauth.claims(token, request.headers()) {
            return insufficient(oauth, request.headers());
        }
    }
    let headers = request.headers().clone();
    let mut response = next.run(request).await;
    if response.status() == UNAUTHORIZED {
        let error = is_refused.then_some("invalid_token");
        challenge(&mut response, oauth, &headers, error);
    }
    response
}

/// The token is good, and says that its bearer may not.
fn insufficient(oauth: &ResourceServer, headers: &HeaderMap) -> Response {
    let mut response = Problem::insufficient_scope(&oauth.asked_scopes()).into_response();
    challenge(&mut response, oauth, headers, Some("insufficient_scope"));
    response
}

fn challenge(
    response: &mut Response,
    oauth: &ResourceServer,
    headers: &HeaderMap,
    error: Option<&str>,
) {
    let mut text = String::from("Bearer realm=\"mcp-orch\"");
    if let Some(it) = error {
        text.push_str(&format!(", error=\"{it}\""));
    }
    text.push_str(&format!(", resource_metadata=\"{}\"", oauth.metadata_url(headers)));
    let scopes = oauth.asked_scopes();
    if !scopes.is_empty() {
        text.push_str(&format!(", scope=\"{scopes}\""));
    }
    // A scope of the configuration may have characters that no header has.
    if let Ok(value) = HeaderValue::from_str(&text) {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, value);
    }
}
