//! Everything the operations stand on, in one place.

use std::sync::{Arc, OnceLock};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cx::Scope;
use crate::event::Events;
use crate::ports::blobs::Blobs;
use crate::ports::clock::Clock;
use crate::ports::engine::Engines;
use crate::ports::failpoint::Failpoints;
use crate::ports::model::Model;
use crate::ports::peers::Peers;
use crate::ports::ray::Ray;
use crate::ports::store::{Store, StoreError};
use crate::ports::tool_server::ToolServers;
use crate::service::batch::Batches;
use crate::service::flight::Flights;
use crate::service::health::HealthBoard;
use crate::service::identity::Identity;
use crate::service::ledger::Ledger;
use crate::service::pull::Pulls;
use crate::service::ray::RayBoard;
use crate::service::reconcile::Orphans;
use crate::service::remnant::Fences;
use crate::service::seal::{Purpose, Seal};
use crate::service::tool_search::ToolSearch;
use crate::settings::Settings;
use crate::task::{Followers, TaskBoard};

pub type FindScope = Box<dyn Fn(&str) -> Option<Arc<dyn Scope>> + Send + Sync>;

pub struct Orch {
    pub ledger: Ledger,
    pub events: Arc<Events>,
    pub identity: Identity,
    pub health: HealthBoard,
    pub ray: RayBoard,
    pub settings: Settings,
    pub clock: Arc<dyn Clock>,
    pub engines: Arc<dyn Engines>,
    pub failpoints: Arc<dyn Failpoints>,
    pub tool_servers: Arc<dyn ToolServers>,
    pub peers: Arc<dyn Peers>,
    pub blobs: Arc<dyn Blobs>,
    pub batches: Batches,
    /// Finds the scope of a profile by its name; set once by the floor above, which has the profiles.
    pub scopes: OnceLock<FindScope>,
    /// That of the configured provider, for callers who bring none of their own.
    pub model: Option<Arc<dyn Model>>,
    pub(crate) flights: Flights,
    pub(crate) pulls: Pulls,
    pub(crate) seal: Seal,
    pub(crate) grant_seal: Seal,
    pub(crate) orphans: Orphans,
    pub(crate) fences: Fences,
    pub(crate) tool_search: ToolSearch,
    pub(crate) followers: Followers,
    pub tasks: TaskBoard,
    /// Every task of the services; `drain` waits for it.
    pub tracker: TaskTracker,
    /// Cancelled when the process is to end: background work stops between steps, and what is half done waits for the
    /// next start.
    pub shutdown: CancellationToken,
}

/// The adapters, named by the floor above.
pub struct Parts {
    pub store: Arc<dyn Store>,
    pub engines: Arc<dyn Engines>,
    pub clock: Arc<dyn Clock>,
    pub failpoints: Arc<dyn Failpoints>,
    pub tool_servers: Arc<dyn ToolServers>,
    pub peers: Arc<dyn Peers>,
    pub blobs: Arc<dyn Blobs>,
    /// None: no Ray cluster is configured.
    pub ray: Option<Arc<dyn Ray>>,
    /// None: no provider is configured.
    pub model: Option<Arc<dyn Model>>,
}

impl Orch {
    /// Reads the stored state; nothing runs yet.
    pub fn build(parts: Parts, settings: Settings) -> Result<Arc<Orch>, StoreError> {
        let events = Arc::new(Events::default());
        let identity = Identity::new(parts.store.identity(), &settings);
        let secret = &parts.store.identity().token_secret;
        let seal = Seal::new(secret, Purpose::RegistryCredentials);
        let grant_seal = Seal::new(secret, Purpose::Grants);
        let ledger = Ledger::open(parts.store, events.clone(), parts.clock.clone(), &settings)?;
        let batches = Batches::new(&settings.batch);
        Ok(Arc::new(Orch {
            health: HealthBoard::new(&ledger),
            ray: RayBoard::new(parts.ray),
            ledger,
            events,
            identity,
            flights: Flights::new(settings.starts_per_node),
            pulls: Pulls::new(settings.pulls_at_once),
            seal,
            grant_seal,
            orphans: Orphans::default(),
            fences: Fences::default(),
            tool_search: ToolSearch::default(),
            followers: Followers::default(),
            tasks: TaskBoard::default(),
            settings,
            clock: parts.clock,
            engines: parts.engines,
            failpoints: parts.failpoints,
            tool_servers: parts.tool_servers,
            peers: parts.peers,
            blobs: parts.blobs,
            batches,
            scopes: OnceLock::new(),
            model: parts.model,
            tracker: TaskTracker::new(),
            shutdown: CancellationToken::new(),
        }))
    }

    /// A random number, for ids. Not predictable, so that ids cannot be guessed ahead.
    pub fn random(&self) -> u64 {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes).expect("the operating system has random numbers");
        u64::from_le_bytes(bytes)
    }
}
