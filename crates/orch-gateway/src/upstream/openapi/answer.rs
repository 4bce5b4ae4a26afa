//! What an API answered, as the result of a tool.

use base64::Engine;
use futures::StreamExt;
use http::header::{CONTENT_TYPE, LOCATION};
use orch_domain::text;
use reqwest::Response;
use serde_json::{Value, json};

use super::super::LinkError;
use super::super::http::unreachable;
use super::operation::is_json;
use crate::frame::{Raw, raw};
use crate::members::Members;

/// A larger one is no answer that a model could read.
pub(super) const MAX_ANSWER: usize = 8 * 1024 * 1024;
/// Of the body of a failure, what is shown.
const EXCERPT: usize = 4000;

/// A tool that failed, in words that the model reads.
pub(super) fn failed(message: &str) -> Raw {
    raw(&json!({"content": [{"type": "text", "text": message}], "isError": true}))
}

pub(super) async fn result_of(response: Response) -> Result<Raw, LinkError> {
    let status = response.status();
    let header = |name| -> String {
        let value = response.headers().get(name).and_then(|it| it.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let (media_type, location) = (header(CONTENT_TYPE), header(LOCATION));
    let Some(body) = bounded(response).await? else {
        return Ok(failed(&format!("HTTP {status}: the answer is larger than {MAX_ANSWER} bytes")));
    };
    if !status.is_success() {
        let mut said = format!("HTTP {status}");
        if status.is_redirection() {
            let shown = text::excerpt(&location, 200);
            said.push_str(&format!(": it points to `{shown}`, where this was not sent"));
        }
        let body = String::from_utf8_lossy(&body);
        if !body.trim().is_empty() {
            let body = text::sanitize(body.trim());
            said.push_str(&format!("\n{}", text::beginning(&body, EXCERPT)));
        }
        return Ok(failed(&said));
    }
    Ok(success(&media_type, &body, &status.to_string()))
}

fn success(media_type: &str, body: &[u8], status: &str) -> Raw {
    if body.trim_ascii().is_empty() {
        let text = format!("HTTP {status}");
        return raw(&json!({"content": [{"type": "text", "text": text}], "isError": false}));
    }
    let essence = media_type.split(';').next().unwrap_or_default().trim();
    let block = match std::str::from_utf8(body) {
        Ok(it) => json!({"type": "text", "text": it}),
        Err(_) => {
            let data = base64::engine::general_purpose::STANDARD.encode(body);
            match essence.split('/').next() {
                Some(kind @ ("image" | "audio")) => {
                    json!({"type": kind, "data": data, "mimeType": essence})
                }
                _ => json!({"type": "resource", "resource": {
                    "uri": "data:,", "mimeType": essence, "blob": data
                }}),
            }
        }
    };
    let mut result = Members::default();
    result.set("content", &[block]);
    // As it was written. Only an object can be structured content in every version of the protocol.
    if is_json(essence)
        && let Ok(structured) = serde_json::from_slice::<Raw>(body)
        && structured.get().starts_with('{')
    {
        result.set("structuredContent", &structured);
    }
    result.set("isError", &Value::Bool(false));
    result.to_raw()
}

/// None: it is too large.
async fn bounded(response: Response) -> Result<Option<Vec<u8>>, LinkError> {
    let mut body = Vec::new();
    let mut chunks = response.bytes_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(unreachable)?;
        if MAX_ANSWER < body.len() + chunk.len() {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body))
}
