//! The real binary before the protocol's own judges: the conformance suite of both revisions, the inspector, and the
//! Python client, over HTTP and stdio. `scripts/official-clients` installs them.

mod fixtures;

use std::path::Path;

use serde_json::{Value, json};
use tokio::process::Command;

use self::fixtures::{Excuse, excuses};
use crate::harness::official::{installed, judged, run, text_of};
use crate::harness::server::{Server, Setup};

/// Everybody is the administrator, and there is a simulated node `sim-1`, slow enough to have progress to tell of.
async fn serve(data_dir: &Path) -> Server {
    let server = Setup::no_auth(data_dir).start().await;
    let node = json!({
        "id": "sim-1", "hostname": "sim-1", "engine": "sim",
        "sim": {"pull_delay_ms": 200, "start_delay_ms": 50},
    });
    let (status, answer) = server.call("POST", "/cluster/nodes", Some(node)).await;
    assert_eq!(status, 201, "{answer}");
    server
}

async fn conforms_to(revision: &str, n_passed_at_least: usize) {
    let Some(folder) = installed() else { return };
    let data_dir = tempfile::tempdir().unwrap();
    let server = serve(data_dir.path()).await;
    let verdict = judged(folder, &format!("{}/mcp", server.url), revision).await;
    let (n_passed, mut failed) = (verdict.n_passed, verdict.failed);
    for Excuse { scenario, checks, needs } in excuses(revision) {
        let excused: Vec<(String, String)> = failed
            .keys()
            .filter(|(of, check)| {
                of == scenario && (checks.is_empty() || checks.contains(&check.as_str()))
            })
            .cloned()
            .collect();
        let n_expected = checks.len().max(1);
        assert!(
            n_expected <= excused.len(),
            "{revision}: {scenario} passes more than was thought and needs its excuse ({needs:?}) no more: {excused:?}"
        );
        excused.iter().for_each(|it| drop(failed.remove(it)));
    }
    assert!(failed.is_empty(), "{revision}: {failed:#?}");
    assert!(n_passed_at_least <= n_passed, "{revision}: only {n_passed} checks were made");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_conforms_to_2026_07_28() {
    conforms_to("2026-07-28", 100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_conforms_to_2025_11_25() {
    conforms_to("2025-11-25", 40).await;
}

/// The inspector, with a configuration that reaches one server in two ways.
struct Inspector<'a> {
    folder: &'a Path,
    home: &'a Path,
}

impl Inspector<'_> {
    fn new<'a>(folder: &'a Path, home: &'a Path, server: &Server) -> Inspector<'a> {
        let arguments = ["stdio", "--data-dir", home.to_str().unwrap()];
        let stdio = json!({"command": env!("CARGO_BIN_EXE_mcp-orch"), "args": arguments});
        let http = json!({"type": "streamable-http", "url": format!("{}/mcp", server.url)});
        let config = json!({"mcpServers": {"stdio": stdio, "http": http}});
        fs_err::write(home.join("inspector.json"), config.to_string()).unwrap();
        Inspector { folder, home }
    }

    async fn ask(&self, way: &str, era: &str, arguments: &[&str]) -> (i32, Value) {
        let launcher =
            "node_modules/@modelcontextprotocol/inspector/clients/launcher/build/index.js";
        let mut command = Command::new(self.folder.join("node"));
        command.arg(self.folder.join(launcher)).arg("--cli");
        command.arg("--config").arg(self.home.join("inspector.json")).args(["--server", way]);
        command.args(["--protocol-era", era]).args(arguments);
        // It keeps files of its own at home.
        let output = run(command.env("HOME", self.home), "the inspector").await;
        let code = output.status.code().unwrap_or(-1);
        let answer = serde_json::from_slice(&output.stdout);
        (
            code,
            answer.unwrap_or_else(|err| {
                panic!("{way} {era} {arguments:?}: {err}\n{}", text_of(&output))
            }),
        )
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_inspector_is_content() {
    let Some(folder) = installed() else { return };
    let home = tempfile::tempdir().unwrap();
    let server = serve(home.path()).await;
    let inspector = Inspector::new(folder, home.path(), &server);
    for way in ["http", "stdio"] {
        for era in ["modern", "legacy"] {
            let ask = async |arguments: &[&str]| inspector.ask(way, era, arguments).await;
            let (code, listed) = ask(&["--method", "tools/list", "--strict"]).await;
            assert_eq!(code, 0, "{way} {era}: a schema that clients refuse");
            assert!(30 < listed["tools"].as_array().unwrap().len(), "{listed}");
            let call = ["--method", "tools/call", "--tool-name", "list_nodes"];
            let (code, nodes) = ask(&call).await;
            assert_eq!((code, &nodes["isError"]), (0, &json!(false)), "{nodes}");
            // Refused by us, and shown as we said it: its own check of the schema did not come between.
            let call =
                ["--method", "tools/call", "--tool-name", "get_node", "--tool-arg", "node_id=n9"];
            let (code, refusal) = ask(&call).await;
            assert_eq!((code, &refusal["isError"]), (5, &json!(true)), "{refusal}");
            assert_eq!(refusal["structuredContent"]["error"], "NotFound");
            let (code, resources) = ask(&["--method", "resources/list"]).await;
            assert_eq!((code, &resources["resources"][0]["uri"]), (0, &json!("cluster://status")));
            let (code, prompts) = ask(&["--method", "prompts/list"]).await;
            assert_eq!((code, prompts["prompts"].as_array().unwrap().len()), (0, 4));
        }
    }
}

/// Our operations ask for the model of a client, whichever way its library has of being asked.
#[tokio::test(flavor = "multi_thread")]
async fn the_python_client_lends_its_model() {
    let Some(folder) = installed() else { return };
    let data_dir = tempfile::tempdir().unwrap();
    let server = serve(data_dir.path()).await;
    let url = format!("{}/mcp", server.url);
    let data_dir = data_dir.path().to_str().unwrap();
    let stdio = [env!("CARGO_BIN_EXE_mcp-orch"), "stdio", "--data-dir", data_dir];
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/official_clients/model.py");
    for target in [&[url.as_str()][..], &stdio[..]] {
        for (mode, version) in [("auto", "2026-07-28"), ("legacy", "2025-11-25")] {
            let mut client = Command::new(folder.join("venv/bin/python"));
            let output = run(client.arg(&script).arg(mode).args(target), "the Python client").await;
            assert!(output.status.success(), "{mode}: {}", text_of(&output));
            let seen: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(
                (&seen["version"], &seen["answer"]),
                (&json!(version), &json!("It is sim-1."))
            );
            assert!(2 <= seen["n_asked"].as_u64().unwrap(), "a plan and an answer: {seen}");
        }
    }
    let batches = server.get("/batch").await;
    assert_eq!(batches["total_count"], 4, "{batches}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_client_does_the_main_job() {
    let Some(folder) = installed() else { return };
    let data_dir = tempfile::tempdir().unwrap();
    let server = serve(data_dir.path()).await;
    let url = format!("{}/mcp", server.url);
    let data_dir = data_dir.path().to_str().unwrap();
    let stdio = [env!("CARGO_BIN_EXE_mcp-orch"), "stdio", "--data-dir", data_dir];
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/official_clients/client.py");
    for (way, target) in [("http", &[url.as_str()][..]), ("stdio", &stdio[..])] {
        for (mode, version) in [("auto", "2026-07-28"), ("legacy", "2025-11-25")] {
            let mut client = Command::new(folder.join("venv/bin/python"));
            client.arg(&script).args([mode, &format!("{way}-{mode}")]).args(target);
            let output = run(&mut client, "the Python client").await;
            assert!(output.status.success(), "{way} {mode}: {}", text_of(&output));
            let seen: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(seen["version"], version, "{way} {mode}");
        }
    }
    let left = server.get("/instances?state=running").await;
    assert_eq!(left["total_count"], 0, "{left}");
}
