//! What a planner writes on while its batch runs.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use orch_domain::name::StepId;
use orch_domain::plan::{Limits, Problem, Step, check_step};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::live::{Control, Run};
use super::planner::{Canvas, Ended, problems_of_output};
use super::toolbox::CallersTools;
use crate::Orch;

pub(super) struct RunCanvas {
    orch: Arc<Orch>,
    run: Arc<Run>,
    tools: Arc<CallersTools>,
    known: Mutex<HashMap<StepId, usize>>,
}

impl RunCanvas {
    pub(super) fn new(orch: Arc<Orch>, run: Arc<Run>, tools: Arc<CallersTools>) -> RunCanvas {
        RunCanvas { orch, run, tools, known: Mutex::default() }
    }
}

#[async_trait]
impl Canvas for RunCanvas {
    fn add(&self, step: Step) -> Result<(), Vec<Problem>> {
        let mut known = self.known.lock();
        let place = known.len();
        let problems = check_step(&step, place, &known, &*self.tools);
        if !problems.is_empty() {
            return Err(problems);
        }
        known.insert(step.id.clone(), place);
        let step = self.orch.known(Arc::new(step), &*self.tools);
        self.run.live.lock().add(&self.run.slots, step, true);
        // The runner goes first only when the server ends.
        self.run.control.send(Control::Look).ok();
        Ok(())
    }

    fn check_output(&self, output: &Value) -> Vec<Problem> {
        let steps: Vec<Step> = {
            let live = self.run.live.lock();
            let n = u32::try_from(live.machine.n_steps()).unwrap_or(u32::MAX);
            (0..n).map(|at| Step::clone(live.machine.step(at))).collect()
        };
        problems_of_output(steps, output, &*self.tools, &Limits::DEFAULT)
    }

    async fn settled(&self) -> Option<Vec<Ended>> {
        let (answer, answered) = oneshot::channel();
        self.run.control.send(Control::Settled(answer)).ok()?;
        answered.await.ok()
    }

    #[expect(
        clippy::misnamed_getters,
        reason = "for the planner it has ended when nothing more is wanted of it"
    )]
    fn ended(&self) -> &CancellationToken {
        &self.run.stopped
    }
}
