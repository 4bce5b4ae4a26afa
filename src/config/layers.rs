//! Lays the sources over each other and decodes the result.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use orch_domain::secret::Secret;
use serde_json::{Map, Value};

use super::env::{Env, Kind, VARIABLES};
use super::table;
use super::{Config, ConfigError};

/// A value given on the command line.
pub struct Flag {
    /// As it is written there, such as `--port`.
    pub name: &'static str,
    /// The key that it sets.
    pub key: &'static str,
    pub value: Value,
}

/// Where a configuration comes from.
pub struct Sources<'a> {
    pub env: &'a dyn Env,
    pub file: Option<PathBuf>,
    pub flags: Vec<Flag>,
}

/// Reads, decodes and checks.
pub fn load(sources: Sources<'_>) -> Result<Config, ConfigError> {
    let mut layers = Layers::default();
    if let Some(path) = &sources.file {
        layers.read_file(path, sources.env)?;
    }
    for variable in VARIABLES {
        let Some(text) = sources.env.get(variable.name).filter(|it| !it.is_empty()) else {
            continue;
        };
        let origin = format!("environment variable `{}`", variable.name);
        layers.set(variable.key, convert(variable.kind, text), origin);
    }
    for flag in sources.flags {
        layers.set(flag.key, flag.value, format!("flag `{}`", flag.name));
    }
    let config = layers.decode()?;
    layers.check(&config)?;
    Ok(config)
}

/// What cannot be converted stays text, so that decoding refuses it with the key's own message.
fn convert(kind: Kind, text: String) -> Value {
    match kind {
        Kind::Text => Value::String(text),
        Kind::Number => match text.trim().parse::<serde_json::Number>() {
            Ok(it) => Value::Number(it),
            Err(_) => Value::String(text),
        },
        Kind::Boolean => match text.trim().to_ascii_lowercase().as_str() {
            "1" | "true" | "yes" | "on" => Value::Bool(true),
            "0" | "false" | "no" | "off" => Value::Bool(false),
            _ => Value::String(text),
        },
    }
}

#[derive(Default)]
pub(super) struct Layers {
    merged: Map<String, Value>,
    /// Who set a key last, for keys that were not set by the file.
    origins: HashMap<&'static str, String>,
    file: Option<String>,
}

impl Layers {
    fn read_file(&mut self, path: &Path, env: &dyn Env) -> Result<(), ConfigError> {
        let text = fs_err::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        let yaml = |message: String| ConfigError::Yaml { path: path.to_owned(), message };
        let value: Value = serde_saphyr::from_str(&text).map_err(|err| yaml(err.to_string()))?;
        self.file = Some(path.display().to_string());
        self.merged = match value {
            Value::Object(map) => map,
            Value::Null => Map::new(),
            _ => {
                return Err(yaml(
                    "it has to be a mapping of sections such as `server:`".to_owned(),
                ));
            }
        };
        let origin = self.origin("");
        for (key, value) in &mut self.merged {
            expand(value, key, &origin, env)?;
        }
        Ok(())
    }

    fn set(&mut self, key: &'static str, value: Value, origin: String) {
        let mut map = &mut self.merged;
        let mut parts = key.split('.').peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                map.insert(part.to_owned(), value);
                break;
            }
            let inner = map.entry(part).or_insert_with(|| Value::Object(Map::new()));
            if inner.is_null() {
                *inner = Value::Object(Map::new());
            }
            // Not a mapping: the file is wrong here, and decoding says so.
            let Value::Object(inner) = inner else { return };
            map = inner;
        }
        self.origins.insert(key, origin);
    }

    fn decode(&mut self) -> Result<Config, ConfigError> {
        // An empty section such as `server:` is as good as none.
        self.merged.retain(|_, value| !value.is_null());
        serde_path_to_error::deserialize(Value::Object(self.merged.clone())).map_err(|err| {
            let path = err.path().to_string();
            let message = err.into_inner().to_string();
            let unknown = message.strip_prefix("unknown field `").and_then(|it| it.split_once('`'));
            let key = match (unknown, path.as_str()) {
                (Some((field, _)), ".") => field.to_owned(),
                (Some((field, _)), path) if !path.ends_with(field) => format!("{path}.{field}"),
                (_, path) => path.to_owned(),
            };
            self.refuse(&key, message)
        })
    }

    pub(super) fn refuse(&self, key: &str, message: impl Into<String>) -> ConfigError {
        ConfigError::Value {
            origin: self.origin(key),
            key: key.to_owned(),
            message: message.into(),
            allowed: table::describe(key).unwrap_or_default(),
        }
    }

    fn origin(&self, key: &str) -> String {
        match (self.origins.get(key), &self.file) {
            (Some(it), _) => it.clone(),
            (None, Some(file)) => format!("`{file}`"),
            (None, None) => "configuration".to_owned(),
        }
    }

    /// Rules between and beyond the types.
    fn check(&self, config: &Config) -> Result<(), ConfigError> {
        let in_range = |key: &str, value: u64, min: u64, max: u64| {
            if (min..=max).contains(&value) {
                return Ok(());
            }
            Err(self.refuse(key, format!("{value} is not from {min} to {max}")))
        };
        let cluster = &config.cluster;
        in_range("cluster.failures_to_fall", cluster.failures_to_fall.into(), 1, 100)?;
        in_range("cluster.successes_to_rise", cluster.successes_to_rise.into(), 1, 100)?;
        in_range("compute.starts_per_node", config.compute.starts_per_node as u64, 1, 64)?;
        in_range("compute.pulls_at_once", config.compute.pulls_at_once as u64, 1, 1024)?;
        in_range("store.audit_kept", config.store.audit_kept, 100, u64::MAX)?;
        in_range("store.events_kept", config.store.events_kept, 100, 1_000_000)?;
        let execution = &config.execution;
        in_range("execution.max_parallel_tasks", execution.max_parallel_tasks.into(), 1, 1000)?;
        in_range("execution.retry_count", execution.retry_count.into(), 0, 100)?;
        let total = execution.max_parallel_total.into();
        in_range("execution.max_parallel_total", total, 1, 100_000)?;
        let per_server = execution.max_parallel_per_server.into();
        in_range("execution.max_parallel_per_server", per_server, 1, 100_000)?;
        in_range("execution.max_open_per_user", execution.max_open_per_user as u64, 1, 10_000)?;
        in_range("execution.batches_kept", execution.batches_kept as u64, 0, 100_000)?;
        for (name, limit) in &execution.limits {
            in_range(&format!("execution.limits.{name}"), (*limit).into(), 1, 100_000)?;
        }
        for name in config.compute.quotas.keys() {
            orch_domain::name::UserName::try_new(name)
                .map_err(|err| self.refuse(&format!("compute.quotas.{name}"), err.to_string()))?;
        }
        if config.server.host.trim().is_empty() {
            return Err(self.refuse("server.host", "it is empty"));
        }
        self.check_security(config)?;
        self.check_profiles(config)?;
        self.check_ray(config)?;
        super::llm::check::check(self, config)
    }

    fn check_profiles(&self, config: &Config) -> Result<(), ConfigError> {
        for (name, profile) in &config.gateway.profiles {
            let key = |field: &str| format!("gateway.profiles.{name}{field}");
            if !orch_gateway::profile::is_name(name) {
                let message = "the name of a profile has 1 to 40 letters, digits, `-` or `_`; it ends the address `/mcp/NAME`";
                return Err(self.refuse(&key(""), message));
            }
            let patterns = &profile.tools;
            let has_dot = |it: &&String| !it.contains(['.', '*']);
            if let Some(it) = patterns.allow.iter().chain(&patterns.deny).find(has_dot) {
                let message = format!(
                    "`{it}` matches no tool; names are `server.tool`, and `*` stands for any text"
                );
                return Err(self.refuse(&key(".tools"), message));
            }
            if profile.permissions.as_ref().is_some_and(Vec::is_empty) {
                let message = "with no permissions nobody can do anything here";
                return Err(self.refuse(&key(".permissions"), message));
            }
            if profile.transparent.is_some() && (profile.own || profile.lazy) {
                let message = "a profile that stands for one server has neither `own` nor `lazy`";
                return Err(self.refuse(&key(".transparent"), message));
            }
        }
        Ok(())
    }

    fn check_ray(&self, config: &Config) -> Result<(), ConfigError> {
        let Some(url) = &config.ray.dashboard_url else { return Ok(()) };
        self.check_url("ray.dashboard_url", url, "ray.token")?;
        self.check_token("ray.token", config.ray.token.as_ref())
    }

    /// `secret` is the key of the configuration that a credential in the URL belongs to.
    pub(super) fn check_url(&self, key: &str, url: &str, secret: &str) -> Result<(), ConfigError> {
        let parsed: http::Uri = url.parse().map_err(|_| self.refuse(key, "it is not a URL"))?;
        // Not repeated, as what is wrong with it may be a password.
        if parsed.authority().is_some_and(|it| it.as_str().contains('@')) {
            let message =
                format!("it has a user or a password in it; a token goes into `{secret}`");
            return Err(self.refuse(key, message));
        }
        if !matches!(parsed.scheme_str(), Some("http" | "https"))
            || parsed.host().is_none_or(str::is_empty)
        {
            return Err(
                self.refuse(key, "it does not begin with `http://` or `https://` and a host")
            );
        }
        if parsed.query().is_some() || url.contains('#') {
            return Err(
                self.refuse(key, "it has a `?` or a `#`; only a host, a port and a path are taken")
            );
        }
        Ok(())
    }

    pub(super) fn check_token(
        &self,
        key: &str,
        token: Option<&Secret<String>>,
    ) -> Result<(), ConfigError> {
        let is_line = |it: &str| !it.is_empty() && it.bytes().all(|b| b.is_ascii_graphic());
        match token {
            Some(token) if !is_line(token.expose()) => {
                Err(self.refuse(key, "it is empty or has characters that no token has"))
            }
            _ => Ok(()),
        }
    }

    fn check_security(&self, config: &Config) -> Result<(), ConfigError> {
        let security = &config.security;
        let too_short = |key: &str, n: usize| {
            self.refuse(key, format!("it is shorter than {n} characters and could be guessed"))
        };
        if security.api_key.as_ref().is_some_and(|it| it.expose().len() < 12) {
            return Err(too_short("security.api_key", 12));
        }
        if security.jwt_secret.as_ref().is_some_and(|it| it.expose().len() < 16) {
            return Err(too_short("security.jwt_secret", 16));
        }
        for (i, key) in security.api_keys.iter().enumerate() {
            if key.key.expose().len() < 12 {
                return Err(too_short(&format!("security.api_keys[{i}].key"), 12));
            }
            if key.permissions.is_empty() {
                let key = format!("security.api_keys[{i}].permissions");
                return Err(self.refuse(&key, "a key without permissions can do nothing"));
            }
        }
        Ok(())
    }
}

/// Replaces `${NAME}` in every text by the variable, so that secrets need not be in the file.
fn expand(value: &mut Value, key: &str, origin: &str, env: &dyn Env) -> Result<(), ConfigError> {
    match value {
        Value::String(text) => {
            let unset = |variable: &str| ConfigError::UnsetVariable {
                origin: origin.to_owned(),
                key: key.to_owned(),
                variable: variable.to_owned(),
            };
            *text = orch_gateway::config::expand(text, &|name| env.get(name))
                .map_err(|it| unset(&it))?;
        }
        Value::Array(items) => {
            for (i, item) in items.iter_mut().enumerate() {
                expand(item, &format!("{key}[{i}]"), origin, env)?;
            }
        }
        Value::Object(map) => {
            for (name, value) in map {
                expand(value, &format!("{key}.{name}"), origin, env)?;
            }
        }
        _ => {}
    }
    Ok(())
}
