//! When a step runs at all.
//!
//! `{"$ref": …}` holds for a value that is neither null, false, 0 nor empty. `eq`, `ne`, `lt`, `le`, `gt`, `ge` and `in`
//! take an array of two, given or referred to. Numbers are compared by what they are (1 equals 1.0), strings by their code
//! points; only two numbers or two strings have an order. `in` asks for an element of an array, or for a part of a string.
//! `exists` holds when there is something at the place, be it null; it is the one way to ask about a result that may not be
//! there. `all` and `any` look from the left, and no further than they have to. `succeeded`, `failed`, `skipped` and
//! `ended` ask how a step ended; whoever asks that waits for it, and may run after it failed.

mod compare;
mod parse;
#[cfg(test)]
mod tests;

use serde_json::Value;

pub use compare::Comparison;
pub(super) use compare::{is_equal, order_of_numbers};

use super::reference::{self, Needs, Resolver, Scope, Unresolved};
use crate::batch::StepState;
use crate::name::StepId;

#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    /// A reference.
    Truthy(Value),
    /// Values with references in them.
    Compare(Comparison, Value, Value),
    /// A reference.
    Exists(Value),
    /// At least one.
    All(Vec<Condition>),
    /// At least one.
    Any(Vec<Condition>),
    Not(Box<Condition>),
    Ended(Ending, StepId),
}

/// How a step ended, as a condition asks. What ended did exactly one of the first three.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Succeeded,
    /// Neither well nor skipped: it failed, was cancelled, or nobody knows.
    Failed,
    Skipped,
    Any,
}

impl Ending {
    fn is(self, state: StepState) -> bool {
        match self {
            Ending::Succeeded => state == StepState::Succeeded,
            Ending::Skipped => state == StepState::Skipped,
            Ending::Any => state.has_ended(),
            Ending::Failed => {
                state.has_ended() && !matches!(state, StepState::Succeeded | StepState::Skipped)
            }
        }
    }
}

impl Condition {
    /// The error says all that is wrong, each with its place in `value`.
    pub fn parse(value: &Value) -> Result<Condition, String> {
        let (condition, wrong) = parse::parse(value);
        let said = wrong.into_iter().map(|(place, why)| match place.as_str() {
            "" => why,
            _ => format!("`{place}`: {why}"),
        });
        condition.ok_or_else(|| said.collect::<Vec<_>>().join("; "))
    }

    /// What is wrong with `value` as a condition, each with its place in it.
    pub(super) fn parse_in_place(value: &Value) -> (Option<Condition>, Vec<(String, String)>) {
        parse::parse(value)
    }

    /// Steps whose results it looks at.
    pub fn needs(&self) -> Needs {
        let mut needs = Needs::default();
        self.each(&mut |it| {
            let mut add = |value: &Value| {
                // It was parsed, so every reference in it can be read.
                reference::needs(value, &mut needs);
            };
            match it {
                Condition::Truthy(value) | Condition::Exists(value) => add(value),
                Condition::Compare(_, left, right) => {
                    add(left);
                    add(right);
                }
                _ => {}
            }
        });
        needs
    }

    /// Steps of which it asks how they ended; they may have failed. Each once, in the order of the first mention.
    pub fn asks_about(&self) -> Vec<StepId> {
        let mut steps = Vec::new();
        let mut known = std::collections::HashSet::new();
        self.each(&mut |it| {
            if let Condition::Ended(_, step) = it
                && known.insert(step)
            {
                steps.push(step.clone());
            }
        });
        steps
    }

    /// Itself and all in it.
    fn each<'a>(&'a self, act: &mut dyn FnMut(&'a Condition)) {
        act(self);
        match self {
            Condition::All(inner) | Condition::Any(inner) => {
                inner.iter().for_each(|it| it.each(act));
            }
            Condition::Not(inner) => inner.each(act),
            _ => {}
        }
    }

    /// `state` is asked about the steps of `asks_about`; one that has not ended has neither succeeded nor failed.
    pub fn holds(
        &self,
        scope: &Scope<'_>,
        state: &dyn Fn(&StepId) -> Option<StepState>,
    ) -> Result<bool, Unresolved> {
        self.holds_with(&mut Resolver::new(scope), state)
    }

    fn holds_with(
        &self,
        resolver: &mut Resolver<'_>,
        state: &dyn Fn(&StepId) -> Option<StepState>,
    ) -> Result<bool, Unresolved> {
        match self {
            Condition::Truthy(value) => match reference::whole(value) {
                Some(reference) => resolver.look(&reference?, is_truthy),
                None => resolver.value(value).map(|it| is_truthy(&it)),
            },
            Condition::Compare(how, left, right) => {
                let (left, right) = (resolver.value(left)?, resolver.value(right)?);
                how.holds(&left, &right).map_err(|why| Unresolved::new(how.as_str(), why))
            }
            Condition::Exists(value) => Ok(match reference::whole(value) {
                Some(reference) => resolver.look(&reference?, |_| ()).is_ok(),
                None => true,
            }),
            Condition::All(inner) => {
                for it in inner {
                    if !it.holds_with(resolver, state)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Condition::Any(inner) => {
                for it in inner {
                    if it.holds_with(resolver, state)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Condition::Not(inner) => Ok(!inner.holds_with(resolver, state)?),
            Condition::Ended(how, step) => match state(step) {
                Some(state) => Ok(how.is(state)),
                None => Err(Unresolved::new(step.as_str(), "there is no such step")),
            },
        }
    }
}

fn is_truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(it) => *it,
        Value::Number(it) => it.as_f64() != Some(0.0),
        Value::String(it) => !it.is_empty(),
        Value::Array(it) => !it.is_empty(),
        Value::Object(it) => !it.is_empty(),
    }
}
