//! A Ray cluster behind its dashboard: what it has, what runs on it, and its jobs.

use std::time::Duration;

use async_trait::async_trait;
use orch_domain::name::RayJobId;
use orch_domain::ray::{RayJob, RayNode, RaySubmission};

/// What the dashboard says of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RayVersion {
    pub ray: Option<String>,
    pub session: Option<String>,
}

/// One look at the cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct RayCluster {
    pub version: RayVersion,
    pub nodes: Vec<RayNode>,
    /// Tasks, actors and groups of them that wait for resources; absent where Ray did not say.
    pub n_pending: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct RayLogs {
    pub text: String,
    /// Older lines were left out, because there are megabytes of them.
    pub is_cut: bool,
}

/// Every call ends within a time limit of its own and reads a bounded answer.
#[async_trait]
pub trait Ray: Send + Sync {
    /// Where a person looks at it in a browser.
    fn dashboard_url(&self) -> &str;

    async fn version(&self) -> Result<RayVersion, RayError>;

    async fn cluster(&self) -> Result<RayCluster, RayError>;

    async fn jobs(&self) -> Result<Vec<RayJob>, RayError>;

    /// None: there is no such job.
    async fn job(&self, id: &RayJobId) -> Result<Option<RayJob>, RayError>;

    /// `RayError::Refused` when a job of that id was there before. After any error the job may have been taken.
    async fn submit(&self, submission: &RaySubmission) -> Result<(), RayError>;

    /// What the job's driver wrote, as it wrote it. None: there is no such job.
    async fn logs(&self, id: &RayJobId) -> Result<Option<RayLogs>, RayError>;

    /// Asks the job to end and does not wait. False: it had ended. None: there is no such job.
    async fn stop(&self, id: &RayJobId) -> Result<Option<bool>, RayError>;
}

/// Never carries the token. What Ray wrote is cut short and free of control characters.
#[derive(Debug, thiserror::Error)]
pub enum RayError {
    #[error("nothing answers there")]
    Unreachable { source: Box<dyn std::error::Error + Send + Sync> },
    #[error("it did not answer within {} ms", after.as_millis())]
    Timeout { after: Duration },
    #[error("it wants a token, or another one")]
    Unauthenticated,
    #[error("it answered with status {status}: {said}")]
    Refused { status: u16, said: String },
    #[error("its answer is longer than {limit} bytes")]
    TooLong { limit: usize },
    #[error("its answer is not one of Ray's: {what}")]
    Garbage { what: String },
}
