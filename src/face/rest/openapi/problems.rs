//! Errors in the OpenAPI document: one response for each status, listing the codes it may carry.

use http::StatusCode;
use orch_core::Op;
use orch_core::operation::{Effect, Method, Route};
use orch_domain::ErrorCode;
use serde_json::{Map, Value, json};

use crate::face::rest::problem;

pub(super) fn schemas() -> Map<String, Value> {
    let codes: Vec<&str> =
        ErrorCode::ALL.iter().map(|it| it.as_str()).chain(problem::HTTP_CODES).collect();
    let problem = json!({
        "type": "object",
        "description": "An error (RFC 9457) with the fields of its own code beside the common ones.",
        "required": ["type", "title", "status", "error", "message"],
        "properties": {
            "type": {"type": "string", "description": "`urn:mcp-orch:error:` and the code"},
            "title": {"type": "string"},
            "status": {"type": "integer", "minimum": 400, "maximum": 599},
            "error": {"type": "string", "enum": codes, "description": "Stable code, the same on every face"},
            "message": {"type": "string", "description": "What was asked, what is possible, what to do next"},
            "parameter": {"type": "string", "description": "`InvalidParameter`: which one"},
            "host_key": {"type": "object", "description": "`InvalidParameter` of `ssh.accept_host_key` and `ssh.accept_jump_host_key`: the `place` that is not known yet, the `fingerprint` it shows and its `algorithm`"},
            "kind": {"type": "string", "description": "`NotFound`: of what kind"},
            "id": {"type": "string", "description": "`NotFound`, `IncorrectState`: of what"},
            "state": {"type": "string", "description": "`IncorrectState`: the present one"},
            "max_cpu_available": {"type": "number", "description": "`InsufficientCapacity`: most free vCPU on a node"},
            "max_memory_available": {"type": "number", "description": "`InsufficientCapacity`: most free GiB on a node"},
            "feasible_sizes": {"type": "array", "items": {"type": "object"}, "description": "`InsufficientCapacity`: sizes that fit now"},
            "retry_after_ms": {"type": "integer", "description": "`TooManyRequests`: when to send it again"},
        },
        "additionalProperties": true,
    });
    Map::from_iter([("Problem".to_owned(), problem)])
}

pub(super) fn responses() -> Map<String, Value> {
    let mut responses = Map::new();
    for status in all_statuses() {
        let codes: Vec<ErrorCode> =
            ErrorCode::ALL.into_iter().filter(|it| problem::status_of(*it) == status).collect();
        let described: Vec<String> = codes
            .iter()
            .map(|it| format!("`{}`: {}", it.as_str(), problem::title_of(*it)))
            .collect();
        let description = match status {
            StatusCode::PAYLOAD_TOO_LARGE => "`PayloadTooLarge`: The body is too large".to_owned(),
            StatusCode::UNSUPPORTED_MEDIA_TYPE => {
                "`UnsupportedMediaType`: The body is not JSON".to_owned()
            }
            _ => described.join("; "),
        };
        let mut response = json!({
            "description": description,
            "content": {
                problem::CONTENT_TYPE: {"schema": super::reference("schemas", "Problem")},
            },
        });
        if status == StatusCode::TOO_MANY_REQUESTS {
            response["headers"]["Retry-After"] =
                json!({"description": "Seconds", "schema": {"type": "integer"}});
        }
        if status == StatusCode::UNAUTHORIZED {
            response["headers"]["WWW-Authenticate"] = json!({"schema": {"type": "string"}});
        }
        responses.insert(response_name(status), response);
    }
    responses
}

/// The statuses that an operation may answer with on a route, besides success.
pub(super) fn statuses(op: &Op, route: &Route) -> Vec<StatusCode> {
    all_statuses()
        .filter(|status| match *status {
            StatusCode::UNAUTHORIZED => op.spec.needs.is_some() || op.spec.name == "login",
            StatusCode::FORBIDDEN => op.spec.needs.is_some(),
            StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNSUPPORTED_MEDIA_TYPE => {
                matches!(route.method, Method::Post | Method::Put)
            }
            StatusCode::CONFLICT => op.spec.effect != Effect::Reads,
            _ => true,
        })
        .collect()
}

pub(super) fn response_name(status: StatusCode) -> String {
    let words = status.canonical_reason().unwrap_or("Problem");
    words.split(' ').collect()
}

fn all_statuses() -> impl Iterator<Item = StatusCode> {
    let of_codes = ErrorCode::ALL.into_iter().map(problem::status_of);
    let mut all: Vec<StatusCode> = of_codes
        .chain([StatusCode::PAYLOAD_TOO_LARGE, StatusCode::UNSUPPORTED_MEDIA_TYPE])
        .collect();
    all.sort();
    all.dedup();
    all.into_iter()
}
