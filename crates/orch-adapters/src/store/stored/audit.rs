//! Stored lines of the audit.

use orch_domain::audit::{AuditEntry, AuditId, Outcome};
use orch_domain::caller::Channel;
use orch_domain::name::UserId;
use orch_domain::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{BadRow, stored_enum};

stored_enum!(ChannelV1 is Channel {
    Mcp = "mcp",
    Rest = "rest",
    Grpc = "grpc",
    Cli = "cli",
    System = "system",
});

stored_enum!(OutcomeV1 is Outcome {
    Accepted = "accepted",
    Succeeded = "succeeded",
    Refused = "refused",
    Failed = "failed",
});

#[derive(Debug, Serialize, Deserialize)]
pub(in crate::store) struct AuditV1 {
    id: u64,
    at: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    channel: ChannelV1,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client: Option<String>,
    operation: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    targets: Vec<String>,
    outcome: OutcomeV1,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    elapsed_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    arguments: Option<Value>,
}

impl From<&AuditEntry> for AuditV1 {
    fn from(it: &AuditEntry) -> AuditV1 {
        AuditV1 {
            id: it.id.0,
            at: it.at.as_millis(),
            user: it.user.as_ref().map(UserId::to_string),
            channel: it.channel.into(),
            client: it.client.clone(),
            operation: it.operation.clone(),
            targets: it.targets.clone(),
            outcome: it.outcome.into(),
            error: it.error.clone(),
            elapsed_ms: it.elapsed_ms,
            arguments: it.arguments.clone(),
        }
    }
}

impl TryFrom<AuditV1> for AuditEntry {
    type Error = BadRow;
    fn try_from(it: AuditV1) -> Result<AuditEntry, BadRow> {
        Ok(AuditEntry {
            id: AuditId(it.id),
            at: Timestamp::from_millis(it.at),
            user: it.user.map(UserId::try_new).transpose()?,
            channel: it.channel.into(),
            client: it.client,
            operation: it.operation,
            targets: it.targets,
            outcome: it.outcome.into(),
            error: it.error,
            elapsed_ms: it.elapsed_ms,
            arguments: it.arguments,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_from_before_there_were_arguments_have_none() {
        let line =
            r#"{"id":7,"at":1,"channel":"mcp","operation":"call_tool","outcome":"succeeded"}"#;
        let entry = AuditEntry::try_from(serde_json::from_str::<AuditV1>(line).unwrap()).unwrap();
        assert_eq!((entry.id, entry.arguments), (AuditId(7), None));
    }
}
