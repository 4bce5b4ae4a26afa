//! Who may use which tools: what the patterns of a key, a user or a token do not permit is not there, on any face.

use serde_json::{Value, json};

use crate::harness::guarded::Guarded;
use crate::harness::mcp::{self, Era, Session, request};
use crate::harness::program::Home;
use crate::harness::server::Setup;
use crate::harness::witness::Witness;

async fn two_servers() -> (Witness, Witness, Value) {
    let (files, github) = (Witness::default(), Witness::default());
    let servers = json!({
        "files": {"url": files.start().await}, "github": {"url": github.start().await}
    });
    (files, github, servers)
}

/// The same about another name is the same.
fn alike(first: &Value, name: &str, second: &Value, other: &str) {
    let with_one = |it: &Value, name: &str| it.to_string().replace(name, "NAME");
    assert_eq!(with_one(first, name), with_one(second, other));
}

#[tokio::test]
async fn what_a_key_may_not_use_is_not_there() {
    let (files, github, servers) = two_servers().await;
    let site = Guarded::start(servers, "").await;
    let all = site.key(json!({})).await;
    assert!(site.listed(&all, "tools/list", "tools").await.len() > 40);

    let tools = json!({"allow": ["files.*", "orch.list_nodes"], "deny": ["*.delete_*"]});
    let key = site.key(tools.clone()).await;
    let mut listed = site.listed(&key, "tools/list", "tools").await;
    listed.sort();
    assert_eq!(listed, ["files__read_file", "files__write_file", "list_nodes"]);
    let keys = site.server.get("/api-keys").await;
    assert!(keys["api_keys"].as_array().unwrap().iter().any(|it| it["tools"] == tools), "{keys}");

    // Called by any of its names, over any face.
    for name in ["files__read_file", "files.read_file"] {
        let answer = site.tool(&key, name, json!({})).await;
        assert_eq!(answer["result"]["isError"], false, "{answer}");
    }
    assert_eq!(
        site.rest(&key, "POST", "/tools/files.read_file", Some(json!({}))).await.status,
        200
    );
    let answer = site.tool(&key, "call_tool", json!({"name": "files.read_file"})).await;
    assert_eq!(answer["result"]["isError"], false, "what leads to tools stays open: {answer}");
    assert_eq!(files.heard("tools/call").len(), 4);

    // What is not permitted reads as what is not there.
    for (denied, missing) in [
        ("files__delete_file", "files__dalete_file"),
        ("files.delete_file", "files.dalete_file"),
        ("github__read_file", "gitbub__read_file"),
        ("github.read_file", "gitbub.read_file"),
    ] {
        let one = site.tool(&key, denied, json!({})).await;
        assert!(one["error"].is_object(), "{denied}: {one}");
        alike(&one, denied, &site.tool(&key, missing, json!({})).await, missing);
    }
    for (path, missing) in [
        ("/tools/files.delete_file", "/tools/files.dalete_file"),
        ("/tools/github.read_file", "/tools/gitbub.read_file"),
    ] {
        let one = site.rest(&key, "POST", path, Some(json!({}))).await;
        let other = site.rest(&key, "POST", missing, Some(json!({}))).await;
        assert_eq!((one.status, other.status), (404, 404));
        let said = |it: Value, a: &str, b: &str| {
            it["message"].as_str().unwrap().replace(a, "").replace(b, "")
        };
        assert_eq!(said(one.body, "github", "delete"), said(other.body, "gitbub", "dalete"));
    }
    let one = site.rest(&key, "GET", "/tools/github", None).await;
    let other = site.rest(&key, "GET", "/tools/gitbub", None).await;
    assert_eq!(one.status, 404);
    alike(&one.body, "github", &other.body, "gitbub");
    let names = site.rest(&key, "GET", "/tools", None).await.body;
    let names: Vec<&str> =
        names["tools"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["files.read_file", "files.write_file", "orch.list_nodes"]);
    let servers = site.rest(&key, "GET", "/servers", None).await.body;
    assert_eq!(
        (&servers["total_count"], &servers["servers"][0]["name"]),
        (&json!(1), &json!("files"))
    );
    assert!(github.heard("tools/call").is_empty());

    // Own operations say that they are there and not permitted.
    assert_eq!(site.rest(&key, "GET", "/cluster/nodes", None).await.status, 200);
    let refused = site.rest(&key, "GET", "/instances", None).await;
    assert_eq!(
        (refused.status, &refused.body["error"]),
        (403, &json!("Forbidden")),
        "{}",
        refused.body
    );
    assert_eq!(refused.body["operation"], "list_instances");
    let refused = site.tool(&key, "list_instances", json!({})).await;
    assert_eq!(refused["result"]["structuredContent"]["error"], "Forbidden", "{refused}");
    let refused = site.rest(&key, "POST", "/tools/orch.list_instances", Some(json!({}))).await;
    assert_eq!(refused.status, 403, "{}", refused.body);
}

#[tokio::test]
async fn resources_and_prompts_are_there_with_their_server() {
    let (_, github, servers) = two_servers().await;
    let site = Guarded::start(servers, "").await;
    let key = site.key(json!({"deny": ["github.*", "orch.*"]})).await;
    let some = site.key(json!({"deny": ["files.*", "github.write_file"]})).await;
    assert_eq!(site.listed(&key, "prompts/list", "prompts").await, ["files__summary"]);
    assert_eq!(site.listed(&key, "tools/list", "tools").await.len(), 3);
    let prompts = site.listed(&some, "prompts/list", "prompts").await;
    assert!(prompts.contains(&"github__summary".to_owned()), "{prompts:?}");
    assert!(prompts.len() > 1 && !prompts.contains(&"files__summary".to_owned()), "{prompts:?}");

    let none = json!({"deny": ["github.*", "files.*"]});
    let none = site.key(none).await;
    let about = json!({"uri": "witness://about"});
    let read = site.ask(&none, "resources/read", about.clone()).await;
    assert!(read["error"].is_object(), "{read}");
    let read = site.ask(&some, "resources/read", about).await;
    assert_eq!(read["result"]["contents"][0]["text"], "witnessed", "{read}");
    assert_eq!(github.heard("resources/read").len(), 1);
    let refused = site.ask(&key, "resources/read", json!({"uri": "cluster://status"})).await;
    assert!(refused["error"].is_object(), "own resources go with own operations: {refused}");
    let got = site.ask(&none, "prompts/get", json!({"name": "github__summary"})).await;
    assert!(got["error"].is_object(), "{got}");
}

#[tokio::test]
async fn a_change_counts_from_the_next_call_on_also_in_a_session() {
    let (files, _, servers) = two_servers().await;
    let site = Guarded::start(servers, "").await;
    let key = json!({"name": "agent", "user": "demo"});
    let (_, made) = site.server.call("POST", "/api-keys", Some(key)).await;
    let key = made["api_key"].as_str().unwrap();
    let session = Session::begin(&site.site, key).await;
    let call = request(Era::Legacy, json!(7), "tools/call", json!({"name": "files__read_file"}));
    let called = || async {
        let text = session.post(&call).send().await.unwrap().text().await.unwrap();
        text.contains("done")
    };
    assert!(called().await);
    let tools = json!({"tools": {"deny": ["files.read_*"]}});
    let (status, user) = site.server.call("PUT", "/users/demo", Some(tools.clone())).await;
    assert_eq!((status, &user["tools"]), (200, &tools["tools"]), "{user}");
    assert!(!called().await, "what its user may not, its key may not");
    let (_, user) = site.server.call("PUT", "/users/demo", Some(json!({"tools": {}}))).await;
    assert_eq!(user["tools"], json!({}));
    assert!(called().await);
    let id = made["id"].as_str().unwrap();
    let (status, _) = site.server.call("DELETE", &format!("/api-keys/{id}"), None).await;
    assert_eq!(status, 200);
    assert_eq!(session.post(&call).send().await.unwrap().status(), 401);
    assert_eq!(files.heard("tools/call").len(), 2);
}

#[tokio::test]
async fn a_limited_caller_cannot_make_itself_an_unlimited_one() {
    let site = Guarded::start(json!({}), "").await;
    let key = site.key(json!({"allow": ["orch.*"]})).await;
    for (method, path, body) in [
        ("POST", "/api-keys", json!({"name": "mine"})),
        ("POST", "/users", json!({"username": "eve", "password": "long enough 1"})),
        ("PUT", "/users/admin", json!({"tools": {}})),
    ] {
        let refused = site.rest(&key, method, path, Some(body)).await;
        assert_eq!(refused.status, 403, "{path}: {}", refused.body);
    }
    let named = site.key(json!({"allow": ["orch.create_api_key"]})).await;
    assert_eq!(
        site.rest(&named, "POST", "/api-keys", Some(json!({"name": "b"}))).await.status,
        201
    );
    for bad in [json!({"allow": []}), json!({"deny": ["nonsense"]}), json!({"alow": ["*"]})] {
        let (status, refused) =
            site.server.call("POST", "/api-keys", Some(json!({"name": "c", "tools": bad}))).await;
        assert_eq!((status, &refused["parameter"].is_string()), (400, &true), "{refused}");
    }
}

#[tokio::test]
async fn a_token_says_its_own_limits() {
    let (_, _, servers) = two_servers().await;
    let site = Guarded::start(servers, "").await;
    let login = json!({"username": "demo", "password": "demo", "tools": {"allow": ["github.read_*", "orch.whoami"]}});
    let (status, login) = site.server.call("POST", "/auth/login", Some(login)).await;
    assert_eq!(status, 200, "{login}");
    let token = login["access_token"].as_str().unwrap();
    let mut listed = site.listed(token, "tools/list", "tools").await;
    listed.sort();
    assert_eq!(listed, ["github__read_file", "whoami"]);
    let me = site.rest(token, "GET", "/auth/me", None).await.body;
    assert_eq!(me["tools"], json!([{"allow": ["github.read_*", "orch.whoami"]}]), "{me}");
    assert_eq!(
        site.rest(token, "POST", "/tools/github.write_file", Some(json!({}))).await.status,
        404
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_limits_local_callers_and_its_keys() {
    let (files, _, servers) = two_servers().await;
    let config = "security:
  local_tools:
    deny: [\"github.*\", \"orch.launch_instance\"]
  api_keys:
    - {name: ci, key: a-long-configured-key, permissions: [read, execute], tools: {allow: [\"files.read_*\"]}}
";
    // One of the servers is not there for those who wait for both.
    let mut with_one = servers.clone();
    with_one.as_object_mut().unwrap().remove("github");
    let site = Guarded::start_as(Setup::no_auth, with_one, config).await;
    let listed = site.listed("ignored", "tools/list", "tools").await;
    assert!(listed.contains(&"files__read_file".to_owned()));
    assert!(!listed.contains(&"launch_instance".to_owned()), "{listed:?}");
    let (status, refused) =
        site.server.call("POST", "/instances", Some(json!({"image": "a"}))).await;
    assert_eq!(status, 403, "{refused}");
    // The command line comes in by the socket.
    let home = Home::new();
    let data_dir = site.server.data_dir.to_str().unwrap();
    let run = |words: &[&str]| tokio::task::block_in_place(|| home.run(words));
    let ran = run(&["call", "launch_instance", "image=a", "--data-dir", data_dir]);
    assert_eq!(ran.status, 3, "{}", ran.stderr);
    assert!(ran.stderr.contains("not among the tools"), "{}", ran.stderr);
    let ran = run(&["call", "call_tool", "name=files.read_file", "--yes", "--data-dir", data_dir]);
    assert!(ran.stdout.contains("done"), "{} {}", ran.stdout, ran.stderr);
    assert_eq!(files.heard("tools/call").len(), 1);
    drop(site);

    let site = Guarded::start(servers, config).await;
    let listed = site.listed("a-long-configured-key", "tools/list", "tools").await;
    assert_eq!(listed, ["files__read_file"]);
}

#[tokio::test]
async fn no_page_elsewhere_reaches_a_server_behind() {
    let (files, _, servers) = two_servers().await;
    let site = Guarded::start_as(Setup::no_auth, servers, "").await;
    let call = request(Era::Modern, json!(1), "tools/call", json!({"name": "files__read_file"}));
    let list = request(Era::Modern, json!(1), "tools/list", json!({}));
    for message in [&call, &list] {
        for (header, value) in [
            ("host", "evil.example"),
            ("host", "localhost.evil.example:3000"),
            ("origin", "http://evil.example"),
            ("origin", "null"),
        ] {
            let request = mcp::post(&site.site, "none", message).header(header, value);
            let status = request.send().await.unwrap().status();
            assert_eq!(status, 403, "{header}: {value}");
        }
    }
    assert!(files.heard("tools/call").is_empty());
    let own = site.server.url.clone();
    let answer = mcp::post(&site.site, "none", &call).header("origin", own).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(files.heard("tools/call").len(), 1);
}

#[tokio::test]
async fn a_profile_and_a_key_both_have_to_permit() {
    let (files, github, servers) = two_servers().await;
    let config = "gateway:
  profiles:
    lazy: {lazy: true}
    plain: {transparent: files}
    other: {transparent: github}
";
    let site = Guarded::start(servers, config).await;
    let key = site.key(json!({"allow": ["files.*"], "deny": ["*.delete_*"]})).await;
    let names = async |path: &str| {
        let listed = site.ask_at(path, &key, "tools/list", json!({})).await;
        let tools =
            listed["result"]["tools"].as_array().unwrap_or_else(|| panic!("{listed}")).clone();
        tools.iter().map(|it| it["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    // Found by searching is what may be called, and nothing else.
    assert!(names("/lazy").await.contains(&"search_tools".to_owned()));
    for (key, finds) in [(&key, false), (&site.key(json!({})).await, true)] {
        for query in ["delete file", "read file"] {
            let query = json!({"name": "search_tools", "arguments": {"query": query, "limit": 20}});
            let found = site.ask_at("/lazy", key, "tools/call", query).await;
            assert_eq!(found["result"]["isError"], false, "{found}");
            let found = found.to_string();
            assert!(found.contains("read_file"), "{found}");
            assert_eq!(found.contains("github"), finds, "{found}");
            assert!(finds || !found.contains("files.delete_file"), "{found}");
        }
    }
    let call = |name: &str| json!({"name": "call_tool", "arguments": {"name": name}});
    let done = site.ask_at("/lazy", &key, "tools/call", call("files.read_file")).await;
    assert_eq!(done["result"]["isError"], false, "{done}");
    for name in ["files.delete_file", "github.read_file"] {
        let refused = site.ask_at("/lazy", &key, "tools/call", call(name)).await;
        assert_ne!(refused["result"]["isError"], false, "{refused}");
    }

    // Where one server is all there is, its own list goes through, but for what is denied.
    assert_eq!(names("/plain").await, ["read_file", "write_file"]);
    let done = site.ask_at("/plain", &key, "tools/call", json!({"name": "read_file"})).await;
    assert_eq!(done["result"]["isError"], false, "{done}");
    let refused = site.ask_at("/plain", &key, "tools/call", json!({"name": "delete_file"})).await;
    assert!(refused["error"].is_object(), "{refused}");
    let refused = site.ask_at("/other", &key, "tools/list", json!({})).await;
    assert!(refused["error"].is_object(), "{refused}");
    assert_eq!(files.heard("tools/call").len(), 2);
    assert!(github.heard("tools/call").is_empty());
}
