//! Who asks, over which channel, and what they may do.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::name::{ApiKeyId, UserId};
use crate::tool_access::ToolAccess;

/// What an operation needs. `admin` includes the others.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Permission {
    /// Look at nodes, capacity and one's own instances.
    Read,
    /// Launch, stop, start and terminate one's own instances.
    Write,
    /// Run commands inside one's own instances.
    Execute,
    /// Nodes, users, keys, audit, and the instances of everybody.
    Admin,
}

impl Permission {
    pub const ALL: [Permission; 4] =
        [Permission::Read, Permission::Write, Permission::Execute, Permission::Admin];

    pub fn as_str(self) -> &'static str {
        match self {
            Permission::Read => "read",
            Permission::Write => "write",
            Permission::Execute => "execute",
            Permission::Admin => "admin",
        }
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The face a call came in by, for audit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Channel {
    Mcp,
    Rest,
    Grpc,
    Cli,
    /// The server's own background work.
    System,
}

impl Channel {
    pub fn as_str(self) -> &'static str {
        match self {
            Channel::Mcp => "mcp",
            Channel::Rest => "rest",
            Channel::Grpc => "grpc",
            Channel::Cli => "cli",
            Channel::System => "system",
        }
    }
}

/// Somebody known. Anonymous calls have no `Caller`; the one operation that takes them is `login`.
#[derive(Clone, Debug, PartialEq)]
pub struct Caller {
    pub user: UserId,
    pub permissions: Vec<Permission>,
    pub channel: Channel,
    /// What the client calls itself (`claude-code 2.1`), for audit; nobody checks it.
    pub client: Option<String>,
    /// Which tools of which servers, among those that the permissions allow.
    pub tools: ToolAccess,
    /// The API key it came with, so that two programs of one user are told apart.
    pub key: Option<ApiKeyId>,
}

impl Caller {
    /// With all tools that the permissions allow.
    pub fn new(user: UserId, permissions: Vec<Permission>, channel: Channel) -> Caller {
        Caller { user, permissions, channel, client: None, tools: ToolAccess::default(), key: None }
    }

    pub fn may(&self, needed: Permission) -> bool {
        self.permissions.contains(&needed) || self.is_admin()
    }

    pub fn is_admin(&self) -> bool {
        self.permissions.contains(&Permission::Admin)
    }

    /// Whether something of `owner` is there for this caller at all.
    pub fn sees(&self, owner: &UserId) -> bool {
        self.is_admin() || self.user == *owner
    }
}
