//! `mcp-config.json`: the upstream servers as Claude, Cursor and Cline write them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use orch_domain::rate::Rate;
use orch_domain::redact::SecretValues;
use orch_domain::secret::Secret;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::oauth::entry::OAuth;
use crate::safety::limits::{self, Guard, LimitsEntry};
use crate::safety::pin::PinMode;
use crate::safety::redact::Patterns;
use crate::session::Lifecycle;
use crate::shape::Shape;

/// The servers of the file, by their configured names, which prefix their tools.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct McpConfig {
    pub servers: BTreeMap<String, Upstream>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Upstream {
    pub reach: Reach,
    /// Listed, but not connected to.
    pub disabled: bool,
    /// The longest that one call may take.
    pub timeout: Duration,
    /// How its tools are offered.
    pub tools: Shape,
    /// How often it may be called.
    pub rate: Option<Rate>,
    /// Who shares a connection with whom.
    pub lifecycle: Lifecycle,
    /// What it may use, change and say.
    pub guard: Guard,
}

impl Upstream {
    /// A child process that nothing else is said about. The error is a broken rule.
    pub fn of_command(name: &str, words: &[String]) -> Result<Upstream, McpConfigError> {
        check_name(name)?;
        let (command, args) = words
            .split_first()
            .ok_or_else(|| refuse(&format!("mcpServers.{name}.command"), "it is empty"))?;
        // As that of an entry of the same words.
        let fingerprint = limits::fingerprint(&json!({"command": command, "args": args}));
        let reach = Reach::Stdio {
            command: command.clone(),
            args: args.to_vec(),
            env: BTreeMap::new(),
            cwd: None,
        };
        Ok(Upstream {
            reach,
            disabled: false,
            timeout: CALL_TIMEOUT,
            tools: Shape::default(),
            lifecycle: Lifecycle::default(),
            rate: None,
            guard: Guard { fingerprint, ..Guard::default() },
        })
    }
}

/// Where the configuration names no time.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(300);

/// How a server is reached.
#[derive(Clone, Debug, PartialEq)]
pub enum Reach {
    /// A child process that speaks MCP on its stdin and stdout.
    Stdio {
        command: String,
        args: Vec<String>,
        env: BTreeMap<String, Secret<String>>,
        cwd: Option<PathBuf>,
    },
    /// Over HTTP, in one of its two forms.
    Http {
        url: String,
        headers: BTreeMap<String, Secret<String>>,
        wire: Wire,
        oauth: Option<OAuth>,
    },
    /// An API, whose operations are tools.
    OpenApi {
        /// File or address.
        document: String,
        /// Where the API is, when the document does not say.
        base_url: Option<String>,
        headers: BTreeMap<String, Secret<String>>,
    },
}

/// How a server over HTTP speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// Found out when it is connected to.
    Either,
    Streamable,
    /// HTTP with SSE, as it was before streamable HTTP.
    Sse,
}

/// What is wrong, and where in the file.
#[derive(Debug, thiserror::Error)]
pub enum McpConfigError {
    #[error("it is not valid JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("`{key}`: {message}")]
    Value { key: String, message: String },
}

/// One entry as written. Fields that only a client uses are known, so that its file can be taken over as it is.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Entry {
    #[serde(rename = "type")]
    kind: Option<Kind>,
    command: Option<String>,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: BTreeMap<String, Secret<String>>,
    cwd: Option<PathBuf>,
    url: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, Secret<String>>,
    openapi: Option<String>,
    #[serde(alias = "base_url")]
    base_url: Option<String>,
    #[serde(alias = "auth")]
    oauth: Option<OAuth>,
    #[serde(default)]
    disabled: bool,
    #[serde(default = "yes")]
    enabled: bool,
    /// Seconds.
    timeout: Option<f64>,
    #[serde(default)]
    tools: Shape,
    lifecycle: Option<String>,
    pin: Option<PinMode>,
    /// Regular expressions.
    #[serde(default)]
    redact: Vec<String>,
    #[serde(default)]
    limits: LimitsEntry,
    /// Seconds.
    #[serde(rename = "cache_ttl", alias = "cacheTtl")]
    cache_ttl: Option<f64>,
    #[serde(rename = "autoApprove")]
    _auto_approve: Option<Value>,
    #[serde(rename = "alwaysAllow")]
    _always_allow: Option<Value>,
}

fn yes() -> bool {
    true
}

#[derive(Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
enum Kind {
    Stdio,
    #[serde(rename = "openapi")]
    OpenApi,
    #[serde(alias = "streamable-http", alias = "streamableHttp")]
    Http,
    Sse,
}

impl McpConfig {
    /// Reads the text of a file; `${NAME}` in any value is replaced by what `lookup` says.
    pub fn parse(
        text: &str,
        lookup: &dyn Fn(&str) -> Option<String>,
    ) -> Result<McpConfig, McpConfigError> {
        let mut root: Map<String, Value> = serde_json::from_str(text)?;
        let servers = root.remove("mcpServers").ok_or_else(|| {
            refuse("mcpServers", "it is missing; the file is `{\"mcpServers\": {NAME: {…}}}`")
        })?;
        if let Some(key) = root.keys().next() {
            return Err(refuse(key, "unknown; only `mcpServers` is allowed here"));
        }
        let Value::Object(servers) = servers else {
            return Err(refuse("mcpServers", "it has to be an object of servers by their names"));
        };
        let servers: Result<_, McpConfigError> = servers
            .into_iter()
            .map(|(name, value)| {
                check_name(&name)?;
                let key = format!("mcpServers.{name}");
                let upstream = upstream(&key, value, lookup)?;
                Ok((name, upstream))
            })
            .collect();
        Ok(McpConfig { servers: servers? })
    }
}

fn refuse(key: &str, message: impl Into<String>) -> McpConfigError {
    McpConfigError::Value { key: key.to_owned(), message: message.into() }
}

fn check_name(name: &str) -> Result<(), McpConfigError> {
    let is_good = (1..=40).contains(&name.len())
        && name.bytes().all(|it| it.is_ascii_alphanumeric() || matches!(it, b'-' | b'_'));
    if name == crate::profile::OWN {
        let message = "our own operations are this server; call yours otherwise";
        return Err(refuse(&format!("mcpServers.{name}"), message));
    }
    if is_good {
        return Ok(());
    }
    let shown = orch_domain::text::excerpt(name, 60);
    Err(refuse(
        &format!("mcpServers.{shown}"),
        "a server's name has 1 to 40 letters, digits, `-` or `_`; it prefixes the names of its tools",
    ))
}

fn upstream(
    key: &str,
    mut value: Value,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<Upstream, McpConfigError> {
    expand_all(key, &mut value, lookup)?;
    let fingerprint = limits::fingerprint(&value);
    // Never the value: a misplaced secret must not end in a message.
    let entry: Entry = serde_json::from_value(value).map_err(|err| refuse(key, err.to_string()))?;
    let disabled = entry.disabled || !entry.enabled;
    let under = |(inner, message): (String, String)| refuse(&format!("{key}.{inner}"), message);
    let (limits, rate) = entry.limits.check().map_err(under)?;
    let guard = Guard {
        cache_ttl: limits::cache_ttl(entry.cache_ttl).map_err(under)?,
        pin: entry.pin,
        redact: Patterns::parse(&entry.redact)
            .map_err(|(i, message)| under((format!("redact[{i}]"), message)))?,
        limits,
        fingerprint,
    };
    let timeout = match entry.timeout {
        None => CALL_TIMEOUT,
        Some(it) if (0.001..=86_400.0).contains(&it) => Duration::from_secs_f64(it),
        Some(_) => {
            let message = "it is the seconds that a call may take, 0.001 to 86400";
            return Err(refuse(&format!("{key}.timeout"), message));
        }
    };
    let tools = entry.tools;
    let lifecycle = match entry.lifecycle.as_deref() {
        None => Lifecycle::default(),
        Some(it) => Lifecycle::parse(it).ok_or_else(|| {
            let message = "it is one of `auto`, `shared`, `session`, `user`, `call` and `pool(N)` with N from 1 to 100";
            refuse(&format!("{key}.lifecycle"), message)
        })?,
    };
    if let Some(document) = entry.openapi {
        let has_other = entry.command.is_some() || entry.url.is_some();
        if has_other || entry.kind.is_some_and(|it| it != Kind::OpenApi) {
            return Err(refuse(key, NEEDS));
        }
        let reach = open_api(key, document, entry.base_url, entry.headers)?;
        // An API knows nothing of sessions.
        let lifecycle = if lifecycle == Lifecycle::Auto { Lifecycle::Shared } else { lifecycle };
        return Ok(Upstream { reach, disabled, timeout, tools, lifecycle, rate, guard });
    }
    if entry.base_url.is_some() {
        return Err(refuse(&format!("{key}.base_url"), "only a server with `openapi` has it"));
    }
    let reach = match (entry.command, entry.url) {
        (Some(command), None) if matches!(entry.kind, None | Some(Kind::Stdio)) => {
            if command.trim().is_empty() {
                return Err(refuse(&format!("{key}.command"), "it is empty"));
            }
            if !entry.headers.is_empty() {
                return Err(refuse(
                    &format!("{key}.headers"),
                    "only a server with a `url` has them",
                ));
            }
            if entry.oauth.is_some() {
                let message = "only a server with a `url` has it";
                return Err(refuse(&format!("{key}.oauth"), message));
            }
            Reach::Stdio { command, args: entry.args, env: entry.env, cwd: entry.cwd }
        }
        (None, Some(url)) if matches!(entry.kind, None | Some(Kind::Http | Kind::Sse)) => {
            if !(url.starts_with("http://") || url.starts_with("https://")) {
                return Err(refuse(
                    &format!("{key}.url"),
                    "it has to start with `http://` or `https://`",
                ));
            }
            if let Some(oauth) = &entry.oauth {
                oauth
                    .check()
                    .map_err(|(member, it)| refuse(&format!("{key}.oauth.{member}"), it))?;
                if entry.headers.keys().any(|it| it.eq_ignore_ascii_case("authorization")) {
                    let message = "it has a header `Authorization` already; leave out one of them";
                    return Err(refuse(&format!("{key}.oauth"), message));
                }
            }
            let wire = match entry.kind {
                Some(Kind::Sse) => Wire::Sse,
                Some(_) => Wire::Streamable,
                None => Wire::Either,
            };
            Reach::Http { url, headers: entry.headers, wire, oauth: entry.oauth }
        }
        _ => return Err(refuse(key, NEEDS)),
    };
    Ok(Upstream { reach, disabled, timeout, tools, lifecycle, rate, guard })
}

impl McpConfig {
    /// Values of the environment and of headers, and what a URL has that may be a key.
    pub fn secrets(&self) -> SecretValues {
        let mut values: Vec<Secret<String>> = Vec::new();
        for it in self.servers.values() {
            match &it.reach {
                Reach::Stdio { env, .. } => values.extend(env.values().cloned()),
                Reach::OpenApi { document: url, headers, .. }
                | Reach::Http { url, headers, .. } => {
                    values.extend(headers.values().cloned());
                    let query = url.split_once('?').map_or("", |(_, it)| it);
                    let parts = query.split('&').filter_map(|it| it.split_once('='));
                    values.extend(parts.map(|(_, value)| Secret::new(value.to_owned())));
                }
            }
        }
        SecretValues::new(&values)
    }
}

const NEEDS: &str = "it needs either a `command` (with `args`, `env`, `cwd`), a `url` (with `headers`), or `openapi` (with `base_url`, `headers`), as its `type` says";

fn open_api(
    key: &str,
    document: String,
    base_url: Option<String>,
    headers: BTreeMap<String, Secret<String>>,
) -> Result<Reach, McpConfigError> {
    if document.trim().is_empty() {
        return Err(refuse(&format!("{key}.openapi"), "it is empty"));
    }
    let is_url = |it: &String| it.starts_with("http://") || it.starts_with("https://");
    if !base_url.as_ref().is_none_or(is_url) {
        let message = "it has to start with `http://` or `https://`";
        return Err(refuse(&format!("{key}.base_url"), message));
    }
    Ok(Reach::OpenApi { document, base_url, headers })
}

fn expand_all(
    key: &str,
    value: &mut Value,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<(), McpConfigError> {
    match value {
        Value::String(text) => {
            *text = expand(text, lookup).map_err(|name| {
                refuse(key, format!("the environment variable `{name}` is not set"))
            })?;
        }
        Value::Array(items) => {
            for (i, item) in items.iter_mut().enumerate() {
                expand_all(&format!("{key}[{i}]"), item, lookup)?;
            }
        }
        Value::Object(map) => {
            for (name, item) in map {
                expand_all(&format!("{key}.{name}"), item, lookup)?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// Replaces `${NAME}`, and `${NAME:-default}` as shells do; the error is the name of a variable that is not set.
pub fn expand(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let Some(len) = rest[start..].find('}') else { break };
        out.push_str(&rest[..start]);
        let inner = &rest[start + 2..start + len];
        let (name, default) = match inner.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inner, None),
        };
        match (lookup(name), default) {
            (Some(it), _) => out.push_str(&it),
            (None, Some(it)) => out.push_str(it),
            (None, None) => return Err(name.to_owned()),
        }
        rest = &rest[start + len + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests;
