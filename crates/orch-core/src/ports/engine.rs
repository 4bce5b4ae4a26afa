//! A container engine of one node: the verbs of a container's life, and a name to find it by after a crash.
//!
//! Every verb may be repeated: creating what exists with our labels adopts it, starting what runs, stopping what is
//! stopped and removing what is gone succeed.

mod pull;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use orch_domain::health::Level;
use orch_domain::image::ImageRef;
use orch_domain::metrics::Sample;
use orch_domain::name::{InstanceId, NodeId, UserId};
use orch_domain::node::{EngineConfig, Node};
use orch_domain::port::PortBinding;
use orch_domain::resource::Resources;
use orch_domain::ssh::{Fingerprint, HostKey, SshEndpoint, SshWanted, Trust};
use orch_domain::time::Timestamp;
use orch_domain::trouble::Trouble;

pub use pull::{PulledImage, RegistryLogin};

#[async_trait]
pub trait Engine: Send + Sync {
    /// What a check of the node goes through one after the other, from the outside in; the engine itself comes last.
    fn levels(&self) -> &'static [Level];

    /// Whether the node answers at a level below its engine. Asked in the order of `levels`, each after the one before
    /// succeeded. May hang: whoever asks sets the limit.
    async fn reach(&self, level: Level) -> Result<(), EngineError>;

    /// What is in use on the machine, as far as this kind of engine can tell. `info` is what it just said of itself.
    async fn sample(&self, info: &EngineInfo) -> Result<Sample, EngineError>;

    /// Whether it answers, what it is, and what the node has.
    async fn describe(&self) -> Result<EngineInfo, EngineError>;

    /// What a call that does not come back waits for, when that is not the engine itself.
    fn waits_for(&self) -> Option<EngineError> {
        None
    }

    async fn images(&self) -> Result<Vec<EngineImage>, EngineError>;

    async fn has_image(&self, image: &ImageRef) -> Result<bool, EngineError>;

    /// Fetches what the registry has under that name now, logging in where `login` says how; `report` is called as it
    /// goes on. Dropped meanwhile, the engine is told to leave it.
    async fn pull(
        &self,
        image: &ImageRef,
        login: Option<&RegistryLogin>,
        report: PullReport,
    ) -> Result<PulledImage, EngineError>;

    /// Creates the container and returns the engine's id of it. A container of that name with the same labels is
    /// adopted; one with other labels is `NameTaken`.
    async fn create(&self, spec: &ContainerSpec) -> Result<String, EngineError>;

    /// `CutShort`: only another container in its place can be started.
    async fn start(&self, name: &str) -> Result<(), EngineError>;

    /// Asks it to end, and ends it after `grace`.
    async fn stop(&self, name: &str, grace: Duration) -> Result<(), EngineError>;

    /// Ends and removes it.
    async fn remove(&self, name: &str) -> Result<(), EngineError>;

    /// `None`: there is no such container.
    async fn inspect(&self, name: &str) -> Result<Option<Container>, EngineError>;

    /// All containers that carry `controller_id`, whatever their state.
    async fn list(&self, controller_id: &str) -> Result<Vec<Container>, EngineError>;

    /// What happens to containers that carry `controller_id`, from now on. Ends when the connection does.
    async fn events(
        &self,
        controller_id: &str,
    ) -> Result<BoxStream<'static, Result<EngineEvent, EngineError>>, EngineError>;

    /// What the container wrote, oldest first; ends when `follow` is off or the container ends.
    async fn logs(
        &self,
        name: &str,
        query: LogQuery,
    ) -> Result<BoxStream<'static, Result<LogLine, EngineError>>, EngineError>;

    async fn stats(&self, name: &str) -> Result<ContainerStats, EngineError>;

    /// Runs a command to its end or its timeout.
    async fn exec(&self, name: &str, request: ExecRequest) -> Result<ExecOutcome, EngineError>;

    /// Interactive sessions, where the engine has them.
    fn terminals(&self) -> Option<&dyn Terminals> {
        None
    }
}

#[async_trait]
pub trait Terminals: Send + Sync {
    /// Starts `command` on a terminal of the given size.
    async fn open(
        &self,
        name: &str,
        command: Vec<String>,
        size: TerminalSize,
    ) -> Result<Terminal, EngineError>;
}

/// An open terminal session. Dropping it ends the session.
pub struct Terminal {
    /// What the command writes; ends when the command does.
    pub output: BoxStream<'static, Result<Bytes, EngineError>>,
    /// What the user types.
    pub input: std::pin::Pin<Box<dyn tokio::io::AsyncWrite + Send>>,
    /// Tells the command a new size.
    pub resize: Arc<
        dyn Fn(TerminalSize) -> futures::future::BoxFuture<'static, Result<(), EngineError>>
            + Send
            + Sync,
    >,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TerminalSize {
    pub columns: u16,
    pub rows: u16,
}

/// Makes the engine of a node. Nothing is connected until the engine is used.
#[async_trait]
pub trait Engines: Send + Sync {
    fn engine(&self, node: &Node) -> Result<Arc<dyn Engine>, EngineError>;

    /// Ends the connections to a node that is none any more.
    fn forget(&self, node_id: &NodeId);

    /// Whether `config` can be understood at all, as a sentence when not.
    fn check(&self, config: &EngineConfig) -> Result<(), String>;

    /// What the SSH configuration of this server's user makes of `wanted`, or a sentence that says why it cannot be
    /// used. No machine is met.
    async fn resolve(&self, wanted: SshWanted) -> Result<SshEndpoint, String>;

    /// Meets a machine for the first time, and all on the way to it: `config` with the keys by which they are
    /// recognised from then on, if `trust` allows those keys. Whoever needs no such key stays as it is.
    async fn identify(
        &self,
        config: &EngineConfig,
        trust: &Trust,
    ) -> Result<EngineConfig, EngineError>;
}

#[derive(Clone, Debug, PartialEq)]
pub struct EngineInfo {
    /// Such as `docker 20.10.24 (API 1.41)`.
    pub version: String,
    /// What the whole machine has.
    pub capacity: Resources,
    pub hostname: String,
    pub n_containers: u32,
    pub n_running: u32,
    /// Where on its machine it keeps images and containers, when it says so.
    pub data_root: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct EngineImage {
    /// Every `name:tag` it has; empty for an untagged one.
    pub references: Vec<String>,
    pub id: String,
    pub size_bytes: u64,
    pub created_at: Timestamp,
}

/// Called with what is done so far. Cheap, and never blocks.
pub type PullReport = Arc<dyn Fn(PullProgress) + Send + Sync>;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct PullProgress {
    pub done_bytes: u64,
    /// Grows while layers are discovered.
    pub total_bytes: u64,
    pub message: String,
}

/// All that a container can be told. There is no field for mounts, devices, host namespaces or capabilities, so that
/// no request can reach them; the hardening itself is the adapter's and not optional.
#[derive(Clone, Debug, PartialEq)]
pub struct ContainerSpec {
    pub name: String,
    pub image: ImageRef,
    pub command: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub resources: Resources,
    pub ports: Vec<PortBinding>,
    /// Indices of the GPUs of the node that it gets, and no other.
    pub gpus: Vec<u32>,
    /// Where published ports bind.
    pub publish_ip: IpAddr,
    pub labels: ContainerLabels,
    /// Labels that the user put on the instance.
    pub user_labels: BTreeMap<String, String>,
}

/// How a container is known to be ours, and whose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerLabels {
    pub controller_id: String,
    pub instance_id: InstanceId,
    pub generation: u32,
    pub owner: UserId,
}

impl ContainerLabels {
    pub const CONTROLLER_ID: &'static str = "mcp-orch.controller-id";
    pub const INSTANCE_ID: &'static str = "mcp-orch.instance-id";
    pub const GENERATION: &'static str = "mcp-orch.generation";
    pub const OWNER: &'static str = "mcp-orch.owner";

    pub fn to_map(&self) -> BTreeMap<String, String> {
        BTreeMap::from([
            (Self::CONTROLLER_ID.to_owned(), self.controller_id.clone()),
            (Self::INSTANCE_ID.to_owned(), self.instance_id.to_string()),
            (Self::GENERATION.to_owned(), self.generation.to_string()),
            (Self::OWNER.to_owned(), self.owner.to_string()),
        ])
    }

    /// `None` when one is missing or malformed: then the container is not ours to touch.
    pub fn from_map<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Option<ContainerLabels> {
        Some(ContainerLabels {
            controller_id: get(Self::CONTROLLER_ID)?.to_owned(),
            instance_id: InstanceId::try_new(get(Self::INSTANCE_ID)?).ok()?,
            generation: get(Self::GENERATION)?.parse().ok()?,
            owner: UserId::try_new(get(Self::OWNER)?).ok()?,
        })
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Container {
    pub id: String,
    pub name: String,
    pub state: ContainerState,
    pub labels: Option<ContainerLabels>,
    pub created_at: Timestamp,
    /// Host ports it publishes, as created.
    pub host_ports: Vec<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerState {
    /// Never started.
    Created,
    Running,
    Paused,
    Exited {
        exit_code: i64,
        out_of_memory: bool,
        error: String,
    },
    /// The engine is taking it away, or failed to.
    Removing,
}

impl ContainerState {
    pub fn is_up(&self) -> bool {
        matches!(self, ContainerState::Running | ContainerState::Paused)
    }
}

/// Something happened to a container of ours; what exactly, its inspection tells.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineEvent {
    pub container_name: String,
    pub instance_id: Option<InstanceId>,
    /// The engine's word, such as `die`, `oom`, `destroy`, `start`.
    pub action: String,
}

#[derive(Clone, Debug)]
pub struct LogQuery {
    /// Only so many of the last lines.
    pub tail: Option<u32>,
    pub since: Option<Timestamp>,
    pub follow: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct LogLine {
    pub at: Option<Timestamp>,
    pub stream: LogStream,
    /// As written, without the line's end; hostile until sanitized.
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogStream {
    Stdout,
    Stderr,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContainerStats {
    /// Share of one CPU: 1.5 is one and a half.
    pub cpu_used: f64,
    pub memory_used_bytes: u64,
    pub memory_limit_bytes: u64,
    pub network_received_bytes: u64,
    pub network_sent_bytes: u64,
    pub block_read_bytes: u64,
    pub block_written_bytes: u64,
    pub n_processes: u64,
}

#[derive(Clone, Debug)]
pub struct ExecRequest {
    pub command: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub working_dir: Option<String>,
    pub timeout: Duration,
    /// Output beyond this is read and dropped.
    pub max_output_bytes: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ExecOutcome {
    /// None when it was still running at the timeout; it is then ended.
    pub exit_code: Option<i64>,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub is_truncated: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("the engine does not answer")]
    Unreachable { source: Box<dyn std::error::Error + Send + Sync> },
    #[error("the engine did not answer within {after:?}")]
    Timeout { after: Duration },
    /// The machine could not be reached or did not let us in; the words are safe to show.
    #[error("no connection to the machine: {message}")]
    NoConnection { message: String, trouble: Trouble },
    /// The machine let us in, and nothing listens where its engine should.
    #[error("the machine answers, its engine does not: {message}")]
    EngineDown { message: String, trouble: Trouble },
    #[error("the key of the machine `{place}` is not known; it shows {found}")]
    HostKeyUnknown { place: String, found: HostKey },
    /// Either it was set up anew, or somebody else answers in its place. It is not logged in to.
    #[error(
        "ALARM: the machine `{place}` does not show its host key {expected} any more but {}: it was set up anew, or \
         somebody answers in its place, and it is not connected to",
        found.as_ref().map_or_else(|| "another".to_owned(), HostKey::to_string)
    )]
    HostKeyChanged {
        place: String,
        expected: Fingerprint,
        /// None: it has no key of that kind any more.
        found: Option<HostKey>,
    },
    #[error("the image `{image}` is not there and could not be pulled: {message}")]
    ImageNotFound { image: ImageRef, message: String },
    /// The registry wants a login and was shown none, or does not take the one it was shown.
    #[error("{}", pull::login_refused(.image, .username.as_deref()))]
    LoginRefused { image: ImageRef, username: Option<String> },
    /// Something on the host, ours or not, listens on one of the wanted ports. Empty: the engine did not say which.
    #[error("a wanted host port is in use")]
    PortInUse { ports: Vec<u16> },
    #[error("the container `{name}` exists and belongs to somebody else")]
    NameTaken { name: String },
    #[error("there is no container `{name}`")]
    NoSuchContainer { name: String },
    /// The engine went down while it started this one, and what it left behind keeps it from starting it again.
    #[error(
        "an earlier start of the container `{name}` was cut short, and its engine cannot repeat it"
    )]
    CutShort { name: String },
    #[error("the container `{name}` does not run")]
    NotRunning { name: String },
    #[error("the command could not be started: {message}")]
    InvalidCommand { message: String },
    /// The engine understood and said no; its words are safe to show.
    #[error("the engine refused: {message}")]
    Refused { message: String },
    #[error("the node `{node_id}` has no engine of kind `{kind}` in this build")]
    Unsupported { node_id: NodeId, kind: String },
}

impl EngineError {
    /// What is the matter, by name.
    pub fn trouble(&self) -> Trouble {
        match self {
            EngineError::NoConnection { trouble, .. } | EngineError::EngineDown { trouble, .. } => {
                *trouble
            }
            EngineError::HostKeyUnknown { .. } => Trouble::HostKeyUnknown,
            EngineError::HostKeyChanged { .. } => Trouble::HostKeyChanged,
            EngineError::Timeout { .. } => Trouble::EngineSilent,
            EngineError::Unreachable { source } => of_transport(&**source),
            EngineError::Refused { message } => of_words(message),
            _ => Trouble::Other,
        }
    }

    /// Whether trying again, unchanged, may succeed.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            EngineError::Unreachable { .. }
                | EngineError::Timeout { .. }
                | EngineError::NoConnection { .. }
                | EngineError::EngineDown { .. }
                | EngineError::HostKeyChanged { .. }
        )
    }
}

/// What the operating system said, wherever in the chain of causes that is.
fn of_transport(err: &(dyn std::error::Error + 'static)) -> Trouble {
    use std::io::ErrorKind;
    let (mut cause, mut is_tcp) = (Some(err), false);
    while let Some(it) = cause {
        if let Some(io) = it.downcast_ref::<std::io::Error>() {
            return match io.kind() {
                ErrorKind::NotFound => Trouble::SocketMissing,
                ErrorKind::PermissionDenied => Trouble::SocketForbidden,
                ErrorKind::ConnectionRefused if is_tcp => Trouble::NothingListens,
                ErrorKind::ConnectionRefused => Trouble::EngineStopped,
                ErrorKind::TimedOut
                | ErrorKind::HostUnreachable
                | ErrorKind::NetworkUnreachable => Trouble::NoAnswer,
                _ if io.to_string().contains("failed to lookup address") => Trouble::NameUnknown,
                _ => Trouble::EngineSilent,
            };
        }
        // Some clients keep the cause as text only.
        if it.to_string().contains("Socket not found") {
            return Trouble::SocketMissing;
        }
        is_tcp |= it.to_string().contains("tcp connect error");
        cause = it.source();
    }
    Trouble::EngineSilent
}

/// What an engine that answered complains about.
fn of_words(message: &str) -> Trouble {
    let has = |it: &str| message.contains(it);
    if has("disk is full") || has("no space left") {
        Trouble::DiskFull
    } else if has("client version") || has("API version") {
        Trouble::EngineTooOld
    } else if has("not one of Docker's") || has("page not found") {
        Trouble::NotDocker
    } else {
        Trouble::Other
    }
}
