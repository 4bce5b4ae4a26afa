//! Language models of providers, over HTTP: OpenAI and what speaks its protocol, Anthropic, Azure and Bedrock.
//!
//! What differs between them is a `Wire`: how a request is written, and how the bytes of an answer are read. What they
//! share is in `attempt` (one request, tried again while nothing of its answer has come) and `answer` (the pieces).

mod answer;
mod anthropic;
mod attempt;
mod azure;
mod bedrock;
mod fault;
mod frames;
mod openai;
mod sse;
mod wire;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use orch_core::ports::clock::Clock;
use orch_core::ports::model::{Model, Piece, Prompt};
use orch_domain::Error;
use orch_domain::redact::SecretValues;
use orch_domain::secret::Secret;
use reqwest::Client;
use reqwest::redirect::Policy;

pub use bedrock::Credentials;
use wire::Wire;

/// How long and how large things may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For a connection to be there.
    pub connect: Duration,
    /// For the beginning of an answer, and from one piece of it to the next.
    pub idle: Duration,
    /// Before the second try; doubled for the third, and jittered.
    pub backoff: Duration,
    /// A provider that wants to be left alone for longer is not asked again.
    pub longest_wait: Duration,
    /// Bytes of text in one answer.
    pub max_text: usize,
    /// Whatever a prompt asks for.
    pub max_tokens: Option<u32>,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connect: Duration::from_secs(10),
            idle: Duration::from_secs(120),
            backoff: Duration::from_millis(500),
            longest_wait: Duration::from_secs(30),
            max_text: 4 << 20,
            max_tokens: None,
        }
    }
}

/// OpenAI's, or Anthropic's, or another's that speaks the same.
pub struct ApiSettings {
    /// The provider's own unless given.
    pub base_url: Option<String>,
    pub api_key: Option<Secret<String>>,
    pub model: String,
}

pub struct AzureSettings {
    pub endpoint: String,
    pub api_key: Secret<String>,
    /// Name of the deployment.
    pub model: String,
    /// Given: deployments are asked by their URL, as before the API had versions in its path.
    pub api_version: Option<String>,
}

pub struct BedrockSettings {
    pub region: String,
    pub credentials: Credentials,
    pub model: String,
    /// AWS's own for the region unless given.
    pub endpoint: Option<String>,
    /// Signatures have a time.
    pub clock: Arc<dyn Clock>,
}

/// What errors say of the place where answers come from.
struct About {
    provider: &'static str,
    model: String,
    /// The keys of the configuration, for advice.
    secret_keys: Cow<'static, str>,
    url_key: &'static str,
    has_secret: bool,
    secrets: SecretValues,
}

impl About {
    fn name(&self) -> String {
        format!("{} {}", self.provider, self.model)
    }

    fn model_key(&self) -> String {
        format!("llm.{}.model", self.provider)
    }
}

/// A model of a provider.
pub struct HttpModel {
    http: Client,
    about: Arc<About>,
    wire: Box<dyn Wire>,
    limits: Limits,
}

impl HttpModel {
    /// An error when no client can be made.
    pub fn openai(settings: ApiSettings, limits: Limits) -> Result<HttpModel, Error> {
        let about = of_api("openai", "`llm.openai.api_key`", "llm.openai.base_url", &settings);
        HttpModel::new(about, Box::new(openai::Chat::new(settings)?), limits)
    }

    /// An error when no client can be made.
    pub fn anthropic(settings: ApiSettings, limits: Limits) -> Result<HttpModel, Error> {
        let keys = ("`llm.anthropic.api_key`", "llm.anthropic.base_url");
        let about = of_api("anthropic", keys.0, keys.1, &settings);
        HttpModel::new(about, Box::new(anthropic::Messages::new(settings)?), limits)
    }

    /// An error when no client can be made.
    pub fn azure(settings: AzureSettings, limits: Limits) -> Result<HttpModel, Error> {
        let about = About {
            provider: "azure",
            model: settings.model.clone(),
            secret_keys: "`llm.azure.api_key`".into(),
            url_key: "llm.azure.endpoint",
            has_secret: true,
            secrets: SecretValues::new([&settings.api_key]),
        };
        HttpModel::new(about, Box::new(azure::chat(settings)?), limits)
    }

    /// An error when no client can be made.
    pub fn bedrock(settings: BedrockSettings, limits: Limits) -> Result<HttpModel, Error> {
        let about = About {
            provider: "bedrock",
            model: settings.model.clone(),
            secret_keys: settings.credentials.config_keys().into(),
            url_key: "llm.bedrock.endpoint",
            has_secret: true,
            secrets: settings.credentials.secrets(),
        };
        HttpModel::new(about, Box::new(bedrock::Converse::new(settings)?), limits)
    }

    fn new(about: About, wire: Box<dyn Wire>, limits: Limits) -> Result<HttpModel, Error> {
        // Another part of the process may have chosen it before; there is only this one.
        drop(rustls::crypto::ring::default_provider().install_default());
        let http = Client::builder()
            .tcp_nodelay(true)
            .connect_timeout(limits.connect)
            // Whoever answers there does not get to send us, and the key, elsewhere.
            .redirect(Policy::none())
            .user_agent(concat!("mcp-orch/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(Error::internal)?;
        Ok(HttpModel { http, about: Arc::new(about), wire, limits })
    }

    /// The names of the models that there are for this key, by a question that costs nothing. None where the provider
    /// has no such question.
    pub async fn models(&self) -> Option<Result<Vec<String>, Error>> {
        let request = self.wire.models(&self.http)?;
        Some(self.list(request).await)
    }

    pub fn model(&self) -> &str {
        &self.about.model
    }
}

fn of_api(
    provider: &'static str,
    secret_keys: &'static str,
    url_key: &'static str,
    settings: &ApiSettings,
) -> About {
    About {
        provider,
        model: settings.model.clone(),
        secret_keys: secret_keys.into(),
        url_key,
        has_secret: settings.api_key.is_some(),
        secrets: SecretValues::new(&settings.api_key),
    }
}

#[async_trait]
impl Model for HttpModel {
    fn name(&self) -> String {
        self.about.name()
    }

    async fn generate(
        &self,
        prompt: &Prompt,
    ) -> Result<BoxStream<'static, Result<Piece, Error>>, Error> {
        let max_tokens = self.limits.max_tokens.unwrap_or(u32::MAX).min(prompt.max_tokens);
        let answer = self.begin(&Prompt { max_tokens, ..prompt.clone() }).await?;
        Ok(futures::stream::unfold(answer, |mut answer| async move {
            let piece = answer.next().await?;
            Some((piece.map_err(fault::Fault::into_error), answer))
        })
        .boxed())
    }
}

#[cfg(test)]
mod tests;
