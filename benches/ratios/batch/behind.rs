//! A server behind over stdin and stdout, which this very program is when it is asked to: it never answers `hang`, and says
//! when it was told to stop.

use std::io::{BufRead, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

/// The argument that makes this program such a server.
pub(crate) const ROLE: &str = "--serve-behind";

#[expect(clippy::disallowed_methods, reason = "two processes have no other clock in common")]
pub(crate) fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970")
}

/// Until its input ends. `noted` answers how many calls of `hang` came, and when each was withdrawn, in nanoseconds.
pub(crate) fn serve() {
    let (mut n_came, mut withdrawn) = (0_u64, Vec::new());
    let mut stdout = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let at = now();
        let line = line.expect("a line");
        let message: Value = serde_json::from_str(&line).expect("JSON");
        let id = &message["id"];
        let result = match message["method"].as_str().unwrap_or_default() {
            "initialize" => json!({
                "protocolVersion": "2025-11-25", "capabilities": {"tools": {}},
                "serverInfo": {"name": "behind", "version": "1"},
            }),
            "tools/list" => {
                let tool = |name: &str| {
                    json!({
                        "name": name, "inputSchema": {"type": "object"},
                        "annotations": {"readOnlyHint": true},
                    })
                };
                json!({"tools": [tool("hang"), tool("noted")]})
            }
            "tools/call" if message["params"]["name"] == "hang" => {
                n_came += 1;
                continue;
            }
            "tools/call" => {
                let told = json!({"n_came": n_came, "withdrawn": std::mem::take(&mut withdrawn)});
                json!({"content": [], "structuredContent": told})
            }
            "notifications/cancelled" => {
                withdrawn.push(at.as_nanos() as u64);
                continue;
            }
            _ if id.is_null() => continue,
            _ => json!({}),
        };
        let answer = json!({"jsonrpc": "2.0", "id": id, "result": result});
        writeln!(stdout, "{answer}").and_then(|()| stdout.flush()).expect("written");
    }
}
