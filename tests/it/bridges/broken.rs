//! A stream that breaks off in the middle is taken up where it broke, and a server's own requests are answered through it.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use http::{HeaderMap, Method, StatusCode};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Notify;

use super::Client;
use crate::harness::program::Home;
use crate::harness::within;

#[derive(Default)]
struct Endpoint {
    /// `Last-Event-ID` of those who came back.
    resumed: Mutex<Vec<String>>,
    /// What the client said to the endpoint's own request.
    answer: Mutex<Option<Value>>,
    answered: Notify,
    ended: Mutex<Vec<String>>,
}

async fn start(endpoint: Arc<Endpoint>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/mcp", listener.local_addr().unwrap());
    let router = Router::new().route("/mcp", any(serve)).with_state(endpoint);
    #[expect(clippy::disallowed_methods, reason = "it goes with the runtime of the test")]
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

fn events(text: String) -> Response {
    ([("content-type", "text/event-stream")], Body::from(text)).into_response()
}

async fn serve(
    State(endpoint): State<Arc<Endpoint>>,
    method: Method,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let text = |name: &str| headers.get(name).map(|it| it.to_str().unwrap().to_owned());
    if method == Method::DELETE {
        endpoint.ended.lock().extend(text("mcp-session-id"));
        return StatusCode::OK.into_response();
    }
    if method == Method::GET {
        let Some(last) = text("last-event-id") else {
            return StatusCode::METHOD_NOT_ALLOWED.into_response();
        };
        assert_eq!(text("mcp-session-id").as_deref(), Some("s-1"));
        assert_eq!(text("mcp-protocol-version").as_deref(), Some("2025-11-25"));
        endpoint.resumed.lock().push(last.clone());
        if last == "e-1" {
            // Asks, and breaks off once more.
            let ask = json!({"jsonrpc": "2.0", "id": "q-1", "method": "roots/list"});
            return events(format!("id: e-2\ndata: {ask}\n\n"));
        }
        endpoint.answered.notified().await;
        let said = endpoint.answer.lock().clone();
        let answer = json!({"jsonrpc": "2.0", "id": 7, "result": {"said": said}});
        return events(format!("id: e-3\ndata: {answer}\n\n"));
    }
    let message: Value = serde_json::from_slice(&body).unwrap();
    match message["method"].as_str() {
        Some("initialize") => {
            let result = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {"name": "x", "version": "1"}});
            let answer = json!({"jsonrpc": "2.0", "id": message["id"], "result": result});
            ([("mcp-session-id", "s-1")], axum::Json(answer)).into_response()
        }
        Some("tools/call") => events("id: e-1\nretry: 10\ndata:\n\n".to_owned()),
        Some(_) => StatusCode::ACCEPTED.into_response(),
        None => {
            *endpoint.answer.lock() = Some(message["result"].clone());
            endpoint.answered.notify_one();
            StatusCode::ACCEPTED.into_response()
        }
    }
}

#[tokio::test]
async fn a_broken_stream_is_taken_up_and_the_servers_question_answered() {
    let (home, endpoint) = (Home::new(), Arc::new(Endpoint::default()));
    let url = start(endpoint.clone()).await;
    let mut client = Client::start(home.command(&["stdio", "--connect", &url])).initialized().await;
    client.begin(7, "tools/call", json!({"name": "x"})).await;
    let question = client.next().await;
    assert_eq!((&question["id"], &question["method"]), (&json!("q-1"), &json!("roots/list")));
    let roots = json!({"jsonrpc": "2.0", "id": "q-1", "result": {"roots": [{"uri": "file:///a"}]}});
    client.say(&roots.to_string()).await;
    let answer = client.next().await;
    assert_eq!(answer["id"], 7);
    assert_eq!(answer["result"]["said"]["roots"][0]["uri"], "file:///a", "{answer}");
    assert_eq!(*endpoint.resumed.lock(), ["e-1", "e-2"]);
    assert!(within("its end", client.close()).await.success());
    assert_eq!(*endpoint.ended.lock(), ["s-1"], "the session is ended with the client");
}
