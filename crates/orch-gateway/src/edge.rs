//! What of a client's messages is for the servers behind, and how they go there and back: as they are, but for the
//! names, ids and tokens that differ on the two sides, and the members that the client's era asks for.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::catalog::List;
use crate::frame::{Frame, Raw, raw};
use crate::hub::Hub;
use crate::members::Members;
use crate::server::Server;
use crate::upstream::handshake::VERSION_KEY;
use crate::upstream::{Era, Exchange, LinkError};
use crate::view::View;

/// Members of `_meta` that belong to one side of the gateway.
const OF_ONE_SIDE: &str = "io.modelcontextprotocol/";
const CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
const LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";

/// What is to be done with a message of a client.
pub enum Claim {
    /// Nothing of it concerns the servers behind.
    Own,
    /// Our own answer is to be extended by what they have.
    List(List),
    /// It is for one of them.
    Forward(Forward),
}

/// A request on its way to the one server it belongs to.
pub struct Forward {
    pub server: Arc<Server>,
    /// As policies and audit name it: `server.tool`, or the method and the server.
    pub target: String,
    pub is_tool_call: bool,
    method: String,
    params: Members,
    era: Era,
    limit: Duration,
}

/// The era a request is written in: the later one says its version each time.
pub fn era_of(params: Option<&Raw>) -> Era {
    let is_stateless = params.is_some_and(|it| it.get().contains(VERSION_KEY))
        && Members::of_params(params)
            .object("_meta")
            .is_some_and(|it| it.get(VERSION_KEY).is_some());
    if is_stateless { Era::Stateless } else { Era::Session }
}

impl Hub {
    /// Looks at a message of a client.
    pub fn claim(&self, frame: &Frame, view: &View) -> Claim {
        let Some(method) = frame.method.as_deref().filter(|_| frame.id.is_some()) else {
            return Claim::Own;
        };
        if let Some(list) = List::ALL.into_iter().find(|it| it.method() == method) {
            return if self.is_empty() { Claim::Own } else { Claim::List(list) };
        }
        if self.is_empty() {
            return Claim::Own;
        }
        let forward = match method {
            "tools/call" => self.by_name(frame, List::Tools, view),
            "prompts/get" => self.by_name(frame, List::Prompts, view),
            "resources/read" => self.by_uri(frame, view),
            "completion/complete" => self.by_reference(frame, view),
            _ => None,
        };
        forward.map_or(Claim::Own, Claim::Forward)
    }

    fn by_name(&self, frame: &Frame, list: List, view: &View) -> Option<Forward> {
        let mut params = Members::of_params(frame.params.as_ref());
        let name = params.text("name")?;
        // Own names have neither; looking further would cost every own call.
        if !name.contains('.') && !name.contains('_') {
            return None;
        }
        let (server, item) = self.find(list, &name, view)?;
        params.set("name", &*item.origin);
        if list == List::Tools
            && let Some(filled) =
                server.spec.tools.with_defaults(&item.origin, params.get("arguments"))
        {
            params.set("arguments", &filled);
        }
        let target = crate::names::canonical(&server.name, &item.name);
        Some(Forward {
            is_tool_call: list == List::Tools,
            ..self.forward(frame, server, target, params)
        })
    }

    fn by_uri(&self, frame: &Frame, view: &View) -> Option<Forward> {
        let params = Members::of_params(frame.params.as_ref());
        let server = self.owner_of(&params.text("uri")?, view)?;
        let target = format!("resources of {}", server.name);
        Some(self.forward(frame, server, target, params))
    }

    fn by_reference(&self, frame: &Frame, view: &View) -> Option<Forward> {
        let mut params = Members::of_params(frame.params.as_ref());
        let mut reference = params.object("ref")?;
        let server = if let Some(name) = reference.text("name") {
            let (server, item) = self.find(List::Prompts, &name, view)?;
            reference.set("name", &*item.origin);
            server
        } else {
            self.owner_of(&reference.text("uri")?, view)?
        };
        params.set("ref", &reference);
        let target = format!("completions of {}", server.name);
        Some(self.forward(frame, server, target, params))
    }

    fn forward(
        &self,
        frame: &Frame,
        server: Arc<Server>,
        target: String,
        params: Members,
    ) -> Forward {
        Forward {
            limit: server.spec.timeout,
            server,
            target,
            is_tool_call: false,
            method: frame.method.clone().unwrap_or_default(),
            era: era_of(frame.params.as_ref()),
            params,
        }
    }

    /// The server that listed a resource, or a template that it may be made of.
    fn owner_of(&self, uri: &str, view: &View) -> Option<Arc<Server>> {
        let mut servers = self.servers();
        servers.retain(|it| view.shows_server(&it.name));
        let listed = servers.iter().find(|it| it.catalog().find(List::Resources, uri).is_some());
        let templated = || {
            servers.iter().find(|it| {
                it.catalog().of(List::Templates).iter().any(|it| may_be_of(&it.name, uri))
            })
        };
        listed.or_else(templated).cloned()
    }

    /// Adds what the servers behind have to our own answer of a list. Only its last page is longer for it.
    pub fn extend(&self, list: List, view: &View, answer: &mut Frame) {
        let Some(mut result) = answer.result.as_ref().and_then(Members::of) else { return };
        if result.get("nextCursor").is_some_and(|it| it.get() != "null") {
            return;
        }
        let Some(mut items) = result.array(list.member()) else { return };
        items.extend(self.list(list, view));
        result.set(list.member(), &items);
        answer.result = Some(result.to_raw());
    }
}

/// Whether the text of `uri` fits the template: its fixed parts occur in their order, from the start to the end.
fn may_be_of(template: &str, uri: &str) -> bool {
    let mut rest = uri;
    let mut parts = template.split('{');
    let Some(found) = parts.next().and_then(|it| rest.strip_prefix(it)) else { return false };
    rest = found;
    let mut ends_open = false;
    for part in parts {
        let Some((_, fixed)) = part.split_once('}') else { return false };
        ends_open = fixed.is_empty();
        match rest.find(fixed) {
            // An expression stands for something, so what follows it is not at its very start.
            Some(at) if !fixed.is_empty() => rest = &rest[at + fixed.len()..],
            Some(_) => {}
            None => return false,
        }
    }
    ends_open || rest.is_empty()
}

impl Forward {
    /// Whether the client wants progress, and with that a stream.
    pub fn wants_progress(&self) -> bool {
        self.params.object("_meta").is_some_and(|it| it.get("progressToken").is_some())
    }

    /// Sends it. `id` is the client's, which its answer will carry.
    pub async fn send(mut self, id: Raw) -> Result<Answering, LinkError> {
        let deadline = Instant::now() + self.limit;
        self.cross();
        let sent =
            tokio::time::timeout_at(deadline, self.server.send(&self.method, self.params.clone()));
        let exchange = sent.await.unwrap_or_else(|_| Err(self.timed_out()))?;
        Ok(Answering { exchange, id, deadline, forward: self })
    }

    /// What a client says about itself is for us, unless both sides speak the era in which each request says it.
    fn cross(&mut self) {
        let upstream = self.server.live().map(|it| it.welcome.terms.era);
        let Some(mut meta) = self.params.object("_meta") else { return };
        let passes = |key: &str| {
            self.era == Era::Stateless
                && upstream == Some(Era::Stateless)
                && (key == CAPABILITIES || key == LOG_LEVEL)
        };
        let keys: Vec<String> = meta
            .iter()
            .map(|(key, _)| key)
            .filter(|it| it.starts_with(OF_ONE_SIDE) && !passes(it))
            .map(str::to_owned)
            .collect();
        keys.iter().for_each(|it| meta.remove(it));
        if meta.is_empty() {
            self.params.remove("_meta");
        } else {
            self.params.set("_meta", &meta);
        }
    }

    fn timed_out(&self) -> LinkError {
        LinkError::Timeout { method: self.method.clone(), after: self.limit }
    }
}

/// A request that a server is answering. Dropped, it is cancelled there.
pub struct Answering {
    exchange: Exchange,
    id: Raw,
    deadline: Instant,
    pub forward: Forward,
}

impl Answering {
    /// Progress, and at last the answer, as the client is to have them. An error is the end too.
    pub async fn next(&mut self) -> Result<Frame, LinkError> {
        loop {
            let mut frame = tokio::time::timeout_at(self.deadline, self.exchange.next())
                .await
                .unwrap_or_else(|_| Err(self.forward.timed_out()))?;
            if frame.method.is_none() {
                frame.id = Some(self.id.clone());
                self.suit(&mut frame);
                return Ok(frame);
            }
            if frame.id.is_none() {
                return Ok(frame);
            }
            // A question to the client; none was announced as able to answer any.
            let id = frame.id.clone().unwrap_or_else(|| raw(&()));
            let refusal = Frame::error(
                id,
                -32601,
                "the client behind the gateway declared no such capability",
            );
            if let Some(live) = self.forward.server.live() {
                live.link.tell(refusal).await?;
            }
        }
    }

    /// Adds what the client's era asks of every result, where the server's does not.
    fn suit(&self, frame: &mut Frame) {
        if self.forward.era != Era::Stateless {
            return;
        }
        let Some(mut result) = frame.result.as_ref().and_then(Members::of) else { return };
        let mut is_changed = false;
        if result.get("resultType").is_none() {
            result.set("resultType", "complete");
            is_changed = true;
        }
        if self.forward.method == "resources/read" && result.get("ttlMs").is_none() {
            result.set("ttlMs", &0);
            result.set("cacheScope", "private");
            is_changed = true;
        }
        if is_changed {
            frame.result = Some(result.to_raw());
        }
    }
}

/// A failure of the connection as the client is to see it: of a tool call, a result that the model reads; of anything
/// else, a protocol error.
pub fn failed(
    forward_is_tool_call: bool,
    era: Era,
    id: Raw,
    described: &serde_json::Value,
) -> Frame {
    let message = described["message"].as_str().unwrap_or_default();
    if !forward_is_tool_call {
        let mut frame = Frame::error(id, -32603, message);
        let error = json!({"code": -32603, "message": message, "data": described});
        frame.error = Some(raw(&error));
        return frame;
    }
    let code = described["error"].as_str().unwrap_or_default();
    let mut result = json!({
        "content": [{"type": "text", "text": format!("{code}: {message}")}],
        "structuredContent": described,
        "isError": true,
    });
    if era == Era::Stateless {
        result["resultType"] = "complete".into();
    }
    Frame::result(id, raw(&result))
}

impl Forward {
    pub fn era(&self) -> Era {
        self.era
    }

    /// What the tool is called with.
    pub fn arguments(&self) -> Option<&Raw> {
        self.params.get("arguments")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_takes_what_it_can_make() {
        assert!(may_be_of("file:///{path}", "file:///a/b"));
        assert!(may_be_of("demo://resource/dynamic/text/{id}", "demo://resource/dynamic/text/7"));
        assert!(may_be_of("x://{a}/b/{c}/d", "x://1/b/2/d"));
        assert!(!may_be_of("x://{a}/b/{c}/d", "x://1/b/2/e"));
        assert!(!may_be_of("demo://x/{id}", "demo://y/7"));
        assert!(!may_be_of("demo://x", "demo://x/7"));
    }

    #[test]
    fn the_era_is_told_by_the_request() {
        let of = |text: &str| era_of(Some(&serde_json::from_str::<Raw>(text).unwrap()));
        assert_eq!(
            of(r#"{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}"#),
            Era::Stateless
        );
        assert_eq!(
            of(r#"{"arguments":{"io.modelcontextprotocol/protocolVersion":1}}"#),
            Era::Session
        );
        assert_eq!(era_of(None), Era::Session);
    }
}
