//! Which of two values comes first, and whether they are the same.

use std::cmp::Ordering;

use serde_json::{Number, Value};

use crate::plan::reference::kind;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    In,
}

impl Comparison {
    pub(super) const ALL: [Comparison; 7] = [
        Comparison::Eq,
        Comparison::Ne,
        Comparison::Lt,
        Comparison::Le,
        Comparison::Gt,
        Comparison::Ge,
        Comparison::In,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Comparison::Eq => "eq",
            Comparison::Ne => "ne",
            Comparison::Lt => "lt",
            Comparison::Le => "le",
            Comparison::Gt => "gt",
            Comparison::Ge => "ge",
            Comparison::In => "in",
        }
    }

    /// The error says which values cannot be compared so.
    pub(super) fn holds(self, left: &Value, right: &Value) -> Result<bool, String> {
        let order = || order(left, right);
        Ok(match self {
            Comparison::Eq => is_equal(left, right),
            Comparison::Ne => !is_equal(left, right),
            Comparison::Lt => order()? == Ordering::Less,
            Comparison::Le => order()? != Ordering::Greater,
            Comparison::Gt => order()? == Ordering::Greater,
            Comparison::Ge => order()? != Ordering::Less,
            Comparison::In => match (left, right) {
                (_, Value::Array(items)) => items.iter().any(|it| is_equal(left, it)),
                (Value::String(part), Value::String(text)) => text.contains(part.as_str()),
                _ => {
                    let message = format!(
                        "{} is not looked for in {}: `in` wants an array to the right, or two strings",
                        kind(left),
                        kind(right)
                    );
                    return Err(message);
                }
            },
        })
    }
}

fn order(left: &Value, right: &Value) -> Result<Ordering, String> {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => Ok(order_of_numbers(left, right)),
        // Bytes of UTF-8 have the order of code points.
        (Value::String(left), Value::String(right)) => Ok(left.cmp(right)),
        _ => Err(format!(
            "{} and {} have no order: only two numbers or two strings have one",
            kind(left),
            kind(right)
        )),
    }
}

/// Numbers by what they are, objects in any order of their members.
pub(in crate::plan) fn is_equal(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => order_of_numbers(left, right).is_eq(),
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(l, r)| is_equal(l, r))
        }
        (Value::Object(left), Value::Object(right)) => {
            left.len() == right.len()
                && left.iter().all(|(key, l)| right.get(key).is_some_and(|r| is_equal(l, r)))
        }
        _ => left == right,
    }
}

/// Exact, also where an integer has more digits than a float.
pub(in crate::plan) fn order_of_numbers(left: &Number, right: &Number) -> Ordering {
    match (whole(left), whole(right)) {
        (Some(left), Some(right)) => left.cmp(&right),
        (Some(left), None) => integer_and_float(left, float(right)),
        (None, Some(right)) => integer_and_float(right, float(left)).reverse(),
        // JSON has no NaN.
        (None, None) => float(left).partial_cmp(&float(right)).unwrap_or(Ordering::Equal),
    }
}

fn whole(number: &Number) -> Option<i128> {
    number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from))
}

fn float(number: &Number) -> f64 {
    number.as_f64().unwrap_or(0.0)
}

fn integer_and_float(integer: i128, float: f64) -> Ordering {
    // Integers have 64 bits, so what saturates here is beyond all of them.
    let floor = float.floor();
    integer.cmp(&(floor as i128)).then(match floor < float {
        true => Ordering::Less,
        false => Ordering::Equal,
    })
}
