use std::sync::Arc;

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn ask(when: Value) -> Result<bool, String> {
    let condition = Condition::parse(&when).unwrap();
    let structured = json!({
        "n": 1, "zero": 0.0, "text": "abc", "empty": "", "none": null, "list": [1, "b"], "nothing": {}, "no": false
    });
    let result = Arc::new(json!({"structuredContent": structured}));
    let scope = Scope {
        result: &|it| (it.as_str() == "a").then(|| Arc::clone(&result)),
        item: None,
        index: None,
    };
    let state = |it: &StepId| match it.as_str() {
        "a" => Some(StepState::Succeeded),
        "b" => Some(StepState::Failed),
        "c" => Some(StepState::Skipped),
        "u" => Some(StepState::Unknown),
        "r" => Some(StepState::Running),
        _ => None,
    };
    condition.holds(&scope, &state).map_err(|err| err.to_string())
}

fn at(key: &str) -> Value {
    json!({"$ref": format!("a#/structuredContent/{key}")})
}

#[track_caller]
fn holds(when: Value) {
    assert_eq!(ask(when.clone()), Ok(true), "{when}");
    assert_eq!(ask(json!({"not": when})), Ok(false), "{when}");
}

#[track_caller]
fn does_not_hold(when: Value) {
    assert_eq!(ask(when.clone()), Ok(false), "{when}");
    assert_eq!(ask(json!({"not": when})), Ok(true), "{when}");
}

#[test]
fn a_value_holds_that_is_neither_null_nor_false_nor_zero_nor_empty() {
    for it in ["n", "text", "list"] {
        holds(at(it));
    }
    for it in ["zero", "empty", "none", "nothing", "no"] {
        does_not_hold(at(it));
    }
}

#[test]
fn values_are_compared_by_what_they_are() {
    holds(json!({"eq": [at("n"), 1.0]}));
    holds(json!({"eq": [{"x": [1, 2], "y": null}, {"y": null, "x": [1.0, 2]}]}));
    holds(json!({"ne": [at("n"), "1"]}));
    holds(json!({"eq": ["<${a#/structuredContent/n}>", "<1>"]}));
    holds(json!({"lt": [at("n"), 1.5]}));
    holds(json!({"lt": [9_007_199_254_740_993_i64, 9_007_199_254_740_994.0]}));
    holds(json!({"gt": [u64::MAX, 1e19]}));
    holds(json!({"lt": [-1.5, -1]}));
    holds(json!({"le": ["abc", at("text")]}));
    holds(json!({"gt": ["ä", "z"]}));
    does_not_hold(json!({"ge": ["Z", "a"]}));
    holds(json!({"in": [1.0, at("list")]}));
    holds(json!({"in": ["b", [at("n"), "b"]]}));
    holds(json!({"in": ["bc", at("text")]}));
    does_not_hold(json!({"in": ["B", at("list")]}));
    for (mixed, why) in [
        (json!({"lt": [1, "2"]}), "`lt`: a number and a string have no order"),
        (json!({"ge": [null, 1]}), "null and a number have no order"),
        (json!({"gt": [[2], [1]]}), "an array and an array have no order"),
        (json!({"in": [1, "123"]}), "a number is not looked for in a string"),
        (json!({"in": ["a", {"a": 1}]}), "an array to the right"),
    ] {
        let message = ask(mixed).unwrap_err();
        assert!(message.contains(why), "{message}");
    }
}

#[test]
fn only_exists_asks_about_what_may_not_be_there() {
    holds(json!({"exists": at("none")}));
    does_not_hold(json!({"exists": at("nowhere")}));
    does_not_hold(json!({"exists": {"$ref": "b#/structuredContent"}}));
    assert!(ask(at("nowhere")).unwrap_err().contains("not `nowhere`"));
    assert!(ask(json!({"eq": [{"$ref": "b#/x"}, 1]})).unwrap_err().contains("has no result"));
    // What is before it decides whether it is looked at.
    does_not_hold(json!({"all": [{"exists": at("nowhere")}, at("nowhere")]}));
    holds(json!({"any": [at("n"), at("nowhere")]}));
    assert!(ask(json!({"any": [at("no"), at("nowhere")]})).is_err());
}

#[test]
fn a_step_that_ended_did_so_in_exactly_one_way() {
    for (step, way) in [("a", "succeeded"), ("b", "failed"), ("u", "failed"), ("c", "skipped")] {
        holds(json!({"ended": step}));
        for it in ["succeeded", "failed", "skipped"] {
            assert_eq!(ask(json!({it: step})), Ok(it == way), "{it} {step}");
        }
    }
    for it in ["succeeded", "failed", "skipped", "ended"] {
        does_not_hold(json!({it: "r"}));
        assert!(ask(json!({it: "x"})).unwrap_err().contains("no such step"));
    }
}

#[test]
fn a_condition_that_is_none_says_what_is_allowed_and_where() {
    for (bad, why) in [
        (json!(true), "an object with one of `$ref`, `eq`"),
        (json!("${a#/x}"), "here is a string"),
        (json!({}), "exactly one member, and here are 0"),
        (json!({"eq": [1, 1], "ne": [1, 2]}), "`all` and `any` put several together"),
        (json!({"equals": [1, 1]}), "`/equals`: a condition has one of `$ref`, `eq`"),
        (json!({"succeded": "a"}), "nearest: `succeeded`"),
        (json!({"eq": [1]}), "`/eq`: `eq` takes an array of two values, and here are 1"),
        (json!({"lt": 1}), "here is a number"),
        (json!({"exists": "a"}), "`exists` takes `{\"$ref\""),
        (json!({"all": []}), "at least one"),
        (json!({"any": [{"not": {"failed": 1}}]}), "`/any/0/not/failed`: the id of a step"),
        (json!({"ended": "item"}), "not a step id"),
        (json!({"$ref": "a#", "x": 1}), "beside `$ref` there is `x`"),
        (json!({"in": [{"$ref": "a"}, []]}), "`/in/0`: `a`: a reference is"),
    ] {
        let message = Condition::parse(&bad).unwrap_err();
        assert!(message.contains(why), "{bad}: {message}");
    }
    let both = Condition::parse(&json!({"all": [{"x": 1}, {"y": 1}]})).unwrap_err();
    assert!(both.contains("`/all/0/x`") && both.contains("`/all/1/y`"), "{both}");
    let mut deep = at("n");
    for _ in 0..100 {
        deep = json!({"not": deep});
    }
    assert!(Condition::parse(&deep).unwrap_err().contains("too often"));
}

#[test]
fn needs_and_questions_are_apart() {
    let when = json!({"all": [
        {"failed": "b"}, {"any": [{"eq": [{"$ref": "x#/json"}, "${y#}"]}, {"exists": {"$ref": "z#"}}]},
        {"not": {"ended": "c"}}, {"skipped": "b"}, {"$ref": "x#/json/a"}
    ]});
    let condition = Condition::parse(&when).unwrap();
    let names = |it: &[StepId]| it.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(names(&condition.needs().steps), ["x", "y", "z"]);
    assert_eq!(names(&condition.asks_about()), ["b", "c"]);
}

proptest! {
    #[test]
    fn parsing_and_asking_never_panic(value in crate::plan::reference::tests::any_json()) {
        for when in [value.clone(), json!({"all": [{"eq": [value, 1]}]})] {
            if let Ok(condition) = Condition::parse(&when) {
                let scope = Scope { result: &|_| None, item: None, index: None };
                drop(condition.holds(&scope, &|_| None));
            }
        }
    }

    #[test]
    fn numbers_have_one_order(a in any::<i64>(), b in any::<i64>(), x in -1e19f64..1e19) {
        let holds = |how: Comparison, l: Value, r: Value| how.holds(&l, &r).unwrap();
        prop_assert_eq!(holds(Comparison::Lt, json!(a), json!(b)), a < b);
        prop_assert_eq!(holds(Comparison::Eq, json!(a), json!(a)), true);
        let (lt, eq, gt) = (
            holds(Comparison::Lt, json!(a), json!(x)),
            holds(Comparison::Eq, json!(a), json!(x)),
            holds(Comparison::Gt, json!(a), json!(x)),
        );
        prop_assert_eq!(u8::from(lt) + u8::from(eq) + u8::from(gt), 1);
        prop_assert_eq!(holds(Comparison::Gt, json!(x), json!(a)), lt);
    }
}
