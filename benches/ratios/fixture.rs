//! An orchestrator on a real store and simulated nodes, in a directory that goes with it.

use std::sync::Arc;

use orch_adapters::engines::NodeEngines;
use orch_adapters::store::SledStore;
use orch_core::operation::{Answer, Op};
use orch_core::orch::Parts;
use orch_core::ports::clock::SystemClock;
use orch_core::ports::failpoint::NoFailpoints;
use orch_core::ports::store::{Commit, Store as _};
use orch_core::ports::tool_server::NoToolServers;
use orch_core::settings::Settings;
use orch_core::{Cx, Orch, ops};
use orch_domain::book::Change;
use orch_domain::caller::{Caller, Channel, Permission};
use orch_domain::event::News;
use orch_domain::instance::{Goal, Instance, InstanceState};
use orch_domain::node::{EngineConfig, Node, SimConfig};
use orch_domain::port::{PortBinding, Protocol};
use orch_domain::resource::{Cpu, Memory, Resources};
use orch_domain::user::{Quota, User};

pub(crate) struct Fixture {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) orch: Arc<Orch>,
}

impl Fixture {
    /// `n_nodes` simulated nodes whose starts never end, so that nothing but acceptance is at work.
    pub(crate) async fn new(n_nodes: usize) -> Fixture {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
        let orch = open(dir.path());
        orch.ledger
            .write(None, |book| {
                for n in 0..n_nodes {
                    book.add_node(node(n))?;
                }
                book.add_user(user())
            })
            .await
            .expect("nodes and user");
        Fixture { dir, orch }
    }
}

/// A data directory as a server leaves it, and the id of its controller: with every event that is kept.
pub(crate) async fn stored(
    nodes: Vec<Node>,
    instances: impl IntoIterator<Item = Instance>,
) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let store = SledStore::open(dir.path()).expect("a store");
    let user = user();
    let pulled = |revision| {
        let news = News::image_pulled(&Instance::test(0).image, &nodes[0].id);
        Arc::new(news.event(revision, Instance::test(0).created_at, Some(user.id.clone()), None))
    };
    let events = (1..=Settings::default().events_kept).map(pulled).collect();
    let mut changes = vec![Change::User(user.id.clone(), Some(Arc::new(user.clone())))];
    changes.extend(nodes.iter().map(|it| Change::Node(it.id.clone(), Some(Arc::new(it.clone())))));
    let row = |it: Instance| Change::Instance(it.id.clone(), Some(Arc::new(it)));
    changes.extend(instances.into_iter().map(row));
    let commit = Commit { changes, events, ..Commit::default() };
    store.commit(commit).await.expect("answered").expect("stored");
    let controller_id = store.identity().controller_id.clone();
    (dir, controller_id)
}

pub(crate) fn open(dir: &std::path::Path) -> Arc<Orch> {
    open_with(dir, engines())
}

pub(crate) fn engines() -> Arc<NodeEngines> {
    let tracker = tokio_util::task::TaskTracker::new();
    Arc::new(NodeEngines::new(Arc::new(SystemClock), tracker))
}

pub(crate) fn open_with(dir: &std::path::Path, engines: Arc<NodeEngines>) -> Arc<Orch> {
    let store = Arc::new(SledStore::open(dir).expect("a store"));
    let parts = Parts {
        ray: None,
        model: None,
        blobs: store.clone(),
        store,
        engines,
        clock: Arc::new(SystemClock),
        failpoints: Arc::new(NoFailpoints),
        tool_servers: Arc::new(NoToolServers),
        peers: Arc::new(orch_adapters::tailscale::Tailscale::new("/nowhere".into())),
    };
    Orch::build(parts, Settings::default()).expect("an orchestrator")
}

pub(crate) fn node(n: usize) -> Node {
    let sim = SimConfig { start_delay_ms: 3_600_000, ..SimConfig::default() };
    Node {
        engine: EngineConfig::Sim(sim),
        capacity: Resources::new(Cpu::from_millis(64_000), Memory::from_mib(256 * 1024), 0),
        capacity_is_fixed: true,
        ..Node::test(&format!("n{n:05}"))
    }
}

pub(crate) fn user() -> User {
    let quota = Quota {
        instances: 1_000_000,
        cpu: Cpu::from_millis(u32::MAX),
        memory: Memory::from_mib(u32::MAX),
    };
    User { quota, ..User::test("bench") }
}

pub(crate) fn cx() -> Cx {
    Cx::new(Some(Caller::new(user().id, Permission::ALL.to_vec(), Channel::Rest)))
}

pub(crate) fn launch(arguments: serde_json::Value) -> ops::LaunchInstance {
    serde_json::from_value(arguments).expect("a launch")
}

/// The `n`th of many that run, spread evenly over `n_nodes`.
pub(crate) fn instance(n: usize, n_nodes: usize) -> Instance {
    let plain = Instance::test(n as u32);
    Instance {
        name: format!("web-{n}").parse().expect("a name"),
        state: InstanceState::Running,
        goal: Goal::Running,
        node_id: node(n % n_nodes).id,
        resources: Resources::new(Cpu::from_millis(50), Memory::from_mib(8), 0),
        ports: vec![PortBinding {
            container_port: 80,
            host_port: 8000 + (n / n_nodes) as u16,
            protocol: Protocol::Tcp,
        }],
        owner: user().id,
        launched_at: Some(plain.created_at),
        container_id: Some("0".repeat(64)),
        ..plain
    }
}

/// Made once: the whole catalogue comes with its schemas.
pub(crate) fn list_instances() -> Op {
    ops::catalogue().into_iter().find(|it| it.spec.name == "list_instances").expect("the operation")
}

/// One page of all instances, through the gate.
pub(crate) async fn list(op: &Op, orch: &Arc<Orch>, page_token: &str) -> Answer {
    let arguments = serde_json::json!({"page_size": 1000, "page_token": page_token});
    (op.call)(orch.clone(), cx(), arguments).await.expect("listed")
}
