//! Typed references into results: `{"$ref": "step#/pointer"}` for a value, `${step#/pointer}` inside a string for its text.
//!
//! What is a reference is decided by its form alone and once, in what the plan's author wrote. What a reference stands for
//! is data and is never looked at again, whatever it looks like: a tool cannot write references into a plan.
//!
//! - An object with the member `$ref` is a reference, and has no other member. Its text is the id of a step, or `item` or
//!   `index`, then `#` and an RFC 6901 JSON Pointer; the empty pointer is all of it. Keys of objects are never references.
//! - In a string, `${` begins a reference only where an id (or `item`, `index`) and `#` follow at once: `$3`, `$HOME`,
//!   `${HOME}` and `${ a#/b}` are text. What has begun has to be a pointer and to end with `}`; anything else is an error.
//! - Directly in front of such a `{id#`, two `$` stand for one: `$${a#/b}` is the text `${a#/b}`, and `$$${a#/b}` is a `$`
//!   and a reference. Nowhere else is a `$` touched.
//! - In a string, text stands as it is, numbers and booleans as in JSON, arrays and objects as compact JSON; null has no
//!   text and is an error. So `"${a#/n}"` is always a string, and `{"$ref": "a#/n"}` has the type that it finds.
//! - In the result of a step, `/json` is its `structuredContent`, or else its first text block read as JSON.

mod lookup;
mod resolve;
#[cfg(test)]
pub(super) mod tests;
mod text;

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::Value;

pub(super) use lookup::{kind, tokens, wrong_pointer};
pub(super) use resolve::Resolver;
pub use resolve::resolve;
pub(super) use text::has_references as text_has_references;
use text::{Piece, pieces};

use crate::name::StepId;
use crate::text::excerpt;

/// The member that makes an object a reference.
pub(super) const REF: &str = "$ref";

/// What a reference points into.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    Step(StepId),
    /// The element of `for_each`.
    Item,
    /// Its place.
    Index,
}

/// The steps that a value refers to, and whether it refers to the element of `for_each`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Each once, in the order of the first mention.
    pub steps: Vec<StepId>,
    /// It refers to the element or to its place.
    pub item: bool,
}

/// What references are looked up in.
pub struct Scope<'a> {
    /// The tool result of a step, as the protocol has it: `content`, `structuredContent`, `isError`. Asked once for each
    /// step in one resolution.
    pub result: &'a dyn Fn(&StepId) -> Option<Arc<Value>>,
    pub item: Option<&'a Value>,
    pub index: Option<usize>,
}

/// Why a value could not be put together.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("`{reference}`: {why}")]
pub struct Unresolved {
    /// As it was written.
    pub reference: String,
    pub why: String,
}

impl Unresolved {
    pub(super) fn new(reference: &str, why: impl Into<String>) -> Unresolved {
        Unresolved { reference: excerpt(reference, 200), why: why.into() }
    }
}

/// A reference that can be read; whether there is something at its place is another matter.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Reference<'a> {
    pub source: Source,
    /// Of the right form.
    pub pointer: &'a str,
    /// Source, `#` and pointer.
    pub written: &'a str,
}

impl<'a> Reference<'a> {
    /// What stands in `$ref`, or between `${` and `}`.
    fn parse(written: &'a str) -> Result<Reference<'a>, Unresolved> {
        let wrong = |why: String| Unresolved::new(written, why);
        let Some((word, pointer)) = written.split_once('#') else {
            let why = "a reference is the id of a step, `#` and a JSON Pointer, such as `step#/structuredContent/id`";
            return Err(wrong(why.to_owned()));
        };
        let source = match word {
            "item" => Source::Item,
            "index" => Source::Index,
            _ => Source::Step(StepId::try_new(word).map_err(|err| wrong(err.to_string()))?),
        };
        if let Some(why) = wrong_pointer(pointer) {
            return Err(wrong(why));
        }
        if source == Source::Index && !pointer.is_empty() {
            return Err(wrong("`index#` is a number and has nothing in it".to_owned()));
        }
        Ok(Reference { source, pointer, written })
    }
}

/// The reference that `value` is as a whole. None: it is none; what it holds may still refer to something.
pub(super) fn whole(value: &Value) -> Option<Result<Reference<'_>, Unresolved>> {
    let object = value.as_object()?;
    let said = object.get(REF)?;
    let Some(written) = said.as_str() else {
        return Some(Err(Unresolved::new(
            REF,
            "it is a text such as `step#/structuredContent/id`",
        )));
    };
    if object.len() != 1 {
        let others =
            super::near::list(object.keys().map(String::as_str).filter(|it| *it != REF), 3);
        let why = format!(
            "a reference stands alone in its object, and beside `$ref` there is {others}; refer to the values one by one"
        );
        return Some(Err(Unresolved::new(written, why)));
    }
    Some(Reference::parse(written))
}

/// Where in a value something is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Segment<'a> {
    Key(&'a str),
    Index(usize),
}

/// A JSON Pointer that is written out only when somebody asks.
#[derive(Clone, Debug, Default)]
pub(super) struct Place<'a>(pub Vec<Segment<'a>>);

impl<'a> Place<'a> {
    pub(super) fn within<T>(
        &mut self,
        segment: Segment<'a>,
        act: impl FnOnce(&mut Self) -> T,
    ) -> T {
        self.0.push(segment);
        let result = act(self);
        self.0.pop();
        result
    }
}

impl std::fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for segment in &self.0 {
            match segment {
                Segment::Key(key) if key.contains(['~', '/']) => {
                    write!(f, "/{}", key.replace('~', "~0").replace('/', "~1"))?;
                }
                Segment::Key(key) => write!(f, "/{key}")?,
                Segment::Index(index) => write!(f, "/{index}")?,
            }
        }
        Ok(())
    }
}

/// What takes each reference of a value, and each that cannot be read, with its place.
pub(super) type Found<'f, 'a> = dyn FnMut(&Place<'a>, Result<Reference<'a>, Unresolved>) + 'f;

/// Every reference in `value`, in the order of the text.
pub(super) fn visit<'a>(value: &'a Value, place: &mut Place<'a>, found: &mut Found<'_, 'a>) {
    match value {
        Value::String(text) => {
            for piece in pieces(text) {
                match piece {
                    Ok(Piece::Text(_)) => {}
                    Ok(Piece::Reference(reference)) => found(place, Ok(reference)),
                    Err(err) => found(place, Err(err)),
                }
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                place.within(Segment::Index(index), |place| visit(item, place, found));
            }
        }
        Value::Object(members) => match whole(value) {
            Some(reference) => found(place, reference),
            None => {
                for (key, member) in members {
                    place.within(Segment::Key(key), |place| visit(member, place, found));
                }
            }
        },
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Adds what `value` refers to. The errors are references that cannot be read, each with the JSON Pointer of its place.
pub(super) fn needs(value: &Value, into: &mut Needs) -> Vec<(String, String)> {
    let mut known: HashSet<StepId> = into.steps.iter().cloned().collect();
    let mut wrong = Vec::new();
    visit(value, &mut Place::default(), &mut |place, it| match it {
        Ok(Reference { source: Source::Step(step), .. }) => {
            if known.insert(step.clone()) {
                into.steps.push(step);
            }
        }
        Ok(_) => into.item = true,
        Err(err) => wrong.push((place.to_string(), err.to_string())),
    });
    wrong
}

/// Whether `resolve` gives `value` as it is: nothing in it is a reference, and no `$` in it is doubled.
pub fn is_constant(value: &Value) -> bool {
    match value {
        Value::String(text) => !text_has_references(text),
        Value::Array(items) => items.iter().all(is_constant),
        Value::Object(members) => whole(value).is_none() && members.values().all(is_constant),
        Value::Null | Value::Bool(_) | Value::Number(_) => true,
    }
}
