//! What can be configured, section by section. Doc comments become the tables of the documentation.

use std::collections::BTreeMap;
use std::path::PathBuf;

use orch_domain::caller::Permission;
use orch_domain::rate::RateWritten;
use orch_domain::resource::{Cpu, Memory};
use orch_domain::secret::Secret;
use orch_domain::tool_access::ToolPatterns as ToolLimits;
use orch_domain::user::Quota;
use orch_gateway::names::Dialect;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::llm::Llm;
use super::value::{LogLevel, Ports, Seconds};

/// All of it. Every key has a default, and an unknown one is an error.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub server: Server,
    pub security: Security,
    pub cluster: Cluster,
    pub compute: Compute,
    pub store: StoreSection,
    pub gateway: Gateway,
    pub execution: Execution,
    pub llm: Llm,
    pub alerts: Alerts,
    pub ray: RaySection,
}

#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// Address or name to listen on. Anything but loopback needs `security.enable_auth`.
    pub host: String,
    /// TCP port; 0 takes a free one.
    pub port: u16,
    /// What the server is for: `proxy`, `batch`, or `all` of it.
    pub mode: Mode,
    /// Where the database, the lock and the socket are; `mcp-orch` in the user's data directory unless given.
    pub data_dir: Option<PathBuf>,
    /// How much is logged to stderr.
    pub log_level: LogLevel,
    /// Log as lines of text or of JSON.
    pub log_format: LogFormat,
    /// Log everything, as `log_level: debug` does.
    pub debug: bool,
    /// Seconds that calls under way get to end when the server is stopped.
    pub drain_timeout: Seconds,
    /// Seconds that a stream of events is silent at most. Less than the idle timeout of a proxy in front.
    pub heartbeat: Seconds,
    /// Names that a reverse proxy in front serves this server under; other `Host` headers are refused.
    pub allowed_hosts: Vec<String>,
    /// Web origins that may call the server from a browser, such as `https://cloud.example.org`.
    pub allowed_origins: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    #[default]
    All,
    Proxy,
    Batch,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

impl Default for Server {
    fn default() -> Server {
        Server {
            host: "127.0.0.1".to_owned(),
            port: 3000,
            mode: Mode::default(),
            data_dir: None,
            log_level: LogLevel::Info,
            log_format: LogFormat::default(),
            debug: false,
            drain_timeout: Seconds::new(10.0),
            heartbeat: Seconds::new(15.0),
            allowed_hosts: Vec::new(),
            allowed_origins: Vec::new(),
        }
    }
}

#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Security {
    /// Whether callers must log in. Can only be turned off on loopback.
    pub enable_auth: bool,
    /// A bearer token that may do everything, beside the API keys made with `create_api_key`.
    pub api_key: Option<Secret<String>>,
    /// Bearer tokens with a name and permissions of their own.
    pub api_keys: Vec<ConfiguredKey>,
    /// Signs access tokens; a random secret of the database unless given.
    pub jwt_secret: Option<Secret<String>>,
    /// Seconds that an access token is valid.
    pub token_lifetime: Seconds,
    /// Which tools those may use who start `mcp-orch stdio`, and everybody where nobody logs in.
    pub local_tools: ToolLimits,
    pub oauth: Oauth,
}

#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfiguredKey {
    /// What the key is called here.
    pub name: String,
    /// The bearer token: 12 characters at least.
    pub key: Secret<String>,
    /// What it may do: `read`, `write`, `execute`, `admin`.
    pub permissions: Vec<Permission>,
    /// Which tools it may use, by patterns such as `github.*`, in `allow` and `deny`.
    #[serde(default)]
    pub tools: ToolLimits,
}

#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Oauth {
    /// URLs of the issuers whose access tokens count at `/mcp`, as tokens say them in `iss`; none unless given.
    pub issuers: Vec<String>,
    /// What tokens have to be issued for (`aud`); the URL that clients call `/mcp` by unless given.
    pub audience: Option<String>,
    /// URL of the issuer's keys; where the issuer's metadata says they are unless given.
    pub jwks_url: Option<String>,
    /// Permissions that each scope of a token gives.
    pub scopes: BTreeMap<String, Vec<Permission>>,
    /// Scopes that every token must have.
    pub required_scopes: Vec<String>,
    /// Claim with the name of the user here that a token stands for, such as `email`; it must be one that people cannot
    /// choose for themselves. Without a user of that name, and without this, nothing is stored about who calls.
    pub user_claim: Option<String>,
    /// Claim with patterns of the tools that a token may use.
    pub tools_claim: Option<String>,
}

impl Default for Oauth {
    fn default() -> Oauth {
        let scope = |it: Permission| (format!("mcp-orch:{it}"), vec![it]);
        Oauth {
            issuers: Vec::new(),
            audience: None,
            jwks_url: None,
            scopes: Permission::ALL.into_iter().map(scope).collect(),
            required_scopes: Vec::new(),
            user_claim: None,
            tools_claim: None,
        }
    }
}

impl Default for Security {
    fn default() -> Security {
        Security {
            enable_auth: true,
            api_key: None,
            api_keys: Vec::new(),
            jwt_secret: None,
            token_lifetime: Seconds::new(12.0 * 3600.0),
            local_tools: ToolLimits::default(),
            oauth: Oauth::default(),
        }
    }
}

#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Cluster {
    /// Register this machine as node `local` when it has a Docker socket.
    pub register_local: bool,
    /// A `nodes.json` whose nodes are registered at start unless they are there.
    pub nodes_file: Option<PathBuf>,
    /// The SSH configuration; `~/.ssh/config` unless given.
    pub ssh_config: Option<PathBuf>,
    /// Where Tailscale listens, for `discover_nodes`.
    pub tailscale_socket: PathBuf,
    /// Seconds that a node has to answer a health check.
    pub health_check_timeout: Seconds,
    /// Seconds between two health checks.
    pub health_check_period: Seconds,
    /// Failed checks in a row until a node counts as down.
    #[schemars(range(min = 1, max = 100))]
    pub failures_to_fall: u32,
    /// Good checks in a row until it counts as up again.
    #[schemars(range(min = 1, max = 100))]
    pub successes_to_rise: u32,
    /// Seconds that a node is unreachable before its instances with `on_node_loss: reschedule` go to other nodes.
    pub reschedule_grace: Seconds,
}

impl Default for Cluster {
    fn default() -> Cluster {
        Cluster {
            register_local: true,
            nodes_file: None,
            ssh_config: None,
            tailscale_socket: PathBuf::from("/var/run/tailscale/tailscaled.sock"),
            health_check_timeout: Seconds::new(5.0),
            health_check_period: Seconds::new(15.0),
            failures_to_fall: 2,
            successes_to_rise: 2,
            reschedule_grace: Seconds::new(60.0),
        }
    }
}

#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Compute {
    /// Host ports that instances are published on, on each node.
    pub port_range: Ports,
    /// vCPU of an instance that names none.
    pub default_cpu: Cpu,
    /// GiB of an instance that names none.
    pub default_memory: Memory,
    /// Seconds that an instance gets to end by itself when stopped.
    pub stop_grace: Seconds,
    /// Containers that one node starts at the same time.
    #[schemars(range(min = 1, max = 64))]
    pub starts_per_node: usize,
    /// Nodes that pull an image for `pull_image` at the same time, over the whole fleet.
    #[schemars(range(min = 1, max = 1024))]
    pub pulls_at_once: usize,
    /// Seconds that a call with `wait` waits at most.
    pub wait_timeout: Seconds,
    /// Seconds that a launch goes on trying while the engine does not answer.
    pub launch_retry: Seconds,
    /// Seconds between two comparisons of records and containers.
    pub reconcile_period: Seconds,
    /// Seconds between the two looks before a container of ours without a record is removed.
    pub orphan_grace: Seconds,
    /// Seconds that a port which something else on the host uses is not offered again.
    pub port_quarantine: Seconds,
    /// Quota of a user that is given none: instances, vCPU, GiB.
    pub default_quota: Quota,
    /// Quotas by user name, such as `alice: {instances: 10, cpu: 20, memory: 40}`; set at every start.
    pub quotas: BTreeMap<String, Quota>,
}

impl Default for Compute {
    fn default() -> Compute {
        Compute {
            port_range: Ports(orch_domain::port::PortRange::DEFAULT),
            default_cpu: Cpu::from_millis(500),
            default_memory: Memory::from_mib(256),
            stop_grace: Seconds::new(10.0),
            starts_per_node: 4,
            pulls_at_once: 32,
            wait_timeout: Seconds::new(300.0),
            launch_retry: Seconds::new(20.0),
            reconcile_period: Seconds::new(10.0),
            orphan_grace: Seconds::new(30.0),
            port_quarantine: Seconds::new(600.0),
            default_quota: Quota::DEMO,
            quotas: BTreeMap::new(),
        }
    }
}

#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StoreSection {
    /// Audit entries that are kept.
    #[schemars(range(min = 100))]
    pub audit_kept: u64,
    /// Events that are kept, in memory too: some 600 bytes each.
    #[schemars(range(min = 100, max = 1_000_000))]
    pub events_kept: u64,
}

impl Default for StoreSection {
    fn default() -> StoreSection {
        StoreSection { audit_kept: 100_000, events_kept: 10_000 }
    }
}

#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Gateway {
    /// File with the upstream MCP servers; `mcp-config.json` in the working directory unless given.
    pub mcp_config: Option<PathBuf>,
    /// Program and arguments of one more server, on stdin and stdout, that is so published over HTTP.
    pub publish: Vec<String>,
    /// What it is called; at `/mcp/NAME` it is as if there were nothing between.
    pub publish_as: String,
    /// How often one caller, a user with one of its keys, may call tools of servers behind.
    pub rate: RateWritten,
    /// Endpoints `/mcp/NAME` with some servers and tools: `NAME: {servers, tools: {allow, deny}, own, lazy, transparent, names, permissions, description}`.
    pub profiles: BTreeMap<String, ProfileSection>,
    /// What becomes of a tool that is not what it was when first seen; a server's own `pin` goes before.
    pub pin: Pin,
    /// Regular expressions; what matches in text of upstream servers becomes `[redacted]`.
    pub redact: Vec<String>,
    /// Bytes of a tool's result that are passed on whole, the rest to be read by reference; 0 for any size.
    pub max_result_bytes: usize,
    /// Child processes of all upstream servers together.
    #[schemars(range(min = 1, max = 10_000))]
    pub max_children: usize,
}

impl Default for Gateway {
    fn default() -> Gateway {
        Gateway {
            mcp_config: None,
            publish: Vec::new(),
            publish_as: "published".to_owned(),
            rate: RateWritten::default(),
            profiles: BTreeMap::new(),
            pin: Pin::default(),
            redact: Vec::new(),
            max_result_bytes: 10_000_000,
            max_children: 256,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Pin {
    Off,
    #[default]
    Warn,
    Enforce,
}

/// One endpoint beside the one of everything.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ProfileSection {
    /// What it is for; clients are told.
    pub description: String,
    /// Which servers are there, by name or by pattern such as `git*`; all unless given.
    pub servers: Vec<String>,
    /// Which of their tools.
    pub tools: ToolPatterns,
    /// Whether our own operations are there too.
    pub own: bool,
    /// Show `search_tools` and `call_tool` only, by which the others are found and called.
    pub lazy: bool,
    /// Stand for this one server, as if there were nothing between.
    pub transparent: Option<String>,
    /// How tools are named: `underscores` or `dot`.
    pub names: Dialect,
    /// The most that anybody may do here: `read`, `write`, `execute`, `admin`.
    pub permissions: Option<Vec<Permission>>,
}

impl Default for ProfileSection {
    fn default() -> ProfileSection {
        ProfileSection {
            description: String::new(),
            servers: vec!["*".to_owned()],
            tools: ToolPatterns::default(),
            own: false,
            lazy: false,
            transparent: None,
            names: Dialect::default(),
            permissions: None,
        }
    }
}

/// Patterns with `*` and `?` over names such as `server.tool`; our own are `orch.launch_instance`.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ToolPatterns {
    /// Empty: all of them.
    pub allow: Vec<String>,
    /// Taken from those.
    pub deny: Vec<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Execution {
    /// Steps of a batch that run at the same time.
    #[schemars(range(min = 1, max = 1000))]
    pub max_parallel_tasks: u32,
    /// Seconds that one step may take.
    pub task_timeout: Seconds,
    /// Times that a step is tried again after a failure that passes, where its tool says that repeating is safe.
    #[schemars(range(max = 100))]
    pub retry_count: u32,
    /// Seconds that a whole batch may take.
    pub deadline: Seconds,
    /// Calls of all batches at the same time.
    #[schemars(range(min = 1, max = 100_000))]
    pub max_parallel_total: u32,
    /// Of these, to one server.
    #[schemars(range(min = 1, max = 100_000))]
    pub max_parallel_per_server: u32,
    /// Calls at the same time by server (`github`) or tool (`github.create_issue`), in place of the limit above or beside it.
    pub limits: BTreeMap<String, u32>,
    /// Batches of one user that have not ended.
    #[schemars(range(min = 1, max = 10_000))]
    pub max_open_per_user: usize,
    /// Batches that have ended and are still shown; the oldest are forgotten first.
    #[schemars(range(max = 100_000))]
    pub batches_kept: usize,
}

impl Default for Execution {
    fn default() -> Execution {
        Execution {
            max_parallel_tasks: 10,
            task_timeout: Seconds::new(300.0),
            retry_count: 3,
            deadline: Seconds::new(3600.0),
            max_parallel_total: 256,
            max_parallel_per_server: 128,
            limits: BTreeMap::new(),
            max_open_per_user: 100,
            batches_kept: 1000,
        }
    }
}

#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Alerts {
    /// URL that alerts are posted to.
    pub webhook_url: Option<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RaySection {
    /// URL of the dashboard of a Ray cluster, such as `http://10.0.0.1:8265`; without one there is no Ray here.
    pub dashboard_url: Option<String>,
    /// The token of a cluster that wants one (`RAY_AUTH_MODE=token` there).
    pub token: Option<Secret<String>>,
    /// Seconds that the dashboard has for one answer.
    pub timeout: Seconds,
}

impl Default for RaySection {
    fn default() -> RaySection {
        RaySection { dashboard_url: None, token: None, timeout: Seconds::new(10.0) }
    }
}
