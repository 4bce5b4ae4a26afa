//! Whose turn it is.

use super::*;

impl Machine {
    /// The best part that can run now, and counts as running from here on. `may` takes a place for one of a class, or says
    /// that there is none; each class is asked at most once.
    pub fn next(&mut self, may: &mut dyn FnMut(Class) -> bool) -> Option<(Part, u32)> {
        if self.max_parallel <= self.n_running {
            return None;
        }
        match &self.phase {
            Phase::Running => {}
            Phase::Compensating { .. } => return self.next_compensation(may),
            Phase::Failing { .. } | Phase::Cancelled(_) => return None,
        }
        let mut asked = |class: usize| may(Class::try_from(class).unwrap_or(Class::MAX));
        let (part, attempt) = loop {
            let ready = self.queue.pop(&mut asked)?;
            let (Ready::Step(at) | Ready::Again(Part { step: at, .. }, _)) = ready;
            let node = &mut self.nodes[at as usize];
            let Some(fan) = &mut node.fan else {
                match ready {
                    Ready::Step(at) => break (Part::of(at), 1),
                    Ready::Again(part, attempt) => break (part, attempt),
                }
            };
            if fan.failure.is_some() {
                // Another element has failed since, and those that run are the last.
                fan.is_queued &= !matches!(ready, Ready::Step(_));
                continue;
            }
            match ready {
                Ready::Again(part, attempt) => {
                    fan.resume(part);
                    break (part, attempt);
                }
                Ready::Step(at) => {
                    let part = fan.begin(at);
                    fan.is_queued = fan.may_begin();
                    if fan.is_queued {
                        let (class, remaining) = (node.kind.class, node.remaining);
                        self.queue.push(class as usize, remaining, Ready::Step(at));
                    }
                    break (part, 1);
                }
            }
        };
        self.n_running += 1;
        let node = &mut self.nodes[part.step as usize];
        let is_first = node.state != StepState::Running;
        node.state = StepState::Running;
        node.attempt = if part.element.is_none() { attempt } else { 1 };
        if part.element.is_some() && is_first {
            self.tell(Part::of(part.step), StepState::Running, 1, None);
        }
        self.tell(part, StepState::Running, attempt, None);
        Some((part, attempt))
    }

    /// It failed in a way that passes, and is to be tried again later: see `again`. Its place is free meanwhile.
    pub fn postponed(&mut self, part: Part, attempt: u32, reason: Reason) {
        if part.is_compensation && (!self.is_undoing() || self.undoing.is_given_up) {
            self.ended(part, attempt, End::Failed(reason));
            return;
        }
        self.n_running -= 1;
        if part.is_compensation {
            self.undoing.n_running -= 1;
            self.undoing.postponed.push((part, attempt));
            self.tell(part, StepState::Queued, attempt, Some(reason));
            return;
        }
        self.n_postponed += 1;
        if part.element.is_none() {
            self.nodes[part.step as usize].state = StepState::Queued;
        } else {
            self.fan_mut(part.step).postpone(part);
        }
        self.tell(part, StepState::Queued, attempt, Some(reason));
        if self.is_stopping() {
            self.give_up();
        }
    }

    /// Puts a postponed part back into the queue, for this attempt. One that will not run any more has ended already.
    pub fn again(&mut self, part: Part, attempt: u32) {
        if part.is_compensation {
            let postponed = &mut self.undoing.postponed;
            if let Some(at) = postponed.iter().position(|it| it.0 == part) {
                postponed.swap_remove(at);
                self.undoing.waiting.push((part, attempt));
            }
            return;
        }
        self.n_postponed -= 1;
        let node = &self.nodes[part.step as usize];
        if self.phase == Phase::Running && !node.state.has_ended() {
            let ready = Ready::Again(part, attempt);
            self.queue.push(node.kind.class as usize, node.remaining, ready);
        }
    }
}
