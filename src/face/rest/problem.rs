//! Errors as `application/problem+json` (RFC 9457), and the one place that knows HTTP status codes of errors.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use orch_domain::{Error, ErrorCode};
use serde_json::{Map, Value};

use crate::auth::Refusal;

pub const CONTENT_TYPE: &str = "application/problem+json";

/// Codes that only HTTP has, beside those of `ErrorCode`.
pub const HTTP_CODES: [&str; 5] = [
    "MethodNotAllowed",
    "PayloadTooLarge",
    "RequestTimeout",
    "UnsupportedMediaType",
    "UpgradeRequired",
];

/// What went wrong, ready to send.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    /// `error`, `message` and the fields of the error's own.
    body: Map<String, Value>,
    headers: HeaderMap,
}

/// `InsufficientCapacity` is 409 and not 503: the server is well, and the request collides with what is taken. A quota
/// refuses with 403, as Kubernetes and OpenStack do; 429 is only for those who should send the same again later.
pub fn status_of(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::InvalidParameter => StatusCode::BAD_REQUEST,
        ErrorCode::Unauthenticated => StatusCode::UNAUTHORIZED,
        ErrorCode::Forbidden | ErrorCode::QuotaExceeded => StatusCode::FORBIDDEN,
        ErrorCode::NotFound => StatusCode::NOT_FOUND,
        ErrorCode::Conflict
        | ErrorCode::IncorrectState
        | ErrorCode::IdempotentParameterMismatch
        | ErrorCode::InsufficientCapacity => StatusCode::CONFLICT,
        ErrorCode::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
        ErrorCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        // The machine behind us failed, not the server itself.
        ErrorCode::NodeUnreachable | ErrorCode::EngineError | ErrorCode::UpstreamError => {
            StatusCode::BAD_GATEWAY
        }
        ErrorCode::UpstreamTimeout | ErrorCode::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        ErrorCode::Cancelled | ErrorCode::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
    }
}

pub fn title_of(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::InvalidParameter => "A parameter is wrong",
        ErrorCode::NotFound => "Not found",
        ErrorCode::Conflict => "It collides with what is there",
        ErrorCode::IncorrectState => "Not possible in the present state",
        ErrorCode::IdempotentParameterMismatch => "The client token was used with other arguments",
        ErrorCode::InsufficientCapacity => "No node has room",
        ErrorCode::QuotaExceeded => "The quota is used up",
        ErrorCode::Unauthenticated => "Not logged in",
        ErrorCode::Forbidden => "Not permitted",
        ErrorCode::NodeUnreachable => "The node does not answer",
        ErrorCode::EngineError => "The container engine failed",
        ErrorCode::UpstreamError => "The upstream server failed",
        ErrorCode::UpstreamTimeout => "The upstream server did not answer in time",
        ErrorCode::Cancelled => "Cancelled",
        ErrorCode::DeadlineExceeded => "It took too long",
        ErrorCode::TooManyRequests => "Too many requests",
        ErrorCode::Unavailable => "Not available now",
        ErrorCode::Internal => "Internal error",
    }
}

impl Problem {
    fn new(status: StatusCode, error: &str, title: &str, fields: Map<String, Value>) -> Problem {
        let mut body = Map::new();
        body.insert("type".to_owned(), format!("urn:mcp-orch:error:{error}").into());
        body.insert("title".to_owned(), title.into());
        body.insert("status".to_owned(), status.as_u16().into());
        body.insert("error".to_owned(), error.into());
        body.extend(fields);
        Problem { status, body, headers: HeaderMap::new() }
    }

    fn of_http(
        status: StatusCode,
        error: &str,
        title: &str,
        message: impl Into<String>,
    ) -> Problem {
        let message = message.into();
        Problem::new(status, error, title, Map::from_iter([("message".to_owned(), message.into())]))
    }

    fn field(mut self, name: &str, value: impl Into<Value>) -> Problem {
        self.body.insert(name.to_owned(), value.into());
        self
    }

    /// A token of another issuer is good, and not for this. Bare HTTP is what its client understands of that.
    pub fn insufficient_scope(scopes: &str) -> Problem {
        Problem::of_http(
            StatusCode::FORBIDDEN,
            ErrorCode::Forbidden.as_str(),
            "The access token is not enough",
            format!("the access token lacks a scope; ask its issuer for one with `{scopes}`"),
        )
        .field("scope", scopes)
    }

    pub fn no_such_path(path: &str, near: Vec<String>) -> Problem {
        let shown = orch_domain::text::excerpt(path, 200);
        let hint = match &near[..] {
            [] => "`/openapi.json` lists every path, `/docs` explains them".to_owned(),
            near => format!("near it are {}; `/openapi.json` lists every path", near.join(", ")),
        };
        Problem::of_http(
            StatusCode::NOT_FOUND,
            "NotFound",
            "Not found",
            format!("there is no path `{shown}`; {hint}"),
        )
        .field("kind", "path")
        .field("id", shown)
        .field("near", near)
    }

    pub fn wrong_method(method: &Method, path: &str, allowed: &str) -> Problem {
        let shown = orch_domain::text::excerpt(path, 200);
        let mut problem = Problem::of_http(
            StatusCode::METHOD_NOT_ALLOWED,
            "MethodNotAllowed",
            "The path does not have this method",
            format!("`{shown}` does not take {method}, but {allowed}"),
        )
        .field("allowed", allowed.split(", ").map(Value::from).collect::<Vec<_>>());
        if let Ok(allowed) = HeaderValue::from_str(allowed) {
            problem.headers.insert(header::ALLOW, allowed);
        }
        problem
    }

    pub fn too_large(limit: usize) -> Problem {
        Problem::of_http(
            StatusCode::PAYLOAD_TOO_LARGE,
            "PayloadTooLarge",
            "The body is too large",
            format!("the body is larger than the limit of {limit} bytes"),
        )
        .field("limit_bytes", limit)
    }

    pub fn too_slow(limit: Duration) -> Problem {
        Problem::of_http(
            StatusCode::REQUEST_TIMEOUT,
            "RequestTimeout",
            "The body came too slowly",
            format!("the body was not complete after {} s", limit.as_secs()),
        )
    }

    pub fn not_a_websocket() -> Problem {
        let mut problem = Problem::of_http(
            StatusCode::UPGRADE_REQUIRED,
            "UpgradeRequired",
            "This is a WebSocket",
            "a terminal is a WebSocket: connect with a WebSocket client (`Upgrade: websocket`), or run one command with \
             `exec_in_instance`",
        );
        problem.headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        problem.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        problem
    }

    pub fn not_json(sent: &str) -> Problem {
        let shown = orch_domain::text::excerpt(sent, 100);
        Problem::of_http(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "UnsupportedMediaType",
            "The body is not JSON",
            format!(
                "the body was sent as `{shown}`; send JSON with the header `Content-Type: application/json`"
            ),
        )
    }

    /// The object that is sent, also inside of an event stream.
    pub fn body(&self) -> &Map<String, Value> {
        &self.body
    }
}

impl From<Error> for Problem {
    fn from(err: Error) -> Problem {
        let code = err.code();
        let mut problem =
            Problem::new(status_of(code), code.as_str(), title_of(code), err.describe());
        match err {
            Error::Unauthenticated { .. } => {
                problem.headers.insert(
                    header::WWW_AUTHENTICATE,
                    HeaderValue::from_static("Bearer realm=\"mcp-orch\""),
                );
            }
            Error::TooManyRequests { retry_after_ms, .. } => {
                let seconds = Duration::from_millis(retry_after_ms).as_secs_f64().ceil() as u64;
                problem.headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
            }
            _ => {}
        }
        problem
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Problem {
        let (header, sent) = match &refusal {
            Refusal::Host { sent } => ("Host", sent.clone()),
            Refusal::Origin { sent } => ("Origin", sent.clone()),
        };
        Problem::of_http(
            StatusCode::FORBIDDEN,
            ErrorCode::Forbidden.as_str(),
            "Not from there",
            refusal.to_string(),
        )
        .field("header", header)
        .field("sent", sent)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = Bytes::from(Value::Object(self.body).to_string());
        let mut response = (self.status, self.headers, body).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
        response
    }
}
