//! How parts end, and what that means for the others.

use super::*;

impl Machine {
    /// A running part has ended.
    pub fn ended(&mut self, part: Part, attempt: u32, end: End) {
        self.n_running -= 1;
        if part.is_compensation {
            self.undoing.n_running -= 1;
            self.ended_compensation(part, attempt, end);
            return;
        }
        match part.element {
            None => self.ended_step(part.step, attempt, end),
            Some(element) => self.ended_element(part.step, element, attempt, end),
        }
    }

    pub(super) fn ended_step(&mut self, at: u32, attempt: u32, end: End) {
        self.nodes[at as usize].attempt = attempt;
        match end {
            End::Succeeded(_) => self.end_step(at, StepState::Succeeded, None, None),
            End::Failed(reason) => self.fail_step(at, reason),
            End::Cancelled(reason) => self.end_step(at, StepState::Cancelled, Some(reason), None),
            End::Unknown(reason) => {
                self.end_step(at, StepState::Unknown, Some(reason.clone()), None);
                self.apply_on_error(at, &reason);
            }
        }
    }

    pub(super) fn ended_element(&mut self, at: u32, element: u32, attempt: u32, end: End) {
        let index = element as usize;
        let part = Part { step: at, element: Some(element), is_compensation: false };
        let continues = self.on_error_of(at) == OnError::Continue;
        let is_running = self.phase == Phase::Running;
        let fan = self.fan_mut(at);
        fan.n_running -= 1;
        let (state, reason) = match end {
            End::Succeeded(collected) => {
                fan.succeeded(index, collected);
                (StepState::Succeeded, None)
            }
            End::Failed(it) => (StepState::Failed, Some(it)),
            End::Cancelled(it) => (StepState::Cancelled, Some(it)),
            End::Unknown(it) => (StepState::Unknown, Some(it)),
        };
        if let Some(reason) = &reason {
            fan.failed(index, state, &reason.message);
            if state != StepState::Cancelled && !continues && fan.failure.is_none() {
                fan.failure = Some(super::judge::of_element(element, reason));
            }
        }
        let may_begin = is_running && fan.may_begin() && !fan.is_queued;
        fan.is_queued |= may_begin;
        let is_done = fan.is_done() || (!is_running && fan.n_running == 0);
        self.tell(part, state, attempt, reason);
        if may_begin {
            let node = &self.nodes[at as usize];
            self.queue.push(node.kind.class as usize, node.remaining, Ready::Step(at));
        }
        if is_done {
            self.end_fan(at);
        }
    }

    /// Nothing of it runs any more.
    pub(super) fn end_fan(&mut self, at: u32) {
        if self.nodes[at as usize].state.has_ended() {
            return;
        }
        let left = self.fan_mut(at).give_up(at);
        for part in left {
            let reason = Reason::new("Skipped", "another element had failed, or the batch had");
            self.tell(part, StepState::Cancelled, 1, Some(reason));
        }
        let fan = self.fan_mut(at);
        if let Some(reason) = fan.failure.take() {
            self.fail_step(at, reason);
        } else if fan.n_ended < fan.items.len() {
            let reason = self.end_of_rest();
            self.end_step(at, StepState::Cancelled, Some(reason), None);
        } else {
            let result = Arc::new(fan.result());
            self.gathered.push((at, result.clone()));
            self.end_step(at, StepState::Succeeded, None, Some(result));
        }
    }

    pub(super) fn fail_step(&mut self, at: u32, reason: Reason) {
        self.end_step(at, StepState::Failed, Some(reason.clone()), None);
        self.apply_on_error(at, &reason);
    }

    pub(super) fn apply_on_error(&mut self, at: u32, reason: &Reason) {
        let on_error = self.on_error_of(at);
        if on_error == OnError::Continue {
            return;
        }
        if let Some(restoring) = &mut self.restoring {
            restoring.failures.push((at, reason.clone()));
            return;
        }
        let id = &self.nodes[at as usize].step.id;
        let reason = Reason {
            code: reason.code.clone(),
            message: format!("step `{id}`: {}", reason.message),
        };
        self.fail(reason, on_error == OnError::Compensate);
    }

    /// Ends a step and lets go what waits for it.
    pub(super) fn end_step(
        &mut self,
        at: u32,
        state: StepState,
        reason: Option<Reason>,
        result: Option<Arc<Value>>,
    ) {
        let node = &mut self.nodes[at as usize];
        if node.state.has_ended() {
            return;
        }
        node.state = state;
        let attempt = node.attempt;
        if node.kind.compensation.is_some()
            && matches!(
                state,
                StepState::Succeeded
                    | StepState::Failed
                    | StepState::Cancelled
                    | StepState::Unknown
            )
        {
            self.undoable.push(at);
        }
        for element in self.interrupted.remove(&at).unwrap_or_default() {
            let part = Part { step: at, element: Some(element), is_compensation: false };
            let reason = Reason::new(
                "Cancelled",
                "the server stopped while it was under way, and the batch ended before it was called again",
            );
            self.tell(part, StepState::Cancelled, 1, Some(reason));
        }
        self.n_open -= 1;
        if self.restoring.as_ref().is_none_or(|it| !it.ended.contains_key(&at)) {
            self.moved.push(Moved { part: Part::of(at), state, attempt, reason, result });
        }
        for i in 0..self.nodes[at as usize].needs.len() {
            let need = self.nodes[at as usize].needs[i];
            let node = &mut self.nodes[need as usize];
            node.n_users -= 1;
            if node.n_users == 0 {
                self.released.push(need);
            }
        }
        for i in 0..self.nodes[at as usize].dependents.len() {
            let dependent = self.nodes[at as usize].dependents[i];
            let node = &mut self.nodes[dependent as usize];
            node.n_open -= 1;
            if node.n_open == 0 && node.state == StepState::Waiting {
                self.due.push_back(dependent);
            }
        }
    }

    /// Why what has not begun never will.
    pub(super) fn end_of_rest(&self) -> Reason {
        match &self.phase {
            Phase::Running => Reason::new("Skipped", "nothing it needs can end any more"),
            Phase::Cancelled(it) => it.clone(),
            Phase::Failing { reason, .. } | Phase::Compensating { reason, .. } => {
                Reason::new("Skipped", format!("the batch had failed: {}", reason.message))
            }
        }
    }

    pub(super) fn give_up_on(&mut self, at: u32) {
        let node = &self.nodes[at as usize];
        let has_begun = node.state == StepState::Running || 0 < node.attempt;
        let is_cancel = matches!(self.phase, Phase::Cancelled(_));
        let state = if has_begun || is_cancel { StepState::Cancelled } else { StepState::Skipped };
        let reason = self.end_of_rest();
        self.end_step(at, state, Some(reason), None);
    }

    /// Ends everything that does not run just now.
    pub(super) fn give_up(&mut self) {
        self.queue.clear();
        self.due.clear();
        for at in 0..u32::try_from(self.nodes.len()).unwrap_or(u32::MAX) {
            let node = &self.nodes[at as usize];
            let runs = match &node.fan {
                Some(fan) => 0 < fan.n_running,
                None => node.state == StepState::Running,
            };
            if node.state.has_ended() || runs {
                continue;
            }
            if node.fan.is_some() {
                // A reason of its own comes first.
                self.end_fan(at);
            } else {
                self.give_up_on(at);
            }
        }
        self.due.clear();
    }

    /// Nothing new begins from here on. What runs may end, and then what was done is undone if it is to be.
    pub fn fail(&mut self, reason: Reason, compensates: bool) {
        match &mut self.phase {
            Phase::Running => {
                self.phase = Phase::Failing { reason, compensates };
                // Elements that wait to be tried again do not run.
                for node in &mut self.nodes {
                    if let Some(fan) = &mut node.fan {
                        fan.is_queued = false;
                    }
                }
                self.give_up();
            }
            // The first failure is the reason; a later one may ask for more.
            Phase::Failing { compensates: already, .. } => *already |= compensates,
            Phase::Compensating { .. } | Phase::Cancelled(_) => {}
        }
    }

    /// Nothing new begins from here on, and nothing is undone.
    pub fn cancel(&mut self, reason: Reason) {
        if matches!(self.phase, Phase::Cancelled(_)) {
            return;
        }
        if self.is_undoing() {
            self.undo_no_more(&reason);
        }
        self.phase = Phase::Cancelled(reason);
        self.undoable.clear();
        self.give_up();
    }

    /// How it ended, once nothing runs and nothing can. Begins undoing when that is its turn, and answers None then.
    pub fn outcome(&mut self) -> Option<Outcome> {
        if 0 < self.n_running {
            return None;
        }
        match &self.phase {
            Phase::Running if self.is_closed && self.n_open == 0 => Some(Outcome::Succeeded),
            Phase::Running if self.is_closed && self.is_stuck() => {
                let message = "steps wait for others that never came";
                self.fail(Reason::new("InvalidParameter", message), false);
                self.outcome()
            }
            Phase::Running => None,
            Phase::Cancelled(reason) => Some(Outcome::Cancelled(reason.clone())),
            Phase::Failing { .. } if 0 < self.n_open => None,
            Phase::Failing { reason, compensates } => {
                let reason = reason.clone();
                if !compensates || self.undoable.is_empty() {
                    return Some(Outcome::Failed(reason));
                }
                self.phase = Phase::Compensating { reason };
                self.outcome()
            }
            Phase::Compensating { reason } => {
                let mut reason = reason.clone();
                // What waits to be tried again comes before what was done earlier.
                if self.undoing.waiting.is_empty() && self.undoing.postponed.is_empty() {
                    self.begin_undoing_next();
                }
                if !self.undoing.waiting.is_empty() || !self.undoing.postponed.is_empty() {
                    return None;
                }
                let n_failed = self.undoing.n_failed;
                if 0 < n_failed {
                    reason.message.push_str(&format!(
                        "; {n_failed} of what it did could not be undone: see `compensation` of the steps"
                    ));
                }
                Some(Outcome::Failed(reason))
            }
        }
    }

    /// Nothing runs and nothing will.
    pub(super) fn is_stuck(&self) -> bool {
        self.queue.is_empty() && self.due.is_empty() && self.n_postponed == 0
    }
}
