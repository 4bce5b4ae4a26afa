//! What of the servers behind is there for one caller at one endpoint. What is not in the view is not listed, not found
//! and not called: to the caller it is as if it were not there.

use std::sync::Arc;

use orch_core::cx::Scope;
use orch_domain::caller::Caller;
use orch_domain::tool_access::ToolAccess;

use crate::catalog::List;
use crate::names::Dialect;
use crate::profile::{LAZY_TOOLS, OWN, Profile};

#[derive(Clone, Debug, Default)]
pub struct View {
    /// How tools and prompts are named.
    pub dialect: Dialect,
    /// None: the endpoint of everything.
    pub profile: Option<Arc<Profile>>,
    /// What the caller may use of it.
    pub access: ToolAccess,
}

impl View {
    /// The same endpoint as `caller` has it. Nobody in particular sees all there is, and may call none of it: the gate
    /// does not know them.
    pub fn for_caller(&self, caller: Option<&Caller>) -> View {
        View { access: caller.map(|it| it.tools.clone()).unwrap_or_default(), ..self.clone() }
    }

    pub fn shows_server(&self, server: &str) -> bool {
        self.profile.as_ref().is_none_or(|it| it.shows_server(server))
            && self.access.shows_server(server)
    }

    /// `name` as the server offers it: of a resource its URI, of a template its pattern. The caller's patterns are over
    /// tools; what else a server has is there when the server is.
    pub fn shows(&self, list: List, server: &str, name: &str) -> bool {
        match (&self.profile, list) {
            (Some(profile), List::Tools) => {
                profile.shows_tool(server, name) && self.access.permits(server, name)
            }
            (None, List::Tools) => self.access.permits(server, name),
            _ => self.shows_server(server),
        }
    }

    /// Whether what is shown is listed. Where it is not, it is found and called all the same.
    pub fn lists(&self, list: List) -> bool {
        list != List::Tools || !self.is_lazy()
    }

    pub fn is_lazy(&self) -> bool {
        self.profile.as_ref().is_some_and(|it| it.lazy)
    }

    /// Whether our own prompts and resources are there.
    pub fn shows_own(&self) -> bool {
        self.profile.as_ref().is_none_or(|it| it.own)
    }

    /// Whether our own operation may be called by its name.
    pub fn offers_own(&self, operation: &str) -> bool {
        let Some(profile) = &self.profile else { return true };
        (profile.lazy && LAZY_TOOLS.contains(&operation)) || profile.shows_tool(OWN, operation)
    }

    /// Whether our own operation is listed.
    pub fn lists_own(&self, operation: &str) -> bool {
        if self.is_lazy() { LAZY_TOOLS.contains(&operation) } else { self.offers_own(operation) }
    }

    /// The name of the endpoint's profile.
    pub fn profile_name(&self) -> Option<&str> {
        self.profile.as_ref().map(|it| it.name.as_str())
    }
}

impl Scope for View {
    fn profile(&self) -> Option<&str> {
        self.profile_name()
    }

    fn shows_server(&self, server: &str) -> bool {
        View::shows_server(self, server)
    }

    fn shows_tool(&self, server: &str, tool: &str) -> bool {
        self.profile.as_ref().is_none_or(|it| it.shows_tool(server, tool))
    }
}
