//! A batch under way: its machine and what else is known of it, behind one lock that is never held while waiting.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use orch_domain::Error;
use orch_domain::batch::{
    Batch, BatchChange, BatchState, Class, Kept, Machine, Outcome, Part, Reason, StepKind, StepRun,
    StepState,
};
use orch_domain::name::{BatchId, StepId};
use orch_domain::plan::{Step, StepNeeds, ToolFacts};
use orch_domain::time::Timestamp;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::calls::{StepCalls, Target};
use super::journal::Journal;
use super::payload::{Held, MAX_HELD, MAX_INLINE, weigh};
use super::planner::Ended;
use super::slots::{Places, Slots};
use super::transitions::{Subject, Transitions};
use crate::Orch;
use crate::ports::clock::Clock;
use crate::service::tools::BUILT_IN;

/// A handle of a batch under way, for its runner and for everybody who looks.
pub struct Run {
    pub id: BatchId,
    pub(super) live: Mutex<Live>,
    /// None: a bench, in which nothing is stored.
    pub(super) orch: Option<Arc<Orch>>,
    pub(super) calls: Arc<dyn StepCalls>,
    pub(super) journal: Journal,
    pub(super) slots: Arc<Slots>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) control: mpsc::UnboundedSender<Control>,
    /// All calls of steps; cancelled, they are withdrawn.
    pub(super) work: CancellationToken,
    /// Calls that undo.
    pub(super) undo: CancellationToken,
    /// The number of the last transition.
    pub(super) changed: watch::Sender<u64>,
    /// It is durable that there is such a batch.
    pub(super) accepted: CancellationToken,
    /// The batch has ended, and that is durable.
    pub(super) ended: CancellationToken,
    /// Nobody drives it any more, although it has not ended: the server ends, or it was never accepted.
    pub(super) left: CancellationToken,
    /// Nothing more of its plan is wanted: for the planner.
    pub(super) stopped: CancellationToken,
    /// When each call began and ended, where somebody measures.
    pub(super) timings: Option<Mutex<Vec<Timing>>>,
}

/// One attempt of a part, for those who measure.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    pub part: Part,
    pub attempt: u32,
    pub called: Instant,
    pub returned: Instant,
}

pub(super) enum Control {
    /// Something may be possible that was not.
    Look,
    /// The plan is complete, or will never be.
    Planned(Result<Planned, Error>),
    /// Results that were read for a step that is to be judged.
    Loaded {
        at: u32,
        values: Vec<(StepId, Arc<Value>)>,
    },
    /// What was gathered of a step's elements is kept.
    Gathered {
        at: u32,
        kept: Result<Kept, Error>,
    },
    /// The disk did not take what happened.
    NotWritten(Error),
    Settled(oneshot::Sender<Vec<Ended>>),
}

#[derive(Default)]
pub(super) struct Planned {
    pub(super) answer: Option<String>,
    pub(super) output: Option<Value>,
}

pub(super) struct Live {
    pub(super) batch: Batch,
    pub(super) machine: Machine,
    pub(super) tools: Vec<StepTools>,
    pub(super) times: Vec<Times>,
    pub(super) transitions: Transitions,
    /// Results of steps that others may take.
    pub(super) held: HashMap<u32, Held>,
    n_held: usize,
    /// All of them stay as long as there is room: a model will look at them.
    pub(super) keeps_results: bool,
    /// Results on their way into the journal, with the change of state.
    pub(super) results: HashMap<Part, Kept>,
    since: HashMap<Part, Timestamp>,
    pub(super) places: Vec<Places>,
    classes: HashMap<Arc<str>, Class>,
    pub(super) n_gathering: usize,
    pub(super) loading: HashSet<u32>,
    /// Why what runs is being withdrawn.
    pub(super) why_withdrawn: Option<Reason>,
    pub(super) header_changed: bool,
    /// Definitions that are not in the store yet.
    pub(super) defined: Vec<BatchChange>,
}

#[derive(Clone)]
pub(super) struct StepTools {
    pub(super) target: Target,
    pub(super) compensation: Option<Target>,
}

#[derive(Clone, Default)]
pub(super) struct Times {
    pub(super) started: Option<Timestamp>,
    pub(super) ended: Option<Timestamp>,
    pub(super) attempt: u32,
    pub(super) reason: Option<Reason>,
    pub(super) compensation: Option<StepState>,
}

/// A step with what is known of its tools.
pub(super) struct Known {
    pub(super) step: Arc<Step>,
    pub(super) tools: StepTools,
    pub(super) expected_ms: f64,
}

impl Target {
    pub(super) fn of(facts: &ToolFacts) -> Target {
        let takes_token = *facts.server == *BUILT_IN
            && facts.input_schema["properties"].get("client_token").is_some();
        Target {
            name: facts.name.clone(),
            server: facts.server.clone(),
            is_repeatable: facts.is_idempotent || facts.is_read_only || takes_token,
            takes_token,
        }
    }
}

impl Live {
    pub(super) fn new(batch: Batch, machine: Machine) -> Live {
        Live {
            batch,
            machine,
            tools: Vec::new(),
            times: Vec::new(),
            transitions: Transitions::default(),
            held: HashMap::new(),
            n_held: 0,
            keeps_results: false,
            results: HashMap::new(),
            since: HashMap::new(),
            places: Vec::new(),
            classes: HashMap::new(),
            n_gathering: 0,
            loading: HashSet::new(),
            why_withdrawn: None,
            header_changed: false,
            defined: Vec::new(),
        }
    }

    /// Takes a step into the plan. `is_new`: the store does not have it.
    pub(super) fn add(&mut self, slots: &Slots, known: Known, is_new: bool) -> u32 {
        let class = self.class(slots, &known.tools.target);
        let compensation = known.tools.compensation.as_ref().map(|it| self.class(slots, it));
        let kind = StepKind {
            class,
            is_repeatable: known.tools.target.is_repeatable,
            expected_ms: known.expected_ms,
            compensation,
        };
        let at = self.machine.add(known.step.clone(), kind);
        self.tools.push(known.tools);
        self.times.push(Times::default());
        self.batch.n_steps = at + 1;
        if is_new {
            let batch = self.batch.id.clone();
            self.defined.push(BatchChange::Define { batch, place: at, step: known.step });
            self.header_changed = true;
        }
        at
    }

    fn class(&mut self, slots: &Slots, target: &Target) -> Class {
        if let Some(it) = self.classes.get(&target.name) {
            return *it;
        }
        let class = Class::try_from(self.places.len()).unwrap_or(Class::MAX);
        self.places.push(slots.places(&target.server, &target.name));
        self.classes.insert(target.name.clone(), class);
        class
    }

    pub(super) fn begin(&mut self, state: BatchState, now: Timestamp) {
        if self.batch.state != state {
            self.batch.state = state;
            self.batch.started_at.get_or_insert(now);
            self.header_changed = true;
            let subject = Subject::Batch { state, reason: None };
            self.transitions.push(now, subject);
        }
    }

    pub(super) fn end(&mut self, state: BatchState, reason: Option<Reason>, now: Timestamp) {
        self.batch.state = state;
        self.batch.reason.clone_from(&reason);
        self.batch.ended_at = Some(now);
        self.header_changed = true;
        self.transitions.push(now, Subject::Batch { state, reason });
    }

    /// Keeps the result of a step for those that take it.
    pub(super) fn hold(&mut self, part: Part, value: &Arc<Value>, kept: &Kept) {
        let held = match kept {
            Kept::Large { name, .. } => Held::Large { name: name.clone() },
            Kept::Inline(_) => {
                let weight = weigh(value);
                if MAX_HELD < self.n_held + weight {
                    Held::Stored(part)
                } else {
                    Held::Memory(value.clone())
                }
            }
        };
        self.hold_as(part.step, held);
    }

    /// What is in memory is counted.
    pub(super) fn hold_as(&mut self, at: u32, held: Held) {
        let weight = |it: &Held| match it {
            Held::Memory(value) => weigh(value),
            _ => 0,
        };
        self.n_held += weight(&held);
        if let Some(before) = self.held.insert(at, held) {
            self.n_held -= weight(&before);
        }
    }

    /// What was gathered of steps over arrays is there for the others, whether it is in the store yet or not.
    pub(super) fn absorb(&mut self) {
        for (at, value) in self.machine.gathered() {
            if MAX_INLINE < weigh(&value) {
                // Its row comes only when its file is there.
                self.hold_as(at, Held::Memory(value));
            } else {
                self.hold(Part::of(at), &value, &Kept::Inline(value.clone()));
            }
        }
    }

    /// How it ended, once nothing runs and nothing is on its way from or to the disk.
    pub(super) fn outcome(&mut self) -> Option<Outcome> {
        if !self.loading.is_empty() || self.n_gathering != 0 {
            return None;
        }
        self.machine.outcome()
    }

    fn release(&mut self) {
        for at in self.machine.released() {
            if self.keeps_results {
                continue;
            }
            if matches!(self.held.get(&at), Some(Held::Memory(_))) {
                self.hold_as(at, Held::Stored(Part::of(at)));
            }
        }
    }

    /// Results that are needed to judge a step and are not in memory.
    pub(super) fn missing(&self, at: u32) -> Vec<(StepId, Held)> {
        let step = self.machine.step(at);
        if step.when.is_none() && step.for_each.is_none() {
            return Vec::new();
        }
        let needs = StepNeeds::of(step);
        let wanted = needs.looked_at.iter().chain(&needs.results);
        let held = |id: &StepId| {
            let held = self.held.get(&self.machine.place_of(id)?)?;
            (!matches!(held, Held::Memory(_))).then(|| (id.clone(), held.clone()))
        };
        wanted.filter_map(held).collect()
    }

    pub(super) fn judge(&mut self, at: u32, loaded: &[(StepId, Arc<Value>)]) {
        let (machine, held) = (&mut self.machine, &self.held);
        let places: HashMap<StepId, u32> = {
            let needs = StepNeeds::of(machine.step(at));
            let ids = needs.all().filter_map(|id| Some((id.clone(), machine.place_of(id)?)));
            ids.collect()
        };
        let result = |id: &StepId| {
            let loaded = loaded.iter().find(|it| it.0 == *id).map(|it| it.1.clone());
            loaded.or_else(|| match held.get(places.get(id)?)? {
                Held::Memory(it) => Some(it.clone()),
                _ => None,
            })
        };
        machine.judge(at, &result);
    }

    /// Results that a part's arguments refer to.
    pub(super) fn inputs(&self, part: Part) -> Vec<(StepId, Held)> {
        let step = self.machine.step(part.step);
        let mut needs = orch_domain::plan::Needs::default();
        let written = match (&step.compensate, part.is_compensation) {
            (Some(it), true) => &it.arguments,
            _ => &step.arguments,
        };
        for value in written.values() {
            orch_domain::plan::collect_needs(value, &mut needs);
        }
        let own = Part { is_compensation: false, ..part };
        let held = |id: &StepId| {
            let at = self.machine.place_of(id)?;
            if at == part.step {
                return Some(Held::Stored(own));
            }
            self.held.get(&at).cloned()
        };
        needs.steps.into_iter().filter_map(|id| held(&id).map(|it| (id, it))).collect()
    }

    /// What is to be written, in order, and what of it was gathered and is too large for a row.
    pub(super) fn drain(&mut self, now: Timestamp) -> (Vec<BatchChange>, Vec<(u32, Arc<Value>)>) {
        self.absorb();
        let moved = self.machine.moved();
        self.release();
        let mut changes = std::mem::take(&mut self.defined);
        let mut rows: HashMap<Part, usize> = HashMap::with_capacity(moved.len());
        let mut large = Vec::new();
        for it in moved {
            let part = it.part;
            let mut started = self.since.get(&part).copied();
            if it.state == StepState::Running {
                started = Some(now);
                self.since.insert(part, now);
            }
            let ended = it.state.has_ended().then_some(now);
            if ended.is_some() {
                self.since.remove(&part);
            }
            let mut result = self.results.remove(&part);
            if let Some(gathered) = &it.result {
                if MAX_INLINE < weigh(gathered) {
                    self.n_gathering += 1;
                    large.push((part.step, gathered.clone()));
                } else {
                    result = Some(Kept::Inline(gathered.clone()));
                }
            }
            if part.is_compensation {
                self.times[part.step as usize].compensation = Some(it.state);
            } else if part.element.is_none() {
                let times = &mut self.times[part.step as usize];
                times.started = times.started.or(started);
                times.ended = ended;
                times.attempt = it.attempt;
                times.reason.clone_from(&it.reason);
            }
            let step = self.machine.step(part.step);
            self.transitions.push(
                now,
                Subject::Step {
                    id: step.id.clone(),
                    tool: step.tool.clone(),
                    state: it.state,
                    attempt: it.attempt,
                    reason: it.reason.clone(),
                    element: part.element,
                    compensation: part.is_compensation,
                    elapsed_ms: ended.and_then(|it| Some(it.since(started?))),
                },
            );
            let run = StepRun {
                part,
                state: it.state,
                attempt: it.attempt,
                reason: it.reason,
                result,
                started_at: started,
                ended_at: ended,
            };
            let change = BatchChange::Run { batch: self.batch.id.clone(), run: Arc::new(run) };
            // Of one part the last counts.
            match rows.get(&part) {
                Some(at) => changes[*at] = change,
                None => {
                    rows.insert(part, changes.len());
                    changes.push(change);
                }
            }
        }
        if std::mem::take(&mut self.header_changed) {
            changes.push(BatchChange::Put(Arc::new(self.batch.clone())));
        }
        (changes, large)
    }
}

impl Run {
    /// Withdraws the batch. Nothing is dispatched after it has returned. False: it had ended.
    pub(super) fn withdraw(&self, reason: Reason) -> bool {
        {
            let mut live = self.live.lock();
            if live.batch.state.has_ended() {
                return false;
            }
            live.why_withdrawn = Some(reason.clone());
            live.machine.cancel(reason);
        }
        self.work.cancel();
        self.undo.cancel();
        self.stopped.cancel();
        self.control.send(Control::Look).ok();
        true
    }

    /// It did not end by itself, and has to.
    pub(super) async fn end_abruptly(&self, reason: Reason) {
        self.work.cancel();
        self.undo.cancel();
        self.stopped.cancel();
        let header = {
            let mut live = self.live.lock();
            live.end(BatchState::Failed, Some(reason), self.clock.now());
            Arc::new(live.batch.clone())
        };
        if let Some(orch) = &self.orch {
            let written = orch.ledger.commit_batches(vec![BatchChange::Put(header)], None).await;
            if let Err(err) = written {
                tracing::error!("the end of the batch {} could not be recorded: {err}", self.id);
            }
            orch.batches.ended(self);
        }
        self.ended.cancel();
    }

    /// The server waits for it when it ends.
    #[expect(clippy::disallowed_methods, reason = "a bench has no server to end")]
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        match &self.orch {
            Some(orch) => drop(orch.tracker.spawn(work)),
            None => drop(tokio::spawn(work)),
        }
    }

    pub(super) async fn fetch(&self, held: Held) -> Result<Option<Arc<Value>>, Error> {
        match (&self.orch, held) {
            (_, Held::Memory(it)) => Ok(Some(it)),
            (Some(orch), held) => orch.fetch(&self.id, held).await,
            (None, Held::Stored(part)) => Ok(self.journal.recorded(part)),
            (None, Held::Large { .. }) => Ok(None),
        }
    }

    pub(super) async fn keep(&self, part: Part, value: &Arc<Value>) -> Result<Kept, Error> {
        match &self.orch {
            Some(orch) => orch.keep(&self.id, part, value).await,
            None => Ok(Kept::Inline(value.clone())),
        }
    }
}
