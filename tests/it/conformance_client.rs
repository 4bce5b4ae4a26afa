//! The conformance suite's scenarios for clients, with the gateway between its server and a client
//! (`conformance_client/harness.py`): what the suite wants of a client, the gateway does towards the servers behind it.

use std::collections::BTreeSet;
use std::path::Path;

use crate::harness::official::{installed, run, suite, text_of, verdict};

/// Those that are about a client's requests, by revision; the names are the suite's.
const MODERN: [&str; 8] = [
    "tools_call",
    "request-metadata",
    "http-standard-headers",
    "http-custom-headers",
    "http-invalid-tool-headers",
    "json-schema-ref-no-deref",
    "json-schema-2020-12-preservation",
    "sep-2322-client-request-state",
];
const LEGACY: [&str; 5] = [
    "initialize",
    "tools_call",
    "elicitation-sep1034-client-defaults",
    "sse-retry",
    "json-schema-2020-12-preservation",
];
/// The others are about getting a token, which a person does in a browser and no client of the gateway has a part in.
const ELSEWHERE: &str = "auth/";

/// What the suite has for a revision, as it lists them.
async fn required(folder: &Path, revision: &str) -> BTreeSet<String> {
    let output = run(suite(folder).args(["list", "--requirements", revision]), "the list").await;
    let text = text_of(&output);
    let mut scenarios = BTreeSet::new();
    let mut is_client = false;
    for line in text.lines() {
        if !line.starts_with("  ") {
            is_client = line.starts_with("Client scenarios");
        } else if let Some(name) = line.trim().strip_prefix("- ") {
            match name.strip_suffix(" [client]") {
                Some(name) => drop(scenarios.insert(name.to_owned())),
                None if is_client => drop(scenarios.insert(name.to_owned())),
                None => {}
            }
        }
    }
    scenarios
}

/// What went wrong, if anything did.
async fn play(
    folder: &Path,
    scenario: &str,
    revision: &str,
    downstream: Option<&str>,
) -> Option<String> {
    let results = tempfile::tempdir().unwrap();
    let harness =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/conformance_client/harness.py");
    let python = folder.join("venv/bin/python");
    let command = format!("{} {}", python.display(), harness.display());
    let mut suite = suite(folder);
    suite.args(["client", "--command", &command, "--scenario", scenario]);
    suite.args(["--spec-version", revision, "--output-dir"]).arg(results.path());
    suite.env("MCP_ORCH", env!("CARGO_BIN_EXE_mcp-orch"));
    if let Some(downstream) = downstream {
        suite.env("DOWNSTREAM_VERSION", downstream);
    }
    let output = run(&mut suite, scenario).await;
    let verdict = verdict(results.path(), "");
    let is_good = verdict.failed.is_empty() && output.status.success() && 0 < verdict.n_passed;
    (!is_good).then(|| format!("{scenario}: {:#?}\n{}", verdict.failed, text_of(&output)))
}

async fn plays(revision: &str, scenarios: &[&str]) {
    let Some(folder) = installed() else { return };
    let named: BTreeSet<String> = scenarios.iter().map(|it| (*it).to_owned()).collect();
    let required = required(folder, revision).await;
    let rest: Vec<&String> = required.difference(&named).collect();
    assert!(rest.iter().all(|it| it.starts_with(ELSEWHERE)), "played nowhere: {rest:?}");
    assert!(named.is_subset(&required), "no scenarios of {revision}: {named:?}");
    let mut failed = Vec::new();
    for scenario in scenarios {
        failed.extend(play(folder, scenario, revision, None).await);
    }
    assert!(failed.is_empty(), "{} scenarios failed:\n{}", failed.len(), failed.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_is_a_client_of_2026_07_28() {
    plays("2026-07-28", &MODERN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_is_a_client_of_2025_11_25() {
    plays("2025-11-25", &LEGACY).await;
}

/// Its own client speaks the other revision then, which the server behind has no part in.
#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_is_the_same_client_for_clients_of_the_other_era() {
    let Some(folder) = installed() else { return };
    let modern = ["tools_call", "http-custom-headers", "sep-2322-client-request-state"];
    let legacy = ["tools_call", "elicitation-sep1034-client-defaults", "sse-retry"];
    let mut failed = Vec::new();
    for scenario in modern {
        failed.extend(play(folder, scenario, "2026-07-28", Some("2025-11-25")).await);
    }
    for scenario in legacy {
        failed.extend(play(folder, scenario, "2025-11-25", Some("2026-07-28")).await);
    }
    assert!(failed.is_empty(), "{} scenarios failed:\n{}", failed.len(), failed.join("\n"));
}
