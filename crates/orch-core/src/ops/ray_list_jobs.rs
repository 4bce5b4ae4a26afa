//! Jobs of the Ray cluster.

use std::sync::Arc;

use orch_domain::Error;
use orch_domain::caller::Permission;
use orch_domain::name::RayJobId;
use orch_domain::page::{self, PageSize};
use orch_domain::ray::{RayJob, RayJobStatus};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::operation::{Operation, Route, Spec, Summary, spec};
use crate::view::ray::{RayJobView, ray_job_table};
use crate::view::table::more;
use crate::{Cx, Orch};

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RayListJobs {
    /// Only this job.
    pub job_id: Option<RayJobId>,
    /// Only in these states.
    pub status: Vec<RayJobStatus>,
    pub page_size: PageSize,
    /// `next_page_token` of the page before.
    pub page_token: String,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct RayJobList {
    /// Newest first.
    pub jobs: Vec<RayJobView>,
    /// Empty on the last page.
    pub next_page_token: String,
    /// Of all pages.
    pub total_count: usize,
}

impl Summary for RayJobList {
    fn summary(&self) -> String {
        if self.jobs.is_empty() {
            return "No such jobs of yours. `ray_submit_job` submits one.".to_owned();
        }
        let mut text = ray_job_table(&self.jobs);
        text.push_str(&more(self.jobs.len(), self.total_count, &self.next_page_token));
        text
    }
}

impl Operation for RayListJobs {
    const SPEC: Spec =
        spec!("ray_list_jobs", Ray, Reads, Some(Permission::Read), [Route::get("/ray/jobs")]);
    type Output = RayJobList;

    async fn run(self, orch: &Arc<Orch>, cx: &Cx) -> Result<RayJobList, Error> {
        // A bad token is refused before Ray is asked.
        page::key_of(LIST, &self.page_token)?;
        let mut jobs = match &self.job_id {
            Some(id) => match orch.ray_job(cx, id).await {
                Ok(job) => vec![job],
                Err(Error::NotFound { .. }) => Vec::new(),
                Err(err) => return Err(err),
            },
            None => orch.ray_jobs(cx).await?,
        };
        jobs.retain(|it| self.status.is_empty() || self.status.contains(&it.status));
        jobs.sort_by_cached_key(newest_first);
        let (page, next_page_token) =
            page::cut(LIST, &jobs, newest_first, &self.page_token, self.page_size)?;
        Ok(RayJobList {
            jobs: page.iter().map(RayJobView::of).collect(),
            next_page_token,
            total_count: jobs.len(),
        })
    }
}

const LIST: &str = "ray-jobs";

/// Sorts younger jobs before older ones, as text.
fn newest_first(job: &RayJob) -> String {
    let age = job.started_at.map_or(0, |it| u64::MAX - it.as_millis().max(0) as u64);
    format!("{age:020} {}", job.id)
}
