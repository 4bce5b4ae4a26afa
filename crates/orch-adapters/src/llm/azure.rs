//! Azure: chat completions of a deployment, at either form of its URL.

use orch_domain::Error;
use reqwest::Url;
use reqwest::header::HeaderName;

use super::AzureSettings;
use super::openai::Chat;
use super::wire::header;

const KEY: HeaderName = HeaderName::from_static("api-key");
const V1: &str = "/openai/v1";

/// With an API version the deployment is in the path. Without one it is the model, as at `/openai/v1`.
pub(super) fn chat(settings: AzureSettings) -> Result<Chat, Error> {
    let endpoint = settings.endpoint.trim_end_matches('/');
    let resource = endpoint.strip_suffix(V1).unwrap_or(endpoint);
    let secret = Some((KEY, header("", &settings.api_key)?));
    let (chat, models) = match &settings.api_version {
        Some(version) => {
            let url = |path: &[&str]| {
                let no_url = |_| Error::invalid("llm.azure.endpoint", "it is not a URL");
                let mut url = Url::parse(resource).map_err(no_url)?;
                if let Ok(mut segments) = url.path_segments_mut() {
                    segments.pop_if_empty().push("openai").extend(path);
                }
                url.query_pairs_mut().append_pair("api-version", version);
                Ok::<_, Error>(url.to_string())
            };
            (url(&["deployments", &settings.model, "chat", "completions"])?, url(&["models"])?)
        }
        None => (format!("{resource}{V1}/chat/completions"), format!("{resource}{V1}/models")),
    };
    Ok(Chat::at(chat, models, settings.model, secret, false))
}
