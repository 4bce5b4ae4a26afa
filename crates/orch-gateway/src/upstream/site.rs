//! What all requests to one server over HTTP have in common: its configured headers, the token of whoever the
//! connection is for, and how failures are told.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use http::header::{
    AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, WWW_AUTHENTICATE,
};
use http::{Method, StatusCode};
use orch_domain::secret::Secret;
use reqwest::{Client, RequestBuilder, Response};

use super::LinkError;
use crate::frame::FrameError;

/// Where a connection gets the token from that it sends with each request. One source is for one server and for one
/// holder, for good: what belongs to another user cannot come out of it.
#[async_trait]
pub trait TokenSource: Send + Sync {
    /// The token to send now, made new ahead of its end. None: there is none, and the request goes without.
    async fn bearer(&self) -> Result<Option<Secret<String>>, LinkError>;

    /// Another token after `refused` was answered with 401 and this `WWW-Authenticate`; the error says what to do.
    async fn renew(
        &self,
        refused: Option<&Secret<String>>,
        challenge: Option<&str>,
    ) -> Result<Secret<String>, LinkError>;

    /// The renewed token was refused as well. It is not sent again; the answer says what to do.
    async fn give_up(&self, refused: &Secret<String>, challenge: Option<&str>) -> LinkError;

    /// The token is good, and does not allow what was asked.
    async fn short_of(&self, challenge: &str) -> LinkError;
}

pub(super) struct Site {
    client: Client,
    headers: HeaderMap,
    token: Option<Arc<dyn TokenSource>>,
}

impl Site {
    pub(super) fn new(
        client: Client,
        headers: &BTreeMap<String, Secret<String>>,
        token: Option<Arc<dyn TokenSource>>,
    ) -> Result<Site, LinkError> {
        Ok(Site { client, headers: configured(headers)?, token })
    }

    pub(super) fn request(&self, method: Method, url: &str) -> RequestBuilder {
        self.client.request(method, url).headers(self.headers.clone())
    }

    /// Sends it with the token, where there is one. A token that is refused is renewed and the request sent once more:
    /// it was not looked at.
    pub(super) async fn send(&self, request: RequestBuilder) -> Result<Response, LinkError> {
        let Some(source) = &self.token else {
            return request.send().await.map_err(unreachable);
        };
        let again = request.try_clone();
        let token = source.bearer().await?;
        let response = with(request, token.as_ref()).send().await.map_err(unreachable)?;
        let said = challenge(&response);
        match response.status() {
            StatusCode::UNAUTHORIZED => {}
            StatusCode::FORBIDDEN => {
                let short = said.filter(|it| it.contains("insufficient_scope"));
                return match short {
                    Some(it) => Err(source.short_of(&it).await),
                    None => Ok(response),
                };
            }
            _ => return Ok(response),
        }
        drop(response);
        let token = source.renew(token.as_ref(), said.as_deref()).await?;
        let again = again.expect("all bodies are in memory");
        let response = with(again, Some(&token)).send().await.map_err(unreachable)?;
        if response.status() == StatusCode::UNAUTHORIZED {
            return Err(source.give_up(&token, challenge(&response).as_deref()).await);
        }
        Ok(response)
    }
}

/// The headers of a server's entry, which may hold secrets.
pub(super) fn configured(
    headers: &BTreeMap<String, Secret<String>>,
) -> Result<HeaderMap, LinkError> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let bad = || LinkError::Unreachable {
            message: format!("its configured header `{name}` is no HTTP header"),
        };
        let key = HeaderName::try_from(name.as_str()).map_err(|_| bad())?;
        let mut value = HeaderValue::try_from(value.expose().as_str()).map_err(|_| bad())?;
        value.set_sensitive(true);
        map.insert(key, value);
    }
    Ok(map)
}

fn with(request: RequestBuilder, token: Option<&Secret<String>>) -> RequestBuilder {
    let Some(token) = token else { return request };
    match HeaderValue::try_from(format!("Bearer {}", token.expose())) {
        Ok(mut value) => {
            value.set_sensitive(true);
            request.header(AUTHORIZATION, value)
        }
        // What is no header was never a token.
        Err(_) => request,
    }
}

pub(super) fn challenge(response: &Response) -> Option<String> {
    let mut all =
        response.headers().get_all(WWW_AUTHENTICATE).iter().filter_map(|it| it.to_str().ok());
    let first = all.next()?.to_owned();
    Some(all.fold(first, |said, it| format!("{said}, {it}")))
}

pub(crate) fn unreachable(err: reqwest::Error) -> LinkError {
    // The whole chain, without the URL: it may hold a secret.
    let err = err.without_url();
    let mut message = err.to_string();
    let mut source = std::error::Error::source(&err);
    while let Some(err) = source {
        message = format!("{message}: {err}");
        source = err.source();
    }
    LinkError::Unreachable { message }
}

pub(super) fn malformed(method: &str, err: &FrameError) -> LinkError {
    LinkError::Malformed { method: method.to_owned(), message: err.to_string() }
}

pub(crate) fn media_type(response: &Response) -> &str {
    let value = response.headers().get(CONTENT_TYPE).and_then(|it| it.to_str().ok()).unwrap_or("");
    value.split(';').next().unwrap_or("").trim()
}
