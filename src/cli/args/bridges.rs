//! The arguments of the verbs that bring servers and clients together.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{ClientName, EntryArgs, Target};

pub(super) const STDIO_EXAMPLES: &str = "\
Examples:
  mcp-orch stdio
  mcp-orch stdio --connect https://example.org/mcp --token-env EXAMPLE_TOKEN
  mcp-orch stdio --connect http://127.0.0.1:3000/mcp --header 'Authorization=Bearer mo-...'";

#[derive(Args)]
pub(in crate::cli) struct StdioArgs {
    /// Carry the client's messages to this endpoint over streamable HTTP, and serve nothing here.
    #[arg(long, value_name = "URL")]
    pub connect: Option<String>,
    /// Sent with every request to it; may be given several times.
    #[arg(long = "header", value_name = "NAME=VALUE", requires = "connect")]
    pub headers: Vec<String>,
    /// Environment variable with a bearer token for it, which so does not stand in the list of processes.
    #[arg(long, value_name = "NAME", requires = "connect")]
    pub token_env: Option<String>,
    #[command(flatten)]
    pub entry: EntryArgs,
}

pub(super) const INSTALL_EXAMPLES: &str = "\
Examples:
  mcp-orch install                                  the clients there are, and which have mcp-orch
  mcp-orch install --client cursor                  add it to one
  mcp-orch install --client cursor --import         and take over the servers it has, to be behind mcp-orch";

#[derive(Args)]
pub(in crate::cli) struct InstallArgs {
    /// The client to add it to; without, the clients of this machine are listed.
    #[arg(long, value_enum)]
    pub client: Option<ClientName>,
    /// Show what would be added, and change nothing.
    #[arg(long, requires = "client")]
    pub print: bool,
    /// The client's configuration, when it is not where that client usually has it.
    #[arg(long, value_name = "FILE", requires = "client")]
    pub file: Option<PathBuf>,
    /// Put the servers that the client has behind mcp-orch too; its own entries stay until you remove them.
    #[arg(long, requires = "client", conflicts_with = "print")]
    pub import: bool,
}

#[derive(Subcommand)]
pub(in crate::cli) enum ServersCommand {
    /// Put a server behind this one: a command that speaks MCP on its stdin and stdout, or an address.
    #[command(after_help = SERVERS_EXAMPLES)]
    Add(Box<AddServerArgs>),
    /// List them, and how they are.
    List(Target),
    /// Take one away.
    Remove {
        name: String,
        #[command(flatten)]
        target: Target,
    },
    /// Read the file of servers again; only what differs is restarted.
    Reload(Target),
}

const SERVERS_EXAMPLES: &str = "\
Examples:
  mcp-orch servers add memory -- npx -y @modelcontextprotocol/server-memory
  mcp-orch servers add files --env LOG=1 --cwd /srv -- npx -y @modelcontextprotocol/server-filesystem /srv
  mcp-orch servers add remote --url https://example.org/mcp --header 'Authorization=Bearer ${TOKEN}'
  mcp-orch servers add shop --openapi https://shop.example.org/openapi.json";

#[derive(Args)]
#[command(group = clap::ArgGroup::new("reach").required(true).args(["command", "server_url", "openapi"]))]
pub(in crate::cli) struct AddServerArgs {
    /// Prefixes its tools: 1 to 40 letters, digits, `-` or `_`.
    pub name: String,
    /// Address of a server over streamable HTTP.
    #[arg(long = "url", id = "server_url", value_name = "URL")]
    pub url: Option<String>,
    /// File or address of an OpenAPI document, of which every operation becomes a tool.
    #[arg(long, value_name = "FILE|URL")]
    pub openapi: Option<String>,
    /// Where that API is, when the document does not say.
    #[arg(long, value_name = "URL", requires = "openapi", conflicts_with_all = ["server_url", "command"])]
    pub base_url: Option<String>,
    /// Sent with every request to it; may be given several times. `${NAME}` is filled in from the environment.
    #[arg(long = "header", value_name = "NAME=VALUE", conflicts_with = "command")]
    pub headers: Vec<String>,
    /// Variable of the program's environment; may be given several times.
    #[arg(long = "env", value_name = "NAME=VALUE", requires = "command")]
    pub env: Vec<String>,
    /// Folder to start the program in.
    #[arg(long, value_name = "DIR", requires = "command")]
    pub cwd: Option<PathBuf>,
    /// Put it in place of one of that name.
    #[arg(long)]
    pub replace: bool,
    #[command(flatten)]
    pub at: At,
    /// The program and its arguments.
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// `Target`, where `--url` has another meaning.
#[derive(Args, Default)]
pub(in crate::cli) struct At {
    /// Server to ask, instead of the local one.
    #[arg(long = "at", value_name = "URL")]
    pub url: Option<String>,
    /// API key or access token for it; `MCP_ORCH_API_KEY` in the environment is as good.
    #[arg(long, requires = "url")]
    pub api_key: Option<String>,
}
