//! Whether a step whose needs have ended runs.

use super::*;

impl Machine {
    /// A step all of whose needs have ended. It has to be judged next.
    pub fn next_due(&mut self) -> Option<u32> {
        if self.phase != Phase::Running {
            self.due.clear();
        }
        self.due.pop_front()
    }

    /// Decides whether a due step runs. `result` has the results of the steps that it needs.
    pub fn judge(&mut self, at: u32, result: &dyn Fn(&StepId) -> Option<Arc<Value>>) {
        let node = &self.nodes[at as usize];
        if node.state != StepState::Waiting || self.phase != Phase::Running {
            return;
        }
        let step = node.step.clone();
        let scope = Scope { result, item: None, index: None };
        let needs = StepNeeds::of(&step);
        if let Some(when) = &step.when {
            let state = |id: &StepId| self.places.get(id).map(|it| self.state(*it));
            let held = Condition::parse(when)
                .map_err(|err| Reason::new("InvalidParameter", err))
                .and_then(|it| {
                    it.holds(&scope, &state).map_err(|err| Reason::new("Skipped", err.to_string()))
                });
            let reason = match held {
                Ok(true) => None,
                Ok(false) => Some(Reason::new("Skipped", "its `when` does not hold")),
                Err(it) => Some(it),
            };
            if let Some(reason) = reason {
                self.nodes[at as usize].is_passed_over = true;
                self.end_step(at, StepState::Skipped, Some(reason), None);
                return;
            }
        }
        if let Some(reason) = self.unmet(&needs) {
            self.end_step(at, StepState::Skipped, Some(reason), None);
            return;
        }
        let Some(over) = &step.for_each else {
            self.enqueue(at);
            return;
        };
        match resolve(over, &scope) {
            Ok(Value::Array(items)) if items.len() <= self.max_fan_out => {
                self.fan_out(at, items);
            }
            Ok(Value::Array(items)) => {
                let message = format!(
                    "`for_each` has {} elements, and at most {} are allowed",
                    items.len(),
                    self.max_fan_out
                );
                self.fail_step(at, Reason::new("InvalidParameter", message));
            }
            Ok(other) => {
                let message = format!("`for_each` needs an array, and got {}", kind_of(&other));
                self.fail_step(at, Reason::new("InvalidParameter", message));
            }
            Err(err) => self.fail_step(at, Reason::new("InvalidParameter", err.to_string())),
        }
    }

    /// Why a step cannot run although all it needs has ended.
    pub(super) fn unmet(&self, needs: &StepNeeds) -> Option<Reason> {
        let node = |id: &StepId| self.places.get(id).map(|it| &self.nodes[*it as usize]);
        let because = |id: &StepId, state: StepState, what: &str| {
            Some(Reason::new("Skipped", format!("it {what} `{id}`, which is {}", state.as_str())))
        };
        for id in &needs.results {
            match node(id).map(|it| it.state) {
                Some(StepState::Succeeded) => {}
                Some(state) => return because(id, state, "takes the result of"),
                None => return Some(Reason::new("Skipped", format!("there is no step `{id}`"))),
            }
        }
        for id in needs.after.iter().filter(|it| !needs.asked_about.contains(it)) {
            match node(id) {
                Some(it) if it.state == StepState::Succeeded || it.is_passed_over => {}
                Some(it) => return because(id, it.state, "depends on"),
                None => return Some(Reason::new("Skipped", format!("there is no step `{id}`"))),
            }
        }
        None
    }

    pub(super) fn enqueue(&mut self, at: u32) {
        let node = &mut self.nodes[at as usize];
        node.state = StepState::Queued;
        let (class, remaining, attempt) = (node.kind.class, node.remaining, node.attempt);
        self.queue.push(class as usize, remaining, Ready::Step(at));
        self.tell(Part::of(at), StepState::Queued, attempt, None);
    }

    pub(super) fn fan_out(&mut self, at: u32, items: Vec<Value>) {
        let max = self.nodes[at as usize].step.max_parallel;
        let max = max.map_or(usize::MAX, |it| (it as usize).max(1));
        let mut fan = Fan::new(items, max);
        for (element, end) in self.remembered.remove(&at).unwrap_or_default() {
            let Some(state) = fan.states.get(element as usize) else { continue };
            if state.has_ended() {
                continue;
            }
            match end {
                End::Succeeded(collected) => fan.succeeded(element as usize, collected),
                End::Failed(it) => fan.failed(element as usize, StepState::Failed, &it.message),
                End::Cancelled(it) => {
                    fan.failed(element as usize, StepState::Cancelled, &it.message);
                }
                End::Unknown(it) => fan.failed(element as usize, StepState::Unknown, &it.message),
            }
        }
        fan.skip_ended();
        let failed = fan.n_failed;
        self.nodes[at as usize].fan = Some(Box::new(fan));
        if 0 < failed && self.on_error_of(at) != OnError::Continue {
            let reason = Reason::new("ToolError", "an element had failed");
            self.fan_mut(at).failure = Some(reason);
        }
        if self.fan_mut(at).is_done() {
            self.end_fan(at);
            return;
        }
        self.fan_mut(at).is_queued = true;
        self.enqueue(at);
    }
}
