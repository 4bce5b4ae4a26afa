//! Batches through the whole server, to a server behind: calls at the same time, and their cancellation.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use http::{Method, StatusCode};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::behind;
use crate::docker::Server;
use crate::{Figure, percentile, show};

const N_CALLS: usize = 100;
const CALL: Duration = Duration::from_millis(50);
const N_ROUNDS: usize = 20;
const N_CANCELLED: usize = 1000;
const N_CANCEL_ROUNDS: usize = 5;

/// A server behind whose one tool takes `CALL`, or never ends. It notes when calls come, are answered and are withdrawn.
#[derive(Clone, Default)]
struct Behind(Arc<Mutex<Noted>>);

#[derive(Default)]
struct Noted {
    came: Vec<Instant>,
    answered: Vec<Instant>,
    withdrawn: Vec<Instant>,
}

impl Behind {
    #[expect(clippy::disallowed_methods, reason = "it goes with the runtime of the bench")]
    async fn start(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/mcp", listener.local_addr().expect("bound"));
        let router = Router::new().route("/mcp", any(serve)).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        url
    }

    fn take(&self) -> Noted {
        std::mem::take(&mut *self.0.lock())
    }
}

/// Noted as withdrawn when it is dropped before its end.
struct UnderWay(Behind, bool);

impl Drop for UnderWay {
    fn drop(&mut self) {
        if !self.1 {
            self.0.0.lock().withdrawn.push(Instant::now());
        }
    }
}

async fn serve(State(behind): State<Behind>, method: Method, body: Bytes) -> Response {
    if method != Method::POST {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    let message: Value = serde_json::from_slice(&body).expect("JSON");
    let id = &message["id"];
    let answer = |result: Value| {
        let text = json!({"jsonrpc": "2.0", "id": id, "result": result}).to_string();
        ([("content-type", "application/json")], text).into_response()
    };
    match message["method"].as_str().unwrap_or_default() {
        "initialize" => answer(json!({
            "protocolVersion": "2025-11-25", "capabilities": {"tools": {}},
            "serverInfo": {"name": "behind", "version": "1"},
        })),
        "tools/list" => {
            let tool = |name: &str| {
                json!({
                    "name": name, "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": true},
                })
            };
            answer(json!({"tools": [tool("nap"), tool("hang")]}))
        }
        "tools/call" => {
            behind.0.lock().came.push(Instant::now());
            let mut under_way = UnderWay(behind.clone(), false);
            if message["params"]["name"] == "hang" {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(CALL).await;
            under_way.1 = true;
            behind.0.lock().answered.push(Instant::now());
            answer(json!({"content": [{"type": "text", "text": "rested"}]}))
        }
        "notifications/cancelled" => {
            behind.0.lock().withdrawn.push(Instant::now());
            StatusCode::ACCEPTED.into_response()
        }
        _ if id.is_null() => StatusCode::ACCEPTED.into_response(),
        _ => answer(json!({})),
    }
}

pub(super) async fn measure() -> Vec<Figure> {
    let behind = Behind::default();
    let url = behind.start().await;
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let servers = dir.path().join("servers.json");
    let this = std::env::current_exe().expect("a program").display().to_string();
    let piped = json!({"command": this, "args": [behind::ROLE]});
    let written = json!({"mcpServers": {"behind": {"url": url}, "piped": piped}}).to_string();
    fs_err::write(&servers, written).expect("written");
    let config = dir.path().join("bench.yaml");
    let limits = "execution:\n  max_parallel_total: 4000\n  max_parallel_per_server: 4000\n";
    fs_err::write(&config, limits).expect("written");
    let (servers, config) = (servers.display().to_string(), config.display().to_string());
    let server = Server::start(dir, &["--config", &config, "--mcp-config", &servers]).await;
    // Until its tools are known.
    for name in ["behind", "piped"] {
        while server.get(&format!("/tools/{name}")).await["total_count"] != 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    vec![
        at_once(&server, &behind, &url).await,
        cancel_piped(&server).await,
        cancel(&server, &behind, &url).await,
    ]
}

async fn at_once(server: &Server, behind: &Behind, url: &str) -> Figure {
    let client = reqwest::Client::new();
    let (mut ours, mut floor) = (Vec::new(), Vec::new());
    for _ in 0..N_ROUNDS {
        let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call",
            "params": {"name": "nap", "arguments": {}}})
        .to_string();
        let started = Instant::now();
        futures::future::join_all((0..N_CALLS).map(|_| {
            let request = client.post(url).header("content-type", "application/json");
            async { request.body(call.clone()).send().await.expect("answered").bytes().await }
        }))
        .await;
        floor.push(started.elapsed());
        behind.take();
        let calls = vec![json!({"tool": "behind.nap"}); N_CALLS];
        let body = json!({"calls": calls, "wait": true, "max_parallel_tasks": N_CALLS});
        let batch = server.post("/batch/execute", body).await;
        assert_eq!(batch["state"], "succeeded", "{batch}");
        let noted = behind.take();
        let (first, last) = (noted.came.iter().min(), noted.answered.iter().max());
        ours.push(*last.expect("answered") - *first.expect("called"));
    }
    let (ours, floor) = (percentile(&mut ours, 0.5), percentile(&mut floor, 0.5));
    Figure {
        name: "batch: 100 calls of 50 ms at the same time, first asked to last answered, p50 of 20",
        measured: show(ours),
        floor: format!("{} (directly, whole)", show(floor)),
        limit: "55 ms".to_owned(),
        holds: ours <= Duration::from_millis(55),
    }
}

/// From the request to cancel until the server behind has read that each of its calls is withdrawn.
async fn cancel_piped(server: &Server) -> Figure {
    let noted = || async {
        let answer = server.post("/tools/piped.noted", json!({})).await;
        answer["structuredContent"].clone()
    };
    let (mut told, mut n_before) = (Vec::new(), 0);
    for _ in 0..N_CANCEL_ROUNDS {
        let id = begin_hanging(server, "piped.hang").await;
        while noted().await["n_came"].as_u64().expect("a number") < n_before + N_CANCELLED as u64 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        n_before += N_CANCELLED as u64;
        let started = behind::now();
        server.delete(&format!("/batch/cancel/{id}")).await;
        let mut withdrawn = Vec::new();
        while withdrawn.len() < N_CANCELLED {
            let more = noted().await["withdrawn"].clone();
            let more: Vec<u64> = serde_json::from_value(more).expect("numbers");
            withdrawn.extend(more);
        }
        let since = |at: &u64| Duration::from_nanos(*at).saturating_sub(started);
        told.extend(withdrawn.iter().map(since));
    }
    let p99 = percentile(&mut told, 0.99);
    Figure {
        name: "batch: 1,000 calls under way over stdio are withdrawn, p99 until the server behind knows",
        measured: format!("{} (p50 {})", show(p99), show(percentile(&mut told, 0.5))),
        floor: "-".to_owned(),
        limit: "5 ms".to_owned(),
        holds: p99 <= Duration::from_millis(5),
    }
}

async fn begin_hanging(server: &Server, tool: &str) -> String {
    let calls = vec![json!({"tool": tool}); N_CANCELLED];
    let body = json!({"calls": calls, "max_parallel_tasks": N_CANCELLED});
    let batch = server.post("/batch/execute", body).await;
    batch["task_id"].as_str().expect("begun").to_owned()
}

/// The same over HTTP, where each is a request of its own.
async fn cancel(server: &Server, behind: &Behind, url: &str) -> Figure {
    let (mut told, mut floor) = (Vec::new(), Vec::new());
    let client = reqwest::Client::new();
    let word =
        json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}});
    let word = word.to_string();
    for _ in 0..N_CANCEL_ROUNDS {
        behind.take();
        let started = Instant::now();
        futures::future::join_all((0..N_CANCELLED).map(|_| {
            let request = client.post(url).header("content-type", "application/json");
            async { request.body(word.clone()).send().await.expect("answered").status() }
        }))
        .await;
        floor
            .extend(behind.take().withdrawn.iter().map(|it| it.saturating_duration_since(started)));
        let id = begin_hanging(server, "behind.hang").await;
        while behind.0.lock().came.len() < N_CANCELLED {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let started = Instant::now();
        server.delete(&format!("/batch/cancel/{id}")).await;
        while behind.0.lock().withdrawn.len() < N_CANCELLED {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let withdrawn = behind.take().withdrawn;
        told.extend(withdrawn.iter().map(|it| it.saturating_duration_since(started)));
    }
    let (p99, floor) = (percentile(&mut told, 0.99), percentile(&mut floor, 0.99));
    Figure {
        name: "batch: 1,000 calls under way over HTTP are withdrawn, p99 until the server behind knows",
        measured: show(p99),
        floor: format!("{} (1,000 such requests directly, p99)", show(floor)),
        limit: "5 ms".to_owned(),
        holds: p99 <= Duration::from_millis(5),
    }
}
