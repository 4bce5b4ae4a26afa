//! `search_tools`: found over every face, among what the caller may see and nothing else, and kept up with the lists.

use serde_json::{Value, json};

use crate::harness::eventually;
use crate::harness::listed::{ADMIN, Bare, Listed, READER, before};
use crate::harness::program::Home;
use crate::harness::server::Server;
use crate::harness::upstream::Upstream;

async fn get(server: &Server, key: &str, path: &str) -> (u16, Value) {
    let request = crate::harness::http().get(format!("{}{path}", server.url)).bearer_auth(key);
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

fn names(answer: &Value) -> Vec<&str> {
    let tools = answer["tools"].as_array().unwrap_or_else(|| panic!("{answer}"));
    tools.iter().map(|it| it["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn tools_are_found_by_what_they_are_for() {
    let dir = tempfile::tempdir().unwrap();
    let files = Listed::of(&[
        ("read_file", "Gives the contents of a document.\nMore about it."),
        ("write_file", "Puts text on the disk."),
    ]);
    let server =
        before(dir.path(), &json!({"files": {"url": files.start().await}}), &json!({})).await;
    eventually("the server", || async {
        let (_, it) = get(&server, ADMIN, "/tools/files").await;
        (it["total_count"] == 2).then_some(())
    })
    .await;
    let (status, found) = get(&server, ADMIN, "/tools/search?query=show+a+document&limit=3").await;
    assert_eq!(status, 200, "{found}");
    let best = &found["tools"][0];
    assert_eq!(
        (&best["name"], &best["server"]),
        (&json!("files.read_file"), &json!("files")),
        "{found}"
    );
    assert!(best["description"].as_str().unwrap().starts_with("Gives the contents"));
    assert_eq!(best["input_schema"]["properties"]["path"]["type"], "string");
    assert!(found["tools"].as_array().unwrap().len() <= 3);
    let scores: Vec<f64> =
        found["tools"].as_array().unwrap().iter().map(|it| it["score"].as_f64().unwrap()).collect();
    assert!(scores.is_sorted_by(|a, b| a >= b) && 0.0 < scores[0], "{scores:?}");

    // The list takes a query too.
    let (status, listed) = get(&server, ADMIN, "/tools?query=show+a+document&page_size=3").await;
    assert_eq!((status, names(&listed)), (200, names(&found)));
    let (status, refusal) = get(&server, ADMIN, "/tools?query=a+file&page_token=x").await;
    assert_eq!((status, &refusal["parameter"]), (400, &json!("page_token")), "{refusal}");

    // Our own are among them, and one server can be asked for.
    let (_, found) = get(&server, ADMIN, "/tools/search?query=launch+a+container").await;
    assert_eq!(names(&found)[0], "orch.launch_instance", "{found}");
    let (_, found) = get(&server, ADMIN, "/tools/search?query=write&server=files").await;
    assert_eq!(names(&found)[0], "files.write_file");
    assert!(names(&found).iter().all(|it| it.starts_with("files.")), "{found}");
    let (status, refusal) = get(&server, ADMIN, "/tools/search?query=write&server=nobody").await;
    assert_eq!((status, &refusal["error"]), (404, &json!("NotFound")), "{refusal}");

    for (query, parameter) in [
        ("query=", "query"),
        ("limit=5", "query"),
        ("query=a&limit=0", "limit"),
        ("query=a&limit=51", "limit"),
    ] {
        let (status, refusal) = get(&server, ADMIN, &format!("/tools/search?{query}")).await;
        assert_eq!((status, &refusal["parameter"]), (400, &json!(parameter)), "{refusal}");
    }
    let (status, found) = get(&server, ADMIN, "/tools/search?query=xyzzy").await;
    assert_eq!((status, &found), (200, &json!({"tools": []})));

    let client = Bare::at(&server, "/mcp", ADMIN).await;
    let answer = client.call("search_tools", json!({"query": "show a document"})).await;
    assert_eq!(names(&answer["result"]["structuredContent"])[0], "files.read_file", "{answer}");
    let text = answer["result"]["content"][0]["text"].as_str().unwrap();
    assert!(text.contains("files.read_file") && text.contains(r#""path""#), "{text}");
}

#[test]
fn the_command_line_finds_them_too() {
    let home = Home::new();
    let found = home.call(&["search_tools", "query=launch a container", "limit=2"]);
    assert_eq!(found["tools"][0]["name"], "orch.launch_instance", "{found}");
    let table = home.done(&["call", "search_tools", "query=launch a container"]);
    assert!(table.contains("orch.launch_instance"), "{table}");
}

/// How rare a word is among all tools must not show in what somebody finds who may not see them.
#[tokio::test]
async fn what_a_caller_may_not_see_does_not_weigh() {
    let (with, without) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let secret = Listed::of(&[("list_nodes_of_the_secret_cluster", "nodes nodes cluster secret")]);
    let servers = json!({"hidden": {"url": secret.start().await}});
    let profiles = json!({"reading": {"own": true}, "none": {"servers": [], "own": true}});
    let with = before(with.path(), &servers, &profiles).await;
    let without = before(without.path(), &json!({}), &profiles).await;
    eventually("the server", || async {
        let (_, it) = get(&with, ADMIN, "/tools?server=hidden").await;
        (it["total_count"] == 1).then_some(())
    })
    .await;
    let query = "/tools/search?query=nodes+of+the+secret+cluster&limit=50";
    let (_, seen) = get(&with, ADMIN, query).await;
    assert_eq!(names(&seen)[0], "hidden.list_nodes_of_the_secret_cluster");
    // To the last digit, with the scores.
    let (_, found) = get(&with, READER, query).await;
    assert!(names(&found).contains(&"orch.list_nodes"), "{found}");
    assert_eq!(found, get(&without, READER, query).await.1);
    let (_, listed) = get(&with, READER, "/tools?page_size=200").await;
    assert!(names(&listed).iter().all(|it| it.starts_with("orch.")), "{listed}");
    // A profile that does not show it.
    let arguments = json!({"query": "nodes of the secret cluster", "limit": 50});
    let narrow = Bare::at(&with, "/mcp/none", ADMIN).await;
    let bare = Bare::at(&without, "/mcp/none", ADMIN).await;
    let found = narrow.call("search_tools", arguments.clone()).await;
    assert_eq!(found["result"], bare.call("search_tools", arguments).await["result"]);
}

#[tokio::test]
async fn a_new_tool_is_found_and_one_that_is_gone_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let upstream = Upstream::default();
    let server =
        before(dir.path(), &json!({"counting": {"url": upstream.start().await}}), &json!({})).await;
    let find = async |query: &str| get(&server, ADMIN, &format!("/tools/search?{query}")).await.1;
    eventually("the tool `strange`", || async {
        names(&find("query=strange").await).contains(&"counting.strange").then_some(())
    })
    .await;
    assert!(!names(&find("query=counting+new").await).contains(&"counting.new"));
    eventually("the tool `new`", || async {
        upstream.grow();
        names(&find("query=counting+new").await).contains(&"counting.new").then_some(())
    })
    .await;
    let (status, _) = {
        let client = crate::harness::http();
        let request = client.delete(format!("{}/servers/counting", server.url)).bearer_auth(ADMIN);
        let response = request.send().await.unwrap();
        (response.status().as_u16(), ())
    };
    assert_eq!(status, 200);
    assert!(
        names(&find("query=counting+new+strange").await).iter().all(|it| it.starts_with("orch."))
    );
}
