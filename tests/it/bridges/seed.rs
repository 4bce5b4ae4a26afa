//! `{"command": "mcp-orch", "args": ["--mode", "proxy"]}`, as it is written into the files of Cursor and Claude.

use serde_json::json;

use super::Client;
use crate::harness::program::{Home, holder};
use crate::harness::server::Setup;
use crate::harness::{eventually, http};

fn servers(home: &Home) -> String {
    let inner = home.path("inner");
    let entry =
        json!({"command": env!("CARGO_BIN_EXE_mcp-orch"), "args": ["stdio", "--data-dir", inner]});
    json!({"mcpServers": {"inner": entry}}).to_string()
}

async fn works_with(home: &Home) {
    let mut command = home.command(&["--mode", "proxy"]);
    command.env("PROXY_PORT", "0");
    let mut client = Client::start(command).initialized().await;
    client.until_listed("inner__list_nodes").await;
    assert!(client.tools().await.contains(&"launch_instance".to_owned()));
    let answer = client.ask("tools/call", json!({"name": "inner__whoami", "arguments": {}})).await;
    assert_eq!(answer["result"]["isError"], false, "{answer}");
    // HTTP is served at the same time.
    let url = holder(&home.data_dir()).unwrap()["url"].as_str().unwrap().to_owned();
    assert!(http().get(format!("{url}/health")).send().await.unwrap().status().is_success());
    // With its client, and not only when the patience with what is under way is over.
    let started = std::time::Instant::now();
    assert!(client.close().await.success());
    assert!(started.elapsed() < std::time::Duration::from_secs(8), "{:?}", started.elapsed());
    eventually("the end of the server", || async {
        http().get(format!("{url}/health")).send().await.is_err().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_takes_the_file_of_its_working_directory() {
    let home = Home::new();
    home.write("mcp-config.json", &servers(&home));
    works_with(&home).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_takes_the_file_of_its_data_directory() {
    let home = Home::new();
    home.data_dir();
    home.write("data/mcp-config.json", &servers(&home));
    works_with(&home).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_is_published_over_http() {
    let home = Home::new();
    let inner = home.path("inner");
    let setup = ["--publish", "inner", "--", env!("CARGO_BIN_EXE_mcp-orch"), "stdio", "--data-dir"]
        .into_iter()
        .fold(Setup::no_auth(&home.data_dir()), Setup::argument)
        .argument(inner.to_str().unwrap());
    let server = setup.start().await;
    let state = || async {
        let servers = server.get("/servers").await;
        (servers["servers"][0]["state"] == "ready").then(|| servers["servers"][0].clone())
    };
    let shown = eventually("the program", state).await;
    assert_eq!(shown["name"], "inner");
    let (status, answer) = server.call("POST", "/tools/inner.whoami", Some(json!({}))).await;
    assert_eq!((status, &answer["isError"]), (200, &json!(false)), "{answer}");
    // At an address of its own, it is as if there were nothing between.
    let url = format!("{}/mcp/inner", server.url);
    let command = home.command(&["stdio", "--connect", &url]);
    let mut client = Client::start(command).initialized().await;
    let tools = client.tools().await;
    assert!(tools.contains(&"whoami".to_owned()), "{tools:?}");
    assert!(!tools.iter().any(|it| it.contains("__")), "{tools:?}");
    let answer = client.ask("tools/call", json!({"name": "whoami", "arguments": {}})).await;
    assert_eq!(answer["result"]["isError"], false, "{answer}");
    assert!(client.close().await.success());
    // A change of the file leaves it alone.
    let (status, reloaded) = server.call("POST", "/servers/reload", None).await;
    assert_eq!((status, &reloaded["unchanged"]), (200, &json!(["inner"])));
}

#[test]
fn what_to_publish_needs_both_the_word_and_the_program() {
    let home = Home::new();
    for arguments in [&["serve", "--publish"][..], &["serve", "--", "cat"]] {
        let ran = home.run(arguments);
        assert_eq!(ran.status, 2, "{}", ran.stderr);
    }
}
