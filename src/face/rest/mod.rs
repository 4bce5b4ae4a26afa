//! REST: every operation at its route, and the few HTTP-only pages.
//!
//! Everything is served at `/` and again under `/api`, where reverse proxies look for it.

mod arguments;
mod batch_events;
mod call;
mod docs;
mod events;
pub mod login_page;
mod logs;
pub mod openapi;
mod pages;
mod paths;
pub mod problem;
mod terminal;

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::FutureExt;
use http::{HeaderValue, Method, header};
use metrics_exporter_prometheus::PrometheusHandle;
use orch_core::operation::Method as RouteMethod;
use orch_core::{Cx, Op, Orch, ops};
use orch_domain::caller::{Caller, Channel};

use crate::auth::{self, Access};
use crate::face::rest::call::Endpoint;
use crate::face::rest::paths::Paths;
use crate::face::rest::problem::Problem;

/// What the handlers stand on.
pub(crate) struct Rest {
    orch: Arc<Orch>,
    metrics: Option<PrometheusHandle>,
    /// Whether others than this machine reach the server, and the figures are for those who may read.
    is_public: bool,
    /// The OpenAPI document, rendered once.
    document: Bytes,
    terminals: Arc<tokio::sync::Semaphore>,
    access: Arc<Access>,
    event_seats: Arc<events::Seats>,
}

/// All of REST. Its fallback answers unknown paths, so that it is the last to be merged with other routers or the only
/// one with a fallback.
pub fn router(orch: Arc<Orch>, access: Arc<Access>, metrics: Option<PrometheusHandle>) -> Router {
    let catalogue: Vec<Arc<Op>> = ops::catalogue().into_iter().map(Arc::new).collect();
    let document = openapi::document(&catalogue);
    let rest = Arc::new(Rest {
        orch,
        metrics,
        is_public: !access.sites.is_loopback(),
        document: Bytes::from(document.to_string()),
        terminals: Arc::new(tokio::sync::Semaphore::new(terminal::MAX_OPEN)),
        access: access.clone(),
        event_seats: Arc::default(),
    });

    let mut paths = Paths::default();
    for op in &catalogue {
        for route in op.spec.routes {
            let endpoint = Arc::new(Endpoint {
                rest: rest.clone(),
                op: op.clone(),
                route,
                collection: call::collection_of(op, route, &catalogue),
            });
            paths.add(method_of(route.method), route.path, move |request| {
                call::handle(endpoint.clone(), request).boxed()
            });
        }
    }
    let page = |page: fn(Arc<Rest>, Request) -> Response| {
        let rest = rest.clone();
        move |request| {
            let response = page(rest.clone(), request);
            async move { response }.boxed()
        }
    };
    paths.add(Method::GET, "/", page(pages::index));
    paths.add(Method::GET, "/health", page(pages::health));
    paths.add(Method::GET, "/readyz", page(pages::ready));
    paths.add(Method::GET, "/metrics", page(pages::metrics));
    paths.add(Method::GET, "/openapi.json", page(pages::document));
    paths.add(Method::GET, "/docs", page(docs::index));
    paths.add(Method::GET, "/docs/", page(docs::redirect));
    paths.add(Method::GET, "/docs/{*file}", page(docs::asset));
    paths.add(Method::GET, "/redoc", page(docs::redirect));
    let logins = rest.clone();
    paths.add(Method::GET, login_page::PATH, move |request| {
        let rest = logins.clone();
        async move { login_page::handle(&*rest.orch.tool_servers, request).await }.boxed()
    });
    let batches = rest.clone();
    paths.add(Method::GET, batch_events::PATH, move |request| {
        batch_events::handle(batches.clone(), request).boxed()
    });
    let terminal = rest.clone();
    paths.add(Method::GET, terminal::PATH, move |request| {
        terminal::handle(terminal.clone(), request).boxed()
    });

    paths
        .into_router()
        .layer(middleware::from_fn_with_state((access, Channel::Rest), auth::layer))
        .layer(tower_http::catch_panic::CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn(safe_headers))
}

fn method_of(method: RouteMethod) -> Method {
    match method {
        RouteMethod::Get => Method::GET,
        RouteMethod::Post => Method::POST,
        RouteMethod::Put => Method::PUT,
        RouteMethod::Delete => Method::DELETE,
    }
}

/// The context of a call, from what `auth::layer` found out.
fn cx_of(extensions: &http::Extensions) -> Cx {
    Cx::new(extensions.get::<Option<Caller>>().cloned().flatten())
}

fn panicked(panic: Box<dyn std::any::Any + Send>) -> Response {
    let words = panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|it| (*it).to_owned()))
        .unwrap_or_default();
    tracing::error!("a handler panicked: {words}");
    Problem::from(orch_domain::Error::internal(words)).into_response()
}

/// Answers are data: no browser may guess another type, show them in a frame, or keep them.
async fn safe_headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers
        .entry(header::CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}
