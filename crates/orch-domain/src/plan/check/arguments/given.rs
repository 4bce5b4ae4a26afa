//! What is known of a value before anything runs.

use serde_json::{Map, Number, Value};

use crate::plan::condition::{is_equal, order_of_numbers};
use crate::plan::reference::{text_has_references, whole};

#[derive(Clone, Copy)]
pub(super) enum Given<'a> {
    /// A reference: anything.
    Unknown,
    Null,
    Bool(bool),
    Number(&'a Number),
    /// None: some string, with references in it.
    Text(Option<&'a str>),
    Array(&'a [Value]),
    Object(&'a Map<String, Value>),
}

impl<'a> Given<'a> {
    pub(super) fn of(value: &'a Value) -> Given<'a> {
        match value {
            Value::Null => Given::Null,
            Value::Bool(it) => Given::Bool(*it),
            Value::Number(it) => Given::Number(it),
            Value::String(it) if text_has_references(it) => Given::Text(None),
            Value::String(it) => Given::Text(Some(it)),
            Value::Array(it) => Given::Array(it),
            Value::Object(_) if whole(value).is_some() => Given::Unknown,
            Value::Object(it) => Given::Object(it),
        }
    }

    /// None: nobody can say.
    pub(super) fn is_of_type(self, name: &str) -> Option<bool> {
        Some(match (name, self) {
            (_, Given::Unknown) => return None,
            ("null", it) => matches!(it, Given::Null),
            ("boolean", it) => matches!(it, Given::Bool(_)),
            ("number", it) => matches!(it, Given::Number(_)),
            ("integer", Given::Number(it)) => {
                it.is_i64() || it.is_u64() || it.as_f64().is_some_and(|it| it.fract() == 0.0)
            }
            ("integer", _) => false,
            ("string", it) => matches!(it, Given::Text(_)),
            ("array", it) => matches!(it, Given::Array(_)),
            ("object", it) => matches!(it, Given::Object(_)),
            _ => return None,
        })
    }

    /// Of what is known as a whole.
    pub(super) fn is(self, other: &Value) -> bool {
        match (self, other) {
            (Given::Null, Value::Null) => true,
            (Given::Bool(it), Value::Bool(other)) => it == *other,
            (Given::Number(it), Value::Number(other)) => order_of_numbers(it, other).is_eq(),
            (Given::Text(Some(it)), Value::String(other)) => it == other,
            (Given::Array(it), Value::Array(other)) => {
                it.len() == other.len() && it.iter().zip(other).all(|(l, r)| is_equal(l, r))
            }
            (Given::Object(it), Value::Object(other)) => {
                let has =
                    |(key, l): (&String, &Value)| other.get(key).is_some_and(|r| is_equal(l, r));
                it.len() == other.len() && it.iter().all(has)
            }
            _ => false,
        }
    }

    /// With its article.
    pub(super) fn kind(self) -> &'static str {
        match self {
            Given::Unknown => "a reference",
            Given::Null => "null",
            Given::Bool(_) => "a boolean",
            Given::Number(_) => "a number",
            Given::Text(_) => "a string",
            Given::Array(_) => "an array",
            Given::Object(_) => "an object",
        }
    }
}
