//! The machine by hand, without a runner: who drives it says what ends, and when.

use serde_json::json;

use super::*;
use crate::plan::Plan;

const REPEATABLE: StepKind =
    StepKind { class: 0, is_repeatable: true, expected_ms: 1.0, compensation: None };

struct Bench {
    machine: Machine,
    results: HashMap<StepId, Arc<Value>>,
}

fn kind(step: &Step) -> StepKind {
    StepKind {
        is_repeatable: step.tool.contains("read"),
        compensation: step.compensate.as_ref().map(|_| 1),
        ..REPEATABLE
    }
}

impl Bench {
    fn new(max_parallel: usize, mut plan: Value) -> Bench {
        for step in plan["steps"].as_array_mut().unwrap() {
            if step["tool"].is_null() {
                step["tool"] = json!("s.write");
            }
        }
        let plan: Plan = serde_json::from_value(plan).unwrap();
        let mut machine = Machine::new(max_parallel, 1000, plan.on_error);
        for step in plan.steps {
            let kind = kind(&step);
            machine.add(Arc::new(step), kind);
        }
        machine.close();
        Bench { machine, results: HashMap::new() }
    }

    fn judge(&mut self) {
        while let Some(at) = self.machine.next_due() {
            let results = self.results.clone();
            self.machine.judge(at, &|id| results.get(id).cloned());
        }
    }

    /// What begins now, as `step`, `step.element` and `undo step`.
    fn begin(&mut self) -> Vec<String> {
        self.judge();
        self.machine.outcome();
        let parts = std::iter::from_fn(|| self.machine.next(&mut |_| true));
        let parts: Vec<Part> = parts.map(|it| it.0).collect();
        parts.into_iter().map(|it| self.name(it)).collect()
    }

    fn name(&self, part: Part) -> String {
        let id = &self.machine.step(part.step).id;
        let element = part.element.map_or_else(String::new, |it| format!(".{it}"));
        let undo = if part.is_compensation { "undo " } else { "" };
        format!("{undo}{id}{element}")
    }

    fn part(&self, name: &str) -> Part {
        let (is_compensation, rest) = match name.strip_prefix("undo ") {
            Some(it) => (true, it),
            None => (false, name),
        };
        let (id, element) = match rest.split_once('.') {
            Some((id, element)) => (id, Some(element.parse().unwrap())),
            None => (rest, None),
        };
        let step = self.machine.place_of(&StepId::try_new(id).unwrap()).unwrap();
        Part { step, element, is_compensation }
    }

    fn end(&mut self, name: &str) {
        let part = self.part(name);
        if part.element.is_none() {
            let result = json!({"structuredContent": {"id": name}});
            self.results.insert(self.machine.step(part.step).id.clone(), Arc::new(result));
        }
        self.machine.ended(part, 1, End::Succeeded(json!(name)));
    }

    fn fail(&mut self, name: &str) {
        let reason = Reason::new("ToolError", format!("{name} failed"));
        self.machine.ended(self.part(name), 1, End::Failed(reason));
    }

    fn state(&self, id: &str) -> StepState {
        self.machine.state(self.part(id).step)
    }

    fn reason(&mut self, name: &str) -> String {
        let part = self.part(name);
        let moved = self.machine.moved();
        let last = moved.iter().rfind(|it| it.part == part).unwrap();
        last.reason.clone().unwrap().message
    }

    #[track_caller]
    fn failed(&mut self) -> Reason {
        match self.machine.outcome() {
            Some(Outcome::Failed(it)) => it,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn what_is_ready_begins_the_longest_way_first_and_as_many_as_may() {
    let mut bench = Bench::new(
        2,
        json!({"steps": [
            {"id": "short"}, {"id": "long"}, {"id": "then", "depends_on": ["long"]},
        ]}),
    );
    assert_eq!(bench.begin(), ["long", "short"]);
    assert_eq!(bench.begin(), [""; 0], "two at a time");
    bench.end("long");
    assert_eq!(bench.begin(), ["then"], "no level waits for `short`");
    bench.end("short");
    assert_eq!(bench.machine.outcome(), None);
    bench.end("then");
    assert_eq!(bench.machine.outcome(), Some(Outcome::Succeeded));
}

#[test]
fn a_condition_decides_and_a_step_passed_over_holds_nobody_up_who_takes_nothing_of_it() {
    let mut bench = Bench::new(
        9,
        json!({"on_error": "continue", "steps": [
            {"id": "a"},
            {"id": "no", "when": {"failed": "a"}},
            {"id": "after", "depends_on": ["no"]},
            {"id": "takes", "arguments": {"x": {"$ref": "no#/structuredContent/id"}}},
            {"id": "yes", "when": {"eq": [{"$ref": "a#/structuredContent/id"}, "a"]}},
        ]}),
    );
    assert_eq!(bench.begin(), ["a"]);
    bench.end("a");
    let mut begun = bench.begin();
    begun.sort();
    assert_eq!(begun, ["after", "yes"]);
    assert_eq!((bench.state("no"), bench.state("takes")), (StepState::Skipped, StepState::Skipped));
    assert!(bench.reason("takes").contains("`no`, which is skipped"));
}

#[test]
fn a_plan_all_of_whose_steps_are_skipped_succeeds() {
    let mut bench = Bench::new(
        9,
        json!({"steps": [
            {"id": "a", "when": false}, {"id": "b", "depends_on": ["a"], "when": {"succeeded": "a"}},
        ]}),
    );
    assert_eq!(bench.begin(), [""; 0]);
    assert_eq!(bench.machine.outcome(), Some(Outcome::Succeeded));
}

#[test]
fn elements_run_within_their_limit_and_an_empty_array_ends_at_once() {
    let mut bench = Bench::new(
        9,
        json!({"steps": [
            {"id": "each", "for_each": [1, 2, 3], "max_parallel": 2},
            {"id": "none", "for_each": []},
            {"id": "after", "depends_on": ["none"]},
        ]}),
    );
    let mut begun = bench.begin();
    begun.sort();
    assert_eq!(begun, ["after", "each.0", "each.1"]);
    assert_eq!(bench.state("none"), StepState::Succeeded);
    bench.end("each.1");
    assert_eq!(bench.begin(), ["each.2"]);
    bench.end("each.2");
    bench.end("each.0");
    bench.machine.outcome();
    let gathered = bench.machine.gathered();
    let each = gathered.iter().find(|it| it.0 == 0).unwrap();
    let structured = &each.1["structuredContent"];
    assert_eq!(structured["items"], json!(["each.0", "each.1", "each.2"]), "in the array's order");
    assert_eq!((&structured["count"], &structured["failed"]), (&json!(3), &json!(0)));
}

#[test]
fn after_a_failed_element_no_other_begins_although_it_was_its_turn() {
    let mut bench = Bench::new(2, json!({"steps": [{"id": "each", "for_each": [1, 2, 3, 4]}]}));
    assert_eq!(bench.begin(), ["each.0", "each.1"]);
    bench.fail("each.0");
    assert_eq!(bench.begin(), [""; 0]);
    bench.end("each.1");
    assert_eq!(bench.failed().message, "step `each`: element 0: each.0 failed");
    let states = bench.machine.elements(0).unwrap();
    let (failed, skipped) = (StepState::Failed, StepState::Skipped);
    assert_eq!(states, [failed, StepState::Succeeded, skipped, skipped]);
}

#[test]
fn what_is_postponed_gives_its_place_away_and_comes_back() {
    let mut bench = Bench::new(1, json!({"steps": [{"id": "a"}, {"id": "b"}]}));
    assert_eq!(bench.begin(), ["a"]);
    let part = bench.part("a");
    bench.machine.postponed(part, 1, Reason::new("Unavailable", "later"));
    assert_eq!(bench.begin(), ["b"]);
    bench.end("b");
    assert_eq!((bench.machine.outcome(), bench.begin()), (None, vec![]));
    bench.machine.again(part, 2);
    assert_eq!(bench.machine.next(&mut |_| true), Some((part, 2)));
    bench.machine.ended(part, 2, End::Succeeded(Value::Null));
    assert_eq!(bench.machine.outcome(), Some(Outcome::Succeeded));
}

#[test]
fn a_failure_lets_what_runs_end_and_undoing_does_not_wait_for_what_was_postponed() {
    let undone = json!({"tool": "s.undo"});
    let mut bench = Bench::new(
        9,
        json!({"on_error": "compensate", "steps": [
            {"id": "a", "compensate": undone}, {"id": "b", "compensate": undone},
            {"id": "late", "compensate": undone}, {"id": "bad"}, {"id": "runs", "compensate": undone},
            {"id": "never", "depends_on": ["runs"]},
        ]}),
    );
    assert_eq!(bench.begin().len(), 5);
    bench.end("b");
    bench.end("a");
    let late = bench.part("late");
    bench.machine.postponed(late, 1, Reason::new("Unavailable", "later"));
    bench.fail("bad");
    assert_eq!((bench.begin(), bench.machine.outcome()), (vec![], None), "`runs` may end");
    assert_eq!(bench.state("never"), StepState::Skipped);
    bench.end("runs");
    assert_eq!(bench.begin(), ["undo runs"]);
    bench.machine.again(late, 2);
    bench.end("undo runs");
    assert_eq!(bench.begin(), ["undo a"], "the last first");
    bench.fail("undo a");
    assert_eq!(bench.begin(), ["undo b"], "the rest is undone all the same");
    bench.end("undo b");
    assert_eq!(bench.begin(), [""; 0]);
    let reason = bench.failed();
    assert!(reason.message.contains("1 of what it did could not be undone"), "{reason:?}");
}

#[test]
fn undoing_that_has_no_time_left_ends_with_what_was_postponed_of_it() {
    let mut bench = Bench::new(
        9,
        json!({"on_error": "compensate", "steps": [
            {"id": "a", "compensate": {"tool": "s.undo"}},
            {"id": "b", "compensate": {"tool": "s.undo"}, "depends_on": ["a"]},
            {"id": "bad", "depends_on": ["b"]},
        ]}),
    );
    for id in ["a", "b"] {
        assert_eq!(bench.begin(), [id]);
        bench.end(id);
    }
    assert_eq!(bench.begin(), ["bad"]);
    bench.fail("bad");
    assert_eq!(bench.begin(), ["undo b"]);
    let part = bench.part("undo b");
    bench.machine.postponed(part, 1, Reason::new("Unavailable", "later"));
    assert_eq!(bench.machine.outcome(), None);
    bench.machine.give_up_undoing();
    assert!(bench.failed().message.contains("2 of what it did could not be undone"));
    bench.machine.again(part, 2);
    assert_eq!(bench.begin(), [""; 0]);
}

#[test]
fn cancelled_nothing_begins_and_all_that_does_not_run_has_ended() {
    let mut bench = Bench::new(
        1,
        json!({"steps": [
            {"id": "a"}, {"id": "b"}, {"id": "c", "depends_on": ["a"]}, {"id": "d", "for_each": [1, 2]},
        ]}),
    );
    assert_eq!(bench.begin().len(), 1);
    let reason = Reason::new("Cancelled", "enough");
    bench.machine.cancel(reason.clone());
    bench.machine.cancel(Reason::new("Cancelled", "again"));
    assert_eq!((bench.begin(), bench.machine.outcome()), (vec![], None), "one still runs");
    let running = (0..4).find(|at| bench.machine.state(*at) == StepState::Running).unwrap();
    bench.machine.ended(
        Part { element: bench.machine.elements(running).map(|_| 0), ..Part::of(running) },
        1,
        End::Cancelled(reason.clone()),
    );
    assert_eq!(bench.machine.outcome(), Some(Outcome::Cancelled(reason)));
    assert!((0..4).all(|at| bench.machine.state(at) == StepState::Cancelled));
}

#[test]
fn a_plan_that_ends_early_fails_where_steps_wait_for_others_that_never_came() {
    let mut machine = Machine::new(1, 10, OnError::Continue);
    let step: Step =
        serde_json::from_value(json!({"id": "a", "tool": "s.t", "depends_on": ["later"]})).unwrap();
    machine.add(Arc::new(step), REPEATABLE);
    assert_eq!(machine.outcome(), None, "it may come");
    machine.close();
    assert!(matches!(machine.outcome(), Some(Outcome::Failed(_))));
}

#[test]
fn restored_what_ended_stays_what_may_be_repeated_is_and_undoing_goes_by_the_ends() {
    let undone = json!({"tool": "s.undo"});
    let mut bench = Bench::new(
        9,
        json!({"on_error": "compensate", "steps": [
            {"id": "a", "compensate": undone}, {"id": "b", "compensate": undone},
            {"id": "again", "tool": "s.read"}, {"id": "bad"},
            {"id": "each", "tool": "s.read", "for_each": [1, 2], "compensate": undone},
        ]}),
    );
    let succeeded = || Some(End::Succeeded(Value::Null));
    let element = |bench: &Bench, at| Part { element: Some(at), ..bench.part("each") };
    // In the order of their ends: `b` before `a`.
    for (part, end) in [
        (bench.part("b"), succeeded()),
        (element(&bench, 0), succeeded()),
        (bench.part("a"), succeeded()),
    ] {
        bench.machine.restore(part, StepState::Succeeded, 1, end, false);
    }
    bench.machine.restore(bench.part("again"), StepState::Running, 1, None, false);
    bench.machine.restore(element(&bench, 1), StepState::Running, 1, None, false);
    bench.machine.restored(&|_| None);
    let mut begun = bench.begin();
    begun.sort();
    assert_eq!(begun, ["again", "bad", "each.1"]);
    bench.end("again");
    bench.end("each.1");
    bench.fail("bad");
    let mut undone = Vec::new();
    loop {
        let begun = bench.begin();
        if begun.is_empty() {
            break;
        }
        begun.iter().for_each(|it| bench.end(it));
        undone.extend(begun);
    }
    assert_eq!(undone, ["undo each.0", "undo each.1", "undo a", "undo b"]);
}

#[test]
fn restored_a_call_that_must_not_be_repeated_is_unknown_and_its_undoing_is_counted() {
    let mut bench = Bench::new(
        9,
        json!({"on_error": "compensate", "steps": [
            {"id": "a", "compensate": {"tool": "s.undo"}}, {"id": "lost"},
        ]}),
    );
    bench.machine.restore(
        bench.part("a"),
        StepState::Succeeded,
        1,
        Some(End::Succeeded(Value::Null)),
        false,
    );
    bench.machine.restore(bench.part("undo a"), StepState::Running, 1, None, false);
    bench.machine.restore(bench.part("lost"), StepState::Running, 1, None, false);
    bench.machine.restored(&|_| None);
    assert_eq!(bench.state("lost"), StepState::Unknown);
    assert_eq!(bench.begin(), [""; 0], "neither is called again");
    let reason = bench.failed();
    assert!(
        reason.message.contains("`lost`") && reason.message.contains("1 of what"),
        "{reason:?}"
    );
}
