//! The arguments as they are written, and what they set in the configuration.

mod batch;
mod bridges;

use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use orch_gateway::names::Dialect;
use serde_json::json;

use self::batch::BATCH_EXAMPLES;
pub(super) use self::batch::{BatchCommand, OneBatchArgs, RunBatchArgs};
pub(super) use self::bridges::{AddServerArgs, At, InstallArgs, ServersCommand, StdioArgs};
use self::bridges::{INSTALL_EXAMPLES, STDIO_EXAMPLES};
use crate::app::socket::Entry;
use crate::config::{Config, Env, Flag, Sources, load};

const EXAMPLES: &str = "\
Examples:
  mcp-orch serve                                     serve MCP and REST on http://127.0.0.1:3000
  mcp-orch serve --demo                              with the users demo/demo and admin/admin
  mcp-orch stdio                                     what an MCP client starts
  mcp-orch stdio --connect https://example.org/mcp   a remote server for a client that only starts programs
  mcp-orch install --client claude-desktop           add mcp-orch to a client's configuration
  mcp-orch servers add memory -- npx -y @modelcontextprotocol/server-memory
  mcp-orch call list_nodes                           one operation from the shell
  mcp-orch call launch_instance image=nginx:alpine 'ports=[80]'
  mcp-orch batch run plan.yaml                       many calls as one, in parallel
  mcp-orch events --follow                           what happens, as it happens
  mcp-orch doctor                                    what works here, and what to do about the rest";

/// A private cloud for an agent and its human: launch, watch and end container instances over MCP, REST and this
/// command line.
#[derive(Parser)]
#[command(name = "mcp-orch", version, after_help = EXAMPLES, max_term_width = 120)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub globals: Globals,
    /// Serve HTTP, and MCP on stdin too when started with pipes: `proxy`, `batch` or `all`.
    #[arg(long, value_enum)]
    pub mode: Option<ModeArg>,
    #[command(flatten)]
    pub entry: EntryArgs,
    #[command(flatten)]
    pub serve: ServeArgs,
}

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum ModeArg {
    Proxy,
    Batch,
    All,
}

impl ModeArg {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            ModeArg::Proxy => "proxy",
            ModeArg::Batch => "batch",
            ModeArg::All => "all",
        }
    }
}

#[derive(Args)]
pub(super) struct Globals {
    /// Configuration file; `mcp-orch/config.yaml` in the user's configuration directory unless given.
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where the state is kept; `mcp-orch` in the user's data directory unless given.
    #[arg(long, global = true, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// error, warn, info, debug or trace.
    #[arg(long, global = true, value_name = "LEVEL")]
    pub log_level: Option<String>,
}

#[derive(Subcommand)]
pub(super) enum Command {
    /// Serve MCP at /mcp, REST at / and the API documentation at /docs.
    Serve(ServeArgs),
    /// Speak MCP on stdin and stdout; shares the state of a server that runs, or serves itself.
    #[command(after_help = STDIO_EXAMPLES)]
    Stdio(StdioArgs),
    /// Call one operation.
    #[command(after_help = CALL_EXAMPLES)]
    Call(CallArgs),
    /// Run many calls as one plan, in parallel, and watch them.
    #[command(after_help = BATCH_EXAMPLES)]
    Batch {
        #[command(subcommand)]
        command: BatchCommand,
    },
    /// List the operations.
    Tools(Target),
    /// Show what happened to nodes, instances, quotas and images, oldest first.
    #[command(after_help = EVENTS_EXAMPLES)]
    Events(EventsArgs),
    /// List the MCP clients of this machine, or add mcp-orch to the configuration of one.
    #[command(after_help = INSTALL_EXAMPLES)]
    Install(InstallArgs),
    /// The MCP servers behind this one.
    Servers {
        #[command(subcommand)]
        command: ServersCommand,
    },
    /// Register machines as nodes, one or many.
    Nodes {
        #[command(subcommand)]
        command: NodesCommand,
    },
    /// What works on this machine and on the nodes, and what to do about what does not.
    Doctor(DoctorArgs),
    /// Write the whole state into one file; a server may run meanwhile.
    Backup {
        /// Where to write it.
        file: PathBuf,
        /// Replace a file that is there already.
        #[arg(long)]
        force: bool,
    },
    /// Make the state of an empty data directory from a backup.
    Restore {
        /// What `backup` wrote.
        file: PathBuf,
    },
    /// Print the completions of a shell.
    #[command(after_help = COMPLETIONS)]
    Completions { shell: clap_complete::Shell },
    /// Play the main job against the server of `serve --demo`, over HTTP and stdio.
    #[command(hide = true)]
    Demo(DemoArgs),
}

/// What a client on stdin sees.
#[derive(Args, Default)]
pub(super) struct EntryArgs {
    /// For a client on stdin: only what this one of `gateway.profiles` has.
    #[arg(long, value_name = "NAME")]
    pub profile: Option<String>,
    /// For a client on stdin: how tools of the servers behind are named.
    #[arg(long, value_enum)]
    pub names: Option<NamesArg>,
}

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum NamesArg {
    /// `server__tool`.
    Underscores,
    /// `server.tool`.
    Dot,
}

impl EntryArgs {
    pub(super) fn entry(&self) -> Entry {
        let names = self.names.map(|it| match it {
            NamesArg::Underscores => Dialect::Underscores,
            NamesArg::Dot => Dialect::Dot,
        });
        Entry { profile: self.profile.clone(), names }
    }
}

const COMPLETIONS: &str = "\
Examples:
  mcp-orch completions bash > ~/.local/share/bash-completion/completions/mcp-orch
  mcp-orch completions zsh > ~/.zfunc/_mcp-orch";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ClientName {
    ClaudeDesktop,
    ClaudeCode,
    Cursor,
    Cline,
    Vscode,
}

#[derive(Subcommand)]
pub(super) enum NodesCommand {
    /// Register the machines of a `nodes.json`, or those that Docker's own client knows; what cannot be registered is
    /// named with the reason.
    Import(ImportArgs),
    /// Register a machine behind SSH; asks about its host key as `ssh` does.
    #[command(after_help = ADD_EXAMPLES)]
    Add(Box<AddArgs>),
}

const ADD_EXAMPLES: &str = "\
Examples:
  mcp-orch nodes add root@10.0.0.7
  mcp-orch nodes add gpu-1 --tag gpu                 a name of ~/.ssh/config
  mcp-orch nodes add admin@10.1.0.5:2222 --id inner --jump bastion,ann@10.1.0.1";

#[derive(Args)]
pub(super) struct AddArgs {
    /// An address, a name, or a name that only the SSH configuration knows.
    #[arg(value_name = "[USER@]HOST[:PORT]")]
    pub place: String,
    /// What to call the node; the host's name unless given.
    #[arg(long)]
    pub id: Option<String>,
    /// To choose nodes by; may be given several times.
    #[arg(long = "tag", value_name = "TAG")]
    pub tags: Vec<String>,
    /// master, worker or storage.
    #[arg(long)]
    pub role: Option<String>,
    /// One line about it.
    #[arg(long, value_name = "TEXT")]
    pub description: Option<String>,
    /// Private key without passphrase, on the machine that the server runs on.
    #[arg(long, value_name = "FILE")]
    pub key: Option<String>,
    /// Machines to pass on the way, the nearest first, with commas between; `none` for none.
    #[arg(long, value_name = "HOSTS")]
    pub jump: Option<String>,
    /// Path of the engine's socket on that machine.
    #[arg(long, value_name = "PATH")]
    pub socket: Option<String>,
    /// The host key it may show, by its fingerprint.
    #[arg(long, value_name = "SHA256:…")]
    pub accept_host_key: Option<String>,
    /// The host keys that machines on the way may show.
    #[arg(long, value_name = "SHA256:…,…")]
    pub accept_jump_host_key: Option<String>,
    /// Register it even though its engine does not answer now.
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub target: Target,
}

#[derive(Args)]
#[group(id = "source", required = true, multiple = true, args = ["file", "docker_contexts", "docker_host"])]
pub(super) struct ImportArgs {
    /// A `nodes.json`.
    pub file: Option<PathBuf>,
    /// The contexts that `docker context ls` lists.
    #[arg(long)]
    pub docker_contexts: bool,
    /// The engine that `DOCKER_HOST` names.
    #[arg(long)]
    pub docker_host: bool,
    /// Show what would be registered, and change nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Simulate the machines that name no engine.
    #[arg(long, value_enum)]
    pub engine: Option<SimulatedEngine>,
    #[command(flatten)]
    pub target: Target,
}

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum SimulatedEngine {
    Sim,
}

#[derive(Args)]
pub(super) struct DoctorArgs {
    /// Look at this node only.
    #[arg(long, value_name = "ID")]
    pub node: Option<String>,
}

#[derive(Args)]
pub(super) struct DemoArgs {
    /// Image with a web server on port 8080.
    #[arg(long)]
    pub image: String,
    /// The nodes are simulated: nothing answers on published ports.
    #[arg(long)]
    pub simulated: bool,
    /// Terminate the last instance too.
    #[arg(long)]
    pub once: bool,
}

const CALL_EXAMPLES: &str = "\
Examples:
  mcp-orch call list_nodes
  mcp-orch call launch_instance name=web image=nginx:alpine ports=80 env.GREETING=hello
  mcp-orch call list_instances --output json
  mcp-orch call instance_logs id=i-0123456789abcdef0 follow=true
  mcp-orch call terminate_instance id=i-0123456789abcdef0 --yes
  mcp-orch call launch_instance --json '{\"image\": \"nginx:alpine\", \"ports\": [80]}'
  mcp-orch call cluster_status --url https://cloud.example.org --api-key mo-…

What cannot be undone is asked for; where nobody can be asked, as in a script, it needs --yes.

Exit status: 0 done, 1 no connection or a mistake in the arguments, 2 a mistake in the command line or --yes is missing,
3 refused or failed with the error shown, 130 interrupted.";

#[derive(Args)]
pub(super) struct CallArgs {
    /// Name of the operation, as `mcp-orch tools` lists it.
    pub operation: String,
    /// Arguments. A list is split at commas (`ports=80,443`; JSON where an item has one: `'tags=["a,b"]'`), a `command`
    /// with spaces as a shell does (`command="sh -c 'echo a,b'"`); `env.NAME=value` sets one entry of an object; times
    /// may be written `30s` or `5m`.
    #[arg(value_name = "KEY=VALUE")]
    pub arguments: Vec<String>,
    /// Arguments as one JSON object; `@FILE` reads a file, `-` stdin.
    #[arg(long, value_name = "JSON")]
    pub json: Option<String>,
    /// How to show the answer.
    #[arg(long, short, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// Do not ask before something that cannot be undone.
    #[arg(long, short)]
    pub yes: bool,
    #[command(flatten)]
    pub target: Target,
}

const EVENTS_EXAMPLES: &str = "\
Examples:
  mcp-orch events                            the last ones
  mcp-orch events --follow                   and what happens from now on
  mcp-orch events --since 4711 --kind node   what happened to nodes after revision 4711";

#[derive(Args)]
pub(super) struct EventsArgs {
    /// Go on showing what happens until interrupted.
    #[arg(long, short)]
    pub follow: bool,
    /// All after this revision, instead of the last 20.
    #[arg(long, value_name = "REVISION")]
    pub since: Option<u64>,
    /// Only of this kind, such as `node.unreachable`, or of a group such as `node`.
    #[arg(long)]
    pub kind: Option<String>,
    #[command(flatten)]
    pub target: Target,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    Table,
    Json,
}

#[derive(Args, Default)]
pub(super) struct Target {
    /// Server to ask, instead of the local one.
    #[arg(long)]
    pub url: Option<String>,
    /// API key or access token for it; `MCP_ORCH_API_KEY` in the environment is as good.
    #[arg(long, requires = "url")]
    pub api_key: Option<String>,
}

#[derive(Args, Default)]
pub(super) struct ServeArgs {
    /// Address to listen on; anything but loopback needs authentication.
    #[arg(long)]
    pub host: Option<String>,
    /// Port to listen on; 0 takes a free one.
    #[arg(long)]
    pub port: Option<u16>,
    /// File with upstream MCP servers.
    #[arg(long, value_name = "FILE")]
    pub mcp_config: Option<PathBuf>,
    /// With the users demo/demo and admin/admin; on loopback only.
    #[arg(long)]
    pub demo: bool,
    /// Everybody who connects is the administrator; on loopback only.
    #[arg(long)]
    pub no_auth: bool,
    /// A server on stdin and stdout to publish over HTTP, besides those of the file: its program and arguments.
    #[arg(last = true, value_name = "COMMAND", requires = "publish")]
    pub command: Vec<String>,
    /// Publish the COMMAND behind `--`, under this name.
    #[arg(
        long,
        value_name = "NAME",
        num_args = 0..=1,
        default_missing_value = "published",
        requires = "command"
    )]
    pub publish: Option<String>,
}

impl ServeArgs {
    fn flags(&self) -> Vec<Flag> {
        let mut flags = Vec::new();
        let mut add = |name, key, value| flags.push(Flag { name, key, value });
        if let Some(it) = &self.host {
            add("--host", "server.host", json!(it));
        }
        if let Some(it) = self.port {
            add("--port", "server.port", json!(it));
        }
        if let Some(it) = &self.mcp_config {
            add("--mcp-config", "gateway.mcp_config", json!(it));
        }
        if let Some(name) = &self.publish {
            add("--publish", "gateway.publish", json!(self.command));
            add("--publish", "gateway.publish_as", json!(name));
        }
        if self.no_auth {
            add("--no-auth", "security.enable_auth", json!(false));
        }
        flags
    }
}

impl Globals {
    /// The configuration of a verb that does not listen.
    pub(super) fn load(&self, env: &dyn Env) -> anyhow::Result<Config> {
        self.load_with(env, Vec::new())
    }

    pub(super) fn load_for_serving(
        &self,
        env: &dyn Env,
        serve: &ServeArgs,
        mode: Option<ModeArg>,
    ) -> anyhow::Result<Config> {
        let mut flags = serve.flags();
        if let Some(it) = mode {
            flags.push(Flag { name: "--mode", key: "server.mode", value: json!(it.as_str()) });
        }
        self.load_with(env, flags)
    }

    fn load_with(&self, env: &dyn Env, mut flags: Vec<Flag>) -> anyhow::Result<Config> {
        if let Some(it) = &self.data_dir {
            flags.push(Flag { name: "--data-dir", key: "server.data_dir", value: json!(it) });
        }
        if let Some(it) = &self.log_level {
            flags.push(Flag { name: "--log-level", key: "server.log_level", value: json!(it) });
        }
        Ok(load(Sources { env, file: self.config_file(), flags })?)
    }

    /// The file that is read; one that was asked for has to be there.
    pub(super) fn config_file(&self) -> Option<PathBuf> {
        use etcetera::BaseStrategy;
        self.config.clone().or_else(|| {
            let dirs = etcetera::choose_base_strategy().ok()?;
            let path = dirs.config_dir().join("mcp-orch/config.yaml");
            path.exists().then_some(path)
        })
    }
}

pub(super) fn command() -> clap::Command {
    Cli::command()
}

pub(super) fn print_help() -> anyhow::Result<()> {
    super::print(command().render_help())
}
