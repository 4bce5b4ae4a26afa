//! Verbs that read and write files: `install`, `backup` and `restore`, `nodes import`, `doctor`, `completions`.

use serde_json::{Value, json};

use crate::harness::program::Home;
use crate::harness::server::Setup;

fn json_of(path: &std::path::Path) -> Value {
    serde_json::from_str(&fs_err::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn install_adds_itself_and_keeps_everything_else() {
    let home = Home::new();
    let before = "{\n  \"b\": 1.50,\n  \"mcpServers\": {\"other\": {\"command\": \"x\"}},\n  \"a\": [ 1 ]\n}\n";
    let path = home.write(".cursor/mcp.json", before);
    home.done(&["install", "--client", "cursor"]);
    let after = fs_err::read_to_string(&path).unwrap();
    assert!(after.starts_with("{\n  \"b\": 1.50,\n"), "{after}");
    assert!(after.contains("\"a\": [ 1 ]"), "{after}");
    let servers = json_of(&path)["mcpServers"].clone();
    assert_eq!(servers["other"], json!({"command": "x"}));
    assert_eq!(servers["mcp-orch"]["args"], json!(["stdio"]));
    assert_eq!(servers["mcp-orch"]["command"], env!("CARGO_BIN_EXE_mcp-orch"));
    assert_eq!(fs_err::read_to_string(home.path(".cursor/mcp.json.bak1")).unwrap(), before);

    // Again: nothing to do, and no second backup.
    home.done(&["install", "--client", "cursor"]);
    assert_eq!(fs_err::read_to_string(&path).unwrap(), after);
    assert!(!home.path(".cursor/mcp.json.bak2").exists());
}

#[test]
fn install_makes_a_file_that_is_missing_and_leaves_one_it_cannot_read() {
    let home = Home::new();
    home.done(&["install", "--client", "vscode"]);
    let made = json_of(&home.path(".config/Code/User/mcp.json"));
    assert_eq!(made["servers"]["mcp-orch"]["type"], "stdio");

    let broken = "// mine\n{\"mcpServers\": {}}";
    let path = home.write(".config/Claude/claude_desktop_config.json", broken);
    let ran = home.run(&["install", "--client", "claude-desktop"]);
    assert_eq!(ran.status, 1);
    assert!(
        ran.stderr.contains("was left as it is") && ran.stderr.contains("--print"),
        "{}",
        ran.stderr
    );
    assert_eq!(fs_err::read_to_string(path).unwrap(), broken);

    let printed: Value =
        serde_json::from_str(&home.done(&["install", "--client", "claude-code", "--print"]))
            .unwrap();
    assert_eq!(printed["mcpServers"]["mcp-orch"]["args"], json!(["stdio"]));
    assert!(!home.path(".claude.json").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_a_running_server_is_restored_elsewhere() {
    let home = Home::new();
    let server = Setup::demo(&home.data_dir()).start().await;
    let file = home.path("state.backup");
    let other = home.path("other");
    tokio::task::block_in_place(|| {
        home.add_simulated_node();
        home.done(&["backup", file.to_str().unwrap()]);
        // What comes after the backup is not in it.
        home.call(&["register_node", "hostname=later", "engine=sim"]);
        let arguments = ["restore", file.to_str().unwrap(), "--data-dir", other.to_str().unwrap()];
        home.done(&arguments);
        let arguments =
            ["call", "list_nodes", "--output", "json", "--data-dir", other.to_str().unwrap()];
        let nodes: Value = serde_json::from_str(&home.done(&arguments)).unwrap();
        let ids: Vec<&str> = nodes["nodes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| it["id"].as_str().unwrap())
            .collect();
        assert_eq!(ids.iter().filter(|it| **it != "local").collect::<Vec<_>>(), [&"sim-1"]);

        // Never over what is there, nor under a server that runs.
        let ran =
            home.run(&["restore", file.to_str().unwrap(), "--data-dir", other.to_str().unwrap()]);
        assert!(ran.status == 1 && ran.stderr.contains("there is a database"), "{}", ran.stderr);
        let ran = home.run(&["restore", file.to_str().unwrap()]);
        assert!(
            ran.status == 1 && ran.stderr.contains("in use by another mcp-orch"),
            "{}",
            ran.stderr
        );
    });
    drop(server);
}

#[test]
fn a_backup_without_a_server_and_a_file_that_is_none() {
    let home = Home::new();
    home.add_simulated_node();
    let file = home.path("state.backup");
    home.done(&["backup", file.to_str().unwrap()]);
    let mut text = fs_err::read_to_string(&file).unwrap();
    text.truncate(text.len() / 2);
    fs_err::write(&file, text).unwrap();
    let empty = home.path("empty");
    let ran = home.run(&["restore", file.to_str().unwrap(), "--data-dir", empty.to_str().unwrap()]);
    assert!(ran.status == 1 && ran.stderr.contains("not a whole backup"), "{}", ran.stderr);
    assert!(!empty.join("store").exists());
}

#[test]
fn a_backup_makes_no_data_directory_and_replaces_no_file_unasked() {
    let home = Home::new();
    let file = home.path("state.backup");
    let file = file.to_str().unwrap();
    let mistyped = home.path("dat");
    let ran = home.run(&["backup", file, "--data-dir", mistyped.to_str().unwrap()]);
    assert!(ran.status == 1 && ran.stderr.contains("no state of mcp-orch in"), "{}", ran.stderr);
    assert!(!mistyped.exists() && !std::path::Path::new(file).exists());

    home.add_simulated_node();
    fs_err::write(file, "precious").unwrap();
    let ran = home.run(&["backup", file]);
    assert!(ran.status == 1 && ran.stderr.contains("`--force`"), "{}", ran.stderr);
    assert_eq!(fs_err::read_to_string(file).unwrap(), "precious");
    home.done(&["backup", file, "--force"]);
    assert!(fs_err::read_to_string(file).unwrap().contains("mcp-orch backup"));
}

#[test]
fn importing_nodes_names_what_failed_and_why() {
    let home = Home::new();
    let seed = r#"{"nodes": {
        "node-01": {"id": "node-01", "hostname": "camp-1", "tailscale_ip": "127.0.0.1", "ssh": {"port": 1}, "cpu_cores": 4, "memory_gb": 8},
        "node-02": {"id": "node-02", "hostname": "camp-2", "engine": "sim", "role": "storage", "tags": ["disk"]}
    }}"#;
    let file = home.write("nodes.json", seed);
    let file = file.to_str().unwrap();
    // Nobody listens on port 1 of this machine.
    let ran = home.run(&["nodes", "import", file]);
    let said = format!("{}{}", ran.stdout, ran.stderr);
    assert_ne!(ran.status, 0, "{said}");
    assert!(said.contains("node-01: failed: NodeUnreachable"), "{said}");
    assert!(said.contains("1 registered, 0 already there, 0 skipped, 1 failed"), "{said}");
    assert_eq!(home.call(&["get_node", "node_id=node-02"])["role"], "storage");
    let said = home.done(&["nodes", "import", file, "--engine", "sim"]);
    assert!(said.contains("1 registered, 1 already there, 0 skipped, 0 failed"), "{said}");
}

#[test]
fn doctor_says_what_is_missing_and_what_to_do() {
    let home = Home::new();
    let ran = home.run(&["doctor"]);
    assert_eq!(ran.status, 0, "{}{}", ran.stdout, ran.stderr);
    for part in
        ["ok   version", "ok   config", "note docker", "hint: install one", "none runs", "ports"]
    {
        assert!(ran.stdout.contains(part), "{part} is not in: {}", ran.stdout);
    }
    // The database is looked at, and a mistake in the configuration is a finding.
    home.add_simulated_node();
    assert!(home.done(&["doctor"]).contains("database    whole"));
    home.write(".config/mcp-orch/config.yaml", "sever: {}\n");
    let ran = home.run(&["doctor"]);
    assert!(ran.status == 1 && ran.stdout.contains("FAIL config"), "{}", ran.stdout);
}

#[test]
fn completions_know_the_verbs() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = home.done(&["completions", shell]);
        assert!(script.contains("launch") || script.contains("install"), "{shell}");
    }
}
