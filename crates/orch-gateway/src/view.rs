//! What of the servers behind is there for one caller at one endpoint. What is not in the view is not listed, not found
//! and not called: to the caller it is as if it were not there.

use orch_domain::caller::Caller;
use orch_domain::tool_access::ToolAccess;

use crate::catalog::List;
use crate::names::Dialect;

#[derive(Clone, Debug, Default)]
pub struct View {
    /// How tools and prompts are named.
    pub dialect: Dialect,
    /// What the caller may use.
    pub access: ToolAccess,
}

impl View {
    /// Nobody in particular sees all there is, and may call none of it: the gate does not know them.
    pub fn of(caller: Option<&Caller>) -> View {
        let access = caller.map(|it| it.tools.clone()).unwrap_or_default();
        View { access, ..View::default() }
    }

    pub fn shows_server(&self, server: &str) -> bool {
        self.access.shows_server(server)
    }

    /// `name` as the server offers it: of a resource its URI, of a template its pattern. Patterns are over tools; what
    /// else a server has is there when the server is.
    pub fn shows(&self, list: List, server: &str, name: &str) -> bool {
        self.shows_server(server) && (list != List::Tools || self.access.permits(server, name))
    }
}
