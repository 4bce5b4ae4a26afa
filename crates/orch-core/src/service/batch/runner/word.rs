//! What the runner is told: ends of calls, orders, and that it is time.

use super::*;

impl Runner {
    pub(super) fn take_in(&mut self, ended: &mut Vec<Done>) {
        let mut live = self.run.live.lock();
        for done in ended.drain(..) {
            self.n_jobs -= 1;
            let Done { part, attempt, end, took } = done;
            if let (Some(took), Some(orch)) = (took, &self.run.orch)
                && matches!(end, JobEnd::Succeeded { .. })
            {
                let tools = &live.tools[part.step as usize];
                orch.batches.durations.learn(&tools.target.name, took);
            }
            match end {
                JobEnd::Succeeded { value, kept, collected } => {
                    if part.element.is_none() && !part.is_compensation {
                        live.hold(part, &value, &kept);
                    }
                    live.results.insert(part, kept);
                    live.machine.ended(part, attempt, End::Succeeded(collected));
                }
                JobEnd::Failed { reason, kept } => {
                    if let Some(kept) = kept {
                        live.results.insert(part, kept);
                    }
                    // Whoever is not there any more is not there for the other steps either.
                    let is_gone = reason.code == ErrorCode::Unauthenticated.as_str();
                    live.machine.ended(part, attempt, End::Failed(reason.clone()));
                    if is_gone {
                        let compensates = live.batch.terms.on_error == OnError::Compensate;
                        live.machine.fail(reason, compensates);
                    }
                }
                JobEnd::Again { reason, .. }
                    if live.machine.is_stopping() && !part.is_compensation =>
                {
                    live.machine.ended(part, attempt, End::Failed(reason));
                }
                JobEnd::Again { reason, after } => {
                    live.machine.postponed(part, attempt, reason);
                    self.timers.push(Reverse((Instant::now() + after, part, attempt + 1)));
                }
                JobEnd::Cancelled => {
                    let reason = live.why_withdrawn.clone();
                    let reason =
                        reason.unwrap_or_else(|| Reason::new("Cancelled", "it was withdrawn"));
                    live.machine.ended(part, attempt, End::Cancelled(reason));
                }
            }
        }
    }

    pub(super) fn obey(&mut self, control: Control) {
        let mut live = self.run.live.lock();
        match control {
            Control::Look => {}
            Control::Loaded { at, values } => {
                live.loading.remove(&at);
                live.judge(at, &values);
            }
            Control::Planned(Ok(planned)) => {
                live.batch.answer = planned.answer;
                live.batch.output = planned.output.or(live.batch.output.take());
                live.begin(BatchState::Running, self.run.clock.now());
                live.header_changed = true;
                live.machine.close();
            }
            Control::Planned(Err(err)) => {
                let compensates = live.batch.terms.on_error == OnError::Compensate;
                live.machine.fail(Reason::from(&err), compensates);
                live.machine.close();
            }
            Control::Gathered { at, kept } => {
                live.n_gathering -= 1;
                match kept {
                    Ok(kept) => {
                        let times = live.times[at as usize].clone();
                        let held = match &kept {
                            orch_domain::batch::Kept::Large { name, .. } => {
                                Held::Large { name: name.clone() }
                            }
                            orch_domain::batch::Kept::Inline(it) => Held::Memory(it.clone()),
                        };
                        live.hold_as(at, held);
                        let run = StepRun {
                            part: Part::of(at),
                            state: StepState::Succeeded,
                            attempt: times.attempt,
                            reason: None,
                            result: Some(kept),
                            started_at: times.started,
                            ended_at: times.ended,
                        };
                        let batch = live.batch.id.clone();
                        live.defined.push(BatchChange::Run { batch, run: Arc::new(run) });
                    }
                    Err(err) => live.machine.fail(Reason::from(&err), false),
                }
            }
            Control::NotWritten(err) => {
                self.is_broken = true;
                let message = format!("what happened could not be recorded: {err}");
                let reason = Reason::new(ErrorCode::Unavailable.as_str(), message);
                live.machine.fail(reason, false);
            }
            Control::Settled(answer) => self.settling.push(answer),
        }
    }

    /// For a planner that waits for what it has written so far.
    pub(super) fn answer_settled(&mut self, live: &Live) {
        if self.settling.is_empty() {
            return;
        }
        let steps = 0..u32::try_from(live.machine.n_steps()).unwrap_or(u32::MAX);
        if !steps.clone().all(|at| live.machine.state(at).has_ended()) {
            return;
        }
        let ended: Vec<Ended> = steps
            .map(|at| {
                let step = live.machine.step(at);
                Ended {
                    id: step.id.clone(),
                    tool: step.tool.clone(),
                    state: live.machine.state(at),
                    reason: live.times[at as usize].reason.clone(),
                    result: match live.held.get(&at) {
                        Some(Held::Memory(it)) => Some(it.clone()),
                        _ => None,
                    },
                }
            })
            .collect();
        for answer in self.settling.drain(..) {
            // A planner that is gone needs none.
            answer.send(ended.clone()).ok();
        }
    }

    pub(super) fn next_moment(&self) -> Instant {
        // By what was done about them and not by the clock: one that passes while much else happens counts too.
        let deadline = if !self.run.work.is_cancelled() {
            self.deadlines.0
        } else if !self.run.undo.is_cancelled() {
            self.deadlines.1
        } else {
            Instant::now() + Duration::from_secs(3600)
        };
        self.timers.peek().map_or(deadline, |it| it.0.0.min(deadline))
    }

    pub(super) fn on_time(&mut self) {
        let now = Instant::now();
        let mut live = self.run.live.lock();
        while let Some(Reverse((at, part, attempt))) = self.timers.peek().copied() {
            if now < at {
                break;
            }
            self.timers.pop();
            live.machine.again(part, attempt);
        }
        let is_late = |deadline: Instant| deadline <= now;
        if is_late(self.deadlines.0) && !self.run.work.is_cancelled() {
            let message = "the batch did not end within its deadline";
            let reason = Reason::new(ErrorCode::DeadlineExceeded.as_str(), message);
            live.why_withdrawn.get_or_insert_with(|| reason.clone());
            let compensates = live.batch.terms.on_error == OnError::Compensate;
            live.machine.fail(reason, compensates);
            self.run.work.cancel();
            self.run.stopped.cancel();
        }
        if is_late(self.deadlines.1) && !self.run.undo.is_cancelled() {
            live.machine.give_up_undoing();
            self.run.undo.cancel();
        }
    }
}
