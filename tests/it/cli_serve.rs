//! `mcp-orch serve`: who may have the data directory, who may log in, where it listens, and how it ends.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::eventually;
use crate::harness::program::{Home, Ran, holder, ran};
use crate::harness::server::{Server, Setup};

fn in_place<T>(work: impl FnOnce() -> T) -> T {
    tokio::task::block_in_place(work)
}

async fn login(server: &Server, name: &str, password: &str) -> (u16, serde_json::Value) {
    let body = json!({"username": name, "password": password});
    server.call("POST", "/auth/login", Some(body)).await
}

/// The value that a start shows behind `label`.
fn shown(log: &str, label: &str) -> Option<String> {
    let line = log.lines().find_map(|it| it.trim().strip_prefix(label).map(str::trim))?;
    Some(line.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_server_is_told_of_the_first() {
    let home = Home::new();
    let server = Setup::demo(&home.data_dir()).start().await;
    let second = in_place(|| home.run(&["serve", "--port", "0"]));
    assert_eq!(second.status, 1);
    let port = server.url.rsplit(':').next().unwrap();
    let wanted =
        format!("(pid {}, port {port}, version {})", server.pid(), env!("CARGO_PKG_VERSION"));
    assert!(second.stderr.contains(&wanted), "{wanted} is not in: {}", second.stderr);
    assert!(second.stderr.contains("hint: use that one at http://127.0.0.1:"), "{}", second.stderr);
    assert!(second.stderr.contains("--data-dir"), "{}", second.stderr);
    // The first goes on, and after its end the directory is free, however it ended.
    assert_eq!(server.get("/health").await["status"], "ok");
    server.kill();
    Setup::demo(&home.data_dir()).start().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_start_shows_credentials_that_work_and_later_ones_do_not() {
    let home = Home::new();
    let server = Setup::plain(&home.data_dir()).start().await;
    // Its stderr is no terminal, so what is secret does not go there. It is said after the server is there.
    let file = home.data_dir().join("first-login.txt");
    let log = eventually("word of the credentials", || async {
        Some(server.log()).filter(|it| it.contains("first-login.txt"))
    })
    .await;
    assert!(log.contains(file.to_str().unwrap()) && !log.contains("password"), "{log}");
    let mode = fs_err::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let kept = fs_err::read_to_string(&file).unwrap();
    let password = shown(&kept, "password").unwrap_or_else(|| panic!("{kept}"));
    let key = shown(&kept, "API key").unwrap();
    assert!(20 <= password.len());
    let (status, answer) = login(&server, "admin", &password).await;
    assert_eq!((status, &answer["token_type"]), (200, &json!("bearer")));
    assert_eq!(login(&server, "admin", "admin").await.0, 401);
    assert_eq!(login(&server, "demo", "demo").await.0, 401);
    let arguments = ["call", "whoami", "--url", &server.url, "--api-key", &key];
    assert_eq!(in_place(|| home.run(&arguments)).status, 0);

    fs_err::remove_file(server.kill().join("server.log")).unwrap();
    fs_err::remove_file(&file).unwrap();
    let server = Setup::plain(&home.data_dir()).start().await;
    assert!(!server.log().contains("credentials") && !file.exists(), "{}", server.log());
    assert_eq!(login(&server, "admin", &password).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_stdio_made_gets_its_password_at_the_first_serve() {
    let home = Home::new();
    let ran = in_place(|| home.run(&["call", "whoami"]));
    assert!(!ran.stderr.contains("password"), "{}", ran.stderr);
    let server = Setup::plain(&home.data_dir()).start().await;
    let kept = fs_err::read_to_string(home.data_dir().join("first-login.txt")).unwrap();
    let password = shown(&kept, "password").unwrap();
    assert_eq!(login(&server, "admin", &password).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_lets_everybody_in_says_so() {
    let home = Home::new();
    let demo = Setup::demo(&home.data_dir()).start().await;
    assert!(demo.log().contains("DEMO      demo/demo"), "{}", demo.log());
    assert!(!demo.log().contains("NO LOGIN"), "{}", demo.log());
    drop(demo);
    let open = Setup::no_auth(&home.data_dir()).start().await;
    assert!(open.log().contains("NO LOGIN  everybody"), "{}", open.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_demo_leaves_lets_nobody_in() {
    let home = Home::new();
    let demo = Setup::demo(&home.data_dir()).start().await;
    let (_, answer) = login(&demo, "admin", "admin").await;
    let token = answer["access_token"].as_str().unwrap().to_owned();
    demo.kill();
    let server = Setup::plain(&home.data_dir()).start().await;
    assert_eq!(login(&server, "admin", "admin").await.0, 401);
    assert_eq!(login(&server, "demo", "demo").await.0, 401);
    // Neither the header of the demo nor a token from it.
    assert_eq!(server.call("GET", "/instances", None).await.0, 401);
    let arguments = ["call", "whoami", "--url", &server.url, "--api-key", &token];
    assert_ne!(in_place(|| home.run(&arguments)).status, 0);
}

#[test]
fn without_authentication_it_listens_on_loopback_only() {
    let home = Home::new();
    for flag in ["--no-auth", "--demo"] {
        for host in ["0.0.0.0", "::"] {
            let ran = home.run(&["serve", "--port", "0", "--host", host, flag]);
            assert_eq!(ran.status, 1, "{flag} on {host}");
            assert!(ran.stderr.contains("refused to listen on"), "{}", ran.stderr);
        }
    }
    // The same by the file, and by the environment.
    home.write(".config/mcp-orch/config.yaml", "security:\n  enable_auth: false\n");
    let ran = ran(home.command(&["serve", "--port", "0"]).env("HOST", "0.0.0.0"));
    assert!(ran.stderr.contains("refused to listen on"), "{}", ran.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_term_signal_lets_calls_end_and_gives_everything_back() {
    let home = Home::new();
    let data_dir = home.data_dir();
    let server = Setup::demo(&data_dir).start().await;
    let socket = data_dir.join("mcp-orch.sock");
    assert!(socket.exists());
    in_place(|| signal("TERM", server.pid()));
    let started = Instant::now();
    let status = in_place(|| server.wait());
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert!(!socket.exists());
}

fn signal(name: &str, pid: u32) {
    let status = Command::new("kill").args([format!("-{name}"), pid.to_string()]).status().unwrap();
    assert!(status.success());
}

#[test]
fn a_mistake_in_the_configuration_is_told_and_nothing_is_begun() {
    let home = Home::new();
    let starts = |ran: Ran, parts: &[&str]| {
        assert_eq!(ran.status, 1);
        for part in parts {
            assert!(ran.stderr.contains(part), "{part} is not in: {}", ran.stderr);
        }
    };
    let file = home.write("mine.yaml", "server:\n  prot: 3000\n");
    let arguments = ["serve", "--config", file.to_str().unwrap()];
    starts(home.run(&arguments), &["mine.yaml", "`server.prot`", "`port`"]);
    starts(
        home.run(&["serve", "--config", "nowhere.yaml"]),
        &["nowhere.yaml", "could not be read"],
    );
    starts(
        ran(home.command(&["stdio"]).env("LOG_LEVEL", "loud")),
        &["environment variable `LOG_LEVEL`"],
    );
    let file = home.write("mcp-config.json", r#"{"mcpServers": {"a": {"cmd": "x"}}}"#);
    starts(home.run(&["serve", "--port", "0"]), &["mcp-config.json", "`mcpServers.a`", "`cmd`"]);
    fs_err::remove_file(file).unwrap();
    assert!(holder(&home.data_dir()).is_none(), "nothing was opened");
}

#[test]
fn a_port_in_use_is_told_with_what_to_do() {
    let home = Home::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let ran = home.run(&["serve", "--port", &port]);
    assert_eq!(ran.status, 1);
    assert!(ran.stderr.contains(&format!("127.0.0.1:{port}")), "{}", ran.stderr);
    assert!(ran.stderr.contains("hint: choose another port with `--port`"), "{}", ran.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_the_configuration_may_do_what_is_written_there() {
    let home = Home::new();
    let config = home.write(
        "keys.yaml",
        "security:\n  api_keys:\n    - {name: reader, key: just-for-reading, permissions: [read]}\n",
    );
    let server = Setup::plain(&home.data_dir())
        .argument("--config")
        .argument(config.to_str().unwrap())
        .start()
        .await;
    let call = |words: &[&str]| {
        let target = ["--url", &server.url, "--api-key", "just-for-reading"];
        in_place(|| home.run(&[&["call"], words, &target].concat()))
    };
    assert_eq!(call(&["list_instances"]).status, 0);
    // What it may not do is not shown to it, and refused with the reason.
    let refused = call(&["launch_instance", "image=demo:1"]);
    assert_eq!(refused.status, 3, "{}", refused.stderr);
    assert!(refused.stderr.starts_with("error: Forbidden: "), "{}", refused.stderr);
    assert!(refused.stderr.contains("`write`"), "{}", refused.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn quotas_and_nodes_of_the_configuration_are_there_after_the_start() {
    let home = Home::new();
    home.write(
        "nodes.json",
        r#"{"nodes": {"n1": {"hostname": "n1", "engine": "sim", "cpu_cores": 4, "memory_gb": 8}}}"#,
    );
    let config = home.write(
        "fleet.yaml",
        &format!(
            "cluster:\n  nodes_file: {}\ncompute:\n  quotas:\n    demo: {{instances: 2, cpu: 1, memory: 1}}\n",
            home.path("nodes.json").display()
        ),
    );
    let setup =
        Setup::demo(&home.data_dir()).argument("--config").argument(config.to_str().unwrap());
    let server = setup.start().await;
    let node = crate::harness::eventually("the node is registered", async || {
        let (status, node) = server.call("GET", "/cluster/nodes/n1", None).await;
        (status == 200).then_some(node)
    })
    .await;
    assert_eq!(node["engine"], "sim");
    let quota = server.asked_by("user-demo-001").get("/auth/quota").await;
    assert_eq!(quota["limits"]["instances"], 2, "{quota}");
}

#[test]
fn a_damaged_database_is_refused_and_left_as_it_is() {
    let home = Home::new();
    home.add_simulated_node();
    let database = home.data_dir().join("store");
    let damaged: Vec<_> = files_under(&database).into_iter().filter(|it| 0 < size_of(it)).collect();
    for file in &damaged {
        let half = size_of(file) / 2;
        std::fs::File::options().write(true).open(file).unwrap().set_len(half).unwrap();
    }
    let sizes: Vec<u64> = damaged.iter().map(|it| size_of(it)).collect();
    for arguments in [&["serve", "--port", "0"][..], &["stdio"], &["call", "whoami"]] {
        let ran = home.run(arguments);
        assert_eq!(ran.status, 1, "{arguments:?}");
        assert!(ran.stderr.contains("damaged"), "{}", ran.stderr);
        assert!(ran.stderr.contains("mcp-orch restore FILE"), "{}", ran.stderr);
    }
    assert_eq!(sizes, damaged.iter().map(|it| size_of(it)).collect::<Vec<_>>());
}

fn size_of(file: &std::path::Path) -> u64 {
    fs_err::metadata(file).unwrap().len()
}

fn files_under(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let paths = fs_err::read_dir(dir).unwrap().map(|it| it.unwrap().path());
    paths.flat_map(|it| if it.is_dir() { files_under(&it) } else { vec![it] }).collect()
}
