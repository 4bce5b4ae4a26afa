//! The language model that the configuration names.

use std::sync::Arc;

use orch_adapters::llm::{
    ApiSettings, AzureSettings, BedrockSettings, Credentials, HttpModel, Limits,
};
use orch_core::ports::clock::SystemClock;
use orch_core::ports::model::Model;
use orch_domain::Error;
use orch_domain::secret::Secret;

use crate::config::{self, Config, Provider};

/// None: no provider is chosen. Nothing is asked yet.
pub fn of(config: &Config) -> Result<Option<Arc<dyn Model>>, Error> {
    Ok(model(config)?.map(|it| Arc::new(it) as Arc<dyn Model>))
}

/// What became of a question that costs nothing.
pub struct Look {
    /// The provider and its model.
    pub name: String,
    pub model: String,
    /// The names of the models there; None where there is no such question.
    pub models: Option<Result<Vec<String>, Error>>,
}

/// Whether the chosen provider answers and knows the key, as far as that can be asked for nothing.
pub async fn look(config: &Config) -> Result<Option<Look>, Error> {
    let Some(it) = model(config)? else { return Ok(None) };
    let models = it.models().await;
    Ok(Some(Look { name: it.name(), model: it.model().to_owned(), models }))
}

fn model(config: &Config) -> Result<Option<HttpModel>, Error> {
    let llm = &config.llm;
    let limits =
        Limits { idle: llm.timeout.duration(), max_tokens: llm.max_tokens, ..Limits::default() };
    let Some(provider) = llm.provider else { return Ok(None) };
    let made = match provider {
        Provider::Openai => HttpModel::openai(api(&llm.openai), limits),
        Provider::Anthropic => HttpModel::anthropic(api(&llm.anthropic), limits),
        Provider::Azure => {
            let it = &llm.azure;
            let settings = AzureSettings {
                endpoint: it.endpoint.clone().unwrap_or_default(),
                api_key: or_empty(&it.api_key),
                model: it.model.clone().unwrap_or_default(),
                api_version: it.api_version.clone(),
            };
            HttpModel::azure(settings, limits)
        }
        Provider::Bedrock => {
            let it = &llm.bedrock;
            let credentials = match &it.api_key {
                Some(key) => Credentials::ApiKey(key.clone()),
                None => Credentials::Keys {
                    access_key_id: or_empty(&it.access_key_id),
                    secret_access_key: or_empty(&it.secret_access_key),
                    session_token: it.session_token.clone(),
                },
            };
            let settings = BedrockSettings {
                region: it.region.clone().unwrap_or_default(),
                credentials,
                model: it.model.clone().unwrap_or_default(),
                endpoint: it.endpoint.clone(),
                clock: Arc::new(SystemClock),
            };
            HttpModel::bedrock(settings, limits)
        }
    };
    made.map(Some)
}

fn api(it: &config::ApiProvider) -> ApiSettings {
    ApiSettings {
        base_url: it.base_url.clone(),
        api_key: it.api_key.clone(),
        model: it.model.clone().unwrap_or_default(),
    }
}

/// Of what the check of the configuration has seen to be there.
fn or_empty(secret: &Option<Secret<String>>) -> Secret<String> {
    secret.clone().unwrap_or_else(|| Secret::new(String::new()))
}
