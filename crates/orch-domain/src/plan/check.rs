//! What is wrong with a plan, all of it at once and before anything runs.

mod arguments;
mod order;
mod problems;
mod shape;
mod step;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use self::order::{Ancestors, Edges};
use self::step::Checking;
use super::{Plan, Step, VERSION};
use crate::name::StepId;

/// Edges that are gone along to find out who waits for whom over others.
const MOST_EDGES: usize = 5_000_000;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Problem {
    /// A JSON Pointer into the plan, such as `/steps/3/arguments/name`.
    pub place: String,
    /// The step that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<StepId>,
    /// What is wrong, what there is, and what to do.
    pub message: String,
}

/// What a plan may be at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub steps: usize,
    /// Steps that wait for one another, one after the other.
    pub depth: usize,
    /// Elements of one `for_each`.
    pub fan_out: usize,
}

impl Limits {
    pub const DEFAULT: Limits = Limits { steps: 100_000, depth: 10_000, fan_out: 100_000 };
}

/// What is known of a tool that the caller may use.
#[derive(Clone, Debug)]
pub struct ToolFacts {
    /// Canonical: `server.tool`.
    pub name: Arc<str>,
    pub server: Arc<str>,
    pub input_schema: Arc<Value>,
    pub is_read_only: bool,
    /// Calling it twice is calling it once; true for what only reads.
    pub is_idempotent: bool,
}

/// The tools that the caller of a batch sees.
pub trait Toolbox: Send + Sync {
    /// By its canonical name; an own operation also by its bare one.
    fn tool(&self, name: &str) -> Option<ToolFacts>;

    /// Names that are nearest to one that is not there.
    fn nearest(&self, name: &str) -> Vec<String>;
}

/// Everything that is wrong with a plan, at most 100 problems and a note of how many more; nothing when it can run.
///
/// Time is bounded whatever the tools' schemas say: arguments that would take too long to judge are not judged, and neither
/// are those that references stand for.
pub fn check(plan: &Plan, tools: &dyn Toolbox, limits: &Limits) -> Vec<Problem> {
    let mut known = HashMap::with_capacity(plan.steps.len());
    for (place, step) in plan.steps.iter().enumerate() {
        known.entry(step.id.clone()).or_insert(place);
    }
    let mut checking = Checking::new(&known, Some(&plan.steps), tools, limits);
    if plan.version != VERSION {
        checking.problems.add(None, || {
            let message =
                format!("the plan is of version {}; version {VERSION} is understood", plan.version);
            ("/version".to_owned(), message)
        });
    }
    let (n_steps, most) = (plan.steps.len(), limits.steps);
    if n_steps == 0 || most < n_steps {
        checking.problems.add(None, || {
            let message = match n_steps {
                0 => "a plan has at least one step".to_owned(),
                _ => format!("the plan has {n_steps} steps; at most {most} are allowed"),
            };
            ("/steps".to_owned(), message)
        });
        return checking.problems.finish();
    }
    let mut edges = Edges::with_capacity(n_steps);
    let mut to_undo = Vec::new();
    for (place, step) in plan.steps.iter().enumerate() {
        if known[&step.id] != place {
            checking.problems.add(Some(&step.id), || twice(&step.id, place, known[&step.id]));
        }
        let waits = checking.step(step, place);
        to_undo.extend(waits.to_undo.into_iter().map(|(to, at)| (place, to, at)));
        edges.push(waits.for_steps);
    }
    checking.output(plan);
    check_order(plan, &edges, &to_undo, &mut checking);
    checking.problems.finish()
}

/// As `check`, of one step that comes behind `known` ones, as a planner writes them: it can refer to those only.
/// `known` has their places. `place` is where it is itself.
pub fn check_step(
    step: &Step,
    place: usize,
    known: &HashMap<StepId, usize>,
    tools: &dyn Toolbox,
) -> Vec<Problem> {
    let limits = Limits::DEFAULT;
    let mut checking = Checking::new(known, None, tools, &limits);
    if let Some(first) = known.get(&step.id) {
        checking.problems.add(Some(&step.id), || twice(&step.id, place, *first));
    }
    checking.step(step, place);
    checking.problems.finish()
}

fn twice(id: &StepId, place: usize, first: usize) -> (String, String) {
    (format!("/steps/{place}/id"), format!("`{id}` is the id of `/steps/{first}` already"))
}

/// Circles, and without any what depends on the order: how deep the plan is, and who comes before whom.
fn check_order(
    plan: &Plan,
    edges: &Edges,
    to_undo: &[(usize, usize, String)],
    checking: &mut Checking<'_>,
) {
    let id = |place: usize| &plan.steps[place].id;
    let mut has_cycles = false;
    let order = order::order(edges, |cycle| {
        has_cycles = true;
        checking.problems.add(Some(id(cycle[0])), || {
            let message = format!("these steps wait for one another: {}", circle(cycle, id));
            (format!("/steps/{}", cycle[0]), message)
        });
    });
    if has_cycles {
        return;
    }
    let levels = order::levels(edges, &order);
    let deepest = order.iter().copied().max_by_key(|it| levels[*it]).unwrap_or(0);
    let (depth, most) = (levels[deepest], checking.limits.depth);
    if most < depth {
        checking.problems.add(Some(id(deepest)), || {
            let message =
                format!("{depth} steps wait for one another up to this one; at most {most} may");
            (format!("/steps/{deepest}"), message)
        });
    }
    let mut ancestors = Ancestors::new(edges, &levels, MOST_EDGES);
    for (step, to, place) in to_undo {
        if ancestors.has(*step, *to) == Some(false) {
            checking.problems.add(Some(id(*step)), || {
                let message = format!(
                    "`{}` may not have run when `{}` is undone; refer to the step itself or to what it waits for, or name \
                     it in `depends_on`",
                    id(*to),
                    id(*step)
                );
                (place.clone(), message)
            });
        }
    }
}

/// `a → b → a`, cut in the middle when it is long.
fn circle<'a>(cycle: &[usize], id: impl Fn(usize) -> &'a StepId) -> String {
    const SHOWN: usize = 12;
    let mut names: Vec<String> =
        cycle.iter().take(SHOWN).map(|it| format!("`{}`", id(*it))).collect();
    if SHOWN < cycle.len() {
        names.push(format!("({} more)", cycle.len() - SHOWN));
    }
    names.push(format!("`{}`", id(cycle[0])));
    names.join(" → ")
}
