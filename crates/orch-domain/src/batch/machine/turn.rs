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
        let (part, attempt) = match self.queue.pop(&mut asked)? {
            Ready::Again(part, attempt) => {
                if part.element.is_some() {
                    self.fan_mut(part.step).resume(part);
                }
                (part, attempt)
            }
            Ready::Step(at) => {
                let node = &mut self.nodes[at as usize];
                match &mut node.fan {
                    None => (Part::of(at), 1),
                    Some(fan) => {
                        let part = fan.begin(at);
                        fan.is_queued = fan.may_begin();
                        if fan.is_queued {
                            let (class, remaining) = (node.kind.class, node.remaining);
                            self.queue.push(class as usize, remaining, Ready::Step(at));
                        }
                        (part, 1)
                    }
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
        self.n_running -= 1;
        self.n_postponed += 1;
        if part.is_compensation {
            self.undoing.n_running -= 1;
        } else if part.element.is_none() {
            self.nodes[part.step as usize].state = StepState::Queued;
        } else {
            self.fan_mut(part.step).postpone(part);
        }
        self.tell(part, StepState::Queued, attempt, Some(reason));
        if self.is_stopping() && !part.is_compensation {
            self.give_up();
        }
    }

    /// Puts a postponed part back into the queue, for this attempt. One that will not run any more has ended already.
    pub fn again(&mut self, part: Part, attempt: u32) {
        self.n_postponed -= 1;
        if part.is_compensation {
            if matches!(self.phase, Phase::Compensating { .. }) {
                self.undoing.waiting.push((part, attempt));
            }
            return;
        }
        let node = &self.nodes[part.step as usize];
        if self.phase == Phase::Running && !node.state.has_ended() {
            let ready = Ready::Again(part, attempt);
            self.queue.push(node.kind.class as usize, node.remaining, ready);
        }
    }
}
