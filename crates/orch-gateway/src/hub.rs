//! All upstream servers, and who of them has what.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join_all;
use orch_core::Cx;
use orch_domain::Error;
use orch_domain::rate::Rate;
use orch_domain::redact::SecretValues;
use orch_domain::time::Timestamp;
use parking_lot::{Mutex, RwLock};
use serde_json::json;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::catalog::{Item, List};
use crate::config::{McpConfig, Upstream};
use crate::frame::{Frame, Raw, raw};
use crate::limits::Limiter;
use crate::members::Members;
use crate::names::{edge_name, parse_canonical};
use crate::oauth::Logins;
use crate::safety::{self, Safety};
use crate::server::{Change, Server, Surroundings};
use crate::session::parked::{Parked, Waiting};
use crate::session::tasks::Tasks;
use crate::session::{Visitor, connection};
use crate::upstream::handshake::{self, Client};
use crate::upstream::http;
use crate::view::View;

/// Changes a listener may lag behind; beyond, it is told to look at everything.
const CHANGES: usize = 1024;
/// Between two looks at calls that wait for their clients.
const SWEEP: Duration = Duration::from_secs(10);
/// How long calls under way may go on when their server's configuration has changed.
const RELOAD_GRACE: Duration = Duration::from_secs(60);

pub struct Hub {
    around: Surroundings,
    servers: RwLock<BTreeMap<String, Arc<Server>>>,
    /// Which name at the edge stands for which tool; made anew when a list changed.
    edge: Mutex<Option<Arc<EdgeNames>>>,
    limiter: Limiter,
    /// What the present configuration holds that must not be shown.
    secrets: RwLock<Arc<SecretValues>>,
    pub(crate) parked: Arc<Parked<Waiting>>,
    pub(crate) tasks: Arc<Tasks>,
    /// Changes only under the lock of `servers`.
    is_ended: AtomicBool,
    /// Ends its own tasks.
    ended: CancellationToken,
}

type EdgeNames = HashMap<String, (String, Arc<str>)>;

/// What a new configuration came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    pub added: Vec<String>,
    pub changed: Vec<String>,
    pub removed: Vec<String>,
    pub unchanged: Vec<String>,
}

impl Hub {
    /// Without servers until `reload`. To be called inside a runtime.
    pub fn new(
        inherited: Vec<(String, String)>,
        tasks: TaskTracker,
        now: Arc<dyn Fn() -> Timestamp + Send + Sync>,
        per_caller: Option<Rate>,
        safety: safety::Settings,
    ) -> reqwest::Result<Arc<Hub>> {
        let client =
            Client { capabilities: raw(&json!({})), info: handshake::own_info(), hello: None };
        let http = http::client()?;
        let logins = Logins::new(http.clone(), tasks.clone(), now.clone())?;
        let around = Surroundings {
            http,
            logins,
            inherited: Arc::new(inherited),
            tasks: tasks.clone(),
            now,
            changes: broadcast::Sender::new(CHANGES),
            client: Arc::new(client),
            safety: Safety::new(safety),
        };
        let children = around.safety.children.clone();
        tasks.spawn(async move { children.sweep().await });
        let hub = Arc::new(Hub {
            around,
            servers: RwLock::default(),
            edge: Mutex::default(),
            limiter: Limiter::new(per_caller),
            secrets: RwLock::default(),
            parked: Arc::default(),
            tasks: Arc::default(),
            is_ended: AtomicBool::new(false),
            ended: CancellationToken::new(),
        });
        let mut changes = hub.changes();
        let weak = Arc::downgrade(&hub);
        let ended = hub.ended.clone();
        tasks.spawn(async move {
            loop {
                let changed = tokio::select! {
                    changed = tokio::time::timeout(SWEEP, changes.recv()) => changed,
                    () = ended.cancelled() => return,
                };
                if matches!(changed, Ok(Err(broadcast::error::RecvError::Closed))) {
                    return;
                }
                let Some(hub) = weak.upgrade() else { return };
                match changed {
                    Ok(_) => *hub.edge.lock() = None,
                    Err(_) => hub.parked.sweep(),
                }
            }
        });
        Ok(hub)
    }

    pub fn now(&self) -> Timestamp {
        (self.around.now)()
    }

    pub fn safety(&self) -> &Arc<Safety> {
        &self.around.safety
    }

    pub fn logins(&self) -> &Arc<Logins> {
        &self.around.logins
    }

    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.around.changes.subscribe()
    }

    /// Counts one request of `cx` to `server`, or refuses it because there were too many lately.
    pub fn admit(&self, server: &Server, cx: &Cx) -> Result<(), Error> {
        self.limiter.admit(cx.maybe_caller(), &server.name, server.spec.rate)
    }

    pub fn secrets(&self) -> Arc<SecretValues> {
        self.secrets.read().clone()
    }

    /// By name.
    pub fn servers(&self) -> Vec<Arc<Server>> {
        self.servers.read().values().cloned().collect()
    }

    pub fn is_empty(&self) -> bool {
        self.servers.read().is_empty()
    }

    pub fn server(&self, name: &str) -> Option<Arc<Server>> {
        self.servers.read().get(name).cloned()
    }

    /// The server of a tool or prompt, and its entry. Understands `server.tool` and what the edge makes of it.
    pub fn find(&self, list: List, name: &str, view: &View) -> Option<(Arc<Server>, Item)> {
        if let Some((server, local)) = parse_canonical(name)
            && let Some(server) = self.server(server)
        {
            let item = server.catalog().find(list, local)?.clone();
            return view.shows(list, &server.name, local).then_some((server, item));
        }
        let names = self.edge_names(list);
        let (server, local) = names.get(name)?;
        let server = self.server(server)?;
        let item = server.catalog().find(list, local)?.clone();
        view.shows(list, &server.name, local).then_some((server, item))
    }

    fn edge_names(&self, list: List) -> Arc<EdgeNames> {
        if list == List::Tools
            && let Some(names) = &*self.edge.lock()
        {
            return names.clone();
        }
        let mut names = EdgeNames::new();
        for server in self.servers() {
            for item in server.catalog().of(list) {
                let at_edge = edge_name(&server.name, &item.name);
                names.insert(at_edge, (server.name.to_string(), item.name.clone()));
            }
        }
        let names = Arc::new(names);
        if list == List::Tools {
            *self.edge.lock() = Some(names.clone());
        }
        names
    }

    /// One list over all servers, by server, with the names of the edge. Entries are as they came but for their names.
    pub fn list(&self, list: List, view: &View) -> Vec<Raw> {
        let mut out = Vec::new();
        if !view.lists(list) {
            return out;
        }
        for server in self.servers() {
            let catalog = server.catalog();
            let shown =
                catalog.of(list).iter().filter(|it| view.shows(list, &server.name, &it.name));
            out.extend(shown.map(|it| match list {
                List::Tools | List::Prompts => {
                    renamed(it, &view.dialect.name(&server.name, &it.name))
                }
                List::Resources | List::Templates => it.json.clone(),
            }));
        }
        out
    }

    /// Tells the servers that have a connection of this session alone how much it wants to hear.
    pub async fn set_level(&self, visitor: &Visitor) {
        let (Some(level), Some(session)) = (visitor.log_level(), visitor.session) else { return };
        for server in self.servers() {
            if let Some(live) = server.present(session).await {
                connection::set_level(&live, &level).await;
            }
        }
    }

    /// Adds to what we say we can do what only servers behind can: their tasks are asked about through us.
    pub fn add_capabilities(&self, answer: &mut Frame) {
        let has_tasks = |it: &Arc<Server>| {
            it.live().is_some_and(|live| live.welcome.capabilities.get("tasks").is_some())
        };
        let Some(mut result) = answer.result.as_ref().and_then(Members::of) else { return };
        let is_of_session = result.get("protocolVersion").is_some();
        let Some(mut capabilities) = result.object("capabilities") else { return };
        if !is_of_session || !self.servers().iter().any(has_tasks) {
            return;
        }
        capabilities.set("tasks", &json!({"cancel": {}, "requests": {"tools": {"call": {}}}}));
        result.set("capabilities", &capabilities);
        answer.result = Some(result.to_raw());
    }

    /// Whether a server is being tried for the first time.
    pub fn is_settling(&self) -> bool {
        self.servers.read().values().any(|it| it.is_settling())
    }

    /// Waits until every server has been tried, but for none longer than a moment from its start: who is slower is
    /// listed when it is there, and the client is told.
    pub async fn settled(&self) {
        join_all(self.servers().into_iter().map(|it| async move { it.settled().await })).await;
    }

    /// Goes over to another configuration: only what differs is restarted.
    pub fn reload(&self, config: &McpConfig) -> Reloaded {
        let mut report = Reloaded::default();
        let mut ending = Vec::new();
        {
            let mut servers = self.servers.write();
            if self.is_ended.load(Ordering::Relaxed) {
                return report;
            }
            let names: Vec<String> = servers.keys().cloned().collect();
            for name in names {
                if !config.servers.contains_key(&name) {
                    ending.extend(servers.remove(&name));
                    report.removed.push(name);
                }
            }
            for (name, spec) in &config.servers {
                match servers.get(name) {
                    Some(it) if it.spec == *spec => report.unchanged.push(name.clone()),
                    old => {
                        let is_new = old.is_none();
                        let server = Server::start(name, spec.clone(), self.around.clone());
                        ending.extend(servers.insert(name.clone(), server));
                        if is_new { &mut report.added } else { &mut report.changed }
                            .push(name.clone());
                    }
                }
            }
        }
        *self.edge.lock() = None;
        *self.secrets.write() = Arc::new(config.secrets());
        // Nobody waits for them: their calls end with the old configuration, new ones begin with the new.
        for server in ending {
            self.around.tasks.spawn(async move { server.stop(RELOAD_GRACE).await });
        }
        report
    }

    /// The present configuration.
    pub fn config(&self) -> McpConfig {
        let servers = self.servers.read();
        let spec = |(name, server): (&String, &Arc<Server>)| -> (String, Upstream) {
            (name.clone(), server.spec.clone())
        };
        McpConfig { servers: servers.iter().map(spec).collect() }
    }

    /// Ends all connections and children. Nothing is connected to after that.
    pub async fn stop(&self) {
        self.ended.cancel();
        let servers = {
            let mut servers = self.servers.write();
            self.is_ended.store(true, Ordering::Relaxed);
            std::mem::take(&mut *servers)
        };
        join_all(servers.values().map(|it| it.stop(Duration::ZERO))).await;
    }
}

fn renamed(item: &Item, name: &str) -> Raw {
    match Members::of(&item.json) {
        Some(mut members) => {
            members.set("name", name);
            members.to_raw()
        }
        None => item.json.clone(),
    }
}
