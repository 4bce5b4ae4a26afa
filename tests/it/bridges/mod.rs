//! Between stdin and HTTP: a remote endpoint for a client that only starts programs, a program published over HTTP, and the
//! form of starting that clients' files have had from the beginning.

mod broken;
mod connect;
mod reload;
mod seed;

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::harness::within;

/// A client that started a program and speaks with it, line by line.
struct Client {
    process: Child,
    stdin: Option<ChildStdin>,
    stdout: Lines<BufReader<ChildStdout>>,
}

impl Client {
    fn start(command: std::process::Command) -> Client {
        let mut command = Command::from(command);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut process = command.kill_on_drop(true).spawn().unwrap();
        let stdin = process.stdin.take();
        let stdout = BufReader::new(process.stdout.take().unwrap()).lines();
        Client { process, stdin, stdout }
    }

    async fn say(&mut self, line: &str) {
        let line = format!("{line}\n");
        self.stdin.as_mut().unwrap().write_all(line.as_bytes()).await.unwrap();
    }

    async fn begin(&mut self, id: impl Into<Value>, method: &str, params: Value) {
        let id = id.into();
        let request = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        self.say(&request.to_string()).await;
    }

    /// The next line, as it was written.
    async fn line(&mut self) -> String {
        let line = within("a line from the program", self.stdout.next_line()).await.unwrap();
        line.expect("the program ended")
    }

    async fn next(&mut self) -> Value {
        let line = self.line().await;
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("not a message: {line}"))
    }

    /// The answer to `id`; what is said before it is passed over.
    async fn answer_to(&mut self, id: impl Into<Value>) -> Value {
        let id = id.into();
        loop {
            let message = self.next().await;
            if message["id"] == id && message.get("method").is_none() {
                return message;
            }
        }
    }

    async fn ask(&mut self, method: &str, params: Value) -> Value {
        self.begin("ask", method, params).await;
        self.answer_to("ask").await
    }

    async fn initialized(mut self) -> Client {
        let params = json!({
            "protocolVersion": "2025-11-25", "capabilities": {},
            "clientInfo": {"name": "test", "version": "1"}
        });
        let answer = self.ask("initialize", params).await;
        assert_eq!(answer["result"]["protocolVersion"], "2025-11-25", "{answer}");
        self.say(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).await;
        self
    }

    async fn tools(&mut self) -> Vec<String> {
        let listed = self.ask("tools/list", json!({})).await;
        let tools = listed["result"]["tools"].as_array().unwrap();
        tools.iter().map(|it| it["name"].as_str().unwrap().to_owned()).collect()
    }

    async fn until_listed(&mut self, tool: &str) {
        for _ in 0..200 {
            if self.tools().await.iter().any(|it| it == tool) {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        panic!("`{tool}` is not listed");
    }

    /// Closes stdin and waits for the end.
    async fn close(mut self) -> std::process::ExitStatus {
        self.stdin = None;
        within("the end of the program", self.process.wait()).await.unwrap()
    }
}
