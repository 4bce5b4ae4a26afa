//! A server behind the gateway with the tools and prompts that the test gives it, whose answers say what it was asked; and
//! a bare client at any endpoint of ours.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use bytes::Bytes;
use http::{Method, StatusCode};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::http;
use super::server::{Server, Setup};

#[derive(Clone, Default)]
pub(crate) struct Listed(Arc<Mutex<Lists>>);

#[derive(Default)]
struct Lists {
    tools: Vec<Value>,
    prompts: Vec<Value>,
    n_calls: usize,
}

impl Listed {
    /// Tools by name and description.
    pub(crate) fn of(tools: &[(&str, &str)]) -> Listed {
        let listed = Listed::default();
        let schema = json!({"type": "object", "properties": {"path": {"type": "string"}}});
        let tool = |(name, description): &(&str, &str)| json!({"name": name, "description": description, "inputSchema": schema});
        listed.0.lock().tools = tools.iter().map(tool).collect();
        listed
    }

    pub(crate) fn with_prompt(self, name: &str) -> Listed {
        self.0.lock().prompts.push(json!({"name": name}));
        self
    }

    pub(crate) fn n_calls(&self) -> usize {
        self.0.lock().n_calls
    }

    /// Serves until the test ends; answers its URL.
    pub(crate) async fn start(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/mcp", listener.local_addr().unwrap());
        let router = Router::new().route("/mcp", any(serve)).with_state(self.clone());
        #[expect(clippy::disallowed_methods, reason = "it goes with the runtime of the test")]
        tokio::spawn(async move { axum::serve(listener, router).await });
        url
    }
}

async fn serve(State(listed): State<Listed>, method: Method, body: Bytes) -> Response {
    if method != Method::POST {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    let message: Value = serde_json::from_slice(&body).unwrap();
    if message["id"].is_null() {
        return StatusCode::ACCEPTED.into_response();
    }
    let params = &message["params"];
    let asked = message["method"].as_str().unwrap_or_default();
    let token = &params["_meta"]["progressToken"];
    let result = match asked {
        "initialize" => json!({
            "protocolVersion": "2025-11-25", "serverInfo": {"name": "listed", "version": "1"},
            "capabilities": {"tools": {}, "prompts": {}, "completions": {}},
        }),
        "tools/list" => json!({"tools": listed.0.lock().tools}),
        "prompts/list" => json!({"prompts": listed.0.lock().prompts}),
        "tools/call" => {
            listed.0.lock().n_calls += 1;
            json!({
                "content": [], "vendor": 1,
                "structuredContent": {"called": params["name"], "arguments": params["arguments"]},
            })
        }
        "prompts/get" => json!({"description": params["name"], "messages": []}),
        "completion/complete" => json!({"completion": {"values": [params["ref"]["name"]]}}),
        _ => json!({}),
    };
    let answer = json!({"jsonrpc": "2.0", "id": message["id"], "result": result});
    if asked == "tools/call" && !token.is_null() {
        let params = json!({"progressToken": token, "progress": 1});
        let word = json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": params});
        let text = format!("data: {word}\n\ndata: {answer}\n\n");
        return ([("content-type", "text/event-stream")], text).into_response();
    }
    axum::Json(answer).into_response()
}

/// Keys of `before`: one may do everything, one may only look.
pub(crate) const ADMIN: &str = "the-key-of-the-admin";
pub(crate) const READER: &str = "the-key-of-the-reader";

/// Our server before these, with `gateway.profiles` in its configuration.
pub(crate) async fn before(dir: &std::path::Path, servers: &Value, profiles: &Value) -> Server {
    let (file, config) = (dir.join("mcp-config.json"), dir.join("config.yaml"));
    fs_err::write(&file, json!({"mcpServers": servers}).to_string()).unwrap();
    let keys = json!([
        {"name": "admin", "key": ADMIN, "permissions": ["read", "write", "execute", "admin"]},
        {"name": "reader", "key": READER, "permissions": ["read"]},
    ]);
    let all = json!({"security": {"api_keys": keys}, "gateway": {"profiles": profiles}});
    fs_err::write(&config, all.to_string()).unwrap();
    let setup = Setup::plain(dir).argument("--mcp-config").argument(file.to_str().unwrap());
    setup.argument("--config").argument(config.to_str().unwrap()).start().await
}

/// A client with a session at one address.
pub(crate) struct Bare {
    http: reqwest::Client,
    pub(crate) url: String,
    key: String,
    pub(crate) session: String,
    /// What the server said of itself.
    pub(crate) welcome: Value,
}

impl Bare {
    pub(crate) async fn at(server: &Server, path: &str, key: &str) -> Bare {
        let mut bare = Bare {
            http: http(),
            url: format!("{}{path}", server.url),
            key: key.to_owned(),
            session: String::new(),
            welcome: Value::Null,
        };
        let params = json!({
            "protocolVersion": "2025-11-25", "capabilities": {},
            "clientInfo": {"name": "bare", "version": "1"}
        });
        let response = bare.post("initialize", params).await;
        let session = response.headers().get("mcp-session-id");
        let session = session.map(|it| it.to_str().unwrap().to_owned());
        bare.welcome = last(response).await["result"].clone();
        bare.session = session.unwrap();
        let done = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        assert!(bare.send(&done).await.status().is_success());
        bare
    }

    async fn send(&self, message: &Value) -> reqwest::Response {
        let request = self
            .http
            .post(&self.url)
            .bearer_auth(&self.key)
            .header("content-type", "application/json")
            .header("accept", "application/json, text/event-stream")
            .body(message.to_string());
        let request = match self.session.as_str() {
            "" => request,
            it => request.header("mcp-session-id", it),
        };
        request.send().await.unwrap()
    }

    pub(crate) async fn post(&self, method: &str, params: Value) -> reqwest::Response {
        self.send(&json!({"jsonrpc": "2.0", "id": 7, "method": method, "params": params})).await
    }

    /// The message that a request is answered with.
    pub(crate) async fn ask(&self, method: &str, params: Value) -> Value {
        last(self.post(method, params).await).await
    }

    pub(crate) async fn call(&self, tool: &str, arguments: Value) -> Value {
        self.ask("tools/call", json!({"name": tool, "arguments": arguments})).await
    }

    /// Names of a list, in its order.
    pub(crate) async fn names(&self, list: &str) -> Vec<String> {
        let listed = self.ask(&format!("{list}/list"), json!({})).await;
        let items = listed["result"][list].as_array().unwrap_or_else(|| panic!("{listed}"));
        items.iter().map(|it| it["name"].as_str().unwrap().to_owned()).collect()
    }
}

/// The last message of a response.
async fn last(response: reqwest::Response) -> Value {
    let text = response.text().await.unwrap();
    let data = text.lines().filter_map(|it| it.strip_prefix("data: ")).rfind(|it| !it.is_empty());
    let text = data.unwrap_or(&text);
    serde_json::from_str(text).unwrap_or_else(|err| panic!("{err}: {text}"))
}
