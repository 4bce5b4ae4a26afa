//! Path, query and body of a request, merged into the one argument object of its operation.

use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use http::{HeaderMap, Uri, header};
use orch_core::operation::Route;
use orch_domain::Error;
use serde_json::{Map, Value};

use crate::face::argument;
use crate::face::rest::problem::Problem;

/// Far above any sensible request, and small enough to hold for many at once.
pub(super) const MAX_BODY: usize = 4 << 20;
/// Of a route that takes plans: one of a hundred thousand steps has 10 to 20 MB.
pub(super) const MAX_LARGE_BODY: usize = 32 << 20;
/// A client that is answered before it has sent everything may never read the answer, so that much more is read and
/// dropped first.
const MAX_DRAINED: usize = 64 << 20;
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) fn merge(
    input: &Map<String, Value>,
    route: &Route,
    path: &[(String, String)],
    uri: &Uri,
    body: Map<String, Value>,
) -> Result<Map<String, Value>, Error> {
    let query = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(uri)
        .map_err(|_| Error::invalid("", "the query string is not valid percent-encoded text"))?;
    let preset: Vec<(String, String)> =
        route.preset.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    let mut merged = argument::read_pairs(input, path)?;
    for (place, arguments) in [
        ("by this route", argument::read_pairs(input, &preset)?),
        ("in the query string", argument::read_pairs(input, &query.0)?),
        ("in the body", body),
    ] {
        for (name, value) in arguments {
            match merged.get(&name) {
                Some(there) if *there != value => {
                    let message = format!(
                        "it is given {place} with another value than before; give it once (the path comes first, then \
                         the query string, then the body)"
                    );
                    return Err(Error::invalid(name, message));
                }
                Some(_) => {}
                None => {
                    merged.insert(name, value);
                }
            }
        }
    }
    Ok(merged)
}

/// The JSON object in the body; an empty body is an empty object.
pub(super) async fn read_body(
    headers: &HeaderMap,
    body: Body,
    max: usize,
) -> Result<Map<String, Value>, Problem> {
    let declared =
        headers.get(header::CONTENT_LENGTH).and_then(|it| it.to_str().ok()?.parse::<usize>().ok());
    let awaits_leave = headers.contains_key(header::EXPECT);
    if awaits_leave && declared.is_some_and(|it| max < it) {
        return Err(Problem::too_large(max));
    }
    let bytes = tokio::time::timeout(BODY_TIMEOUT, read_bytes(body, max))
        .await
        .map_err(|_| Problem::too_slow(BODY_TIMEOUT))??;
    if bytes.is_empty() {
        return Ok(Map::new());
    }
    let sent = headers.get(header::CONTENT_TYPE).and_then(|it| it.to_str().ok()).unwrap_or("");
    if !is_json(sent) {
        return Err(Problem::not_json(sent));
    }
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(Error::invalid("", "the body is JSON, but not an object `{…}`").into()),
        Err(err) => Err(Error::invalid("", format!("the body is not JSON: {err}")).into()),
    }
}

async fn read_bytes(body: Body, max: usize) -> Result<Bytes, Problem> {
    let mut read = BytesMut::new();
    let mut n_bytes = 0usize;
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk =
            chunk.map_err(|_| Error::invalid("", "the body ended before it was complete"))?;
        n_bytes = n_bytes.saturating_add(chunk.len());
        if MAX_DRAINED < n_bytes {
            break;
        }
        if n_bytes <= max {
            read.extend_from_slice(&chunk);
        } else {
            read = BytesMut::new();
        }
    }
    if max < n_bytes { Err(Problem::too_large(max)) } else { Ok(read.freeze()) }
}

/// `application/json`, with parameters or not, or a type built on it.
fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json"
        || (essence.starts_with("application/") && essence.ends_with("+json"))
}
