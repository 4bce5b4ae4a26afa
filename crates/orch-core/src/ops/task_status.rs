//! What the server does in the background, and how it went last.

use std::sync::Arc;

use orch_domain::Error;
use orch_domain::caller::Permission;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::operation::{Operation, Route, Spec, Summary, spec};
use crate::task::TaskStatus as Status;
use crate::view::table::table;
use crate::{Cx, Orch};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TaskStatus {}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct TaskList {
    /// By name. A task is listed once it has run.
    pub tasks: Vec<Status>,
}

impl Summary for TaskList {
    fn summary(&self) -> String {
        let row = |it: &Status| {
            [
                it.name.to_owned(),
                format!("{} s", it.period_seconds),
                it.last_started_at.to_string(),
                format!("{} ms", it.last_elapsed_ms),
                it.last_report.clone(),
            ]
        };
        table(["TASK", "EVERY", "LAST", "TOOK", "REPORT"], self.tasks.iter().map(row))
    }
}

impl Operation for TaskStatus {
    const SPEC: Spec =
        spec!("task_status", Cluster, Reads, Some(Permission::Admin), [Route::get("/tasks")]);
    type Output = TaskList;

    async fn run(self, orch: &Arc<Orch>, _: &Cx) -> Result<TaskList, Error> {
        Ok(TaskList { tasks: orch.tasks.all() })
    }
}
