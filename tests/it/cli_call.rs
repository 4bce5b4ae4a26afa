//! `mcp-orch call`: in this process, through the socket of a running server, and over HTTP.

use serde_json::json;

use crate::harness::program::{Home, ran};
use crate::harness::server::Setup;
use crate::harness::{docker, image};

#[test]
fn without_a_server_the_call_is_answered_in_this_process_and_kept() {
    let home = Home::new();
    home.add_simulated_node();
    let launched = home.call(&[
        "launch_instance",
        "name=web",
        "image=demo:1",
        "ports=80,443",
        "cpu=0.5",
        "env.GREETING=hello",
        "labels.team=a",
        "wait=true",
    ]);
    assert_eq!(launched["state"], "running", "{launched}");
    assert_eq!(launched["ports"].as_array().unwrap().len(), 2);
    assert_eq!(launched["labels"], json!({"team": "a"}));
    let listed = home.call(&["list_instances"]);
    assert_eq!(listed["instances"][0]["id"], launched["id"]);
    let id = format!("id={}", launched["id"].as_str().unwrap());
    assert_eq!(home.call(&["terminate_instance", &id])["state"], "terminated");
}

#[test]
fn an_answer_is_a_table_a_text_or_json() {
    let home = Home::new();
    home.add_simulated_node();
    let table = home.done(&["call", "list_nodes"]);
    let header = table.lines().next().unwrap();
    assert!(header.starts_with("ID ") && header.contains("STATUS"), "{table}");
    assert!(table.contains("sim-1") && table.contains("simulated"), "{table}");
    assert!(home.done(&["call", "whoami"]).starts_with("You are `admin`"));
    assert_eq!(home.call(&["whoami"])["username"], "admin");
}

#[test]
fn exit_status_and_stderr_tell_a_mistake_from_a_refusal() {
    let home = Home::new();
    let ran = home.run(&["call", "lanch_instance", "image=demo:1"]);
    assert_eq!((ran.status, ran.stdout.as_str()), (1, ""));
    assert!(ran.stderr.contains("did you mean `launch_instance`"), "{}", ran.stderr);

    let ran = home.run(&["call", "launch_instance", "imge=demo:1"]);
    assert_eq!(ran.status, 1);
    assert!(ran.stderr.contains("did you mean `image`?"), "{}", ran.stderr);

    let ran = home.run(&["call", "launch_instance", "image=demo:1", "count=many"]);
    assert!(ran.stderr.contains("`count`: `many` is not a whole number"), "{}", ran.stderr);

    let ran = home.run(&["call", "get_instance", "id=i-00000000000000000"]);
    assert_eq!((ran.status, ran.stdout.as_str()), (3, ""));
    assert!(ran.stderr.starts_with("error: NotFound: "), "{}", ran.stderr);

    let ran = home.run(&["call", "get_instance", "id=i-00000000000000000", "-o", "json"]);
    let error: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((ran.status, &error["error"]), (3, &json!("NotFound")));

    let ran = home.run(&["call", "whoami", "--url", "http://127.0.0.1:1"]);
    assert_eq!(ran.status, 1);
    assert!(ran.stderr.contains("nothing answers at"), "{}", ran.stderr);

    assert_eq!(home.run(&["call"]).status, 2);
    assert_eq!(home.run(&["call", "whoami", "--output", "xml"]).status, 2);
}

#[tokio::test]
async fn what_cannot_be_undone_is_asked_for_and_without_a_terminal_needs_a_yes() {
    let home = Home::new();
    // Simulated instances are there for as long as a server is.
    let _server = Setup::demo(&home.data_dir()).start().await;
    home.add_simulated_node();
    let launched =
        home.call(&["launch_instance", "name=precious", "image=demo:1", "node_id=sim-1"]);
    let id = launched["id"].as_str().unwrap();
    let word = format!("id={id}");
    let is_there = || home.call(&["get_instance", &word])["state"] == "running";

    let ran = home.run(&["call", "terminate_instance", &word]);
    assert_eq!((ran.status, ran.stdout.as_str()), (2, ""), "{}", ran.stderr);
    assert!(
        ran.stderr.contains(&format!("call terminate_instance {word} --yes`")),
        "{}",
        ran.stderr
    );
    assert!(is_there());

    // `script` runs it on a terminal and passes on what is typed.
    let at_a_terminal = |typed: &str| {
        let program = env!("CARGO_BIN_EXE_mcp-orch");
        let command_line = format!("{program} call terminate_instance {word}");
        let mut script = home.command(&[]);
        let mut on_terminal = std::process::Command::new("script");
        on_terminal.args(["-qec", &command_line, "/dev/null"]).current_dir(home.path(""));
        on_terminal.env_clear().envs(script.get_envs().filter_map(|(key, it)| Some((key, it?))));
        script = on_terminal;
        script.env("PATH", "/usr/bin:/bin").env("SHELL", "/bin/sh");
        script.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        let mut child = script.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        std::io::Write::write_all(&mut stdin, typed.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        drop(stdin);
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    let (status, shown) = at_a_terminal("n\n");
    assert!(shown.contains(id) && shown.contains("`precious`"), "the question names it: {shown}");
    assert!(shown.contains("nothing was done"), "{shown}");
    assert_eq!(status, 1);
    assert!(is_there());
    let (status, shown) = at_a_terminal("y\n");
    assert_eq!(status, 0, "{shown}");
    assert!(!is_there());
}

#[test]
fn what_keeps_a_call_from_a_server_is_said() {
    let home = Home::new();
    let says = |url: &str, words: &[&str]| {
        let ran = home.run(&["call", "whoami", "--url", url]);
        assert_eq!(ran.status, 1, "{url}");
        for word in words {
            assert!(ran.stderr.contains(word), "{url}: {}", ran.stderr);
        }
        assert!(!ran.stderr.contains("Transport ["), "{}", ran.stderr);
    };
    says("http://127.0.0.1:1", &["nothing answers at"]);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // Something that speaks another protocol.
    let other = std::thread::spawn(move || {
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().unwrap();
            let mut read = [0; 16];
            std::io::Read::read_exact(&mut stream, &mut read).unwrap();
            std::io::Write::write_all(&mut stream, b"SSH-2.0-OpenSSH_9.2\r\n").unwrap();
        }
    });
    says(&format!("http://127.0.0.1:{port}"), &["no connection to", "HTTP"]);
    says(&format!("https://127.0.0.1:{port}"), &["no connection to", "certificate"]);
    other.join().unwrap();
}

#[test]
fn arguments_come_as_json_from_a_file_or_from_words_over_it() {
    let home = Home::new();
    home.add_simulated_node();
    home.write("launch.json", r#"{"image": "demo:1", "name": "from-file", "count": 1}"#);
    let launched = home.call(&["launch_instance", "--json", "@launch.json", "name=from-word"]);
    assert_eq!((&launched["name"], &launched["image"]), (&json!("from-word"), &json!("demo:1")));
    let ran = home.run(&["call", "launch_instance", "--json", "[1]"]);
    assert!(ran.stderr.contains("`--json` has to be a JSON object"), "{}", ran.stderr);
}

#[test]
fn several_mistakes_and_what_is_missing_are_told_before_anything_is_sent() {
    let ran = Home::new().run(&["call", "launch_instance", "cuont=2", "cpu=much"]);
    assert_eq!(ran.status, 1);
    for part in
        ["3 mistakes", "did you mean `count`?", "`much` is not a number", "`image` is required"]
    {
        assert!(ran.stderr.contains(part), "{part}: {}", ran.stderr);
    }
}

/// On a real engine: simulated programs write nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_followed_to_the_end_of_its_instance() {
    if docker::connect().await.is_none() {
        return;
    }
    let home = Home::new();
    let server = Setup::demo(&home.data_dir()).start().await;
    let script = "command=sh -c 'echo one; echo two; sleep 1; echo three, last; exec sleep 1'";
    let image = format!("image={}", image::IMAGE);
    let (followed, refused) = tokio::task::block_in_place(|| {
        let launched = home.call(&["launch_instance", &image, script, "node_id=local"]);
        let id = format!("id={}", launched["id"].as_str().unwrap());
        let followed = home.run(&["call", "instance_logs", &id, "follow=true"]);
        home.call(&["terminate_instance", &id]);
        (followed, home.run(&["call", "instance_logs", "id=i-00000000000000000", "follow=true"]))
    });
    assert_eq!((followed.status, followed.stdout.as_str()), (0, "one\ntwo\nthree, last\n"));
    assert_eq!(refused.status, 3);
    assert!(refused.stderr.starts_with("error: NotFound"), "{}", refused.stderr);
    // The server's log has a line for each change that was made.
    for change in ["done: launch_instance i-", "done: terminate_instance i-"] {
        assert!(server.log().contains(change), "{}", server.log());
    }
}

#[test]
fn tools_lists_the_catalogue() {
    let listed = Home::new().done(&["tools"]);
    let names: Vec<&str> = listed.lines().filter_map(|it| it.split_whitespace().next()).collect();
    let wanted: Vec<&str> = orch_core::ops::catalogue().iter().map(|it| it.spec.name).collect();
    assert_eq!(names, wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_server_the_call_goes_to_it_by_its_socket_or_its_url() {
    let home = Home::new();
    let server = Setup::demo(&home.data_dir()).start().await;
    tokio::task::block_in_place(|| home.add_simulated_node());
    let node = server.get("/cluster/nodes/sim-1").await;
    assert_eq!(node["engine"], "sim", "{node}");

    // Audit tells a person at a terminal from an agent.
    let audit = server.get("/audit?operation=register_node").await;
    assert_eq!(audit["entries"][0]["channel"], "cli", "{audit}");

    let nobody =
        tokio::task::block_in_place(|| home.run(&["call", "list_nodes", "--url", &server.url]));
    assert_eq!(nobody.status, 1, "{}", nobody.stdout);
    assert!(nobody.stderr.contains("does not know you"), "{}", nobody.stderr);
    assert!(nobody.stderr.contains("hint: give an API key"), "{}", nobody.stderr);

    let login = json!({"username": "demo", "password": "demo"});
    let (_, login) = server.call("POST", "/auth/login", Some(login)).await;
    let token = login["access_token"].as_str().unwrap();
    let mut command = home.command(&[
        "call",
        "whoami",
        "--url",
        &server.url,
        "--output",
        "json",
        "--api-key",
        token,
    ]);
    let ran = tokio::task::block_in_place(|| ran(&mut command));
    let me: serde_json::Value =
        serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{}", ran.stderr));
    assert_eq!(me["username"], "demo");
}

#[test]
fn calls_at_the_same_time_share_one_state_without_a_server() {
    let home = Home::new();
    let calls: Vec<_> = (0..6)
        .map(|n| {
            let hostname = format!("hostname=n{n}");
            let mut command = home.command(&["call", "register_node", &hostname, "engine=sim"]);
            command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
            command.spawn().unwrap()
        })
        .collect();
    for call in calls {
        let output = call.wait_with_output().unwrap();
        // Each serves the others until it is done, and hands over what it has not begun.
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let nodes = home.call(&["list_nodes"]);
    assert_eq!(nodes["total_count"], 6, "{nodes}");
}
