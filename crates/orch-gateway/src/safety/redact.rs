//! Patterns whose matches do not reach a caller.
//!
//! All text of a result is looked at: every string value, wherever it stands, but for base64 data and the protocol's own
//! words. Nothing but strings with a match is written anew, so that the rest passes as it came.

use regex::{NoExpand, Regex};
use serde_json::value::RawValue;

use crate::frame::Raw;

const MARK: &str = "[redacted]";
/// Members that hold no text for a reader.
const NOT_TEXT: [&str; 9] = [
    "type",
    "mimeType",
    "data",
    "blob",
    "progressToken",
    "resultType",
    "requestState",
    "taskId",
    "nextCursor",
];
/// Below it, members are the tool's own, whatever they are called.
const TOOLS_OWN: &str = "structuredContent";

#[derive(Clone, Debug, Default)]
pub struct Patterns(Vec<Regex>);

impl PartialEq for Patterns {
    fn eq(&self, other: &Patterns) -> bool {
        self.0.iter().map(Regex::as_str).eq(other.0.iter().map(Regex::as_str))
    }
}

impl Patterns {
    /// The error is the place of the bad pattern in the list, and what is wrong with it.
    pub fn parse(patterns: &[String]) -> Result<Patterns, (usize, String)> {
        let parse = |(i, it): (usize, &String)| match Regex::new(it) {
            Ok(it) if it.is_match("") => {
                Err((i, "it matches the empty text, and so everything".to_owned()))
            }
            Ok(it) => Ok(it),
            Err(err) => {
                // The last line says it; the others show where.
                let said = err.to_string();
                let line = said.lines().last().unwrap_or_default().trim_start_matches("error: ");
                Err((i, format!("it is no regular expression: {line}")))
            }
        };
        patterns.iter().enumerate().map(parse).collect::<Result<_, _>>().map(Patterns)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn with(&self, more: &Patterns) -> Patterns {
        Patterns(self.0.iter().chain(&more.0).cloned().collect())
    }

    /// None: nothing of it matches.
    pub fn redact_text(&self, text: &str) -> Option<String> {
        let mut out: Option<String> = None;
        for pattern in &self.0 {
            let now = out.as_deref().unwrap_or(text);
            if pattern.is_match(now) {
                out = Some(pattern.replace_all(now, NoExpand(MARK)).into_owned());
            }
        }
        out
    }

    /// None: nothing of it matches.
    pub fn redact(&self, json: &Raw) -> Option<Raw> {
        if self.is_empty() {
            return None;
        }
        let text = json.get();
        let mut out = String::new();
        let mut copied = 0;
        for it in Strings::of(text).filter(|it| !it.is_exempt) {
            let literal = &text[it.start..it.end];
            let plain = &literal[1..literal.len() - 1];
            let redacted = if plain.contains('\\') {
                let decoded: String = serde_json::from_str(literal).ok()?;
                self.redact_text(&decoded)
            } else {
                self.redact_text(plain)
            };
            if let Some(redacted) = redacted {
                out.push_str(&text[copied..it.start]);
                out.push_str(&serde_json::Value::from(redacted).to_string());
                copied = it.end;
            }
        }
        if copied == 0 {
            return None;
        }
        out.push_str(&text[copied..]);
        RawValue::from_string(out).ok()
    }
}

/// The string values of a JSON text that is known to be valid, with their quotes.
struct Strings<'a> {
    text: &'a [u8],
    at: usize,
    /// Per open object or array.
    open: Vec<Level<'a>>,
}

struct Level<'a> {
    is_object: bool,
    /// The next string is the name of a member.
    wants_key: bool,
    key: &'a [u8],
    is_tools_own: bool,
}

struct Found {
    start: usize,
    end: usize,
    is_exempt: bool,
}

impl<'a> Strings<'a> {
    fn of(text: &'a str) -> Strings<'a> {
        Strings { text: text.as_bytes(), at: 0, open: Vec::new() }
    }

    fn open(&mut self, is_object: bool) {
        let is_tools_own = self
            .open
            .last()
            .is_some_and(|it| it.is_tools_own || it.is_object && it.key == TOOLS_OWN.as_bytes());
        self.open.push(Level { is_object, wants_key: is_object, key: b"", is_tools_own });
    }
}

impl Iterator for Strings<'_> {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        while let Some(byte) = self.text.get(self.at) {
            match byte {
                b'{' => self.open(true),
                b'[' => self.open(false),
                b'}' | b']' => drop(self.open.pop()),
                b',' => {
                    if let Some(it) = self.open.last_mut() {
                        it.wants_key = it.is_object;
                    }
                }
                b'"' => {
                    let start = self.at;
                    let mut end = start + 1;
                    while *self.text.get(end)? != b'"' {
                        end += if self.text[end] == b'\\' { 2 } else { 1 };
                    }
                    self.at = end + 1;
                    if let Some(it) = self.open.last_mut().filter(|it| it.wants_key) {
                        it.wants_key = false;
                        it.key = &self.text[start + 1..end];
                        continue;
                    }
                    let is_exempt = self.open.last().is_some_and(|it| {
                        it.is_object
                            && !it.is_tools_own
                            && NOT_TEXT.iter().any(|name| name.as_bytes() == it.key)
                    });
                    return Some(Found { start, end: end + 1, is_exempt });
                }
                _ => {}
            }
            self.at += 1;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn patterns(of: &[&str]) -> Patterns {
        Patterns::parse(&of.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>()).unwrap()
    }

    fn redacted(patterns: &Patterns, text: &str) -> Option<String> {
        let json: Raw = serde_json::from_str(text).unwrap();
        patterns.redact(&json).map(|it| it.get().to_owned())
    }

    #[test]
    fn matches_in_text_go_and_nothing_else_changes() {
        let it = patterns(&["ghp_[A-Za-z0-9]{4,}", "se\"cret"]);
        let before = r#"{"n":0.70,"ghp_abcdef":1,"content":[{"type":"text","text":"a ghp_abcdef b\u00e9 se\"cret"},{"type":"image","data":"ghp_abcdef"}],"structuredContent":{"data":"ghp_abcdef","deep":[["x","ghp_abcdefg"]]}}"#;
        let after = r#"{"n":0.70,"ghp_abcdef":1,"content":[{"type":"text","text":"a [redacted] bé [redacted]"},{"type":"image","data":"ghp_abcdef"}],"structuredContent":{"data":"[redacted]","deep":[["x","[redacted]"]]}}"#;
        assert_eq!(redacted(&it, before).unwrap(), after);
        assert_eq!(redacted(&it, r#"{"text":"harmless \u00e9"}"#), None);
        assert_eq!(redacted(&Patterns::default(), before), None);
        assert_eq!(redacted(&it, r#""ghp_abcdef""#).unwrap(), r#""[redacted]""#);
    }

    #[test]
    fn a_bad_pattern_is_named() {
        let refused = |it: &str| Patterns::parse(&["a".to_owned(), it.to_owned()]).unwrap_err();
        assert!(refused("(").1.contains("unclosed group"), "{:?}", refused("("));
        assert_eq!(refused("x*").0, 1);
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::from),
            "[a-c\"\\\\\n{}\\[\\],:é]{0,12}".prop_map(Value::from)
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::hash_map("[a-c\"\\\\{,]{0,4}", inner, 0..4)
                    .prop_map(|it| Value::Object(it.into_iter().collect())),
            ]
        })
    }

    fn plainly(value: &Value) -> Value {
        match value {
            Value::String(it) => it.replace('b', MARK).into(),
            Value::Array(it) => it.iter().map(plainly).collect(),
            Value::Object(it) => it.iter().map(|(key, it)| (key.clone(), plainly(it))).collect(),
            other => other.clone(),
        }
    }

    proptest! {
        #[test]
        fn it_does_what_a_walk_over_the_decoded_value_does(value in json()) {
            let text = value.to_string();
            let out = redacted(&patterns(&["b"]), &text).unwrap_or(text);
            prop_assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), plainly(&value));
        }
    }
}
