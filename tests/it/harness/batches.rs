//! Batches of a real server in front of a [`Workshop`].

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::eventually;
use super::server::{Server, Setup};
use super::workshop::{NAME, Workshop};

pub(crate) struct Site {
    pub(crate) server: Server,
    pub(crate) shop: Workshop,
    pub(crate) data_dir: PathBuf,
    entry: Value,
    config: Value,
    /// None: whoever made the directory keeps it.
    dir: Option<tempfile::TempDir>,
}

impl Site {
    pub(crate) async fn new() -> Site {
        Site::with(json!({})).await
    }

    /// `config` as `config.yaml` has it; other servers beside the workshop under `servers`.
    pub(crate) async fn with(config: Value) -> Site {
        let dir = tempfile::tempdir().unwrap();
        let mut site = Site::at(dir.path(), config).await;
        site.dir = Some(dir);
        site
    }

    pub(crate) async fn at(data_dir: &Path, mut config: Value) -> Site {
        let shop = Workshop::new();
        let mut entry = config["servers"].take();
        config.as_object_mut().unwrap().remove("servers");
        if entry.is_null() {
            entry = json!({});
        }
        entry[NAME] = shop.start().await;
        if config["cluster"].is_null() {
            config["cluster"] = json!({"register_local": false});
        }
        let data_dir = data_dir.to_owned();
        let server = start(&data_dir, &entry, &config).await;
        Site { server, shop, data_dir, entry, config, dir: None }
    }

    pub(crate) async fn kill_and_restart(mut self) -> Site {
        let data_dir = self.server.kill();
        self.server = start(&data_dir, &self.entry, &self.config).await;
        self
    }

    /// As a service manager does it.
    pub(crate) async fn restart(mut self) -> Site {
        let pid = rustix::process::Pid::from_raw(self.server.pid() as i32).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let status = self.server.wait();
        assert!(status.success(), "{status}");
        self.server = start(&self.data_dir, &self.entry, &self.config).await;
        self
    }

    /// Begins a batch, and answers its id.
    pub(crate) async fn execute(&self, body: Value) -> String {
        let (status, answer) = self.server.call("POST", "/batch/execute", Some(body)).await;
        assert!([200, 202].contains(&status), "{status}: {answer}");
        answer["task_id"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn status(&self, id: &str) -> Value {
        self.server.get(&format!("/batch/status/{id}?page_size=1000")).await
    }

    pub(crate) async fn ended(&self, id: &str) -> Value {
        eventually(&format!("the batch {id} to end"), || async {
            let seen = self.status(id).await;
            let is_over =
                ["succeeded", "failed", "cancelled"].iter().any(|it| seen["state"] == *it);
            is_over.then_some(seen)
        })
        .await
    }

    pub(crate) async fn run(&self, body: Value) -> Value {
        let id = self.execute(body).await;
        self.ended(&id).await
    }
}

async fn start(data_dir: &Path, servers: &Value, config: &Value) -> Server {
    let write = |name: &str, content: &Value| {
        let path = data_dir.join(name);
        // JSON is YAML.
        fs_err::write(&path, content.to_string()).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let file = write("mcp-config.json", &json!({"mcpServers": servers}));
    let config = write("config.yaml", config);
    let setup = Setup::demo(data_dir);
    let setup = setup.argument("--config").argument(&config);
    let server = setup.argument("--mcp-config").argument(&file).start().await;
    for name in servers.as_object().unwrap().keys() {
        eventually(&format!("`{name}` to be ready"), || async {
            let seen = server.get("/servers").await;
            let seen = seen["servers"].as_array().unwrap();
            seen.iter().any(|it| it["name"] == *name && it["state"] == "ready").then_some(())
        })
        .await;
    }
    server
}

/// A call of the workshop. `more` are members of the step and, under `arguments`, of its call.
pub(crate) fn step(id: &str, tool: &str, more: Value) -> Value {
    let mut step = json!({"id": id, "tool": format!("{NAME}.{tool}"), "arguments": {"key": id}});
    for (name, value) in more.as_object().unwrap() {
        if name == "arguments" {
            for (name, value) in value.as_object().unwrap() {
                step["arguments"][name] = value.clone();
            }
        } else {
            step[name] = value.clone();
        }
    }
    step
}

pub(crate) fn plan(steps: Vec<Value>) -> Value {
    json!({"plan": {"steps": steps}})
}

pub(crate) fn state<'a>(batch: &'a Value, step: &str) -> &'a str {
    one(batch, step)["state"].as_str().unwrap()
}

pub(crate) fn why(batch: &Value, step: &str) -> String {
    let reason = &one(batch, step)["reason"];
    format!("{}: {}", reason["code"].as_str().unwrap(), reason["message"].as_str().unwrap())
}

fn one<'a>(batch: &'a Value, step: &str) -> &'a Value {
    let steps = batch["step_list"].as_array().unwrap();
    steps.iter().find(|it| it["id"] == step).unwrap_or_else(|| panic!("no {step} in {batch}"))
}
