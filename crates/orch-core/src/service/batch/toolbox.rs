//! The tools that a caller sees, as plans are checked against them.

use std::collections::HashMap;
use std::sync::Arc;

use orch_domain::plan::{ToolFacts, Toolbox};
use serde_json::Value;
use strsim::levenshtein;

use crate::ports::tool_server::ServerTool;
use crate::service::tools::BUILT_IN;
use crate::{Cx, Orch};

/// Own operations that make or follow batches: a plan does not begin plans.
const NEVER_IN_PLANS: &str = "batch_";
const MAX_NEAREST: usize = 3;
const LONGEST_NAME: usize = 100;

/// As of one moment. Tools that come later are unknown to it.
pub(super) struct CallersTools {
    by_name: HashMap<Arc<str>, ToolFacts>,
}

impl CallersTools {
    pub(super) fn of(orch: &Orch, cx: &Cx) -> CallersTools {
        let tools = orch.tools(None, cx).unwrap_or_default();
        let facts = tools.into_iter().filter(|it| !is_of_batches(it)).map(facts_of);
        CallersTools { by_name: facts.map(|it| (it.name.clone(), it)).collect() }
    }
}

fn is_of_batches(tool: &ServerTool) -> bool {
    tool.server == BUILT_IN
        && (tool.name.starts_with(NEVER_IN_PLANS) || tool.name == "list_batches")
}

fn facts_of(tool: ServerTool) -> ToolFacts {
    let hint =
        |name: &str| tool.annotations.as_ref().is_some_and(|it| it[name] == Value::Bool(true));
    let is_read_only = hint("readOnlyHint");
    ToolFacts {
        name: format!("{}.{}", tool.server, tool.name).into(),
        is_idempotent: is_read_only || hint("idempotentHint"),
        is_read_only,
        server: tool.server.into(),
        input_schema: Arc::new(tool.input_schema),
    }
}

impl Toolbox for CallersTools {
    fn tool(&self, name: &str) -> Option<ToolFacts> {
        match self.by_name.get(name) {
            Some(it) => Some(it.clone()),
            None if name.contains('.') => None,
            None => self.by_name.get(&*format!("{BUILT_IN}.{name}")).cloned(),
        }
    }

    fn nearest(&self, name: &str) -> Vec<String> {
        let name = orch_domain::text::excerpt(name, LONGEST_NAME).to_lowercase();
        let bare = name.rsplit('.').next().unwrap_or(&name);
        let mut near: Vec<(usize, &str)> = self
            .by_name
            .keys()
            .map(|it| {
                let tool = it.split_once('.').map_or(&**it, |it| it.1).to_lowercase();
                let whole = levenshtein(&it.to_lowercase(), &name);
                (whole.min(levenshtein(&tool, bare)), &**it)
            })
            .filter(|(far, it)| *far <= 2 + it.len() / 5)
            .collect();
        near.sort_unstable();
        near.into_iter().take(MAX_NEAREST).map(|it| it.1.to_owned()).collect()
    }
}
