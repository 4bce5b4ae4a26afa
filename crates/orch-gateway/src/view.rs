//! What of the servers behind is there for one caller at one endpoint. What is not in the view is not listed, not found
//! and not called: to the caller it is as if it were not there.

use crate::catalog::List;
use crate::names::Dialect;

#[derive(Clone, Debug, Default)]
pub struct View {
    /// How tools and prompts are named.
    pub dialect: Dialect,
}

impl View {
    pub fn shows_server(&self, _server: &str) -> bool {
        true
    }

    /// `name` as the server offers it: of a resource its URI, of a template its pattern.
    pub fn shows(&self, list: List, server: &str, name: &str) -> bool {
        let (_, _) = (list, name);
        self.shows_server(server)
    }
}
