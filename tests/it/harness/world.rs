//! Everything below the faces, in this process: the store on disk, a simulated fleet, and two users.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use mcp_orch::auth::{Access, Mode, Sites};
use orch_adapters::engines::NodeEngines;
use orch_adapters::sim::SimControl;
use orch_adapters::store::SledStore;
use orch_core::Orch;
use orch_core::orch::Parts;
use orch_core::ports::clock::SystemClock;
use orch_core::ports::failpoint::NoFailpoints;
use orch_core::service::identity;
use orch_core::settings::Settings;
use orch_domain::caller::{Caller, Channel, Permission};
use orch_domain::label::Labels;
use orch_domain::name::{NodeId, UserId, UserName};
use orch_domain::node::{EngineConfig, Node, NodeStatus, Role, SimConfig};
use orch_domain::resource::{Cpu, Memory, Resources};
use orch_domain::user::{ApiKey, Quota, User};
use tokio_util::task::TaskTracker;

pub(crate) const ADMIN: &str = "user-admin-001";
pub(crate) const DEMO: &str = "user-demo-001";

pub(crate) struct World {
    pub(crate) orch: Arc<Orch>,
    engines: Arc<NodeEngines>,
    _data_dir: tempfile::TempDir,
}

impl World {
    /// With `n_nodes` healthy workers `n1`, `n2` …, each with 16 vCPU and 64 GiB.
    pub(crate) async fn with_nodes(n_nodes: usize) -> World {
        World::scripted(n_nodes, SimConfig::default()).await
    }

    pub(crate) async fn scripted(n_nodes: usize, script: SimConfig) -> World {
        let data_dir = tempfile::tempdir().unwrap();
        let store = SledStore::open(data_dir.path()).unwrap();
        let clock = Arc::new(SystemClock);
        let engines = Arc::new(NodeEngines::new(clock.clone(), TaskTracker::new()));
        let parts = Parts {
            store: Arc::new(store),
            engines: engines.clone(),
            clock,
            failpoints: Arc::new(NoFailpoints),
        };
        let settings = Settings { stop_grace: Duration::from_millis(10), ..Settings::default() };
        let orch = Orch::build(parts, settings).unwrap();
        let world = World { orch, engines, _data_dir: data_dir };
        world.add_user(ADMIN, "admin", &Permission::ALL, Quota::ADMIN).await;
        let may = [Permission::Read, Permission::Write, Permission::Execute];
        world.add_user(DEMO, "demo", &may, Quota::DEMO).await;
        for i in 1..=n_nodes {
            world.add_node(&format!("n{i}"), script.clone()).await;
        }
        world
    }

    async fn add_user(&self, id: &str, name: &str, permissions: &[Permission], quota: Quota) {
        let now = self.orch.clock.now();
        let user = User {
            id: UserId::try_new(id).unwrap(),
            name: UserName::try_new(name).unwrap(),
            password_hash: String::new(),
            permissions: permissions.to_vec(),
            quota,
            created_at: now,
            tokens_valid_from: now,
        };
        self.orch.ledger.write(None, |book| book.add_user(user.clone())).await.unwrap();
    }

    pub(crate) async fn add_node(&self, id: &str, script: SimConfig) {
        let now = self.orch.clock.now();
        let node = Node {
            id: NodeId::try_new(id).unwrap(),
            hostname: format!("{id}.test"),
            address: "127.0.0.1".to_owned(),
            role: Role::Worker,
            engine: EngineConfig::Sim(script),
            tags: BTreeSet::new(),
            labels: Labels::default(),
            description: String::new(),
            capacity: Resources::new(Cpu::from_millis(16_000), Memory::from_mib(64 * 1024), 0),
            capacity_is_fixed: false,
            cordoned: false,
            created_at: now,
            status: NodeStatus::Healthy,
            status_since: now,
        };
        self.orch.ledger.write(None, |book| book.add_node(node.clone())).await.unwrap();
    }

    /// The strings behind a node.
    pub(crate) fn control(&self, id: &str) -> SimControl {
        let id = NodeId::try_new(id).unwrap();
        let node = self.orch.ledger.read(|book| book.slot(&id).unwrap().node.clone());
        let EngineConfig::Sim(script) = &node.engine else { panic!("{id} is simulated") };
        self.engines.fleet().engine(&id, script);
        self.engines.fleet().control(&id).unwrap()
    }

    pub(crate) fn caller(&self, user: &str) -> Caller {
        let id = UserId::try_new(user).unwrap();
        let user = self.orch.ledger.read(|book| book.user(&id).unwrap().clone());
        Caller {
            user: id,
            permissions: user.permissions.clone(),
            channel: Channel::Mcp,
            client: None,
        }
    }

    /// A new API key of `user`, which may do no more than `permissions`.
    pub(crate) async fn api_key(&self, user: &str, permissions: &[Permission]) -> String {
        let (id, text, secret_sha256) = identity::new_api_key(self.orch.random()).unwrap();
        let key = ApiKey {
            id,
            user: UserId::try_new(user).unwrap(),
            name: "test".to_owned(),
            permissions: permissions.to_vec(),
            secret_sha256,
            created_at: self.orch.clock.now(),
            expires_at: None,
        };
        self.orch.ledger.write(None, |book| book.add_api_key(key.clone())).await.unwrap();
        text
    }

    pub(crate) fn access(&self) -> Arc<Access> {
        Arc::new(Access::new(self.orch.clone(), Mode::Login, Sites::loopback()))
    }

    /// Containers on all nodes, whoever made them.
    pub(crate) fn n_containers(&self) -> usize {
        let ids: Vec<String> =
            self.orch.ledger.read(|book| book.slots().map(|it| it.node.id.to_string()).collect());
        ids.iter().map(|it| self.control(it).containers().len()).sum()
    }

    /// Instances that still hold their reservation.
    pub(crate) fn n_live(&self) -> usize {
        self.orch.ledger.read(|book| {
            book.instances_after(None).filter(|it| it.state.holds_reservation()).count()
        })
    }
}
