//! Users, their quotas and their API keys. Secrets are kept as hashes only.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::caller::Permission;
use crate::name::{ApiKeyId, UserId, UserName};
use crate::resource::{Cpu, Memory};
use crate::time::Timestamp;
use crate::tool_access::ToolPatterns;

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

impl Quota {
    /// What may still be taken; zero where more is held than a lowered quota allows.
    pub fn remaining(&self, used: &Usage) -> Usage {
        Usage {
            instances: self.instances.saturating_sub(used.instances),
            cpu: Cpu::from_millis(self.cpu.millis().saturating_sub(used.cpu.millis())),
            memory: Memory::from_mib(self.memory.mib().saturating_sub(used.memory.mib())),
        }
    }
}

/// New limits; what is left out stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct QuotaChange {
    /// Number of instances.
    #[schemars(range(max = 100_000))]
    pub instances: Option<u32>,
    /// vCPU.
    pub cpu: Option<Cpu>,
    /// GiB.
    pub memory: Option<Memory>,
}

impl QuotaChange {
    pub fn apply(&self, to: &Quota) -> Result<Quota, Error> {
        if let Some(it @ 100_001..) = self.instances {
            return Err(Error::invalid("quota.instances", format!("{it} is more than 100000")));
        }
        Ok(Quota {
            instances: self.instances.unwrap_or(to.instances),
            cpu: self.cpu.unwrap_or(to.cpu),
            memory: self.memory.unwrap_or(to.memory),
        })
    }
}

/// The permissions of a new API key: those asked for, or all that its user has. A key never holds more than its user.
pub fn key_permissions(
    user: &User,
    wanted: Option<&BTreeSet<Permission>>,
) -> Result<Vec<Permission>, Error> {
    let is_admin = user.permissions.contains(&Permission::Admin);
    let Some(wanted) = wanted else { return Ok(user.permissions.clone()) };
    if wanted.is_empty() {
        return Err(Error::invalid("permissions", "a key without permissions is of no use"));
    }
    match wanted.iter().find(|it| !is_admin && !user.permissions.contains(it)) {
        Some(missing) => Err(Error::invalid(
            "permissions",
            format!(
                "the user `{}` does not have `{missing}`; a key cannot have more than its user",
                user.name
            ),
        )),
        None => Ok(wanted.iter().copied().collect()),
    }
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
    /// Which tools it may use, by whatever credential.
    pub tools: ToolPatterns,
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
    /// Which tools of those that its user may use.
    pub tools: ToolPatterns,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(permissions: &[Permission]) -> User {
        User { permissions: permissions.to_vec(), ..User::test("ann") }
    }

    #[test]
    fn a_key_never_holds_more_than_its_user() {
        let ann = user(&[Permission::Read, Permission::Write]);
        let wanted = BTreeSet::from([Permission::Read, Permission::Admin]);
        assert!(key_permissions(&ann, Some(&wanted)).is_err());
        assert!(key_permissions(&ann, Some(&BTreeSet::new())).is_err());
        assert_eq!(key_permissions(&ann, None).unwrap(), ann.permissions);
        let admin = user(&[Permission::Admin]);
        assert_eq!(key_permissions(&admin, Some(&wanted)).unwrap().len(), 2);
    }

    #[test]
    fn a_lowered_quota_leaves_nothing_and_not_less() {
        let used = Usage { instances: 7, cpu: Cpu::from_millis(500), memory: Memory::ZERO };
        let left = Quota::DEMO.remaining(&used);
        assert_eq!((left.instances, left.cpu), (0, Cpu::from_millis(9500)));
    }

    #[test]
    fn a_quota_change_keeps_what_it_does_not_name() {
        let change = QuotaChange { instances: Some(9), ..QuotaChange::default() };
        assert_eq!(change.apply(&Quota::DEMO).unwrap(), Quota { instances: 9, ..Quota::DEMO });
        let absurd = QuotaChange { instances: Some(100_001), ..QuotaChange::default() };
        assert!(absurd.apply(&Quota::DEMO).is_err());
    }
}
