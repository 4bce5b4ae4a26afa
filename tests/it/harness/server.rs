//! The real binary as its users run it, on a port of its own and a data directory that goes with it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A running `mcp-orch serve`. Dropping it kills the process, as a crash would.
pub(crate) struct Server {
    process: std::process::Child,
    pub(crate) url: String,
    pub(crate) data_dir: PathBuf,
    client: reqwest::Client,
    user: String,
}

/// How a server is started.
pub(crate) struct Setup {
    data_dir: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
}

impl Setup {
    /// As it is installed.
    pub(crate) fn plain(data_dir: &Path) -> Setup {
        Setup { data_dir: data_dir.to_owned(), arguments: Vec::new(), environment: Vec::new() }
    }

    /// With the demo users, so that a header names the caller.
    pub(crate) fn demo(data_dir: &Path) -> Setup {
        Setup {
            data_dir: data_dir.to_owned(),
            arguments: vec!["--demo".to_owned()],
            environment: Vec::new(),
        }
    }

    /// Everybody who connects is the administrator.
    pub(crate) fn no_auth(data_dir: &Path) -> Setup {
        Setup {
            data_dir: data_dir.to_owned(),
            arguments: vec!["--no-auth".to_owned()],
            environment: Vec::new(),
        }
    }

    pub(crate) fn argument(mut self, it: &str) -> Setup {
        self.arguments.push(it.to_owned());
        self
    }

    /// The process ends itself when it gets to `failpoint`.
    pub(crate) fn dying_at(mut self, failpoint: &str) -> Setup {
        self.environment.push(("MCP_ORCH_FAILPOINT".to_owned(), failpoint.to_owned()));
        self
    }

    /// Starts it and waits until it is ready.
    pub(crate) async fn start(self) -> Server {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.data_dir.join("server.log"))
            .unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_mcp-orch"))
            .args(["serve", "--port", "0", "--data-dir"])
            .arg(&self.data_dir)
            .args(&self.arguments)
            .envs(self.environment)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut server = Server {
            process,
            url: String::new(),
            data_dir: self.data_dir,
            client: crate::harness::http(),
            user: "user-admin-001".to_owned(),
        };
        server.wait_until_ready().await;
        server
    }
}

impl Server {
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The same server, asked by another user.
    pub(crate) fn asked_by(mut self, user: &str) -> Server {
        self.user = user.to_owned();
        self
    }

    async fn wait_until_ready(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            assert!(Instant::now() < deadline, "not ready in 30 s:\n{}", self.log());
            if let Some(status) = self.process.try_wait().unwrap() {
                // A failpoint on the way up; whoever asked for it looks at the exit.
                if self.url.is_empty() {
                    println!("ended at start-up with {status}");
                }
                return;
            }
            let lock: Option<Value> = fs_err::read_to_string(self.data_dir.join("lock"))
                .ok()
                .and_then(|it| serde_json::from_str(&it).ok())
                .filter(|it: &Value| it["pid"] == self.process.id());
            if let Some(port) = lock.and_then(|it| it["port"].as_u64()) {
                self.url = format!("http://127.0.0.1:{port}");
                if self
                    .client
                    .get(format!("{}/readyz", self.url))
                    .send()
                    .await
                    .is_ok_and(|it| it.status().is_success())
                {
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Status and JSON body of a REST call, or `None` when the server died before it answered.
    pub(crate) async fn try_call(
        &self,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> Option<(u16, Value)> {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = self
            .client
            .request(method, format!("{}{path}", self.url))
            .header("X-User-ID", &self.user);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let response = request.send().await.ok()?;
        let status = response.status().as_u16();
        let bytes = response.bytes().await.ok()?;
        Some((
            status,
            serde_json::from_slice(&bytes).unwrap_or_else(|_| panic!("{status}: {bytes:?}")),
        ))
    }

    pub(crate) async fn call(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let answer = self.try_call(method, path, body).await;
        answer.unwrap_or_else(|| panic!("no answer to {method} {path}:\n{}", self.log()))
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let (status, body) = self.call("GET", path, None).await;
        assert_eq!(status, 200, "{body}");
        body
    }

    pub(crate) async fn instances(&self) -> Vec<Value> {
        self.get("/instances?page_size=1000").await["instances"].as_array().unwrap().clone()
    }

    /// Waits until `is_so` holds of the instances, and returns them.
    pub(crate) async fn until(&self, what: &str, is_so: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let instances = self.instances().await;
            if is_so(&instances) {
                return instances;
            }
            assert!(
                Instant::now() < deadline,
                "not {what} in 60 s: {instances:#?}\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// As `kill -9` does.
    pub(crate) fn kill(mut self) -> PathBuf {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.data_dir.clone()
    }

    /// Waits for a process that ends by itself, and says by which signal or code.
    pub(crate) fn wait(mut self) -> std::process::ExitStatus {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn log(&self) -> String {
        fs_err::read_to_string(self.data_dir.join("server.log")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Already gone is as good.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}
