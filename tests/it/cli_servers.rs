//! `mcp-orch servers` with a running server and without one, and what `install` says of the clients of this machine.

use serde_json::{Value, json};

use crate::harness::program::Home;
use crate::harness::server::Setup;

fn entries(home: &Home) -> Value {
    let text = fs_err::read_to_string(home.path("data/mcp-config.json")).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()["mcpServers"].clone()
}

fn add_inner(home: &Home) -> String {
    let inner = home.path("inner");
    let inner = inner.to_str().unwrap();
    let program = env!("CARGO_BIN_EXE_mcp-orch");
    home.done(&[
        "servers",
        "add",
        "inner",
        "--env",
        "X=1",
        "--",
        program,
        "stdio",
        "--data-dir",
        inner,
    ])
}

#[test]
fn without_a_server_the_file_is_edited() {
    let home = Home::new();
    let shown = add_inner(&home);
    assert!(shown.contains("inner") && shown.contains("ready"), "{shown}");
    let entry = &entries(&home)["inner"];
    assert_eq!(entry["command"], env!("CARGO_BIN_EXE_mcp-orch"));
    assert_eq!((&entry["args"][0], &entry["env"]["X"]), (&json!("stdio"), &json!("1")));

    let again = home.run(&["servers", "add", "inner", "--url", "http://127.0.0.1:9/mcp"]);
    assert_eq!(again.status, 3);
    assert!(again.stderr.contains("replace"), "{}", again.stderr);
    let header = "Authorization=Bearer ${NOT_SET:-a=b}";
    let arguments = [
        "servers",
        "add",
        "inner",
        "--url",
        "http://127.0.0.1:9/mcp",
        "--header",
        header,
        "--replace",
    ];
    let shown = home.done(&arguments);
    assert!(shown.contains("failed") && !shown.contains("a=b"), "{shown}");
    assert_eq!(entries(&home)["inner"]["headers"]["Authorization"], "Bearer ${NOT_SET:-a=b}");
    assert!(home.done(&["servers", "list"]).contains("inner"));
    home.done(&["servers", "remove", "inner"]);
    assert_eq!(entries(&home), json!({}));
    let gone = home.run(&["servers", "remove", "inner"]);
    assert_eq!(gone.status, 3);
    assert!(gone.stderr.contains("NotFound"), "{}", gone.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_server_takes_it_over_at_once() {
    let home = Home::new();
    let file = home.write("data/mcp-config.json", r#"{"mcpServers": {}}"#);
    let setup = Setup::no_auth(&home.data_dir());
    let server = setup.argument("--mcp-config").argument(file.to_str().unwrap()).start().await;
    let shown = tokio::task::block_in_place(|| add_inner(&home));
    assert!(shown.contains("ready"), "{shown}");
    let (status, answer) = server.call("POST", "/tools/inner.whoami", Some(json!({}))).await;
    assert_eq!((status, &answer["isError"]), (200, &json!(false)), "{answer}");
    let other =
        tokio::task::block_in_place(|| home.done(&["servers", "list", "--url", &server.url]));
    assert!(other.contains("inner"), "{other}");
    fs_err::write(&file, r#"{"mcpServers": {}}"#).unwrap();
    tokio::task::block_in_place(|| home.done(&["servers", "reload"]));
    assert_eq!(server.get("/servers").await["total_count"], 0);
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_asked() {
    let home = Home::new();
    for arguments in [
        &["servers", "add", "x"][..],
        &["servers", "add", "x", "--url", "http://a", "--", "cat"],
        &["servers", "add", "x", "--header", "A=b", "--", "cat"],
        &["servers", "add", "x", "--base-url", "http://a", "--url", "http://b"],
        &["servers"],
    ] {
        assert_eq!(home.run(arguments).status, 2, "{arguments:?}");
    }
    let ran =
        home.run(&["servers", "add", "x", "--url", "http://127.0.0.1:9", "--header", "s3cret"]);
    assert_eq!(ran.status, 1);
    assert!(ran.stderr.contains("NAME=VALUE") && !ran.stderr.contains("s3cret"), "{}", ran.stderr);
}

#[test]
fn install_lists_the_clients_that_are_there() {
    let home = Home::new();
    let none = home.run(&["install"]);
    assert_eq!(none.status, 0);
    assert!(none.stdout.is_empty() && none.stderr.contains("cursor"), "{}", none.stderr);

    home.write(".cursor/mcp.json", r#"{"mcpServers": {"a": {"command": "x"}, "b": {"url": "y"}}}"#);
    home.write(".claude.json", "// no JSON");
    home.write(".config/Claude/other.txt", "");
    home.done(&["install", "--client", "vscode"]);
    let listed = home.run(&["install"]);
    let line = |name: &str| -> String {
        let found = listed.stdout.lines().find(|it| it.starts_with(name));
        found.unwrap_or_else(|| panic!("no {name} in {}", listed.stdout)).to_owned()
    };
    assert!(line("cursor").contains("mcp-orch: no, 2 other servers"), "{}", listed.stdout);
    assert!(line("cursor").contains(home.path(".cursor/mcp.json").to_str().unwrap()));
    assert!(line("vscode").contains("mcp-orch: yes"), "{}", listed.stdout);
    assert!(line("claude-code").contains("no plain JSON"), "{}", listed.stdout);
    assert!(line("claude-desktop").contains("no file yet"), "{}", listed.stdout);
    assert!(listed.stderr.contains("not found: cline"), "{}", listed.stderr);
}

#[test]
fn install_takes_over_the_servers_that_a_client_has() {
    let home = Home::new();
    let before = json!({"mcpServers": {
        "files": {"command": "no-such-program", "args": ["-x"], "env": {"A": "1"}, "autoApprove": ["read"]},
        "remote": {"type": "http", "url": "http://127.0.0.1:9/mcp", "headers": {"X-Key": "s3cret"}},
        "off": {"command": "x", "disabled": true},
        "mcp-orch": {"command": "mcp-orch", "args": ["stdio"]}
    }});
    home.write(".cursor/mcp.json", &before.to_string());
    let ran = home.run(&["install", "--client", "cursor", "--import"]);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert!(
        ran.stdout.contains("files: taken over") && ran.stdout.contains("off: skipped"),
        "{}",
        ran.stdout
    );
    assert!(!ran.stdout.contains("s3cret") && !ran.stderr.contains("s3cret"));
    let taken = entries(&home);
    let mut names: Vec<&String> = taken.as_object().unwrap().keys().collect();
    names.sort();
    assert_eq!(names, ["files", "remote"]);
    assert_eq!(
        (&taken["files"]["args"], &taken["files"]["env"]["A"]),
        (&json!(["-x"]), &json!("1"))
    );
    assert_eq!(taken["remote"]["headers"]["X-Key"], "s3cret");
    // Its own file still has them, and mcp-orch.
    let after: Value =
        serde_json::from_str(&fs_err::read_to_string(home.path(".cursor/mcp.json")).unwrap())
            .unwrap();
    assert_eq!(after["mcpServers"]["files"], before["mcpServers"]["files"]);
    let again = home.run(&["install", "--client", "cursor", "--import"]);
    assert!(again.stdout.contains("files: there is one of that name already"), "{}", again.stdout);
}
