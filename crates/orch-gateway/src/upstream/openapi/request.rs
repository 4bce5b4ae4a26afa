//! A call of a tool as a request to its API. Where it goes is what the document and the configuration say; arguments fill
//! places in it and cannot lead elsewhere.

use http::header::{ACCEPT, CONTENT_TYPE, COOKIE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Url};
use serde_json::Value;

use super::operation::{BODY, Form, Operation, Parameter, Place};
use crate::frame::Raw;
use crate::members::Members;

/// Builds the request. The error is for the model, which can mend it.
pub(super) fn build(
    client: &Client,
    base: &Url,
    headers: &HeaderMap,
    operation: &Operation,
    arguments: &Members,
) -> Result<reqwest::RequestBuilder, String> {
    let mut path = operation.path.clone();
    let mut query = Vec::new();
    let mut cookies = Vec::new();
    let mut own = HeaderMap::new();
    own.insert(ACCEPT, HeaderValue::from_static("application/json, */*;q=0.5"));
    for parameter in &operation.parameters {
        let Some(given) = given(arguments, parameter)? else { continue };
        match parameter.place {
            Place::Path => {
                let text = path_text(parameter, &given)?;
                path = path.replace(&format!("{{{}}}", parameter.name), &text);
            }
            Place::Query => query.extend(pairs(parameter, &given)),
            Place::Cookie => {
                for (name, value) in pairs(parameter, &given) {
                    cookies.push(format!("{}={}", encoded(&name), encoded(&value)));
                }
            }
            Place::Header => {
                let bad = || format!("`{}` cannot be sent as a header", parameter.argument);
                let name = HeaderName::try_from(parameter.name.as_str()).map_err(|_| bad())?;
                let value = HeaderValue::try_from(joined(parameter, &given, ','));
                own.insert(name, value.map_err(|_| bad())?);
            }
        }
    }
    if !cookies.is_empty() {
        let value = HeaderValue::try_from(cookies.join("; ")).map_err(|err| err.to_string())?;
        own.insert(COOKIE, value);
    }
    // What is configured counts more than what a model says.
    own.extend(headers.clone());
    let mut url = at(base, &path)?;
    if !query.is_empty() {
        url.query_pairs_mut().extend_pairs(query);
    }
    let request = client.request(operation.method.clone(), url);
    with_body(request, own, operation, arguments)
}

/// The argument for a parameter. None: it was not given and need not be.
fn given(arguments: &Members, parameter: &Parameter) -> Result<Option<Value>, String> {
    let value: Option<Value> =
        arguments.get(&parameter.argument).and_then(|it| serde_json::from_str(it.get()).ok());
    match value {
        Some(Value::Null) | None if parameter.is_required => {
            Err(format!("the argument `{}` is missing", parameter.argument))
        }
        Some(Value::Null) | None => Ok(None),
        Some(it) => Ok(Some(it)),
    }
}

/// The address of a path under the base, which no argument may lead out of.
fn at(base: &Url, path: &str) -> Result<Url, String> {
    let mut url = base.clone();
    url.set_fragment(None);
    let whole = format!("{}/{}", base.path().trim_end_matches('/'), path.trim_start_matches('/'));
    url.set_path(&whole);
    // Else `..` in it was taken as a step.
    let is_kept = url.path() == whole && url.origin() == base.origin();
    if is_kept { Ok(url) } else { Err(format!("`{path}` is no path of this API")) }
}

fn path_text(parameter: &Parameter, value: &Value) -> Result<String, String> {
    let text = match parameter.style.as_str() {
        "label" => format!(
            ".{}",
            joined_encoded(parameter, value, if parameter.explode { '.' } else { ',' })
        ),
        "matrix" => pairs(parameter, value)
            .iter()
            .map(|(name, value)| format!(";{}={}", encoded(name), encoded(value)))
            .collect(),
        _ => joined_encoded(parameter, value, ','),
    };
    // A step in the path, and nothing else, whatever surrounds it.
    if text.is_empty() || text.chars().all(|it| it == '.') {
        return Err(format!("`{}` cannot be empty or made of dots", parameter.argument));
    }
    Ok(text)
}

/// A value of a query or a cookie, as the style says.
fn pairs(parameter: &Parameter, value: &Value) -> Vec<(String, String)> {
    let name = || parameter.name.clone();
    if parameter.is_json {
        return vec![(name(), value.to_string())];
    }
    match (value, parameter.style.as_str()) {
        (Value::Array(items), "form" | "matrix") if parameter.explode => {
            items.iter().map(|it| (name(), plain(it))).collect()
        }
        (Value::Array(_), "spaceDelimited") => vec![(name(), joined(parameter, value, ' '))],
        (Value::Array(_), "pipeDelimited") => vec![(name(), joined(parameter, value, '|'))],
        (Value::Object(members), "deepObject") => members
            .iter()
            .map(|(key, it)| (format!("{}[{key}]", parameter.name), plain(it)))
            .collect(),
        (Value::Object(members), _) if parameter.explode => {
            members.iter().map(|(key, it)| (key.clone(), plain(it))).collect()
        }
        _ => vec![(name(), joined(parameter, value, ','))],
    }
}

/// Several values in one text.
fn joined(parameter: &Parameter, value: &Value, separator: char) -> String {
    parts(parameter, value).join(&separator.to_string())
}

/// The same for a path, where only the separators are not encoded.
fn joined_encoded(parameter: &Parameter, value: &Value, separator: char) -> String {
    let parts: Vec<String> = parts(parameter, value).iter().map(|it| encoded(it)).collect();
    parts.join(&separator.to_string())
}

fn parts(parameter: &Parameter, value: &Value) -> Vec<String> {
    match value {
        value if parameter.is_json => vec![value.to_string()],
        Value::Array(items) => items.iter().map(plain).collect(),
        Value::Object(members) if parameter.explode => {
            members.iter().map(|(key, it)| format!("{key}={}", plain(it))).collect()
        }
        Value::Object(members) => {
            members.iter().flat_map(|(key, it)| [key.clone(), plain(it)]).collect()
        }
        value => vec![plain(value)],
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(it) => it.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// Everything but what is nowhere special in a URL.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn with_body(
    request: reqwest::RequestBuilder,
    mut headers: HeaderMap,
    operation: &Operation,
    arguments: &Members,
) -> Result<reqwest::RequestBuilder, String> {
    let Some(body) = &operation.body else { return Ok(request.headers(headers)) };
    let content: Option<Raw> = if body.is_whole {
        arguments.get(BODY).cloned()
    } else {
        let mut members = Members::default();
        let is_elsewhere = |name: &str| operation.parameters.iter().any(|it| it.argument == name);
        // As they were written: numbers are not read and written anew.
        for (name, value) in arguments.iter().filter(|(name, _)| !is_elsewhere(name)) {
            members.set(name, value);
        }
        (body.is_required || !members.is_empty()).then(|| members.to_raw())
    };
    let Some(content) = content else {
        let missing = format!("the argument `{BODY}` is missing");
        return if body.is_required { Err(missing) } else { Ok(request.headers(headers)) };
    };
    let text = match body.form {
        Form::Json => content.get().to_owned(),
        Form::Text => serde_json::from_str::<String>(content.get())
            .map_err(|_| format!("the argument `{BODY}` has to be text"))?,
        Form::Urlencoded => {
            let fields: serde_json::Map<String, Value> = serde_json::from_str(content.get())
                .map_err(|_| format!("the argument `{BODY}` has to be an object"))?;
            let field = |(name, value): (&String, &Value)| -> Vec<String> {
                let values = value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
                values
                    .iter()
                    .map(|it| format!("{}={}", encoded(name), encoded(&plain(it))))
                    .collect()
            };
            fields.iter().flat_map(field).collect::<Vec<_>>().join("&")
        }
    };
    let media_type = match body.media_type.as_str() {
        "*/*" => "text/plain",
        it => it,
    };
    if let Ok(it) = HeaderValue::try_from(media_type) {
        headers.entry(CONTENT_TYPE).or_insert(it);
    }
    Ok(request.headers(headers).body(text))
}
