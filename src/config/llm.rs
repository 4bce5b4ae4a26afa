//! The section of the language model: which provider, and what each needs.

pub(super) mod check;

use orch_domain::secret::Secret;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::value::Seconds;

#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Llm {
    /// Which of the sections below plans batches: `azure`, `bedrock`, `openai` or `anthropic`. None unless named here: a key
    /// in the environment alone sends nobody's requests anywhere.
    pub provider: Option<Provider>,
    /// Seconds that a model may say nothing, before its answer and in it; more for models that think long.
    pub timeout: Seconds,
    /// Tokens of one answer at most, for models that refuse as many as planning asks for.
    #[schemars(range(min = 1))]
    pub max_tokens: Option<u32>,
    pub azure: Azure,
    pub bedrock: Bedrock,
    pub openai: ApiProvider,
    pub anthropic: ApiProvider,
}

impl Default for Llm {
    fn default() -> Llm {
        Llm {
            provider: None,
            timeout: Seconds::new(120.0),
            max_tokens: None,
            azure: Azure::default(),
            bedrock: Bedrock::default(),
            openai: ApiProvider::default(),
            anthropic: ApiProvider::default(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    Azure,
    Bedrock,
    Openai,
    Anthropic,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Azure {
    /// URL of the Azure AI resource, such as `https://NAME.openai.azure.com`.
    pub endpoint: Option<String>,
    /// Its key.
    pub api_key: Option<Secret<String>>,
    /// Name of the deployed model.
    pub model: Option<String>,
    /// Such as `2024-10-21`: asks by `/openai/deployments/MODEL`; without one by `/openai/v1`.
    pub api_version: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Bedrock {
    /// AWS region, such as `us-east-1`.
    pub region: Option<String>,
    /// AWS access key.
    pub access_key_id: Option<Secret<String>>,
    /// Its secret.
    pub secret_access_key: Option<Secret<String>>,
    /// Token of credentials that hold for a time.
    pub session_token: Option<Secret<String>>,
    /// A key of Bedrock's own, in place of the three above.
    pub api_key: Option<Secret<String>>,
    /// Id of the model or of an inference profile.
    pub model: Option<String>,
    /// Another address than AWS's own for the region, such as that of a VPC endpoint.
    pub endpoint: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ApiProvider {
    /// Key of the API; needed unless there is a `base_url`.
    pub api_key: Option<Secret<String>>,
    /// Another address that speaks the same API, such as `http://127.0.0.1:11434/v1`.
    pub base_url: Option<String>,
    /// Name of the model.
    pub model: Option<String>,
}
