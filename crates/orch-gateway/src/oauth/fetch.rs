//! Requests to issuers: bounded in time and size, never sent on to another origin, and only to addresses that a server
//! may lead to.

use std::net::IpAddr;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use http::StatusCode;
use http::header::{ACCEPT, CONTENT_TYPE};
use oauth2::{AsyncHttpClient, HttpRequest, HttpResponse};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, Url};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Trouble;
use crate::upstream::site::unreachable;

const LIMIT: Duration = Duration::from_secs(10);
/// Of an answer of an issuer; those seen have some 10 kB.
const MAX_ANSWER: usize = 1024 * 1024;

pub(super) fn client() -> reqwest::Result<Client> {
    // A secret that is posted is for the one address it was meant for.
    Client::builder()
        .redirect(Policy::none())
        .timeout(LIMIT)
        .user_agent(concat!("mcp-orch/", env!("CARGO_PKG_VERSION")))
        .build()
}

/// None: it is not there.
pub(super) async fn get<T: DeserializeOwned>(
    client: &Client,
    url: &Url,
) -> Result<Option<T>, Trouble> {
    let request = client.get(url.clone()).header(ACCEPT, "application/json");
    let sent = tokio::time::timeout(LIMIT, request.send()).await;
    let response = sent.map_err(|_| late(url))?.map_err(|err| lost(url, err))?;
    let status = response.status();
    if status.is_client_error() {
        return Ok(None);
    }
    if !status.is_success() {
        return Err(answered(url, status));
    }
    let body = tokio::time::timeout(LIMIT, body(url, response)).await.map_err(|_| late(url))??;
    // Some answer every path with a page.
    Ok(serde_json::from_slice(&body).ok())
}

pub(super) async fn post_json(
    client: &Client,
    url: &Url,
    body_: &Value,
) -> Result<(StatusCode, Value), Trouble> {
    let request = client.post(url.clone()).header(ACCEPT, "application/json");
    let request = request.header(CONTENT_TYPE, "application/json").body(body_.to_string());
    let response = request.send().await.map_err(|err| lost(url, err))?;
    let status = response.status();
    if status.is_server_error() {
        return Err(answered(url, status));
    }
    let body = body(url, response).await?;
    Ok((status, serde_json::from_slice(&body).unwrap_or_default()))
}

/// Sends what the library asks for.
pub(super) struct Carrier(pub(super) Client);

impl<'c> AsyncHttpClient<'c> for Carrier {
    type Error = Trouble;
    type Future = BoxFuture<'static, Result<HttpResponse, Trouble>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        let client = self.0.clone();
        async move { carry(&client, request).await }.boxed()
    }
}

/// That an issuer is out of order is no answer of the protocol.
async fn carry(client: &Client, request: HttpRequest) -> Result<HttpResponse, Trouble> {
    let url =
        Url::parse(&request.uri().to_string()).map_err(|err| Trouble::Wrong(err.to_string()))?;
    let (parts, sent) = request.into_parts();
    let request = client.request(parts.method, url.clone()).headers(parts.headers).body(sent);
    let response = request.send().await.map_err(|err| lost(&url, err))?;
    let status = response.status();
    if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
        return Err(answered(&url, status));
    }
    let mut answer = HttpResponse::new(Vec::new());
    *answer.status_mut() = status;
    if let Some(it) = response.headers().get(CONTENT_TYPE) {
        answer.headers_mut().insert(CONTENT_TYPE, it.clone());
    }
    *answer.body_mut() = body(&url, response).await?;
    Ok(answer)
}

async fn body(url: &Url, response: Response) -> Result<Vec<u8>, Trouble> {
    let mut body = Vec::new();
    let mut chunks = response.bytes_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|err| lost(url, err))?;
        if MAX_ANSWER < body.len() + chunk.len() {
            return Err(Trouble::Wrong(format!("`{}` answered with more than 1 MiB", shown(url))));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn late(url: &Url) -> Trouble {
    Trouble::Passing(format!("`{}` did not answer within {LIMIT:?}", shown(url)))
}

fn lost(url: &Url, err: reqwest::Error) -> Trouble {
    Trouble::Passing(format!("`{}`: {}", shown(url), unreachable(err)))
}

fn answered(url: &Url, status: StatusCode) -> Trouble {
    Trouble::Passing(format!("`{}` answered {}", shown(url), status.as_u16()))
}

/// Without the query, which may hold anything.
pub(super) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    orch_domain::text::excerpt(url.as_str(), 200)
}

/// How far an address reaches. What is named is taken for public: it may be looked up to anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Scope {
    Machine,
    Site,
    Public,
}

fn scope_of(url: &Url) -> Scope {
    let host = url.host_str().unwrap_or_default();
    if host == "localhost" || host.ends_with(".localhost") {
        return Scope::Machine;
    }
    let Ok(ip) = host.trim_matches(['[', ']']).parse::<IpAddr>() else { return Scope::Public };
    let ip = ip.to_canonical();
    let is_site = match ip {
        IpAddr::V4(it) => {
            it.is_private() || it.is_link_local() || it.is_unspecified() || is_shared(it.octets())
        }
        IpAddr::V6(it) => it.is_unique_local() || it.is_unicast_link_local() || it.is_unspecified(),
    };
    if ip.is_loopback() {
        Scope::Machine
    } else if is_site {
        Scope::Site
    } else {
        Scope::Public
    }
}

/// Of carriers and overlay networks.
fn is_shared([a, b, _, _]: [u8; 4]) -> bool {
    a == 100 && (64..128).contains(&b)
}

/// An address that the server at `server` named: encrypted unless both are near, and never nearer to us than the server
/// itself, so that nobody out there makes us ask around in here.
pub(super) fn allowed(text: &str, server: &Url) -> Result<Url, Trouble> {
    let said = orch_domain::text::excerpt(text.split('?').next().unwrap_or_default(), 200);
    let wrong = |why: &str| Trouble::Wrong(format!("it names the address `{said}`, which {why}"));
    let url = Url::parse(text).map_err(|_| wrong("is none"))?;
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return Err(wrong("has a login or a fragment in it"));
    }
    let scope = scope_of(&url);
    if scope < scope_of(server) {
        return Err(wrong("is nearer to this machine than the server itself"));
    }
    match url.scheme() {
        "https" => Ok(url),
        "http"
            if server.scheme() == "http"
                && (scope != Scope::Public || url.origin() == server.origin()) =>
        {
            Ok(url)
        }
        _ => Err(wrong("is not `https`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_leads_us_to_what_is_nearer_or_open() {
        let is_allowed =
            |server: &str, url: &str| allowed(url, &Url::parse(server).unwrap()).is_ok();
        let public = "https://mcp.example/mcp";
        assert!(is_allowed(public, "https://login.example/token"));
        for bad in [
            "http://login.example/token",
            "https://127.0.0.1/token",
            "https://[::1]/token",
            "https://[::ffff:127.0.0.1]/token",
            "https://localhost/token",
            "https://169.254.169.254/latest",
            "https://10.0.0.1/",
            "https://100.100.1.1/",
            "https://me:secret@login.example/",
            "file:///etc/passwd",
            "nonsense",
        ] {
            assert!(!is_allowed(public, bad), "{bad}");
        }
        assert!(is_allowed("http://127.0.0.1:1/mcp", "http://127.0.0.1:2/token"));
        assert!(is_allowed("http://10.0.0.1/mcp", "http://10.0.0.2/token"));
        assert!(!is_allowed("http://10.0.0.1/mcp", "http://127.0.0.1/token"));
        assert!(!is_allowed("https://10.0.0.1/mcp", "http://10.0.0.2/token"));
        assert!(!is_allowed("http://127.0.0.1/mcp", "http://login.example/token"));
        let server = Url::parse("https://a.example").unwrap();
        let err = allowed("http://b.example/x?key=s3cret", &server).unwrap_err().to_string();
        assert!(err.contains("`http://b.example/x`") && !err.contains("s3cret"), "{err}");
    }
}
