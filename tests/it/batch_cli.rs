//! `mcp-orch batch`: plans run, watched, drawn and cancelled from the shell.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};

use serde_json::{Value, json};

use crate::harness::program::{Home, Ran, ran};
use crate::harness::server::Setup;

const YAML: &str = "\
# Looks at every node.
steps:
  - id: nodes
    tool: list_nodes
  - id: check
    tool: check_node
    for_each: {$ref: 'nodes#/structuredContent/nodes'}
    arguments: {node_id: {$ref: 'item#/id'}}
    collect: /structuredContent/status
output: {$ref: 'check#/structuredContent/items'}
";

const FAILING: &str = r#"{"steps": [
    {"id": "lost", "tool": "get_node", "arguments": {"node_id": "nowhere"}},
    {"id": "after", "tool": "get_node", "arguments": {"node_id": {"$ref": "lost#/structuredContent/id"}}}
]}"#;

/// It goes on until somebody ends it, or for half a minute.
const ENDLESS: &str = r#"{"steps": [
    {"id": "hold", "tool": "list_events", "arguments": {"kind": "node.cordoned", "since_revision": 1, "wait_seconds": 30}},
    {"id": "never", "tool": "whoami", "depends_on": ["hold"]}
]}"#;

fn home() -> Home {
    let home = Home::new();
    home.add_simulated_node();
    home
}

fn signal(child: &Child, name: &str) {
    let pid = child.id().to_string();
    assert!(
        std::process::Command::new("kill").args(["-s", name, &pid]).status().unwrap().success()
    );
}

/// Reads lines up to one with `word`.
fn until(lines: &mut impl BufRead, word: &str) -> String {
    let mut seen = String::new();
    loop {
        let mut line = String::new();
        assert_ne!(lines.read_line(&mut line).unwrap(), 0, "it ended before `{word}`: {seen}");
        seen.push_str(&line);
        if line.contains(word) {
            return seen;
        }
    }
}

/// Begins the endless plan and answers with what stderr says up to the moment that it runs.
fn begun(home: &Home) -> (Child, BufReader<std::process::ChildStderr>, String) {
    home.write("endless.json", ENDLESS);
    let mut command = home.command(&["batch", "run", "endless.json"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    let said = until(&mut lines, "running   hold");
    (child, lines, said)
}

#[test]
fn a_plan_in_yaml_runs_in_this_process_and_every_step_is_told() {
    let home = home();
    home.write("plan.yaml", YAML);
    let ran = home.run(&["batch", "run", "plan.yaml"]);
    assert_eq!(ran.status, 0, "{}{}", ran.stdout, ran.stderr);
    let lines: Vec<&str> = ran.stderr.lines().collect();
    assert!(lines[0].starts_with("batch b-"), "{}", ran.stderr);
    let words = |it: &&str| it.split_whitespace().take(3).collect::<Vec<_>>().join(" ");
    // What had ended before it was looked at is told as that only.
    let told: Vec<String> =
        lines[1..].iter().map(words).filter(|it| !it.starts_with("running")).collect();
    assert_eq!(told, ["done nodes list_nodes", "done check check_node"], "{}", ran.stderr);
    assert!(
        ran.stdout.contains("succeeded after") && ran.stdout.contains("[\"healthy\"]"),
        "{}",
        ran.stdout
    );
}

#[test]
fn json_goes_to_stdout_and_what_is_told_to_stderr() {
    let home = home();
    let mut command =
        home.command(&["batch", "run", "-", "--output", "json", "--max-parallel", "1"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), YAML.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&result["state"], &result["output"]), (&json!("succeeded"), &json!(["healthy"])));
    assert_eq!(result["results"].as_array().unwrap().len(), 2);
}

#[test]
fn all_pages_of_a_large_result_are_one_answer() {
    let home = home();
    let calls: Vec<Value> = (0..1200).map(|_| json!({"tool": "whoami"})).collect();
    home.write("calls.json", &Value::Array(calls).to_string());
    let Ran { status, stdout, stderr } = home.run(&["batch", "run", "calls.json", "-o", "json"]);
    assert_eq!(status, 0, "{stderr}");
    let result: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(result["results"].as_array().unwrap().len(), 1200);
    // Of so many, no step has a line of its own.
    assert!(!stderr.contains("call_7 ") && stderr.contains("of 1200 steps have ended"), "{stderr}");
}

#[test]
fn a_failed_batch_says_why() {
    let home = home();
    home.write("plan.json", FAILING);
    let ran = home.run(&["batch", "run", "plan.json"]);
    assert_eq!(ran.status, 1, "{}{}", ran.stdout, ran.stderr);
    let failed = ran.stderr.lines().find(|it| it.starts_with("failed    lost")).unwrap();
    assert!(failed.contains("nowhere"), "{failed}");
    assert!(ran.stdout.contains("failed after"), "{}", ran.stdout);
}

#[test]
fn everything_that_is_wrong_is_a_line_with_its_place() {
    let home = home();
    let plan = "steps:\n- id: a\n  tool: lst_nodes\n- id: b\n  tool: get_node\n  arguments:\n    node_id: {$ref: 'c#/x'}\n";
    home.write("plan.yaml", plan);
    for verb in [&["--dry-run"][..], &[]] {
        let ran = home.run(&[&["batch", "run", "plan.yaml"], verb].concat());
        assert_eq!((ran.status, ran.stdout.as_str()), (2, ""), "{}", ran.stderr);
        let lines: Vec<&str> = ran.stderr.lines().collect();
        assert_eq!(lines[0], "error: the plan cannot run: 2 problems");
        assert!(
            lines[1].starts_with("plan.yaml:2: /steps/0/tool: ") && lines[1].contains("list_nodes"),
            "{}",
            ran.stderr
        );
        assert!(
            lines[2].starts_with("plan.yaml:4: /steps/1/arguments/node_id: "),
            "{}",
            ran.stderr
        );
    }
    assert_eq!(home.call(&["list_batches"])["total_count"], 0);
}

#[test]
fn what_is_no_plan_is_misuse() {
    let home = home();
    home.write("text", "hello");
    home.write("broken.json", "{\"steps\": [");
    for (arguments, said) in [
        (&["batch", "run"][..], "<FILE|--request <WORDS>>"),
        (&["batch", "run", "text"], "it has none of `steps`"),
        (&["batch", "run", "broken.json"], "`broken.json` is no plan"),
        (&["batch", "run", "nothing.json"], "nothing.json"),
        (&["batch", "run", "text", "--request", "words"], "cannot be used with"),
        (&["batch", "run", "text", "--detach", "--dry-run"], "cannot be used with"),
        (&["batch", "status"], "<ID>"),
    ] {
        let ran = home.run(arguments);
        assert_eq!((ran.status, ran.stdout.as_str()), (2, ""), "{arguments:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(said), "{arguments:?}: {}", ran.stderr);
    }
    home.write("plan.yaml", YAML);
    let ran = home.run(&["batch", "run", "plan.yaml", "--max-parallel", "0"]);
    assert_eq!(ran.status, 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("max_parallel_tasks"), "{}", ran.stderr);
}

#[test]
fn a_dry_run_draws_the_plan_and_runs_nothing() {
    let home = home();
    home.write("plan.yaml", YAML);
    let drawn = home.done(&["batch", "run", "plan.yaml", "--dry-run"]);
    let shape: Vec<String> = drawn
        .lines()
        .map(|it| {
            it.split_whitespace()
                .filter(|it| it.parse::<f64>().is_err())
                .collect::<Vec<_>>()
                .join(" ")
        })
        .collect();
    assert_eq!(shape[0], "* nodes at ms ~100 ms orch.list_nodes", "{drawn}");
    assert!(
        shape[1].starts_with("* ↓ check at ms ~") && shape[1].ends_with("orch.check_node"),
        "{drawn}"
    );
    assert!(
        shape[2].starts_with("steps, about") && shape[2].ends_with("Nothing was run."),
        "{drawn}"
    );
    let planned: Value =
        serde_json::from_str(&home.done(&["batch", "run", "plan.yaml", "--dry-run", "-o", "json"]))
            .unwrap();
    assert_eq!(planned["critical_path"], json!(["nodes", "check"]));
    assert_eq!(home.call(&["list_batches"])["total_count"], 0);
}

#[test]
fn interrupted_it_cancels_the_batch_and_says_so() {
    let home = home();
    let (mut child, mut lines, said) = begun(&home);
    let id = said.lines().next().unwrap().strip_prefix("batch ").unwrap().to_owned();
    signal(&child, "INT");
    until(&mut lines, "cancelling the batch");
    let mut rest = String::new();
    lines.read_to_string(&mut rest).unwrap();
    let mut stdout = String::new();
    child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest}");
    assert!(stdout.contains(&format!("Batch {id} is cancelled after")), "{stdout}");
    let seen: Value =
        serde_json::from_str(&home.done(&["batch", "status", &id, "-o", "json"])).unwrap();
    assert_eq!(seen["state"], "cancelled");
    let states: Vec<&Value> =
        seen["step_list"].as_array().unwrap().iter().map(|it| &it["state"]).collect();
    assert_eq!(states, ["cancelled", "cancelled"], "{seen}");
}

#[test]
fn without_a_server_nothing_is_left_to_it() {
    let home = home();
    home.write("plan.yaml", YAML);
    let ran = home.run(&["batch", "run", "plan.yaml", "--detach"]);
    assert_eq!((ran.status, ran.stdout.as_str()), (2, ""));
    assert!(
        ran.stderr.contains("no server runs here") && ran.stderr.contains("hint: start one"),
        "{}",
        ran.stderr
    );
    assert_eq!(home.call(&["list_batches"])["total_count"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_keeps_a_batch_that_its_client_leaves() {
    let home = Home::new();
    let _server = Setup::demo(&home.data_dir()).start().await;
    tokio::task::block_in_place(|| {
        home.add_simulated_node();
        home.write("plan.yaml", YAML);
        home.write("endless.json", ENDLESS);
        let id = home.done(&["batch", "run", "endless.json", "--detach"]);
        let id = id.trim();
        let listed = home.done(&["batch", "list"]);
        assert!(listed.contains(id) && listed.contains("running"), "{listed}");
        // Whoever watches may leave.
        let mut command = home.command(&["batch", "events", id]);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        until(&mut BufReader::new(child.stderr.take().unwrap()), "running   hold");
        signal(&child, "INT");
        assert_eq!(child.wait().unwrap().code(), Some(130));
        assert!(home.done(&["batch", "status", id]).contains("running"));
        let ran = home.run(&["batch", "cancel", id]);
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        let ran = home.run(&["batch", "events", id]);
        assert_eq!(ran.status, 130, "it was cancelled: {}", ran.stderr);
        assert!(ran.stderr.contains("cancelled hold"), "{}", ran.stderr);

        let run = |arguments: &[&str]| {
            home.run(&[&["batch", "run", "plan.yaml", "--token", "once"], arguments].concat())
        };
        let first = run(&[]);
        assert_eq!(first.status, 0, "{}", first.stderr);
        let again = run(&[]);
        assert_eq!(again.status, 0, "{}", again.stderr);
        assert!(
            again.stderr.contains("begun by an earlier call with this token"),
            "{}",
            again.stderr
        );
        assert_eq!(run(&["--retries", "9"]).status, 3, "the same token for something else");
        let id = first.stderr.lines().next().unwrap().strip_prefix("batch ").unwrap();
        let one = home.done(&["batch", "result", id, "--step", "check"]);
        assert!(one.contains("check (succeeded)") && !one.contains("nodes (succeeded)"), "{one}");
        let ran = home.run(&["batch", "status", "b-00000000000000000"]);
        assert_eq!((ran.status, ran.stdout.as_str()), (3, ""));
        assert!(ran.stderr.starts_with("error: NotFound: "), "{}", ran.stderr);
        let called = home.call(&[
            "batch_execute",
            "--json",
            r#"{"calls": [{"tool": "whoami"}]}"#,
            "wait=true",
        ]);
        assert_eq!(called["state"], "succeeded", "{called}");
    });
}

#[test]
fn on_a_terminal_each_step_has_a_line_that_changes() {
    let home = home();
    home.write("plan.yaml", YAML);
    let program = env!("CARGO_BIN_EXE_mcp-orch");
    let mut on_terminal = std::process::Command::new("script");
    on_terminal
        .args(["-qec", &format!("{program} batch run plan.yaml"), "/dev/null"])
        .current_dir(home.path(""));
    let of_home = home.command(&[]);
    on_terminal.env_clear().envs(of_home.get_envs().filter_map(|(key, it)| Some((key, it?))));
    on_terminal
        .env("PATH", "/usr/bin:/bin")
        .env("SHELL", "/bin/sh")
        .env("TERM", "xterm")
        .stdin(Stdio::null());
    let Ran { status, stdout, .. } = ran(&mut on_terminal);
    assert_eq!(status, 0, "{stdout}");
    for word in ["done      nodes", "done      check", "succeeded after"] {
        assert!(stdout.contains(word), "{word}: {stdout:?}");
    }
}
