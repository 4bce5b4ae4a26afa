//! What has happened in a batch under way, for those who follow it.

use std::collections::VecDeque;

use orch_domain::batch::{BatchState, Reason, StepState};
use orch_domain::name::StepId;
use orch_domain::time::Timestamp;
use serde::Serialize;

/// Kept for followers; who is further behind begins with how things are.
const KEPT: usize = 20_000;

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Transition {
    /// Counts from 1 within the batch, since the server started.
    pub number: u64,
    pub at: Timestamp,
    #[serde(flatten)]
    pub subject: Subject,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "of")]
pub enum Subject {
    Batch {
        state: BatchState,
        reason: Option<Reason>,
    },
    Step {
        id: StepId,
        tool: String,
        state: StepState,
        attempt: u32,
        reason: Option<Reason>,
        /// Of `for_each`. None: the step as a whole.
        element: Option<u32>,
        /// It is what undoes the step.
        compensation: bool,
        /// Of what has ended.
        elapsed_ms: Option<u64>,
    },
}

#[derive(Default)]
pub(super) struct Transitions {
    kept: VecDeque<Transition>,
    pub(super) last: u64,
}

impl Transitions {
    pub(super) fn push(&mut self, at: Timestamp, subject: Subject) {
        self.last += 1;
        if KEPT <= self.kept.len() {
            self.kept.pop_front();
        }
        self.kept.push_back(Transition { number: self.last, at, subject });
    }

    /// At most `limit` after `number`. None: some of them are not kept any more.
    pub(super) fn after(&self, number: u64, limit: usize) -> Option<Vec<Transition>> {
        let first = self.last - self.kept.len() as u64;
        let skip = usize::try_from(number.checked_sub(first)?).ok()?;
        Some(self.kept.iter().skip(skip).take(limit).cloned().collect())
    }
}
