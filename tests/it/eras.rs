//! Clients and servers of both eras in all four combinations, over stdio and over HTTP: through the gateway a client hears
//! what it would hear from the same server if that spoke the client's era.

mod steps;

use serde_json::Value;

use self::steps::walk;
use crate::harness::fixture::{self, Fixture};
use crate::harness::gateway::Gateway;
use crate::harness::walk::{Notes, Walker, assert_alike, assert_settled};
use crate::harness::wire::{Era, Wire};

/// The server in the client's own era, with nothing in between.
async fn directly(downstream: Era, is_crossed: bool, logs: bool) -> Notes {
    let wire = Wire::stdio(&fixture::command("both"), downstream);
    walk(Walker::new(wire, "").loosely(is_crossed), is_crossed, logs).await
}

async fn alike(downstream: Era, upstream: &str, entry: Value) {
    let is_crossed = (downstream == Era::Modern) != (upstream == "modern");
    let logs = !(downstream == Era::Modern && is_crossed && entry.get("url").is_some());
    let direct = directly(downstream, is_crossed, logs).await;
    let gateway = Gateway::through(entry).await;
    let wire = Wire::http(&gateway.transparent(), downstream);
    let through = walk(Walker::new(wire, "").loosely(is_crossed), is_crossed, logs).await;
    assert_alike(&direct, &through);
}

/// Whether it is talked to over stdio or over HTTP makes no difference, and neither does the time of the day.
#[tokio::test(flavor = "multi_thread")]
async fn the_server_says_the_same_every_time() {
    for era in [Era::Legacy, Era::Modern] {
        let fixture = Fixture::http("both");
        let over_http = walk(Walker::new(Wire::http(&fixture.url, era), ""), false, true).await;
        assert_settled(&directly(era, false, true).await, &over_http);
        assert_settled(&directly(era, true, true).await, &directly(era, true, true).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_earlier_client_of_an_earlier_server_over_stdio() {
    alike(Era::Legacy, "legacy", fixture::stdio("legacy")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_earlier_client_of_an_earlier_server_over_http() {
    let fixture = Fixture::http("legacy");
    alike(Era::Legacy, "legacy", fixture.entry()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_earlier_client_of_a_later_server_over_stdio() {
    alike(Era::Legacy, "modern", fixture::stdio("modern")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_earlier_client_of_a_later_server_over_http() {
    let fixture = Fixture::http("modern");
    alike(Era::Legacy, "modern", fixture.entry()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_client_of_an_earlier_server_over_stdio() {
    alike(Era::Modern, "legacy", fixture::stdio("legacy")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_client_of_an_earlier_server_over_http() {
    let fixture = Fixture::http("legacy");
    alike(Era::Modern, "legacy", fixture.entry()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_client_of_a_later_server_over_stdio() {
    alike(Era::Modern, "modern", fixture::stdio("modern")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_client_of_a_later_server_over_http() {
    let fixture = Fixture::http("modern");
    alike(Era::Modern, "modern", fixture.entry()).await;
}
