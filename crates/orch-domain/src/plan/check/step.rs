//! What is wrong with one step, beside how it stands to the others.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::arguments::Schemas;
use super::problems::Problems;
use super::shape::wrong_place;
use super::{Limits, ToolFacts, Toolbox};
use crate::name::StepId;
use crate::plan::condition::Condition;
use crate::plan::near;
use crate::plan::reference::{self, Place, REF, Reference, Segment, Source, whole, wrong_pointer};
use crate::plan::{Plan, Retry, Step};

/// Seconds.
const TIMEOUT: std::ops::RangeInclusive<f64> = 0.001..=86_400.0;
const MAX_PARALLEL: std::ops::RangeInclusive<u32> = 1..=1000;
const MOST_RETRIES: u32 = 100;
const LONGEST_BACKOFF_MS: u64 = 60_000;

/// Names that are compared with wrong ones, in all of a plan.
const MOST_COMPARED: usize = 300_000;

/// What is being checked, and what was found.
pub(super) struct Checking<'a> {
    /// Places of the steps that there are to refer to.
    pub known: &'a HashMap<StepId, usize>,
    /// By place. None: nothing is known of them but that they are there.
    pub steps: Option<&'a [Step]>,
    pub toolbox: &'a dyn Toolbox,
    pub limits: &'a Limits,
    pub problems: Problems,
    tools: HashMap<&'a str, Option<ToolFacts>>,
    schemas: Schemas,
    n_compared: usize,
}

/// Steps that one waits for, and those that what undoes it refers to.
#[derive(Default)]
pub(super) struct Waits {
    pub for_steps: Vec<usize>,
    /// With the place of the reference.
    pub to_undo: Vec<(usize, String)>,
}

/// Where a reference stands.
#[derive(Clone, Copy, PartialEq)]
enum Part {
    Arguments,
    ForEach,
    When,
    Compensation,
    Output,
}

impl<'a> Checking<'a> {
    pub(super) fn new(
        known: &'a HashMap<StepId, usize>,
        steps: Option<&'a [Step]>,
        toolbox: &'a dyn Toolbox,
        limits: &'a Limits,
    ) -> Checking<'a> {
        Checking {
            known,
            steps,
            toolbox,
            limits,
            problems: Problems::default(),
            tools: HashMap::new(),
            schemas: Schemas::default(),
            n_compared: 0,
        }
    }

    pub(super) fn step(&mut self, step: &'a Step, place: usize) -> Waits {
        let mut place = Place(vec![Segment::Key("steps"), Segment::Index(place)]);
        let mut waits = Waits::default();
        self.depends_on(step, &mut place, &mut waits);
        self.when(step, &mut place, &mut waits);
        self.for_each(step, &mut place, &mut waits);
        self.call(step, &step.tool, &step.arguments, Part::Arguments, &mut place, &mut waits);
        self.terms(step, &mut place);
        if let Some(it) = &step.compensate {
            place.within(Segment::Key("compensate"), |place| {
                self.call(step, &it.tool, &it.arguments, Part::Compensation, place, &mut waits);
            });
        }
        waits.for_steps.sort_unstable();
        waits.for_steps.dedup();
        waits.to_undo.retain(|(it, _)| waits.for_steps.binary_search(it).is_err());
        waits
    }

    pub(super) fn output(&mut self, plan: &'a Plan) {
        if let Some(output) = &plan.output {
            let mut place = Place(vec![Segment::Key("output")]);
            self.references(None, output, Part::Output, &mut place, &mut Waits::default());
        }
    }

    fn depends_on(&mut self, step: &'a Step, place: &mut Place<'a>, waits: &mut Waits) {
        for (index, id) in step.depends_on.iter().enumerate() {
            place.0.extend([Segment::Key("depends_on"), Segment::Index(index)]);
            self.wait(step, id, place, waits);
            place.0.truncate(2);
        }
    }

    fn when(&mut self, step: &'a Step, place: &mut Place<'a>, waits: &mut Waits) {
        let Some(when) = &step.when else { return };
        place.within(Segment::Key("when"), |place| {
            let (condition, wrong) = Condition::parse_in_place(when);
            for (inside, why) in wrong {
                self.problems.add(Some(&step.id), || (format!("{place}{inside}"), why));
            }
            self.references(Some(step), when, Part::When, place, waits);
            for id in condition.iter().flat_map(Condition::asks_about) {
                self.wait(step, &id, place, waits);
            }
        });
    }

    fn for_each(&mut self, step: &'a Step, place: &mut Place<'a>, waits: &mut Waits) {
        let Some(for_each) = &step.for_each else {
            let useless = [
                ("collect", step.collect.is_some()),
                ("max_parallel", step.max_parallel.is_some()),
            ];
            for (name, _) in useless.into_iter().filter(|(_, is_given)| *is_given) {
                self.wrong(step, place, name, || {
                    format!("`{name}` is about the elements of `for_each`, which this step does not have")
                });
            }
            return;
        };
        let most = self.limits.fan_out;
        match for_each {
            Value::Array(items) if most < items.len() => {
                self.wrong(step, place, "for_each", || {
                    format!("it has {} elements; at most {most} are allowed", items.len())
                });
            }
            Value::Array(_) => {}
            other if whole(other).is_some() => {}
            other => self.wrong(step, place, "for_each", || {
                let kind = reference::kind(other);
                format!("an array is wanted, or `{{\"$ref\": \"step#/pointer\"}}` to one; here is {kind}")
            }),
        }
        place.within(Segment::Key("for_each"), |place| {
            self.references(Some(step), for_each, Part::ForEach, place, waits);
        });
    }

    /// A tool with its arguments.
    fn call(
        &mut self,
        step: &'a Step,
        tool: &'a str,
        arguments: &'a Map<String, Value>,
        part: Part,
        place: &mut Place<'a>,
        waits: &mut Waits,
    ) {
        let facts = self.tool(step, tool, place);
        place.within(Segment::Key("arguments"), |place| {
            if arguments.contains_key(REF) {
                self.problems.add(Some(&step.id), || {
                    let why = "arguments are referred to one by one, as in `{\"name\": {\"$ref\": \"step#/pointer\"}}`, \
                               and not as a whole";
                    (place.to_string(), why.to_owned())
                });
                return;
            }
            for (name, value) in arguments {
                place.within(Segment::Key(name), |place| {
                    self.references(Some(step), value, part, place, waits);
                });
            }
            if let Some(facts) = facts {
                for fault in self.schemas.faults(&facts, arguments, place) {
                    let what = || (fault.place, format!("`{}`: {}", facts.name, fault.message));
                    self.problems.add(Some(&step.id), what);
                }
            }
        });
    }

    /// One that is not there and one that the caller may not use look the same.
    fn tool(&mut self, step: &Step, name: &'a str, place: &mut Place<'a>) -> Option<ToolFacts> {
        let toolbox = self.toolbox;
        let facts = self.tools.entry(name).or_insert_with(|| toolbox.tool(name)).clone();
        if facts.is_none() {
            self.wrong(step, place, "tool", || {
                let meant = near::said(&toolbox.nearest(name));
                let name = crate::text::excerpt(name, 100);
                format!("there is no tool `{name}` that you may use{meant}; `search_tools` finds tools by what they do")
            });
        }
        facts
    }

    fn terms(&mut self, step: &'a Step, place: &mut Place<'a>) {
        if let Some(it) = step.timeout.filter(|it| !TIMEOUT.contains(it)) {
            self.wrong(step, place, "timeout", || {
                format!("{it} seconds are given; from 0.001 to 86400 are allowed")
            });
        }
        if let Some(it) = step.max_parallel.filter(|it| !MAX_PARALLEL.contains(it)) {
            self.wrong(step, place, "max_parallel", || {
                format!("{it} is given; from 1 to 1000 are allowed")
            });
        }
        if let Some(Retry { max, backoff_ms }) = step.retry {
            place.within(Segment::Key("retry"), |place| {
                if MOST_RETRIES < max {
                    self.wrong(step, place, "max", || {
                        format!("{max} is given; at most {MOST_RETRIES} are allowed")
                    });
                }
                if LONGEST_BACKOFF_MS < backoff_ms {
                    self.wrong(step, place, "backoff_ms", || {
                        format!("{backoff_ms} is given; at most {LONGEST_BACKOFF_MS} are allowed")
                    });
                }
            });
        }
        if let Some(pointer) = &step.collect
            && let Some(why) = wrong_pointer(pointer).or_else(|| wrong_place(pointer, false))
        {
            self.wrong(step, place, "collect", || why);
        }
    }

    /// What `value` refers to. `step` is whose it is.
    fn references(
        &mut self,
        step: Option<&'a Step>,
        value: &'a Value,
        part: Part,
        place: &mut Place<'a>,
        waits: &mut Waits,
    ) {
        reference::visit(value, place, &mut |place, it| match it {
            Ok(reference) => self.reference(step, &reference, part, place, waits),
            // The condition said so itself.
            Err(_) if part == Part::When => {}
            Err(err) => {
                self.problems.add(step.map(|it| &it.id), || (place.to_string(), err.to_string()));
            }
        });
    }

    fn reference(
        &mut self,
        step: Option<&'a Step>,
        it: &Reference<'_>,
        part: Part,
        place: &Place<'a>,
        waits: &mut Waits,
    ) {
        let step_id = step.map(|it| &it.id);
        let Source::Step(id) = &it.source else {
            let has_element = matches!(part, Part::Arguments | Part::Compensation)
                && step.is_some_and(|it| it.for_each.is_some());
            if !has_element {
                let why = match (part, step) {
                    (Part::When | Part::ForEach, _) => {
                        "`when` and `for_each` are looked at once, before there are elements"
                    }
                    (_, None) => {
                        "there are elements only inside a step with `for_each`; its result has them in \
                                  `/structuredContent/items`"
                    }
                    _ => "there are elements only in a step with `for_each`, and this one has none",
                };
                self.problems
                    .add(step_id, || (place.to_string(), format!("`{}`: {why}", it.written)));
            }
            return;
        };
        if part == Part::Compensation && step_id == Some(id) {
            // Of a step with `for_each` it is what one element came to.
            self.points_somewhere(step_id, it, false, place);
            return;
        }
        let Some(to) = self.known_step(step, id, place) else { return };
        let fans_out = self.steps.is_some_and(|it| it[to].for_each.is_some());
        self.points_somewhere(step_id, it, fans_out, place);
        match part {
            Part::Compensation => waits.to_undo.push((to, place.to_string())),
            _ => waits.for_steps.push(to),
        }
    }

    fn points_somewhere(
        &mut self,
        step: Option<&StepId>,
        it: &Reference<'_>,
        fans_out: bool,
        place: &Place<'a>,
    ) {
        if let Some(why) = wrong_place(it.pointer, fans_out) {
            self.problems.add(step, || (place.to_string(), format!("`{}`: {why}", it.written)));
        }
    }

    fn wait(&mut self, step: &Step, id: &StepId, place: &Place<'a>, waits: &mut Waits) {
        waits.for_steps.extend(self.known_step(Some(step), id, place));
    }

    /// Where the step is that `step` asks for.
    fn known_step(&mut self, step: Option<&Step>, id: &StepId, place: &Place<'a>) -> Option<usize> {
        let step_id = step.map(|it| &it.id);
        if step_id == Some(id) {
            self.problems.add(step_id, || {
                (
                    place.to_string(),
                    format!("`{id}` is this step itself, which would wait for itself for ever"),
                )
            });
            return None;
        }
        if let Some(at) = self.known.get(id) {
            return Some(*at);
        }
        let (known, n_compared) = (self.known, &mut self.n_compared);
        let there = if self.steps.is_some() { "" } else { " before this one" };
        self.problems.add(step_id, || {
            let names = known.keys().map(StepId::as_str).take(MOST_COMPARED - *n_compared);
            let meant = near::hint(id.as_str(), names.inspect(|_| *n_compared += 1));
            (place.to_string(), format!("there is no step `{id}`{there}{meant}"))
        });
        None
    }

    fn wrong(
        &mut self,
        step: &Step,
        place: &mut Place<'a>,
        member: &'static str,
        why: impl FnOnce() -> String,
    ) {
        place.within(Segment::Key(member), |place| {
            self.problems.add(Some(&step.id), || (place.to_string(), why()));
        });
    }
}
