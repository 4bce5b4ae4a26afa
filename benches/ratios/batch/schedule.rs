//! How near the order of steps comes to the quickest there can be: the engine's machine, driven through time that a
//! simulation counts, so that nothing but the order matters. What the engine adds to it in real time is measured beside.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;

use orch_domain::batch::{End, Machine, Outcome, StepKind};
use orch_domain::plan::{OnError, Plan, Step, critical_path};
use serde_json::Value;

use super::graphs::{self, Random};
use crate::Figure;

const N_GRAPHS: usize = 400;
const N_STEPS: usize = 100;
const LIMIT: u32 = 10;
/// Tools of the learning runs: each has a usual time, from which its calls differ.
const N_TOOLS: usize = 12;

pub(super) fn measure() -> Vec<Figure> {
    let (mut known, mut learnt) = (known(), learnt());
    let mut levels = levels();
    vec![
        figure(
            "batch: makespan over the lower bound, known times, p50",
            &mut known,
            0.5,
            1.01,
            &mut levels,
        ),
        figure(
            "batch: makespan over the lower bound, known times, p95",
            &mut known,
            0.95,
            1.05,
            &mut levels,
        ),
        figure(
            "batch: makespan over the lower bound, learnt times, p95",
            &mut learnt,
            0.95,
            1.10,
            &mut levels,
        ),
    ]
}

fn figure(
    name: &'static str,
    ratios: &mut [f64],
    share: f64,
    limit: f64,
    levels: &mut [f64],
) -> Figure {
    let (ours, theirs) = (at(ratios, share), at(levels, share));
    Figure {
        name,
        measured: format!("{ours:.3}"),
        floor: format!("{theirs:.2} (level by level)"),
        limit: format!("{limit}"),
        holds: ours <= limit,
    }
}

fn at(samples: &mut [f64], share: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[((samples.len() as f64 * share).ceil() as usize).clamp(1, samples.len()) - 1]
}

/// A graph of `N_STEPS` and how many milliseconds each step takes. Each step has a tool of its own.
fn graph(seed: u64) -> (Plan, Vec<f64>) {
    let mut random = Random(0x5eed ^ seed);
    let mut times = Vec::with_capacity(N_STEPS);
    let most = 1 + random.below(4);
    let plan = graphs::random(N_STEPS, most, 30, &mut random, &mut |at, random| {
        times.push((random.normal()).exp() * 50.0);
        format!("bench.t{at}")
    });
    (plan, times)
}

/// How many milliseconds the machine takes for a plan whose steps take `times`, of which it knows what is expected.
fn makespan(plan: &Plan, times: &[f64], expected: &dyn Fn(&Step) -> f64) -> f64 {
    let mut machine = Machine::new(LIMIT as usize, 0, OnError::Fail);
    for step in &plan.steps {
        let expected_ms = expected(step);
        let kind = StepKind { class: 0, is_repeatable: true, expected_ms, compensation: None };
        machine.add(Arc::new(step.clone()), kind);
    }
    machine.close();
    // In microseconds, which sort.
    let mut running = BinaryHeap::new();
    let mut now = 0_u64;
    loop {
        while let Some(at) = machine.next_due() {
            machine.judge(at, &|_| None);
        }
        while let Some((part, attempt)) = machine.next(&mut |_| true) {
            let ends = now + (times[part.step as usize] * 1000.0) as u64;
            running.push(Reverse((ends, part, attempt)));
        }
        drop(machine.moved());
        match machine.outcome() {
            Some(outcome) => {
                assert_eq!(outcome, Outcome::Succeeded);
                return now as f64 / 1000.0;
            }
            None => {
                let Reverse((ends, part, attempt)) = running.pop().expect("something runs");
                now = ends;
                machine.ended(part, attempt, End::Succeeded(Value::Null));
            }
        }
    }
}

fn place(step: &Step) -> usize {
    step.id.as_str()[1..].parse().expect("a number")
}

/// Nothing is quicker than the longest way, or than all work shared evenly.
fn lower_bound(plan: &Plan, times: &[f64]) -> f64 {
    let path = critical_path(plan, &|step| times[place(step)]).milliseconds;
    path.max(times.iter().sum::<f64>() / f64::from(LIMIT))
}

fn known() -> Vec<f64> {
    let ratio = |seed| {
        let (plan, times) = graph(seed as u64);
        let expected = |step: &Step| times[place(step)];
        makespan(&plan, &times, &expected) / lower_bound(&plan, &times)
    };
    (0..N_GRAPHS).map(ratio).collect()
}

/// Each tool has a usual time; what is expected is the average that the engine learns, call by call over all graphs.
fn learnt() -> Vec<f64> {
    const ALPHA: f64 = 0.2;
    let mut usual = Random(7);
    let usual: Vec<f64> = (0..N_TOOLS).map(|_| usual.normal().exp() * 50.0).collect();
    let mut average: HashMap<String, f64> = HashMap::new();
    let mut ratios = Vec::new();
    for seed in 0..N_GRAPHS {
        let mut random = Random(0x1ea4_0000 ^ seed as u64);
        let (mut tools, mut times) = (Vec::new(), Vec::new());
        let most = 1 + random.below(4);
        let plan = graphs::random(N_STEPS, most, 30, &mut random, &mut |_, random| {
            let tool = random.below(N_TOOLS);
            tools.push(tool);
            times.push(usual[tool] * (random.normal() * 0.3).exp());
            format!("bench.t{tool}")
        });
        let expected = |step: &Step| average.get(&step.tool).copied().unwrap_or(100.0);
        ratios.push(makespan(&plan, &times, &expected) / lower_bound(&plan, &times));
        for (tool, ms) in tools.iter().zip(&times) {
            average
                .entry(format!("bench.t{tool}"))
                .and_modify(|it| *it += ALPHA * (ms - *it))
                .or_insert(*ms);
        }
    }
    ratios
}

/// What engines come to that finish a level before they begin the next.
fn levels() -> Vec<f64> {
    let mut ratios = Vec::new();
    for seed in 0..N_GRAPHS {
        let (plan, times) = graph(seed as u64);
        let mut level = vec![0_usize; N_STEPS];
        for (at, step) in plan.steps.iter().enumerate() {
            let needs = step
                .depends_on
                .iter()
                .map(|it| it.as_str()[1..].parse::<usize>().expect("a number"));
            level[at] = needs.map(|it| level[it] + 1).max().unwrap_or(0);
        }
        let deepest = level.iter().max().copied().unwrap_or(0);
        let mut whole = 0.0;
        for wanted in 0..=deepest {
            // In the order of the plan, each to the place that is free first.
            let mut free = vec![0.0_f64; LIMIT as usize];
            for at in (0..N_STEPS).filter(|at| level[*at] == wanted) {
                let first = free.iter_mut().min_by(|a, b| a.total_cmp(b)).expect("places");
                *first += times[at];
            }
            whole += free.into_iter().fold(0.0, f64::max);
        }
        ratios.push(whole / lower_bound(&plan, &times));
    }
    ratios
}
