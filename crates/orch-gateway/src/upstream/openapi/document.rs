//! An OpenAPI document: read from a file or an address, JSON or YAML, version 3.0 or 3.1, and its references within itself.

use reqwest::{Client, Url};
use serde_json::Value;

use super::super::LinkError;
use super::super::http::{body, unreachable};

/// Larger ones are no descriptions any more.
const MAX_DOCUMENT: u64 = 16 * 1024 * 1024;
/// References that lead to references.
const MAX_HOPS: usize = 32;

pub(super) struct Document {
    pub(super) root: Value,
}

pub(super) fn unusable(message: impl Into<String>) -> LinkError {
    LinkError::Document { message: message.into() }
}

/// Reads the text at `place`. Nothing secret goes with the question unless `headers` may go to that origin.
pub(super) async fn read(
    client: &Client,
    place: &str,
    headers: http::HeaderMap,
) -> Result<String, LinkError> {
    if !is_url(place) {
        let size = fs_err::metadata(place).map_err(|err| unusable(err.to_string()))?.len();
        if MAX_DOCUMENT < size {
            return Err(unusable(format!("it is larger than {MAX_DOCUMENT} bytes")));
        }
        let place = place.to_owned();
        let read = tokio::task::spawn_blocking(move || fs_err::read_to_string(place)).await;
        return read
            .map_err(|err| unusable(err.to_string()))?
            .map_err(|err| unusable(err.to_string()));
    }
    let response = client.get(place).headers(headers).send().await.map_err(unreachable)?;
    if !response.status().is_success() {
        return Err(unusable(format!("its address answers {}", response.status())));
    }
    let bytes = body(response, "the document").await?;
    if MAX_DOCUMENT < bytes.len() as u64 {
        return Err(unusable(format!("it is larger than {MAX_DOCUMENT} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| unusable("it is no UTF-8 text"))
}

pub(super) fn is_url(place: &str) -> bool {
    place.starts_with("http://") || place.starts_with("https://")
}

impl Document {
    pub(super) fn parse(text: &str) -> Result<Document, LinkError> {
        let text = text.trim_start_matches('\u{feff}');
        let root: Value = if text.trim_start().starts_with('{') {
            serde_json::from_str(text).map_err(|err| unusable(format!("it is no JSON: {err}")))?
        } else {
            serde_saphyr::from_str(text).map_err(|err| unusable(format!("it is no YAML: {err}")))?
        };
        match root["openapi"].as_str() {
            Some(it) if it.starts_with("3.") => Ok(Document { root }),
            Some(it) => Err(unusable(format!(
                "it is of OpenAPI {}; 3.0 and 3.1 are understood",
                orch_domain::text::excerpt(it, 20)
            ))),
            None if root.get("swagger").is_some() => {
                Err(unusable("it is of Swagger 2.0; convert it to OpenAPI 3"))
            }
            None => Err(unusable("it has no `openapi` with a version")),
        }
    }

    /// What a reference within the document points to.
    pub(super) fn target(&self, reference: &str) -> Option<&Value> {
        let pointer = reference.strip_prefix('#')?;
        // It is part of a URL, so it may be percent-encoded.
        let pointer = percent_decoded(pointer)?;
        self.root.pointer(&pointer).filter(|_| pointer.starts_with('/'))
    }

    /// `value`, or what it refers to.
    pub(super) fn resolved<'a>(&'a self, mut value: &'a Value) -> Option<&'a Value> {
        for _ in 0..MAX_HOPS {
            match value.get("$ref").and_then(Value::as_str) {
                Some(reference) => value = self.target(reference)?,
                None => return Some(value),
            }
        }
        None
    }

    /// Where the API is: as configured, or as the document says, which may be relative to its own address.
    pub(super) fn base_url(&self, configured: Option<&str>, place: &str) -> Result<Url, LinkError> {
        let said = match configured {
            Some(it) => it.to_owned(),
            None => {
                let server = &self.root["servers"][0];
                let mut url = server["url"].as_str().unwrap_or("/").to_owned();
                for (name, variable) in server["variables"].as_object().into_iter().flatten() {
                    let default = variable["default"].as_str().unwrap_or_default();
                    url = url.replace(&format!("{{{name}}}"), default);
                }
                url
            }
        };
        let url = match Url::parse(place) {
            Ok(document) if is_url(place) => document.join(&said),
            _ => Url::parse(&said),
        };
        url.ok().filter(|it| matches!(it.scheme(), "http" | "https")).ok_or_else(|| {
            unusable("it does not say where the API is; set `base_url` beside `openapi`")
        })
    }
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digits = [bytes.next()?, bytes.next()?];
        let digits = std::str::from_utf8(&digits).ok()?;
        out.push(u8::from_str_radix(digits, 16).ok()?);
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read_and_others_are_told_apart() {
        let yaml = "openapi: 3.0.3\npaths:\n  /a:\n    get:\n      responses:\n        200: {description: ok}\n";
        let document = Document::parse(yaml).unwrap();
        let responses = &document.root["paths"]["/a"]["get"]["responses"];
        assert_eq!(responses["200"]["description"], "ok", "{responses}");
        assert!(Document::parse(r#"{"openapi": "3.1.0", "paths": {}}"#).is_ok());
        let refusal = |text: &str| Document::parse(text).err().unwrap().to_string();
        assert!(refusal("swagger: '2.0'").contains("Swagger 2.0"));
        assert!(refusal("{}").contains("no `openapi`"));
        assert!(refusal("{\"openapi\": ").contains("no JSON"));
        assert!(refusal("openapi: 4.0.0").contains("4.0.0"));
    }

    #[test]
    fn references_stay_within_the_document() {
        let text = r##"{"openapi": "3.1.0", "a/b": {"x y": 1}, "one": {"$ref": "#/two"}, "two": {"$ref": "#/one"},
            "out": {"$ref": "https://example.org/x.json"}, "good": {"$ref": "#/a~1b"}}"##;
        let document = Document::parse(text).unwrap();
        assert_eq!(document.target("#/a~1b/x%20y"), Some(&Value::from(1)));
        assert_eq!(document.resolved(&document.root["good"]).unwrap()["x y"], 1);
        for broken in ["one", "out"] {
            assert!(document.resolved(&document.root[broken]).is_none(), "{broken}");
        }
        assert_eq!(document.target("other.yaml#/a"), None);
        assert_eq!(document.target("#"), None);
    }

    #[test]
    fn the_api_is_where_the_configuration_or_the_document_says() {
        let text = r#"{"openapi": "3.1.0", "servers": [{"url": "{base}/v2", "variables": {"base": {"default": "/api"}}}]}"#;
        let document = Document::parse(text).unwrap();
        let at = |configured: Option<&str>, place: &str| {
            document.base_url(configured, place).map(|it| it.to_string())
        };
        assert_eq!(
            at(None, "https://a.example/docs/openapi.json").unwrap(),
            "https://a.example/api/v2"
        );
        assert_eq!(
            at(Some("http://b.example/x"), "https://a.example/o").unwrap(),
            "http://b.example/x"
        );
        assert!(at(None, "/etc/openapi.json").unwrap_err().to_string().contains("`base_url`"));
    }
}
