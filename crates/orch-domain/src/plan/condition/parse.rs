//! Conditions out of JSON, with all that is wrong at once.

use serde_json::{Map, Value};

use super::{Comparison, Condition, Ending};
use crate::name::StepId;
use crate::plan::near;
use crate::plan::reference::{self, Place, Segment, kind};

/// Conditions inside one another.
const DEEPEST: usize = 32;

const ALLOWED: [&str; 16] = [
    "$ref",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
    "in",
    "exists",
    "all",
    "any",
    "not",
    "succeeded",
    "failed",
    "skipped",
    "ended",
];

/// Each problem with its place in `value`. Without any there is a condition.
pub(super) fn parse(value: &Value) -> (Option<Condition>, Vec<(String, String)>) {
    let mut parser = Parser { place: Place::default(), wrong: Vec::new() };
    let condition = parser.condition(value);
    match parser.wrong.is_empty() {
        true => (condition, parser.wrong),
        false => (None, parser.wrong),
    }
}

struct Parser<'a> {
    place: Place<'a>,
    wrong: Vec<(String, String)>,
}

impl<'a> Parser<'a> {
    fn refuse<T>(&mut self, why: impl Into<String>) -> Option<T> {
        self.wrong.push((self.place.to_string(), why.into()));
        None
    }

    fn condition(&mut self, value: &'a Value) -> Option<Condition> {
        let Value::Object(members) = value else {
            let why = format!(
                "a condition is an object with one of {}; here is {}",
                allowed(),
                kind(value)
            );
            return self.refuse(why);
        };
        if members.contains_key(reference::REF) {
            self.references(value);
            return Some(Condition::Truthy(value.clone()));
        }
        let Some((operator, operand)) = only(members) else {
            let why = format!(
                "a condition has exactly one member, and here are {}; `all` and `any` put several together",
                members.len()
            );
            return self.refuse(why);
        };
        if DEEPEST < self.place.0.len() {
            return self.refuse("conditions are inside one another too often");
        }
        let operator = operator.as_str();
        self.place.0.push(Segment::Key(operator));
        let condition = self.with_operator(operator, operand);
        self.place.0.pop();
        condition
    }

    fn with_operator(&mut self, operator: &'a str, operand: &'a Value) -> Option<Condition> {
        if let Some(how) = Comparison::ALL.into_iter().find(|it| it.as_str() == operator) {
            return self.comparison(how, operand);
        }
        match operator {
            "exists" => {
                if reference::whole(operand).is_none() {
                    return self.refuse("`exists` takes `{\"$ref\": \"step#/pointer\"}`");
                }
                self.references(operand);
                Some(Condition::Exists(operand.clone()))
            }
            "all" => self.several(operand).map(Condition::All),
            "any" => self.several(operand).map(Condition::Any),
            "not" => self.condition(operand).map(|it| Condition::Not(Box::new(it))),
            "succeeded" => self.ended(Ending::Succeeded, operand),
            "failed" => self.ended(Ending::Failed, operand),
            "skipped" => self.ended(Ending::Skipped, operand),
            "ended" => self.ended(Ending::Any, operand),
            _ => {
                let meant = near::hint(operator, ALLOWED);
                let why = format!("a condition has one of {}{meant}", allowed());
                self.refuse(why)
            }
        }
    }

    fn comparison(&mut self, how: Comparison, operand: &'a Value) -> Option<Condition> {
        self.references(operand);
        match operand.as_array().map(Vec::as_slice) {
            Some([left, right]) => Some(Condition::Compare(how, left.clone(), right.clone())),
            Some(others) => {
                let n = others.len();
                self.refuse(format!(
                    "`{}` takes an array of two values, and here are {n}",
                    how.as_str()
                ))
            }
            None => {
                let kind = kind(operand);
                self.refuse(format!(
                    "`{}` takes an array of two values; here is {kind}",
                    how.as_str()
                ))
            }
        }
    }

    fn several(&mut self, operand: &'a Value) -> Option<Vec<Condition>> {
        let Some(items) = operand.as_array().filter(|it| !it.is_empty()) else {
            return self.refuse("an array of at least one condition is wanted here");
        };
        let mut conditions = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            self.place.0.push(Segment::Index(index));
            conditions.extend(self.condition(item));
            self.place.0.pop();
        }
        Some(conditions)
    }

    fn ended(&mut self, how: Ending, operand: &Value) -> Option<Condition> {
        let Some(text) = operand.as_str() else {
            let why = format!("the id of a step is wanted here; here is {}", kind(operand));
            return self.refuse(why);
        };
        match StepId::try_new(text) {
            Ok(step) => Some(Condition::Ended(how, step)),
            Err(err) => self.refuse(err.to_string()),
        }
    }

    /// Finds the references in `value` that cannot be read.
    fn references(&mut self, value: &'a Value) {
        let wrong = &mut self.wrong;
        reference::visit(value, &mut self.place, &mut |place, it| {
            if let Err(err) = it {
                wrong.push((place.to_string(), err.to_string()));
            }
        });
    }
}

fn only(members: &Map<String, Value>) -> Option<(&String, &Value)> {
    members.iter().next().filter(|_| members.len() == 1)
}

fn allowed() -> String {
    near::list(ALLOWED, ALLOWED.len())
}
