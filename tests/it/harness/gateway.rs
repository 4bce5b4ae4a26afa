//! The real binary in front of other servers.

use serde_json::{Value, json};

use super::eventually;
use super::server::{Server, Setup};

/// The profile under which one server is passed through as it is.
pub(crate) const PROFILE: &str = "through";
/// The name of a server behind.
pub(crate) const BEHIND: &str = "behind";

pub(crate) struct Gateway {
    pub(crate) server: Server,
    _dir: tempfile::TempDir,
}

impl Gateway {
    /// In front of `servers`, as `mcpServers` of the file has them, each under its name. Ready when all of them are.
    pub(crate) async fn before(servers: Value) -> Gateway {
        Gateway::start(servers, json!({})).await
    }

    /// In front of one server, which is passed through as it is.
    pub(crate) async fn through(entry: Value) -> Gateway {
        let profiles = json!({PROFILE: {"transparent": BEHIND}});
        Gateway::start(json!({BEHIND: entry}), json!({"gateway": {"profiles": profiles}})).await
    }

    async fn start(servers: Value, config: Value) -> Gateway {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, content: Value| {
            let path = dir.path().join(name);
            // JSON is YAML.
            fs_err::write(&path, content.to_string()).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let file = write("mcp-config.json", json!({"mcpServers": servers}));
        let config = write("config.yaml", config);
        let setup = Setup::no_auth(dir.path())
            .argument("--config")
            .argument(&config)
            .argument("--mcp-config")
            .argument(&file);
        let gateway = Gateway { server: setup.start().await, _dir: dir };
        for name in servers.as_object().unwrap().keys() {
            gateway.until_ready(name).await;
        }
        gateway
    }

    pub(crate) async fn until_ready(&self, name: &str) {
        eventually(&format!("`{name}` to be ready"), || async {
            let servers = self.server.get("/servers").await;
            let servers = servers["servers"].as_array().unwrap();
            let is_ready = servers.iter().any(|it| it["name"] == name && it["state"] == "ready");
            is_ready.then_some(())
        })
        .await;
    }

    /// Where [`BEHIND`] is passed through.
    pub(crate) fn transparent(&self) -> String {
        format!("{}/mcp/{PROFILE}", self.server.url)
    }

    /// Where everything is, under prefixed names.
    pub(crate) fn prefixed(&self) -> String {
        format!("{}/mcp", self.server.url)
    }
}
