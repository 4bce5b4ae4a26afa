//! Chat completions: of OpenAI, and of all that speak the same protocol.

use std::sync::atomic::{AtomicBool, Ordering};

use orch_core::ports::model::{Message, Prompt, Role};
use orch_domain::Error;
use reqwest::header::{AUTHORIZATION, HeaderName, HeaderValue};
use reqwest::{Client, RequestBuilder};
use serde::Deserialize;
use serde_json::{Value, json};

use super::ApiSettings;
use super::sse::{Events, SseReader};
use super::wire::{Blame, Broken, Known, Out, Reader, Stop, Wire, filtered, garbage, header};

const OPENAI: &str = "https://api.openai.com/v1";
const OLD_LIMIT: &str = "max_tokens";
const NEW_LIMIT: &str = "max_completion_tokens";
/// Parts of the words by which servers say that they do not know a parameter.
const UNKNOWN: [&str; 5] = ["nsupported", "nrecognized", "nknown", "not permitted", "xtra"];

/// Where and how one endpoint is asked.
pub(super) struct Chat {
    pub chat_url: String,
    pub models_url: String,
    pub model: String,
    pub secret: Option<(HeaderName, HeaderValue)>,
    /// It takes `max_tokens`. OpenAI's newer models refuse that and take `max_completion_tokens`, which many compatible
    /// servers do not know.
    takes_old_limit: AtomicBool,
    /// It does not know `stream_options`, by which tokens are told.
    refuses_options: AtomicBool,
}

impl Chat {
    pub(super) fn new(settings: ApiSettings) -> Result<Chat, Error> {
        let is_compatible = settings.base_url.is_some();
        let url = settings.base_url.as_deref().unwrap_or(OPENAI).trim_end_matches('/');
        let secret = settings.api_key.map(|it| header("Bearer ", &it)).transpose()?;
        Ok(Chat::at(
            format!("{url}/chat/completions"),
            format!("{url}/models"),
            settings.model,
            secret.map(|it| (AUTHORIZATION, it)),
            is_compatible,
        ))
    }

    pub(super) fn at(
        chat_url: String,
        models_url: String,
        model: String,
        secret: Option<(HeaderName, HeaderValue)>,
        takes_old_limit: bool,
    ) -> Chat {
        Chat {
            chat_url,
            models_url,
            model,
            secret,
            takes_old_limit: takes_old_limit.into(),
            refuses_options: false.into(),
        }
    }

    fn with_secret(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.secret {
            Some((name, value)) => request.header(name, value),
            None => request,
        }
    }
}

impl Wire for Chat {
    fn request(&self, http: &Client, prompt: &Prompt) -> Result<RequestBuilder, Error> {
        let system = (!prompt.system.is_empty())
            .then(|| json!({"role": "system", "content": prompt.system}));
        let rest = prompt.messages.iter().map(|Message { role, text }| {
            let role = match role {
                Role::User => "user",
                Role::Assistant => "assistant",
            };
            json!({"role": role, "content": text})
        });
        let mut body = json!({
            "model": self.model,
            "messages": system.into_iter().chain(rest).collect::<Vec<_>>(),
            "stream": true,
        });
        let limit =
            if self.takes_old_limit.load(Ordering::Relaxed) { OLD_LIMIT } else { NEW_LIMIT };
        body[limit] = prompt.max_tokens.into();
        if !self.refuses_options.load(Ordering::Relaxed) {
            body["stream_options"] = json!({"include_usage": true});
        }
        Ok(self.with_secret(http.post(&self.chat_url)).json(&body))
    }

    fn reader(&self) -> Box<dyn Reader> {
        Box::new(SseReader::new(Chunks::default()))
    }

    fn models(&self, http: &Client) -> Option<RequestBuilder> {
        Some(self.with_secret(http.get(&self.models_url)))
    }

    fn learn(&self, refusal: &str) -> bool {
        if refusal.contains("stream_options") {
            self.refuses_options.store(true, Ordering::Relaxed);
            return true;
        }
        // Named before the other, which is proposed in its place. A limit that is too large is no matter of its name.
        let refused = [OLD_LIMIT, NEW_LIMIT].map(|it| refusal.find(it).unwrap_or(usize::MAX));
        if refused[0] == refused[1] || !UNKNOWN.iter().any(|it| refusal.contains(it)) {
            return false;
        }
        self.takes_old_limit.store(refused[1] < refused[0], Ordering::Relaxed);
        true
    }
}

#[derive(Default)]
struct Chunks {
    known: Known,
}

#[derive(Deserialize)]
struct Chunk {
    /// None in it where it says something else: Azure's verdict on the prompt, or how many tokens there were.
    #[serde(default)]
    choices: Option<Vec<Choice>>,
    usage: Option<Usage>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    index: u64,
    delta: Option<Delta>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Delta {
    content: Option<String>,
    refusal: Option<String>,
}

#[derive(Deserialize)]
struct Usage {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
}

impl Events for Chunks {
    fn event(&mut self, data: &str, out: &mut Out) -> Result<(), Broken> {
        if data.trim() == "[DONE]" {
            out.end(self.known.end());
            return Ok(());
        }
        let chunk: Chunk = serde_json::from_str(data).map_err(garbage)?;
        if let Some(error) = chunk.error.filter(|it| !it.is_null()) {
            return Err(said(&error));
        }
        out.is_moving = true;
        if let Some(usage) = chunk.usage {
            self.known.input_tokens = usage.prompt_tokens;
            self.known.output_tokens = usage.completion_tokens;
        }
        for choice in chunk.choices.into_iter().flatten().filter(|it| it.index == 0) {
            if let Some(delta) = choice.delta {
                delta.content.into_iter().chain(delta.refusal).for_each(|it| out.text(it));
            }
            match choice.finish_reason.as_deref() {
                None | Some("") => {}
                Some("length") => self.known.stop = Some(Stop::Cut),
                Some("content_filter") => return Err(filtered()),
                Some(_) => self.known.stop = Some(Stop::Done),
            }
        }
        Ok(())
    }

    /// Some compatible servers end with the reason and send no `[DONE]`.
    fn end(&mut self, out: &mut Out) -> Result<(), Broken> {
        if self.known.stop.is_some() {
            out.end(self.known.end());
        }
        Ok(())
    }
}

/// An error after the status said that all is well.
fn said(error: &Value) -> Broken {
    let word = |key: &str| error[key].as_str().unwrap_or_default();
    let status = error["code"].as_u64().or_else(|| word("code").parse().ok()).unwrap_or(0);
    let words = format!("{} {}", word("type"), word("code"));
    let blame = if status == 429 || words.contains("rate_limit") {
        Blame::Rate
    } else if 500 <= status || words.contains("server_error") || words.contains("overloaded") {
        Blame::Provider
    } else {
        Blame::Request
    };
    let message = error["message"].as_str().or_else(|| error.as_str());
    Broken::Said { blame, message: message.map_or_else(|| error.to_string(), str::to_owned) }
}
