//! Why an operation was refused or failed: one enum for every face, translated by each as its last step.
//!
//! `Display` is for the client: what was asked, what is available, what to do next. Hosts, paths and secrets stay in
//! the source, which only the log sees.

use serde_json::{Map, Value, json};

use crate::caller::Permission;
use crate::name::NodeId;
use crate::plan::Problem;
use crate::resource::{Cpu, Memory, Resources};
use crate::ssh::HostKey;

/// What went wrong underneath, for the log.
pub type Source = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{}", InvalidText(.parameter, .message))]
    InvalidParameter { parameter: String, message: String },
    /// A machine that was never met shows this key, and nobody has said that it may.
    #[error("{}", InvalidText(.parameter, .message))]
    HostKeyUnknown { parameter: String, message: String, place: String, found: HostKey },
    /// Everything that is wrong with it.
    #[error("{}", plan_text(.problems))]
    InvalidPlan { problems: Vec<Problem> },
    #[error("there is no {kind} `{id}`{}; {hint}", if is_owned(.kind) { ", or it is not yours" } else { "" })]
    NotFound { kind: &'static str, id: String, hint: String },
    #[error("{message}")]
    Conflict { message: String },
    #[error("{message}")]
    IncorrectState { id: String, state: String, message: String },
    #[error(
        "the client token `{client_token}` was already used with other arguments; repeat the first arguments to get \
         what that call made, or choose a new token to make another"
    )]
    IdempotentParameterMismatch { client_token: String },
    #[error("{}", .0.text())]
    InsufficientCapacity(Box<Shortage>),
    #[error("{}", .0.text())]
    QuotaExceeded(Box<OverQuota>),
    #[error("{message}")]
    Unauthenticated { message: String },
    #[error(
        "`{operation}` needs the permission `{needs}`, which you do not have; ask an administrator for it"
    )]
    Forbidden { operation: &'static str, needs: Permission },
    #[error(
        "`{operation}` is not among the tools that this login or key may use; ask an administrator for one that may"
    )]
    ToolDenied { operation: &'static str },
    #[error("the node `{node_id}` does not answer; {hint}")]
    NodeUnreachable { node_id: NodeId, hint: String, source: Source },
    #[error("{message}")]
    EngineError { node_id: NodeId, message: String, source: Source },
    #[error("{message}")]
    UpstreamError { server: String, message: String },
    #[error("the server `{server}` did not answer within {timeout_ms} ms")]
    UpstreamTimeout { server: String, timeout_ms: u64 },
    #[error("{message}")]
    Cancelled { message: String },
    #[error("{message}")]
    DeadlineExceeded { message: String },
    #[error("{message}")]
    TooManyRequests { message: String, retry_after_ms: u64 },
    #[error("{message}")]
    Unavailable { message: String, source: Option<Source> },
    #[error("an internal error; it is in the server's log, and repeating the call may help")]
    Internal { source: Source },
}

/// Stable name of an error, the same on every face.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    InvalidParameter,
    NotFound,
    Conflict,
    IncorrectState,
    IdempotentParameterMismatch,
    InsufficientCapacity,
    QuotaExceeded,
    Unauthenticated,
    Forbidden,
    NodeUnreachable,
    EngineError,
    UpstreamError,
    UpstreamTimeout,
    Cancelled,
    DeadlineExceeded,
    TooManyRequests,
    Unavailable,
    Internal,
}

impl ErrorCode {
    pub const ALL: [ErrorCode; 18] = [
        ErrorCode::InvalidParameter,
        ErrorCode::NotFound,
        ErrorCode::Conflict,
        ErrorCode::IncorrectState,
        ErrorCode::IdempotentParameterMismatch,
        ErrorCode::InsufficientCapacity,
        ErrorCode::QuotaExceeded,
        ErrorCode::Unauthenticated,
        ErrorCode::Forbidden,
        ErrorCode::NodeUnreachable,
        ErrorCode::EngineError,
        ErrorCode::UpstreamError,
        ErrorCode::UpstreamTimeout,
        ErrorCode::Cancelled,
        ErrorCode::DeadlineExceeded,
        ErrorCode::TooManyRequests,
        ErrorCode::Unavailable,
        ErrorCode::Internal,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            ErrorCode::InvalidParameter => "InvalidParameter",
            ErrorCode::NotFound => "NotFound",
            ErrorCode::Conflict => "Conflict",
            ErrorCode::IncorrectState => "IncorrectState",
            ErrorCode::IdempotentParameterMismatch => "IdempotentParameterMismatch",
            ErrorCode::InsufficientCapacity => "InsufficientCapacity",
            ErrorCode::QuotaExceeded => "QuotaExceeded",
            ErrorCode::Unauthenticated => "Unauthenticated",
            ErrorCode::Forbidden => "Forbidden",
            ErrorCode::NodeUnreachable => "NodeUnreachable",
            ErrorCode::EngineError => "EngineError",
            ErrorCode::UpstreamError => "UpstreamError",
            ErrorCode::UpstreamTimeout => "UpstreamTimeout",
            ErrorCode::Cancelled => "Cancelled",
            ErrorCode::DeadlineExceeded => "DeadlineExceeded",
            ErrorCode::TooManyRequests => "TooManyRequests",
            ErrorCode::Unavailable => "Unavailable",
            ErrorCode::Internal => "Internal",
        }
    }
}

/// What no node had room for, and what would fit.
#[derive(Clone, Debug, PartialEq)]
pub struct Shortage {
    pub requested: Resources,
    /// The most CPU, and the most memory, free on any one node that could be chosen; not always the same node.
    pub max_cpu_available: Cpu,
    pub max_memory_available: Memory,
    pub max_gpu_available: u32,
    /// Sizes that would fit now, nearest to the request first.
    pub feasible: Vec<Resources>,
    /// In words: no node is of the role or has the tags that were asked for, and which there are. No other size helps.
    pub on_offer: Option<String>,
    /// Why each group of nodes was passed over, such as "2 of 3 nodes are cordoned".
    pub reasons: Vec<String>,
}

impl Shortage {
    fn text(&self) -> String {
        if let Some(on_offer) = &self.on_offer {
            return format!("{on_offer}; ask for what there is, or name a node by `node_id`");
        }
        let gpu = |n: u32| match (n, self.requested.gpu) {
            (_, 0) => String::new(),
            (n, _) => format!(" and {n} GPU"),
        };
        let mut text = format!(
            "requested {} and {}{}, but max available is {} and {}{}",
            self.requested.cpu,
            self.requested.memory,
            gpu(self.requested.gpu),
            self.max_cpu_available,
            self.max_memory_available,
            gpu(self.max_gpu_available),
        );
        if !self.reasons.is_empty() {
            text.push_str(&format!(" ({})", self.reasons.join("; ")));
        }
        match self.feasible.first() {
            Some(it) => {
                text.push_str(&format!(
                    "; a size that fits now: cpu {} memory {}",
                    it.cpu.vcpu(),
                    it.memory.gib()
                ));
                if self.requested.gpu != 0 {
                    text.push_str(&format!(" gpu {}", it.gpu));
                }
            }
            None => text.push_str("; terminate an instance, or register a node or bring one back (`list_nodes` shows how they are), then try again"),
        }
        text
    }
}

/// Which limit of whose quota a request would pass.
#[derive(Clone, Debug, PartialEq)]
pub struct OverQuota {
    /// `instances`, `cpu` (in vCPU) or `memory` (in GiB).
    pub resource: &'static str,
    pub limit: f64,
    pub used: f64,
    pub requested: f64,
}

impl OverQuota {
    fn text(&self) -> String {
        let unit = match self.resource {
            "cpu" => "vCPU",
            "memory" => "GiB of memory",
            other => other,
        };
        format!(
            "your quota of {} {unit} has {} in use and the request adds {}; terminate an instance, ask for less, or ask an \
             administrator for a larger quota (`get_quota` shows it)",
            self.limit, self.used, self.requested
        )
    }
}

/// The first of them in words; a face sends all as data.
fn plan_text(problems: &[Problem]) -> String {
    const SHOWN: usize = 5;
    let n = problems.len();
    let mut text = format!("the plan has {n} problem{}", if n == 1 { "" } else { "s" });
    for (i, it) in problems.iter().take(SHOWN).enumerate() {
        text.push_str(if i == 0 { ": " } else { "; " });
        text.push_str(&format!("`{}`: {}", it.place, it.message));
    }
    if SHOWN < n {
        text.push_str(&format!("; and {} more in `problems`", n - SHOWN));
    }
    text
}

/// Whether there are some that a caller may not know of. "Not yours" and "not there" then have to sound the same.
fn is_owned(kind: &str) -> bool {
    kind == "instance"
}

struct InvalidText<'a>(&'a str, &'a str);

impl std::fmt::Display for InvalidText<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() { f.write_str(self.1) } else { write!(f, "`{}`: {}", self.0, self.1) }
    }
}

impl Error {
    pub fn invalid(parameter: impl Into<String>, message: impl Into<String>) -> Error {
        Error::InvalidParameter { parameter: parameter.into(), message: message.into() }
    }

    pub fn conflict(message: impl Into<String>) -> Error {
        Error::Conflict { message: message.into() }
    }

    pub fn internal(source: impl Into<Source>) -> Error {
        Error::Internal { source: source.into() }
    }

    pub fn no_instance(id: impl std::fmt::Display) -> Error {
        Error::NotFound {
            kind: "instance",
            id: id.to_string(),
            hint: "`list_instances` shows yours".to_owned(),
        }
    }

    pub fn no_node(id: impl std::fmt::Display) -> Error {
        Error::NotFound {
            kind: "node",
            id: id.to_string(),
            hint: "`list_nodes` shows those there are".to_owned(),
        }
    }

    /// A registered node that does not answer.
    pub fn unreachable(node_id: &NodeId, source: impl Into<Source>) -> Error {
        Error::NodeUnreachable {
            node_id: node_id.clone(),
            hint: "`check_node` tells what fails, `list_nodes` which others are healthy".to_owned(),
            source: source.into(),
        }
    }

    pub fn code(&self) -> ErrorCode {
        match self {
            Error::InvalidParameter { .. }
            | Error::HostKeyUnknown { .. }
            | Error::InvalidPlan { .. } => ErrorCode::InvalidParameter,
            Error::NotFound { .. } => ErrorCode::NotFound,
            Error::Conflict { .. } => ErrorCode::Conflict,
            Error::IncorrectState { .. } => ErrorCode::IncorrectState,
            Error::IdempotentParameterMismatch { .. } => ErrorCode::IdempotentParameterMismatch,
            Error::InsufficientCapacity(_) => ErrorCode::InsufficientCapacity,
            Error::QuotaExceeded(_) => ErrorCode::QuotaExceeded,
            Error::Unauthenticated { .. } => ErrorCode::Unauthenticated,
            Error::Forbidden { .. } | Error::ToolDenied { .. } => ErrorCode::Forbidden,
            Error::NodeUnreachable { .. } => ErrorCode::NodeUnreachable,
            Error::EngineError { .. } => ErrorCode::EngineError,
            Error::UpstreamError { .. } => ErrorCode::UpstreamError,
            Error::UpstreamTimeout { .. } => ErrorCode::UpstreamTimeout,
            Error::Cancelled { .. } => ErrorCode::Cancelled,
            Error::DeadlineExceeded { .. } => ErrorCode::DeadlineExceeded,
            Error::TooManyRequests { .. } => ErrorCode::TooManyRequests,
            Error::Unavailable { .. } => ErrorCode::Unavailable,
            Error::Internal { .. } => ErrorCode::Internal,
        }
    }

    /// `{error, message}` and the variant's own fields, as every face sends it.
    pub fn describe(&self) -> Map<String, Value> {
        let mut out = Map::new();
        out.insert("error".to_owned(), self.code().as_str().into());
        out.insert("message".to_owned(), self.to_string().into());
        let fields = match self {
            Error::InvalidParameter { parameter, .. } => json!({ "parameter": parameter }),
            Error::InvalidPlan { problems } => json!({ "parameter": "plan", "problems": problems }),
            Error::HostKeyUnknown { parameter, place, found, .. } => json!({
                "parameter": parameter,
                "host_key": {
                    "place": place, "fingerprint": found.fingerprint, "algorithm": found.algorithm,
                },
            }),
            Error::NotFound { kind, id, .. } => json!({ "kind": kind, "id": id }),
            Error::IncorrectState { id, state, .. } => json!({ "id": id, "state": state }),
            Error::IdempotentParameterMismatch { client_token } => {
                json!({ "client_token": client_token })
            }
            Error::InsufficientCapacity(it) => json!({
                "requested": it.requested,
                "max_cpu_available": it.max_cpu_available,
                "max_memory_available": it.max_memory_available,
                "max_gpu_available": it.max_gpu_available,
                "feasible_sizes": it.feasible,
                "on_offer": it.on_offer,
                "reasons": it.reasons,
            }),
            Error::QuotaExceeded(it) => json!({
                "resource": it.resource, "limit": it.limit, "used": it.used, "requested": it.requested,
            }),
            Error::Forbidden { operation, needs } => {
                json!({ "operation": operation, "needs": needs })
            }
            Error::ToolDenied { operation } => json!({ "operation": operation }),
            Error::NodeUnreachable { node_id, .. } | Error::EngineError { node_id, .. } => {
                json!({ "node_id": node_id })
            }
            Error::UpstreamError { server, .. } => json!({ "server": server }),
            Error::UpstreamTimeout { server, timeout_ms } => {
                json!({ "server": server, "timeout_ms": timeout_ms })
            }
            Error::TooManyRequests { retry_after_ms, .. } => {
                json!({ "retry_after_ms": retry_after_ms })
            }
            _ => json!({}),
        };
        if let Value::Object(fields) = fields {
            out.extend(fields);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_have_units_and_only_what_has_an_owner_may_be_somebody_elses() {
        let over = |resource| {
            let over = OverQuota { resource, limit: 4.0, used: 3.0, requested: 2.0 };
            Error::QuotaExceeded(Box::new(over)).to_string()
        };
        assert!(over("memory").starts_with("your quota of 4 GiB of memory has 3 in use"));
        assert!(over("cpu").starts_with("your quota of 4 vCPU has 3 in use"));
        assert!(over("instances").starts_with("your quota of 4 instances has 3 in use"));
        assert!(Error::no_instance("i-1").to_string().contains("`i-1`, or it is not yours; "));
        assert!(!Error::no_node("n1").to_string().contains("yours"));
    }
}
