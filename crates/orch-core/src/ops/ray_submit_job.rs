//! A job for the Ray cluster: a command that one of its nodes runs as the driver.

use std::collections::BTreeMap;
use std::sync::Arc;

use orch_domain::Error;
use orch_domain::caller::Permission;
use orch_domain::label::Labels;
use orch_domain::name::{ClientToken, RayJobId};
use orch_domain::ray::{ARGUMENTS, OWNER, RaySubmission};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::operation::{Operation, Route, Spec, Summary, spec};
use crate::view::ray::RayJobView;
use crate::{Cx, Orch};

#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RaySubmitJob {
    /// The command that a node of the cluster runs in a shell, such as `python train.py`. The program has to be there,
    /// or come with `runtime_env`.
    #[schemars(length(min = 1, max = 32_768))]
    pub entrypoint: String,
    /// Ray's runtime environment, such as `{"pip": ["torch"], "env_vars": {"A": "1"}, "working_dir":
    /// "https://example.org/code.zip"}`; at most 64 KiB of JSON.
    #[serde(default)]
    pub runtime_env: Map<String, Value>,
    /// Words to find it by in Ray's own tools.
    #[serde(default)]
    pub metadata: Labels,
    /// CPUs reserved for the entrypoint itself, beside those of its tasks.
    #[schemars(range(min = 0, max = 4096))]
    pub entrypoint_num_cpus: Option<f64>,
    /// GPUs reserved for the entrypoint itself; Ray gives out parts of one too.
    #[schemars(range(min = 0, max = 4096))]
    pub entrypoint_num_gpus: Option<f64>,
    /// Names this submission: repeating it with the same token and arguments answers the same job instead of
    /// submitting another.
    pub client_token: Option<ClientToken>,
    /// Answer when the job has ended; false answers as soon as Ray took it.
    #[serde(default)]
    pub wait: bool,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct SubmittedRayJob {
    #[serde(flatten)]
    pub job: RayJobView,
    /// True when an earlier submission with this token was found and nothing new was submitted.
    pub existed: bool,
}

impl Summary for SubmittedRayJob {
    fn summary(&self) -> String {
        let existed =
            if self.existed { "; it was submitted before, and nothing new was" } else { "" };
        format!("{}{existed}. `ray_job_logs` shows what it writes.", self.job.line())
    }
}

impl Operation for RaySubmitJob {
    const SPEC: Spec = spec!(
        "ray_submit_job",
        Ray,
        Executes,
        Some(Permission::Execute),
        [Route::post("/ray/jobs")]
    );
    type Output = SubmittedRayJob;

    async fn run(self, orch: &Arc<Orch>, cx: &Cx) -> Result<SubmittedRayJob, Error> {
        let (wait, token) = (self.wait, self.client_token.clone());
        let submission = self.check(orch, cx)?;
        let token = token.as_ref().map(ClientToken::as_str);
        let (mut job, existed) = orch.submit_ray_job(cx, &submission, token).await?;
        if wait {
            job = orch.wait_for_ray_job(cx, &submission.id).await?;
        }
        Ok(SubmittedRayJob { job: RayJobView::of(&job), existed })
    }
}

const MAX_ENTRYPOINT: usize = 32 * 1024;
const MAX_RUNTIME_ENV: usize = 64 * 1024;

impl RaySubmitJob {
    fn check(self, orch: &Orch, cx: &Cx) -> Result<RaySubmission, Error> {
        let user = cx.caller()?.user.as_str().to_owned();
        let entrypoint = self.entrypoint.trim();
        if entrypoint.is_empty() || MAX_ENTRYPOINT < entrypoint.len() || entrypoint.contains('\0') {
            let message =
                "it is empty, longer than 32 KiB or has a zero byte; give the command to run";
            return Err(Error::invalid("entrypoint", message));
        }
        let json = serde_json::to_vec(&self.runtime_env).map_err(Error::internal)?;
        if MAX_RUNTIME_ENV < json.len() {
            let message = format!(
                "it has {} bytes of JSON and at most 65536 are taken; put files where Ray can fetch them and name them \
                 in `working_dir`",
                json.len()
            );
            return Err(Error::invalid("runtime_env", message));
        }
        for (name, amount) in [
            ("entrypoint_num_cpus", self.entrypoint_num_cpus),
            ("entrypoint_num_gpus", self.entrypoint_num_gpus),
        ] {
            if let Some(amount) = amount.filter(|it| !(0.0..=4096.0).contains(it)) {
                return Err(Error::invalid(name, format!("{amount} is not from 0 to 4096")));
            }
        }
        let arguments = self.digest()?;
        let id = match &self.client_token {
            // Two users may choose the same token.
            Some(token) => hex::encode(Sha256::digest(format!("{user}\n{token}")))[..32].to_owned(),
            None => format!("{:016x}{:016x}", orch.random(), orch.random()),
        };
        let own = [(OWNER.to_owned(), user), (ARGUMENTS.to_owned(), arguments)];
        let given = self.metadata.iter().map(|(name, it)| (name.to_owned(), it.to_owned()));
        let metadata: BTreeMap<String, String> = given.chain(own).collect();
        Ok(RaySubmission {
            id: RayJobId::try_new(format!("mo-{id}")).expect("hexadecimal digits keep the rule"),
            entrypoint: entrypoint.to_owned(),
            runtime_env: self.runtime_env,
            metadata,
            num_cpus: self.entrypoint_num_cpus,
            num_gpus: self.entrypoint_num_gpus,
        })
    }

    /// Over everything that makes the job what it is.
    fn digest(&self) -> Result<String, Error> {
        let meant = RaySubmitJob { client_token: None, wait: false, ..self.clone() };
        let json = serde_json::to_vec(&meant).map_err(Error::internal)?;
        Ok(hex::encode(Sha256::digest(json)))
    }
}
