//! A whole server but for its socket: operations, simulated nodes and the REST router, asked in this process.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::BodyExt;
use mcp_orch::auth::{Access, Mode, Sites};
use mcp_orch::face::rest;
use orch_adapters::ssh::SshSettings;
use orch_core::ports::ray::Ray;
use orch_core::service::identity;
use orch_core::settings::Settings;
use orch_domain::name::NodeId;
use orch_domain::node::{EngineConfig, Node, NodeStatus};
use orch_domain::resource::Resources;
use orch_domain::user::User;
use serde_json::Value;
use tower::ServiceExt;

use super::caller::built_in;
use super::eventually;
use super::lab::Lab;

pub(crate) struct Cloud {
    lab: Lab,
    pub(crate) router: Router,
}

impl Deref for Cloud {
    type Target = Lab;
    fn deref(&self) -> &Lab {
        &self.lab
    }
}

pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Cloud {
    /// Two users with passwords as in a demo, one simulated node `sim-1`, and everybody has to log in.
    pub(crate) async fn start() -> Cloud {
        Cloud::with_login(Mode::Login, false).await
    }

    pub(crate) async fn demo() -> Cloud {
        Cloud::with_login(Mode::Login, true).await
    }

    pub(crate) async fn demo_with(settings: Settings) -> Cloud {
        Cloud::with_lab(Mode::Login, true, Lab::empty(settings).await).await
    }

    pub(crate) async fn without_login() -> Cloud {
        Cloud::with_login(Mode::NoAuth, false).await
    }

    /// With a node `docker` as well, on a real engine.
    pub(crate) async fn demo_on_docker(endpoint: &str) -> Cloud {
        let cloud = Cloud::demo().await;
        let engine = EngineConfig::Docker { endpoint: endpoint.to_owned() };
        cloud.add_checked(Node { engine, ..Node::test("docker") }).await;
        cloud
    }

    /// Takes away every container that was made here.
    pub(crate) async fn remove_containers(&self) {
        let controller_id = &self.orch().ledger.store().identity().controller_id;
        let engine = self.orch().engine(&NodeId::try_new("docker").unwrap()).unwrap();
        for container in engine.list(controller_id).await.unwrap() {
            engine.remove(&container.name).await.unwrap();
        }
    }

    /// Looks at its nodes often, and gives up on them soon.
    pub(crate) async fn watchful() -> Cloud {
        Cloud::watchful_with(SshSettings::default()).await
    }

    /// Whose server's user has this for SSH.
    pub(crate) async fn watchful_with(ssh: SshSettings) -> Cloud {
        let settings = Settings {
            health_period: Duration::from_millis(500),
            health_timeout: Duration::from_secs(3),
            stop_grace: Duration::from_millis(500),
            reschedule_grace: Duration::from_secs(1),
            ..Settings::default()
        };
        Cloud::with_lab(Mode::Login, true, Lab::empty_with(settings, ssh).await).await
    }

    /// With these settings, and users as in a demo.
    pub(crate) async fn with(settings: Settings) -> Cloud {
        Cloud::with_lab(Mode::Login, true, Lab::empty(settings).await).await
    }

    /// Connections to the machine before a node begun so far.
    pub(crate) fn n_jump_handshakes(&self, node: &str) -> u64 {
        self.engines.n_jump_handshakes(&NodeId::try_new(node).unwrap()).unwrap()
    }

    /// Connections to a node begun so far.
    pub(crate) fn n_handshakes(&self, node: &str) -> u64 {
        self.engines.n_handshakes(&NodeId::try_new(node).unwrap()).unwrap()
    }

    async fn with_login(mode: Mode, demo: bool) -> Cloud {
        Cloud::with_lab(mode, demo, Lab::empty(Settings::default()).await).await
    }

    /// Beside a Ray cluster, which is looked at so often.
    pub(crate) async fn beside(ray: Option<Arc<dyn Ray>>, health_period: Duration) -> Cloud {
        let settings = Settings {
            health_period,
            stop_grace: Duration::from_millis(500),
            wait_timeout: Duration::from_secs(120),
            ..Settings::default()
        };
        Cloud::with_lab(Mode::Login, true, Lab::with_ray(settings, ray).await).await
    }

    async fn with_lab(mode: Mode, demo: bool, lab: Lab) -> Cloud {
        for user in built_in() {
            let password_hash = identity::hash_password(user.name.as_str()).unwrap();
            lab.add_user(User { password_hash, ..user }).await;
        }
        let orch = lab.orch().clone();
        let access = Access::new(orch.clone(), mode, Sites::loopback()).with_demo(demo);
        let router = rest::router(orch.clone(), Arc::new(access), None);
        let cloud = Cloud { lab, router };
        orch.start_tasks();
        cloud.add_checked(Node::test("sim-1")).await;
        eventually("background work runs", || async {
            (!orch.tasks.all().is_empty()).then_some(())
        })
        .await;
        cloud
    }

    /// Adds a node of which nothing is known, and waits until its health and capacity are.
    async fn add_checked(&self, node: Node) {
        let node_id = node.id.clone();
        let (status, capacity) = (NodeStatus::Unknown, Resources::default());
        let now = self.orch().clock.now();
        let unknown = Node { status, status_since: now, capacity, created_at: now, ..node };
        self.add_node(unknown).await;
        eventually("the node is healthy", || async {
            self.orch().sweep().await;
            let status = self.orch().ledger.read(|it| it.slot(&node_id).unwrap().node.status);
            (status == NodeStatus::Healthy).then_some(())
        })
        .await;
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Reply {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = tokio::time::timeout(Duration::from_secs(60), body.collect()).await.unwrap();
        let text = String::from_utf8_lossy(&body.unwrap().to_bytes()).into_owned();
        Reply { status: parts.status, headers: parts.headers, text }
    }

    /// Nothing is reserved and the simulated node runs nothing.
    pub(crate) fn assert_untouched(&self) {
        self.orch().ledger.read(|book| {
            assert_eq!(book.instances_after(None).count(), 0, "no instance was made");
            for slot in book.slots() {
                assert_eq!(slot.free(), slot.node.capacity, "no capacity is reserved");
            }
        });
        assert!(self.control("sim-1").containers().is_empty());
    }
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
