//! `mcp-orch stdio`: processes that share one data directory, and what happens when the one that serves goes away.

use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::harness::server::Setup;
use crate::harness::within;

/// An MCP client's end of a `stdio` process, frame by frame.
struct Client {
    process: Child,
    stdin: Option<ChildStdin>,
    stdout: Lines<BufReader<ChildStdout>>,
    next_id: u32,
}

impl Client {
    /// Started, and nothing said yet.
    fn spawn(data_dir: &Path, arguments: &[&str]) -> Client {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(data_dir.join("stdio.log"))
            .unwrap();
        let mut process = Command::new(env!("CARGO_BIN_EXE_mcp-orch"))
            .args(arguments)
            .arg("--data-dir")
            .arg(data_dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let stdin = process.stdin.take();
        let stdout = BufReader::new(process.stdout.take().unwrap()).lines();
        Client { process, stdin, stdout, next_id: 0 }
    }

    /// Through the handshake of the older protocol.
    async fn connect(data_dir: &Path) -> Client {
        Client::spawn(data_dir, &["stdio"]).initialized().await
    }

    async fn initialized(mut self) -> Client {
        let params = json!({
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": { "name": "test", "version": "1" },
        });
        let answer = self.request("initialize", params).await;
        assert_eq!(answer["result"]["serverInfo"]["name"], "mcp-orch", "{answer}");
        self.send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
        self
    }

    async fn send(&mut self, message: &Value) {
        let line = format!("{message}\n");
        self.stdin.as_mut().unwrap().write_all(line.as_bytes()).await.unwrap();
    }

    /// Sends a request and does not wait.
    async fn begin(&mut self, method: &str, params: Value) -> u32 {
        let id = self.next_id;
        self.next_id += 1;
        self.send(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})).await;
        id
    }

    /// The next message, whatever it is.
    async fn next(&mut self) -> Value {
        let line = within("a line from the server", self.stdout.next_line()).await.unwrap();
        let line = line.expect("the server ended");
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("not a message: {line}"))
    }

    async fn answer_to(&mut self, id: u32) -> Value {
        loop {
            let message = self.next().await;
            if message["id"] == id && message.get("method").is_none() {
                return message;
            }
        }
    }

    async fn request(&mut self, method: &str, params: Value) -> Value {
        let id = self.begin(method, params).await;
        self.answer_to(id).await
    }

    async fn call(&mut self, tool: &str, arguments: Value) -> Value {
        let answer =
            self.request("tools/call", json!({"name": tool, "arguments": arguments})).await;
        let result = &answer["result"];
        assert_eq!(result["isError"], false, "{answer}");
        result["structuredContent"].clone()
    }

    fn kill(&mut self) {
        self.process.start_kill().unwrap();
    }

    /// Closes stdin and waits for the end.
    async fn close(mut self) -> std::process::ExitStatus {
        self.stdin = None;
        within("the end of the process", self.process.wait()).await.unwrap()
    }
}

async fn register_sim(client: &mut Client, id: &str) {
    client
        .call(
            "register_node",
            json!({"hostname": id, "engine": "sim", "sim": {"cpu": 8, "memory": 16}}),
        )
        .await;
}

async fn node_ids(client: &mut Client) -> Vec<String> {
    let nodes = client.call("list_nodes", json!({})).await;
    let nodes = nodes["nodes"].as_array().unwrap();
    nodes.iter().map(|it| it["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_share_one_state() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = Client::connect(dir.path()).await;
    let mut second = Client::connect(dir.path()).await;
    register_sim(&mut second, "shared").await;
    assert!(node_ids(&mut first).await.contains(&"shared".to_owned()));
    assert!(second.close().await.success());
    assert!(first.close().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_serving_process_is_killed_another_takes_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = Client::connect(dir.path()).await;
    let mut second = Client::connect(dir.path()).await;
    let mut third = Client::connect(dir.path()).await;
    register_sim(&mut first, "survivor").await;
    let before = holder(dir.path());
    assert_eq!(before["pid"], first.process.id().unwrap());

    first.kill();
    // No new handshake, no reconnection by the client: the next call is simply answered.
    assert!(node_ids(&mut second).await.contains(&"survivor".to_owned()));
    assert!(node_ids(&mut third).await.contains(&"survivor".to_owned()));
    let after = holder(dir.path());
    let heirs = [second.process.id(), third.process.id()];
    assert!(heirs.iter().flatten().any(|it| after["pid"] == *it), "{after}");
    assert!(second.close().await.success());
    assert!(node_ids(&mut third).await.contains(&"survivor".to_owned()));
    assert!(third.close().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_under_way_is_answered_when_its_server_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = Client::connect(dir.path()).await;
    let mut second = Client::connect(dir.path()).await;
    let slow = json!({"hostname": "slow", "engine": "sim", "sim": {"start_delay_ms": 60_000}});
    first.call("register_node", slow).await;
    let launch =
        json!({"name": "launch_instance", "arguments": {"image": "demo:1", "node_id": "slow"}});
    let id = second.begin("tools/call", launch).await;
    // It is under way once the instance is there to see.
    crate::harness::eventually("the instance is there", || {
        let instances = dir.path().to_owned();
        async move { is_launching(&instances).await.then_some(()) }
    })
    .await;

    first.kill();
    let answer = second.answer_to(id).await;
    assert_eq!(answer["error"]["code"], -32603, "{answer}");
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(message.contains("list_instances"), "{message}");
    // The new server finishes what the old one began.
    let instances = second.call("list_instances", json!({})).await;
    assert_eq!(instances["instances"][0]["state"], "pending", "{instances}");
    assert!(second.close().await.success());
}

/// Asked through a connection of its own, as the client waits for its launch.
async fn is_launching(data_dir: &Path) -> bool {
    let mut client = Client::connect(data_dir).await;
    let instances = client.call("list_instances", json!({})).await;
    client.close().await;
    instances["instances"].as_array().is_some_and(|it| !it.is_empty())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_started_later_gets_the_directory_and_nobody_notices() {
    let dir = tempfile::tempdir().unwrap();
    let mut client = Client::connect(dir.path()).await;
    register_sim(&mut client, "kept").await;
    let server = Setup::demo(dir.path()).start().await;
    assert_eq!(holder(dir.path())["pid"], server.pid());
    assert!(node_ids(&mut client).await.contains(&"kept".to_owned()));
    assert!(server.get("/cluster/nodes/kept").await["id"] == "kept");
    // And back again.
    server.kill();
    assert!(node_ids(&mut client).await.contains(&"kept".to_owned()));
    assert_eq!(holder(dir.path())["pid"], client.process.id().unwrap());
    assert!(client.close().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_process_prints_nothing_but_protocol_and_no_secret() {
    let dir = tempfile::tempdir().unwrap();
    let mut client = Client::spawn(dir.path(), &["stdio"]);
    client.stdin = None;
    let mut rest = String::new();
    within("its end", client.stdout.get_mut().read_to_string(&mut rest)).await.unwrap();
    assert_eq!(rest, "");
    assert!(client.process.wait().await.unwrap().success());
    let log = fs_err::read_to_string(dir.path().join("stdio.log")).unwrap();
    assert!(!log.contains("password") && !log.contains("mo-"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_form_of_the_seed_serves_http_and_its_client() {
    let dir = tempfile::tempdir().unwrap();
    let arguments = ["--mode", "proxy", "--port", "0", "--demo"];
    let mut client = Client::spawn(dir.path(), &arguments).initialized().await;
    register_sim(&mut client, "both").await;
    let url = holder(dir.path())["url"].as_str().unwrap().to_owned();
    let request = crate::harness::http()
        .get(format!("{url}/cluster/nodes/both"))
        .header("X-User-ID", "user-admin-001");
    let node: Value =
        serde_json::from_str(&request.send().await.unwrap().text().await.unwrap()).unwrap();
    assert_eq!(node["id"], "both");
    assert!(client.close().await.success());
}

fn holder(data_dir: &Path) -> Value {
    serde_json::from_str(&fs_err::read_to_string(data_dir.join("lock")).unwrap()).unwrap()
}
