//! What an earlier run of the server had come to is taken up.

use super::*;

fn interrupted() -> Reason {
    Reason::new(
        "Unknown",
        "the server stopped while it was being called, and calling it again could do it twice",
    )
}

impl Machine {
    /// Takes up what an earlier run of the server had come to, part by part in the order of their ends, after all steps
    /// were added and before anything is judged; then `restored`. `end` of parts that had ended. What was being
    /// called and may not be called twice is `unknown`.
    /// `undoing_is_repeatable`: of the tool that undoes the step.
    pub fn restore(
        &mut self,
        part: Part,
        state: StepState,
        attempt: u32,
        end: Option<End>,
        undoing_is_repeatable: bool,
    ) {
        let restoring = self.restoring.get_or_insert_default();
        let node = &self.nodes[part.step as usize];
        let is_over_array = node.step.for_each.is_some();
        let was_called = state == StepState::Running;
        if part.is_compensation {
            if state.has_ended() || (was_called && !undoing_is_repeatable) {
                self.undoing.ended.insert(part);
                if state != StepState::Succeeded {
                    self.undoing.n_failed += 1;
                }
                if was_called {
                    self.tell(part, StepState::Unknown, attempt, Some(interrupted()));
                }
            }
            return;
        }
        if part.element.is_none() && state.has_ended() {
            let reason = match &end {
                Some(End::Failed(it) | End::Cancelled(it) | End::Unknown(it)) => Some(it.clone()),
                _ => None,
            };
            restoring.ended.insert(part.step, (state, reason));
            let n = restoring.order.len();
            restoring.order.insert(part.step, n);
        }
        if let Some(End::Cancelled(it)) = &end
            && it.code == "Cancelled"
        {
            restoring.cancelled.get_or_insert_with(|| it.clone());
        }
        if let Some(element) = part.element
            && !state.has_ended()
        {
            self.interrupted.entry(part.step).or_default().insert(element);
        }
        let end = match end {
            Some(it) if state.has_ended() => it,
            _ if was_called
                && !node.kind.is_repeatable
                && (part.element.is_some() || !is_over_array) =>
            {
                End::Unknown(interrupted())
            }
            _ => return,
        };
        if let Some(element) = part.element {
            if let End::Unknown(reason) = &end
                && was_called
            {
                self.tell(part, StepState::Unknown, attempt, Some(reason.clone()));
            }
            self.remembered.entry(part.step).or_default().push((element, end));
        } else if !is_over_array {
            self.nodes[part.step as usize].attempt = attempt;
            match (state, end) {
                (StepState::Skipped, End::Failed(it) | End::Cancelled(it)) => {
                    let is_passed_over = super::judge::is_passed_over(&it);
                    self.nodes[part.step as usize].is_passed_over = is_passed_over;
                    self.end_step(part.step, StepState::Skipped, Some(it), None);
                }
                (_, end) => self.ended_step(part.step, attempt, end),
            }
        }
    }

    /// All of it is known. `result` as for `judge`.
    pub fn restored(&mut self, result: &dyn Fn(&StepId) -> Option<Arc<Value>>) {
        // Steps over arrays first, and those of them that were empty too, because others wait for them: what their elements
        // did may have to be undone.
        loop {
            let due: Vec<u32> = std::mem::take(&mut self.due).into();
            let (known, rest): (Vec<u32>, Vec<u32>) = due.into_iter().partition(|it| {
                let had_ended = self.restoring.as_ref().is_some_and(|of| of.ended.contains_key(it));
                had_ended || self.remembered.contains_key(it)
            });
            self.due.extend(rest);
            if known.is_empty() {
                break;
            }
            for at in known {
                self.judge(at, result);
            }
        }
        let restoring = self.restoring.take().unwrap_or_default();
        self.undoable.sort_by_key(|it| restoring.order.get(it).copied().unwrap_or(usize::MAX));
        if let Some(reason) = restoring.cancelled {
            self.cancel(reason);
            return;
        }
        for (at, reason) in restoring.failures {
            self.apply_on_error(at, &reason);
        }
    }
}
