//! Every feature of the official server that was written to have them all (`@modelcontextprotocol/server-everything`),
//! used directly and through the gateway: answers, notifications and what the server asks its client are the same.

mod steps;

use std::path::Path;

use serde_json::{Value, json};

use self::steps::walk;
use crate::harness::eventually;
use crate::harness::gateway::{BEHIND, Gateway};
use crate::harness::official::installed;
use crate::harness::walk::{Notes, Walker, assert_alike, assert_settled};
use crate::harness::wire::{Era, Wire};

/// It draws lots for the level of its log, and says what time it is.
const SETTLED: &str = "data:text/javascript,Math.random=()=>0.4;\
    Date.prototype.toLocaleTimeString=()=>'12:00:00';";

fn command(folder: &Path, way: &str) -> Vec<String> {
    let server = "node_modules/@modelcontextprotocol/server-everything/dist/index.js";
    let text = |it: std::path::PathBuf| it.to_str().unwrap().to_owned();
    let node = text(folder.join("node"));
    vec![node, "--import".to_owned(), SETTLED.to_owned(), text(folder.join(server)), way.to_owned()]
}

fn able() -> Value {
    json!({
        "elicitation": {"form": {}, "url": {}}, "sampling": {"context": {}, "tools": {}},
        "roots": {"listChanged": true},
        "tasks": {
            "list": {}, "cancel": {},
            "requests": {"sampling": {"createMessage": {}}, "elicitation": {"create": {}}},
        },
        "experimental": {"vendor.example/x": {"y": 0.7}},
    })
}

fn entry(command: &[String]) -> Value {
    json!({"command": command[0], "args": command[1..]})
}

/// What it says to a client that talks to it directly, the same each time.
async fn directly(command: &[String]) -> Notes {
    let walked =
        async || walk(Walker::new(Wire::stdio(command, Era::Legacy).able(able()), "")).await;
    let (once, again) = (walked().await, walked().await);
    assert_settled(&once, &again);
    once
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_over_stdio_is_the_same_through_the_gateway() {
    let Some(folder) = installed() else { return };
    let command = command(folder, "stdio");
    let direct = directly(&command).await;
    let gateway = Gateway::through(entry(&command)).await;
    let wire = Wire::http(&gateway.transparent(), Era::Legacy).able(able());
    assert_alike(&direct, &walk(Walker::new(wire, "")).await);
}

/// One over HTTP, on a port that was free a moment ago.
struct Served {
    process: std::process::Child,
    url: String,
}

impl Served {
    async fn start(command: &[String]) -> Served {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let process = std::process::Command::new(&command[0])
            .args(&command[1..])
            .env("PORT", port.to_string())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let served = Served { process, url: format!("http://127.0.0.1:{port}/mcp") };
        eventually("the server over HTTP", || async {
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()
        })
        .await;
        served
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // Already gone is as good.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// There, its sessions have names, which it says now and then, and it remembers some of one session for the next.
#[tokio::test(flavor = "multi_thread")]
async fn everything_over_http_is_the_same_through_the_gateway() {
    let Some(folder) = installed() else { return };
    let command = command(folder, "streamableHttp");
    let walked = async |served: Served, url: &str| {
        let notes = walk(Walker::new(Wire::http(url, Era::Legacy).able(able()), "")).await;
        drop(served);
        notes
    };
    let served = Served::start(&command).await;
    let url = served.url.clone();
    let once = walked(served, &url).await;
    let served = Served::start(&command).await;
    let url = served.url.clone();
    let again = walked(served, &url).await;
    assert_settled(&once, &again);

    let served = Served::start(&command).await;
    let gateway = Gateway::through(json!({"url": served.url})).await;
    let through = walked(served, &gateway.transparent()).await;
    assert_alike(&once, &through);
}

/// What the gateway says itself where it stands among others: who it is, what it does not know, that it has no list of all
/// tasks; and it subscribes once for all, so that what a server logs of that is nobody's.
const OWN_WORDS: [&str; 12] = [
    "initialize",
    "subscribe",
    "unsubscribe",
    "list again",
    "read first",
    "tasks/list",
    "tasks/get unknown",
    "tools/call no-such-tool {}",
    "unknown prompt",
    "unknown resource",
    "unknown method",
    "unknown level",
];

/// A client that cannot be asked anything. What a server has only for others it has for one connection alone, and lists
/// that are made for everybody do not show it.
#[tokio::test(flavor = "multi_thread")]
async fn everything_is_the_same_under_prefixed_names() {
    let Some(folder) = installed() else { return };
    let command = command(folder, "stdio");
    let among_others = async |wire: Wire, prefix: &str| {
        walk(Walker::new(wire.able(json!({})), prefix).among_others()).await
    };
    let direct = among_others(Wire::stdio(&command, Era::Legacy), "").await;
    let again = among_others(Wire::stdio(&command, Era::Legacy), "").await;
    assert_settled(&direct, &again);
    let gateway = Gateway::before(json!({BEHIND: entry(&command)})).await;
    let wire = Wire::http(&gateway.prefixed(), Era::Legacy);
    let through = among_others(wire, &format!("{BEHIND}__")).await;
    let of_server = |notes: Notes| -> Notes {
        notes.into_iter().filter(|(label, _)| !OWN_WORDS.contains(&label.as_str())).collect()
    };
    assert_alike(&of_server(direct), &of_server(through));
}
