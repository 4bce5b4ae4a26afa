//! What of a client's messages is for the servers behind, and how they go there and back: as they are, but for the
//! names, ids and tokens that differ on the two sides, and the members that the client's era asks for.

use std::sync::Arc;

use crate::catalog::{Item, List};
use crate::forward::Forward;
use crate::frame::{Frame, Raw};
use crate::hub::Hub;
use crate::members::Members;
use crate::names::own_name;
use crate::safety::results::SCHEME;
use crate::server::Server;
use crate::session::Visitor;
use crate::session::parked::{Gone, Parked, Waiting};
use crate::upstream::Era;
use crate::upstream::handshake::VERSION_KEY;
use crate::view::View;

/// Our own operation that calls any tool. Of a server's tool the answer is the server's, as it is.
const CALL_TOOL: &str = "call_tool";

/// What is to be done with a message of a client.
pub enum Claim {
    /// Nothing of it concerns the servers behind.
    Own,
    /// Our own answer is to be extended by what they have.
    List(List),
    /// It is for one of them.
    Forward(Box<Forward>),
}

/// The era a request is written in: the later one says its version each time.
pub fn era_of(params: Option<&Raw>) -> Era {
    let is_stateless = params.is_some_and(|it| it.get().contains(VERSION_KEY))
        && Members::of_params(params)
            .object("_meta")
            .is_some_and(|it| it.get(VERSION_KEY).is_some());
    if is_stateless { Era::Stateless } else { Era::Session }
}

/// A message, and who sent it where.
pub(crate) struct Asking<'a> {
    pub(crate) frame: &'a Frame,
    pub(crate) view: &'a View,
    pub(crate) visitor: &'a Arc<Visitor>,
}

impl Hub {
    /// Looks at a message of a client.
    pub fn claim(&self, frame: &Frame, view: &View, visitor: &Arc<Visitor>) -> Claim {
        let asking = Asking { frame, view, visitor };
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
            "tools/call" => self.by_name(&asking, List::Tools),
            "prompts/get" => self.by_name(&asking, List::Prompts),
            "resources/read" | "resources/subscribe" | "resources/unsubscribe" => {
                self.by_uri(&asking)
            }
            "tasks/get" | "tasks/result" | "tasks/cancel" | "tasks/update" => self.by_task(&asking),
            "completion/complete" => self.by_reference(&asking),
            _ => None,
        };
        forward.map_or(Claim::Own, |it| Claim::Forward(Box::new(it)))
    }

    fn by_name(&self, asking: &Asking<'_>, list: List) -> Option<Forward> {
        let mut params = Members::of_params(asking.frame.params.as_ref());
        let mut name = params.text("name")?;
        let is_wrapped = list == List::Tools
            && own_name(&name) == CALL_TOOL
            && asking.view.offers_own(CALL_TOOL)
            && asking.view.access.permits_operation(CALL_TOOL);
        if is_wrapped {
            name = unwrap_call(&mut params)?;
        }
        // Own names have neither; looking further would cost every own call.
        if !name.contains('.') && !name.contains('_') {
            return None;
        }
        let Some((server, item)) = self.find(list, &name, asking.view) else {
            let (server, tool, held) =
                self.held_back(&name, asking.view).filter(|_| list == List::Tools)?;
            let target = crate::names::canonical(&server.name, &tool);
            let forward = self.forward(asking, server, target, params);
            return Some(Forward { is_tool_call: true, held: Some(Box::new(held)), ..forward });
        };
        params.set("name", &*item.origin);
        if list == List::Tools
            && let Some(filled) =
                server.spec.tools.with_defaults(&item.origin, params.get("arguments"))
        {
            params.set("arguments", &filled);
        }
        let target = crate::names::canonical(&server.name, &item.name);
        let is_tool_call = list == List::Tools;
        Some(Forward {
            is_tool_call,
            tool: is_tool_call.then_some(item),
            ..self.forward(asking, server, target, params)
        })
    }

    fn by_uri(&self, asking: &Asking<'_>) -> Option<Forward> {
        let params = Members::of_params(asking.frame.params.as_ref());
        // What we keep ourselves is nobody else's, whatever templates they have.
        let uri = params.text("uri").filter(|it| !it.starts_with(SCHEME))?;
        let server = self.owner_of(&uri, asking.view)?;
        let target = format!("resources of {}", server.name);
        Some(self.forward(asking, server, target, params))
    }

    fn by_reference(&self, asking: &Asking<'_>) -> Option<Forward> {
        let mut params = Members::of_params(asking.frame.params.as_ref());
        let mut reference = params.object("ref")?;
        let server = if let Some(name) = reference.text("name") {
            let (server, item) = self.find(List::Prompts, &name, asking.view)?;
            reference.set("name", &*item.origin);
            server
        } else {
            self.owner_of(&reference.text("uri")?, asking.view)?
        };
        params.set("ref", &reference);
        let target = format!("completions of {}", server.name);
        Some(self.forward(asking, server, target, params))
    }

    /// A call that no client of the protocol made.
    pub fn call(
        &self,
        server: Arc<Server>,
        tool: Option<Item>,
        params: Members,
        visitor: Arc<Visitor>,
    ) -> Forward {
        let name = params.text("name").unwrap_or_default();
        Forward {
            target: crate::names::canonical(
                &server.name,
                tool.as_ref().map_or(&name, |it| &it.name),
            ),
            server,
            is_tool_call: true,
            method: "tools/call".to_owned(),
            params,
            visitor,
            tool,
            held: None,
            parked: self.parked.clone(),
            tasks: self.tasks.clone(),
            resumed: None,
        }
    }

    /// A task belongs to the server whose answer named it.
    fn by_task(&self, asking: &Asking<'_>) -> Option<Forward> {
        let params = Members::of_params(asking.frame.params.as_ref());
        let name = self.tasks.server_of(&asking.visitor.user, &params.text("taskId")?)?;
        let server = self.server(&name).filter(|it| asking.view.shows_server(&it.name))?;
        let target = format!("tasks of {}", server.name);
        Some(self.forward(asking, server, target, params))
    }

    pub(crate) fn forward(
        &self,
        asking: &Asking<'_>,
        server: Arc<Server>,
        target: String,
        params: Members,
    ) -> Forward {
        // A state that is not ours is the server's, and goes there as it is.
        let resumed = params
            .text("requestState")
            .filter(|it| Parked::<Waiting>::is_ours(it))
            .map(|state| self.parked.take(&state, &asking.visitor.user, &target).ok_or(Gone));
        Forward {
            server,
            target,
            is_tool_call: false,
            method: asking.frame.method.clone().unwrap_or_default(),
            params,
            visitor: asking.visitor.clone(),
            tool: None,
            held: None,
            parked: self.parked.clone(),
            tasks: self.tasks.clone(),
            resumed,
        }
    }

    /// The server that listed a resource, or a template that it may be made of.
    pub fn owner_of(&self, uri: &str, view: &View) -> Option<Arc<Server>> {
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

/// Makes a call of `call_tool` into the call that it asks for, and says of which tool. None: it is not as it should be,
/// and the operation says how.
fn unwrap_call(params: &mut Members) -> Option<String> {
    let wrapped = params.object("arguments")?;
    if wrapped.iter().any(|(key, _)| !matches!(key, "name" | "arguments")) {
        return None;
    }
    let name = wrapped.text("name")?;
    match wrapped.get("arguments") {
        Some(it) if it.get().starts_with('{') => params.set("arguments", it),
        Some(_) => return None,
        None => params.set("arguments", &Members::default()),
    }
    Some(name)
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
