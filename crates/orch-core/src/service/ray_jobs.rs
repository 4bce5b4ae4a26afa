//! Ray's jobs: a caller sees those submitted in its name, an administrator all.

use std::time::Duration;

use orch_domain::Error;
use orch_domain::caller::Caller;
use orch_domain::name::RayJobId;
use orch_domain::ray::{ARGUMENTS, RayJob, RaySubmission};
use tokio::time::Instant;

use crate::ports::ray::{RayError, RayLogs};
use crate::service::ray::ray_error;
use crate::{Cx, Orch};

/// Between two looks at a job that is waited for.
const POLL: Duration = Duration::from_secs(1);

impl Orch {
    /// Those that `cx` may see, in no order.
    pub async fn ray_jobs(&self, cx: &Cx) -> Result<Vec<RayJob>, Error> {
        let caller = cx.caller()?;
        let ray = self.ray()?;
        let mut jobs = ray.jobs().await.map_err(|err| ray_error(ray, err))?;
        jobs.retain(|it| is_visible(caller, it));
        Ok(jobs)
    }

    /// Not there and not theirs look the same.
    pub async fn ray_job(&self, cx: &Cx, id: &RayJobId) -> Result<RayJob, Error> {
        let caller = cx.caller()?;
        let ray = self.ray()?;
        let job = ray.job(id).await.map_err(|err| ray_error(ray, err))?;
        job.filter(|it| is_visible(caller, it)).ok_or_else(|| no_job(id))
    }

    /// Submits it unless it was submitted before, which is told by its id. The answer says whether it was.
    pub async fn submit_ray_job(
        &self,
        cx: &Cx,
        submission: &RaySubmission,
        client_token: Option<&str>,
    ) -> Result<(RayJob, bool), Error> {
        let ray = self.ray()?;
        cx.audit_target(&submission.id);
        let fail = |err| ray_error(ray, err);
        // Only a job with a token can have been submitted before.
        let earlier = match client_token {
            Some(_) => ray.job(&submission.id).await.map_err(fail)?,
            None => None,
        };
        let (job, existed) = match earlier {
            Some(job) => (Some(job), true),
            None => match ray.submit(submission).await {
                Ok(()) => (ray.job(&submission.id).await.map_err(fail)?, false),
                // Somebody was faster with the same token, or only the answer was lost: Ray knows.
                Err(err) => match ray.job(&submission.id).await {
                    Ok(Some(job)) => (Some(job), matches!(err, RayError::Refused { .. })),
                    _ => return Err(fail(err)),
                },
            },
        };
        let Some(job) = job else {
            return Err(Error::Unavailable {
                message: format!(
                    "Ray took the job `{}` and does not know it yet; `ray_list_jobs` shows it in a moment",
                    submission.id
                ),
                source: None,
            });
        };
        let is_same = job.metadata.get(ARGUMENTS) == submission.metadata.get(ARGUMENTS);
        if existed && !is_same {
            return Err(Error::IdempotentParameterMismatch {
                client_token: client_token.unwrap_or(submission.id.as_str()).to_owned(),
            });
        }
        Ok((job, existed))
    }

    /// Waits until nothing more will happen to a job. When the caller withdraws, the job goes on.
    pub async fn wait_for_ray_job(&self, cx: &Cx, id: &RayJobId) -> Result<RayJob, Error> {
        let deadline = Instant::now() + self.settings.wait_timeout;
        let mut n_updates = 0.0;
        let mut last = None;
        loop {
            let job = self.ray_job(cx, id).await?;
            if job.status.is_final() {
                return Ok(job);
            }
            if last != Some(job.status) {
                n_updates += 1.0;
                last = Some(job.status);
                cx.progress.report(n_updates, None, format!("the job `{id}` is {}", job.status));
            }
            let goes_on =
                format!("the job `{id}` goes on; `ray_list_jobs` shows it, `ray_stop_job` ends it");
            tokio::select! {
                () = tokio::time::sleep(POLL) => {}
                () = cx.cancel.cancelled() => {
                    return Err(Error::Cancelled { message: format!("the call was cancelled; {goes_on}") });
                }
                () = self.shutdown.cancelled() => {
                    let message = format!("the server is shutting down; {goes_on}");
                    return Err(Error::Unavailable { message, source: None });
                }
                () = tokio::time::sleep_until(deadline) => {
                    let waited = self.settings.wait_timeout.as_secs();
                    let message = format!("it has not ended in {waited} s; {goes_on}");
                    return Err(Error::DeadlineExceeded { message });
                }
            }
        }
    }

    /// What its driver wrote.
    pub async fn ray_job_logs(&self, cx: &Cx, id: &RayJobId) -> Result<RayLogs, Error> {
        self.ray_job(cx, id).await?;
        let ray = self.ray()?;
        let logs = ray.logs(id).await.map_err(|err| ray_error(ray, err))?;
        logs.ok_or_else(|| no_job(id))
    }

    /// Asks it to end. The answer has the job as it was seen right after, and whether there was something to end.
    pub async fn stop_ray_job(&self, cx: &Cx, id: &RayJobId) -> Result<(RayJob, bool), Error> {
        let before = self.ray_job(cx, id).await?;
        cx.audit_target(id);
        if before.status.is_final() {
            return Ok((before, false));
        }
        let ray = self.ray()?;
        let stopped = ray.stop(id).await.map_err(|err| ray_error(ray, err))?;
        let stopped = stopped.ok_or_else(|| no_job(id))?;
        Ok((self.ray_job(cx, id).await?, stopped))
    }
}

fn is_visible(caller: &Caller, job: &RayJob) -> bool {
    caller.is_admin() || job.owner() == Some(caller.user.as_str())
}

fn no_job(id: &RayJobId) -> Error {
    Error::NotFound {
        kind: "Ray job",
        id: id.to_string(),
        hint: "`ray_list_jobs` shows yours".to_owned(),
    }
}
