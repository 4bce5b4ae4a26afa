//! Anthropic's messages.

use orch_core::ports::model::{Message, Prompt, Role};
use orch_domain::Error;
use reqwest::header::{HeaderName, HeaderValue};
use reqwest::{Client, RequestBuilder};
use serde::Deserialize;
use serde_json::json;

use super::ApiSettings;
use super::sse::{Events, SseReader};
use super::wire::{Blame, Broken, Known, Out, Reader, Stop, Wire, filtered, garbage, header};

const ANTHROPIC: &str = "https://api.anthropic.com";
const KEY: HeaderName = HeaderName::from_static("x-api-key");
const VERSION: (&str, &str) = ("anthropic-version", "2023-06-01");

pub(super) struct Messages {
    url: String,
    model: String,
    secret: Option<HeaderValue>,
}

impl Messages {
    pub(super) fn new(settings: ApiSettings) -> Result<Messages, Error> {
        let url = settings.base_url.as_deref().unwrap_or(ANTHROPIC).trim_end_matches('/');
        // Some write it with the version, as it is for other providers.
        let url = url.strip_suffix("/v1").unwrap_or(url).to_owned();
        let secret = settings.api_key.map(|it| header("", &it)).transpose()?;
        Ok(Messages { url, model: settings.model, secret })
    }

    fn with_headers(&self, request: RequestBuilder) -> RequestBuilder {
        let request = request.header(VERSION.0, VERSION.1);
        match &self.secret {
            Some(secret) => request.header(KEY, secret),
            None => request,
        }
    }
}

impl Wire for Messages {
    fn request(&self, http: &Client, prompt: &Prompt) -> Result<RequestBuilder, Error> {
        let messages = prompt.messages.iter().map(|Message { role, text }| {
            let role = match role {
                Role::User => "user",
                Role::Assistant => "assistant",
            };
            json!({"role": role, "content": text})
        });
        let mut body = json!({
            "model": self.model,
            "max_tokens": prompt.max_tokens,
            "messages": messages.collect::<Vec<_>>(),
            "stream": true,
        });
        if !prompt.system.is_empty() {
            body["system"] = prompt.system.as_str().into();
        }
        Ok(self.with_headers(http.post(format!("{}/v1/messages", self.url))).json(&body))
    }

    fn reader(&self) -> Box<dyn Reader> {
        Box::new(SseReader::new(MessageEvents::default()))
    }

    fn models(&self, http: &Client) -> Option<RequestBuilder> {
        Some(self.with_headers(http.get(format!("{}/v1/models?limit=1000", self.url))))
    }
}

#[derive(Default)]
struct MessageEvents {
    known: Known,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Event {
    MessageStart {
        message: Start,
    },
    ContentBlockStart {
        content_block: Block,
    },
    ContentBlockDelta {
        delta: Block,
    },
    ContentBlockStop,
    MessageDelta {
        delta: Change,
        usage: Option<Usage>,
    },
    MessageStop,
    Ping,
    Error {
        error: Said,
    },
    /// There may be new ones at any time.
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct Start {
    usage: Option<Usage>,
}

/// Text, or what the model thinks, which is not asked for.
#[derive(Deserialize)]
struct Block {
    text: Option<String>,
}

#[derive(Deserialize)]
struct Change {
    stop_reason: Option<String>,
}

/// Each as often as it changes; the last one counts.
#[derive(Deserialize)]
struct Usage {
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct Said {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    message: String,
}

impl MessageEvents {
    fn count(&mut self, usage: Option<Usage>) {
        let Some(usage) = usage else { return };
        self.known.input_tokens = usage.input_tokens.or(self.known.input_tokens);
        self.known.output_tokens = usage.output_tokens.or(self.known.output_tokens);
    }
}

impl Events for MessageEvents {
    fn event(&mut self, data: &str, out: &mut Out) -> Result<(), Broken> {
        let event: Event = serde_json::from_str(data).map_err(garbage)?;
        match event {
            // Says that the connection is there, and nothing of the model.
            Event::Ping | Event::Other => return Ok(()),
            Event::MessageStart { message } => self.count(message.usage),
            Event::ContentBlockStart { content_block: it }
            | Event::ContentBlockDelta { delta: it } => out.text(it.text.unwrap_or_default()),
            Event::ContentBlockStop => {}
            Event::MessageDelta { delta, usage } => {
                self.count(usage);
                match delta.stop_reason.as_deref() {
                    None => {}
                    Some("max_tokens" | "model_context_window_exceeded") => {
                        self.known.stop = Some(Stop::Cut);
                    }
                    Some("refusal") => return Err(filtered()),
                    Some(_) => self.known.stop = Some(Stop::Done),
                }
            }
            Event::MessageStop => out.end(self.known.end()),
            Event::Error { error } => {
                let blame = match error.kind.as_str() {
                    "rate_limit_error" => Blame::Rate,
                    "overloaded_error" | "api_error" | "timeout_error" => Blame::Provider,
                    _ => Blame::Request,
                };
                return Err(Broken::Said { blame, message: error.message });
            }
        }
        out.is_moving = true;
        Ok(())
    }

    fn end(&mut self, _: &mut Out) -> Result<(), Broken> {
        Ok(())
    }
}
