//! The server that has everything of the protocol (`tests/fixture_server`), as a program of its own.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_mcp-fixture");

/// One over HTTP. It ends with its stdin, hence also when the test is killed.
pub(crate) struct Fixture {
    process: Child,
    pub(crate) url: String,
}

impl Fixture {
    /// `era` is `both`, `modern` or `legacy`.
    pub(crate) fn http(era: &str) -> Fixture {
        let mut process = Command::new(PROGRAM)
            .args(["http", era])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut url = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut url).unwrap();
        assert!(url.starts_with("http://127.0.0.1:"), "`{url}` is no address of the fixture");
        Fixture { process, url: url.trim().to_owned() }
    }

    /// How a gateway's file names this one.
    pub(crate) fn entry(&self) -> Value {
        json!({"url": self.url})
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        // Already gone is as good.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// How a gateway's file names one that it is to start itself.
pub(crate) fn stdio(era: &str) -> Value {
    json!({"command": PROGRAM, "args": ["stdio", era]})
}

/// The command of one over stdio, to be talked to directly.
pub(crate) fn command(era: &str) -> Vec<String> {
    vec![PROGRAM.to_owned(), "stdio".to_owned(), era.to_owned()]
}
