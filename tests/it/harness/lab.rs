//! An orchestrator on a real store and simulated nodes, inside the test's own process, that can crash and come back.

use std::sync::Arc;
use std::time::Duration;

use orch_adapters::engines::NodeEngines;
use orch_adapters::sim::SimControl;
use orch_adapters::ssh::SshSettings;
use orch_adapters::store::{OpenError, SledStore};
use orch_adapters::tailscale::Tailscale;
use orch_core::Orch;
use orch_core::orch::Parts;
use orch_core::ports::clock::SystemClock;
use orch_core::ports::engine::{ContainerState, Engines};
use orch_core::ports::failpoint::{Failpoint, Failpoints, NoFailpoints};
use orch_core::ports::ray::Ray;
use orch_core::ports::store::AuditQuery;
use orch_core::ports::tool_server::NoToolServers;
use orch_core::settings::Settings;
use orch_domain::audit::AuditEntry;
use orch_domain::instance::InstanceState;
use orch_domain::name::NodeId;
use orch_domain::node::{Node, SimConfig};
use orch_domain::user::User;
use parking_lot::Mutex;
use serde_json::Value;
use tokio_util::task::TaskTracker;

use super::caller::ALL_BUT_ADMIN;
use super::eventually;
use super::watched::{Broken, Watched};

pub(crate) struct Lab {
    dir: tempfile::TempDir,
    /// Outlives a crash, as the machines of a cluster do.
    pub(crate) engines: Arc<NodeEngines>,
    /// How the orchestrator meets them.
    seen_as: Arc<dyn Engines>,
    pub(crate) settings: Settings,
    ray: Option<Arc<dyn Ray>>,
    orch: Option<Arc<Orch>>,
    /// Looked at last, when nothing commits any more.
    broken: Broken,
}

/// Ends the task that gets to `at`, the given number of times. The rest of the process goes on, so a test drops it.
pub(crate) struct CrashAt {
    pub(crate) at: Failpoint,
    left: Mutex<u32>,
    hit: Arc<tokio::sync::Semaphore>,
}

impl Failpoints for CrashAt {
    fn reach(&self, at: Failpoint) {
        if at == self.at && 0 < *self.left.lock() {
            *self.left.lock() -= 1;
            self.hit.add_permits(1);
            std::panic::resume_unwind(Box::new("crashed on purpose"));
        }
    }
}

impl Lab {
    /// With `n_nodes` nodes of 16 vCPU and 64 GiB, and the users `ann` and `bob` with a quota of 10 instances.
    pub(crate) async fn new(n_nodes: usize) -> Lab {
        Lab::with(n_nodes, SimConfig::default()).await
    }

    pub(crate) async fn with(n_nodes: usize, sim: SimConfig) -> Lab {
        let settings = Settings {
            stop_grace: Duration::from_millis(500),
            launch_retry: Duration::from_millis(300),
            orphan_grace: Duration::from_millis(50),
            reschedule_grace: Duration::ZERO,
            health_timeout: Duration::from_millis(300),
            ..Settings::default()
        };
        let lab = Lab::empty(settings).await;
        lab.add_nodes(n_nodes, sim).await;
        lab.add_user(User::test("ann")).await;
        lab.add_user(User { permissions: ALL_BUT_ADMIN.to_vec(), ..User::test("bob") }).await;
        lab
    }

    pub(crate) async fn empty(settings: Settings) -> Lab {
        Lab::make(settings, SshSettings::default(), None).await
    }

    /// Whose server's user has this for SSH.
    pub(crate) async fn empty_with(settings: Settings, ssh: SshSettings) -> Lab {
        Lab::make(settings, ssh, None).await
    }

    pub(crate) async fn with_ray(settings: Settings, ray: Option<Arc<dyn Ray>>) -> Lab {
        Lab::make(settings, SshSettings::default(), ray).await
    }

    async fn make(settings: Settings, ssh: SshSettings, ray: Option<Arc<dyn Ray>>) -> Lab {
        let engines = NodeEngines::new(Arc::new(SystemClock), TaskTracker::new()).with_ssh(ssh);
        let engines = Arc::new(engines);
        let dir = tempfile::tempdir().unwrap();
        let (seen_as, broken) = (engines.clone(), Broken::default());
        let mut lab = Lab { dir, engines, seen_as, settings, ray, orch: None, broken };
        lab.start(Arc::new(NoFailpoints)).await;
        lab
    }

    /// Healthy workers `n1`, `n2` …
    pub(crate) async fn add_nodes(&self, n_nodes: usize, sim: SimConfig) {
        let mut nodes = (1..=n_nodes).map(|n| Node::test(&format!("n{n}")).simulated(sim.clone()));
        let written =
            self.orch().ledger.write(None, |book| nodes.try_for_each(|it| book.add_node(it)));
        written.await.unwrap();
    }

    pub(crate) async fn add_node(&self, node: Node) {
        self.orch().ledger.write(None, |book| book.add_node(node)).await.unwrap();
    }

    pub(crate) async fn add_user(&self, user: User) {
        self.orch().ledger.write(None, |book| book.add_user(user)).await.unwrap();
    }

    pub(crate) fn orch(&self) -> &Arc<Orch> {
        self.orch.as_ref().expect("started")
    }

    /// Where this orchestrator looks for Tailscale.
    pub(crate) fn tailscale_socket(&self) -> std::path::PathBuf {
        self.dir.path().join("tailscaled.sock")
    }

    async fn start(&mut self, failpoints: Arc<dyn Failpoints>) {
        assert!(self.orch.is_none());
        // The last task of the one before may still be closing it, on another thread.
        let store = eventually("the store to be free", || async {
            match SledStore::open(self.dir.path()) {
                Err(OpenError::InUse { .. }) => None,
                opened => Some(opened.unwrap()),
            }
        });
        let store = Arc::new(store.await);
        let parts = Parts {
            tool_servers: Arc::new(NoToolServers),
            blobs: store.clone(),
            model: None,
            store: Arc::new(Watched::new(store, &self.broken)),
            engines: self.seen_as.clone(),
            clock: Arc::new(SystemClock),
            failpoints,
            peers: Arc::new(Tailscale::new(self.tailscale_socket())),
            ray: self.ray.clone(),
        };
        self.orch = Some(Orch::build(parts, self.settings.clone()).unwrap());
    }

    /// Drops everything in memory and opens the store anew. Nothing is told goodbye: flights end where they are.
    pub(crate) async fn restart(&mut self) {
        self.restart_with(Arc::new(NoFailpoints)).await;
    }

    pub(crate) async fn restart_with(&mut self, failpoints: Arc<dyn Failpoints>) {
        let orch = self.orch.take().unwrap();
        assert!(orch.drain(Duration::from_secs(10)).await);
        let gone = Arc::downgrade(&orch);
        drop(orch);
        eventually("the old process to be gone", || async {
            gone.upgrade().is_none().then_some(())
        })
        .await;
        self.start(failpoints).await;
        self.orch().recover();
    }

    /// Restarts, and from then on meets the engines as `engines` shows them.
    pub(crate) async fn look_through(&mut self, engines: Arc<dyn Engines>) {
        self.seen_as = engines;
        self.restart().await;
    }

    /// From now on a task that gets to `at` ends there, `n` times. The semaphore counts the crashes.
    pub(crate) async fn crash_at(&mut self, at: Failpoint, n: u32) -> Arc<tokio::sync::Semaphore> {
        let hit = Arc::new(tokio::sync::Semaphore::new(0));
        self.restart_with(Arc::new(CrashAt { at, left: Mutex::new(n), hit: hit.clone() })).await;
        hit
    }

    /// The strings behind a simulated node.
    pub(crate) fn control(&self, id: &str) -> SimControl {
        let id = NodeId::try_new(id).unwrap();
        // A node's engine exists once somebody has asked for it.
        self.orch().engine(&id).unwrap();
        self.engines.fleet().control(&id).unwrap()
    }

    pub(crate) async fn instances(&self) -> Vec<Value> {
        self.ask("list_instances", serde_json::json!({"page_size": 1000})).await["instances"]
            .as_array()
            .unwrap()
            .clone()
    }

    /// Waits until no instance is on its way anywhere.
    pub(crate) async fn at_rest(&self) {
        eventually("instances at rest", || async {
            let book = |book: &orch_domain::book::Book| {
                book.instances_after(None).all(|it| !it.state.is_transitional())
            };
            self.orch().ledger.read(book).then_some(())
        })
        .await;
    }

    pub(crate) fn audit(&self) -> Vec<AuditEntry> {
        let query = AuditQuery { limit: 1000, ..AuditQuery::default() };
        self.orch().ledger.store().audit(&query).unwrap()
    }

    /// Containers on all nodes, whoever made them.
    pub(crate) fn n_containers(&self) -> usize {
        let ids: Vec<String> =
            self.orch().ledger.read(|book| book.slots().map(|it| it.node.id.to_string()).collect());
        ids.iter().map(|it| self.control(it).containers().len()).sum()
    }

    /// Instances that still hold their reservation.
    pub(crate) fn n_live(&self) -> usize {
        self.orch().ledger.read(|book| {
            book.instances_after(None).filter(|it| it.state.holds_reservation()).count()
        })
    }

    /// What must hold whenever nothing is under way: sums agree, and containers and records are the same set. What
    /// moved away may still have its container where it was.
    pub(crate) fn check(&self, when: &str) {
        self.orch().ledger.read(|book| {
            book.check().unwrap_or_else(|err| panic!("{when}: {err}"));
            for slot in book.slots() {
                let Some(control) = self.engines.fleet().control(&slot.node.id) else { continue };
                let controller_id = &self.orch().ledger.store().identity().controller_id;
                let ours = |it: &orch_core::ports::engine::Container| {
                    it.labels.as_ref().is_some_and(|labels| labels.controller_id == *controller_id)
                };
                let may_be_there =
                    |name: &str| slot.remnants.iter().any(|it| it.container_name() == name);
                let mut containers: Vec<(String, bool)> = control
                    .containers()
                    .into_iter()
                    .filter(ours)
                    .filter(|it| !may_be_there(&it.name))
                    .map(|it| (it.name, matches!(it.state, ContainerState::Running)))
                    .collect();
                containers.sort();
                let mut records: Vec<(String, bool)> = slot
                    .instances
                    .iter()
                    .filter_map(|id| book.instance(id))
                    .map(|it| (it.id.container_name(), it.state == InstanceState::Running))
                    .collect();
                records.sort();
                assert_eq!(
                    containers, records,
                    "{when}: containers and records of {}",
                    slot.node.id
                );
            }
        });
    }
}
