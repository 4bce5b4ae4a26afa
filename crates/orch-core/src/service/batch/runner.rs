//! The one task that drives a batch: it judges what is due, dispatches what is ready, writes down what happened, and sleeps
//! until something ends.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use orch_domain::ErrorCode;
use orch_domain::batch::{BatchChange, BatchState, End, Outcome, Part, Reason, StepRun, StepState};
use orch_domain::name::StepId;
use orch_domain::plan::OnError;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::journal::{self, Durable};
use super::live::{Control, Live, Run};
use super::payload::Held;
use super::planner::Ended;
use super::slots::{Place, Seat};
use super::step::{Done, Job, JobEnd, RetryRule};

/// Of the time that a batch has, what is kept for undoing, at most.
const MOST_FOR_UNDOING: Duration = Duration::from_secs(120);
/// When the server was down while a batch reached its deadline, what it did can be undone all the same.
const LEAST_FOR_UNDOING: Duration = Duration::from_secs(30);
/// Of waits between attempts, unless a plan says otherwise.
const BACKOFF: Duration = Duration::from_millis(500);
/// Between attempts to write down an end.
const LATE: Duration = Duration::from_secs(1);

/// Ends that are taken in before what they make ready is called.
const AT_ONCE: usize = 32;

pub(super) struct Runner {
    pub(super) run: Arc<Run>,
    seat: Seat,
    control: mpsc::UnboundedReceiver<Control>,
    done: mpsc::UnboundedReceiver<Done>,
    tell_done: mpsc::UnboundedSender<Done>,
    /// When what failed in passing is tried again.
    timers: BinaryHeap<Reverse<(Instant, Part, u32)>>,
    /// Steps have to have ended by the first, undoing by the second.
    deadlines: (Instant, Instant),
    settling: Vec<oneshot::Sender<Vec<Ended>>>,
    /// Jobs that were spawned and have not reported.
    n_jobs: usize,
    /// The disk did not take something: nothing is written any more.
    is_broken: bool,
    /// What is not durable yet, in the order of the writes.
    unwritten: Arc<Mutex<BTreeMap<u64, Vec<BatchChange>>>>,
    n_written: u64,
    /// Of all that was written so far.
    written: Durable,
    planning: bool,
}

impl Runner {
    pub(super) fn new(
        run: Arc<Run>,
        control: mpsc::UnboundedReceiver<Control>,
        planning: bool,
    ) -> Runner {
        let (tell_done, done) = mpsc::unbounded_channel();
        let (owner, deadline, undoes, is_resumed) = {
            let live = run.live.lock();
            let undoes = live.tools.iter().any(|it| it.compensation.is_some());
            let batch = &live.batch;
            let is_resumed = batch.started_at.is_some();
            (batch.runs_for.user.clone(), batch.terms.deadline, undoes || planning, is_resumed)
        };
        let left = Duration::from_millis(deadline.since(run.clock.now()));
        let for_undoing = if undoes { (left / 5).min(MOST_FOR_UNDOING) } else { Duration::ZERO };
        let now = Instant::now();
        let late = if undoes && is_resumed { LEAST_FOR_UNDOING } else { Duration::ZERO };
        let deadlines = (now + left - for_undoing, now + left.max(late));
        Runner {
            seat: run.slots.join(&owner),
            run,
            control,
            done,
            tell_done,
            timers: BinaryHeap::new(),
            deadlines,
            settling: Vec::new(),
            n_jobs: 0,
            is_broken: false,
            unwritten: Arc::default(),
            n_written: 0,
            written: watch::channel(Some(Ok(()))).1,
            planning,
        }
    }

    /// Until the batch has ended, or the server does. A batch whose runner comes to grief ends as well.
    pub(super) async fn drive(self) {
        let run = self.run.clone();
        if AssertUnwindSafe(self.go()).catch_unwind().await.is_err() {
            let message = "the batch came to grief in the server itself; the log says more";
            run.end_abruptly(Reason::new(ErrorCode::Internal.as_str(), message)).await;
        }
    }

    async fn go(mut self) {
        let shutdown = self.run.orch.as_ref().map(|it| it.shutdown.clone()).unwrap_or_default();
        let freed = self.seat.freed.clone();
        {
            let now = self.run.clock.now();
            let state = if self.planning { BatchState::Planning } else { BatchState::Running };
            self.run.live.lock().begin(state, now);
        }
        let mut ended = Vec::new();
        loop {
            // Steps that end without a pause would never let the clock have its turn below.
            if self.next_moment() <= Instant::now() {
                self.on_time();
            }
            if let Some(outcome) = self.pump() {
                self.finish(outcome).await;
                return;
            }
            let next = self.next_moment();
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return self.suspend().await,
                Some(control) = self.control.recv() => self.obey(control),
                n = self.done.recv_many(&mut ended, AT_ONCE) => {
                    if n != 0 {
                        self.take_in(&mut ended);
                    }
                }
                () = freed.notified() => {}
                () = tokio::time::sleep_until(next) => self.on_time(),
            }
        }
    }

    /// Everything that can be done now. The outcome, once there is nothing more to come.
    fn pump(&mut self) -> Option<Outcome> {
        let now = self.run.clock.now();
        let mut jobs = Vec::new();
        let run = self.run.clone();
        let (outcome, loads) = {
            let mut live = run.live.lock();
            let loads = self.judge(&mut live);
            live.absorb();
            let mut outcome = live.outcome();
            self.seat.look_again();
            if outcome.is_none() {
                // What a failure is undone by became ready when the outcome was asked for.
                while let Some(job) = self.next_job(&mut live) {
                    jobs.push(job);
                }
                outcome = live.outcome();
            }
            self.seat.has_looked();
            self.answer_settled(&live);
            (outcome, loads)
        };
        // What waits for no row is called before the rows are put together.
        let (at_once, recorded): (Vec<Job>, Vec<Job>) =
            jobs.into_iter().partition(|it| !it.waits_for_rows());
        self.dispatch(at_once);
        let (changes, large, last, outcome) = {
            let mut live = run.live.lock();
            let (changes, large) = live.drain(now);
            // What was gathered last has to be kept before the end.
            let outcome = outcome.filter(|_| live.n_gathering == 0);
            (changes, large, live.transitions.last, outcome)
        };
        self.write(changes);
        self.dispatch(recorded);
        for (at, missing) in loads {
            self.load(at, missing);
        }
        self.run.changed.send_if_modified(|it| std::mem::replace(it, last) != last);
        for (at, value) in large {
            self.gather(at, value);
        }
        outcome
    }

    /// Answers the steps that results have to be read for first.
    fn judge(&self, live: &mut Live) -> Vec<(u32, Vec<(StepId, Held)>)> {
        let mut loads = Vec::new();
        while let Some(at) = live.machine.next_due() {
            live.absorb();
            let missing = live.missing(at);
            if missing.is_empty() {
                live.judge(at, &[]);
                continue;
            }
            if live.loading.insert(at) {
                loads.push((at, missing));
            }
        }
        loads
    }

    fn load(&self, at: u32, missing: Vec<(StepId, Held)>) {
        let (run, durable) = (self.run.clone(), self.written.clone());
        self.run.spawn(async move {
            // A row that is on its way cannot be read yet. What cannot be read is missing, which the step then says.
            journal::settled(durable).await.ok();
            let mut values = Vec::new();
            for (id, held) in missing {
                if let Ok(Some(value)) = run.fetch(held).await {
                    values.push((id, value));
                }
            }
            run.control.send(Control::Loaded { at, values }).ok();
        });
    }

    fn next_job(&self, live: &mut Live) -> Option<Job> {
        let mut place: Option<Place> = None;
        let Live { machine, places, .. } = live;
        let seat = &self.seat;
        let next = machine.next(&mut |class| {
            place = places.get(class as usize).and_then(|it| seat.take(it));
            place.is_some()
        });
        let (part, attempt) = next?;
        let place = place.expect("the machine asked for it");
        let step = live.machine.step(part.step).clone();
        let tools = &live.tools[part.step as usize];
        let target = match (&tools.compensation, part.is_compensation) {
            (Some(it), true) => it.clone(),
            _ => tools.target.clone(),
        };
        let terms = live.batch.terms;
        let given = step.timeout.filter(|_| !part.is_compensation).map(Duration::from_secs_f64);
        let timeout = given.unwrap_or(Duration::from_millis(terms.step_timeout_ms));
        let retry = match step.retry.filter(|_| !part.is_compensation) {
            Some(it) => RetryRule {
                max: it.max,
                backoff: Duration::from_millis(it.backoff_ms),
                is_asked_for: true,
            },
            None => RetryRule { max: terms.retries, backoff: BACKOFF, is_asked_for: false },
        };
        let item = part
            .element
            .and_then(|at| live.machine.items(part.step).map(|items| (items.clone(), at as usize)));
        let token = if part.is_compensation { &self.run.undo } else { &self.run.work };
        Some(Job {
            part,
            attempt,
            inputs: live.inputs(part),
            timeout,
            step,
            target,
            retry,
            item,
            after: None,
            cancel: token.child_token(),
            place,
        })
    }

    fn dispatch(&mut self, jobs: Vec<Job>) {
        for mut job in jobs {
            if job.waits_for_rows() {
                job.after = Some(self.written.clone());
            }
            self.n_jobs += 1;
            let (run, tell) = (self.run.clone(), self.tell_done.clone());
            let (part, attempt) = (job.part, job.attempt);
            let work = async move {
                // One that panics has ended too, or its batch would wait for it for ever.
                let done = match AssertUnwindSafe(job.run(&run)).catch_unwind().await {
                    Ok(it) => it,
                    Err(_) => Done::panicked(part, attempt),
                };
                // The runner goes first only when the server ends.
                tell.send(done).ok();
            };
            self.run.spawn(work);
        }
    }

    /// In the order of the calls. `written` then says when all of it is durable.
    fn write(&mut self, changes: Vec<BatchChange>) {
        if changes.is_empty() {
            return;
        }
        self.n_written += 1;
        let n = self.n_written;
        self.unwritten.lock().insert(n, changes.clone());
        if self.is_broken {
            let why = "what happened before it could not be recorded".to_owned();
            (_, self.written) = watch::channel(Some(Err(why)));
            return;
        }
        let control = self.run.control.clone();
        let unwritten = self.unwritten.clone();
        self.written = self.run.journal.write(changes, move |written| match written {
            Ok(()) => drop(unwritten.lock().remove(&n)),
            Err(err) => drop(control.send(Control::NotWritten(err))),
        });
    }

    fn gather(&self, at: u32, value: Arc<serde_json::Value>) {
        let run = self.run.clone();
        self.run.spawn(async move {
            let kept = run.keep(Part::of(at), &value).await;
            run.control.send(Control::Gathered { at, kept }).ok();
        });
    }

    fn take_in(&mut self, ended: &mut Vec<Done>) {
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

    fn obey(&mut self, control: Control) {
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
    fn answer_settled(&mut self, live: &Live) {
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

    fn next_moment(&self) -> Instant {
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

    fn on_time(&mut self) {
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

    /// Records the end; whoever waits is told when it is durable.
    async fn finish(mut self, outcome: Outcome) {
        let now = self.run.clock.now();
        let (changes, last) = {
            let mut live = self.run.live.lock();
            let (state, reason) = match outcome {
                Outcome::Succeeded => (BatchState::Succeeded, None),
                Outcome::Failed(it) => (BatchState::Failed, Some(it)),
                Outcome::Cancelled(it) => (BatchState::Cancelled, Some(it)),
            };
            live.end(state, reason, now);
            (live.drain(now).0, live.transitions.last)
        };
        self.run.stopped.cancel();
        self.write(changes);
        if let Err(why) = journal::settled(self.written.clone()).await {
            tracing::error!(
                "the end of the batch {} could not be recorded yet: {why}",
                self.run.id
            );
            self.record_late();
        }
        self.run.changed.send_replace(last);
        self.run.ended.cancel();
        if let Some(orch) = &self.run.orch {
            orch.batches.ended(&self.run);
        }
    }

    /// An end that was shown must not be forgotten: a later start would take the batch up again. Tried until there is room,
    /// or the server ends.
    fn record_late(&self) {
        let Some(orch) = self.run.orch.clone() else { return };
        let unwritten = std::mem::take(&mut *self.unwritten.lock());
        let changes: Vec<BatchChange> = unwritten.into_values().flatten().collect();
        orch.tracker.clone().spawn(async move {
            loop {
                if orch.ledger.commit_batches(changes.clone(), None).await.is_ok() {
                    return;
                }
                tokio::select! {
                    () = orch.shutdown.cancelled() => return,
                    () = tokio::time::sleep(LATE) => {}
                }
            }
        });
    }

    /// The server ends. Calls that may be made again are left to the next start; others get to end while there is time.
    async fn suspend(mut self) {
        let run = self.run.clone();
        // A planner would wait for steps that do not run any more.
        run.stopped.cancel();
        let mut ended = Vec::new();
        loop {
            let is_waiting = {
                let live = run.live.lock();
                live.machine.has_unrepeatable_running()
            };
            if !is_waiting || self.n_jobs == 0 {
                break;
            }
            if self.done.recv_many(&mut ended, 1024).await == 0 {
                break;
            }
            self.take_in(&mut ended);
            let (changes, large) = run.live.lock().drain(run.clock.now());
            for (at, value) in large {
                self.gather(at, value);
            }
            // Nothing is dispatched, so nothing has to wait for it.
            self.write(changes);
        }
        // Withdrawn meanwhile, or that was the last.
        let outcome = run.live.lock().outcome();
        if let Some(outcome) = outcome {
            return self.finish(outcome).await;
        }
        run.work.cancel();
        run.undo.cancel();
        if let Some(orch) = &run.orch {
            orch.batches.suspended(&run.id);
        }
        run.left.cancel();
    }
}
