//! Values with what their references stand for.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::lookup::look_up;
use super::{Piece, Reference, Scope, Source, Unresolved, pieces, whole};
use crate::name::StepId;

/// Bytes, roughly, that the references of one value may bring in. A result may be named any number of times, so a short
/// plan could ask for more memory than there is.
const MOST_BYTES: usize = 256 << 20;

/// `value` with what its references stand for.
pub fn resolve(value: &Value, scope: &Scope<'_>) -> Result<Value, Unresolved> {
    Resolver::new(scope).value(value)
}

/// Looks up the references of one value, or of several that are seen together. Asks for each result once.
pub(in crate::plan) struct Resolver<'a> {
    scope: &'a Scope<'a>,
    results: HashMap<StepId, Option<Arc<Value>>>,
    /// What `/json` is of the steps whose first text block had to be read.
    read: HashMap<StepId, Arc<Value>>,
    n_bytes_left: usize,
}

impl<'a> Resolver<'a> {
    pub(in crate::plan) fn new(scope: &'a Scope<'a>) -> Resolver<'a> {
        let (results, read) = Default::default();
        Resolver { scope, results, read, n_bytes_left: MOST_BYTES }
    }

    /// What was looked up is taken over as it is and not looked at for references.
    pub(in crate::plan) fn value(&mut self, value: &Value) -> Result<Value, Unresolved> {
        Ok(match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
            Value::String(text) => Value::String(self.text(text)?),
            Value::Array(items) => {
                Value::Array(items.iter().map(|it| self.value(it)).collect::<Result<_, _>>()?)
            }
            Value::Object(members) => match whole(value) {
                Some(reference) => self.copy(&reference?)?,
                None => {
                    let mut resolved = Map::with_capacity(members.len());
                    for (key, member) in members {
                        resolved.insert(key.clone(), self.value(member)?);
                    }
                    Value::Object(resolved)
                }
            },
        })
    }

    /// What `reference` points at. Shared, so that nothing is copied that is only looked at.
    pub(in crate::plan) fn look<T>(
        &mut self,
        reference: &Reference<'_>,
        with: impl FnOnce(&Value) -> T,
    ) -> Result<T, Unresolved> {
        let wrong = |why: String| Unresolved::new(reference.written, why);
        let outside = || wrong("there is an element only in a step with `for_each`".to_owned());
        match &reference.source {
            Source::Index => Ok(with(&Value::from(self.scope.index.ok_or_else(outside)?))),
            Source::Item => {
                let item = self.scope.item.ok_or_else(outside)?;
                look_up(item, reference.pointer, "the element").map(with).map_err(wrong)
            }
            Source::Step(step) => {
                let result = self
                    .result(step)
                    .ok_or_else(|| wrong(format!("the step `{step}` has no result")))?;
                match after_json(reference.pointer) {
                    Some(rest) => {
                        let json = self.json(step, &result).map_err(wrong)?;
                        look_up(json.of(&result), rest, "`/json`").map(with).map_err(wrong)
                    }
                    None => look_up(&result, reference.pointer, "the result")
                        .map(with)
                        .map_err(|why| wrong(with_advice(why, reference.pointer, &result))),
                }
            }
        }
    }

    fn result(&mut self, step: &StepId) -> Option<Arc<Value>> {
        if let Some(known) = self.results.get(step) {
            return known.clone();
        }
        let result = (self.scope.result)(step);
        self.results.insert(step.clone(), result.clone());
        result
    }

    fn json(&mut self, step: &StepId, result: &Value) -> Result<Json, String> {
        if result.get("structuredContent").is_some_and(|it| !it.is_null()) {
            return Ok(Json::Structured);
        }
        if let Some(read) = self.read.get(step) {
            return Ok(Json::Read(read.clone()));
        }
        let blocks = result.get("content").and_then(Value::as_array);
        let text = blocks.into_iter().flatten().find_map(|it| it.get("text")?.as_str());
        let Some(text) = text else {
            return Err("the result has neither `structuredContent` nor a text block".to_owned());
        };
        let value = serde_json::from_str(text).map_err(|err| {
            format!("the result has no `structuredContent`, and its first text block is not JSON ({err})")
        })?;
        let value = Arc::new(value);
        self.read.insert(step.clone(), Arc::clone(&value));
        Ok(Json::Read(value))
    }

    fn copy(&mut self, reference: &Reference<'_>) -> Result<Value, Unresolved> {
        let mut left = self.n_bytes_left;
        let copy = self.look(reference, |it| take(it, &mut left).map(|()| it.clone()))?;
        self.n_bytes_left = left;
        copy.ok_or_else(|| too_large(reference))
    }

    fn text(&mut self, text: &str) -> Result<String, Unresolved> {
        let mut out = String::with_capacity(text.len());
        for piece in pieces(text) {
            match piece? {
                Piece::Text(text) => out.push_str(text),
                Piece::Reference(reference) => self.write(&reference, &mut out)?,
            }
        }
        Ok(out)
    }

    fn write(&mut self, reference: &Reference<'_>, out: &mut String) -> Result<(), Unresolved> {
        let mut left = self.n_bytes_left;
        let written = self.look(reference, |it| {
            take(it, &mut left).ok_or_else(|| too_large(reference))?;
            match it {
                Value::Null => {
                    let why = "it is null, which has no text; `{\"$ref\": …}` would hand on the null itself";
                    return Err(Unresolved::new(reference.written, why));
                }
                Value::String(text) => out.push_str(text),
                other => out.push_str(&other.to_string()),
            }
            Ok(())
        })?;
        self.n_bytes_left = left;
        written
    }
}

/// Where `/json` leads.
enum Json {
    Structured,
    Read(Arc<Value>),
}

impl Json {
    fn of<'v>(&'v self, result: &'v Value) -> &'v Value {
        match self {
            Json::Structured => &result["structuredContent"],
            Json::Read(value) => value,
        }
    }
}

fn after_json(pointer: &str) -> Option<&str> {
    pointer.strip_prefix("/json").filter(|it| it.is_empty() || it.starts_with('/'))
}

/// Many servers answer with JSON in a text block only.
fn with_advice(why: String, pointer: &str, result: &Value) -> String {
    let is_wanted = pointer.split('/').nth(1) == Some("structuredContent");
    match is_wanted && result.get("structuredContent").is_none_or(Value::is_null) {
        true => format!("{why}; `/json` also reads a first text block that is JSON"),
        false => why,
    }
}

fn too_large(reference: &Reference<'_>) -> Unresolved {
    let most = MOST_BYTES >> 20;
    Unresolved::new(
        reference.written,
        format!(
            "the references of one value bring in more than {most} MiB; refer to the parts that are needed"
        ),
    )
}

/// Takes what `value` costs, or nothing is left.
fn take(value: &Value, left: &mut usize) -> Option<()> {
    /// Of a value beside its text.
    const NODE: usize = 32;
    let own = match value {
        Value::String(text) => NODE + text.len(),
        Value::Object(members) => NODE + members.keys().map(|it| NODE + it.len()).sum::<usize>(),
        _ => NODE,
    };
    *left = left.checked_sub(own)?;
    match value {
        Value::Array(items) => items.iter().try_for_each(|it| take(it, left)),
        Value::Object(members) => members.values().try_for_each(|it| take(it, left)),
        _ => Some(()),
    }
}
