//! `mcp-config.json`: the upstream servers as Claude, Cursor and Cline write them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use orch_domain::secret::Secret;
use serde::Deserialize;
use serde_json::{Map, Value};

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
    /// Who shares a connection with whom.
    pub lifecycle: Lifecycle,
    /// What it may use, change and say.
    pub guard: Guard,
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
    /// Streamable HTTP.
    Http { url: String, headers: BTreeMap<String, Secret<String>> },
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
    #[serde(alias = "streamable-http", alias = "streamableHttp")]
    Http,
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
    let guard = Guard {
        cache_ttl: limits::cache_ttl(entry.cache_ttl).map_err(under)?,
        pin: entry.pin,
        redact: Patterns::parse(&entry.redact)
            .map_err(|(i, message)| under((format!("redact[{i}]"), message)))?,
        limits: entry.limits.check().map_err(under)?,
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
    let reach = match (entry.command, entry.url) {
        (Some(command), None) if entry.kind != Some(Kind::Http) => {
            if command.trim().is_empty() {
                return Err(refuse(&format!("{key}.command"), "it is empty"));
            }
            if !entry.headers.is_empty() {
                return Err(refuse(
                    &format!("{key}.headers"),
                    "only a server with a `url` has them",
                ));
            }
            Reach::Stdio { command, args: entry.args, env: entry.env, cwd: entry.cwd }
        }
        (None, Some(url)) if entry.kind != Some(Kind::Stdio) => {
            if !(url.starts_with("http://") || url.starts_with("https://")) {
                return Err(refuse(
                    &format!("{key}.url"),
                    "it has to start with `http://` or `https://`",
                ));
            }
            Reach::Http { url, headers: entry.headers }
        }
        _ => {
            return Err(refuse(
                key,
                "it needs either a `command` (with `args`, `env`, `cwd`) or a `url` (with `headers`), as its `type` says",
            ));
        }
    };
    Ok(Upstream { reach, disabled, timeout, tools, lifecycle, guard })
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
mod tests {
    use super::*;

    fn lookup(name: &str) -> Option<String> {
        (name == "TOKEN").then(|| "s3cret".to_owned())
    }

    fn error_of(text: &str) -> String {
        McpConfig::parse(text, &lookup).unwrap_err().to_string()
    }

    #[test]
    fn both_kinds_are_read_as_clients_write_them() {
        let text = r#"{"mcpServers": {
            "github-server": {"command": "npx", "args": ["-y", "pkg"], "env": {"GITHUB_TOKEN": "${TOKEN}"}, "autoApprove": []},
            "remote": {"type": "http", "url": "https://example.org/mcp", "headers": {"Authorization": "Bearer ${TOKEN}"}, "disabled": true}
        }}"#;
        let config = McpConfig::parse(text, &lookup).unwrap();
        let Reach::Stdio { command, args, env, .. } = &config.servers["github-server"].reach else {
            panic!("a command is a child process")
        };
        assert_eq!((command.as_str(), args.len()), ("npx", 2));
        assert_eq!(env["GITHUB_TOKEN"].expose(), "s3cret");
        let remote = &config.servers["remote"];
        assert!(remote.disabled);
        assert!(!format!("{config:?}").contains("s3cret"));
    }

    #[test]
    fn mistakes_name_the_key_and_what_is_allowed() {
        assert!(error_of("{}").contains("`mcpServers`: it is missing"));
        assert!(error_of("{").contains("not valid JSON"));
        assert!(
            error_of(r#"{"mcpServers": {"a.b": {}}}"#)
                .contains("`mcpServers.a.b`: a server's name")
        );
        assert!(error_of(r#"{"mcpServers": {"a": {}}}"#).contains("either a `command`"));
        assert!(
            error_of(r#"{"mcpServers": {"a": {"command": "x", "url": "http://y"}}}"#)
                .contains("either a `command`")
        );
        assert!(
            error_of(r#"{"mcpServers": {"a": {"url": "ftp://y"}}}"#).contains("`mcpServers.a.url`")
        );
        assert!(
            error_of(r#"{"mcpServers": {"a": {"command": "x", "comand": "y"}}}"#)
                .contains("unknown field `comand`")
        );
        assert!(
            error_of(r#"{"mcpServers": {"a": {"command": "${NOPE}"}}}"#)
                .contains("`mcpServers.a.command`: the environment variable `NOPE` is not set")
        );
    }

    #[test]
    fn what_guards_a_server_is_checked_by_its_key() {
        let error = |guard: &str| {
            error_of(&format!(r#"{{"mcpServers": {{"a": {{"command": "x", {guard}}}}}}}"#))
        };
        for (guard, said) in [
            (r#""redact": ["a", "("]"#, "`mcpServers.a.redact[1]`: it is no regular expression"),
            (r#""pin": "sometimes""#, "`off`, `warn`, `enforce`"),
            (r#""cache_ttl": 0"#, "`mcpServers.a.cache_ttl`: it is the seconds"),
            (r#""limits": {"memory": "much"}"#, "`mcpServers.a.limits.memory`: it is a number"),
            (r#""limits": {"memory": true}"#, "`mcpServers.a.limits.memory`: it is a number"),
            (r#""limits": {"memory": 5}"#, "`mcpServers.a.limits.memory`: no program"),
            (r#""limits": {"concurrency": 0}"#, "`mcpServers.a.limits.concurrency`: it is a whole"),
            (r#""limits": {"max_children": 0}"#, "`mcpServers.a.limits.max_children`"),
            (r#""limits": {"result_bytes": 5}"#, "`mcpServers.a.limits.result_bytes`: it is 0"),
            (r#""limits": {"memoy": 5}"#, "unknown field `memoy`"),
        ] {
            assert!(error(guard).contains(said), "{guard}: {}", error(guard));
        }
        let text = r#"{"mcpServers": {"a": {"command": "x", "enabled": false, "pin": "enforce", "redact": ["k.y"],
            "cache_ttl": 5, "limits": {"memory": "512MB", "max_children": 2, "concurrency": 3, "result_bytes": "10KB"}}}}"#;
        let it = &McpConfig::parse(text, &lookup).unwrap().servers["a"];
        assert!(it.disabled);
        assert_eq!(it.guard.pin, Some(PinMode::Enforce));
        assert_eq!(it.guard.cache_ttl, Some(Duration::from_secs(5)));
        assert_eq!(it.guard.limits.memory, Some(512_000_000));
        assert_eq!(it.guard.limits.result_bytes, Some(10_000));
        assert!(!it.guard.redact.is_empty());
    }

    #[test]
    fn expansion_knows_defaults_and_leaves_other_dollars() {
        let it = expand("a ${TOKEN} ${NOPE:-b} $HOME ${open", &lookup).unwrap();
        assert_eq!(it, "a s3cret b $HOME ${open");
        assert_eq!(expand("${NOPE}", &lookup).unwrap_err(), "NOPE");
    }
}
