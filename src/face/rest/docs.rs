//! Swagger UI at `/docs`, all of it from this binary.

use std::sync::{Arc, OnceLock};

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};
use utoipa_swagger_ui::Config;

use crate::face::rest::Rest;
use crate::face::rest::problem::Problem;

/// Only what this server serves; Swagger UI sets styles and shows its icons as `data:` images.
const POLICY: &str = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
    object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Its links are relative to `/docs`, so that it also works behind a proxy that adds a prefix.
const PAGE: &str = r#"<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>mcp-orch API</title>
<link rel="stylesheet" href="docs/swagger-ui.css">
<link rel="stylesheet" href="docs/index.css">
<link rel="icon" type="image/png" sizes="32x32" href="docs/favicon-32x32.png">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/swagger-ui-standalone-preset.js"></script>
<script src="docs/swagger-initializer.js"></script>
</body>
</html>
"#;

pub(super) fn index(_: Arc<Rest>, _: Request) -> Response {
    let headers: [(HeaderName, &str); 2] = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
    ];
    (headers, PAGE).into_response()
}

pub(super) fn asset(_: Arc<Rest>, request: Request) -> Response {
    let path = request.uri().path();
    let file = path.split_once("/docs/").map_or("", |(_, it)| it);
    let found = (file != "index.html").then(|| utoipa_swagger_ui::serve(file, config()).ok());
    match found.flatten().flatten() {
        Some(file) => {
            let content_type = match file.content_type.as_str() {
                it if it.starts_with("text/") && !it.contains("charset") => {
                    format!("{it}; charset=utf-8")
                }
                it => it.to_owned(),
            };
            let cache = HeaderValue::from_static("public, max-age=3600");
            let headers = [(header::CONTENT_TYPE, content_type)];
            let mut response = (headers, file.bytes.into_owned()).into_response();
            response.headers_mut().insert(header::CACHE_CONTROL, cache);
            response
        }
        None => Problem::no_such_path(path, vec!["`/docs`".to_owned()]).into_response(),
    }
}

/// For `/docs/`, whose links would point elsewhere, and `/redoc`, where some people look.
pub(super) fn redirect(_: Arc<Rest>, request: Request) -> Response {
    redirect_from(request.uri().path())
}

pub(super) fn redirect_from(path: &str) -> Response {
    let prefix = if path.starts_with("/api") { "/api" } else { "" };
    (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, format!("{prefix}/docs"))]).into_response()
}

fn config() -> Arc<Config<'static>> {
    static CONFIG: OnceLock<Arc<Config<'static>>> = OnceLock::new();
    CONFIG
        .get_or_init(|| {
            let config = Config::from("openapi.json")
                .validator_url("none")
                .try_it_out_enabled(true)
                .display_request_duration(true)
                .doc_expansion("list")
                .filter(true);
            Arc::new(config)
        })
        .clone()
}
