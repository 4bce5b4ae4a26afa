//! Where a browser comes back to after a login at a server behind: the one page of ours that a person sees on the way. What
//! comes along is proof enough; whoever has it was sent by `login_server`.

use std::net::SocketAddr;
use std::sync::Weak;

use axum::Router;
use axum::extract::{Query, Request};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{HeaderValue, Method, StatusCode, header};
use orch_core::Orch;
pub use orch_core::ports::server_login::CALLBACK as PATH;
use orch_core::ports::server_login::LoginAnswer;
use orch_core::ports::tool_server::ToolServers;
use orch_domain::secret::Secret;
use orch_domain::{Error, ErrorCode};
use serde::Deserialize;

#[derive(Deserialize)]
struct Answer {
    state: Option<String>,
    code: Option<Secret<String>>,
    iss: Option<String>,
    error: Option<String>,
    error_description: Option<String>,
}

/// For a listener at `address` that has no other page, and no login to keep strangers out.
pub fn alone(address: SocketAddr, orch: Weak<Orch>) -> Router {
    let page = move |request: Request| async move {
        let host = request.headers().get(header::HOST).and_then(|it| it.to_str().ok());
        // A page of another name that leads here is none of ours.
        if host != Some(&address.to_string()) {
            return StatusCode::FORBIDDEN.into_response();
        }
        match orch.upgrade() {
            Some(orch) => handle(&*orch.tool_servers, request).await,
            None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        }
    };
    Router::new().route(PATH, get(page))
}

pub async fn handle(servers: &dyn ToolServers, request: Request) -> Response {
    // Whoever only looks whether the address is good must not use up the answer.
    if request.method() != Method::GET {
        return StatusCode::NO_CONTENT.into_response();
    }
    let finished = match (Query::<Answer>::try_from_uri(request.uri()), servers.logins()) {
        (Ok(Query(it)), Some(logins)) => {
            let Answer { state, code, iss, error, error_description } = it;
            logins.finish(LoginAnswer { state, code, iss, error, error_description }).await
        }
        _ => Err(Error::invalid("", "this address is for browsers that an issuer sends back")),
    };
    match finished {
        Ok(it) => {
            let text = format!(
                "The user {} of mcp-orch is now logged in at the server {} ({}). If that was not you who asked for it, call logout_server.",
                it.user, it.server, it.issuer
            );
            page(StatusCode::OK, "Logged in", &format!("{text} You may close this window."))
        }
        Err(err) => {
            let status = match err.code() {
                ErrorCode::InvalidParameter => StatusCode::BAD_REQUEST,
                ErrorCode::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
                ErrorCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
                _ => StatusCode::BAD_GATEWAY,
            };
            if status != StatusCode::BAD_REQUEST {
                tracing::info!("a login came to nothing: {err}");
            }
            page(status, "Not logged in", &err.to_string())
        }
    }
}

fn page(status: StatusCode, title: &str, text: &str) -> Response {
    let (title, text) = (escaped(title), escaped(text));
    let html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>{title}</title></head>\n\
         <body><h1>{title}</h1><p>{text}</p></body>\n</html>\n"
    );
    let mut response = (status, html).into_response();
    let headers = response.headers_mut();
    let fixed = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Much of it is another's text.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for it in text.chars() {
        match it {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            it => out.push(it),
        }
    }
    out
}
