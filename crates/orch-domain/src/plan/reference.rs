//! Typed references into results: `{"$ref": "step#/pointer"}` for a value, `${step#/pointer}` inside a string for its text.

use std::sync::Arc;

use serde_json::Value;

use crate::name::StepId;

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
    pub item: bool,
}

/// What references are looked up in.
pub struct Scope<'a> {
    /// The tool result of a step, as the protocol has it: `content`, `structuredContent`, `isError`.
    pub result: &'a dyn Fn(&StepId) -> Option<Arc<Value>>,
    pub item: Option<&'a Value>,
    pub index: Option<usize>,
}

/// Why a value could not be put together.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{reference}: {why}")]
pub struct Unresolved {
    /// As it was written.
    pub reference: String,
    pub why: String,
}

/// Adds what `value` refers to. The errors are references that cannot be read, each with the JSON Pointer of its place.
pub(super) fn needs(value: &Value, into: &mut Needs) -> Vec<(String, String)> {
    let _ = (value, into);
    Vec::new()
}

/// Whether nothing in `value` is a reference.
pub fn is_constant(value: &Value) -> bool {
    let mut into = Needs::default();
    needs(value, &mut into).is_empty() && into == Needs::default()
}

/// `value` with what its references stand for.
pub fn resolve(value: &Value, scope: &Scope<'_>) -> Result<Value, Unresolved> {
    let _ = scope;
    Ok(value.clone())
}
