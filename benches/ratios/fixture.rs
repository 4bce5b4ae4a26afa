//! An orchestrator on a real store and simulated nodes, in a directory that goes with it.

use std::sync::Arc;

use orch_core::orch::Parts;
use orch_core::ports::clock::SystemClock;
use orch_core::ports::tool_server::NoToolServers;
use orch_core::ports::failpoint::NoFailpoints;
use orch_core::settings::Settings;
use orch_core::{Cx, Orch, ops};
use orch_domain::caller::{Caller, Channel, Permission};
use orch_domain::node::{EngineConfig, Node, SimConfig};
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

pub(crate) fn open(dir: &std::path::Path) -> Arc<Orch> {
    let store = orch_adapters::store::SledStore::open(dir).expect("a store");
    let parts = Parts {
        ray: None,
        store: Arc::new(store),
        engines: Arc::new(orch_adapters::engines::NodeEngines::new(
            Arc::new(SystemClock),
            tokio_util::task::TaskTracker::new(),
        )),
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
    Cx::new(Some(Caller {
        user: user().id,
        permissions: Permission::ALL.to_vec(),
        channel: Channel::Rest,
        client: None,
    }))
}

pub(crate) fn launch(arguments: serde_json::Value) -> ops::LaunchInstance {
    serde_json::from_value(arguments).expect("a launch")
}
