//! One fault each.

use std::sync::Arc;
use std::time::Duration;

use orch_domain::batch::{BatchState, StepState};
use serde_json::{Value, json};

use super::super::bench::{self, Record, Report, Rows, Setup};
use super::scripted::{Act, AnyTool, Caller, Scripted, plan};

const QUICK: Act = Act::Succeed { after_ms: 1 };

async fn run(written: Value, script: &Arc<Scripted>, setup: &Setup) -> Report {
    let calls = Arc::new(Caller(script.clone()));
    let running = bench::run_plan(plan(written), &AnyTool, calls, setup);
    // Stopped time: an hour passes at once where nothing else can happen.
    tokio::time::timeout(Duration::from_secs(7200), running).await.expect("it hangs")
}

fn states(report: &Report) -> Vec<(&str, StepState)> {
    report.steps.iter().map(|it| (it.id.as_str(), it.state)).collect()
}

fn why(report: &Report, step: &str) -> String {
    let step = report.steps.iter().find(|it| it.id.as_str() == step).unwrap();
    let reason = step.reason.as_ref().unwrap();
    format!("{}: {}", reason.code, reason.message)
}

#[tokio::test(start_paused = true)]
async fn a_chain_runs_in_order_and_takes_results_over() {
    let script = Scripted::with(&[]);
    let written = json!({"steps": [
        {"id": "c", "depends_on": ["b"]},
        {"id": "a"},
        {"id": "b", "arguments": {"from": {"$ref": "a#/structuredContent/step"}}},
    ]});
    let report = run(written, &script, &Setup::default()).await;
    assert_eq!((report.state, report.reason.clone()), (BatchState::Succeeded, None));
    assert_eq!(script.called(), ["a", "b", "c"]);
    assert_eq!(script.calls.lock()[1].arguments["from"], "a");
}

#[tokio::test(start_paused = true)]
async fn a_tool_that_panics_fails_its_step_and_nothing_hangs() {
    for act in [Act::Panic, Act::PanicLater { after_ms: 5 }] {
        let script = Scripted::with(&[("a", &[act]), ("b", &[QUICK])]);
        let written =
            json!({"steps": [{"id": "a"}, {"id": "b"}, {"id": "c", "depends_on": ["a"]}]});
        let report = run(written, &script, &Setup::default()).await;
        assert_eq!(report.state, BatchState::Failed);
        assert_eq!(states(&report)[0], ("a", StepState::Failed));
        assert!(why(&report, "a").starts_with("Internal: "), "{}", why(&report, "a"));
        assert_eq!(report.reason.unwrap().code, "Internal");
    }
}

#[tokio::test(start_paused = true)]
async fn a_large_result_gathered_by_the_last_step_is_kept_before_the_end() {
    let script = Scripted::with(&[]);
    let record = Record::start(Duration::from_millis(1), usize::MAX);
    let setup = Setup { record: Some(record.clone()), ..Setup::default() };
    let text = "x".repeat(200 * 1024);
    let written = json!({"steps": [{"id": "a", "for_each": [1, 2], "arguments": {"text": text}}]});
    let report = run(written, &script, &setup).await;
    assert_eq!(report.state, BatchState::Succeeded);
    let rows = Rows::of(&record.commits().concat());
    let whole = rows.runs.iter().find(|it| it.0.element.is_none()).unwrap().1;
    assert!(whole.result.is_some(), "{:?}", whole.state);
}
