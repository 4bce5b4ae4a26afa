//! Ray through its dashboard's REST interface: the state API for nodes, the cluster status for what is in use, and the
//! Jobs API.

mod client;
mod wire;

use async_trait::async_trait;
use orch_core::ports::ray::{Ray, RayCluster, RayError, RayLogs, RayVersion};
use orch_domain::name::RayJobId;
use orch_domain::ray::{RayJob, RaySubmission};
use serde_json::{Value, json};

use client::Client;
pub use client::RaySettings;

pub struct RayDashboard {
    client: Client,
}

impl RayDashboard {
    /// An error when this machine's trust in TLS certificates cannot be set up.
    pub fn new(settings: RaySettings) -> Result<RayDashboard, RayError> {
        Ok(RayDashboard { client: Client::new(settings)? })
    }

    async fn nodes(&self) -> Result<Value, RayError> {
        // Without a limit only the first hundred are told.
        match self.client.get("/api/v0/nodes?detail=true&limit=10000").await {
            Err(RayError::Refused { status: 404, .. }) => {
                Err(RayError::Garbage { what: "there is no `/api/v0/nodes`".to_owned() })
            }
            other => other,
        }
    }

    /// What is in use, from the place that has it per node and by name; from the text that the dashboard shows where a
    /// cluster does not fill that. Not knowing it is no failure.
    async fn in_use(&self) -> wire::InUse {
        let Ok(status) = self.client.get("/api/cluster_status").await else {
            return wire::InUse::default();
        };
        let in_use = wire::in_use(&status);
        if !in_use.by_node.is_empty() {
            return in_use;
        }
        let summary = self.client.get("/nodes?view=summary").await;
        let by_node = summary.as_ref().map(wire::logical_resources).unwrap_or_default();
        wire::InUse { by_node, ..in_use }
    }
}

#[async_trait]
impl Ray for RayDashboard {
    fn dashboard_url(&self) -> &str {
        self.client.url()
    }

    async fn version(&self) -> Result<RayVersion, RayError> {
        self.client.get("/api/version").await.map(|it| wire::version(&it))
    }

    async fn cluster(&self) -> Result<RayCluster, RayError> {
        let (version, nodes, in_use) = futures::join!(self.version(), self.nodes(), self.in_use());
        let nodes = wire::nodes(&nodes?, &in_use)?;
        Ok(RayCluster { version: version.unwrap_or_default(), nodes, n_pending: in_use.n_pending })
    }

    async fn jobs(&self) -> Result<Vec<RayJob>, RayError> {
        wire::jobs(&self.client.get("/api/jobs/").await?)
    }

    async fn job(&self, id: &RayJobId) -> Result<Option<RayJob>, RayError> {
        match found(self.client.get(&format!("/api/jobs/{id}")).await)? {
            Some(it) => wire::job(&it).map(Some),
            None => Ok(None),
        }
    }

    async fn submit(&self, submission: &RaySubmission) -> Result<(), RayError> {
        let mut body = json!({
            "entrypoint": submission.entrypoint,
            "submission_id": submission.id,
            "runtime_env": submission.runtime_env,
            "metadata": submission.metadata,
        });
        // Left out where not given, as older versions do not know them.
        for (key, amount) in [
            ("entrypoint_num_cpus", submission.num_cpus),
            ("entrypoint_num_gpus", submission.num_gpus),
        ] {
            if let Some(amount) = amount {
                body[key] = amount.into();
            }
        }
        self.client.post("/api/jobs/", &body).await.map(drop)
    }

    async fn logs(&self, id: &RayJobId) -> Result<Option<RayLogs>, RayError> {
        match self.client.get_end(&format!("/api/jobs/{id}/logs")).await {
            Ok((end, is_cut)) => wire::logs(&end, is_cut).map(Some),
            Err(RayError::Refused { status: 404, .. }) => Ok(None),
            Err(err) => Err(err),
        }
    }

    async fn stop(&self, id: &RayJobId) -> Result<Option<bool>, RayError> {
        let answer = self.client.post(&format!("/api/jobs/{id}/stop"), &json!({})).await;
        Ok(found(answer)?.map(|it| it["stopped"].as_bool().unwrap_or(true)))
    }
}

fn found(answer: Result<Value, RayError>) -> Result<Option<Value>, RayError> {
    match answer {
        Ok(it) => Ok(Some(it)),
        Err(RayError::Refused { status: 404, .. }) => Ok(None),
        Err(err) => Err(err),
    }
}
