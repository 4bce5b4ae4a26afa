use proptest::prelude::*;
use serde_json::json;

use super::*;

/// Results of two steps, an element and its place.
fn resolved(value: Value) -> Result<Value, String> {
    let launch = json!({
        "content": [{"type": "text", "text": "done"}],
        "structuredContent": {
            "id": "i-1", "name": "web", "n": 3, "on": true, "none": null, "items": [{"id": 7}, {"id": 8}],
            "a/b": {"m~n": 1}, "": 0, "-": "dash", "text": "${launch#/structuredContent/id} {\"$ref\": \"x#\"}",
            "evil": {"$ref": "launch#/structuredContent/id"}
        },
        "isError": false
    });
    let said = json!({"content": [{"type": "image"}, {"type": "text", "text": "{\"id\": [5]}"}]});
    let (launch, said) = (Arc::new(launch), Arc::new(said));
    let result = |step: &StepId| match step.as_str() {
        "launch" => Some(Arc::clone(&launch)),
        "said" => Some(Arc::clone(&said)),
        "null" => Some(Arc::new(json!({"structuredContent": null, "content": [{"text": "no"}]}))),
        _ => None,
    };
    let item = json!({"id": "n1"});
    let scope = Scope { result: &result, item: Some(&item), index: Some(4) };
    resolve(&value, &scope).map_err(|err| err.to_string())
}

#[track_caller]
fn text(given: &str) -> String {
    resolved(json!(given)).unwrap().as_str().unwrap().to_owned()
}

#[track_caller]
fn refused(given: Value) -> String {
    resolved(given).unwrap_err()
}

fn at(reference: &str) -> Value {
    json!({"$ref": reference})
}

#[test]
fn a_reference_has_the_type_that_it_finds() {
    let all = json!({
        "a": at("launch#/structuredContent/n"),
        "b": [at("launch#/structuredContent/on"), at("launch#/structuredContent/none")],
        "c": at("launch#/structuredContent/items/1"),
        "d": at("item#/id"), "e": at("index#"), "f": at("item#"),
        "g": at("launch#/structuredContent/a~1b/m~0n"), "h": at("launch#/structuredContent/"),
        "i": at("launch#/structuredContent/-"),
        "${launch#/x}": 1.5
    });
    let wanted = json!({
        "a": 3, "b": [true, null], "c": {"id": 8}, "d": "n1", "e": 4, "f": {"id": "n1"}, "g": 1, "h": 0, "i": "dash",
        "${launch#/x}": 1.5
    });
    assert_eq!(resolved(all).unwrap(), wanted);
    assert_eq!(resolved(at("launch#")).unwrap()["isError"], false);
}

#[test]
fn text_with_references_stays_text() {
    assert_eq!(text("${launch#/structuredContent/n}"), "3");
    assert_eq!(text("x${launch#/structuredContent/on}y"), "xtruey");
    assert_eq!(text("${launch#/structuredContent/items}"), r#"[{"id":7},{"id":8}]"#);
    assert_eq!(text("${item#/id}-${index#}-${launch#/structuredContent/name}!"), "n1-4-web!");
    let message = refused(json!("${launch#/structuredContent/none}"));
    assert!(message.contains("null, which has no text"), "{message}");
}

#[test]
fn only_the_form_of_a_reference_makes_one() {
    for same in [
        "costs $3",
        "$HOME",
        "${HOME}",
        "${HOME} # a comment",
        "${ launch#/x}",
        "${1#/x}",
        "${#x}",
        "$",
        "${",
        "${}",
        "$$",
        "$${HOME}",
        "$$$3",
        "{launch#/x}",
        "${läunch#/x}",
        "#{launch#/x}",
        "${launch}#/x",
        "$ {launch#/x}",
        "${-a#/x}",
        "${a b#/x}",
    ] {
        assert_eq!(text(same), same);
        assert!(is_constant(&json!(same)), "{same}");
    }
    let long = format!("${{{}#/x}}", "a".repeat(65));
    assert_eq!(text(&long), long);
}

#[test]
fn two_dollars_in_front_stand_for_one() {
    assert_eq!(text("$${launch#/structuredContent/n}"), "${launch#/structuredContent/n}");
    assert_eq!(text("costs $$${launch#/structuredContent/n}"), "costs $3");
    assert_eq!(text("$$$${launch#/x}"), "$${launch#/x}");
    assert_eq!(text("${${launch#/structuredContent/n}"), "${3");
    assert_eq!(text("$${file#*.} ${item#/id}"), "${file#*.} n1");
    assert!(!is_constant(&json!("$${launch#/x}")), "it is not what is written there");
}

#[test]
fn what_begins_as_a_reference_has_to_end_as_one() {
    for (bad, why) in [
        ("${launch#/x", "not closed"),
        ("${launch#", "not closed"),
        ("a ${launch#/x ${item#/id}", "not closed"),
        ("${launch#x}", "begins with `/`"),
        ("${file#*.}", "write `$${`"),
        ("${launch#/a~2}", "`~0`"),
        ("${launch#/a~}", "`~0`"),
        ("${index#/0}", "a number"),
    ] {
        let message = refused(json!(bad));
        assert!(message.contains(why), "{bad}: {message}");
    }
    for (bad, why) in [
        (json!({"$ref": 3}), "it is a text"),
        (json!({"$ref": "launch"}), "`#` and a JSON Pointer"),
        (json!({"$ref": "#/definitions/x"}), "not a step id"),
        (json!({"$ref": "launch#x"}), "begins with `/`"),
        (json!({"$ref": "launch#", "default": 1}), "beside `$ref` there is `default`"),
    ] {
        let message = refused(bad);
        assert!(message.contains(why), "{message}");
    }
}

#[test]
fn an_error_says_what_there_is_at_the_deepest_place() {
    let structured = |rest: &str| refused(at(&format!("launch#/structuredContent{rest}")));
    let message = structured("/idd");
    assert!(
        message
            .starts_with("`launch#/structuredContent/idd`: `/structuredContent` has `id`, `name`"),
        "{message}"
    );
    assert!(message.contains("not `idd`; nearest: `id`"), "{message}");
    assert!(
        structured("/items/2/id")
            .ends_with("`/structuredContent/items` has 2 elements, `0` to `1`; not `2`")
    );
    assert!(structured("/items/01").contains("not `01`"));
    assert!(structured("/items/-").contains("`-` is behind them"));
    assert!(structured("/items/99999999999999999999999").contains("has 2 elements"));
    assert!(structured("/id/x").ends_with("`/structuredContent/id` is a string; it has no `x`"));
    assert!(
        refused(at("launch#/structured")).contains("the result has `content`, `structuredContent`")
    );
    assert!(refused(at("item#/x")).contains("the element has `id`; not `x`"));
    assert!(refused(at("gone#/x")).contains("the step `gone` has no result"));
    assert!(refused(at("said#/structuredContent/id")).contains("`/json` also reads"));
}

#[test]
fn json_is_structured_content_or_the_first_text_that_is_json() {
    assert_eq!(resolved(at("launch#/json/id")).unwrap(), "i-1");
    assert_eq!(resolved(at("said#/json/id/0")).unwrap(), 5);
    assert_eq!(text("${said#/json} ${said#/json/id}"), r#"{"id":[5]} [5]"#);
    assert!(refused(at("null#/json")).contains("is not JSON"));
    assert!(refused(at("said#/json/idd")).contains("`/json` has `id`; not `idd`"));
    assert!(refused(at("said#/jsonx")).contains("the result has `content`"));
}

#[test]
fn outside_for_each_there_is_no_element() {
    let scope = Scope { result: &|_| None, item: None, index: None };
    for it in ["item#/id", "index#"] {
        let message = resolve(&at(it), &scope).unwrap_err().to_string();
        assert!(message.contains("only in a step with `for_each`"), "{message}");
    }
}

#[test]
fn what_a_tool_said_is_not_looked_at_for_references() {
    let said = "${launch#/structuredContent/id} {\"$ref\": \"x#\"}";
    assert_eq!(text("${launch#/structuredContent/text}"), said);
    assert_eq!(resolved(at("launch#/structuredContent/text")).unwrap(), said);
    let evil = resolved(at("launch#/structuredContent/evil")).unwrap();
    assert_eq!(evil, json!({"$ref": "launch#/structuredContent/id"}));
}

#[test]
fn a_short_plan_cannot_ask_for_all_the_memory() {
    let large = Arc::new(json!({"content": [{"type": "text", "text": "x".repeat(40 << 20)}]}));
    let scope = Scope { result: &|_| Some(Arc::clone(&large)), item: None, index: None };
    assert!(resolve(&at("a#/content/0/text"), &scope).is_ok());
    for value in [json!(vec![at("a#"); 7]), json!("${a#/content/0/text}".repeat(7))] {
        let message = resolve(&value, &scope).unwrap_err().to_string();
        assert!(message.contains("256 MiB"), "{message}");
    }
}

#[test]
fn a_result_is_asked_for_once() {
    let n_asked = std::cell::Cell::new(0);
    let result = |_: &StepId| {
        n_asked.set(n_asked.get() + 1);
        Some(Arc::new(json!({"content": [{"text": "1"}]})))
    };
    let scope = Scope { result: &result, item: None, index: None };
    let value = json!([at("a#/json"), at("a#/json"), "${a#/json} ${a#/content/0/text}"]);
    assert_eq!(resolve(&value, &scope).unwrap(), json!([1, 1, "1 1"]));
    assert_eq!(n_asked.get(), 1);
}

#[test]
fn text_that_begins_references_over_and_over_costs_no_more_than_its_length() {
    // Were it quadratic, these would take longer than the runner lets a test take.
    for value in
        [json!("${a#".repeat(200_000)), json!("$".repeat(1_000_000)), json!("${a".repeat(300_000))]
    {
        let mut into = Needs::default();
        let wrong = needs(&value, &mut into);
        assert!(into.steps.is_empty() && matches!(wrong.len(), 0 | 200_000));
    }
}

#[test]
fn needs_are_in_the_order_of_the_first_mention_and_places_of_what_is_wrong() {
    let value = json!({
        "a": [at("two#/x"), "${one#} ${two#/y}"],
        "b/c": {"$ref": "one#", "x": 1},
        "d": {"e~": "${one#x}"}, "f": at("index#")
    });
    let mut into = Needs::default();
    let wrong = needs(&value, &mut into);
    let step = |it: &str| StepId::try_new(it).unwrap();
    assert_eq!(into, Needs { steps: vec![step("two"), step("one")], item: true });
    let places: Vec<&str> = wrong.iter().map(|(place, _)| place.as_str()).collect();
    assert_eq!(places, ["/b~1c", "/d/e~0"]);
    assert_eq!(needs(&at("two#"), &mut into), []);
    assert_eq!(into.steps.len(), 2, "each once, whatever was there before");
}

/// Any JSON, with much in it that is nearly a reference.
pub(in crate::plan) fn any_json() -> impl Strategy<Value = Value> {
    let nearly = prop::sample::select(vec![
        "${",
        "}",
        "$",
        "$$",
        "#",
        "/",
        "~0",
        "~",
        "a",
        "b",
        "item",
        "index",
        "{",
        "json",
        "0",
        "-",
        " ",
        "ä",
        "${a#/x}",
        "${b#/json}",
        "$ref",
        "a#/x",
        "structuredContent",
        "${item#/k}",
    ]);
    let text = prop::collection::vec(nearly, 0..8).prop_map(|it| it.concat());
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text.clone().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        text.clone().prop_map(|it| json!({"$ref": it})),
        prop::sample::select(vec!["a#/x", "b#/structuredContent/k/0", "item#/k", "index#", "a#"])
            .prop_map(|it| json!({"$ref": it})),
    ];
    leaf.prop_recursive(4, 40, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((text.clone(), inner), 0..5)
                .prop_map(|it| Value::Object(it.into_iter().collect())),
        ]
    })
}

fn without_hash_after_dollar(text: &str) -> bool {
    text.find("${").is_none_or(|it| !text[it..].contains('#'))
}

proptest! {
    #[test]
    fn resolving_never_panics(value in any_json(), result in any_json(), item in any_json()) {
        let result = Arc::new(result);
        let scope = Scope { result: &|_| Some(Arc::clone(&result)), item: Some(&item), index: Some(0) };
        if resolve(&value, &scope).is_ok_and(|it| it == value) {
            return Ok(());
        }
        prop_assert!(!is_constant(&value), "what is constant is resolved to itself");
    }

    /// A place for each reference, and data of any look in all of them.
    #[test]
    fn data_is_never_resolved_again(data in any_json()) {
        let result = Arc::new(json!({"structuredContent": {"k": data}}));
        let scope = Scope { result: &|_| Some(Arc::clone(&result)), item: Some(&data), index: None };
        let value = json!({"a": at("a#/structuredContent/k"), "b": [at("item#")], "c": at("b#/json/k")});
        let wanted = json!({"a": data, "b": [data], "c": data});
        prop_assert_eq!(resolve(&value, &scope).unwrap(), wanted);
        if let Value::String(text) = &data {
            let said = resolve(&json!("<${item#}>"), &scope).unwrap();
            prop_assert_eq!(said.as_str().unwrap(), format!("<{text}>"));
        }
    }

    #[test]
    fn text_that_refers_to_nothing_is_untouched(text in "([$#{}/ a~é]|item|\\$\\{|\\$\\$)*") {
        if without_hash_after_dollar(&text) {
            let value = json!(text);
            prop_assert!(is_constant(&value));
            let scope = Scope { result: &|_| None, item: None, index: None };
            prop_assert_eq!(resolve(&value, &scope).unwrap(), value);
        }
    }

    /// Any text can be said in a plan: each `$` directly before `{id#` is doubled.
    #[test]
    fn every_text_can_be_written(text in "([$#{}/ a]|item|\\$\\{a#|\\$\\$)*") {
        let pattern = regex::Regex::new(r"(\$+)(\{[A-Za-z_][A-Za-z0-9_-]{0,63}#)").unwrap();
        let written = pattern.replace_all(&text, "$1$1$2");
        let scope = Scope { result: &|_| None, item: None, index: None };
        prop_assert_eq!(resolve(&json!(written), &scope).unwrap(), json!(text));
    }

    #[test]
    fn needs_finds_what_resolving_asks_for(value in any_json()) {
        let asked = std::cell::RefCell::new(Vec::new());
        // Whatever is at a place is there, so nothing ends the resolution early: the pointers are cut off.
        fn all_of_it(value: &Value) -> Value {
            match value {
                Value::Array(items) => items.iter().map(all_of_it).collect(),
                Value::Object(members) if whole(value).is_none() => {
                    members.iter().map(|(key, it)| (key.clone(), all_of_it(it))).collect()
                }
                Value::Object(_) => match whole(value) {
                    Some(Ok(it)) => json!({"$ref": it.written.split_once('#').unwrap().0.to_owned() + "#"}),
                    _ => Value::Null,
                },
                Value::String(text) => {
                    let mut out = String::new();
                    for piece in pieces(text) {
                        if let Ok(Piece::Reference(it)) = piece {
                            out.push_str(&format!("${{{}#}}", it.written.split_once('#').unwrap().0));
                        }
                    }
                    Value::String(out)
                }
                other => other.clone(),
            }
        }
        let value = all_of_it(&value);
        let result = |step: &StepId| {
            asked.borrow_mut().push(step.clone());
            Some(Arc::new(json!({"content": []})))
        };
        let item = json!("x");
        let scope = Scope { result: &result, item: Some(&item), index: Some(0) };
        resolve(&value, &scope).unwrap();
        let mut into = Needs::default();
        prop_assert_eq!(needs(&value, &mut into), []);
        prop_assert_eq!(&into.steps, &*asked.borrow());
        // Without an element there is an error exactly where one is needed.
        let scope = Scope { result: &result, item: None, index: None };
        prop_assert_eq!(resolve(&value, &scope).is_err(), into.item);
    }
}
