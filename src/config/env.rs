//! Environment variables: which ones there are, and the one place that reads them.

use std::collections::BTreeMap;

/// Where environment variables come from. Tests give a map, so that none of them touches the process.
pub trait Env: Send + Sync {
    fn get(&self, name: &str) -> Option<String>;
}

/// The process's own.
pub struct ProcessEnv;

impl Env for ProcessEnv {
    #[expect(clippy::disallowed_methods, reason = "this is the one reader of the environment")]
    fn get(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }
}

impl Env for BTreeMap<String, String> {
    fn get(&self, name: &str) -> Option<String> {
        BTreeMap::get(self, name).cloned()
    }
}

/// How the text of a variable becomes a value of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Number,
    Boolean,
}

/// A variable that sets a key of the configuration.
pub(super) struct Variable {
    pub name: &'static str,
    pub key: &'static str,
    pub kind: Kind,
}

const fn text(name: &'static str, key: &'static str) -> Variable {
    Variable { name, key, kind: Kind::Text }
}

/// In order of weight: of two that set one key, the later one wins.
pub(super) const VARIABLES: &[Variable] = &[
    text("HOST", "server.host"),
    Variable { name: "PORT", key: "server.port", kind: Kind::Number },
    Variable { name: "PROXY_PORT", key: "server.port", kind: Kind::Number },
    text("MCP_ORCH_DATA_DIR", "server.data_dir"),
    text("LOG_LEVEL", "server.log_level"),
    Variable { name: "DEBUG", key: "server.debug", kind: Kind::Boolean },
    text("API_KEY", "security.api_key"),
    text("JWT_SECRET", "security.jwt_secret"),
    Variable {
        name: "HEALTH_CHECK_TIMEOUT",
        key: "cluster.health_check_timeout",
        kind: Kind::Number,
    },
    Variable {
        name: "MCP_ORCH_RESCHEDULE_GRACE",
        key: "cluster.reschedule_grace",
        kind: Kind::Number,
    },
    text("NODES_FILE_PATH", "cluster.nodes_file"),
    // Not Ray's own `RAY_ADDRESS`, which may be a URL and mostly is the address of something else of the head.
    text("RAY_DASHBOARD_URL", "ray.dashboard_url"),
    text("RAY_AUTH_TOKEN", "ray.token"),
    text("MCP_ORCH_LLM_PROVIDER", "llm.provider"),
    text("AZURE_AI_ENDPOINT", "llm.azure.endpoint"),
    text("AZURE_AI_API_KEY", "llm.azure.api_key"),
    text("AZURE_AI_MODEL", "llm.azure.model"),
    text("AZURE_AI_API_VERSION", "llm.azure.api_version"),
    text("AWS_DEFAULT_REGION", "llm.bedrock.region"),
    text("AWS_REGION", "llm.bedrock.region"),
    text("AWS_ACCESS_KEY_ID", "llm.bedrock.access_key_id"),
    text("AWS_SECRET_ACCESS_KEY", "llm.bedrock.secret_access_key"),
    text("AWS_SESSION_TOKEN", "llm.bedrock.session_token"),
    text("AWS_BEARER_TOKEN_BEDROCK", "llm.bedrock.api_key"),
    text("BEDROCK_MODEL_ID", "llm.bedrock.model"),
    text("OPENAI_API_KEY", "llm.openai.api_key"),
    text("OPENAI_BASE_URL", "llm.openai.base_url"),
    text("OPENAI_MODEL", "llm.openai.model"),
    text("ANTHROPIC_API_KEY", "llm.anthropic.api_key"),
    text("ANTHROPIC_BASE_URL", "llm.anthropic.base_url"),
    text("ANTHROPIC_MODEL", "llm.anthropic.model"),
];
