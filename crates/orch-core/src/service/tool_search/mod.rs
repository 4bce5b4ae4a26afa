//! Tools found by what they are for.
//!
//! What a caller may not see is left out before anything is ranked, not afterwards: how rare a word is would tell of
//! it. So each set of tools that somebody sees has an index of its own, which is kept until a catalog changes.

mod index;
mod thesaurus;
mod words;

use std::sync::Arc;

use orch_domain::Error;
use parking_lot::Mutex;

use crate::ports::tool_server::{ServerTool, no_server};
use crate::service::tools::BUILT_IN;
use crate::{Cx, Orch};

pub use index::ToolIndex;

/// Sets of tools whose indexes are kept: profiles times kinds of callers.
const MAX_KEPT: usize = 32;

/// Indexes by the sets of tools they are over, the last used first.
#[derive(Default)]
pub(crate) struct ToolSearch(Mutex<Vec<Arc<Kept>>>);

struct Kept {
    /// Held, so that its address is no other catalog's.
    catalog: Arc<Vec<ServerTool>>,
    seen: Seen,
    index: ToolIndex,
}

/// Which tools somebody sees.
#[derive(PartialEq)]
struct Seen {
    /// Places in the list of own tools.
    own: Vec<u32>,
    /// Places in the catalog.
    upstream: Vec<u32>,
}

impl ToolSearch {
    fn index(&self, catalog: &Arc<Vec<ServerTool>>, own: &[ServerTool], seen: Seen) -> Arc<Kept> {
        let is_it = |it: &Arc<Kept>| Arc::ptr_eq(&it.catalog, catalog) && it.seen == seen;
        {
            let mut kept = self.0.lock();
            if let Some(at) = kept.iter().position(is_it) {
                kept[..=at].rotate_right(1);
                return kept[0].clone();
            }
        }
        // Not under the lock: it takes milliseconds, and twice is no harm.
        let of = |from: &[ServerTool], places: &[u32]| -> Vec<ServerTool> {
            places.iter().map(|it| from[*it as usize].clone()).collect()
        };
        let index = {
            let mut tools = of(own, &seen.own);
            tools.extend(of(catalog, &seen.upstream));
            ToolIndex::build(&tools)
        };
        let new = Arc::new(Kept { catalog: catalog.clone(), seen, index });
        let mut kept = self.0.lock();
        kept.retain(|it| Arc::ptr_eq(&it.catalog, catalog));
        kept.insert(0, new.clone());
        kept.truncate(MAX_KEPT);
        new
    }
}

impl Orch {
    /// The `limit` tools that answer `query` best, of those that `cx` sees, with their scores.
    pub(crate) fn search_tools(
        &self,
        query: &str,
        server: Option<&str>,
        limit: usize,
        cx: &Cx,
    ) -> Result<Vec<(ServerTool, f32)>, Error> {
        if let Some(name) = server
            && !self.sees_server(name, cx)
        {
            return Err(no_server(name));
        }
        let catalog = self.tool_servers.catalog();
        let own = crate::service::tools::own_tools();
        let seen = |tools: &[ServerTool]| -> Vec<u32> {
            (0..)
                .zip(tools)
                .filter(|(_, it)| self.sees_tool(&it.server, &it.name, cx))
                .map(|it| it.0)
                .collect()
        };
        let seen = Seen { own: seen(own), upstream: seen(&catalog) };
        let kept = self.tool_search.index(&catalog, own, seen);
        let n_own = kept.seen.own.len();
        let tool = |at: usize| match at.checked_sub(n_own) {
            None => &own[kept.seen.own[at] as usize],
            Some(at) => &kept.catalog[kept.seen.upstream[at] as usize],
        };
        let found = kept.index.search(query).into_iter().map(|(at, score)| (tool(at), score));
        let found = found.filter(|(it, _)| server.is_none_or(|name| it.server == name));
        Ok(found.take(limit).map(|(it, score)| (it.clone(), score)).collect())
    }

    /// Whether a server is there for `cx`; our own operations are one.
    pub(crate) fn sees_server(&self, name: &str, cx: &Cx) -> bool {
        name == BUILT_IN
            || (cx.shows_server(name)
                && self.tool_servers.servers().iter().any(|it| it.name == name))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tools(names: &[&str]) -> Arc<Vec<ServerTool>> {
        let tool = |name: &&str| ServerTool {
            server: "s".to_owned(),
            name: (*name).to_owned(),
            title: None,
            description: String::new(),
            input_schema: json!({}),
            output_schema: None,
            annotations: None,
            pin: None,
        };
        Arc::new(names.iter().map(tool).collect())
    }

    #[test]
    fn an_index_is_kept_for_each_set_until_the_catalog_changes() {
        let (search, own) = (ToolSearch::default(), tools(&["mine"]));
        let (first, second) = (tools(&["a", "b"]), tools(&["a", "b"]));
        let all = || Seen { own: vec![0], upstream: vec![0, 1] };
        let some = || Seen { own: Vec::new(), upstream: vec![1] };
        let of_all = search.index(&first, &own, all());
        let of_some = search.index(&first, &own, some());
        assert!(Arc::ptr_eq(&of_all, &search.index(&first, &own, all())));
        assert!(Arc::ptr_eq(&of_some, &search.index(&first, &own, some())));
        assert_eq!(of_some.index.search("a").len(), 0, "`a` is not in that set");
        assert_eq!(of_some.index.search("b").len(), 1);

        let anew = search.index(&second, &own, all());
        assert!(!Arc::ptr_eq(&of_all, &anew));
        assert_eq!(search.0.lock().len(), 1, "those of the old catalog are gone");
        for n in 0..2 * MAX_KEPT {
            let seen = Seen { own: Vec::new(), upstream: vec![u32::try_from(n % 2).unwrap(); n] };
            search.index(&second, &own, seen);
        }
        assert_eq!(search.0.lock().len(), MAX_KEPT);
    }
}
