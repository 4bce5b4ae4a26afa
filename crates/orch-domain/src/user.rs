//! Users, their quotas and their API keys. Secrets are kept as hashes only.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::caller::Permission;
use crate::name::{ApiKeyId, UserId, UserName};
use crate::resource::{Cpu, Memory};
use crate::time::Timestamp;

/// What one user may hold at the same time, over all nodes. Stopped instances count until they are terminated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Quota {
    /// Number of instances.
    #[schemars(range(max = 100_000))]
    pub instances: u32,
    /// vCPU.
    pub cpu: Cpu,
    /// GiB.
    pub memory: Memory,
}

impl Quota {
    pub const DEMO: Quota =
        Quota { instances: 5, cpu: Cpu::from_millis(10_000), memory: Memory::from_mib(20 * 1024) };
    pub const ADMIN: Quota = Quota {
        instances: 20,
        cpu: Cpu::from_millis(80_000),
        memory: Memory::from_mib(320 * 1024),
    };
}

/// How much of a quota is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Usage {
    pub instances: u32,
    /// vCPU.
    pub cpu: Cpu,
    /// GiB.
    pub memory: Memory,
}

#[derive(Clone, Debug, PartialEq)]
pub struct User {
    pub id: UserId,
    pub name: UserName,
    /// PHC string of argon2id.
    pub password_hash: String,
    pub permissions: Vec<Permission>,
    pub quota: Quota,
    pub created_at: Timestamp,
    /// Tokens issued before this moment are refused (the password or permissions changed).
    pub tokens_valid_from: Timestamp,
}

/// A long-lived credential for agents and scripts. Its secret is shown once and kept as a SHA-256 digest: the secret
/// has 256 random bits, so a slow hash would add time to every request and nothing else.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiKey {
    pub id: ApiKeyId,
    pub user: UserId,
    pub name: String,
    pub secret_sha256: [u8; 32],
    /// Never more than its user's.
    pub permissions: Vec<Permission>,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
}
