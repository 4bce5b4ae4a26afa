//! RFC 6901 in a value, and what there is instead when it leads nowhere.

use std::borrow::Cow;

use serde_json::Value;

use crate::plan::near;
use crate::text::excerpt;

/// The reference tokens of a pointer of the right form, unescaped.
pub(in crate::plan) fn tokens(pointer: &str) -> impl Iterator<Item = Cow<'_, str>> {
    pointer.split('/').skip(1).map(unescape)
}

fn unescape(token: &str) -> Cow<'_, str> {
    match token.contains('~') {
        true => Cow::Owned(token.replace("~1", "/").replace("~0", "~")),
        false => Cow::Borrowed(token),
    }
}

/// What is wrong with the form of a JSON Pointer.
pub(in crate::plan) fn wrong_pointer(pointer: &str) -> Option<String> {
    if !pointer.is_empty() && !pointer.starts_with('/') {
        return Some("a JSON Pointer is empty or begins with `/`".to_owned());
    }
    let is_escape = |rest: &str| rest.starts_with(['0', '1']);
    match pointer.split('~').skip(1).all(is_escape) {
        true => None,
        false => {
            Some("in a JSON Pointer `~` is written `~0`, and `/` inside a key `~1`".to_owned())
        }
    }
}

/// What is at `pointer`, or why nothing is. `root` is what `value` is called.
pub(super) fn look_up<'v>(
    value: &'v Value,
    pointer: &str,
    root: &str,
) -> Result<&'v Value, String> {
    let mut at = value;
    let mut rest = pointer;
    while let Some(stripped) = rest.strip_prefix('/') {
        let n_token = stripped.find('/').unwrap_or(stripped.len());
        let token = unescape(&stripped[..n_token]);
        let next = match at {
            Value::Object(members) => members.get(token.as_ref()),
            Value::Array(items) => index(&token).and_then(|it| items.get(it)),
            _ => None,
        };
        let Some(next) = next else {
            let above = &pointer[..pointer.len() - rest.len()];
            let above = match above {
                "" => root.to_owned(),
                _ => format!("`{}`", excerpt(above, 200)),
            };
            return Err(there_is(at, &above, &token));
        };
        at = next;
        rest = &stripped[n_token..];
    }
    Ok(at)
}

/// No leading zeros, and not `-`, which is the place behind the last element.
fn index(token: &str) -> Option<usize> {
    let is_number = !token.is_empty() && token.bytes().all(|it| it.is_ascii_digit());
    (is_number && (token == "0" || !token.starts_with('0'))).then(|| token.parse().ok())?
}

fn there_is(at: &Value, above: &str, token: &str) -> String {
    let wanted = excerpt(token, 60);
    match at {
        Value::Object(members) if members.is_empty() => {
            format!("{above} is an empty object; it has no `{wanted}`")
        }
        Value::Object(members) => {
            let names = || members.keys().map(String::as_str);
            let meant = near::hint(token, names().take(1000));
            format!("{above} has {}; not `{wanted}`{meant}", near::list(names(), 12))
        }
        Value::Array(items) => {
            let n = items.len();
            let there = match n {
                0 => "is an empty array".to_owned(),
                1 => "has 1 element, `0`".to_owned(),
                _ => format!("has {n} elements, `0` to `{}`", n - 1),
            };
            match token {
                "-" => format!("{above} {there}; `-` is behind them, where nothing is"),
                _ => format!("{above} {there}; not `{wanted}`"),
            }
        }
        _ => format!("{above} is {}; it has no `{wanted}`", kind(at)),
    }
}

/// With its article.
pub(in crate::plan) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
