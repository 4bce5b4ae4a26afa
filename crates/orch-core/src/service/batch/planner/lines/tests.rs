//! What models write around their objects, and that the pieces in which it comes do not matter.

use proptest::prelude::*;

use super::*;

fn read(pieces: &[&str]) -> (Vec<Found>, usize) {
    let mut lines = Lines::default();
    let mut found: Vec<Found> = pieces.iter().flat_map(|it| lines.push(it)).collect();
    let n_ignored = lines.n_ignored();
    found.extend(lines.end());
    (found, n_ignored)
}

/// Ids of objects, `?` for those without one, `!` for what is broken.
fn ids(text: &str) -> String {
    let id = |it: Found| match it {
        Found::Object(it) => {
            it.get("id").map_or("?".to_owned(), |it| it.as_str().unwrap().to_owned())
        }
        Found::Broken { .. } => "!".to_owned(),
        Found::TooMuch { .. } => "over".to_owned(),
    };
    read(&[text]).0.into_iter().map(id).collect::<Vec<_>>().join(" ")
}

/// What models were seen to write, and worse.
const WRITTEN: [(&str, &str); 22] = [
    ("{\"id\": \"a\"}\n{\"id\": \"b\"}\n{\"done\": true}\n", "a b ?"),
    ("{\"id\":\"a\"}{\"id\":\"b\"} {\"id\":\"c\"}", "a b c"),
    ("Here is the plan {as asked}:\n```json\n{\"id\": \"a\"}\n```\nDone!", "a"),
    ("1. {\"id\": \"a\"},\n- {\"id\": \"b\"},\n\n", "a b"),
    ("[\n  {\n    \"id\": \"a\",\n    \"arguments\": {}\n  },\n  {\"id\": \"b\"}\n]\n", "a b"),
    (
        "{\"version\": 1, \"steps\": [{\"id\": \"a\"}, {\"id\": \"b\"}], \"output\": {\"x\": []}}",
        "a b ?",
    ),
    (
        "{\n  \"steps\": [\n    {\"id\": \"a\", \"arguments\": {\"steps\": [{\"id\": \"no\"}]}}\n  ]\n}",
        "a ?",
    ),
    ("{\"plan\": {\"steps\": [{\"id\": \"a\"}]}}", "a ?"),
    ("{\"id\": \"a\", \"text\": \"}{ \\\" [ \\\\\"}\n{\"id\": \"b\"}", "a b"),
    ("{\"id\": \"a\", \"arguments\": {\"a\": 1}\n{\"id\": \"b\"}\n", "! b"),
    ("{\"id\": \"a\", \"arguments\": {\"a\": 1},\n{\"id\": \"b\"}\n", "! b"),
    ("{\"id\": \"a\", \"text\": \"two\nlines {\"}\n{\"id\": \"b\"}", "! b"),
    ("{\"id\": \"a\", \"n\": [1, 2}\n{\"id\": \"b\"}", "! b"),
    ("{id: \"a\"}\n{\"id\": \"b\"}", "! b"),
    ("{\"id\": \"a\",}\n{\"id\": \"b\"}", "! b"),
    ("{\"id\": \"a\", \n```\n{\"id\": \"b\"}", "! b"),
    ("{\"id\": \"a\", \"arg", "!"),
    ("{\"steps\": [{\"id\": \"a\"}, {\"id\": \"b\"", "a !"),
    ("{\"steps\": [{\"id\": \"a\"}", "a !"),
    ("<think>Maybe {\"id\": \"draft\"}? No.</think>\n{\"id\": \"a\"}", "a"),
    ("한국어 말 {\"id\": \"a\", \"이름\": \"값 } 🙂\"} 끝", "a"),
    ("nothing to do", ""),
];

#[test]
fn objects_are_found_in_whatever_is_around_them() {
    for (text, expected) in WRITTEN {
        assert_eq!(ids(text), expected, "{text}");
    }
}

#[test]
fn an_object_is_there_with_its_closing_brace() {
    let mut lines = Lines::default();
    assert!(lines.push("[{\"id\": \"a\", \"arguments\": {}").is_empty());
    assert_eq!(lines.push("}").len(), 1, "no newline is waited for");
    assert!(lines.push(",\n{\"steps\": [ ").is_empty());
    assert_eq!(lines.push("{\"id\": \"b\"}").len(), 1, "nor the end of a document");
    assert!(lines.push(", ").is_empty());
}

#[test]
fn a_document_comes_without_its_steps_after_them() {
    let (found, _) = read(&["{\"steps\": [{\"id\": \"a\"}], \"output\": {\"n\": [1]}}"]);
    let expected = serde_json::json!({"steps": [], "output": {"n": [1]}});
    assert_eq!(found[1], Found::Object(expected.as_object().unwrap().clone()));
}

#[test]
fn what_is_around_is_counted() {
    assert_eq!(read(&["Sure:\n```json\n{\"id\": \"a\"}\n```"]).1, "Sure:```json```".len());
    assert_eq!(read(&["[{\"id\": \"a\"},\n{\"id\": \"b\"}]"]).1, 0);
}

#[test]
fn endless_text_is_ended() {
    let long = format!("{{\"id\": \"{}", "x".repeat(MAX_OBJECT));
    assert_eq!(ids(&format!("{{\"id\": \"a\"}}\n{long}\"}}\n{{\"id\": \"b\"}}")), "a over");
    let mut lines = Lines::default();
    let n_found: usize = (0..100).map(|_| lines.push(&"word ".repeat(20_000)).len()).sum();
    assert_eq!(n_found, 1, "and says so once");
    assert!(lines.push("{\"id\": \"a\"}").is_empty());
    assert!(ids(&"{\"a\":".repeat(40_000)).ends_with('!'));
}

proptest! {
    #[test]
    fn pieces_do_not_matter(which in 0..WRITTEN.len(), cuts in proptest::collection::vec(0usize..200, 0..12)) {
        let text = WRITTEN[which].0;
        let mut cuts: Vec<usize> = cuts.into_iter().map(|it| text.floor_char_boundary(it)).collect();
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        let pieces: Vec<&str> = cuts.windows(2).map(|it| &text[it[0]..it[1]]).collect();
        prop_assert_eq!(read(&pieces), read(&[text]));
    }

    #[test]
    fn any_text_in_any_pieces_is_read_the_same(pieces in proptest::collection::vec(
        "[{}\\[\\]\",:\\\\a1` \n<>]{0,12}|\\{\"id\": \"a\"\\}|\"steps\": \\[|<think>|</think>|\\PC{0,3}", 0..20,
    )) {
        let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
        let whole = pieces.concat();
        let letters: Vec<String> = whole.chars().map(String::from).collect();
        let letters: Vec<&str> = letters.iter().map(String::as_str).collect();
        prop_assert_eq!(read(&pieces), read(&[&whole]));
        prop_assert_eq!(read(&letters), read(&[&whole]));
    }

    #[test]
    fn steps_survive_every_way_to_write_them(n in 0usize..6, value in "\\PC{0,20}", way in 0..5) {
        let steps: Vec<Value> =
            (0..n).map(|i| serde_json::json!({"id": format!("s{i}"), "tool": "a.b", "arguments": {"x": [{"y": value}]}})).collect();
        let text = match way {
            0 => steps.iter().map(|it| format!("{it}\n")).collect(),
            1 => serde_json::to_string_pretty(&steps).unwrap(),
            2 => serde_json::to_string_pretty(&serde_json::json!({"steps": steps})).unwrap(),
            3 => format!("Plan:\n```json\n{}\n```\n", serde_json::to_string(&steps).unwrap()),
            _ => steps.iter().map(|it| format!("{},\n", serde_json::to_string_pretty(it).unwrap())).collect(),
        };
        let found: Vec<Value> = read(&[&text]).0.into_iter().map(|it| match it {
            Found::Object(it) => Value::Object(it),
            other => panic!("{other:?}"),
        }).filter(|it| it.get("steps").is_none()).collect();
        prop_assert_eq!(found, steps);
    }
}
