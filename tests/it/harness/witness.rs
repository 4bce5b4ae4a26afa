//! A server behind that remembers all it was sent: messages and headers. It has tools, a resource and a prompt.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;

pub(crate) const TOOLS: [&str; 3] = ["read_file", "write_file", "delete_file"];

#[derive(Clone, Default)]
pub(crate) struct Witness(Arc<Mutex<Vec<(HeaderMap, Value)>>>);

impl Witness {
    /// Serves until the test ends; answers its URL.
    pub(crate) async fn start(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/mcp", listener.local_addr().unwrap());
        let no_stream = || async { StatusCode::METHOD_NOT_ALLOWED };
        let router = Router::new()
            .route("/mcp", post(serve).get(no_stream).delete(no_stream))
            .with_state(self.clone());
        #[expect(clippy::disallowed_methods, reason = "it goes with the runtime of the test")]
        tokio::spawn(async move { axum::serve(listener, router).await });
        url
    }

    /// Messages of a method, in their order.
    pub(crate) fn heard(&self, method: &str) -> Vec<Value> {
        let of_method = |(_, it): &(_, Value)| (it["method"] == method).then(|| it.clone());
        self.0.lock().iter().filter_map(of_method).collect()
    }

    /// Everything it was sent, headers and all, as text to search.
    pub(crate) fn all(&self) -> String {
        format!("{:?}", self.0.lock())
    }
}

async fn serve(State(witness): State<Witness>, headers: HeaderMap, body: Bytes) -> Response {
    let message: Value = serde_json::from_slice(&body).unwrap();
    witness.0.lock().push((headers, message.clone()));
    let id = &message["id"];
    if id.is_null() {
        return StatusCode::ACCEPTED.into_response();
    }
    let result = match message["method"].as_str().unwrap() {
        "initialize" => json!({
            "protocolVersion": "2025-11-25",
            "capabilities": {"tools": {}, "resources": {}, "prompts": {}},
            "serverInfo": {"name": "witness", "version": "1"},
        }),
        "tools/list" => {
            let tool = |name| json!({"name": name, "inputSchema": {"type": "object"}});
            json!({"tools": TOOLS.map(tool)})
        }
        "resources/list" => json!({"resources": [{"uri": "witness://about", "name": "about"}]}),
        "resources/templates/list" => json!({"resourceTemplates": []}),
        "resources/read" => {
            json!({"contents": [{"uri": message["params"]["uri"], "text": "witnessed"}]})
        }
        "prompts/list" => json!({"prompts": [{"name": "summary"}]}),
        "prompts/get" => json!({"messages": []}),
        "tools/call" => json!({"content": [{"type": "text", "text": "done"}], "isError": false}),
        _ => {
            let error = json!({"code": -32601, "message": "unknown"});
            return axum::Json(json!({"jsonrpc": "2.0", "id": id, "error": error})).into_response();
        }
    };
    axum::Json(json!({"jsonrpc": "2.0", "id": id, "result": result})).into_response()
}
