//! Whether a step whose needs have ended runs.

use super::*;

/// The code of steps that were not wanted, which is no failure.
const PASSED_OVER: &str = "ConditionNotMet";

/// Whether a step was skipped because of its own condition.
pub(super) fn is_passed_over(reason: &Reason) -> bool {
    reason.code == PASSED_OVER
}

fn unheld(why: &str) -> Reason {
    Reason::new(PASSED_OVER, format!("its `when` cannot be answered: {why}"))
}

/// What a step says that failed by one of its elements.
pub(super) fn of_element(element: u32, reason: &Reason) -> Reason {
    let message = format!("element {element}: {}", reason.message);
    Reason { code: reason.code.clone(), message }
}

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
        if let Some((StepState::Skipped, reason)) = self.ended_before(at) {
            self.nodes[at as usize].is_passed_over = reason.as_ref().is_some_and(is_passed_over);
            self.end_step(at, StepState::Skipped, reason, None);
            return;
        }
        let node = &self.nodes[at as usize];
        let step = node.step.clone();
        let gathered: Vec<(StepId, Arc<Value>)> = self
            .gathered
            .iter()
            .map(|(at, value)| (self.nodes[*at as usize].step.id.clone(), value.clone()))
            .collect();
        let result = |id: &StepId| {
            let own = gathered.iter().find(|it| it.0 == *id).map(|it| it.1.clone());
            own.or_else(|| result(id))
        };
        let scope = Scope { result: &result, item: None, index: None };
        let needs = StepNeeds::of(&step);
        if let Some(when) = &step.when {
            let state = |id: &StepId| self.places.get(id).map(|it| self.state(*it));
            let held = Condition::parse(when)
                .map_err(|err| unheld(&err))
                .and_then(|it| it.holds(&scope, &state).map_err(|err| unheld(&err.to_string())));
            let reason = match held {
                Ok(true) => None,
                Ok(false) => Some(Reason::new(PASSED_OVER, "its `when` does not hold")),
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

    fn ended_before(&self, at: u32) -> Option<(StepState, Option<Reason>)> {
        self.restoring.as_ref().and_then(|it| it.ended.get(&at).cloned())
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
        let mut failure = None;
        for (element, end) in self.remembered.remove(&at).unwrap_or_default() {
            let Some(state) = fan.states.get(element as usize) else { continue };
            if state.has_ended() {
                continue;
            }
            if let End::Failed(it) | End::Unknown(it) = &end {
                failure.get_or_insert_with(|| of_element(element, it));
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
        if self.on_error_of(at) != OnError::Continue {
            fan.failure = failure;
        }
        self.nodes[at as usize].fan = Some(Box::new(fan));
        if let Some((state, reason)) = self.ended_before(at) {
            let fan = self.fan_mut(at);
            fan.give_up(at);
            let result = (state == StepState::Succeeded).then(|| Arc::new(fan.result()));
            if let Some(result) = &result {
                self.gathered.push((at, result.clone()));
            }
            self.end_step(at, state, reason.clone(), result);
            if let (StepState::Failed | StepState::Unknown, Some(reason)) = (state, reason) {
                self.apply_on_error(at, &reason);
            }
            return;
        }
        if self.fan_mut(at).is_done() {
            self.end_fan(at);
            return;
        }
        self.fan_mut(at).is_queued = true;
        self.enqueue(at);
    }
}
