//! Users, quotas and API keys as callers see them; never a secret, but the one time a key is made.

use orch_domain::book::Book;
use orch_domain::caller::Permission;
use orch_domain::name::{ApiKeyId, UserId, UserName};
use orch_domain::time::Timestamp;
use orch_domain::tool_access::{ToolAccess, ToolPatterns};
use orch_domain::user::{ApiKey, Quota, Usage, User};
use schemars::JsonSchema;
use serde::Serialize;

use crate::operation::Summary;

/// Who is logged in.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Me {
    pub id: UserId,
    pub username: UserName,
    /// What this login or key may do; a key may do less than its user.
    pub permissions: Vec<Permission>,
    /// Patterns that limit which tools it may use, such as `github.*`; a tool has to be permitted by each of them. Empty:
    /// no limit.
    pub tools: ToolAccess,
}

impl Summary for Me {
    fn summary(&self) -> String {
        format!("You are `{}` and may {}.", self.username, words(&self.permissions))
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct UserView {
    pub id: UserId,
    pub username: UserName,
    pub permissions: Vec<Permission>,
    pub quota: Quota,
    /// What its instances hold of the quota.
    pub used: Usage,
    pub created_at: Timestamp,
    /// Which tools it may use, by whatever credential.
    pub tools: ToolPatterns,
}

impl UserView {
    pub fn of(user: &User, book: &Book) -> UserView {
        UserView {
            id: user.id.clone(),
            username: user.name.clone(),
            permissions: user.permissions.clone(),
            quota: user.quota,
            used: book.usage(&user.id),
            created_at: user.created_at,
            tools: user.tools.clone(),
        }
    }
}

/// One user, as `get_user`, `create_user` and `update_user` answer it.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct OneUser(pub UserView);

impl Summary for OneUser {
    fn summary(&self) -> String {
        let it = &self.0;
        format!(
            "user `{}` ({}) may {}; {} of {} instances, {} of {} and {} of {} in use",
            it.username,
            it.id,
            words(&it.permissions),
            it.used.instances,
            it.quota.instances,
            it.used.cpu.vcpu(),
            it.quota.cpu,
            it.used.memory,
            it.quota.memory,
        )
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct QuotaView {
    /// The most there may be at the same time.
    pub limits: Quota,
    /// Held by instances, running or stopped.
    pub used: Usage,
    pub remaining: Usage,
}

impl QuotaView {
    pub fn of(quota: Quota, used: Usage) -> QuotaView {
        QuotaView { limits: quota, used, remaining: quota.remaining(&used) }
    }

    pub fn line(&self) -> String {
        format!(
            "{} of {} instances, {} of {} and {} of {} left",
            self.remaining.instances,
            self.limits.instances,
            self.remaining.cpu.vcpu(),
            self.limits.cpu,
            self.remaining.memory,
            self.limits.memory,
        )
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct ApiKeyView {
    pub id: ApiKeyId,
    pub name: String,
    /// Whose key it is.
    pub user: UserId,
    /// What it may do, as far as its user may.
    pub permissions: Vec<Permission>,
    pub created_at: Timestamp,
    /// Null: it does not expire.
    pub expires_at: Option<Timestamp>,
    /// Which tools it may use, as far as its user may.
    pub tools: ToolPatterns,
}

impl ApiKeyView {
    pub fn of(key: &ApiKey) -> ApiKeyView {
        ApiKeyView {
            id: key.id.clone(),
            name: key.name.clone(),
            user: key.user.clone(),
            permissions: key.permissions.clone(),
            created_at: key.created_at,
            expires_at: key.expires_at,
            tools: key.tools.clone(),
        }
    }
}

pub(crate) fn words(permissions: &[Permission]) -> String {
    if permissions.is_empty() {
        return "do nothing".to_owned();
    }
    permissions.iter().map(|it| it.as_str()).collect::<Vec<_>>().join(", ")
}
