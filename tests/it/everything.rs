//! Every feature of the official server that was written to have them all (`@modelcontextprotocol/server-everything`),
//! used directly and through the gateway: answers, notifications and what the server asks its client are the same.

mod steps;

use std::path::Path;

use serde_json::{Value, json};

use self::steps::walk;
use crate::harness::gateway::{BEHIND, Gateway};
use crate::harness::official::installed;
use crate::harness::walk::{Notes, Walker, assert_alike, assert_settled};
use crate::harness::wire::{Era, Wire};

/// It draws lots for the level of its log, and says what time it is.
const SETTLED: &str = "data:text/javascript,Math.random=()=>0.4;\
    Date.prototype.toLocaleTimeString=()=>'12:00:00';";

fn command(folder: &Path) -> Vec<String> {
    let server = "node_modules/@modelcontextprotocol/server-everything/dist/index.js";
    let text = |it: std::path::PathBuf| it.to_str().unwrap().to_owned();
    let node = text(folder.join("node"));
    vec![node, "--import".to_owned(), SETTLED.to_owned(), text(folder.join(server)), "stdio".to_owned()]
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

async fn directly(command: &[String]) -> Notes {
    walk(Walker::new(Wire::stdio(command, Era::Legacy).able(able()), "")).await
}

async fn settled(command: &[String]) -> Notes {
    let (once, again) = (directly(command).await, directly(command).await);
    assert_settled(&once, &again);
    once
}

fn entry(command: &[String]) -> Value {
    json!({"command": command[0], "args": command[1..]})
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_over_stdio_is_the_same_through_the_gateway() {
    let Some(folder) = installed() else { return };
    let command = command(folder);
    let direct = settled(&command).await;
    let gateway = Gateway::through(entry(&command)).await;
    let wire = Wire::http(&gateway.transparent(), Era::Legacy).able(able());
    assert_alike(&direct, &walk(Walker::new(wire, "")).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_the_same_under_prefixed_names() {
    let Some(folder) = installed() else { return };
    let command = command(folder);
    let direct = settled(&command).await;
    let gateway = Gateway::before(json!({BEHIND: entry(&command)})).await;
    let wire = Wire::http(&gateway.prefixed(), Era::Legacy).able(able());
    let mut through = walk(Walker::new(wire, &format!("{BEHIND}__"))).await;
    // Who it is and what it can do there is the gateway's to say.
    through[0] = direct[0].clone();
    assert_alike(&direct, &through);
}
