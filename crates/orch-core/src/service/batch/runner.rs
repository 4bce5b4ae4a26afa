//! The one task that drives a batch: it judges what is due, dispatches what is ready, writes down what happened, and sleeps
//! until something ends.

mod last;
mod word;

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
}
