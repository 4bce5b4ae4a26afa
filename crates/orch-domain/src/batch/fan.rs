//! A step that runs once for each element of an array. Elements that have not begun cost nothing but their value.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Part, StepState};

/// Of failures, what the gathered result says in words.
const MAX_ERRORS: usize = 100;

pub(super) struct Fan {
    pub(super) items: Arc<Vec<Value>>,
    /// The first element that has not begun.
    pub(super) next: usize,
    pub(super) n_running: usize,
    /// Begun, and to be tried again; they keep their places.
    n_postponed: usize,
    /// At the same time.
    pub(super) max_parallel: usize,
    pub(super) n_ended: usize,
    pub(super) n_failed: usize,
    /// In the queue with its next element.
    pub(super) is_queued: bool,
    /// How each element is; those that have not begun are `queued`.
    pub(super) states: Vec<StepState>,
    collected: Vec<Value>,
    errors: Vec<Value>,
    /// What becomes of the step once nothing of it runs any more.
    pub(super) failure: Option<super::Reason>,
}

impl Fan {
    pub(super) fn new(items: Vec<Value>, max_parallel: usize) -> Fan {
        let n = items.len();
        Fan {
            items: Arc::new(items),
            next: 0,
            n_running: 0,
            n_postponed: 0,
            max_parallel,
            n_ended: 0,
            n_failed: 0,
            is_queued: false,
            states: vec![StepState::Queued; n],
            collected: vec![Value::Null; n],
            errors: Vec::new(),
            failure: None,
        }
    }

    pub(super) fn has_more(&self) -> bool {
        self.next < self.items.len() && self.failure.is_none()
    }

    pub(super) fn may_begin(&self) -> bool {
        self.has_more() && self.n_running + self.n_postponed < self.max_parallel
    }

    /// Takes the next element that has not begun.
    pub(super) fn begin(&mut self, step: u32) -> Part {
        let at = self.next;
        self.states[at] = StepState::Running;
        self.n_running += 1;
        self.next += 1;
        // Those that ended before a restart.
        while self.next < self.items.len() && self.states[self.next].has_ended() {
            self.next += 1;
        }
        Part { step, element: u32::try_from(at).ok(), is_compensation: false }
    }

    pub(super) fn postpone(&mut self, part: Part) {
        self.n_running -= 1;
        self.n_postponed += 1;
        self.set(part, StepState::Queued);
    }

    pub(super) fn resume(&mut self, part: Part) {
        self.n_running += 1;
        self.n_postponed -= 1;
        self.set(part, StepState::Running);
    }

    fn set(&mut self, part: Part, state: StepState) {
        if let Some(it) = part.element.and_then(|at| self.states.get_mut(at as usize)) {
            *it = state;
        }
    }

    pub(super) fn skip_ended(&mut self) {
        while self.next < self.items.len() && self.states[self.next].has_ended() {
            self.next += 1;
        }
    }

    pub(super) fn succeeded(&mut self, at: usize, collected: Value) {
        self.states[at] = StepState::Succeeded;
        self.collected[at] = collected;
        self.n_ended += 1;
    }

    pub(super) fn failed(&mut self, at: usize, state: StepState, message: &str) {
        self.states[at] = state;
        self.n_ended += 1;
        self.n_failed += 1;
        if self.errors.len() < MAX_ERRORS {
            self.errors.push(json!({"index": at, "message": message}));
        }
    }

    /// None of the others begins any more. Answers those that had begun, and waited to be tried again.
    pub(super) fn give_up(&mut self, step: u32) -> Vec<Part> {
        let mut begun = Vec::new();
        for (at, state) in self.states.iter_mut().enumerate() {
            if state.has_ended() {
                continue;
            }
            if at < self.next {
                *state = StepState::Cancelled;
                let element = u32::try_from(at).ok();
                begun.push(Part { step, element, is_compensation: false });
            } else {
                *state = StepState::Skipped;
            }
        }
        begun
    }

    pub(super) fn is_done(&self) -> bool {
        self.n_running == 0 && (self.n_ended == self.items.len() || self.failure.is_some())
    }

    /// As a tool result: what was gathered, in the order of the array.
    pub(super) fn result(&mut self) -> Value {
        let items = std::mem::take(&mut self.collected);
        json!({
            "content": [],
            "structuredContent": {
                "count": items.len(),
                "failed": self.n_failed,
                "errors": std::mem::take(&mut self.errors),
                "items": items,
            },
            "isError": false,
        })
    }
}
