//! Any plan with any faults: what holds whatever happens.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use orch_domain::batch::{BatchState, StepState};
use orch_domain::plan::{OnError, Plan};
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::super::bench::{self, Record, Report, Rows, Setup};
use super::super::slots::{Limits, Slots};
use super::scripted::{Act, AnyTool, Call, Caller, Scripted, plan};

const TOOLS: [&str; 4] = ["one.write", "one.read", "two.write", "two.read"];

#[derive(Clone, Debug)]
struct StepSpec {
    /// Before it in the plan, each by its place modulo its own.
    needs: Vec<(usize, bool)>,
    tool: usize,
    acts: Vec<Act>,
    on_error: Option<usize>,
    when: Option<(usize, usize)>,
    for_each: Option<(usize, Option<u32>)>,
    retries: Option<u32>,
    undone_by: Option<(usize, Act)>,
}

#[derive(Clone)]
struct Spec {
    steps: Vec<StepSpec>,
    on_error: usize,
    max_parallel: u32,
    retries: u32,
    of_server: u32,
    of_tool: u32,
    /// Milliseconds.
    deadline: u64,
    flush: u64,
    cancel_after: Option<u64>,
    /// Of a thousand, how many of its commits survive.
    crash_at: usize,
    n_room: Option<usize>,
    /// The places of the steps, shuffled by their rank.
    order: Vec<u32>,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        10 => (0..50_u64).prop_map(|after_ms| Act::Succeed { after_ms }),
        2 => (0..50_u64).prop_map(|after_ms| Act::ToolError { after_ms }),
        2 => (0..50_u64).prop_map(|after_ms| Act::Unavailable { after_ms }),
        1 => Just(Act::Hang),
        1 => Just(Act::Panic),
        1 => (0..50_u64).prop_map(|after_ms| Act::PanicLater { after_ms }),
    ]
}

prop_compose! {
    fn step()(
        needs in prop::collection::vec((0..100_usize, any::<bool>()), 0..3),
        tool in 0..TOOLS.len(),
        acts in prop::collection::vec(act(), 1..4),
        on_error in prop::option::weighted(0.5, 0..3_usize),
        when in prop::option::weighted(0.2, (0..100_usize, 0..5_usize)),
        for_each in prop::option::weighted(0.25, (0..6_usize, prop::option::of(1..4_u32))),
        retries in prop::option::weighted(0.2, 0..3_u32),
        undone_by in prop::option::weighted(0.4, (0..TOOLS.len(), act())),
    ) -> StepSpec {
        StepSpec { needs, tool, acts, on_error, when, for_each, retries, undone_by }
    }
}

prop_compose! {
    fn spec()(
        steps in prop::collection::vec(step(), 1..14),
        on_error in 0..3_usize,
        max_parallel in 1..6_u32,
        retries in 0..3_u32,
        of_server in 1..4_u32,
        of_tool in 1..3_u32,
        deadline in prop_oneof![1 => 0..300_u64, 3 => Just(3_600_000)],
        flush in 0..5_u64,
        cancel_after in prop::option::of(0..100_u64),
        crash_at in 0..=1000_usize,
        n_room in prop::option::weighted(0.5, 0..12_usize),
        order in prop::collection::vec(any::<u32>(), 14),
    ) -> Spec {
        Spec {
            steps, on_error, max_parallel, retries, of_server, of_tool, deadline, flush,
            cancel_after, crash_at, n_room, order,
        }
    }
}

impl std::fmt::Debug for Spec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Spec { max_parallel, retries, of_server, of_tool, deadline, flush, .. } = self;
        let Spec { cancel_after, crash_at, n_room, .. } = self;
        writeln!(
            f,
            "max_parallel {max_parallel} retries {retries} of_server {of_server} of_tool {of_tool} deadline {deadline} flush {flush} cancel {cancel_after:?} crash {crash_at} room {n_room:?} on_error {}",
            ON_ERROR[self.on_error]
        )?;
        for (at, it) in self.steps.iter().enumerate() {
            writeln!(f, "s{at}: {it:?}")?;
        }
        write!(f, "{}", serde_json::to_string(&self.plan()).unwrap_or_default())
    }
}

const ON_ERROR: [&str; 3] = ["fail", "continue", "compensate"];

impl Spec {
    fn plan(&self) -> Plan {
        let mut steps: Vec<(u32, Value)> = Vec::new();
        for (at, it) in self.steps.iter().enumerate() {
            let mut step = json!({"id": format!("s{at}"), "tool": TOOLS[it.tool], "arguments": {}});
            let mut after = Vec::new();
            for (n, (need, is_taken)) in it.needs.iter().enumerate().filter(|_| at != 0) {
                let need = format!("s{}", need % at);
                if *is_taken {
                    // There in every result of a tool, and of a fan.
                    let pointer = format!("{need}#/structuredContent");
                    step["arguments"][format!("from_{n}")] = json!({"$ref": pointer});
                } else if !after.contains(&need) {
                    after.push(need);
                }
            }
            step["depends_on"] = json!(after);
            if let Some((need, kind)) = it.when.filter(|_| at != 0) {
                let is_fan = self.steps[need % at].for_each.is_some();
                let need = format!("s{}", need % at);
                let member = if is_fan { "count" } else { "step" };
                step["when"] = match kind {
                    0 => json!({"succeeded": need}),
                    1 => json!({"failed": need}),
                    2 => json!({"ended": need}),
                    3 => json!({"$ref": format!("{need}#/structuredContent/{member}")}),
                    _ => json!({"skipped": need}),
                };
            }
            if let Some((n, max)) = it.for_each {
                step["for_each"] = json!((0..n).collect::<Vec<_>>());
                step["arguments"]["index"] = json!({"$ref": "index#"});
                if let Some(max) = max {
                    step["max_parallel"] = json!(max);
                }
            }
            if let Some(max) = it.retries {
                step["retry"] = json!({"max": max, "backoff_ms": 20});
            }
            if let Some(on_error) = it.on_error {
                step["on_error"] = json!(ON_ERROR[on_error]);
            }
            if let Some((tool, _)) = it.undone_by {
                step["compensate"] = json!({"tool": TOOLS[tool], "arguments": {}});
            }
            steps.push((self.order[at], step));
        }
        steps.sort_by_key(|it| it.0);
        let steps: Vec<Value> = steps.into_iter().map(|it| it.1).collect();
        plan(json!({"steps": steps, "on_error": ON_ERROR[self.on_error]}))
    }

    fn script(&self, record: Option<Arc<Record>>) -> Arc<Scripted> {
        let mut acts = HashMap::new();
        for (at, it) in self.steps.iter().enumerate() {
            acts.insert(format!("s{at}"), it.acts.clone());
            if let Some((_, act)) = it.undone_by {
                acts.insert(format!("undo-s{at}"), vec![act]);
            }
        }
        Arc::new(Scripted { acts: parking_lot::Mutex::new(acts), record, ..Scripted::default() })
    }

    fn setup(&self, record: Option<Arc<Record>>) -> Setup {
        let named = HashMap::from([("two.read".to_owned(), self.of_tool)]);
        let limits = Limits { total: 1000, per_server: self.of_server, named };
        Setup {
            max_parallel: self.max_parallel,
            step_timeout: Duration::from_millis(200),
            retries: self.retries,
            deadline: Duration::from_millis(self.deadline),
            slots: Slots::new(limits),
            record,
            ..Setup::default()
        }
    }
}

/// What holds of every batch that has ended.
fn check(spec: &Spec, plan: &Plan, script: &Scripted, report: &Report) {
    assert_eq!(*script.wrongs.lock(), Vec::<String>::new());
    assert!(report.state.has_ended());
    let is_told = report.reason.as_ref().is_some_and(|it| !it.message.is_empty());
    assert_eq!(is_told, report.state != BatchState::Succeeded, "{:?}", report.reason);
    for (step, it) in plan.steps.iter().zip(&report.steps) {
        assert!(it.state.has_ended(), "{} is {:?}", it.id, it.state);
        let is_told = it.reason.as_ref().is_some_and(|it| !it.message.is_empty());
        assert_eq!(is_told, it.state != StepState::Succeeded, "{}: {:?}", it.id, it.reason);
        let code = it.reason.as_ref().map_or("", |it| &it.code);
        assert_ne!(
            code, "InvalidParameter",
            "{}: what is referred to is there: {:?}",
            it.id, it.reason
        );
        let is_unanswered =
            it.reason.as_ref().is_some_and(|it| it.message.contains("cannot be answered"));
        let looks = step.when.as_ref().is_some_and(|it| it.get("$ref").is_some());
        let is_there = |need: &orch_domain::name::StepId| {
            let need = report.steps.iter().find(|it| it.id == *need).unwrap();
            need.state == StepState::Succeeded
        };
        let needs = orch_domain::plan::StepNeeds::of(step);
        if is_unanswered {
            assert!(looks && !needs.looked_at.iter().all(is_there), "{}: {:?}", it.id, it.reason);
        }
        for element in it.elements.iter().flatten() {
            assert!(element.has_ended(), "an element of {} is {element:?}", it.id);
        }
        let is_bad = matches!(it.state, StepState::Failed | StepState::Unknown);
        if is_bad && step.on_error.unwrap_or(plan.on_error) != OnError::Continue {
            assert_ne!(report.state, BatchState::Succeeded, "{} is {:?}", it.id, it.state);
        }
        if let Some(undone) = it.compensation {
            assert!(undone.has_ended(), "undoing {} is {undone:?}", it.id);
            assert_ne!(report.state, BatchState::Succeeded);
        }
    }
    check_order(plan, &script.calls.lock());
    check_limits(spec, &script.calls.lock());
    check_undoing(plan, &script.calls.lock(), report);
}

fn check_order(plan: &Plan, calls: &[Call]) {
    let last_end = |step: &str| {
        let of_step = calls.iter().filter(|it| it.step == step);
        of_step.map(|it| it.ended.expect("all calls have ended")).max()
    };
    for step in &plan.steps {
        let first = calls.iter().filter(|it| it.step == step.id.as_str()).map(|it| it.begun).min();
        let Some(first) = first else { continue };
        for need in orch_domain::plan::StepNeeds::of(step).all() {
            let before = last_end(need.as_str());
            assert!(before.is_none_or(|it| it <= first), "{} began before {need} ended", step.id);
        }
    }
}

fn check_limits(spec: &Spec, calls: &[Call]) {
    let most = |is_one: &dyn Fn(&Call) -> bool| {
        let mut moments: Vec<(Instant, i32)> = Vec::new();
        for it in calls.iter().filter(|it| is_one(it)) {
            let ended = it.ended.unwrap();
            if it.begun < ended {
                moments.push((it.begun, 1));
                moments.push((ended, -1));
            }
        }
        // What ends at a moment makes room for what begins then.
        moments.sort();
        let mut n = 0;
        moments
            .into_iter()
            .map(|it| {
                n += it.1;
                n
            })
            .max()
            .unwrap_or(0)
    };
    assert!(most(&|_| true) <= spec.max_parallel as i32);
    for server in ["one.", "two."] {
        assert!(most(&|it| it.tool.starts_with(server)) <= spec.of_server as i32, "{server}");
    }
    assert!(most(&|it| it.tool == "two.read") <= spec.of_tool as i32);
}

fn check_undoing(plan: &Plan, calls: &[Call], report: &Report) {
    let end_of = |step: &str| {
        // One over an array that others have stopped ends with them, after its last call.
        let it = report.steps.iter().find(|it| it.id.as_str() == step).unwrap();
        if it.elements.is_some() && it.state != StepState::Succeeded {
            return None;
        }
        let of_step = calls.iter().filter(|it| it.step == step);
        of_step.filter_map(|it| it.ended).max()
    };
    let mut undone: Vec<(Instant, &str)> = Vec::new();
    for it in calls {
        let Some(step) = it.step.strip_prefix("undo-") else { continue };
        assert!(plan.steps.iter().any(|it| it.id.as_str() == step && it.compensate.is_some()));
        if !undone.iter().any(|it| it.1 == step) {
            undone.push((it.begun, step));
        }
    }
    let Some(first) = undone.first().map(|it| it.0) else { return };
    for it in calls.iter().filter(|it| !it.step.starts_with("undo-")) {
        assert!(it.ended.unwrap() <= first, "{} ran while others were undone", it.step);
    }
    for pair in undone.windows(2) {
        // Those of an earlier run of the server are not among the calls.
        let (later, earlier) = (end_of(pair[0].1), end_of(pair[1].1));
        if let (Some(later), Some(earlier)) = (later, earlier) {
            assert!(earlier <= later, "{} is undone before {}", pair[0].1, pair[1].1);
        }
    }
}

fn in_stopped_time<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        // Stopped time: it passes at once where nothing else can happen.
        tokio::time::timeout(Duration::from_secs(20_000), work).await.expect("it hangs")
    })
}

/// Of each call that must not be made twice, how often it was made.
fn made(plan: &Plan, calls: &[Call]) -> HashMap<(String, Value), usize> {
    let asks_for_more = |it: &Call| {
        let step = plan.steps.iter().find(|step| step.id.as_str() == it.step);
        step.is_some_and(|step| step.retry.is_some())
    };
    let mut made = HashMap::new();
    for it in calls.iter().filter(|it| !it.is_repeatable && !asks_for_more(it)) {
        let index = it.arguments.get("index").cloned().unwrap_or_default();
        // What undoes the elements of a step says nothing of which.
        let is_of_fan = it.step.strip_prefix("undo-").is_some_and(|undone| {
            plan.steps.iter().any(|step| step.id.as_str() == undone && step.for_each.is_some())
        });
        if !is_of_fan {
            *made.entry((it.step.clone(), index)).or_default() += 1;
        }
    }
    made
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_batch_ends_explained_in_order_and_within_its_limits(spec in spec()) {
        in_stopped_time(async {
            let (script, plan) = (spec.script(None), spec.plan());
            let calls = Arc::new(Caller(script.clone()));
            let setup = spec.setup(None);
            let begun = Instant::now();
            let report = bench::run_plan(plan.clone(), &AnyTool, calls, &setup).await;
            let took = begun.elapsed();
            assert!(took <= setup.deadline + Duration::from_millis(5), "{took:?}");
            script.is_over.store(true, Ordering::SeqCst);
            check(&spec, &plan, &script, &report);
            for (call, n) in made(&plan, &script.calls.lock()) {
                assert_eq!(n, 1, "{call:?}");
            }
            // Every place came back.
            let seat = setup.slots.join(&setup.owner);
            for tool in TOOLS {
                let places = setup.slots.places(tool.split('.').next().unwrap(), tool);
                let of_server = spec.of_server.min(if tool == "two.read" { spec.of_tool } else { 9 });
                let taken: Vec<_> = (0..of_server).map(|_| seat.take(&places)).collect();
                assert!(taken.iter().all(Option::is_some), "a place of {tool} is lost");
            }
        });
    }

    #[test]
    fn nothing_is_called_after_a_cancellation_was_acknowledged(spec in spec()) {
        in_stopped_time(async {
            let (script, plan) = (spec.script(None), spec.plan());
            let calls = Arc::new(Caller(script.clone()));
            let going = bench::begin(plan.clone(), &AnyTool, calls, &spec.setup(None));
            tokio::time::sleep(Duration::from_millis(spec.cancel_after.unwrap_or(0))).await;
            let asked = Instant::now();
            let was_under_way = going.cancel().await;
            assert!(asked.elapsed() <= Duration::from_millis(5), "{:?}", asked.elapsed());
            script.is_over.store(true, Ordering::SeqCst);
            assert!(script.calls.lock().iter().all(|it| it.ended.is_some()));
            tokio::time::sleep(Duration::from_secs(600)).await;
            let report = going.ended().await;
            check(&spec, &plan, &script, &report);
            let is_cancelled = report.state == BatchState::Cancelled;
            // Between the two it may have ended by itself.
            assert!(!is_cancelled || was_under_way);
        });
    }

    #[test]
    fn killed_at_any_commit_a_batch_goes_on_and_repeats_nothing_that_must_not_be(spec in spec()) {
        in_stopped_time(async {
            let spec = Spec { deadline: 3_600_000, ..spec };
            let record = Record::start(Duration::from_millis(spec.flush), usize::MAX);
            let (script, plan) = (spec.script(Some(record.clone())), spec.plan());
            let calls = Arc::new(Caller(script.clone()));
            let setup = spec.setup(Some(record.clone()));
            let report = bench::run_plan(plan.clone(), &AnyTool, calls, &setup).await;
            check(&spec, &plan, &script, &report);

            let commits = record.commits();
            let kept = commits.len() * spec.crash_at / 1000;
            let found: Vec<_> = commits[..kept].iter().flatten().cloned().collect();
            let rows = Rows::of(&found);
            let second = Record::start(Duration::from_millis(spec.flush), usize::MAX);
            for it in &commits[..kept] {
                second.put(it.clone());
            }
            let again = spec.script(None);
            let calls = Arc::new(Caller(again.clone()));
            let setup = spec.setup(Some(second.clone()));
            let going = bench::resume(&found, &AnyTool, calls, &setup).await.unwrap();
            let Some(going) = going else { return };
            if rows.batch.as_ref().is_some_and(|it| it.state.has_ended()) {
                // The server takes up none of these.
                going.kill();
                return;
            }
            let report = going.ended().await;
            check(&spec, &plan, &again, &report);

            let mut before: Vec<Call> = script.calls.lock().clone();
            before.retain(|it| it.n_commits <= kept);
            before.extend(again.calls.lock().clone());
            for (call, n) in made(&plan, &before) {
                assert_eq!(n, 1, "{call:?} with {kept} commits");
            }
            for (part, run) in &rows.runs {
                let id = plan.steps[part.step as usize].id.as_str();
                let has_ended = part.element.is_none() && !part.is_compensation;
                if has_ended && run.state.has_ended() {
                    assert_eq!(again.n_called(id), 0, "{id} had ended");
                }
            }
            // What the store has in the end says the same as the machine.
            let rows = Rows::of(&second.commits().concat());
            assert_eq!(rows.batch.unwrap().state, report.state);
            for (part, run) in &rows.runs {
                assert!(run.state.has_ended(), "{part:?} is {:?} in the store", run.state);
                if part.element.is_none() && !part.is_compensation {
                    assert_eq!(run.state, report.steps[part.step as usize].state);
                }
            }
            assert!(report.steps.iter().zip(0..).all(|(_, at)| {
                rows.runs.contains_key(&orch_domain::batch::Part { step: at, element: None, is_compensation: false })
            }));
        });
    }

    #[test]
    fn on_a_full_disk_nothing_is_called_unrecorded_that_must_not_be_repeated(spec in spec()) {
        in_stopped_time(async {
            let n_room = spec.n_room.unwrap_or(usize::MAX);
            let record = Record::start(Duration::from_millis(spec.flush), n_room);
            let (script, plan) = (spec.script(Some(record.clone())), spec.plan());
            let calls = Arc::new(Caller(script.clone()));
            let report =
                bench::run_plan(plan.clone(), &AnyTool, calls, &spec.setup(Some(record.clone()))).await;
            check(&spec, &plan, &script, &report);
            let rows = Rows::of(&record.commits().concat());
            for it in script.calls.lock().iter().filter(|it| !it.is_repeatable) {
                let id = it.step.strip_prefix("undo-");
                let is_of = |part: &orch_domain::batch::Part| {
                    plan.steps[part.step as usize].id.as_str() == id.unwrap_or(&it.step)
                        && part.is_compensation == id.is_some()
                };
                assert!(rows.runs.keys().any(is_of), "{} was called and is not recorded", it.step);
            }
        });
    }
}
