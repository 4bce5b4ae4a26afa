//! What was done is undone, the last first.

use super::*;

impl Machine {
    pub(super) fn is_undoing(&self) -> bool {
        matches!(self.phase, Phase::Compensating { .. })
    }

    /// As `cancel`, of undoing: it did not end in time, and what is not undone stays so.
    pub fn give_up_undoing(&mut self) {
        if self.is_undoing() {
            self.undo_no_more(&Reason::new(
                "DeadlineExceeded",
                "there was no time left to undo it",
            ));
        }
    }

    /// What is being undone just now may end.
    pub(super) fn undo_no_more(&mut self, reason: &Reason) {
        self.undoing.is_given_up = true;
        let postponed = std::mem::take(&mut self.undoing.postponed);
        self.undoing.waiting.extend(postponed);
        loop {
            for (part, attempt) in std::mem::take(&mut self.undoing.waiting) {
                self.undoing.n_failed += 1;
                self.tell(part, StepState::Cancelled, attempt, Some(reason.clone()));
            }
            self.begin_undoing_next();
            if self.undoing.waiting.is_empty() {
                return;
            }
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
        let is_over = self.undoing.n_running == 0 && self.undoing.postponed.is_empty();
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
        if reason.is_some() {
            self.undoing.n_failed += 1;
        }
        self.tell(part, state, attempt, reason);
    }
}
