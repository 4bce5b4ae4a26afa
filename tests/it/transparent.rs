//! One server passed through as it is: the conformance suite, which was made for servers, finds no difference between
//! talking to it and talking to the gateway in front of it.

use serde_json::Value;

use crate::harness::fixture::{self, Fixture};
use crate::harness::gateway::Gateway;
use crate::harness::official::{Verdict, installed, judged};

/// Checks that the suite makes of a server with everything, by revision.
const N_CHECKS: [(&str, usize); 2] = [("2026-07-28", 197), ("2025-11-25", 83)];

fn assert_all_passed(verdict: &Verdict, revision: &str, n_checks: usize) {
    assert!(verdict.failed.is_empty(), "{revision}: {:#?}", verdict.failed);
    assert_eq!(verdict.n_passed, n_checks, "{revision}: checks that were made and passed");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fixture_has_everything_when_asked_directly() {
    let Some(folder) = installed() else { return };
    for (revision, n_checks) in N_CHECKS {
        let fixture = Fixture::http("both");
        let verdict = judged(folder, &fixture.url, revision).await;
        assert_all_passed(&verdict, revision, n_checks);
    }
}

async fn nothing_is_lost_before(entry: Value, revision: usize) {
    let Some(folder) = installed() else { return };
    let (revision, n_checks) = N_CHECKS[revision];
    let gateway = Gateway::through(entry).await;
    let verdict = judged(folder, &gateway.transparent(), revision).await;
    assert_all_passed(&verdict, revision, n_checks);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_over_stdio_conforms_to_2026_07_28_through_the_gateway() {
    nothing_is_lost_before(fixture::stdio("both"), 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_over_stdio_conforms_to_2025_11_25_through_the_gateway() {
    nothing_is_lost_before(fixture::stdio("both"), 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_over_http_conforms_to_2026_07_28_through_the_gateway() {
    let fixture = Fixture::http("both");
    nothing_is_lost_before(fixture.entry(), 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_over_http_conforms_to_2025_11_25_through_the_gateway() {
    let fixture = Fixture::http("both");
    nothing_is_lost_before(fixture.entry(), 1).await;
}
