//! Finds out which era a server speaks, and what it offers.

use std::time::Duration;

use orch_domain::text;
use serde_json::json;

use super::{Era, Link, LinkError, Terms};
use crate::frame::{Frame, Raw, raw};
use crate::members::Members;

pub const STATELESS: &str = "2026-07-28";
pub const LATEST_SESSION: &str = "2025-11-25";
pub const SESSION: [&str; 4] = [LATEST_SESSION, "2025-06-18", "2025-03-26", "2024-11-05"];

pub const VERSION_KEY: &str = "io.modelcontextprotocol/protocolVersion";
pub const CAPABILITIES_KEY: &str = "io.modelcontextprotocol/clientCapabilities";
pub const INFO_KEY: &str = "io.modelcontextprotocol/clientInfo";

const UNSUPPORTED_VERSION: i64 = -32022;

/// A server of the session era may not answer a question it does not know.
const PROBE: Duration = Duration::from_secs(5);

/// What a server said about itself.
#[derive(Clone, Debug)]
pub struct Welcome {
    pub terms: Terms,
    pub capabilities: Members,
    pub info: Members,
    pub instructions: Option<String>,
    /// The whole answer, as it came.
    pub answer: Raw,
}

/// On whose behalf the connection is made.
#[derive(Clone, Debug)]
pub struct Client {
    /// What the client can do, as it said it: what it cannot must not be asked of it.
    pub capabilities: Raw,
    pub info: Raw,
    /// The parameters of its own `initialize`, which then go on as they came.
    pub hello: Option<Raw>,
}

/// Asks with `server/discover`, and shakes hands where that is not known.
pub async fn shake_hands(
    link: &dyn Link,
    client: &Client,
    limit: Duration,
) -> Result<Welcome, LinkError> {
    let mut discovered = discover(link, client, PROBE.min(limit)).await;
    // It may speak our version all the same: the refusal names those that it does.
    if matches!(discovered, Err(LinkError::Refused { code: UNSUPPORTED_VERSION, .. })) {
        discovered = discover(link, client, PROBE.min(limit)).await;
    }
    match discovered {
        Ok(welcome) => Ok(welcome),
        // These do not change by asking otherwise.
        Err(
            err @ (LinkError::Closed { .. }
            | LinkError::Unreachable { .. }
            | LinkError::Unauthorized { .. }
            | LinkError::LoginNeeded { .. }
            | LinkError::Forbidden { .. }
            | LinkError::Spawn { .. }),
        ) => Err(err),
        Err(_) => initialize(link, client, limit).await,
    }
}

/// `_meta` of every request in the era without handshakes.
pub fn meta(client: &Client, version: &str) -> Members {
    let mut meta = Members::default();
    meta.set(VERSION_KEY, version);
    meta.set(CAPABILITIES_KEY, &client.capabilities);
    meta.set(INFO_KEY, &client.info);
    meta
}

async fn discover(link: &dyn Link, client: &Client, limit: Duration) -> Result<Welcome, LinkError> {
    let mut params = Members::default();
    params.set("_meta", &meta(client, STATELESS));
    let answer = ask(link, "server/discover", params.to_raw(), limit).await?;
    let members = object("server/discover", &answer)?;
    let versions: Vec<String> = members
        .get("supportedVersions")
        .and_then(|it| serde_json::from_str(it.get()).ok())
        .unwrap_or_default();
    if !versions.iter().any(|it| it == STATELESS) {
        return Err(LinkError::Malformed {
            method: "server/discover".to_owned(),
            message: format!("it does not speak {STATELESS}"),
        });
    }
    let terms = Terms { version: STATELESS.to_owned(), era: Era::Stateless };
    link.settle(terms.clone());
    Ok(welcome(terms, members, answer))
}

/// The handshake of the session era, for servers that can speak no other.
pub async fn initialize(
    link: &dyn Link,
    client: &Client,
    limit: Duration,
) -> Result<Welcome, LinkError> {
    let welcome = begin_session(link, client, limit).await?;
    link.tell(Frame::notification("notifications/initialized", None)).await?;
    Ok(welcome)
}

/// The first half of the handshake of the session era: `notifications/initialized` is still to be said.
pub async fn begin_session(
    link: &dyn Link,
    client: &Client,
    limit: Duration,
) -> Result<Welcome, LinkError> {
    let hello = || {
        raw(&json!({
            "protocolVersion": LATEST_SESSION,
            "capabilities": client.capabilities,
            "clientInfo": named(&client.info),
        }))
    };
    let params = client.hello.clone().unwrap_or_else(hello);
    let answer = ask(link, "initialize", params, limit).await?;
    let members = object("initialize", &answer)?;
    let version = members.text("protocolVersion").unwrap_or_default();
    if !SESSION.contains(&version.as_str()) {
        return Err(LinkError::Malformed {
            method: "initialize".to_owned(),
            message: format!(
                "it speaks the protocol version `{}`, and this gateway {STATELESS}, {}",
                text::excerpt(&version, 40),
                SESSION.join(", ")
            ),
        });
    }
    let terms = Terms { version, era: Era::Session };
    link.settle(terms.clone());
    Ok(welcome(terms, members, answer))
}

/// The session era wants a name and a version; a client of the other era, or none at all, may have given neither.
fn named(info: &Raw) -> Raw {
    let Some(mut members) = Members::of(info) else { return own_info() };
    if members.text("name").is_none() {
        return own_info();
    }
    if members.text("version").is_none() {
        members.set("version", "");
        return members.to_raw();
    }
    info.clone()
}

/// How this gateway introduces itself.
pub fn own_info() -> Raw {
    raw(&json!({"name": "mcp-orch", "version": env!("CARGO_PKG_VERSION")}))
}

/// What was said at an earlier handshake. None: it makes no sense any more.
pub(crate) fn remembered(version: &str, answer: Raw) -> Option<Welcome> {
    let era = match version {
        STATELESS => Era::Stateless,
        it if SESSION.contains(&it) => Era::Session,
        _ => return None,
    };
    let members = Members::of(&answer)?;
    Some(welcome(Terms { version: version.to_owned(), era }, members, answer))
}

fn welcome(terms: Terms, members: Members, answer: Raw) -> Welcome {
    Welcome {
        terms,
        capabilities: members.object("capabilities").unwrap_or_default(),
        info: members.object("serverInfo").unwrap_or_default(),
        instructions: members.text("instructions"),
        answer,
    }
}

/// One request and its result, within `limit`.
pub async fn ask(
    link: &dyn Link,
    method: &str,
    params: Raw,
    limit: Duration,
) -> Result<Raw, LinkError> {
    let asked = async {
        let mut exchange = link.send(method, Some(params)).await?;
        exchange.answer().await
    };
    let frame = tokio::time::timeout(limit, asked)
        .await
        .map_err(|_| LinkError::Timeout { method: method.to_owned(), after: limit })??;
    if let Some(error) = &frame.error {
        let error = Members::of(error).unwrap_or_default();
        return Err(LinkError::Refused {
            method: method.to_owned(),
            code: error.get("code").and_then(|it| it.get().parse().ok()).unwrap_or(0),
            message: text::excerpt(&error.text("message").unwrap_or_default(), 300),
        });
    }
    frame.result.ok_or_else(|| LinkError::Malformed {
        method: method.to_owned(),
        message: "the answer has no result".to_owned(),
    })
}

fn object(method: &str, answer: &Raw) -> Result<Members, LinkError> {
    Members::of(answer).ok_or_else(|| LinkError::Malformed {
        method: method.to_owned(),
        message: "the result is no object".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_gave_no_name_goes_by_ours() {
        let named = |info: serde_json::Value| named(&raw(&info)).get().to_owned();
        for nameless in [json!({}), json!(null), json!({"version": "1"}), json!({"name": 5})] {
            assert_eq!(named(nameless.clone()), own_info().get(), "{nameless}");
        }
        assert_eq!(named(json!({"name": "a"})), r#"{"name":"a","version":""}"#);
        let whole = json!({"name": "a", "version": "1", "x": 1.0});
        assert_eq!(named(whole.clone()), whole.to_string());
    }
}
