//! Which part of a batch runs when: a state machine without time, tasks or disk.
//!
//! Steps come in any order, all at once or as a planner writes them. A step is **due** when all that it needs has ended; it
//! is **judged** (its condition, its needs, its elements) and then waits in the queue for its turn. There are no levels:
//! whatever is ready runs, the longest way to the end first. Every change of state is told once, in order, by `moved`.

mod ending;
mod judge;
mod restore;
#[cfg(test)]
mod tests;
mod turn;
mod undo;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use serde_json::Value;

use super::fan::Fan;
use super::queue::{Queue, Ready};
use super::{Part, Reason, StepState};
use crate::name::StepId;
use crate::plan::{Condition, OnError, Scope, Step, StepNeeds, resolve};

/// What shares limits: a tool, by the number that whoever drives the machine gave it.
pub type Class = u32;

/// What is known of a step's tool.
#[derive(Clone, Copy, Debug)]
pub struct StepKind {
    pub class: Class,
    /// Calling it twice is calling it once.
    pub is_repeatable: bool,
    /// Milliseconds that one call takes, as far as is known.
    pub expected_ms: f64,
    /// Of what undoes it.
    pub compensation: Option<Class>,
}

/// How a part ended.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    /// Of an element: what is gathered of its result.
    Succeeded(Value),
    Failed(Reason),
    Cancelled(Reason),
    Unknown(Reason),
}

/// A change of state, to be told and kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Moved {
    pub part: Part,
    pub state: StepState,
    pub attempt: u32,
    pub reason: Option<Reason>,
    /// What was gathered of all elements.
    pub result: Option<Arc<Value>>,
}

/// How the whole ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    Succeeded,
    Failed(Reason),
    Cancelled(Reason),
}

#[derive(Clone, Debug, PartialEq)]
enum Phase {
    Running,
    /// Nothing new begins; what runs may end.
    Failing {
        reason: Reason,
        compensates: bool,
    },
    Compensating {
        reason: Reason,
    },
    Cancelled(Reason),
}

struct Node {
    step: Arc<Step>,
    kind: StepKind,
    dependents: Vec<u32>,
    needs: Vec<u32>,
    /// How many of them have not ended.
    n_open: u32,
    /// Dependents that have not ended.
    n_users: u32,
    /// Microseconds from its start to the end of the plan.
    remaining: u64,
    state: StepState,
    attempt: u32,
    /// Its condition did not hold, which is not a failure.
    is_passed_over: bool,
    fan: Option<Box<Fan>>,
}

pub struct Machine {
    nodes: Vec<Node>,
    places: HashMap<StepId, u32>,
    /// Needs of steps that have not come yet.
    awaited: HashMap<StepId, Vec<u32>>,
    queue: Queue,
    due: VecDeque<u32>,
    moved: Vec<Moved>,
    gathered: Vec<(u32, Arc<Value>)>,
    released: Vec<u32>,
    phase: Phase,
    on_error: OnError,
    max_parallel: usize,
    max_fan_out: usize,
    n_running: usize,
    /// To be tried again, and not in the queue yet; what undoes is not among them.
    n_postponed: usize,
    n_open: usize,
    /// No more steps come.
    is_closed: bool,
    /// Steps that succeeded and can be undone, in the order of their ends.
    undoable: Vec<u32>,
    undoing: Undoing,
    /// Elements that had ended before a restart, for steps that are not judged yet.
    remembered: HashMap<u32, Vec<(u32, End)>>,
    /// Elements whose last record says that they had begun, until they are told of again.
    interrupted: HashMap<u32, BTreeSet<u32>>,
    restoring: Option<Restoring>,
}

/// While what an earlier run had come to is taken up.
#[derive(Default)]
struct Restoring {
    /// How steps had ended. That stands, and need not be written again.
    ended: HashMap<u32, (StepState, Option<Reason>)>,
    /// Failures are applied when all is known.
    failures: Vec<(u32, Reason)>,
    /// Steps in the order of their ends.
    order: HashMap<u32, usize>,
    /// Why the whole was withdrawn, if it was.
    cancelled: Option<Reason>,
}

/// The step whose parts are being undone.
#[derive(Default)]
struct Undoing {
    /// With the attempt that it will be.
    waiting: Vec<(Part, u32)>,
    /// To be tried again, and not among those that wait yet.
    postponed: Vec<(Part, u32)>,
    n_running: usize,
    /// What stays as it is although it was to be undone.
    n_failed: u32,
    /// Nothing further is undone.
    is_given_up: bool,
    /// Done before a restart.
    ended: HashSet<Part>,
}

impl Machine {
    pub fn new(max_parallel: usize, max_fan_out: usize, on_error: OnError) -> Machine {
        Machine {
            nodes: Vec::new(),
            places: HashMap::new(),
            awaited: HashMap::new(),
            queue: Queue::default(),
            due: VecDeque::new(),
            moved: Vec::new(),
            gathered: Vec::new(),
            released: Vec::new(),
            phase: Phase::Running,
            on_error,
            max_parallel: max_parallel.max(1),
            max_fan_out,
            n_running: 0,
            n_postponed: 0,
            n_open: 0,
            is_closed: false,
            undoable: Vec::new(),
            undoing: Undoing::default(),
            remembered: HashMap::new(),
            interrupted: HashMap::new(),
            restoring: None,
        }
    }

    /// Takes a step without problems, and answers its place.
    pub fn add(&mut self, step: Arc<Step>, kind: StepKind) -> u32 {
        let at = u32::try_from(self.nodes.len()).expect("plans are limited far below");
        let mut seen = HashSet::new();
        let mut node = Node {
            kind,
            dependents: Vec::new(),
            needs: Vec::new(),
            n_open: 0,
            n_users: 0,
            remaining: micros(kind.expected_ms),
            state: StepState::Waiting,
            attempt: 0,
            is_passed_over: false,
            fan: None,
            step: step.clone(),
        };
        for id in StepNeeds::of(&step).all() {
            if !seen.insert(id.clone()) {
                continue;
            }
            match self.places.get(id) {
                Some(&on) => {
                    node.needs.push(on);
                    self.nodes[on as usize].n_users += 1;
                    if !self.nodes[on as usize].state.has_ended() {
                        node.n_open += 1;
                        self.nodes[on as usize].dependents.push(at);
                    }
                }
                None => {
                    node.n_open += 1;
                    self.awaited.entry(id.clone()).or_default().push(at);
                }
            }
        }
        let is_due = node.n_open == 0;
        let needs = node.needs.clone();
        self.nodes.push(node);
        self.places.insert(step.id.clone(), at);
        for waiting in self.awaited.remove(&step.id).unwrap_or_default() {
            self.nodes[at as usize].dependents.push(waiting);
            self.nodes[at as usize].n_users += 1;
            self.nodes[waiting as usize].needs.push(at);
        }
        self.n_open += 1;
        if self.phase != Phase::Running {
            self.give_up_on(at);
        } else if is_due {
            self.due.push_back(at);
        }
        if self.is_closed {
            self.lengthen(&needs);
        }
        at
    }

    /// No more steps come, until `reopen`. The longest ways to the end are known from here on.
    pub fn close(&mut self) {
        self.is_closed = true;
        self.measure();
    }

    /// A planner goes on: the batch does not end before `close`.
    pub fn reopen(&mut self) {
        self.is_closed = false;
    }

    /// Longest ways, backwards in topological order. What waits in the queue already keeps its place there.
    fn measure(&mut self) {
        let mut n_open: Vec<u32> =
            self.nodes.iter().map(|it| u32::try_from(it.dependents.len()).unwrap_or(0)).collect();
        let mut ready: Vec<usize> = (0..self.nodes.len()).filter(|at| n_open[*at] == 0).collect();
        while let Some(at) = ready.pop() {
            let node = &self.nodes[at];
            let after = node.dependents.iter().map(|it| self.nodes[*it as usize].remaining).max();
            self.nodes[at].remaining =
                micros(self.nodes[at].kind.expected_ms).saturating_add(after.unwrap_or(0));
            for i in 0..self.nodes[at].needs.len() {
                let need = self.nodes[at].needs[i] as usize;
                if n_open[need] != 0 {
                    n_open[need] -= 1;
                    if n_open[need] == 0 {
                        ready.push(need);
                    }
                }
            }
        }
    }

    /// One more step behind these: the ways through them may have become longer.
    fn lengthen(&mut self, needs: &[u32]) {
        let mut open: Vec<u32> = needs.to_vec();
        while let Some(at) = open.pop() {
            let node = &self.nodes[at as usize];
            let after = node.dependents.iter().map(|it| self.nodes[*it as usize].remaining).max();
            let new = micros(node.kind.expected_ms).saturating_add(after.unwrap_or(0));
            if node.remaining < new {
                self.nodes[at as usize].remaining = new;
                open.extend(&self.nodes[at as usize].needs);
            }
        }
    }

    pub fn place_of(&self, id: &StepId) -> Option<u32> {
        self.places.get(id).copied()
    }

    pub fn step(&self, at: u32) -> &Arc<Step> {
        &self.nodes[at as usize].step
    }

    pub fn kind(&self, at: u32) -> StepKind {
        self.nodes[at as usize].kind
    }

    pub fn state(&self, at: u32) -> StepState {
        self.nodes[at as usize].state
    }

    pub fn n_steps(&self) -> usize {
        self.nodes.len()
    }

    pub fn n_running(&self) -> usize {
        self.n_running
    }

    /// The steps that `at` needs.
    pub fn needs(&self, at: u32) -> &[u32] {
        &self.nodes[at as usize].needs
    }

    /// Elements by state; `queued` are those that have not begun.
    pub fn elements(&self, at: u32) -> Option<&[StepState]> {
        self.nodes[at as usize].fan.as_ref().map(|it| &it.states[..])
    }

    /// The array that a step runs over, once it was judged.
    pub fn items(&self, at: u32) -> Option<&Arc<Vec<Value>>> {
        self.nodes[at as usize].fan.as_ref().map(|it| &it.items)
    }

    /// What has changed since the last time, in order.
    pub fn moved(&mut self) -> Vec<Moved> {
        std::mem::take(&mut self.moved)
    }

    /// Results of steps over arrays that have ended since the last time. Whoever keeps results takes them before anything
    /// further is begun; what is judged before finds them all the same.
    pub fn gathered(&mut self) -> Vec<(u32, Arc<Value>)> {
        std::mem::take(&mut self.gathered)
    }

    /// Whether steps that are known and have not ended may take the result of `at`.
    pub fn is_needed(&self, at: u32) -> bool {
        self.nodes[at as usize].n_users != 0
    }

    /// Steps whose results no known step takes any more, since the last time.
    pub fn released(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.released)
    }

    fn tell(&mut self, part: Part, state: StepState, attempt: u32, reason: Option<Reason>) {
        if let (Some(element), false) = (part.element, part.is_compensation)
            && let Some(interrupted) = self.interrupted.get_mut(&part.step)
        {
            interrupted.remove(&element);
        }
        self.moved.push(Moved { part, state, attempt, reason, result: None });
    }

    fn fan_mut(&mut self, at: u32) -> &mut Fan {
        self.nodes[at as usize].fan.as_mut().expect("only asked of steps over an array")
    }

    fn on_error_of(&self, at: u32) -> OnError {
        self.nodes[at as usize].step.on_error.unwrap_or(self.on_error)
    }

    /// Whether a call is under way that must not be made again.
    pub fn has_unrepeatable_running(&self) -> bool {
        self.nodes.iter().any(|it| {
            let runs = match &it.fan {
                Some(fan) => 0 < fan.n_running,
                None => it.state == StepState::Running,
            };
            runs && !it.kind.is_repeatable
        }) || 0 < self.undoing.n_running
    }

    pub fn is_stopping(&self) -> bool {
        self.phase != Phase::Running
    }

    /// Whether what was done is being undone, or will be.
    pub fn is_compensating(&self) -> bool {
        matches!(self.phase, Phase::Compensating { .. } | Phase::Failing { compensates: true, .. })
    }
}

impl Part {
    pub fn of(step: u32) -> Part {
        Part { step, element: None, is_compensation: false }
    }
}

fn micros(ms: f64) -> u64 {
    // A cast from a float saturates.
    (ms.max(0.001) * 1000.0) as u64
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
