//! Runs a task again and again, and keeps what it last came to.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use orch_domain::time::Timestamp;
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::Serialize;

use crate::Orch;

/// What each task last did.
#[derive(Default)]
pub struct TaskBoard {
    tasks: Mutex<BTreeMap<&'static str, TaskStatus>>,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct TaskStatus {
    pub name: &'static str,
    pub period_seconds: f64,
    pub last_started_at: Timestamp,
    pub last_elapsed_ms: u64,
    /// In words.
    pub last_report: String,
    pub n_runs: u64,
}

impl TaskBoard {
    pub fn all(&self) -> Vec<TaskStatus> {
        self.tasks.lock().values().cloned().collect()
    }
}

/// Runs `activate` now and then every `period`, one run at a time.
pub(super) fn every<F, Fut>(orch: &Arc<Orch>, name: &'static str, period: Duration, activate: F)
where
    F: Fn(Arc<Orch>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = String> + Send,
{
    let orch = orch.clone();
    let tracker = orch.tracker.clone();
    tracker.spawn(async move {
        let mut ticks = tokio::time::interval(period);
        // After a pause of the machine one run is enough.
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = orch.shutdown.cancelled() => return,
            }
            let (at, started) = (orch.clock.now(), Instant::now());
            let report = tokio::select! {
                report = AssertUnwindSafe(activate(orch.clone())).catch_unwind() => report,
                () = orch.shutdown.cancelled() => return,
            };
            let report = report.unwrap_or_else(|_| {
                tracing::error!("the task `{name}` panicked; it runs again after its period");
                "panicked".to_owned()
            });
            let mut tasks = orch.tasks.tasks.lock();
            let n_runs = tasks.get(name).map_or(0, |it| it.n_runs) + 1;
            tasks.insert(
                name,
                TaskStatus {
                    name,
                    period_seconds: period.as_secs_f64(),
                    last_started_at: at,
                    last_elapsed_ms: u64::try_from(started.elapsed().as_millis())
                        .unwrap_or(u64::MAX),
                    last_report: report,
                    n_runs,
                },
            );
        }
    });
}
