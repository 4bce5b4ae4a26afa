//! What has happened in a batch under way, for those who follow it.

use std::collections::VecDeque;

use orch_domain::batch::{BatchState, Reason, StepState};
use orch_domain::name::StepId;
use orch_domain::text::{excerpt, sanitize};
use orch_domain::time::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

/// Kept for followers; who is further behind begins with how things are.
const KEPT: usize = 20_000;

#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Transition {
    /// Grows within the batch: by 1 from each to the next, and by more where the server was started anew.
    pub number: u64,
    pub at: Timestamp,
    #[serde(flatten)]
    pub subject: Subject,
}

#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
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

impl Transition {
    /// For a person.
    pub fn line(&self) -> String {
        let (what, state, reason) = match &self.subject {
            Subject::Batch { state, reason } => ("batch".to_owned(), state.as_str(), reason),
            Subject::Step { id, state, reason, element, compensation, .. } => {
                let element = element.map_or_else(String::new, |it| format!("[{it}]"));
                let undo = if *compensation { "undoing " } else { "" };
                (format!("{undo}{id}{element}"), state.as_str(), reason)
            }
        };
        let why = reason
            .as_ref()
            .map_or_else(String::new, |it| format!(": {}", excerpt(&sanitize(&it.message), 200)));
        format!("{} {:>6} {what} {state}{why}", self.at, self.number)
    }
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

    /// Numbers go on behind all those from before a restart, so that the place of a follower from then is not taken for
    /// one of now: a batch makes fewer than one transition in a microsecond.
    pub(super) fn resume(&mut self, age_ms: u64) {
        self.last = self.last.max(age_ms.saturating_mul(1000));
    }

    /// At most `limit` after `number`. None: some of them are not kept any more, or `number` is of no transition.
    pub(super) fn after(&self, number: u64, limit: usize) -> Option<Vec<Transition>> {
        let first = self.last - self.kept.len() as u64;
        let skip = usize::try_from(number.checked_sub(first)?).ok()?;
        if self.kept.len() < skip {
            return None;
        }
        Some(self.kept.iter().skip(skip).take(limit).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queued() -> Subject {
        Subject::Batch { state: BatchState::Queued, reason: None }
    }

    #[test]
    fn a_place_is_kept_unknown_or_of_another_time() {
        let mut transitions = Transitions::default();
        for _ in 0..KEPT + 3 {
            transitions.push(Timestamp::default(), queued());
        }
        let numbers = |it: Option<Vec<Transition>>| {
            it.map(|it| it.iter().map(|it| it.number).collect::<Vec<u64>>())
        };
        assert_eq!(numbers(transitions.after(3, 2)), Some(vec![4, 5]));
        assert_eq!(numbers(transitions.after(2, 2)), None, "the third is not kept");
        let last = transitions.last;
        assert_eq!(numbers(transitions.after(last - 1, 9)), Some(vec![last]));
        assert_eq!(numbers(transitions.after(last, 9)), Some(vec![]));
        assert_eq!(numbers(transitions.after(last + 1, 9)), None, "there is no such place");
    }

    #[test]
    fn numbers_go_on_behind_those_from_before_a_restart() {
        let mut transitions = Transitions::default();
        transitions.resume(5);
        transitions.push(Timestamp::default(), queued());
        assert_eq!(transitions.last, 5001);
        assert_eq!(transitions.after(17, 9), None);
        assert_eq!(transitions.after(5000, 9).unwrap().len(), 1);
    }
}
