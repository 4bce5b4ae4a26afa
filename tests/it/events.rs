//! Everything that changes is told, once and in order, to whoever may know it, over cuts and restarts.

mod operations;
mod stream;
mod survive;

use serde_json::Value;

use crate::harness::blocks::open;
use crate::harness::cloud::{Ask, Cloud, Reply, ask};

fn asking(user: &str, query: &str) -> Ask {
    ask("GET", &format!("/events{query}")).header("x-user-id", user)
}

async fn refused(cloud: &Cloud, request: Ask) -> Reply {
    request.header("accept", "text/event-stream").of(cloud).await
}

async fn list(cloud: &Cloud, user: &str, query: &str) -> Value {
    asking(user, query).of(cloud).await.ok(200)
}

fn revisions(events: &Value) -> Vec<u64> {
    let revision = |it: &Value| it["revision"].as_u64().unwrap();
    events.as_array().unwrap().iter().map(revision).collect()
}
