//! The engine with calls that do nothing: what is left is its own time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use orch_core::Cx;
use orch_core::service::batch::bench::{Report, Setup, run_plan};
use orch_core::service::batch::{Ask, StepCalls, Target, Wanted};
use orch_core::service::bootstrap::Users;
use orch_domain::Error;
use orch_domain::caller::{Caller, Channel, Permission};
use orch_domain::name::UserId;
use orch_domain::plan::Plan;
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use super::AnyTool;
use super::graphs::{self, Random};
use crate::{Figure, fixture, percentile, show};

const N_GRAPH: usize = 1_000;
const LIMIT: usize = 10;
const N_CHAIN: usize = 100;
const N_MANY: usize = 100_000;
const N_ROUNDS: usize = 15;

pub(super) struct Nothing;

impl StepCalls for Nothing {
    fn call(
        &self,
        _: &Target,
        _: Map<String, Value>,
        _: CancellationToken,
    ) -> BoxFuture<'static, Result<Value, Error>> {
        futures::future::ready(Ok(json!({"content": []}))).boxed()
    }
}

pub(super) async fn measure() -> Vec<Figure> {
    let mut figures = overhead().await;
    figures.extend(chain().await);
    figures.push(many().await);
    figures
}

/// From the moment that a step can run to its call: the last call that it needs has returned, and one of the places to run
/// in is free. At any moment at most `LIMIT` run, so the n-th call has its place when n - `LIMIT` have returned.
#[expect(clippy::disallowed_methods, reason = "what is measured is a task's beginning")]
async fn overhead() -> Vec<Figure> {
    let mut waits = Vec::new();
    for round in 0..N_ROUNDS {
        let mut random = Random(round as u64);
        let plan =
            graphs::random(N_GRAPH, 3, 50, &mut random, &mut |_, _| "bench.nothing".to_owned());
        let setup = Setup { max_parallel: LIMIT as u32, is_timed: true, ..Setup::default() };
        let report = run_plan(plan.clone(), &AnyTool, Arc::new(Nothing), &setup).await;
        waits.extend(waits_of(&plan, &report));
    }
    let (p50, p99) = (percentile(&mut waits, 0.5), percentile(&mut waits, 0.99));
    let mut tasks = Vec::new();
    for _ in 0..2_000 {
        let started = Instant::now();
        let ran = tokio::spawn(async move { started.elapsed() });
        tasks.push(ran.await.expect("it ran"));
    }
    let floor = format!("{} (a spawned task begins)", show(percentile(&mut tasks, 0.5)));
    let figure = |name, measured, limit: u64| Figure {
        name,
        measured: show(measured),
        floor: floor.clone(),
        limit: format!("{limit} µs"),
        holds: measured <= Duration::from_micros(limit),
    };
    vec![
        figure("batch: ready to called, 1,000 steps that do nothing, p50", p50, 20),
        figure("batch: ready to called, 1,000 steps that do nothing, p99", p99, 100),
    ]
}

fn waits_of(plan: &Plan, report: &Report) -> Vec<Duration> {
    let mut times = vec![None; plan.steps.len()];
    for it in &report.timings {
        times[it.part.step as usize] = Some((it.called, it.returned));
    }
    let mut calls: Vec<usize> = (0..plan.steps.len()).filter(|at| times[*at].is_some()).collect();
    calls.sort_by_key(|at| times[*at].map(|it| it.0));
    let mut returns: Vec<_> = times.iter().flatten().map(|it| it.1).collect();
    returns.sort_unstable();
    let place = |id: &str| id[1..].parse::<usize>().expect("a number");
    let waits = calls.iter().enumerate().filter_map(|(n, at)| {
        let needs = plan.steps[*at].depends_on.iter();
        let needed = needs.filter_map(|it| Some(times[place(it.as_str())]?.1)).max();
        let ready = needed.max(n.checked_sub(LIMIT).map(|it| returns[it]))?;
        Some(times[*at]?.0.saturating_duration_since(ready))
    });
    waits.collect()
}

async fn chain() -> Vec<Figure> {
    let steps = (0..N_CHAIN).map(|at| graphs::step(at, "bench.nothing", at.checked_sub(1)));
    let plan = Plan::of(steps.collect());
    let mut took = Vec::new();
    for _ in 0..N_ROUNDS {
        let started = Instant::now();
        run_plan(plan.clone(), &AnyTool, Arc::new(Nothing), &Setup::default()).await;
        took.push(started.elapsed());
    }
    let in_memory = percentile(&mut took, 0.5);
    // The same through the whole: gate, audit of the acceptance, journal.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let orch = fixture::open(dir.path());
    orch.bootstrap_users(Users::Local).await.expect("an administrator");
    let (mut whole, mut floor) = (Vec::new(), Vec::new());
    let mut file = fs_err::File::create(dir.path().join("floor")).expect("a file");
    let admin = UserId::try_new("user-admin-001").expect("an id");
    for _ in 0..N_ROUNDS {
        let started = Instant::now();
        std::io::Write::write_all(&mut file, &[0; 1024]).expect("written");
        file.sync_data().expect("synced");
        floor.push(started.elapsed());
        let steps = (0..N_CHAIN).map(|at| graphs::step(at, "list_nodes", at.checked_sub(1)));
        let plan = Plan::of(steps.collect());
        let caller = Caller::new(admin.clone(), Permission::ALL.to_vec(), Channel::Rest);
        let wanted = Wanted {
            ask: Ask::Plan(plan),
            max_parallel: None,
            step_timeout: None,
            retries: None,
            deadline: None,
            client_token: None,
            arguments_hash: String::new(),
        };
        let started = Instant::now();
        let cx = Cx::new(Some(caller));
        let accepted = orch.begin_batch(wanted, &cx).await.expect("a batch");
        accepted.ended.cancelled().await;
        whole.push(started.elapsed());
        let seen = orch.view_batch(&accepted.id, &cx).await.expect("it is there");
        assert_eq!(seen.steps.succeeded, N_CHAIN as u32, "{seen:?}");
    }
    let (whole, floor) = (percentile(&mut whole, 0.5), percentile(&mut floor, 0.5));
    vec![
        Figure {
            name: "batch: a chain of 100 steps that do nothing, in memory, p50",
            measured: show(in_memory),
            floor: "-".to_owned(),
            limit: "5 ms".to_owned(),
            holds: in_memory <= Duration::from_millis(5),
        },
        Figure {
            name: "batch: a chain of 100 `list_nodes`, durable from acceptance to end, p50",
            measured: show(whole),
            floor: format!("{} (one fdatasync)", show(floor)),
            limit: "-".to_owned(),
            holds: true,
        },
    ]
}

async fn many() -> Figure {
    let mut rates = Vec::new();
    for _ in 0..3 {
        let steps = (0..N_MANY).map(|at| graphs::step(at, "bench.nothing", None));
        let plan = Plan::of(steps.collect());
        let setup = Setup { max_parallel: 1_000, ..Setup::default() };
        let report = run_plan(plan, &AnyTool, Arc::new(Nothing), &setup).await;
        assert!(report.steps.iter().all(|it| it.state == orch_domain::batch::StepState::Succeeded));
        rates.push(N_MANY as f64 / report.took.as_secs_f64());
    }
    rates.sort_by(f64::total_cmp);
    Figure {
        name: "batch: steps that do nothing, 100,000 of one plan, in memory",
        measured: format!("{:.0}/s", rates[1]),
        floor: "-".to_owned(),
        limit: "50,000/s".to_owned(),
        holds: 50_000.0 <= rates[1],
    }
}
