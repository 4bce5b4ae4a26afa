//! A whole server but for its socket: operations, simulated nodes and the REST router, asked in this process.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::BodyExt;
use mcp_orch::auth::{Access, Mode, Sites};
use mcp_orch::face::rest;
use orch_adapters::engines::NodeEngines;
use orch_adapters::sim::SimControl;
use orch_adapters::store::SledStore;
use orch_core::Orch;
use orch_core::orch::Parts;
use orch_core::ports::clock::{Clock, SystemClock};
use orch_core::ports::failpoint::NoFailpoints;
use orch_core::ports::store::AuditQuery;
use orch_core::service::identity;
use orch_core::settings::Settings;
use orch_domain::audit::AuditEntry;
use orch_domain::caller::Permission;
use orch_domain::name::{NodeId, UserId, UserName};
use orch_domain::node::{EngineConfig, Node, NodeStatus, Role, SimConfig};
use orch_domain::resource::Resources;
use orch_domain::user::{ApiKey, Quota, User};
use serde_json::Value;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::eventually;

pub(crate) struct Cloud {
    pub(crate) orch: Arc<Orch>,
    pub(crate) router: Router,
    engines: Arc<NodeEngines>,
    _dir: tempfile::TempDir,
}

pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Cloud {
    /// Two users with passwords as in a demo, one simulated node `sim-1`, and everybody has to log in.
    pub(crate) async fn start() -> Cloud {
        Cloud::with(Mode::Login, false).await
    }

    pub(crate) async fn demo() -> Cloud {
        Cloud::with(Mode::Login, true).await
    }

    pub(crate) async fn without_login() -> Cloud {
        Cloud::with(Mode::NoAuth, false).await
    }

    /// With a node `docker` as well, on a real engine.
    pub(crate) async fn demo_on_docker(endpoint: &str) -> Cloud {
        let cloud = Cloud::demo().await;
        let engine = EngineConfig::Docker { endpoint: endpoint.to_owned() };
        cloud.add_node("docker", engine).await;
        cloud
    }

    /// Takes away every container that was made here.
    pub(crate) async fn remove_containers(&self) {
        let controller_id = &self.orch.ledger.store().identity().controller_id;
        let engine = self.orch.engine(&NodeId::try_new("docker").unwrap()).unwrap();
        for container in engine.list(controller_id).await.unwrap() {
            engine.remove(&container.name).await.unwrap();
        }
    }

    async fn with(mode: Mode, demo: bool) -> Cloud {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let engines = Arc::new(NodeEngines::new(clock.clone(), TaskTracker::new()));
        let dir = tempfile::tempdir().unwrap();
        let parts = Parts {
            store: Arc::new(SledStore::open(dir.path()).unwrap()),
            engines: engines.clone(),
            clock,
            failpoints: Arc::new(NoFailpoints),
        };
        let orch = Orch::build(parts, Settings::default()).unwrap();
        let all = Permission::ALL.to_vec();
        let user = [Permission::Read, Permission::Write, Permission::Execute].to_vec();
        add_user(&orch, "user-admin-001", "admin", all, Quota::ADMIN).await;
        add_user(&orch, "user-demo-001", "demo", user, Quota::DEMO).await;
        let access = Access::new(orch.clone(), mode, Sites::loopback()).with_demo(demo);
        let router = rest::router(orch.clone(), Arc::new(access), None);
        let cloud = Cloud { orch, router, engines, _dir: dir };
        cloud.orch.start_tasks();
        cloud.add_node("sim-1", EngineConfig::Sim(SimConfig::default())).await;
        eventually("background work runs", || async {
            (!cloud.orch.tasks.all().is_empty()).then_some(())
        })
        .await;
        cloud
    }

    /// Adds a node and waits until its health is known.
    async fn add_node(&self, id: &str, engine: EngineConfig) {
        let now = self.orch.clock.now();
        let node = Node {
            id: NodeId::try_new(id).unwrap(),
            hostname: id.to_owned(),
            address: "127.0.0.1".to_owned(),
            role: Role::Worker,
            engine,
            tags: BTreeSet::new(),
            labels: orch_domain::label::Labels::default(),
            description: String::new(),
            capacity: Resources::default(),
            capacity_is_fixed: false,
            cordoned: false,
            created_at: now,
            status: NodeStatus::Unknown,
            status_since: now,
        };
        self.orch.ledger.write(None, |book| book.add_node(node)).await.unwrap();
        eventually("the node is healthy", || async {
            self.orch.sweep().await;
            let node_id = NodeId::try_new(id).unwrap();
            let status = self.orch.ledger.read(|it| it.slot(&node_id).unwrap().node.status);
            (status == NodeStatus::Healthy).then_some(())
        })
        .await;
    }

    /// An API key of `user` that may do only this.
    pub(crate) async fn key(&self, user: &str, permissions: &[Permission]) -> String {
        let (id, text, secret_sha256) = identity::new_api_key(self.orch.random()).unwrap();
        let key = ApiKey {
            id,
            user: UserId::try_new(user).unwrap(),
            name: "test".to_owned(),
            secret_sha256,
            permissions: permissions.to_vec(),
            created_at: self.orch.clock.now(),
            expires_at: None,
        };
        self.orch.ledger.write(None, |book| book.add_api_key(key)).await.unwrap();
        text
    }

    /// The strings behind a simulated node.
    pub(crate) fn control(&self, node: &str) -> SimControl {
        self.engines.fleet().control(&NodeId::try_new(node).unwrap()).unwrap()
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Reply {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = tokio::time::timeout(Duration::from_secs(60), body.collect()).await.unwrap();
        let text = String::from_utf8_lossy(&body.unwrap().to_bytes()).into_owned();
        Reply { status: parts.status, headers: parts.headers, text }
    }

    pub(crate) fn audit(&self) -> Vec<AuditEntry> {
        let query = AuditQuery { limit: 1000, ..AuditQuery::default() };
        self.orch.ledger.store().audit(&query).unwrap()
    }

    /// Nothing is reserved and the simulated node runs nothing.
    pub(crate) fn assert_untouched(&self) {
        self.orch.ledger.read(|book| {
            assert_eq!(book.instances_after(None).count(), 0, "no instance was made");
            for slot in book.slots() {
                assert_eq!(slot.free(), slot.node.capacity, "no capacity is reserved");
            }
        });
        assert!(self.control("sim-1").containers().is_empty());
    }
}

async fn add_user(orch: &Orch, id: &str, name: &str, permissions: Vec<Permission>, quota: Quota) {
    let user = User {
        id: UserId::try_new(id).unwrap(),
        name: UserName::try_new(name).unwrap(),
        password_hash: identity::hash_password(name).unwrap(),
        permissions,
        quota,
        created_at: orch.clock.now(),
        tokens_valid_from: orch_domain::time::Timestamp::ZERO,
    };
    orch.ledger.write(None, |book| book.add_user(user)).await.unwrap();
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|err| panic!("{err}: {}", self.text))
    }

    pub(crate) fn header(&self, name: header::HeaderName) -> &str {
        self.headers.get(&name).map_or("", |it| it.to_str().unwrap())
    }

    /// Asserts that this is a problem with that status and code, and answers it.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16, error: &str) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        assert_eq!(self.header(header::CONTENT_TYPE), "application/problem+json");
        let body = self.json();
        assert_eq!(body["error"], error, "{body}");
        assert_eq!(body["status"], status, "{body}");
        for field in ["type", "title", "message"] {
            assert!(body[field].as_str().is_some_and(|it| !it.is_empty()), "{field}: {body}");
        }
        body
    }

    #[track_caller]
    pub(crate) fn ok(&self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        self.json()
    }
}

/// A request as a client on this machine makes it.
pub(crate) struct Ask(http::request::Builder, Body);

pub(crate) fn ask(method: &str, path: &str) -> Ask {
    let builder = Request::builder().method(method).uri(path).header("host", "localhost:3000");
    Ask(builder, Body::empty())
}

impl Ask {
    pub(crate) fn made_of(builder: http::request::Builder, body: String) -> Ask {
        Ask(builder, Body::from(body))
    }

    pub(crate) fn header(self, name: &str, value: &str) -> Ask {
        Ask(self.0.header(name, value), self.1)
    }

    pub(crate) fn bearer(self, token: &str) -> Ask {
        self.header("authorization", &format!("Bearer {token}"))
    }

    pub(crate) fn json(self, body: &Value) -> Ask {
        self.header("content-type", "application/json").body(body.to_string())
    }

    pub(crate) fn body(self, body: impl Into<Body>) -> Ask {
        Ask(self.0, body.into())
    }

    pub(crate) fn request(self) -> Request<Body> {
        self.0.body(self.1).unwrap()
    }

    pub(crate) async fn of(self, cloud: &Cloud) -> Reply {
        cloud.send(self.request()).await
    }
}
