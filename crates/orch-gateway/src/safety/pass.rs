//! What a server answered, as the caller is to have it: without what is redacted, and not larger than may be.

use std::sync::Arc;

use crate::catalog::{Item, List};
use crate::forward::Forward;
use crate::frame::{Frame, Raw};
use crate::hub::Hub;
use crate::members::Members;
use crate::safety::pin::{Flag, PinMode};
use crate::safety::trim;
use crate::server::Server;
use crate::upstream::LinkError;
use crate::view::View;

impl Forward {
    /// To be called with each frame on its way to the caller. What is small and has nothing to hide is not touched.
    pub(crate) async fn pass(&self, frame: &mut Frame) {
        let server = &self.server;
        server.redact(frame);
        let Some(result) = &frame.result else { return };
        if self.visitor.is_direct() {
            // Nothing is cut off where nothing is to stand between; but what is quarantined stays so.
            if self.method == "tools/list"
                && let Some(rest) = server.without_held(result)
            {
                frame.result = Some(rest);
            }
            return;
        }
        let limit = server.safety().result_limit(&server.spec.guard);
        if let Some(limit) = limit
            && limit < result.get().len()
            && self.is_tool_call
            && !self.visitor.takes_whole
            && let Some(head) = self.cut(result, limit).await
        {
            frame.result = Some(head);
        }
    }

    /// None: it stays whole, because the rest could not be kept or it is no result that could be cut.
    async fn cut(&self, result: &Raw, limit: usize) -> Option<Raw> {
        let kind = Members::of(result)?.text("resultType");
        if kind.is_some_and(|it| it != "complete") {
            return None;
        }
        let whole = trim::whole(result);
        let safety = self.server.safety().clone();
        let (owner, now) = (self.visitor.user.clone(), self.server.now());
        let (media_type, body) = (whole.media_type, whole.body.clone());
        let keep = move || safety.results.keep(&owner, media_type, body, now);
        let kept = tokio::task::spawn_blocking(keep).await.map_err(std::io::Error::other);
        let id = match kept {
            Ok(Ok(it)) => it,
            Ok(Err(err)) | Err(err) => {
                tracing::warn!(
                    "a large result is passed on whole, because its rest cannot be kept: {err}"
                );
                return None;
            }
        };
        let tool = self.tool.as_ref().and_then(|it| Members::of(&it.json));
        let has_schema = tool.is_some_and(|it| it.get("outputSchema").is_some());
        Some(trim::head(result, limit, &id, &whole, has_schema))
    }
}

impl Server {
    /// A list of tools as the server gave it, without those that may not be used. None: all of them may.
    fn without_held(&self, result: &Raw) -> Option<Raw> {
        let mut members = Members::of(result)?;
        let tools = members.array(List::Tools.member())?;
        let items: Vec<Item> =
            tools.iter().filter_map(|it| Item::of(List::Tools, it.clone())).collect();
        // Looked at anew, because it may be later than what is known.
        let held = self.offer().held_of(&items, self.now());
        if held.is_empty() {
            return None;
        }
        let is_held = |it: &Item| held.contains(&it.origin);
        let rest: Vec<&Raw> = items.iter().filter(|it| !is_held(it)).map(|it| &it.json).collect();
        members.set(List::Tools.member(), &rest);
        Some(members.to_raw())
    }

    fn redact(&self, frame: &mut Frame) {
        let patterns = self.patterns();
        if patterns.is_empty() {
            return;
        }
        for part in [&mut frame.params, &mut frame.result, &mut frame.error].into_iter().flatten() {
            if let Some(redacted) = patterns.redact(part) {
                *part = redacted;
            }
        }
    }

    /// Tools that are there and may not be used until they are approved, by the names they would have.
    pub fn held(&self) -> Vec<(Arc<str>, Flag)> {
        let catalog = self.catalog();
        let held: Vec<&Flag> = catalog.flags.iter().filter(|it| it.is_quarantined).collect();
        let Some(said) = self.offer().said().filter(|_| !held.is_empty()) else {
            return Vec::new();
        };
        let tools = said.catalog.tools.iter();
        let tools = tools.filter(|it| held.iter().any(|flag| flag.origin == it.origin)).cloned();
        let named = self.spec.tools.apply(tools.collect()).into_iter().filter_map(|it| {
            let flag = held.iter().find(|flag| flag.origin == it.origin)?;
            Some((it.name, Flag::clone(flag)))
        });
        named.collect()
    }

    /// Why the tool of this name may not be called. None: it may, or is not there at all.
    pub fn held_back(&self, tool: &str) -> Option<LinkError> {
        let (_, flag) = self.held().into_iter().find(|(name, _)| **name == *tool)?;
        Some(quarantined(&flag))
    }

    /// Likewise, of a client that says the server's own names, and is told of all the server has: what was never listed
    /// could not be compared.
    pub(crate) fn held_back_by_origin(&self, tool: &str) -> Option<LinkError> {
        if self.offer().pin != PinMode::Enforce {
            return None;
        }
        let catalog = self.catalog();
        if let Some(flag) = catalog.flags.iter().find(|it| *it.origin == *tool) {
            return Some(quarantined(flag));
        }
        let said = self.offer().said()?;
        let is_listed = said.catalog.tools.iter().any(|it| *it.origin == *tool);
        let new = || LinkError::Quarantined { tool: tool.to_owned(), differs: "new" };
        (!is_listed).then(new)
    }
}

fn quarantined(flag: &Flag) -> LinkError {
    LinkError::Quarantined { tool: flag.origin.to_string(), differs: flag.differs.as_str() }
}

impl Hub {
    /// A tool that would be there were it not quarantined, by any of its names: its server, its name there, and why.
    pub fn held_back(&self, name: &str, view: &View) -> Option<(Arc<Server>, Arc<str>, LinkError)> {
        self.servers().into_iter().find_map(|server| {
            let (tool, _) = server.held().into_iter().find(|(tool, _)| {
                let is_named = crate::names::canonical(&server.name, tool) == name
                    || crate::names::edge_name(&server.name, tool) == name;
                is_named && view.shows(List::Tools, &server.name, tool)
            })?;
            let err = server.held_back(&tool)?;
            Some((server, tool, err))
        })
    }
}
