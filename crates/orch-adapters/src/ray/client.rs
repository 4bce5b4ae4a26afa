//! Questions to the dashboard: each with a time limit, a bounded answer, and the token on no other way.

use std::time::Duration;

use orch_core::ports::ray::RayError;
use orch_domain::secret::Secret;
use orch_domain::text::{beginning, excerpt};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{RequestBuilder, Response, redirect};
use serde_json::Value;

/// The longest answer that is read: ten thousand nodes.
const MAX_ANSWER: usize = 32 << 20;
/// What is kept of an answer of which only the end matters: some times the most that anybody gets to see.
const MAX_END: usize = 8 << 20;
/// What is read of a refusal, for its reason.
const MAX_REFUSAL: usize = 64 << 10;

pub struct RaySettings {
    /// Without a slash at its end.
    pub url: String,
    pub token: Option<Secret<String>>,
    /// For one question and its whole answer.
    pub timeout: Duration,
}

pub(super) struct Client {
    http: reqwest::Client,
    url: String,
    timeout: Duration,
}

impl Client {
    pub(super) fn new(settings: RaySettings) -> Result<Client, RayError> {
        // Another part of the process may have chosen it before; there is only this one.
        drop(rustls::crypto::ring::default_provider().install_default());
        let mut headers = HeaderMap::new();
        if let Some(token) = &settings.token {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose()))
                .map_err(|_| RayError::Unauthenticated)?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let http = reqwest::Client::builder()
            .default_headers(headers)
            .user_agent(concat!("mcp-orch/", env!("CARGO_PKG_VERSION")))
            .timeout(settings.timeout)
            // Whoever answers there does not get to send us, and the token, elsewhere; nor does the environment.
            .redirect(redirect::Policy::none())
            .no_proxy()
            .build()
            .map_err(|err| RayError::Unreachable { source: Box::new(err) })?;
        Ok(Client { http, url: settings.url, timeout: settings.timeout })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) async fn get(&self, path: &str) -> Result<Value, RayError> {
        self.ask(self.http.get(format!("{}{path}", self.url))).await
    }

    pub(super) async fn post(&self, path: &str, body: &Value) -> Result<Value, RayError> {
        self.ask(self.http.post(format!("{}{path}", self.url)).json(body)).await
    }

    /// The end of an answer however long it is, and whether something before it was dropped.
    pub(super) async fn get_end(&self, path: &str) -> Result<(Vec<u8>, bool), RayError> {
        let mut response = self.begin(self.http.get(format!("{}{path}", self.url))).await?;
        let (mut end, mut is_cut) = (Vec::new(), false);
        while let Some(chunk) = response.chunk().await.map_err(|err| self.failed(err))? {
            end.extend_from_slice(&chunk);
            // Not with every chunk, as what stays is moved.
            if 2 * MAX_END < end.len() {
                end.drain(..end.len() - MAX_END);
                is_cut = true;
            }
        }
        Ok((end, is_cut))
    }

    async fn ask(&self, request: RequestBuilder) -> Result<Value, RayError> {
        let mut response = self.begin(request).await?;
        let body = self.read(&mut response, MAX_ANSWER).await?;
        serde_json::from_slice(&body).map_err(|err| RayError::Garbage { what: err.to_string() })
    }

    /// Up to the answer's body, which is there only if Ray did what was asked.
    async fn begin(&self, request: RequestBuilder) -> Result<Response, RayError> {
        let mut response = request.send().await.map_err(|err| self.failed(err))?;
        let status = response.status().as_u16();
        match status {
            200..=299 => Ok(response),
            401 | 403 => Err(RayError::Unauthenticated),
            300..=399 => {
                let what = format!("it sends us elsewhere (status {status})");
                Err(RayError::Garbage { what })
            }
            _ => {
                // That a reason cannot be read is no reason to hide the refusal.
                let body = self.read(&mut response, MAX_REFUSAL).await.unwrap_or_default();
                Err(RayError::Refused { status, said: reason(&body) })
            }
        }
    }

    async fn read(&self, response: &mut Response, limit: usize) -> Result<Vec<u8>, RayError> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|err| self.failed(err))? {
            if limit < body.len() + chunk.len() {
                return Err(RayError::TooLong { limit });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn failed(&self, err: reqwest::Error) -> RayError {
        if err.is_timeout() {
            return RayError::Timeout { after: self.timeout };
        }
        // What speaks something else than HTTP is there, and not Ray.
        if err.is_request() && !err.is_connect() && is_nonsense(&err) {
            return RayError::Garbage { what: "it does not speak HTTP".to_owned() };
        }
        // The URL is told elsewhere, and may be nobody's business here.
        RayError::Unreachable { source: Box::new(err.without_url()) }
    }
}

fn is_nonsense(err: &reqwest::Error) -> bool {
    let mut source = std::error::Error::source(err);
    while let Some(it) = source {
        if it.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse) {
            return true;
        }
        source = it.source();
    }
    false
}

/// Ray refuses with a traceback, whose last line says why.
fn reason(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let line = text.lines().rev().map(str::trim).find(|it| !it.is_empty());
    excerpt(beginning(line.unwrap_or("no reason given"), 4000), 300)
}
