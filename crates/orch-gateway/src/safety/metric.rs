//! What is counted of the servers behind, for `/metrics`.

use std::time::Instant;

use crate::upstream::LinkError;

pub fn children(server: &str, n: usize) {
    metrics::gauge!("mcp_orch_upstream_children", "server" => server.to_owned()).set(n as f64);
}

/// 1 while it takes calls; no number once it is not configured any more, because the last one would look like the
/// present.
pub fn up(server: &str, is_up: Option<bool>) {
    let value = is_up.map_or(f64::NAN, |it| f64::from(u8::from(it)));
    metrics::gauge!("mcp_orch_upstream_up", "server" => server.to_owned()).set(value);
}

/// It was tried to connect.
pub fn attempt(server: &str, is_connected: bool) {
    let outcome = if is_connected { "connected" } else { "failed" };
    metrics::counter!(
        "mcp_orch_upstream_connections_total", "server" => server.to_owned(), "outcome" => outcome
    )
    .increment(1);
}

/// A request of a caller that is under way. Dropped before its answer, it was withdrawn.
pub struct Call {
    server: std::sync::Arc<str>,
    begun: Instant,
    outcome: &'static str,
}

impl Call {
    pub fn begin(server: std::sync::Arc<str>) -> Call {
        Call { server, begun: Instant::now(), outcome: "withdrawn" }
    }

    pub fn end(mut self, answer: Result<&crate::frame::Frame, &LinkError>) {
        self.outcome = match answer {
            Ok(it) if it.error.is_none() => "ok",
            Ok(_) => "refused",
            Err(LinkError::Timeout { .. }) => "timeout",
            Err(_) => "failed",
        };
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let server = self.server.to_string();
        metrics::counter!(
            "mcp_orch_upstream_requests_total", "server" => server.clone(), "outcome" => self.outcome
        )
        .increment(1);
        metrics::histogram!("mcp_orch_upstream_request_seconds", "server" => server)
            .record(self.begun.elapsed().as_secs_f64());
    }
}
