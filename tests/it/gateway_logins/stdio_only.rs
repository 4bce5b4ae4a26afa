//! Where only a client on stdin is served, the browser comes back to a listener of its own.

use std::process::Stdio;

use serde_json::{Value, json};

use crate::harness::issuer::Issuer;
use crate::harness::program::Home;
use crate::harness::protected::Protected;
use crate::harness::{eventually, http};

#[tokio::test(flavor = "multi_thread")]
async fn without_a_server_the_browser_comes_back_all_the_same() {
    let issuer = Issuer::start().await;
    let protected = Protected::start(&issuer).await;
    let home = Home::new();
    let config = json!({"mcpServers": {"notes": {"url": protected.url()}}});
    home.write("mcp-config.json", &config.to_string());
    let mut stdio = home.command(&["stdio"]);
    let mut stdio =
        stdio.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let call = |arguments: &'static [&'static str]| {
        let mut command = home.command(&["call"]);
        command.args(arguments).args(["--output", "json", "--yes"]);
        tokio::task::spawn_blocking(move || command.output().unwrap())
    };
    // Else the first call would do it all in a process of its own, and its listener would end with that.
    let socket = home.data_dir().join("mcp-orch.sock");
    eventually("the process to hold the data directory", || async {
        socket.exists().then_some(())
    })
    .await;
    let begun = eventually("the process to take calls", || async {
        let ran = call(&["login_server", "name=notes"]).await.unwrap();
        serde_json::from_slice::<Value>(&ran.stdout).ok().filter(|it| it["url"].is_string())
    })
    .await;
    let url = format!("{}&login=ann", begun["url"].as_str().unwrap());
    let response = http().get(url).send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(response.text().await.unwrap().contains("Logged in"));
    let ran = call(&["call_tool", "name=notes.whoami"]).await.unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    assert_eq!(protected.calls(), [("ann".to_owned(), "whoami".to_owned())]);
    stdio.kill().unwrap();
    stdio.wait().unwrap();
}
