use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::plan::reference::Segment;

fn faults(schema: &Value, arguments: &Value) -> Vec<(String, String)> {
    look(&mut Schemas::default(), schema, arguments)
}

fn look(schemas: &mut Schemas, schema: &Value, arguments: &Value) -> Vec<(String, String)> {
    look_with(schemas, &tool(schema.clone()), arguments)
}

fn tool(schema: Value) -> ToolFacts {
    ToolFacts {
        name: "s.t".into(),
        server: "s".into(),
        input_schema: Arc::new(schema),
        is_read_only: true,
        is_idempotent: true,
    }
}

fn look_with(schemas: &mut Schemas, tool: &ToolFacts, arguments: &Value) -> Vec<(String, String)> {
    let mut place = Place(vec![Segment::Key("at")]);
    let found = schemas.faults(tool, arguments.as_object().unwrap(), &mut place);
    assert_eq!(place.to_string(), "/at", "what was gone into is left");
    found.into_iter().map(|it| (it.place, it.message)).collect()
}

/// `x` against a schema.
#[track_caller]
fn wrong(schema: Value, x: Value, place: &str, said: &str) {
    let found = faults(&json!({"properties": {"x": schema}}), &json!({"x": x}));
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].0, format!("/at/x{place}"));
    assert!(found[0].1.contains(said), "{found:?}");
}

#[track_caller]
fn not_wrong(schema: Value, x: Value) {
    assert_eq!(faults(&json!({"properties": {"x": schema}}), &json!({"x": x})), []);
}

#[test]
fn what_is_wrong_is_said_in_words() {
    wrong(
        json!({"type": ["string", "null"]}),
        json!(1),
        "",
        "a number is given; wanted: `string`, `null`",
    );
    wrong(json!({"const": "a"}), json!("b"), "", "only `a` is allowed here");
    wrong(json!({"enum": [{"a": [1]}]}), json!({"a": [2]}), "", "only `{\"a\":[1]}`");
    wrong(json!({"maxLength": 2}), json!("äöü"), "", "here are 3 characters; wanted: at most 2");
    wrong(json!({"pattern": "^[a-z]+$"}), json!("A"), "", "does not match `^[a-z]+$`");
    wrong(json!({"exclusiveMinimum": 1}), json!(1.0), "", "more than 1");
    wrong(json!({"minimum": 1, "exclusiveMinimum": true}), json!(1), "", "more than 1");
    wrong(json!({"multipleOf": 3}), json!(4), "", "a multiple of 3");
    wrong(json!({"items": {"type": "integer"}}), json!([1, "2"]), "/1", "a string is given");
    wrong(
        json!({"prefixItems": [{}], "items": false}),
        json!([1, 2]),
        "/1",
        "nothing may be given",
    );
    wrong(
        json!({"items": [{}], "additionalItems": {"type": "null"}}),
        json!([1, 2]),
        "/1",
        "wanted: `null`",
    );
    wrong(
        json!({"uniqueItems": true}),
        json!([1, "1", 1.0]),
        "",
        "the elements 0 and 2 are the same",
    );
    wrong(
        json!({"additionalProperties": {"type": "string"}}),
        json!({"a/b": 1}),
        "/a~1b",
        "a number is given",
    );
    wrong(
        json!({"patternProperties": {"^a": {"type": "string"}}, "additionalProperties": false}),
        json!({"ab": 1}),
        "/ab",
        "a number",
    );
    wrong(json!({"dependentRequired": {"a": ["b"]}}), json!({"a": 1}), "", "`b` is missing");
    wrong(
        json!({"dependentSchemas": {"a": {"required": ["b"]}}}),
        json!({"a": 1}),
        "",
        "`b` is missing",
    );
    wrong(json!({"not": {"type": "string"}}), json!("a"), "", "excluded");
    wrong(json!({"oneOf": [{"type": "integer"}, {"minimum": 1}]}), json!(2), "", "2 of the forms");
    wrong(
        json!({"anyOf": [{"type": "string"}, {"type": "null"}]}),
        json!(2),
        "",
        "wanted: `string`, `null`",
    );
    let forms = json!({"anyOf": [{"type": "null"}, {"type": "object", "required": ["id"]}]});
    wrong(forms, json!({}), "", "`id` is missing");
    wrong(
        json!({"anyOf": [{"minLength": 2}, {"const": "b"}]}),
        json!("a"),
        "",
        "none of the 2 forms",
    );
    let kinds = json!({"if": {"properties": {"k": {"const": 1}}}, "then": {"required": ["a"]}, "else": {"required": ["b"]}});
    wrong(kinds.clone(), json!({"k": 1}), "", "`a` is missing");
    wrong(kinds, json!({"k": 2}), "", "`b` is missing");
    let tree = json!({"$defs": {"t": {"properties": {"c": {"items": {"$ref": "#/$defs/t"}}, "n": {"type": "integer"}}}}, "$ref": "#/$defs/t"});
    let found = faults(&tree, &json!({"c": [{"c": [{"n": "1"}]}]}));
    assert_eq!(found[0].0, "/at/c/0/c/0/n");
}

#[test]
fn what_a_reference_may_come_to_is_not_judged() {
    let any = json!({"$ref": "a#/json"});
    let text = json!("-${a#/json}-");
    for schema in [
        json!({"type": "integer"}),
        json!({"enum": [1]}),
        json!({"not": {"type": "integer"}}),
        json!({"minimum": 3}),
        json!({"anyOf": [{"type": "null"}, {"const": 1}]}),
        json!({"pattern": "x"}),
    ] {
        not_wrong(schema, any.clone());
    }
    for schema in [
        json!({"enum": ["a", 1]}),
        json!({"minLength": 10}),
        json!({"pattern": "^x"}),
        json!({"not": {"const": "a"}}),
    ] {
        not_wrong(schema, text.clone());
    }
    wrong(json!({"enum": [1, null]}), text.clone(), "", "not among");
    let kinds = json!({"if": {"properties": {"k": {"const": 1}}}, "then": {"required": ["a"]}, "else": {"required": ["b"]}});
    not_wrong(kinds, json!({"k": any}));
    let forms = json!({"oneOf": [
        {"properties": {"k": {"const": 1}}, "required": ["a"]}, {"properties": {"k": {"const": 2}}, "required": ["b"]}
    ]});
    not_wrong(forms.clone(), json!({"k": any, "b": 1}));
    wrong(forms, json!({"k": any}), "", "none of the 2 forms");
    not_wrong(json!({"uniqueItems": true}), json!([any, any]));
    wrong(json!({"maxItems": 1}), json!([any, any]), "", "here are 2 elements");
    not_wrong(json!({"const": [1]}), json!([any]));
    not_wrong(json!({"enum": [{"a": 1}]}), json!({"a": text}));
}

#[test]
fn what_is_not_understood_is_not_judged() {
    for schema in [
        json!({"$ref": "https://example.invalid/schema"}),
        json!({"$ref": "#/nowhere"}),
        json!({"$dynamicRef": "#x"}),
        json!({"unevaluatedProperties": false}),
        json!({"not": {"format": "email"}}),
        json!({"pattern": "(?=a)b"}),
        json!({"pattern": "("}),
        json!({"type": "strange"}),
        json!({"type": 3}),
        json!({"enum": 3}),
        json!(3),
        json!({"properties": []}),
        json!({"minimum": "1"}),
        json!({"not": {"made-up": true}}),
        json!({"pattern": "a{1000}{1000}"}),
        json!({"allOf": 1}),
    ] {
        for x in [json!("a"), json!({"a": 1}), json!([1]), json!(1)] {
            not_wrong(schema.clone(), x);
        }
    }
    not_wrong(json!({"not": {"contains": {"const": 1}}}), json!([1]));
    not_wrong(json!({"type": "string", "nullable": true}), json!(null));
    let old = json!({"$schema": "http://json-schema.org/draft-07/schema#", "definitions": {"a": {}}, "properties": {
        "x": {"$ref": "#/definitions/a", "type": "string"}}});
    assert_eq!(faults(&old, &json!({"x": 1})), []);
}

/// Each of these keeps a validator that believes them busy for longer than anybody lives, or ends it.
#[test]
fn hostile_schemas_cost_little_and_soon_nothing() {
    let laughs: serde_json::Map<String, Value> = (0..60)
        .map(|it| {
            let next = json!({"$ref": format!("#/$defs/d{}", it + 1)});
            (format!("d{it}"), json!({"allOf": [next, next], "anyOf": [next, next]}))
        })
        .collect();
    let mut deep = json!({"type": "string"});
    let mut value = json!(1);
    for _ in 0..100 {
        deep = json!({"not": deep});
        value = json!({"c": value});
    }
    let doubling = json!({"$defs": {"a": {"properties": {"c": {"$ref": "#/$defs/a"}}, "allOf": [{"properties": {"c": {"$ref": "#/$defs/a"}}}]}}, "$ref": "#/$defs/a"});
    let wide: Vec<Value> = (0..100_000).map(|it| json!({"const": it})).collect();
    let hostile = [
        json!({"$defs": laughs, "$ref": "#/$defs/d0"}),
        json!({"$ref": "#"}),
        json!({"allOf": [{"$ref": "#"}, {"$ref": "#"}]}),
        json!({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}),
        doubling,
        deep,
        json!({"allOf": wide}),
        json!({"properties": {"text": {"pattern": "^(a|a?)+$"}, "c": {"pattern": "((a{50}){50}){50}"}}}),
    ];
    let arguments = json!({"c": value, "text": "a".repeat(100_000) + "b", "list": vec![0; 10_000]});
    for schema in hostile {
        let tool = tool(schema);
        let mut schemas = Schemas::default();
        for _ in 0..100 {
            look_with(&mut schemas, &tool, &arguments);
        }
        // Looks are what takes time, and a plan has enough left for its other tools.
        assert!(MOST_OF_A_PLAN / 2 < schemas.n_left, "{:.100}", tool.input_schema.to_string());
    }
}

#[test]
fn a_plan_has_a_budget_for_all_its_tools() {
    let mut schemas = Schemas { n_left: 40, ..Schemas::default() };
    let schema = json!({"required": ["x"]});
    let n = (0..100).filter(|_| !look(&mut schemas, &schema, &json!({})).is_empty()).count();
    assert!((1..40).contains(&n), "{n}");
}

/// Schemas of what is understood, and some of what is not.
fn any_schema() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!(true)),
        Just(json!(false)),
        prop::sample::select(vec![
            "string", "integer", "number", "object", "array", "null", "boolean"
        ])
        .prop_map(|it| json!({"type": it})),
        any_value().prop_map(|it| json!({"const": it})),
        prop::collection::vec(any_value(), 1..4).prop_map(|it| json!({"enum": it})),
        (-2i64..4).prop_map(|it| json!({"minimum": it})),
        (-2i64..4).prop_map(|it| json!({"exclusiveMaximum": it})),
        (1i64..4).prop_map(|it| json!({"type": ["integer", "null", "object"], "multipleOf": it})),
        (0u64..4).prop_map(|it| json!({"minLength": it})),
        (0u64..3).prop_map(|it| json!({"maxItems": it, "maxProperties": it})),
        Just(json!({"pattern": "^a"})),
        Just(json!({"uniqueItems": true})),
        Just(json!({"format": "email"})),
        prop::sample::subsequence(vec!["a", "b", "c"], 0..3).prop_map(|it| json!({"required": it})),
        Just(json!({"$ref": "#/$defs/d"})),
        Just(json!({"dependentRequired": {"a": ["b"]}})),
    ];
    leaf.prop_recursive(4, 30, 4, |inner| {
        let inner = inner.boxed();
        let some = || prop::collection::vec(inner.clone(), 1..4);
        prop_oneof![
            some().prop_map(|it| json!({"allOf": it})),
            some().prop_map(|it| json!({"anyOf": it})),
            some().prop_map(|it| json!({"oneOf": it})),
            inner.clone().prop_map(|it| json!({"not": it})),
            (inner.clone(), inner.clone(), inner.clone())
                .prop_map(|(i, t, e)| json!({"if": i, "then": t, "else": e})),
            inner.clone().prop_map(|it| json!({"items": it})),
            some().prop_map(|it| json!({"prefixItems": it, "items": false})),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| json!({"properties": {"a": a, "b": b}})),
            (inner.clone(), inner.clone())
                .prop_map(|(a, b)| json!({"properties": {"a": a}, "additionalProperties": b, "patternProperties": {"^b": true}})),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| {
                let mut both = a.as_object().cloned().unwrap_or_default();
                both.extend(b.as_object().cloned().unwrap_or_default());
                Value::Object(both)
            }),
        ]
    })
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(Value::from),
        (-3i64..5).prop_map(Value::from),
        (-3i64..5).prop_map(|it| json!(it as f64)),
        Just(json!(1.5)),
        "[ab]{0,4}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map("[abc]", inner, 0..3)
                .prop_map(|it| Value::Object(it.into_iter().collect())),
        ]
    })
}

/// `value` with a reference in place of every part that `hides` picks.
fn with_holes(value: &Value, hides: &mut impl FnMut() -> bool) -> Value {
    if hides() {
        return json!({"$ref": "a#/json"});
    }
    match value {
        Value::Array(items) => items.iter().map(|it| with_holes(it, hides)).collect(),
        Value::Object(members) => {
            members.iter().map(|(key, it)| (key.clone(), with_holes(it, hides))).collect()
        }
        Value::String(text) if hides() => json!(format!("{text}${{a#/json}}")),
        other => other.clone(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Held to a real validator: what it takes is never refused, whatever parts of it are still unknown; and what it refuses
    /// is refused when everything is known and understood.
    #[test]
    fn the_verdict_is_that_of_a_validator(
        x in any_schema(), d in any_schema(), value in any_value(), holes in prop::collection::vec(prop::bool::weighted(0.3), 30)
    ) {
        let schema = json!({"properties": {"x": x}, "$defs": {"d": d}});
        // A circle of references at one place says nothing; validators differ in what they make of it.
        prop_assume!(!d.to_string().contains("$ref"));
        let arguments = json!({"x": value});
        let is_valid = jsonschema::validator_for(&schema).unwrap().is_valid(&arguments);
        let found = faults(&schema, &arguments);
        prop_assert!(!is_valid || found.is_empty(), "{:?}", found);
        if !schema.to_string().contains("format") {
            prop_assert_eq!(is_valid, found.is_empty());
        }
        if is_valid {
            let mut holes = holes.into_iter();
            let holed = json!({"x": with_holes(&value, &mut || holes.next().unwrap_or(false))});
            let found = faults(&schema, &holed);
            // Text with a reference in it is longer text, so only its type has to be right.
            if !holed.to_string().contains("${") {
                prop_assert!(found.is_empty(), "{} {:?}", holed, found);
            }
        }
    }

    #[test]
    fn any_json_may_be_a_schema(schema in crate::plan::reference::tests::any_json(), x in crate::plan::reference::tests::any_json()) {
        faults(&json!({"properties": {"x": schema}}), &json!({"x": x}));
        faults(&schema, &json!({"x": x}));
    }
}
