//! The provider that is chosen has to be complete; the others may be half filled by variables of the machine.

use orch_domain::secret::Secret;

use super::{ApiProvider, Provider};
use crate::config::layers::Layers;
use crate::config::{Config, ConfigError};

pub(in crate::config) fn check(layers: &Layers, config: &Config) -> Result<(), ConfigError> {
    let llm = &config.llm;
    if llm.max_tokens == Some(0) {
        return Err(layers.refuse("llm.max_tokens", "0 is not from 1 up"));
    }
    match llm.provider {
        None => Ok(()),
        Some(Provider::Azure) => {
            let it = &llm.azure;
            needed(layers, "llm.azure.endpoint", it.endpoint.is_some())?;
            needed(layers, "llm.azure.api_key", it.api_key.is_some())?;
            model(layers, "llm.azure.model", it.model.as_deref())?;
            url(layers, "llm.azure.endpoint", it.endpoint.as_deref(), "llm.azure.api_key")?;
            layers.check_token("llm.azure.api_key", it.api_key.as_ref())
        }
        Some(Provider::Bedrock) => bedrock(layers, config),
        Some(Provider::Openai) => api(layers, "llm.openai", &llm.openai),
        Some(Provider::Anthropic) => api(layers, "llm.anthropic", &llm.anthropic),
    }
}

fn bedrock(layers: &Layers, config: &Config) -> Result<(), ConfigError> {
    let it = &config.llm.bedrock;
    let key = |name: &str| format!("llm.bedrock.{name}");
    needed(layers, &key("region"), it.region.is_some())?;
    let region = it.region.as_deref().unwrap_or_default();
    // It becomes part of a host's name.
    if region.is_empty() || !region.bytes().all(|it| it.is_ascii_alphanumeric() || it == b'-') {
        let message = "it is not a region such as `us-east-1`";
        return Err(layers.refuse(&key("region"), message));
    }
    if it.api_key.is_none() {
        needed(layers, &key("access_key_id"), it.access_key_id.is_some())?;
        needed(layers, &key("secret_access_key"), it.secret_access_key.is_some())?;
    }
    model(layers, &key("model"), it.model.as_deref())?;
    url(layers, &key("endpoint"), it.endpoint.as_deref(), &key("access_key_id"))?;
    let tokens: [(&str, &Option<Secret<String>>); 4] = [
        ("access_key_id", &it.access_key_id),
        ("secret_access_key", &it.secret_access_key),
        ("session_token", &it.session_token),
        ("api_key", &it.api_key),
    ];
    tokens.iter().try_for_each(|(name, it)| layers.check_token(&key(name), it.as_ref()))
}

fn api(layers: &Layers, section: &str, it: &ApiProvider) -> Result<(), ConfigError> {
    let key = |name: &str| format!("{section}.{name}");
    // Servers of one's own may want none.
    needed(layers, &key("api_key"), it.api_key.is_some() || it.base_url.is_some())?;
    model(layers, &key("model"), it.model.as_deref())?;
    url(layers, &key("base_url"), it.base_url.as_deref(), &key("api_key"))?;
    layers.check_token(&key("api_key"), it.api_key.as_ref())
}

fn needed(layers: &Layers, key: &str, is_set: bool) -> Result<(), ConfigError> {
    if is_set { Ok(()) } else { Err(layers.refuse(key, "the chosen `llm.provider` needs it")) }
}

/// There is no default, as models come and go, and cost differently.
fn model(layers: &Layers, key: &str, model: Option<&str>) -> Result<(), ConfigError> {
    needed(layers, key, model.is_some())?;
    match model {
        Some(it) if it.trim().is_empty() || it.chars().any(char::is_control) => {
            Err(layers.refuse(key, "it is empty or has characters that no name has"))
        }
        _ => Ok(()),
    }
}

fn url(layers: &Layers, key: &str, url: Option<&str>, secret: &str) -> Result<(), ConfigError> {
    url.map_or(Ok(()), |it| layers.check_url(key, it, secret))
}
