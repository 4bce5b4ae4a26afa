//! Bedrock's Converse API: signed requests, and answers in frames.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign as signed};
use aws_sigv4::sign::v4;
use aws_smithy_types::event_stream::Message as Frame;
use orch_core::ports::clock::Clock;
use orch_core::ports::model::{Message, Prompt, Role};
use orch_domain::Error;
use orch_domain::redact::SecretValues;
use orch_domain::secret::Secret;
use orch_domain::time::Timestamp;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, RequestBuilder, Url};
use serde::Deserialize;
use serde_json::json;

use super::BedrockSettings;
use super::frames::Frames;
use super::wire::{Blame, Broken, Known, Out, Reader, Stop, Wire, filtered, garbage, header};

const SERVICE: &str = "bedrock";
const JSON: &str = "application/json";

pub enum Credentials {
    /// They sign each request, and are in none.
    Keys {
        access_key_id: Secret<String>,
        secret_access_key: Secret<String>,
        /// Of credentials that hold for a time only.
        session_token: Option<Secret<String>>,
    },
    /// A key of Bedrock's own.
    ApiKey(Secret<String>),
}

impl Credentials {
    pub(super) fn config_keys(&self) -> &'static str {
        match self {
            Credentials::Keys { session_token: None, .. } => {
                "`llm.bedrock.access_key_id` and `llm.bedrock.secret_access_key`"
            }
            Credentials::Keys { .. } => {
                "`llm.bedrock.access_key_id`, `llm.bedrock.secret_access_key` and `llm.bedrock.session_token`"
            }
            Credentials::ApiKey(_) => "`llm.bedrock.api_key`",
        }
    }

    pub(super) fn secrets(&self) -> SecretValues {
        match self {
            Credentials::Keys { access_key_id, secret_access_key, session_token } => {
                SecretValues::new(
                    [access_key_id, secret_access_key].into_iter().chain(session_token),
                )
            }
            Credentials::ApiKey(key) => SecretValues::new([key]),
        }
    }
}

pub(super) struct Converse {
    url: Url,
    region: String,
    credentials: Credentials,
    clock: Arc<dyn Clock>,
}

impl Converse {
    pub(super) fn new(settings: BedrockSettings) -> Result<Converse, Error> {
        let no_url = || Error::invalid("llm.bedrock.endpoint", "it is not a URL");
        let region = settings.region;
        let endpoint = settings.endpoint.unwrap_or_else(|| {
            let end = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
            format!("https://bedrock-runtime.{region}.{end}")
        });
        let endpoint = endpoint.trim_end_matches('/');
        let model = percent_encoded(&settings.model);
        let url = Url::parse(&format!("{endpoint}/model/{model}/converse-stream"))
            .map_err(|_| no_url())?;
        Ok(Converse { url, region, credentials: settings.credentials, clock: settings.clock })
    }

    fn headers(&self, body: &[u8]) -> Result<HeaderMap, Error> {
        let mut headers = HeaderMap::new();
        match &self.credentials {
            Credentials::ApiKey(key) => {
                headers.insert(AUTHORIZATION, header("Bearer ", key)?);
            }
            Credentials::Keys { access_key_id, secret_access_key, session_token } => {
                let keys = aws_credential_types::Credentials::new(
                    access_key_id.expose(),
                    secret_access_key.expose(),
                    session_token.as_ref().map(|it| it.expose().clone()),
                    None,
                    "configuration",
                );
                let request = ("POST", self.url.as_str(), [("content-type", JSON)], body);
                let place = (self.region.as_str(), SERVICE);
                sign(request, keys, place, self.clock.now(), &mut headers)?;
            }
        }
        Ok(headers)
    }
}

/// The headers of AWS's signature, version 4. They hold for some minutes.
fn sign<const N: usize>(
    (method, url, signed_headers, body): (&str, &str, [(&str, &str); N], &[u8]),
    keys: aws_credential_types::Credentials,
    (region, service): (&str, &str),
    now: Timestamp,
    headers: &mut HeaderMap,
) -> Result<(), Error> {
    let identity = keys.into();
    let since = Duration::from_millis(u64::try_from(now.as_millis()).unwrap_or(0));
    let parameters = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name(service)
        .time(SystemTime::UNIX_EPOCH + since)
        .settings(SigningSettings::default())
        .build()
        .map_err(Error::internal)?
        .into();
    let signable =
        SignableRequest::new(method, url, signed_headers.into_iter(), SignableBody::Bytes(body))
            .map_err(Error::internal)?;
    let (instructions, _) = signed(signable, &parameters).map_err(Error::internal)?.into_parts();
    for (name, value) in instructions.headers() {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(Error::internal)?;
        let mut value = HeaderValue::from_str(value).map_err(Error::internal)?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(())
}

/// As one segment of a path: ids of models have colons in them, and ARNs slashes.
fn percent_encoded(segment: &str) -> String {
    segment.bytes().fold(String::new(), |mut out, it| {
        if it.is_ascii_alphanumeric() || b"-._~".contains(&it) {
            out.push(char::from(it));
        } else {
            out.push_str(&format!("%{it:02X}"));
        }
        out
    })
}

impl Wire for Converse {
    fn request(&self, http: &Client, prompt: &Prompt) -> Result<RequestBuilder, Error> {
        let messages = prompt.messages.iter().map(|Message { role, text }| {
            let role = match role {
                Role::User => "user",
                Role::Assistant => "assistant",
            };
            json!({"role": role, "content": [{"text": text}]})
        });
        let mut body = json!({
            "messages": messages.collect::<Vec<_>>(),
            "inferenceConfig": {"maxTokens": prompt.max_tokens},
        });
        if !prompt.system.is_empty() {
            body["system"] = json!([{"text": prompt.system}]);
        }
        let body = serde_json::to_vec(&body).map_err(Error::internal)?;
        let headers = self.headers(&body)?;
        Ok(http.post(self.url.clone()).header(CONTENT_TYPE, JSON).headers(headers).body(body))
    }

    fn reader(&self) -> Box<dyn Reader> {
        Box::new(ConverseReader::default())
    }
}

#[derive(Default)]
struct ConverseReader {
    frames: Frames,
    known: Known,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Payload {
    delta: Option<Delta>,
    stop_reason: Option<String>,
    usage: Option<Usage>,
    /// Of an exception.
    #[serde(alias = "Message")]
    message: Option<String>,
}

/// Text, or what the model thinks.
#[derive(Deserialize)]
struct Delta {
    text: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Usage {
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
}

fn text_of<'a>(frame: &'a Frame, name: &str) -> &'a str {
    let header = frame.headers().iter().find(|it| it.name().as_str() == name);
    header.and_then(|it| it.value().as_string().ok()).map_or("", |it| it.as_str())
}

impl ConverseReader {
    fn frame(&mut self, frame: &Frame, out: &mut Out) -> Result<(), Broken> {
        match text_of(frame, ":message-type") {
            "event" => {}
            "exception" => {
                let kind = text_of(frame, ":exception-type");
                let said: Payload = serde_json::from_slice(frame.payload()).unwrap_or_default();
                let said = said.message.unwrap_or_default();
                return Err(Broken::Said {
                    blame: blame(kind),
                    message: format!("{kind}: {said}"),
                });
            }
            "error" => {
                let code = text_of(frame, ":error-code");
                let message = format!("{code}: {}", text_of(frame, ":error-message"));
                return Err(Broken::Said { blame: blame(code), message });
            }
            other => return Err(garbage(format!("a frame is of the type `{other}`"))),
        }
        let payload: Payload = serde_json::from_slice(frame.payload()).map_err(garbage)?;
        match text_of(frame, ":event-type") {
            "contentBlockDelta" => {
                out.text(payload.delta.and_then(|it| it.text).unwrap_or_default());
            }
            "messageStop" => match payload.stop_reason.as_deref() {
                Some("max_tokens" | "model_context_window_exceeded") => {
                    self.known.stop = Some(Stop::Cut);
                }
                Some("guardrail_intervened" | "content_filtered") => return Err(filtered()),
                _ => self.known.stop = Some(Stop::Done),
            },
            "metadata" => {
                if let Some(usage) = payload.usage {
                    self.known.input_tokens = usage.input_tokens;
                    self.known.output_tokens = usage.output_tokens;
                }
                if self.known.stop.is_some() {
                    out.end(self.known.end());
                }
            }
            // Begins and ends of blocks, and what there may be later.
            _ => {}
        }
        out.is_moving = true;
        Ok(())
    }
}

impl Reader for ConverseReader {
    fn read(&mut self, bytes: &[u8], out: &mut Out) -> Result<(), Broken> {
        self.frames.push(bytes);
        while let Some(frame) = self.frames.next()? {
            self.frame(&frame, out)?;
        }
        Ok(())
    }

    /// What was used is told after the stop, and is no part of the answer.
    fn end(&mut self, out: &mut Out) -> Result<(), Broken> {
        if self.known.stop.is_some() && self.frames.is_empty() {
            out.end(self.known.end());
        }
        Ok(())
    }
}

fn blame(kind: &str) -> Blame {
    match kind {
        "throttlingException" => Blame::Rate,
        "validationException" | "accessDeniedException" | "resourceNotFoundException" => {
            Blame::Request
        }
        _ => Blame::Provider,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "AKIDEXAMPLE";
    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
    /// 2015-08-30T12:36:00Z
    const THEN: i64 = 1_440_938_160_000;

    /// Requests and signatures of AWS's own test suite for signatures.
    #[test]
    fn signatures_are_those_that_aws_publishes() {
        let token = "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA==";
        for (method, token, names, signature) in [
            (
                "GET",
                None,
                "host;x-amz-date",
                "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
            ),
            (
                "POST",
                Some(token),
                "host;x-amz-date;x-amz-security-token",
                "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead",
            ),
        ] {
            let token = token.map(str::to_owned);
            let keys = aws_credential_types::Credentials::new(ID, SECRET, token.clone(), None, "");
            let mut headers = HeaderMap::new();
            let request = (method, "https://example.amazonaws.com/", [], &b""[..]);
            let place = ("us-east-1", "service");
            sign(request, keys, place, Timestamp::from_millis(THEN), &mut headers).unwrap();
            let wanted = format!(
                "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
                 SignedHeaders={names}, Signature={signature}"
            );
            assert_eq!(headers["authorization"].to_str().unwrap(), wanted);
            assert_eq!(headers["x-amz-date"].to_str().unwrap(), "20150830T123600Z");
            let sent = headers.get("x-amz-security-token").map(|it| it.to_str().unwrap());
            assert_eq!(sent, token.as_deref());
        }
    }

    #[test]
    fn a_model_is_one_segment_of_the_path() {
        assert_eq!(percent_encoded("amazon.nova-pro-v1:0"), "amazon.nova-pro-v1%3A0");
        assert_eq!(percent_encoded("arn:aws:b/x"), "arn%3Aaws%3Ab%2Fx");
    }
}
