//! The protocol's own judges: the conformance suite, and what comes with it. `scripts/official-clients` installs them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;

/// Where they are, or why this machine cannot have them.
pub(crate) fn installed() -> Option<&'static Path> {
    static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let has = |program: &str| {
            let mut version = std::process::Command::new(program);
            version.arg("--version").output().is_ok_and(|it| it.status.success())
        };
        for program in ["npm", "python3"] {
            if !has(program) {
                println!("skipped: the official clients need `{program}`");
                return None;
            }
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/official-clients");
        let output = std::process::Command::new(script).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "they could not be installed:\n{errors}");
        let folder = String::from_utf8(output.stdout).unwrap();
        Some(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder.trim()))
    });
    folder.as_deref()
}

pub(crate) async fn run(command: &mut Command, what: &str) -> Output {
    let command = command.stdin(Stdio::null()).kill_on_drop(true);
    let ended = tokio::time::timeout(Duration::from_secs(300), command.output());
    ended.await.unwrap_or_else(|_| panic!("{what}: not within 300 s")).unwrap()
}

pub(crate) fn text_of(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}\n{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}

/// What a run of the suite came to.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) n_passed: usize,
    pub(crate) scenarios: BTreeSet<String>,
    /// Why each check failed, or was not as recommended, by scenario and check.
    pub(crate) failed: BTreeMap<(String, String), String>,
}

/// The suite as a program, to be told what to do.
pub(crate) fn suite(folder: &Path) -> Command {
    let mut suite = Command::new(folder.join("node"));
    suite.arg(folder.join("node_modules/@modelcontextprotocol/conformance/dist/index.js"));
    suite
}

/// Runs every server scenario of a revision against `url`.
pub(crate) async fn judged(folder: &Path, url: &str, revision: &str) -> Verdict {
    let results = tempfile::tempdir().unwrap();
    let mut suite = suite(folder);
    suite.args(["server", "--url", url, "--requirements", revision]);
    // Its exit says that something failed, which the verdict tells in detail.
    let results = results.path().join("results");
    let output = run(suite.arg("--output-dir").arg(&results), "the conformance suite").await;
    assert!(results.exists(), "{}", text_of(&output));
    verdict(&results, "server-")
}

/// Reads what the suite has written. A scenario's folder is `server-ping-2026-11-21T04-08-17-660Z`, and the ones of
/// clients have no prefix; those of OAuth are one folder further down.
pub(crate) fn verdict(results: &Path, prefix: &str) -> Verdict {
    let mut verdict = Verdict::default();
    let mut folders = vec![results.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs_err::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            }
        }
        let Ok(checks) = fs_err::read_to_string(folder.join("checks.json")) else { continue };
        let name = folder.strip_prefix(results).unwrap().to_str().unwrap().to_owned();
        let name = name.strip_prefix(prefix).unwrap_or(&name);
        let scenario = name.rsplitn(7, '-').last().unwrap().to_owned();
        let checks: Vec<Value> = serde_json::from_str(&checks).unwrap();
        for check in checks {
            match check["status"].as_str().unwrap() {
                "SUCCESS" => verdict.n_passed += 1,
                "INFO" | "SKIPPED" => {}
                _ => {
                    let id = check["id"].as_str().unwrap().to_owned();
                    let why = check["errorMessage"].as_str().unwrap_or_default();
                    let why: String = why.chars().take(600).collect();
                    verdict.failed.insert((scenario.clone(), id), why);
                }
            }
        }
        verdict.scenarios.insert(scenario);
    }
    verdict
}
