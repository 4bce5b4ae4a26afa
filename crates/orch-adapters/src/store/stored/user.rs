//! Stored users and API keys.

use orch_domain::caller::Permission;
use orch_domain::name::{ApiKeyId, ToolPattern, UserId, UserName};
use orch_domain::resource::{Cpu, Memory};
use orch_domain::time::Timestamp;
use orch_domain::tool_access::ToolPatterns;
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
    #[serde(default, skip_serializing_if = "PatternsV1::is_empty")]
    tools: PatternsV1,
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
    #[serde(default, skip_serializing_if = "PatternsV1::is_empty")]
    tools: PatternsV1,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct PatternsV1 {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    allow: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    deny: Vec<String>,
}

impl PatternsV1 {
    fn is_empty(&self) -> bool {
        self.allow.is_empty() && self.deny.is_empty()
    }
}

impl From<&ToolPatterns> for PatternsV1 {
    fn from(it: &ToolPatterns) -> PatternsV1 {
        let texts = |patterns: &[ToolPattern]| patterns.iter().map(ToString::to_string).collect();
        PatternsV1 { allow: texts(&it.allow), deny: texts(&it.deny) }
    }
}

impl TryFrom<PatternsV1> for ToolPatterns {
    type Error = BadRow;
    /// A pattern that is none is an error and not left out: without it the row would permit more.
    fn try_from(it: PatternsV1) -> Result<ToolPatterns, BadRow> {
        let patterns = |texts: Vec<String>| -> Result<Vec<ToolPattern>, BadRow> {
            texts.into_iter().map(|it| Ok(ToolPattern::try_new(it)?)).collect()
        };
        Ok(ToolPatterns { allow: patterns(it.allow)?, deny: patterns(it.deny)? })
    }
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
            tools: (&it.tools).into(),
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
            tools: it.tools.try_into()?,
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
            tools: (&it.tools).into(),
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
            tools: it.tools.try_into()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_from_before_there_were_patterns_have_no_limit() {
        let user = r#"{"id":"user-1","name":"ann","password_hash":"h","permissions":["read"],
            "quota":{"instances":1,"cpu_millis":1,"memory_mib":1},"created_at":1,"tokens_valid_from":2}"#;
        let user = User::try_from(serde_json::from_str::<UserV1>(user).unwrap()).unwrap();
        assert!(user.tools.is_empty());
        assert!(!serde_json::to_string(&UserV1::from(&user)).unwrap().contains("tools"));
        let key = format!(
            r#"{{"id":"k-0123456789ab","user":"user-1","name":"n","secret_sha256":"{}","permissions":[],"created_at":1}}"#,
            "00".repeat(32)
        );
        let key = ApiKey::try_from(serde_json::from_str::<ApiKeyV1>(&key).unwrap()).unwrap();
        assert!(key.tools.is_empty());
        let bad = PatternsV1 { allow: vec!["no pattern".to_owned()], deny: Vec::new() };
        assert!(ToolPatterns::try_from(bad).is_err(), "a row is not read as one that permits more");
    }
}
