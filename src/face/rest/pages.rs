//! What a server tells about itself: to load balancers, to Prometheus, and to whoever opens `/`.

use std::sync::Arc;

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, header};
use serde_json::json;

use orch_core::gate;
use orch_domain::caller::Permission;

use crate::face::rest::problem::Problem;
use crate::face::rest::{Rest, cx_of, docs};

pub(super) fn index(_: Arc<Rest>, request: Request) -> Response {
    if is_browser(request.headers()) {
        return docs::redirect_from(request.uri().path());
    }
    axum::Json(json!({
        "name": "mcp-orch",
        "description": env!("CARGO_PKG_DESCRIPTION"),
        "version": env!("CARGO_PKG_VERSION"),
        "mcp": "/mcp",
        "openapi": "/openapi.json",
        "docs": "/docs",
        "health": "/health",
        "ready": "/readyz",
        "metrics": "/metrics",
    }))
    .into_response()
}

/// The process lives. Whether it can serve, `ready` says.
pub(super) fn health(_: Arc<Rest>, _: Request) -> Response {
    axum::Json(json!({"status": "ok", "version": env!("CARGO_PKG_VERSION")})).into_response()
}

/// Background tasks begin after the half-done work of the last run was found, so one that has run proves that.
pub(super) fn ready(rest: Arc<Rest>, _: Request) -> Response {
    let tasks = rest.orch.tasks.all();
    let (status, word) = if rest.orch.shutdown.is_cancelled() {
        (StatusCode::SERVICE_UNAVAILABLE, "stopping")
    } else if tasks.is_empty() {
        (StatusCode::SERVICE_UNAVAILABLE, "starting")
    } else {
        (StatusCode::OK, "ready")
    };
    let tasks: Vec<_> = tasks.iter().map(|it| it.name).collect();
    (status, axum::Json(json!({"status": word, "tasks": tasks}))).into_response()
}

/// In Prometheus' text format. Names of operations and error codes only; nothing of what users have. Beyond loopback it
/// takes a login or an API key that may read.
pub(super) fn metrics(rest: Arc<Rest>, request: Request) -> Response {
    if rest.is_public
        && let Err(err) = gate::permit("metrics", Permission::Read, &cx_of(request.extensions()))
    {
        return Problem::from(err).into_response();
    }
    let text = rest.metrics.as_ref().map(|it| it.render()).unwrap_or_default();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

pub(super) fn document(rest: Arc<Rest>, _: Request) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], rest.document.clone()).into_response()
}

fn is_browser(headers: &HeaderMap) -> bool {
    headers
        .get(header::ACCEPT)
        .and_then(|it| it.to_str().ok())
        .is_some_and(|it| it.contains("text/html"))
}
