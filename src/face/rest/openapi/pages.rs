//! What is not an operation: health, metrics, this document, the terminal, and the stream of a batch.

use serde_json::{Value, json};

use crate::face::rest::{batch_events, login_page, terminal};

pub(super) fn all() -> Vec<(&'static str, &'static str, Value)> {
    vec![
        ("/", "get", page("server_info", "What this server is and where its pages are", JSON)),
        ("/health", "get", page("health", "Whether the process lives", JSON)),
        ("/readyz", "get", ready()),
        (
            "/metrics",
            "get",
            page(
                "metrics",
                "Metrics for Prometheus; beyond loopback for whoever may read",
                "text/plain",
            ),
        ),
        ("/openapi.json", "get", page("openapi", "This document", JSON)),
        (
            login_page::PATH,
            "get",
            page("login_callback", "Where browsers come back to after `login_server`", "text/html"),
        ),
        (terminal::PATH, "get", terminal_page()),
        (batch_events::PATH, "get", batch_events_page()),
    ]
}

const JSON: &str = "application/json";

fn page(id: &str, summary: &str, content_type: &str) -> Value {
    let schema = json!({"type": if content_type == JSON { "object" } else { "string" }});
    json!({
        "operationId": id,
        "summary": summary,
        "tags": ["server"],
        "security": [],
        "responses": {"200": {"description": "OK", "content": {content_type: {"schema": schema}}}},
    })
}

fn ready() -> Value {
    let mut page = page("readyz", "Whether it has found its state again and works", JSON);
    page["responses"]["503"] = json!({
        "description": "Starting or stopping",
        "content": {JSON: {"schema": {"type": "object"}}},
    });
    page
}

fn batch_events_page() -> Value {
    let refusal = |name: &str| super::reference("responses", name);
    let place = |name: &str, place: &str| {
        json!({
            "name": name, "in": place,
            "description": "The `id` of the last event that was read; the stream goes on after it, from 0 with all that is kept. \
                The header is for clients that connect again, the parameter for those that cannot send it.",
            "schema": {"type": "integer", "minimum": 0},
        })
    };
    json!({
        "operationId": "follow_batch",
        "summary": "Every change of state of a batch and its steps, as it happens",
        "description": "Server-sent events. `state` (first, unless `Last-Event-ID` is a place that is kept) shows the batch with up \
            to 1000 of its steps, and `more` says that the next event has further ones; then each change is a `step` or a \
            `batch`, whose `id` is its number. The last one is `end`, with the `state` that the batch ended in. A stream \
            that ends without it is to be begun again; `error` says why it was refused.",
        "tags": ["batches"],
        "security": super::security(true),
        "x-permission": "read",
        "parameters": [
            {
                "name": "task_id", "in": "path", "required": true,
                "schema": {"type": "string", "pattern": "^b-[0-9a-f]{17}$"},
            },
            place("Last-Event-ID", "header"),
            place("last_event_id", "query"),
        ],
        "responses": {
            "200": {
                "description": "The stream",
                "content": {"text/event-stream": {"schema": {"type": "string"}}},
            },
            "400": refusal("BadRequest"),
            "401": refusal("Unauthorized"),
            "403": refusal("Forbidden"),
            "404": refusal("NotFound"),
            "429": refusal("TooManyRequests"),
        },
    })
}

fn terminal_page() -> Value {
    let number = |name: &str, default: u16| {
        json!({
            "name": name, "in": "query",
            "schema": {"type": "integer", "minimum": 1, "maximum": 1000, "default": default},
        })
    };
    let refusal = |name: &str| super::reference("responses", name);
    json!({
        "operationId": "open_terminal",
        "summary": "A terminal in an instance, over a WebSocket",
        "description": "Binary frames are bytes in both directions; a text frame from the client is \
            `{\"resize\": {\"columns\": 80, \"rows\": 24}}`. Browsers, which cannot send `Authorization` here, offer \
            the subprotocols `mcp-orch` and `bearer.TOKEN`. It closes with 1000 when the command ends, 1001 when the \
            server stops, 1008 for frames it does not take, 1011 when the engine breaks off, and 4008 after 30 idle \
            minutes.",
        "tags": ["instances"],
        "security": super::security(true),
        "x-permission": "execute",
        "parameters": [
            {
                "name": "id", "in": "path", "required": true,
                "schema": {"type": "string", "pattern": "^i-[0-9a-f]{17}$"},
            },
            number("columns", 80),
            number("rows", 24),
            {
                "name": "command", "in": "query",
                "description": "Program and arguments, one word each; a single one is split at spaces. `/bin/sh` unless given.",
                "schema": {"type": "array", "items": {"type": "string"}, "maxItems": 64},
            },
        ],
        "responses": {
            "101": {"description": "The terminal is open"},
            "400": refusal("BadRequest"),
            "401": refusal("Unauthorized"),
            "403": refusal("Forbidden"),
            "404": refusal("NotFound"),
            "409": refusal("Conflict"),
            "426": {
                "description": "The client did not ask for a WebSocket",
                "content": {"application/problem+json": {"schema": super::reference("schemas", "Problem")}},
            },
            "429": refusal("TooManyRequests"),
            "502": refusal("BadGateway"),
        },
    })
}
