//! One line of the audit: who changed what, over which channel, and how it ended.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::caller::Channel;
use crate::name::UserId;
use crate::time::Timestamp;

/// Position in the audit; grows by one with each entry.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
)]
pub struct AuditId(pub u64);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AuditEntry {
    pub id: AuditId,
    pub at: Timestamp,
    /// None for a failed `login`.
    pub user: Option<UserId>,
    pub channel: Channel,
    /// What the client calls itself; not verified.
    pub client: Option<String>,
    /// Name of the operation, such as `launch_instance`.
    pub operation: String,
    /// Ids of what was changed, such as an instance id.
    pub targets: Vec<String>,
    pub outcome: Outcome,
    /// Code of the error, when refused or failed.
    pub error: Option<String>,
    /// How long the operation took; absent while it is not finished.
    pub elapsed_ms: Option<u64>,
    /// What it was called with: secrets as `***`, long values cut short.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arguments: Option<Value>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Durable and under way. Stays so when the server ends before the operation does.
    Accepted,
    Succeeded,
    /// Nothing was changed.
    Refused,
    /// It began and did not reach its goal; what it left is in the state of its targets.
    Failed,
}
