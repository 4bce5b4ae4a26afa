//! What was done is undone, the last first.

use super::*;

impl Machine {
    /// As `cancel`, of undoing: it did not end in time, and what is not undone stays so.
    pub fn give_up_undoing(&mut self) {
        if let Phase::Compensating { n_failed, .. } = &mut self.phase {
            let left = self.undoing.waiting.len() + self.undoable.len();
            *n_failed += u32::try_from(left).unwrap_or(u32::MAX);
            self.undoing.waiting.clear();
            self.undoable.clear();
        }
    }

    /// Takes the step that ended last and was not undone.
    pub(super) fn begin_undoing_next(&mut self) {
        while self.undoing.waiting.is_empty() {
            let Some(at) = self.undoable.pop() else { return };
            let node = &self.nodes[at as usize];
            let part = |element| Part { step: at, element, is_compensation: true };
            let parts: Vec<Part> = match &node.fan {
                // What failed may have done half of its work, but there is no result to undo it by.
                Some(fan) => (0..)
                    .zip(&fan.states)
                    .filter(|(_, it)| matches!(it, StepState::Succeeded | StepState::Unknown))
                    .map(|(at, _)| part(Some(at)))
                    .collect(),
                None if matches!(node.state, StepState::Succeeded | StepState::Unknown) => {
                    vec![part(None)]
                }
                None => Vec::new(),
            };
            let ended = &self.undoing.ended;
            self.undoing.waiting = parts
                .into_iter()
                .filter(|it| !ended.contains(it))
                .rev()
                .map(|it| (it, 1))
                .collect();
        }
    }

    pub(super) fn next_compensation(
        &mut self,
        may: &mut dyn FnMut(Class) -> bool,
    ) -> Option<(Part, u32)> {
        let is_over = self.undoing.n_running == 0 && self.n_postponed == 0;
        if self.undoing.waiting.is_empty() && is_over {
            self.begin_undoing_next();
        }
        let (part, attempt) = *self.undoing.waiting.last()?;
        let class = self.nodes[part.step as usize].kind.compensation.unwrap_or_default();
        if !may(class) {
            return None;
        }
        self.undoing.waiting.pop();
        self.undoing.n_running += 1;
        self.n_running += 1;
        self.tell(part, StepState::Running, attempt, None);
        Some((part, attempt))
    }

    pub(super) fn ended_compensation(&mut self, part: Part, attempt: u32, end: End) {
        let (state, reason) = match end {
            End::Succeeded(_) => (StepState::Succeeded, None),
            End::Failed(it) => (StepState::Failed, Some(it)),
            End::Cancelled(it) => (StepState::Cancelled, Some(it)),
            End::Unknown(it) => (StepState::Unknown, Some(it)),
        };
        if reason.is_some()
            && let Phase::Compensating { n_failed, .. } = &mut self.phase
        {
            *n_failed += 1;
        }
        self.tell(part, state, attempt, reason);
    }
}
