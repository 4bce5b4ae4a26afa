//! Profiles: each shows some servers and tools at an address of its own, in the names its clients want, and nothing else.

use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;

use crate::harness::listed::{ADMIN, Bare, Listed, READER, before};
use crate::harness::server::Server;
use crate::harness::within;

struct Site {
    server: Server,
    dir: tempfile::TempDir,
    github: Listed,
}

async fn site() -> Site {
    let dir = tempfile::tempdir().unwrap();
    let github = Listed::of(&[
        ("create_issue", "Opens a ticket."),
        ("delete_repository", "Removes all of it."),
    ])
    .with_prompt("triage");
    let slack = Listed::of(&[("post.message", "Says something.")]).with_prompt("greet");
    let servers =
        json!({"github": {"url": github.start().await}, "slack": {"url": slack.start().await}});
    let profiles = json!({
        "code": {"servers": ["git*"], "tools": {"deny": ["*.delete_*"]}, "description": "Only for code."},
        "ours": {"servers": [], "own": true, "tools": {"allow": ["orch.list_*", "orch.call_tool", "orch.search_tools"]}},
        "look": {"own": true, "permissions": ["read"]},
        "lazy": {"lazy": true, "tools": {"deny": ["slack.*"]}},
        "dots": {"names": "dot"},
    });
    let server = before(dir.path(), &servers, &profiles).await;
    Site { server, dir, github }
}

#[tokio::test]
async fn a_profile_has_its_servers_and_tools_and_nothing_else() {
    let site = site().await;
    let code = Bare::at(&site.server, "/mcp/code", ADMIN).await;
    assert_eq!(code.welcome["instructions"], "Only for code.");
    assert_eq!(code.names("tools").await, ["github__create_issue"]);
    assert_eq!(code.names("prompts").await, ["github__triage"]);
    let resources = code.ask("resources/list", json!({})).await;
    assert_eq!(resources["result"]["resources"], json!([]));
    let read = code.ask("resources/read", json!({"uri": "cluster://status"})).await;
    assert!(read["error"].is_object(), "{read}");
    let answer = code.call("github__create_issue", json!({"path": "x"})).await;
    assert_eq!(answer["result"]["structuredContent"]["called"], "create_issue", "{answer}");
    for hidden in
        ["github__delete_repository", "github.delete_repository", "slack.post.message", "whoami"]
    {
        let answer = code.call(hidden, json!({})).await;
        assert_eq!(answer["error"]["code"], -32602, "`{hidden}`: {answer}");
    }
    assert_eq!(site.github.n_calls(), 1);
    let prompt = code.ask("prompts/get", json!({"name": "slack__greet"})).await;
    assert!(prompt["error"].is_object(), "{prompt}");

    // Our own operations, as far as the patterns go, and what they tell of.
    let ours = Bare::at(&site.server, "/mcp/ours", ADMIN).await;
    let names = ours.names("tools").await;
    assert!(names.contains(&"list_nodes".to_owned()), "{names:?}");
    assert!(
        names
            .iter()
            .all(|it| it.starts_with("list_") || it.ends_with("_tool") || it.ends_with("_tools")),
        "{names:?}"
    );
    assert!(ours.call("launch_instance", json!({"image": "a"})).await["error"].is_object());
    let listed = ours.call("list_tools", json!({})).await;
    let listed = &listed["result"]["structuredContent"]["tools"];
    let listed: Vec<&str> =
        listed.as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap()).collect();
    assert!(
        listed.contains(&"orch.list_nodes") && !listed.contains(&"orch.launch_instance"),
        "{listed:?}"
    );
    for hidden in ["github.create_issue", "orch.launch_instance"] {
        let answer = ours.call("call_tool", json!({"name": hidden})).await;
        assert_eq!(answer["result"]["structuredContent"]["error"], "NotFound", "{answer}");
    }
    let servers = ours.call("list_servers", json!({})).await;
    assert_eq!(servers["result"]["structuredContent"]["servers"], json!([]), "{servers}");
    let answer = ours.call("orch.list_nodes", json!({})).await;
    assert_eq!(answer["result"]["isError"], false, "{answer}");
}

#[tokio::test]
async fn an_unknown_profile_is_answered_with_those_there_are() {
    let site = site().await;
    let client = crate::harness::http();
    for (path, status, words) in [
        ("/mcp/none", 404, "`code`, `dots`, `lazy`, `look`, `ours`"),
        ("/mcp?names=dots", 400, "`underscores`"),
    ] {
        let response = client
            .post(format!("{}{path}", site.server.url))
            .bearer_auth(ADMIN)
            .json(&json!({"jsonrpc": "2.0", "id": 1, "method": "ping"}))
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), status);
        let body: Value = response.json().await.unwrap();
        assert!(body["error"]["message"].as_str().unwrap().contains(words), "{body}");
    }
    // Who may not come in is not told which there are.
    let response = client.post(format!("{}/mcp/none", site.server.url)).send().await.unwrap();
    assert_eq!(response.status(), 401);
}

#[tokio::test]
async fn a_session_stays_in_its_profile() {
    let site = site().await;
    let mut code = Bare::at(&site.server, "/mcp/code", ADMIN).await;
    for path in ["/mcp", "/mcp/ours"] {
        code.url = format!("{}{path}", site.server.url);
        let response = code.post("tools/list", json!({})).await;
        assert_eq!(response.status(), 404, "{path}");
    }
    code.url = format!("{}/mcp/code", site.server.url);
    assert_eq!(code.names("tools").await, ["github__create_issue"]);
}

#[tokio::test]
async fn nobody_may_do_more_in_a_profile_than_it_allows() {
    let site = site().await;
    let look = Bare::at(&site.server, "/mcp/look", ADMIN).await;
    let names = look.names("tools").await;
    assert!(names.contains(&"list_nodes".to_owned()), "{names:?}");
    for absent in ["launch_instance", "create_user", "call_tool", "github__create_issue"] {
        assert!(
            !names.contains(&absent.to_owned()),
            "`{absent}` needs more than to look: {names:?}"
        );
    }
    let refused = look.call("launch_instance", json!({"image": "a"})).await;
    assert_eq!(refused["result"]["structuredContent"]["error"], "Forbidden", "{refused}");
    let refused = look.call("github.create_issue", json!({})).await;
    assert_eq!(refused["result"]["structuredContent"]["error"], "Forbidden", "{refused}");
    assert_eq!(site.github.n_calls(), 0);
    // And it gives nobody anything.
    let reader = Bare::at(&site.server, "/mcp/code", READER).await;
    assert!(reader.names("tools").await.is_empty());
}

#[tokio::test]
async fn a_lazy_profile_lists_two_tools_and_has_all() {
    let site = site().await;
    let lazy = Bare::at(&site.server, "/mcp/lazy", ADMIN).await;
    assert_eq!(lazy.names("tools").await, ["search_tools", "call_tool"]);
    assert!(lazy.welcome["instructions"].as_str().unwrap().contains("`search_tools`"));
    let found = lazy.call("search_tools", json!({"query": "open a bug"})).await;
    let tools = found["result"]["structuredContent"]["tools"].as_array().unwrap();
    assert_eq!(tools[0]["name"], "github.create_issue", "{found}");
    assert!(tools.iter().all(|it| it["server"] == "github"), "the rest is not shown: {found}");

    // What it calls is called as directly, and its answer comes as it is, with what no type of ours has.
    let direct = lazy.call("github__create_issue", json!({"path": "x"})).await;
    for name in ["github.create_issue", "github__create_issue"] {
        let arguments = json!({"name": name, "arguments": {"path": "x"}});
        assert_eq!(lazy.call("call_tool", arguments).await, direct);
    }
    assert_eq!(direct["result"]["vendor"], 1);
    assert_eq!(direct["result"]["structuredContent"]["arguments"], json!({"path": "x"}));
    assert_eq!(site.github.n_calls(), 3);
    let params = json!({
        "name": "call_tool", "arguments": {"name": "github.create_issue"},
        "_meta": {"progressToken": "mine"}
    });
    let text = lazy.post("tools/call", params).await.text().await.unwrap();
    let progress = text.find("notifications/progress").expect("progress is passed on");
    assert!(text.contains(r#""progressToken":"mine""#), "{text}");
    assert!(progress < text.find("structuredContent").unwrap(), "{text}");

    for hidden in ["slack.post.message", "orch.list_nodes", "nothing.there"] {
        let answer = lazy.call("call_tool", json!({"name": hidden})).await;
        assert_eq!(answer["result"]["structuredContent"]["error"], "NotFound", "{answer}");
    }
    let wrong = json!({"name": "github.create_issue", "argumens": {}});
    let answer = lazy.call("call_tool", wrong).await;
    assert_eq!(answer["result"]["structuredContent"]["error"], "InvalidParameter", "{answer}");
}

#[tokio::test]
async fn names_are_as_the_client_asks_and_all_are_understood() {
    let site = site().await;
    for (path, tool, prompt) in [
        ("/mcp?names=dot", "github.create_issue", "github.triage"),
        ("/mcp/dots", "github.create_issue", "github.triage"),
        ("/mcp/dots?names=underscores", "github__create_issue", "github__triage"),
        ("/mcp", "github__create_issue", "github__triage"),
    ] {
        let client = Bare::at(&site.server, path, ADMIN).await;
        let tools = client.names("tools").await;
        assert!(tools.contains(&tool.to_owned()), "{path}: {tools:?}");
        let prompts = client.names("prompts").await;
        assert!(prompts.contains(&prompt.to_owned()), "{path}: {prompts:?}");
        for name in ["github.create_issue", "github__create_issue"] {
            let answer = client.call(name, json!({})).await;
            assert_eq!(answer["result"]["structuredContent"]["called"], "create_issue", "{answer}");
        }
        for name in ["github.triage", "github__triage"] {
            let answer = client.ask("prompts/get", json!({"name": name})).await;
            assert_eq!(answer["result"]["description"], "triage", "{answer}");
            let reference = json!({"type": "ref/prompt", "name": name});
            let asked = json!({"ref": reference, "argument": {"name": "a", "value": ""}});
            let answer = client.ask("completion/complete", asked).await;
            assert_eq!(answer["result"]["completion"]["values"], json!(["triage"]), "{answer}");
        }
    }
    let client = Bare::at(&site.server, "/mcp", ADMIN).await;
    for name in ["whoami", "orch.whoami", "orch__whoami"] {
        assert_eq!(client.call(name, json!({})).await["result"]["isError"], false);
    }
    let answer = client.ask("prompts/get", json!({"name": "orch.review_capacity"})).await;
    assert!(answer["result"]["messages"].is_array(), "{answer}");
}

#[tokio::test]
async fn names_that_fold_to_the_same_stay_apart() {
    let dir = tempfile::tempdir().unwrap();
    let a = Listed::of(&[("b.c", ""), ("b/c", ""), ("b_c", ""), ("_x", "")])
        .with_prompt("p.q")
        .with_prompt("p/q");
    let a_b = Listed::of(&[("c", ""), ("x", "")]).with_prompt("q");
    let a_ = Listed::of(&[("x", "")]).with_prompt("q");
    let servers = json!({
        "a": {"url": a.start().await}, "a__b": {"url": a_b.start().await}, "a_": {"url": a_.start().await}
    });
    let server = before(dir.path(), &servers, &json!({"all": {}})).await;
    let client = Bare::at(&server, "/mcp/all", ADMIN).await;
    let mut called = Vec::new();
    let names = client.names("tools").await;
    for name in &names {
        assert!(
            name.len() <= 64
                && name.bytes().all(|it| it.is_ascii_alphanumeric() || b"_-".contains(&it)),
            "{name}"
        );
        let answer = client.call(name, json!({})).await;
        called.push(answer["result"]["structuredContent"]["called"].as_str().unwrap().to_owned());
    }
    // By server, in the order of each.
    assert_eq!(called, ["b.c", "b/c", "b_c", "_x", "x", "c", "x"], "{names:?}");
    assert_eq!((a.n_calls(), a_.n_calls(), a_b.n_calls()), (4, 1, 2));
    let mut got = Vec::new();
    for name in client.names("prompts").await {
        let answer = client.ask("prompts/get", json!({"name": name})).await;
        got.push(answer["result"]["description"].as_str().unwrap().to_owned());
    }
    assert_eq!(got, ["p.q", "p/q", "q", "q"]);
}

/// The names of tools that a client of `stdio` sees, or what the program said when it would not serve.
async fn over_stdio(dir: &Path, arguments: &[&str]) -> Result<Vec<String>, String> {
    let mut process = Command::new(env!("CARGO_BIN_EXE_mcp-orch"))
        .args(arguments)
        .arg("--data-dir")
        .arg(dir)
        .arg("--config")
        .arg(dir.join("config.yaml"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut stdin = process.stdin.take().unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let params = json!({
        "protocolVersion": "2025-06-18", "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    });
    let mut said = String::new();
    for message in [
        json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}),
        json!({"jsonrpc": "2.0", "method": "notifications/initialized"}),
        json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}),
    ] {
        said.push_str(&format!("{message}\n"));
    }
    // A program that refuses reads none of it.
    stdin.write_all(said.as_bytes()).await.ok();
    while let Some(line) = within("an answer", lines.next_line()).await.unwrap() {
        let answer: Value = serde_json::from_str(&line).unwrap();
        if answer["id"] == 1 {
            let tools = answer["result"]["tools"].as_array().unwrap();
            return Ok(tools.iter().map(|it| it["name"].as_str().unwrap().to_owned()).collect());
        }
    }
    let output = within("its end", process.wait_with_output()).await.unwrap();
    assert!(!output.status.success());
    Err(String::from_utf8(output.stderr).unwrap())
}

#[tokio::test]
async fn a_client_on_stdin_has_a_profile_too() {
    let site = site().await;
    let dir = site.dir.path();
    // Attached to the server that runs.
    let wanted = ["github__create_issue"];
    assert_eq!(over_stdio(dir, &["stdio", "--profile", "code"]).await.unwrap(), wanted);
    let dotted = over_stdio(dir, &["stdio", "--profile", "code", "--names", "dot"]).await.unwrap();
    assert_eq!(dotted, ["github.create_issue"]);
    let all = over_stdio(dir, &["stdio", "--names", "dot"]).await.unwrap();
    assert!(all.contains(&"slack.post.message".to_owned()), "{all:?}");
    assert!(all.contains(&"launch_instance".to_owned()), "{all:?}");
    let refused = over_stdio(dir, &["stdio", "--profile", "none"]).await.unwrap_err();
    assert!(refused.contains("`none`") && refused.contains("`code`, `dots`"), "{refused}");

    // And where it serves itself.
    let Site { server, dir, github: _github } = site;
    server.kill();
    let file = dir.path().join("mcp-config.json");
    let mode = ["--mode", "proxy", "--port", "0", "--mcp-config", file.to_str().unwrap()];
    let tools = over_stdio(dir.path(), &[&mode[..], &["--profile", "code"]].concat()).await;
    assert_eq!(tools.unwrap(), wanted);
    let refused = over_stdio(dir.path(), &["stdio", "--profile", "none"]).await.unwrap_err();
    assert!(refused.contains("`code`, `dots`"), "{refused}");
}

/// A server of the earlier era behind a stream on which each request says everything.
#[tokio::test]
async fn a_later_client_on_stdin_is_understood_at_a_transparent_profile() {
    let dir = tempfile::tempdir().unwrap();
    let github = Listed::of(&[("create_issue", "Opens a ticket.")]);
    let servers = json!({"github": {"url": github.start().await}});
    let _server = before(dir.path(), &servers, &json!({"only": {"transparent": "github"}})).await;
    let mut process = Command::new(env!("CARGO_BIN_EXE_mcp-orch"))
        .args(["stdio", "--profile", "only", "--data-dir"])
        .arg(dir.path())
        .arg("--config")
        .arg(dir.path().join("config.yaml"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut stdin = process.stdin.take().unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let mut results = Vec::new();
    for (id, method) in ["server/discover", "tools/list"].into_iter().enumerate() {
        let asked =
            json!({"jsonrpc": "2.0", "id": id, "method": method, "params": {"_meta": meta}});
        stdin.write_all(format!("{asked}\n").as_bytes()).await.unwrap();
        let line = within(method, lines.next_line()).await.unwrap().unwrap();
        let answer: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(answer["result"]["resultType"], "complete", "{answer}");
        results.push(answer["result"].clone());
    }
    assert_eq!(results[0]["supportedVersions"], json!(["2026-07-28"]));
    assert_eq!(results[1]["tools"][0]["name"], "create_issue");
    assert!(results[1]["ttlMs"].is_number(), "{}", results[1]);
}
