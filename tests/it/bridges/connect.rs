//! `stdio --connect`: what a client on stdin says gets to a remote endpoint as it is, and what is said there comes back.

use serde_json::json;

use super::Client;
use crate::harness::program::Home;
use crate::harness::server::Setup;
use crate::harness::upstream::{N_PROGRESS, STRANGE, Upstream};
use crate::harness::{eventually, within};

fn call(id: &str, tool: &str) -> String {
    let params = json!({"name": tool, "arguments": {}});
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params}).to_string()
}

async fn connected(home: &Home, upstream: &Upstream) -> Client {
    let url = upstream.start().await;
    Client::start(home.command(&["stdio", "--connect", &url])).initialized().await
}

#[tokio::test]
async fn frames_pass_as_they_were_written_and_in_order() {
    let (home, upstream) = (Home::new(), Upstream::default());
    let mut client = connected(&home, &upstream).await;
    client.say(&call("my id", "strange")).await;
    let wanted = format!(r#"{{"jsonrpc":"2.0","id":"my id","result":{STRANGE}}}"#);
    assert_eq!(client.line().await, wanted);

    let params = json!({"name": "strange", "_meta": {"progressToken": "mine"}});
    for id in 0..50 {
        client.begin(id, "tools/call", params.clone()).await;
        for n in 1..=N_PROGRESS {
            let wanted = format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":"mine","progress":{n},"vendor":0.70}}}}"#
            );
            assert_eq!(client.line().await, wanted);
        }
        assert_eq!(
            client.line().await,
            format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{STRANGE}}}"#)
        );
    }
    assert_eq!(upstream.n_asked("initialize"), 1);

    // What nobody knows is refused there, and the refusal is theirs.
    let answer = client.ask("vendor/unknown", json!({})).await;
    assert_eq!(answer["error"]["data"]["x"], 0.7, "{answer}");
    client.say("this is no message").await;
    assert_eq!(client.next().await["error"]["code"], -32700);
    assert!(client.close().await.success());
}

#[tokio::test]
async fn a_withdrawn_call_is_withdrawn_there_and_not_answered() {
    let (home, upstream) = (Home::new(), Upstream::default());
    let mut client = connected(&home, &upstream).await;
    client.say(&call("slow one", "slow")).await;
    upstream.until("tools/call", 1).await;
    let params = json!({"requestId": "slow one", "reason": "enough"});
    let word = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params});
    client.say(&word.to_string()).await;
    upstream.until("notifications/cancelled", 1).await;
    assert_eq!(upstream.cancelled(), ["slow one"]);
    client.say(&call("next", "strange")).await;
    assert_eq!(client.next().await["id"], "next", "and nothing of the other");
    assert!(client.close().await.success());
}

#[tokio::test]
async fn a_forgotten_session_is_begun_anew_without_the_client() {
    let (home, upstream) = (Home::new(), Upstream::default());
    let mut client = connected(&home, &upstream).await;
    upstream.forget_sessions();
    client.say(&call("1", "strange")).await;
    assert_eq!(client.next().await["result"]["structuredContent"]["p"], 0.7);
    assert_eq!(upstream.n_asked("initialize"), 2);
    assert_eq!(upstream.n_asked("tools/call"), 1, "the first never got in");
    // The new session has its own stream of what belongs to no request.
    let told = async {
        loop {
            upstream.grow();
            if let Ok(line) =
                tokio::time::timeout(std::time::Duration::from_millis(100), client.line()).await
            {
                return line;
            }
        }
    };
    let told = within("word of a change", told).await;
    assert!(told.contains("notifications/tools/list_changed"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn our_own_server_is_used_with_a_token_in_both_eras() {
    let home = Home::new();
    let server = Setup::plain(&home.data_dir()).start().await;
    let kept = fs_err::read_to_string(home.data_dir().join("first-login.txt")).unwrap();
    let key = kept.lines().find_map(|it| it.trim().strip_prefix("API key")).unwrap().trim();
    let url = format!("{}/mcp", server.url);

    let with_token = || {
        let mut command = home.command(&["stdio", "--connect", &url, "--token-env", "KEY"]);
        command.env("KEY", key);
        command
    };
    let mut client = Client::start(with_token()).initialized().await;
    let answer = client.ask("tools/call", json!({"name": "whoami", "arguments": {}})).await;
    assert_eq!(answer["result"]["structuredContent"]["username"], "admin", "{answer}");
    assert!(client.close().await.success());

    // Without a handshake, as since 2026-07-28; a long stream, withdrawn by a message that HTTP does not know.
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"}
    });
    let mut client = Client::start(with_token());
    let answer = client.ask("server/discover", json!({"_meta": meta})).await;
    assert!(answer["result"]["supportedVersions"].to_string().contains("2026-07-28"), "{answer}");
    let params = json!({"notifications": {"toolsListChanged": true}, "_meta": meta});
    client.begin("listening", "subscriptions/listen", params).await;
    let ack = client.next().await;
    assert_eq!(ack["method"], "notifications/subscriptions/acknowledged", "{ack}");
    let word = json!({"jsonrpc": "2.0", "method": "notifications/cancelled",
        "params": {"requestId": "listening", "_meta": meta}});
    client.say(&word.to_string()).await;
    let params = json!({"name": "whoami", "arguments": {}, "_meta": meta});
    let answer = client.ask("tools/call", params).await;
    assert_eq!(answer["result"]["structuredContent"]["username"], "admin", "{answer}");
    assert!(client.close().await.success());

    // Whoever shows nothing is told what to show.
    let mut client = Client::start(home.command(&["stdio", "--connect", &url]));
    let refused = client.ask("initialize", json!({"protocolVersion": "2025-11-25"})).await;
    let said = refused["error"]["message"].as_str().unwrap();
    assert!(said.contains("401") && said.contains("--token-env"), "{said}");
    let header = format!("Authorization=Bearer {key}");
    let command = home.command(&["stdio", "--connect", &url, "--header", &header]);
    let mut client = Client::start(command).initialized().await;
    assert!(client.tools().await.contains(&"list_nodes".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_not_there_is_said_to_be_so() {
    let home = Home::new();
    let mut client = Client::start(home.command(&["stdio", "--connect", "http://127.0.0.1:9/mcp"]));
    let refused = client.ask("initialize", json!({})).await;
    let said = refused["error"]["message"].as_str().unwrap().to_owned();
    assert!(said.contains("could not be reached"), "{said}");
    for (url, word) in [("127.0.0.1:9", "http://"), ("ftp://x", "http://")] {
        let ran = tokio::task::block_in_place(|| home.run(&["stdio", "--connect", url]));
        assert_eq!(ran.status, 1);
        assert!(ran.stderr.contains(word), "{}", ran.stderr);
    }
    let arguments = ["stdio", "--connect", "http://127.0.0.1:9", "--token-env", "NOT_THERE"];
    let ran = tokio::task::block_in_place(|| home.run(&arguments));
    assert!(ran.stderr.contains("`NOT_THERE`"), "{}", ran.stderr);
}

#[tokio::test]
async fn a_client_that_goes_leaves_no_session_and_no_process() {
    let (home, upstream) = (Home::new(), Upstream::default());
    let mut client = connected(&home, &upstream).await;
    client.say(&call("1", "slow")).await;
    upstream.until("tools/call", 1).await;
    let pid = client.process.id().unwrap();
    // At once, though a call is under way.
    client.stdin = None;
    let status = within("the end", client.process.wait()).await.unwrap();
    assert!(status.success());
    eventually("no process", || async {
        (!std::path::Path::new(&format!("/proc/{pid}")).exists()).then_some(())
    })
    .await;
}
