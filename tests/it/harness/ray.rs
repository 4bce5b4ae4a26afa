//! A dashboard of Ray on loopback: answers as the real one gives them, jobs that are only remembered, and faults.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::{Method, StatusCode, header};
use http_body_util::BodyExt;
use mcp_orch::app::ray as wiring;
use mcp_orch::config::{Config, Seconds};
use orch_core::ports::ray::Ray;
use orch_domain::secret::Secret;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

pub(crate) struct RayServer {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<RayState>>,
    _task: AbortOnDropHandle<()>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum Fault {
    #[default]
    None,
    Hangs,
    /// Every question gets this status and text.
    Says(u16, &'static str),
    /// Sends whoever asks to another place.
    Redirects(String),
}

#[derive(Default)]
pub(crate) struct RayState {
    pub(crate) fault: Fault,
    /// Wanted of everybody.
    pub(crate) token: Option<String>,
    /// As `/api/v0/nodes` lists them.
    pub(crate) nodes: Vec<Value>,
    /// As `/api/cluster_status` has it, by node.
    pub(crate) usage: Value,
    pub(crate) jobs: Vec<Value>,
    pub(crate) logs: String,
    /// Path, query and `Authorization` of every question.
    pub(crate) asked: Vec<(String, Option<String>)>,
    /// A job is taken, and its answer is lost.
    pub(crate) loses_answers: bool,
}

/// An entry of `/api/v0/nodes`, cut to what is looked at.
pub(crate) fn node(id: &str, address: &str, state: &str, is_head: bool) -> Value {
    json!({
        "node_id": id, "node_ip": address, "node_name": address, "is_head_node": is_head, "state": state,
        "state_message": if state == "DEAD" { json!("missing too many heartbeats") } else { Value::Null },
        "resources_total": {"CPU": 4.0, "GPU": 2.0, "memory": 4294967296.0, "accel_fake": 1.0, format!("node:{address}"): 1.0},
        "labels": {"zone": "b"}, "start_time_ms": 1795219284175i64, "end_time_ms": 0
    })
}

impl RayServer {
    /// A head at 10.0.0.11 with 3 of 4 CPUs in use, an idle worker at 10.0.0.12, and a worker that died.
    pub(crate) async fn start() -> RayServer {
        let state = RayState {
            nodes: vec![
                node("aa11", "10.0.0.11", "ALIVE", true),
                node("bb22", "10.0.0.12", "ALIVE", false),
                node("cc33", "10.0.0.12", "DEAD", false),
            ],
            usage: json!({
                "aa11": {"CPU": [3.0, 4.0], "GPU": [0.5, 2.0], "memory": [1073741824.0, 4294967296.0], "accelFake": [0.0, 1.0]},
                "bb22": {"CPU": [0.0, 4.0], "GPU": [0.0, 2.0], "memory": [0.0, 4294967296.0]}
            }),
            ..RayState::default()
        };
        let state = Arc::new(Mutex::new(state));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(answer).with_state(state.clone());
        let task =
            TaskTracker::new().spawn(async move { axum::serve(listener, router).await.unwrap() });
        RayServer { address, state, _task: AbortOnDropHandle::new(task) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut RayState) -> T) -> T {
        change(&mut self.state.lock())
    }
}

/// As the program makes it from its configuration.
pub(crate) fn client(patience: Duration, url: &str, token: Option<&str>) -> Option<Arc<dyn Ray>> {
    let mut config = Config::default();
    config.ray.dashboard_url = Some(url.to_owned());
    config.ray.token = token.map(|it| Secret::new(it.to_owned()));
    config.ray.timeout = Seconds::new(patience.as_secs_f64());
    wiring::of(&config).unwrap()
}

async fn answer(State(state): State<Arc<Mutex<RayState>>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let authorization = parts.headers.get(header::AUTHORIZATION);
    let authorization = authorization.map(|it| it.to_str().unwrap().to_owned());
    let fault = {
        let mut state = state.lock();
        state.asked.push((parts.uri.to_string(), authorization.clone()));
        state.fault.clone()
    };
    match fault {
        Fault::None => {}
        Fault::Hangs => std::future::pending().await,
        Fault::Says(status, text) => {
            return (StatusCode::from_u16(status).unwrap(), text).into_response();
        }
        Fault::Redirects(to) => {
            return (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, to)]).into_response();
        }
    }
    let mut state = state.lock();
    if let Some(token) = &state.token
        && authorization != Some(format!("Bearer {token}"))
    {
        return (StatusCode::UNAUTHORIZED, "Unauthorized").into_response();
    }
    let path: Vec<&str> = parts.uri.path().trim_matches('/').split('/').collect();
    match (&parts.method, &path[..]) {
        (&Method::GET, ["api", "version"]) => {
            axum::Json(json!({"version": "4", "ray_version": "2.60.0"})).into_response()
        }
        (&Method::GET, ["api", "v0", "nodes"]) => {
            let list = json!({"total": state.nodes.len(), "result": state.nodes});
            axum::Json(json!({"result": true, "msg": "", "data": {"result": list}})).into_response()
        }
        (&Method::GET, ["api", "cluster_status"]) => {
            let report = json!({
                "usage": {}, "resourceDemand": [[{"CPU": 1.0}, 2]], "usageByNode": state.usage
            });
            let status = json!({"autoscalerReport": {}, "loadMetricsReport": report});
            axum::Json(json!({"result": true, "data": {"clusterStatus": status}})).into_response()
        }
        (&Method::GET, ["api", "jobs"]) => axum::Json(state.jobs.clone()).into_response(),
        (&Method::POST, ["api", "jobs"]) => submit(&mut state, &body),
        (method, ["api", "jobs", id, rest @ ..]) => {
            let id = (*id).to_owned();
            let logs = state.logs.clone();
            let job = state.jobs.iter_mut().find(|it| it["submission_id"] == *id);
            let Some(job) = job else {
                let text = format!("Job {id} does not exist");
                return (StatusCode::NOT_FOUND, text).into_response();
            };
            match (method, rest) {
                (&Method::GET, []) => axum::Json(job.clone()).into_response(),
                (&Method::GET, ["logs"]) => axum::Json(json!({"logs": logs})).into_response(),
                (&Method::POST, ["stop"]) => {
                    job["status"] = "STOPPED".into();
                    axum::Json(json!({"stopped": true})).into_response()
                }
                _ => StatusCode::METHOD_NOT_ALLOWED.into_response(),
            }
        }
        _ => (StatusCode::NOT_FOUND, "404: Not Found").into_response(),
    }
}

fn submit(state: &mut RayState, body: &[u8]) -> Response {
    let body: Value = serde_json::from_slice(body).unwrap();
    let id = &body["submission_id"];
    if state.jobs.iter().any(|it| it["submission_id"] == *id) {
        let text = format!(
            "Traceback (most recent call last):\n  File \"x.py\"\nValueError: Job with submission_id {id} already exists."
        );
        return (StatusCode::BAD_REQUEST, text).into_response();
    }
    let started = 1795219300885i64 + state.jobs.len() as i64;
    let mut job = json!({
        "type": "SUBMISSION", "job_id": null, "submission_id": id, "driver_info": null, "status": "RUNNING",
        "message": "Job is currently running.", "error_type": null, "start_time": started, "end_time": null,
        "driver_exit_code": null
    });
    for field in ["entrypoint", "metadata", "runtime_env", "entrypoint_num_cpus"] {
        job[field] = body[field].clone();
    }
    state.jobs.push(job);
    if state.loses_answers {
        return StatusCode::BAD_GATEWAY.into_response();
    }
    axum::Json(json!({"job_id": id, "submission_id": id})).into_response()
}

/// A port on loopback where nobody listens.
pub(crate) async fn closed_port() -> SocketAddr {
    tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// Answers every connection with `bytes`, whatever is asked.
pub(crate) async fn says(bytes: &'static [u8]) -> SocketAddr {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    TaskTracker::new().spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut asked = [0; 4096];
            if stream.read(&mut asked).await.is_ok_and(|n| n != 0) {
                stream.write_all(bytes).await.ok();
            }
        }
    });
    address
}
