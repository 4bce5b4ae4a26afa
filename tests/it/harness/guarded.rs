//! The real binary with servers behind it and a configuration, asked with keys, over `/mcp` and REST alike.

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::mcp::{self, Era};
use super::server::{Server, Setup};
use super::{eventually, http};

pub(crate) struct Guarded {
    pub(crate) server: Server,
    /// Its data directory is `data` in it; the files of its configuration are beside that.
    pub(crate) dir: tempfile::TempDir,
    pub(crate) site: mcp::Site,
}

/// What REST answers.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: Value,
    pub(crate) headers: reqwest::header::HeaderMap,
}

impl Guarded {
    /// With the demo users, whom `server` speaks for.
    pub(crate) async fn start(servers: Value, config: &str) -> Guarded {
        Guarded::start_as(Setup::demo, servers, config).await
    }

    pub(crate) async fn start_as(
        setup: fn(&std::path::Path) -> Setup,
        servers: Value,
        config: &str,
    ) -> Guarded {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs_err::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let n_servers = servers.as_object().unwrap().len();
        let mcp_config = write("mcp-config.json", &json!({"mcpServers": servers}).to_string());
        let config = write("config.yaml", config);
        let data = dir.path().join("data");
        fs_err::create_dir(&data).unwrap();
        let setup = setup(&data).argument("--config").argument(&config);
        let server = setup.argument("--mcp-config").argument(&mcp_config).start().await;
        let url = format!("{}/mcp", server.url);
        let site = mcp::Site { url, shutdown: CancellationToken::new() };
        let guarded = Guarded { server, dir, site };
        eventually("all servers ready", || async {
            let servers = guarded.server.get("/servers").await["servers"].take();
            let is_ready = |it: &&Value| it["state"] == "ready";
            let n_ready = servers.as_array().unwrap().iter().filter(is_ready).count();
            (n_ready == n_servers).then_some(())
        })
        .await;
        guarded
    }

    /// A key of the administrator, limited to these tools.
    pub(crate) async fn key(&self, tools: Value) -> String {
        let key = json!({"name": "test", "tools": tools});
        let (status, made) = self.server.call("POST", "/api-keys", Some(key)).await;
        assert_eq!(status, 201, "{made}");
        made["api_key"].as_str().unwrap().to_owned()
    }

    /// A request at `/mcp` with nothing before it, and its answer.
    pub(crate) async fn ask(&self, key: &str, method: &str, params: Value) -> Value {
        self.ask_at("", key, method, params).await
    }

    /// The same at the endpoint of a profile, such as `/dev`.
    pub(crate) async fn ask_at(&self, path: &str, key: &str, method: &str, params: Value) -> Value {
        let message = mcp::request(Era::Modern, json!("q"), method, params);
        let url = format!("{}{path}", self.site.url);
        let site = mcp::Site { url, shutdown: CancellationToken::new() };
        let response = mcp::post(&site, key, &message).send().await.unwrap();
        let text = response.text().await.unwrap();
        match serde_json::from_str(&text) {
            Ok(it) => it,
            Err(_) => mcp::events(&text).pop().unwrap_or_else(|| panic!("{text}")),
        }
    }

    /// What a list at `/mcp` has, by `name` or `uri`.
    pub(crate) async fn listed(&self, key: &str, method: &str, member: &str) -> Vec<String> {
        let answer = self.ask(key, method, json!({})).await;
        let items = answer["result"][member].as_array().unwrap_or_else(|| panic!("{answer}"));
        let name = |it: &Value| it["uri"].as_str().or(it["name"].as_str()).unwrap().to_owned();
        items.iter().map(name).collect()
    }

    /// Calls a tool at `/mcp`.
    pub(crate) async fn tool(&self, key: &str, name: &str, arguments: Value) -> Value {
        self.ask(key, "tools/call", json!({"name": name, "arguments": arguments})).await
    }

    pub(crate) async fn rest(
        &self,
        key: &str,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> Reply {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let mut request =
            http().request(method, format!("{}{path}", self.server.url)).bearer_auth(key);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await.unwrap();
        let body = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{status}: {text}"));
        Reply { status, body, headers }
    }
}
