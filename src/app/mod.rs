//! From a configuration to a running process and back: `Config` → `App` (everything built and bound, nothing running)
//! → `Running` → `drain`.
//!
//! The one place that names concrete adapters and faces together.

pub mod data_dir;
pub mod database;
mod failpoint;
pub mod gateway;
pub mod hangup;
mod http;
pub mod llm;
mod logins;
pub mod machine;
pub mod nodes;
pub mod ray;
mod register;
pub mod socket;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use orch_adapters::engines::NodeEngines;
use orch_adapters::ssh::SshSettings;
use orch_adapters::store::SledStore;
use orch_adapters::tailscale::Tailscale;
use orch_core::Orch;
use orch_core::orch::Parts;
use orch_core::ports::clock::SystemClock;
use orch_core::service::bootstrap::{Credentials, Users};
use orch_domain::name::UserName;
use orch_gateway::config::McpConfig;
use orch_gateway::port::Gateway;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Config, Env};
use crate::face::mcp::Face;
use data_dir::{DataDir, Holder, Lock};
use http::Http;
use socket::{Entry, Local};

/// At most between the last call that is let in and the word to end.
const SETTLING: Duration = Duration::from_secs(2);

/// What the process is started as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// HTTP for everybody who may, and the socket.
    Server { demo: bool },
    /// The socket only; whoever started it speaks over stdin.
    Stdio,
}

/// Built and bound; nothing runs yet.
pub struct App {
    orch: Arc<Orch>,
    local: Arc<Local>,
    socket: UnixListener,
    http: Option<Http>,
    credentials: Option<Credentials>,
    engine_tasks: TaskTracker,
    data_dir: DataDir,
    lock: Lock,
    /// Machines to register once it runs.
    nodes_file: Option<PathBuf>,
    gateway: Arc<Gateway>,
    /// To connect to once it runs.
    servers: McpConfig,
    drain_timeout: Duration,
}

/// Serving. Dropped without `drain`, it ends like a crash, which the next start mends.
pub struct Running {
    pub orch: Arc<Orch>,
    /// Where HTTP is served.
    pub address: Option<SocketAddr>,
    /// Shown to the user once.
    pub credentials: Option<Credentials>,
    local: Arc<Local>,
    engine_tasks: TaskTracker,
    gateway: Arc<Gateway>,
    data_dir: DataDir,
    /// Released last, by being dropped.
    _lock: Lock,
    drain_timeout: Duration,
}

fn ssh_settings(config: &Config, env: &dyn Env) -> SshSettings {
    let path = |name: &str| env.get(name).filter(|it| !it.is_empty()).map(PathBuf::from);
    SshSettings {
        agent_socket: path("SSH_AUTH_SOCK"),
        home: path("HOME"),
        config: config.cluster.ssh_config.clone(),
    }
}

impl App {
    pub async fn build(
        config: &Config,
        env: &'static dyn Env,
        kind: Kind,
        data_dir: DataDir,
        lock: Lock,
    ) -> anyhow::Result<App> {
        let shutdown = CancellationToken::new();
        let engine_tasks = TaskTracker::new();
        let clock = Arc::new(SystemClock);
        let (gateway, servers) =
            gateway::build(config, env, &data_dir, clock.clone(), engine_tasks.clone())?;
        let store = {
            let path = data_dir.path().to_owned();
            let opened = tokio::task::spawn_blocking(move || SledStore::open(&path)).await?;
            Arc::new(opened?)
        };
        let parts = Parts {
            store: store.clone(),
            blobs: store.clone(),
            engines: Arc::new(
                NodeEngines::new(clock.clone(), engine_tasks.clone())
                    .with_ssh(ssh_settings(config, env)),
            ),
            clock,
            failpoints: failpoint::from_env(env)?,
            tool_servers: gateway.clone(),
            peers: Arc::new(Tailscale::new(config.cluster.tailscale_socket.clone())),
            ray: ray::of(config)?,
            model: llm::of(config).context("no client for the language model can be made")?,
        };
        let orch = Orch::build(parts, config.settings())?;
        let credentials = prepare(&orch, config, env, kind).await?;
        orch.load_batches().await.context("the batches cannot be read")?;
        let face = Face::new(orch.clone(), shutdown.clone())
            .with_hub(gateway.hub.clone())
            .with_profiles(config.profiles());
        let face = Arc::new(face);
        let of_scopes = Arc::downgrade(&face);
        let find_scope = move |profile: &str| {
            let view = of_scopes.upgrade()?.view(Some(profile), None).ok()?;
            Some(Arc::new(view) as Arc<dyn orch_core::cx::Scope>)
        };
        drop(orch.scopes.set(Box::new(find_scope)));
        let http = match kind {
            Kind::Server { demo } => {
                Some(Http::bind(&orch, config, demo, face.clone(), shutdown.clone()).await?)
            }
            Kind::Stdio => None,
        };
        let address = http.as_ref().map(|it| it.address);
        logins::open(gateway.hub.logins(), &orch, address, &engine_tasks, &shutdown);
        let socket = socket::bind(&data_dir.socket())?;
        let yielded = (kind == Kind::Stdio).then(CancellationToken::new);
        let local = Local {
            orch: orch.clone(),
            face,
            store,
            closing: CancellationToken::new(),
            unsettled: TaskTracker::new(),
            shutdown,
            tracker: TaskTracker::new(),
            yielded,
        };
        Ok(App {
            orch,
            local: Arc::new(local),
            socket,
            http,
            credentials,
            engine_tasks,
            data_dir,
            lock,
            nodes_file: config.cluster.nodes_file.clone(),
            gateway,
            servers,
            drain_timeout: config.server.drain_timeout.duration(),
        })
    }

    pub fn start(self) -> anyhow::Result<Running> {
        machine::raise_open_files();
        self.orch.start_tasks();
        let tracker = &self.local.tracker;
        if let Some(file) = self.nodes_file {
            tracker.spawn(register::all(self.orch.clone(), file));
        }
        tracker.spawn(socket::serve(self.socket, self.local.clone()));
        // Before anybody can ask: what is known from an earlier run is there at once.
        let (gateway, shutdown) = (self.gateway.clone(), self.local.shutdown.clone());
        let changes = gateway.hub.changes();
        gateway.apply(self.servers);
        let of_batches = self.orch.clone();
        tracker.spawn(async move { of_batches.resume_batches().await });
        tracker.spawn(gateway::tell_of_tools(changes, self.orch.clone(), shutdown.clone()));
        let hangup = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())?;
        tracker.spawn(hangup::reload_on(hangup, gateway.clone(), shutdown.clone()));
        tracker.spawn(async move { gateway.run(shutdown).await });
        let address = self.http.as_ref().map(|it| it.address);
        if let Some(http) = self.http {
            tracker.spawn(http.serve());
        }
        // Who reads this may connect: everything listens.
        self.lock.announce(&Holder {
            port: address.map(|it| it.port()),
            url: address.map(http::url_of),
            ..Holder::this_process()
        })?;
        Ok(Running {
            orch: self.orch,
            address,
            credentials: self.credentials,
            local: self.local,
            engine_tasks: self.engine_tasks,
            gateway: self.gateway,
            data_dir: self.data_dir,
            _lock: self.lock,
            drain_timeout: self.drain_timeout,
        })
    }
}

/// What has to be there before the first call: users, quotas, and this machine as a node.
async fn prepare(
    orch: &Arc<Orch>,
    config: &Config,
    env: &dyn Env,
    kind: Kind,
) -> anyhow::Result<Option<Credentials>> {
    let users = match kind {
        Kind::Server { demo: true } => Users::Demo,
        Kind::Server { demo: false } => Users::Administrator,
        Kind::Stdio => Users::Local,
    };
    let credentials =
        orch.bootstrap_users(users).await.context("the built-in users cannot be made")?;
    let quotas: Result<BTreeMap<UserName, _>, _> = (config.compute.quotas.iter())
        .map(|(name, quota)| UserName::try_new(name).map(|name| (name, *quota)))
        .collect();
    for name in orch.apply_quotas(&quotas?).await? {
        tracing::warn!(
            "`compute.quotas.{name}`: there is no such user; make it with `create_user`"
        );
    }
    if config.cluster.register_local
        && let Some(local) = machine::local_node(env)
    {
        orch.register_local(local).await.context("the node `local` cannot be registered")?;
    }
    Ok(credentials)
}

impl Running {
    pub fn url(&self) -> Option<String> {
        self.address.map(http::url_of)
    }

    /// Speaks MCP with a client over `stream`, in the background. The error says that there is no such endpoint.
    pub fn serve_stream(
        &self,
        entry: &Entry,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    ) -> Result<(), orch_domain::Error> {
        let view = self.local.face.view(entry.profile.as_deref(), entry.names)?;
        let local = self.local.clone();
        self.local.tracker.spawn(async move { local.serve_stream(view, stream).await });
        Ok(())
    }

    /// Resolves when another process asks for the data directory.
    pub async fn yielded(&self) {
        match &self.local.yielded {
            Some(it) => it.cancelled().await,
            None => std::future::pending().await,
        }
    }

    /// Lets calls under way end, then background work, and gives the data directory back. The answer says whether all
    /// of it ended in time; what did not is mended by the next start.
    pub async fn drain(self) -> bool {
        let deadline = Instant::now() + self.drain_timeout;
        self.local.closing.cancel();
        self.local.unsettled.close();
        // What was let in before is begun, and with that answered before the end.
        if tokio::time::timeout(SETTLING, self.local.unsettled.wait()).await.is_err() {
            tracing::debug!("a local connection does not settle");
        }
        self.local.shutdown.cancel();
        let tracker = &self.local.tracker;
        tracker.close();
        let faces = tokio::time::timeout(self.drain_timeout.mul_f64(0.8), tracker.wait()).await;
        let rest = deadline.saturating_duration_since(Instant::now());
        let tasks = self.orch.drain(rest).await;
        self.gateway.hub.stop().await;
        self.engine_tasks.close();
        let rest = deadline.saturating_duration_since(Instant::now());
        let engines = tokio::time::timeout(rest, self.engine_tasks.wait()).await;
        if let Err(err) = fs_err::remove_file(self.data_dir.socket()) {
            tracing::debug!("the socket was gone already: {err}");
        }
        faces.is_ok() && tasks && engines.is_ok()
    }
}
