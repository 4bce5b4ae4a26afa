//! Stored users and API keys.

use orch_domain::caller::Permission;
use orch_domain::name::{ApiKeyId, UserId, UserName};
use orch_domain::resource::{Cpu, Memory};
use orch_domain::time::Timestamp;
use orch_domain::user::{ApiKey, Quota, User};
use serde::{Deserialize, Serialize};

use super::{BadRow, stored_enum};

stored_enum!(PermissionV1 is Permission {
    Read = "read",
    Write = "write",
    Execute = "execute",
    Admin = "admin",
});

#[derive(Debug, Serialize, Deserialize)]
pub(in crate::store) struct UserV1 {
    id: String,
    name: String,
    password_hash: String,
    permissions: Vec<PermissionV1>,
    quota: QuotaV1,
    created_at: i64,
    tokens_valid_from: i64,
}

#[derive(Debug, Serialize, Deserialize)]
struct QuotaV1 {
    instances: u32,
    cpu_millis: u32,
    memory_mib: u32,
}

#[derive(Debug, Serialize, Deserialize)]
pub(in crate::store) struct ApiKeyV1 {
    id: String,
    user: String,
    name: String,
    secret_sha256: String,
    permissions: Vec<PermissionV1>,
    created_at: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_at: Option<i64>,
}

impl From<&User> for UserV1 {
    fn from(it: &User) -> UserV1 {
        UserV1 {
            id: it.id.to_string(),
            name: it.name.to_string(),
            password_hash: it.password_hash.clone(),
            permissions: it.permissions.iter().map(|it| (*it).into()).collect(),
            quota: QuotaV1 {
                instances: it.quota.instances,
                cpu_millis: it.quota.cpu.millis(),
                memory_mib: it.quota.memory.mib(),
            },
            created_at: it.created_at.as_millis(),
            tokens_valid_from: it.tokens_valid_from.as_millis(),
        }
    }
}

impl TryFrom<UserV1> for User {
    type Error = BadRow;
    fn try_from(it: UserV1) -> Result<User, BadRow> {
        Ok(User {
            id: UserId::try_new(it.id)?,
            name: UserName::try_new(it.name)?,
            password_hash: it.password_hash,
            permissions: it.permissions.into_iter().map(Permission::from).collect(),
            quota: Quota {
                instances: it.quota.instances,
                cpu: Cpu::from_millis(it.quota.cpu_millis),
                memory: Memory::from_mib(it.quota.memory_mib),
            },
            created_at: Timestamp::from_millis(it.created_at),
            tokens_valid_from: Timestamp::from_millis(it.tokens_valid_from),
        })
    }
}

impl From<&ApiKey> for ApiKeyV1 {
    fn from(it: &ApiKey) -> ApiKeyV1 {
        ApiKeyV1 {
            id: it.id.to_string(),
            user: it.user.to_string(),
            name: it.name.clone(),
            secret_sha256: hex::encode(it.secret_sha256),
            permissions: it.permissions.iter().map(|it| (*it).into()).collect(),
            created_at: it.created_at.as_millis(),
            expires_at: it.expires_at.map(Timestamp::as_millis),
        }
    }
}

impl TryFrom<ApiKeyV1> for ApiKey {
    type Error = BadRow;
    fn try_from(it: ApiKeyV1) -> Result<ApiKey, BadRow> {
        let mut secret_sha256 = [0; 32];
        hex::decode_to_slice(&it.secret_sha256, &mut secret_sha256)?;
        Ok(ApiKey {
            id: ApiKeyId::try_new(it.id)?,
            user: UserId::try_new(it.user)?,
            name: it.name,
            secret_sha256,
            permissions: it.permissions.into_iter().map(Permission::from).collect(),
            created_at: Timestamp::from_millis(it.created_at),
            expires_at: it.expires_at.map(Timestamp::from_millis),
        })
    }
}
