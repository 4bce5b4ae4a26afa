//! Stored batches, steps of their plans, and runs of those. The key of a run says which part it is about.

use std::sync::Arc;

use orch_domain::batch::{
    Batch, BatchState, Kept, Part, Reason, RunsFor, StepRun, StepState, Terms,
};
use orch_domain::caller::Permission;
use orch_domain::name::{ApiKeyId, BatchId, ClientToken, UserId};
use orch_domain::plan::{OnError, Step};
use orch_domain::time::Timestamp;
use orch_domain::tool_access::{ToolAccess, ToolPatterns};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::audit::ChannelV1;
use super::user::{PatternsV1, PermissionV1};
use super::{BadRow, stored_enum};

stored_enum!(BatchStateV1 is BatchState {
    Queued = "queued",
    Planning = "planning",
    Running = "running",
    Succeeded = "succeeded",
    Failed = "failed",
    Cancelled = "cancelled",
});

stored_enum!(StepStateV1 is StepState {
    Waiting = "waiting",
    Queued = "queued",
    Running = "running",
    Succeeded = "succeeded",
    Failed = "failed",
    Cancelled = "cancelled",
    Skipped = "skipped",
    Unknown = "unknown",
});

stored_enum!(OnErrorV1 is OnError {
    Fail = "fail",
    Continue = "continue",
    Compensate = "compensate",
});

#[derive(Debug, Serialize, Deserialize)]
pub(in crate::store) struct BatchV1 {
    id: String,
    runs_for: RunsForV1,
    state: BatchStateV1,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<ReasonV1>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    request: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client_token: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    arguments_hash: Option<String>,
    terms: TermsV1,
    /// Null is a value here and not the lack of one.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    output: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    answer: Option<String>,
    n_steps: u32,
    created_at: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    started_at: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ended_at: Option<i64>,
}

fn given<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(from).map(Some)
}

#[derive(Debug, Serialize, Deserialize)]
struct RunsForV1 {
    user: String,
    permissions: Vec<PermissionV1>,
    channel: ChannelV1,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tools: Vec<PatternsV1>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    profile: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct ReasonV1 {
    code: String,
    message: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct TermsV1 {
    max_parallel: u32,
    step_timeout_ms: u64,
    retries: u32,
    deadline: i64,
    on_error: OnErrorV1,
}

/// A step is published text with a version of its own (`plan::VERSION`, 1), and is kept as that.
#[derive(Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub(in crate::store) struct StepV1(#[serde(with = "shared")] Arc<Step>);

#[derive(Debug, Serialize, Deserialize)]
pub(in crate::store) struct RunV1 {
    state: StepStateV1,
    attempt: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<ReasonV1>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    result: Option<KeptV1>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    started_at: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ended_at: Option<i64>,
}

#[derive(Debug, Serialize, Deserialize)]
enum KeptV1 {
    #[serde(rename = "inline", with = "shared")]
    Inline(Arc<Value>),
    #[serde(rename = "large")]
    Large { name: String, n_bytes: u64 },
}

/// What others hold too is written where it is: results are the bulk of what a batch stores.
mod shared {
    use super::{Arc, Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<T: Serialize, S: Serializer>(
        it: &Arc<T>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        (**it).serialize(serializer)
    }

    pub(super) fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Arc<T>, D::Error> {
        T::deserialize(from).map(Arc::new)
    }
}

impl From<&Reason> for ReasonV1 {
    fn from(it: &Reason) -> ReasonV1 {
        ReasonV1 { code: it.code.clone(), message: it.message.clone() }
    }
}

impl From<ReasonV1> for Reason {
    fn from(it: ReasonV1) -> Reason {
        Reason { code: it.code, message: it.message }
    }
}

impl From<&RunsFor> for RunsForV1 {
    fn from(it: &RunsFor) -> RunsForV1 {
        RunsForV1 {
            user: it.user.to_string(),
            permissions: it.permissions.iter().map(|it| (*it).into()).collect(),
            channel: it.channel.into(),
            client: it.client.clone(),
            tools: it.tools.patterns().iter().map(PatternsV1::from).collect(),
            key: it.key.as_ref().map(ApiKeyId::to_string),
            profile: it.profile.clone(),
        }
    }
}

impl TryFrom<RunsForV1> for RunsFor {
    type Error = BadRow;
    fn try_from(it: RunsForV1) -> Result<RunsFor, BadRow> {
        let mut tools = ToolAccess::default();
        for patterns in it.tools {
            tools = tools.and(&ToolPatterns::try_from(patterns)?);
        }
        Ok(RunsFor {
            user: UserId::try_new(it.user)?,
            permissions: it.permissions.into_iter().map(Permission::from).collect(),
            channel: it.channel.into(),
            client: it.client,
            tools,
            key: it.key.map(ApiKeyId::try_new).transpose()?,
            profile: it.profile,
        })
    }
}

impl From<&Terms> for TermsV1 {
    fn from(it: &Terms) -> TermsV1 {
        TermsV1 {
            max_parallel: it.max_parallel,
            step_timeout_ms: it.step_timeout_ms,
            retries: it.retries,
            deadline: it.deadline.as_millis(),
            on_error: it.on_error.into(),
        }
    }
}

impl From<TermsV1> for Terms {
    fn from(it: TermsV1) -> Terms {
        Terms {
            max_parallel: it.max_parallel,
            step_timeout_ms: it.step_timeout_ms,
            retries: it.retries,
            deadline: Timestamp::from_millis(it.deadline),
            on_error: it.on_error.into(),
        }
    }
}

impl From<&Batch> for BatchV1 {
    fn from(it: &Batch) -> BatchV1 {
        BatchV1 {
            id: it.id.to_string(),
            runs_for: (&it.runs_for).into(),
            state: it.state.into(),
            reason: it.reason.as_ref().map(ReasonV1::from),
            request: it.request.clone(),
            client_token: it.client_token.as_ref().map(ClientToken::to_string),
            arguments_hash: it.arguments_hash.clone(),
            terms: (&it.terms).into(),
            output: it.output.clone(),
            answer: it.answer.clone(),
            n_steps: it.n_steps,
            created_at: it.created_at.as_millis(),
            started_at: it.started_at.map(Timestamp::as_millis),
            ended_at: it.ended_at.map(Timestamp::as_millis),
        }
    }
}

impl TryFrom<BatchV1> for Batch {
    type Error = BadRow;
    fn try_from(it: BatchV1) -> Result<Batch, BadRow> {
        Ok(Batch {
            id: BatchId::try_new(it.id)?,
            runs_for: it.runs_for.try_into()?,
            state: it.state.into(),
            reason: it.reason.map(Reason::from),
            request: it.request,
            client_token: it.client_token.map(ClientToken::try_new).transpose()?,
            arguments_hash: it.arguments_hash,
            terms: it.terms.into(),
            output: it.output,
            answer: it.answer,
            n_steps: it.n_steps,
            created_at: Timestamp::from_millis(it.created_at),
            started_at: it.started_at.map(Timestamp::from_millis),
            ended_at: it.ended_at.map(Timestamp::from_millis),
        })
    }
}

impl From<&Arc<Step>> for StepV1 {
    fn from(it: &Arc<Step>) -> StepV1 {
        StepV1(it.clone())
    }
}

impl TryFrom<StepV1> for Arc<Step> {
    type Error = BadRow;
    fn try_from(it: StepV1) -> Result<Arc<Step>, BadRow> {
        Ok(it.0)
    }
}

impl From<&StepRun> for RunV1 {
    fn from(it: &StepRun) -> RunV1 {
        RunV1 {
            state: it.state.into(),
            attempt: it.attempt,
            reason: it.reason.as_ref().map(ReasonV1::from),
            result: it.result.as_ref().map(|it| match it {
                Kept::Inline(value) => KeptV1::Inline(value.clone()),
                Kept::Large { name, n_bytes } => {
                    KeptV1::Large { name: name.clone(), n_bytes: *n_bytes }
                }
            }),
            started_at: it.started_at.map(Timestamp::as_millis),
            ended_at: it.ended_at.map(Timestamp::as_millis),
        }
    }
}

impl RunV1 {
    pub(in crate::store) fn of(self, part: Part) -> StepRun {
        StepRun {
            part,
            state: self.state.into(),
            attempt: self.attempt,
            reason: self.reason.map(Reason::from),
            result: self.result.map(|it| match it {
                KeptV1::Inline(value) => Kept::Inline(value),
                KeptV1::Large { name, n_bytes } => Kept::Large { name, n_bytes },
            }),
            started_at: self.started_at.map(Timestamp::from_millis),
            ended_at: self.ended_at.map(Timestamp::from_millis),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Written by hand, as the first version stores them: they must load for ever.
    #[test]
    fn rows_of_the_first_version_load() {
        let row = r#"{"id":"b-019a9fb21e8000001","runs_for":{"user":"ann","permissions":["read","execute"],
            "channel":"mcp","client":"claude-code 2.1","tools":[{"allow":["github.*"]},{"deny":["*.delete_*"]}],
            "key":"k-0123456789ab","profile":"work"},"state":"failed","reason":{"code":"ToolError","message":"no"},
            "request":"look","client_token":"t-1","arguments_hash":"ab","terms":{"max_parallel":8,
            "step_timeout_ms":30000,"retries":2,"deadline":1763627500000,"on_error":"compensate"},"output":null,
            "answer":"nothing","n_steps":3,"created_at":1763627400000,"started_at":1763627400001,"ended_at":1763627400002}"#;
        let batch = Batch::try_from(serde_json::from_str::<BatchV1>(row).unwrap()).unwrap();
        assert_eq!((batch.state, batch.n_steps), (BatchState::Failed, 3));
        assert!(batch.runs_for.tools.permits("github", "get"));
        assert!(!batch.runs_for.tools.permits("github", "delete_repo"));
        assert!(!batch.runs_for.tools.permits("mail", "get"));
        assert_eq!(batch.runs_for.key.as_ref().map(ApiKeyId::as_str), Some("k-0123456789ab"));
        assert_eq!(
            (batch.terms.on_error, &batch.output),
            (OnError::Compensate, &Some(Value::Null))
        );
        let again = serde_json::to_value(BatchV1::from(&batch)).unwrap();
        assert_eq!(again, serde_json::from_str::<Value>(row).unwrap());

        let least = r#"{"id":"b-019a9fb21e8000001","runs_for":{"user":"ann","permissions":[],"channel":"system"},
            "state":"queued","terms":{"max_parallel":1,"step_timeout_ms":1,"retries":0,"deadline":1,"on_error":"fail"},
            "n_steps":0,"created_at":1}"#;
        let batch = Batch::try_from(serde_json::from_str::<BatchV1>(least).unwrap()).unwrap();
        assert_eq!((batch.output, batch.started_at, batch.runs_for.profile), (None, None, None));
        assert!(!batch.runs_for.tools.is_limited());

        let row = r#"{"id":"a","tool":"files.read","arguments":{"path":"x"},"depends_on":["b"],"when":{"succeeded":"b"},
            "for_each":[1],"max_parallel":2,"collect":"/json","timeout":1.5,"retry":{"max":2,"backoff_ms":7},
            "on_error":"continue","compensate":{"tool":"files.remove"}}"#;
        let step = Arc::<Step>::try_from(serde_json::from_str::<StepV1>(row).unwrap()).unwrap();
        assert_eq!((step.tool.as_str(), step.on_error), ("files.read", Some(OnError::Continue)));
        let again = serde_json::to_value(StepV1::from(&step)).unwrap();
        assert_eq!(again, serde_json::from_str::<Value>(row).unwrap());
        let least = r#"{"id":"a","tool":"files.read"}"#;
        assert_eq!(
            serde_json::to_string(&serde_json::from_str::<StepV1>(least).unwrap()).unwrap(),
            least
        );

        let part = Part { step: 4, element: None, is_compensation: true };
        let read = |row: &str| serde_json::from_str::<RunV1>(row).unwrap().of(part);
        let run = read(r#"{"state":"waiting","attempt":0}"#);
        assert_eq!((run.part, run.result, run.reason), (part, None, None));
        let row = r#"{"state":"succeeded","attempt":2,"result":{"inline":{"content":[]}},"started_at":1,"ended_at":2}"#;
        assert_eq!(read(row).result, Some(Kept::Inline(Arc::new(json!({"content": []})))));
        assert_eq!(serde_json::to_string(&RunV1::from(&read(row))).unwrap(), row);
        let row = r#"{"state":"unknown","attempt":1,"reason":{"code":"c","message":"m"},"result":{"large":{"name":"n","n_bytes":9}}}"#;
        assert_eq!(read(row).result, Some(Kept::Large { name: "n".to_owned(), n_bytes: 9 }));
        assert_eq!(serde_json::to_string(&RunV1::from(&read(row))).unwrap(), row);
    }

    #[test]
    fn a_pattern_that_is_none_does_not_widen_what_a_batch_may() {
        let row =
            r#"{"user":"ann","permissions":[],"channel":"mcp","tools":[{"deny":["no pattern"]}]}"#;
        assert!(RunsFor::try_from(serde_json::from_str::<RunsForV1>(row).unwrap()).is_err());
    }
}
