//! Progress comes in its order and before the answer it belongs to, however quickly it is told.

use serde_json::{Value, json};

use crate::harness::fixture::{self, Fixture};
use crate::harness::gateway::Gateway;
use crate::harness::wire::{Era, Wire};

const N_CALLS: usize = 200;
const N_PROGRESS: usize = 20;

/// Each call hears all of its own progress and nothing else; what is late would be heard by the next.
async fn in_order(mut wire: Wire, who: &str) {
    wire.open().await;
    for i in 0..N_CALLS {
        let token = format!("{who} {i}");
        let params = json!({
            "name": "burst", "arguments": {"n": N_PROGRESS}, "_meta": {"progressToken": token},
        });
        let step = wire.ask("tools/call", params).await;
        let text = &step.result()["content"][0]["text"];
        assert_eq!(text, &format!("Told {N_PROGRESS} times"), "{who}: call {i}");
        let heard: Vec<Value> = step
            .notifications
            .iter()
            .filter(|it| it["method"] == "notifications/progress")
            .map(|it| json!([it["params"]["progressToken"], it["params"]["progress"]]))
            .collect();
        let wanted: Vec<Value> = (1..=N_PROGRESS)
            .map(|n| json!([token, f64::from(u32::try_from(n).unwrap())]))
            .collect();
        assert_eq!(heard, wanted, "{who}: call {i}");
    }
    // Nothing comes after the last.
    let last = wire.ask("tools/list", json!({})).await;
    let late = last.notifications.iter().filter(|it| it["method"] == "notifications/progress");
    assert_eq!(late.count(), 0, "{who}");
}

async fn through(entry: Value) {
    let gateway = Gateway::through(entry).await;
    let url = gateway.transparent();
    // Two at a time, so that one call's progress could be taken for the other's.
    for era in [Era::Legacy, Era::Modern] {
        let (one, other) = (Wire::http(&url, era), Wire::http(&url, era));
        futures::future::join(in_order(one, "one"), in_order(other, "other")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_of_a_server_over_stdio_is_in_order() {
    through(fixture::stdio("both")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_of_a_server_over_http_is_in_order() {
    let fixture = Fixture::http("both");
    through(fixture.entry()).await;
}
