use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// Tools by name, with their input schemas.
pub(super) struct Tools(Vec<(&'static str, Value)>);

impl Default for Tools {
    fn default() -> Tools {
        let launch = json!({
            "type": "object",
            "properties": {
                "image": {"type": "string"}, "count": {"type": "integer", "minimum": 1},
                "size": {"enum": ["small", "large"]}, "labels": {"type": "object"}
            },
            "required": ["image"],
            "additionalProperties": false
        });
        Tools(vec![("orch.launch", launch), ("any.thing", json!({"type": "object"}))])
    }
}

impl Toolbox for Tools {
    fn tool(&self, name: &str) -> Option<ToolFacts> {
        let (name, schema) = self.0.iter().find(|(it, _)| *it == name)?;
        Some(ToolFacts {
            name: (*name).into(),
            server: name.split('.').next()?.into(),
            input_schema: Arc::new(schema.clone()),
            is_read_only: false,
            is_idempotent: false,
        })
    }

    fn nearest(&self, name: &str) -> Vec<String> {
        let names = self.0.iter().map(|(it, _)| *it);
        super::super::near::nearest(name, names).into_iter().map(str::to_owned).collect()
    }
}

fn plan(value: Value) -> Plan {
    serde_json::from_value(value).unwrap()
}

/// `any.thing` with what is given.
fn step(id: &str, others: Value) -> Value {
    let mut step = json!({"id": id, "tool": "any.thing"});
    step.as_object_mut().unwrap().extend(others.as_object().unwrap().clone());
    step
}

fn problems_of(plan: &Plan) -> Vec<(String, String)> {
    let found = check(plan, &Tools::default(), &Limits::DEFAULT);
    found.into_iter().map(|it| (it.place, it.message)).collect()
}

fn problems(steps: Value) -> Vec<(String, String)> {
    problems_of(&plan(json!({"steps": steps})))
}

/// Exactly one problem, at that place, whose message has that in it.
#[track_caller]
fn one(steps: Value, place: &str, said: &str) {
    let found = problems(steps);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!(found[0].0, place, "{found:?}");
    assert!(found[0].1.contains(said), "{found:?}");
}

#[track_caller]
fn none(steps: Value) {
    assert_eq!(problems(steps), []);
}

#[test]
fn a_plan_with_everything_in_it_is_right() {
    let steps = json!([
        {"id": "each", "tool": "orch.launch", "for_each": {"$ref": "list#/json/names"}, "max_parallel": 3,
         "arguments": {"image": "${item#/image}-${index#}", "count": {"$ref": "item#/n"}}, "collect": "/structuredContent/id",
         "timeout": 1.5, "retry": {"max": 2}, "when": {"all": [{"succeeded": "list"}, {"$ref": "list#/json/names"}]},
         "on_error": "compensate",
         "compensate": {"tool": "any.thing", "arguments": {"id": {"$ref": "each#/structuredContent/id"}, "n": {"$ref": "item#"}}}},
        step("list", json!({"arguments": {"text": "costs $3, ${HOME}, $${list#/x}"}})),
        step("last", json!({"depends_on": ["list"], "arguments": {"all": {"$ref": "each#/structuredContent/items/0"}}})),
        step("alarm", json!({"when": {"failed": "each"}}))
    ]);
    let output = json!({"ids": {"$ref": "each#/structuredContent/items"}, "n": "${each#/structuredContent/count} of them"});
    let found = problems_of(&plan(json!({"version": 1, "steps": steps, "output": output})));
    assert_eq!(found, []);
}

#[test]
fn a_plan_is_of_this_version_and_has_steps() {
    let found = problems_of(&plan(json!({"version": 2, "steps": []})));
    let places: Vec<&str> = found.iter().map(|it| it.0.as_str()).collect();
    assert_eq!(places, ["/version", "/steps"]);
    assert!(found[0].1.contains("version 1 is understood"));
}

#[test]
fn ids_are_unique_and_not_reserved() {
    one(json!([step("a", json!({})), step("a", json!({}))]), "/steps/1/id", "`/steps/0`");
    for reserved in ["item", "index", "", "a.b", "1a"] {
        let steps = json!({"steps": [step(reserved, json!({}))]});
        assert!(serde_json::from_value::<Plan>(steps).is_err(), "{reserved}");
    }
}

#[test]
fn a_tool_that_is_not_there_is_named_with_its_neighbours() {
    let unknown = json!([{"id": "a", "tool": "orch.lanch"}]);
    one(unknown, "/steps/0/tool", "no tool `orch.lanch` that you may use; nearest: `orch.launch`");
    let undo = json!({"compensate": {"tool": "none"}});
    one(json!([step("a", undo)]), "/steps/0/compensate/tool", "no tool `none`");
}

#[test]
fn steps_that_are_referred_to_are_there() {
    let refer = |others: Value| json!([step("launch", json!({})), step("b", others)]);
    let near = "no step `lanch`; nearest: `launch`";
    one(refer(json!({"arguments": {"x": [{"$ref": "lanch#"}]}})), "/steps/1/arguments/x/0", near);
    one(refer(json!({"arguments": {"x/y": "a ${lanch#/json}"}})), "/steps/1/arguments/x~1y", near);
    one(refer(json!({"depends_on": ["launch", "lanch"]})), "/steps/1/depends_on/1", near);
    one(refer(json!({"when": {"eq": [{"$ref": "lanch#"}, 1]}})), "/steps/1/when/eq/0", near);
    one(refer(json!({"when": {"failed": "lanch"}})), "/steps/1/when", near);
    one(refer(json!({"for_each": {"$ref": "lanch#"}})), "/steps/1/for_each", near);
    let undo = json!({"compensate": {"tool": "any.thing", "arguments": {"x": "${lanch#}"}}});
    one(refer(undo), "/steps/1/compensate/arguments/x", near);
    let output = plan(json!({"steps": refer(json!({})), "output": {"x": {"$ref": "lanch#"}}}));
    let found = problems_of(&output);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].0, "/output/x");
}

#[test]
fn references_that_cannot_be_read_are_told_with_their_place() {
    one(
        json!([step("a", json!({"arguments": {"x": "${a#/x"}}))]),
        "/steps/0/arguments/x",
        "not closed",
    );
    one(
        json!([step("a", json!({"arguments": {"x": {"$ref": 1}}}))]),
        "/steps/0/arguments/x",
        "it is a text",
    );
    one(
        json!([step("a", json!({"when": {"$ref": "b"}}))]),
        "/steps/0/when",
        "`#` and a JSON Pointer",
    );
    one(json!([step("a", json!({"when": {"equals": []}}))]), "/steps/0/when/equals", "`eq`");
    let whole = json!([step("a", json!({})), step("b", json!({"arguments": {"$ref": "a#/json"}}))]);
    one(whole, "/steps/1/arguments", "one by one");
}

#[test]
fn a_step_does_not_wait_for_itself() {
    for (others, place) in [
        (json!({"arguments": {"x": "${a#/json}"}}), "/steps/0/arguments/x"),
        (json!({"depends_on": ["a"]}), "/steps/0/depends_on/0"),
        (json!({"when": {"ended": "a"}}), "/steps/0/when"),
        (json!({"for_each": {"$ref": "a#/json"}}), "/steps/0/for_each"),
    ] {
        one(json!([step("a", others)]), place, "this step itself");
    }
}

#[test]
fn elements_are_there_only_inside_for_each() {
    for element in ["item#/x", "index#"] {
        let it = json!({"$ref": element});
        one(
            json!([step("a", json!({"arguments": {"x": it}}))]),
            "/steps/0/arguments/x",
            "this one has none",
        );
        let when = json!({"for_each": [1], "when": it});
        one(json!([step("a", when)]), "/steps/0/when", "before there are elements");
        one(
            json!([step("a", json!({"for_each": [it]}))]),
            "/steps/0/for_each/0",
            "before there are elements",
        );
        let undo = json!({"compensate": {"tool": "any.thing", "arguments": {"x": it}}});
        one(json!([step("a", undo)]), "/steps/0/compensate/arguments/x", "this one has none");
        let found = problems_of(&plan(json!({"steps": [step("a", json!({}))], "output": it})));
        assert!(found[0].1.contains("/structuredContent/items"), "{found:?}");
    }
    one(json!([step("a", json!({"collect": "/json"}))]), "/steps/0/collect", "does not have");
    one(json!([step("a", json!({"max_parallel": 2}))]), "/steps/0/max_parallel", "does not have");
}

#[test]
fn for_each_is_an_array_of_no_more_than_is_allowed() {
    for bad in [json!("${a#/json}"), json!({"x": 1}), json!(3)] {
        one(
            json!([step("b", json!({"for_each": bad})), step("a", json!({}))]),
            "/steps/0/for_each",
            "an array is wanted",
        );
    }
    none(json!([step("a", json!({"for_each": []}))]));
    let limits = Limits { fan_out: 2, ..Limits::DEFAULT };
    let three = plan(json!({"steps": [step("a", json!({"for_each": [1, 2, 3]}))]}));
    let found = check(&three, &Tools::default(), &limits);
    assert_eq!(found[0].message, "it has 3 elements; at most 2 are allowed");
    assert!(check(&three, &Tools::default(), &Limits { fan_out: 3, ..limits }).is_empty());
}

#[test]
fn pointers_lead_where_results_have_something() {
    let to = |pointer: &str| {
        let refer = json!({"arguments": {"x": {"$ref": format!("a#{pointer}")}}});
        json!([step("a", json!({})), step("b", refer)])
    };
    one(to("/id"), "/steps/1/arguments/x", "`a#/id`: a result has `/structuredContent`");
    one(to("/content/text"), "/steps/1/arguments/x", "an array");
    none(to(""));
    none(to("/structuredContent/id"));
    let each = json!([
        step("a", json!({"for_each": [1]})),
        step("b", json!({"arguments": {"x": "${a#/structuredContent/id}"}}))
    ]);
    one(each, "/steps/1/arguments/x", "`/structuredContent/items/0`");
    for (bad, why) in [("id", "begins with `/`"), ("/id", "a result has"), ("/json/~", "`~0`")] {
        one(json!([step("a", json!({"for_each": [1], "collect": bad}))]), "/steps/0/collect", why);
    }
    none(json!([step("a", json!({"for_each": [1], "collect": ""}))]));
}

#[test]
fn terms_are_within_their_ranges() {
    for (others, place) in [
        (json!({"timeout": 0}), "timeout"),
        (json!({"timeout": -1.5}), "timeout"),
        (json!({"timeout": 86400.5}), "timeout"),
        (json!({"retry": {"max": 101}}), "retry/max"),
        (json!({"retry": {"max": 1, "backoff_ms": 60001}}), "retry/backoff_ms"),
        (json!({"for_each": [], "max_parallel": 0}), "max_parallel"),
        (json!({"for_each": [], "max_parallel": 1001}), "max_parallel"),
    ] {
        one(json!([step("a", others)]), &format!("/steps/0/{place}"), "allowed");
    }
    none(json!([step("a", json!({"timeout": 0.001, "retry": {"max": 100, "backoff_ms": 60000}}))]));
    none(json!([step("a", json!({"timeout": 86400, "for_each": [], "max_parallel": 1000}))]));
}

#[test]
fn circles_are_named_whole_and_once() {
    let steps = json!([
        step("a", json!({"arguments": {"x": {"$ref": "b#/json"}}})),
        step("b", json!({"when": {"failed": "c"}})),
        step("c", json!({"depends_on": ["a"], "for_each": {"$ref": "d#/json"}})),
        step("d", json!({"depends_on": ["e"]})),
        step("e", json!({"depends_on": ["d"]})),
    ]);
    let found = problems(steps);
    assert_eq!(found.len(), 2, "{found:?}");
    let said = |it: &str| format!("these steps wait for one another: {it}");
    assert_eq!(found[0], ("/steps/0".to_owned(), said("`a` → `b` → `c` → `a`")));
    assert_eq!(found[1], ("/steps/3".to_owned(), said("`d` → `e` → `d`")));
}

#[test]
fn a_plan_is_no_larger_and_no_deeper_than_allowed() {
    let chain: Vec<Value> = (0..5)
        .map(|it| match it {
            0 => step("s0", json!({})),
            _ => step(&format!("s{it}"), json!({"depends_on": [format!("s{}", it - 1)]})),
        })
        .collect();
    let chain = plan(json!({"steps": chain}));
    let found = check(&chain, &Tools::default(), &Limits { depth: 4, ..Limits::DEFAULT });
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].place.as_str(), found[0].step.as_ref().unwrap().as_str()),
        ("/steps/4", "s4")
    );
    assert!(found[0].message.starts_with("5 steps wait for one another"), "{found:?}");
    let found = check(&chain, &Tools::default(), &Limits { steps: 4, ..Limits::DEFAULT });
    assert_eq!(found[0].message, "the plan has 5 steps; at most 4 are allowed");
    assert!(
        check(&chain, &Tools::default(), &Limits { steps: 5, depth: 5, fan_out: 0 }).is_empty()
    );
}

#[test]
fn what_undoes_a_step_knows_the_step_and_what_was_before_it() {
    let undo = |to: &str| {
        let undo =
            json!({"tool": "any.thing", "arguments": {"x": {"$ref": format!("{to}#/json/id")}}});
        json!([
            step("first", json!({})),
            step("second", json!({"depends_on": ["first"]})),
            step("third", json!({"depends_on": ["second"], "compensate": undo})),
            step("other", json!({}))
        ])
    };
    none(undo("third"));
    none(undo("second"));
    none(undo("first"));
    one(
        undo("other"),
        "/steps/2/compensate/arguments/x",
        "`other` may not have run when `third` is undone",
    );
}

#[test]
fn arguments_are_held_to_the_schema_as_far_as_they_are_known() {
    let launch = |arguments: Value| json!([step("a", json!({})), {"id": "b", "tool": "orch.launch", "arguments": arguments}]);
    let at = "/steps/1/arguments";
    one(launch(json!({})), at, "`orch.launch`: `image` is missing; needed: `image`");
    one(
        launch(json!({"image": "x", "cuont": 1})),
        &format!("{at}/cuont"),
        "no `cuont`; nearest: `count`",
    );
    one(launch(json!({"image": 1})), &format!("{at}/image"), "a number is given; wanted: `string`");
    one(launch(json!({"image": "x", "count": 0})), &format!("{at}/count"), "at least 1");
    one(launch(json!({"image": "x", "size": "smal"})), &format!("{at}/size"), "nearest: `small`");
    let text = json!({"image": "x", "count": "${a#/json/n}"});
    one(launch(text), &format!("{at}/count"), "text with a reference in it is always a string");
    let reference = json!({"$ref": "a#/json/n"});
    none(launch(
        json!({"image": reference, "count": reference, "size": reference, "labels": reference}),
    ));
    none(launch(
        json!({"image": "x-${a#/json}", "size": "${a#/json}", "labels": {"x": reference}}),
    ));
    one(launch(json!({"count": reference})), at, "`image` is missing");
    let undo = json!({"compensate": {"tool": "orch.launch", "arguments": {"size": 1}}});
    let found = problems(json!([step("a", undo)]));
    let places: Vec<&str> = found.iter().map(|it| it.0.as_str()).collect();
    assert_eq!(places, ["/steps/0/compensate/arguments/size", "/steps/0/compensate/arguments"]);
}

#[test]
fn all_is_told_at_once_and_no_more_than_somebody_reads() {
    let steps: Vec<Value> =
        (0..150).map(|it| json!({"id": format!("s{it}"), "tool": "none", "timeout": 0})).collect();
    let found = problems(Value::Array(steps));
    assert_eq!(found.len(), 101);
    assert_eq!(found[100], (String::new(), "and 200 more; mend these first".to_owned()));
}

#[test]
fn a_streamed_step_refers_to_steps_before_it() {
    let known: HashMap<StepId, usize> =
        [("a", 0), ("b", 1)].map(|(id, place)| (StepId::try_new(id).unwrap(), place)).into();
    let told = |value: Value| {
        let step: Step = serde_json::from_value(value).unwrap();
        let found = check_step(&step, 2, &known, &Tools::default());
        found.into_iter().map(|it| format!("{} {}", it.place, it.message)).collect::<Vec<_>>()
    };
    let refer = json!({"depends_on": ["a"], "arguments": {"x": {"$ref": "b#/json"}}});
    assert!(told(step("c", refer)).is_empty());
    let own =
        json!({"compensate": {"tool": "any.thing", "arguments": {"x": "${c#/json} ${a#/json}"}}});
    assert!(told(step("c", own)).is_empty());
    let later = told(step("c", json!({"arguments": {"x": "${d#/json}"}})));
    assert_eq!(later, ["/steps/2/arguments/x there is no step `d` before this one"]);
    assert!(told(step("a", json!({})))[0].starts_with("/steps/2/id `a` is the id of `/steps/0`"));
    assert!(told(step("c", json!({"depends_on": ["c"]})))[0].contains("this step itself"));
    let wrong = json!({"id": "c", "tool": "orch.launch", "arguments": {"image": 1}});
    assert!(told(wrong)[0].starts_with("/steps/2/arguments/image"));
}

/// As large as a plan may be, and in builds that are not optimised a third of it. Were it quadratic, it would
/// take longer than the runner lets a test take.
#[test]
fn a_hundred_thousand_steps_are_checked_in_one_go() {
    let n = if cfg!(debug_assertions) { 30_000 } else { 100_000 };
    let steps = (0..n).map(|it| {
        let arguments = match it {
            0..10 => json!({"image": "x"}),
            _ => {
                let before = format!("s{}", it - 10);
                json!({"image": format!("x-${{{before}#/json/id}}"), "count": {"$ref": format!("{before}#/json/n")}})
            }
        };
        let undo = json!({"tool": "any.thing", "arguments": {"x": {"$ref": format!("s{}#/json", it % 10)}}});
        json!({"id": format!("s{it}"), "tool": "orch.launch", "arguments": arguments, "compensate": undo})
    });
    let plan = plan(json!({"steps": steps.collect::<Vec<_>>()}));
    assert_eq!(check(&plan, &Tools::default(), &Limits::DEFAULT), []);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn checking_never_panics(value in crate::plan::reference::tests::any_json(), other in crate::plan::reference::tests::any_json()) {
        let mut steps = vec![
            step("a", json!({"arguments": {"x": value}, "when": other, "for_each": value})),
            step("b", json!({"arguments": {"y": other}, "depends_on": ["a"]})),
        ];
        steps[0]["compensate"] = json!({"tool": "orch.launch", "arguments": {"image": other}});
        let plan = plan(json!({"steps": steps, "output": value}));
        let found = check(&plan, &Tools(vec![("any.thing", other), ("orch.launch", value)]), &Limits::DEFAULT);
        for it in found {
            prop_assert!(it.place.is_empty() || json!({"steps": steps, "output": plan.output}).pointer(&it.place).is_some(), "{:?}", it);
        }
    }

    /// Steps in any order, each waiting for some that come earlier in another order, in all the ways there are.
    #[test]
    fn a_plan_without_circles_is_right_and_with_an_edge_back_it_is_not(
        edges in prop::collection::vec((0usize..30, 0usize..30, 0u8..4), 1..80),
        order in Just((0..30).collect::<Vec<usize>>()).prop_shuffle(),
        back in 0usize..1000,
    ) {
        let mut steps: Vec<Step> = (0..30)
            .map(|it| serde_json::from_value(step(&format!("s{it}"), json!({}))).unwrap())
            .collect();
        let wait = |steps: &mut Vec<Step>, of: usize, on: usize, way: u8, n: usize| {
            let to = json!({"$ref": format!("s{on}#/json")});
            match way {
                0 => steps[of].depends_on.push(StepId::try_new(format!("s{on}")).unwrap()),
                1 => drop(steps[of].arguments.insert(format!("x{n}"), json!({"y": [to]}))),
                2 => drop(steps[of].arguments.insert(format!("x{n}"), json!(format!("- ${{s{on}#}} -")))),
                _ => steps[of].when = Some(json!({"any": [{"failed": format!("s{on}")}, {"exists": to}]})),
            }
        };
        let mut real = Vec::new();
        for (n, (a, b, way)) in edges.into_iter().enumerate() {
            let (low, high) = (a.min(b), a.max(b));
            // A second condition would take the place of the first.
            if low == high || (way == 3 && steps[order[high]].when.is_some()) {
                continue;
            }
            wait(&mut steps, order[high], order[low], way, n);
            real.push((order[high], order[low]));
        }
        prop_assert_eq!(check(&Plan::of(steps.clone()), &Tools::default(), &Limits::DEFAULT), []);
        if real.is_empty() {
            return Ok(());
        }
        let (of, on) = real[back % real.len()];
        wait(&mut steps, on, of, (back % 3) as u8, 1000);
        let found = check(&Plan::of(steps), &Tools::default(), &Limits::DEFAULT);
        prop_assert!(!found.is_empty() && found.iter().all(|it| it.message.contains("wait for one another")), "{:?}", found);
        let names = |it: usize| format!("`s{it}`");
        prop_assert!(found.iter().any(|it| it.message.contains(&names(of)) && it.message.contains(&names(on))));
    }
}
