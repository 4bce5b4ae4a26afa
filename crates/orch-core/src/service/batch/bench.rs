//! The engine alone, on calls that whoever measures or tests it makes: no orchestrator, no disk.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use orch_domain::Error;
use orch_domain::batch::{
    Batch, BatchChange, BatchState, Machine, Part, Reason, RunsFor, StepRun, StepState, Terms,
};
use orch_domain::caller::{Channel, Permission};
use orch_domain::name::{BatchId, StepId, UserId};
use orch_domain::plan::{Limits, Plan, Step, Toolbox};
use orch_domain::time::Timestamp;
use orch_domain::tool_access::ToolAccess;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::accept::known;
use super::calls::StepCalls;
use super::journal::Journal;
use super::live::{Known, Live, Run, Timing};
use super::recover::take_up;
use super::runner::Runner;
use super::slots::{Limits as SlotLimits, Slots};
use crate::ports::clock::Clock;

/// How a plan is to run.
#[derive(Clone)]
pub struct Setup {
    pub max_parallel: u32,
    pub step_timeout: Duration,
    pub retries: u32,
    pub deadline: Duration,
    /// Shared with others that are to compete for places.
    pub slots: Arc<Slots>,
    pub owner: UserId,
    /// None: nothing is written down.
    pub record: Option<Arc<Record>>,
    /// How long a call of a tool is expected to take, in milliseconds, by its canonical name.
    pub expected_ms: Arc<dyn Fn(&str) -> f64 + Send + Sync>,
    /// Whether each call's times are kept.
    pub is_timed: bool,
}

impl Default for Setup {
    fn default() -> Setup {
        let limits = SlotLimits { total: 100_000, per_server: 100_000, named: HashMap::new() };
        Setup {
            max_parallel: 10,
            step_timeout: Duration::from_secs(60),
            retries: 0,
            deadline: Duration::from_secs(3600),
            slots: Slots::new(limits),
            owner: UserId::try_new("bench").expect("a word"),
            record: None,
            expected_ms: Arc::new(|_| 100.0),
            is_timed: false,
        }
    }
}

/// What became of a batch.
#[derive(Clone, Debug)]
pub struct Report {
    pub state: BatchState,
    pub reason: Option<Reason>,
    /// In the order of the plan.
    pub steps: Vec<StepReport>,
    /// In the order of the returns; empty unless asked for.
    pub timings: Vec<Timing>,
    /// From its first moment to its last.
    pub took: Duration,
}

#[derive(Clone, Debug)]
pub struct StepReport {
    pub id: StepId,
    pub state: StepState,
    pub attempt: u32,
    pub reason: Option<Reason>,
    pub elements: Option<Vec<StepState>>,
    pub compensation: Option<StepState>,
}

/// A plan under way.
pub struct Going {
    run: Arc<Run>,
    driver: JoinHandle<()>,
    begun: Instant,
}

/// Runs a plan without problems from its first step to its end.
pub async fn run_plan(
    plan: Plan,
    tools: &dyn Toolbox,
    calls: Arc<dyn StepCalls>,
    setup: &Setup,
) -> Report {
    begin(plan, tools, calls, setup).ended().await
}

/// Begins a plan without problems.
pub fn begin(plan: Plan, tools: &dyn Toolbox, calls: Arc<dyn StepCalls>, setup: &Setup) -> Going {
    let batch = batch_of(&plan, setup);
    let (run, control) = run_of(batch, calls, setup);
    {
        let mut live = run.live.lock();
        for step in plan.steps {
            let step = known(Arc::new(step), tools, &*setup.expected_ms);
            live.add(&run.slots, step, true);
        }
        live.machine.close();
    }
    drive(run, control)
}

/// Goes on with what was recorded of a batch, as a server does that starts again. None: it was never accepted.
pub async fn resume(
    found: &[BatchChange],
    tools: &dyn Toolbox,
    calls: Arc<dyn StepCalls>,
    setup: &Setup,
) -> Result<Option<Going>, Error> {
    let rows = Rows::of(found);
    let Some(batch) = rows.batch else { return Ok(None) };
    let known: Vec<Known> =
        rows.steps.into_values().map(|it| known(it, tools, &*setup.expected_ms)).collect();
    let (run, control) = run_of(Batch::clone(&batch), calls, setup);
    let runs: Vec<StepRun> = rows.runs.into_values().map(|it| StepRun::clone(&it)).collect();
    take_up(&run, known, &runs, false).await?;
    Ok(Some(drive(run, control)))
}

fn batch_of(plan: &Plan, setup: &Setup) -> Batch {
    let now = TokioClock::default().now();
    let runs_for = RunsFor {
        user: setup.owner.clone(),
        permissions: vec![Permission::Execute],
        channel: Channel::Rest,
        client: None,
        tools: ToolAccess::default(),
        key: None,
        profile: None,
    };
    Batch {
        id: BatchId::new(now, 1),
        runs_for,
        state: BatchState::Queued,
        reason: None,
        request: None,
        client_token: None,
        arguments_hash: None,
        terms: Terms {
            max_parallel: setup.max_parallel,
            step_timeout_ms: u64::try_from(setup.step_timeout.as_millis()).unwrap_or(u64::MAX),
            retries: setup.retries,
            deadline: now.plus_millis(setup.deadline.as_millis() as u64),
            on_error: plan.on_error,
        },
        output: plan.output.clone(),
        answer: None,
        n_steps: 0,
        created_at: now,
        started_at: None,
        ended_at: None,
    }
}

fn run_of(
    batch: Batch,
    calls: Arc<dyn StepCalls>,
    setup: &Setup,
) -> (Arc<Run>, mpsc::UnboundedReceiver<super::live::Control>) {
    let (control, commands) = mpsc::unbounded_channel();
    let max_parallel = batch.terms.max_parallel as usize;
    let machine = Machine::new(max_parallel, Limits::DEFAULT.fan_out, batch.terms.on_error);
    let mut live = Live::new(batch, machine);
    live.header_changed = true;
    let run = Run {
        id: live.batch.id.clone(),
        live: Mutex::new(live),
        orch: None,
        calls,
        journal: setup.record.clone().map_or(Journal::Nothing, Journal::Recorded),
        slots: setup.slots.clone(),
        clock: Arc::new(TokioClock::default()),
        control,
        work: CancellationToken::new(),
        undo: CancellationToken::new(),
        changed: watch::Sender::new(0),
        ended: CancellationToken::new(),
        accepted: CancellationToken::new(),
        stopped: CancellationToken::new(),
        left: CancellationToken::new(),
        timings: setup.is_timed.then(Mutex::default),
    };
    (Arc::new(run), commands)
}

#[expect(clippy::disallowed_methods, reason = "whoever measures waits for it")]
fn drive(run: Arc<Run>, control: mpsc::UnboundedReceiver<super::live::Control>) -> Going {
    let begun = Instant::now();
    let runner = Runner::new(run.clone(), control, false);
    Going { run, driver: tokio::spawn(runner.drive()), begun }
}

impl Going {
    /// Withdraws it, and returns when it has ended. False: it had ended before.
    pub async fn cancel(&self) -> bool {
        let was_under_way = self.run.withdraw(Reason::new("Cancelled", "it was cancelled"));
        self.run.ended.cancelled().await;
        was_under_way
    }

    /// As a server that is killed: nothing of it goes on.
    pub fn kill(self) {
        self.driver.abort();
        self.run.work.cancel();
        self.run.undo.cancel();
    }

    pub async fn ended(self) -> Report {
        self.run.ended.cancelled().await;
        let took = self.begun.elapsed();
        drop(self.driver.await);
        let live = self.run.live.lock();
        let steps = 0..u32::try_from(live.machine.n_steps()).unwrap_or(u32::MAX);
        let steps = steps.map(|at| {
            let times = &live.times[at as usize];
            StepReport {
                id: live.machine.step(at).id.clone(),
                state: live.machine.state(at),
                attempt: times.attempt,
                reason: times.reason.clone(),
                elements: live.machine.elements(at).map(<[StepState]>::to_vec),
                compensation: times.compensation,
            }
        });
        Report {
            state: live.batch.state,
            reason: live.batch.reason.clone(),
            steps: steps.collect(),
            timings: self.run.timings.as_ref().map(|it| it.lock().clone()).unwrap_or_default(),
            took,
        }
    }
}

/// Keeps what a batch writes down, each commit after a while, as a disk does.
pub struct Record {
    commits: Mutex<Vec<Vec<BatchChange>>>,
    queue: mpsc::UnboundedSender<Queued>,
}

type Settle = Box<dyn FnOnce(Result<(), Error>) + Send>;

struct Queued {
    changes: Vec<BatchChange>,
    settle: Settle,
}

impl Record {
    /// `flush` is how long each commit takes. After `n_room` commits there is no room for more.
    #[expect(clippy::disallowed_methods, reason = "it goes with the runtime")]
    pub fn start(flush: Duration, n_room: usize) -> Arc<Record> {
        let (queue, mut queued) = mpsc::unbounded_channel::<Queued>();
        let record = Arc::new(Record { commits: Mutex::default(), queue });
        let of_task = Arc::downgrade(&record);
        tokio::spawn(async move {
            while let Some(Queued { changes, settle }) = queued.recv().await {
                tokio::time::sleep(flush).await;
                let Some(record) = of_task.upgrade() else { return };
                let is_taken = {
                    let mut commits = record.commits.lock();
                    let has_room = commits.len() < n_room;
                    if has_room {
                        commits.push(changes);
                    }
                    has_room
                };
                settle(is_taken.then_some(()).ok_or_else(|| Error::Unavailable {
                    message: "there is no room".to_owned(),
                    source: None,
                }));
            }
        });
        record
    }

    pub(super) fn write(&self, changes: Vec<BatchChange>, settle: Settle) {
        // The other end goes with the runtime.
        self.queue.send(Queued { changes, settle }).ok();
    }

    /// As if it had been written before.
    pub fn put(&self, changes: Vec<BatchChange>) {
        self.commits.lock().push(changes);
    }

    /// What is durable, commit by commit.
    pub fn commits(&self) -> Vec<Vec<BatchChange>> {
        self.commits.lock().clone()
    }

    pub fn n_commits(&self) -> usize {
        self.commits.lock().len()
    }

    /// The newest row of a part that is durable.
    pub fn run(&self, part: Part) -> Option<StepRun> {
        let commits = self.commits.lock();
        commits.iter().rev().flat_map(|it| it.iter().rev()).find_map(|it| match it {
            BatchChange::Run { run, .. } if run.part == part => Some(StepRun::clone(run)),
            _ => None,
        })
    }
}

/// Rows as a store would have them after these changes.
#[derive(Default)]
pub struct Rows {
    pub batch: Option<Arc<Batch>>,
    pub steps: BTreeMap<u32, Arc<Step>>,
    pub runs: BTreeMap<Part, Arc<StepRun>>,
}

impl Rows {
    pub fn of(changes: &[BatchChange]) -> Rows {
        let mut rows = Rows::default();
        for it in changes {
            match it.clone() {
                BatchChange::Put(batch) => rows.batch = Some(batch),
                BatchChange::Define { place, step, .. } => drop(rows.steps.insert(place, step)),
                BatchChange::Run { run, .. } => drop(rows.runs.insert(run.part, run)),
                BatchChange::Forget(_) => rows = Rows::default(),
            }
        }
        rows
    }
}

/// The runtime's own time, which a test may have stopped.
struct TokioClock(Instant);

/// Some day, so that all of one process agree.
const EPOCH_MS: i64 = 1_800_000_000_000;

static ZERO: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();

impl Default for TokioClock {
    fn default() -> TokioClock {
        TokioClock(Instant::from_std(*ZERO.get_or_init(std::time::Instant::now)))
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        let since = Instant::now().saturating_duration_since(self.0);
        Timestamp::from_millis(EPOCH_MS).plus_millis(since.as_millis() as u64)
    }
}
