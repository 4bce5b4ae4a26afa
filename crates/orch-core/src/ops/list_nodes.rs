//! The nodes of the cluster.

use std::collections::BTreeSet;
use std::sync::Arc;

use orch_domain::Error;
use orch_domain::book::Slot;
use orch_domain::caller::Permission;
use orch_domain::label::Labels;
use orch_domain::name::Tag;
use orch_domain::node::{Node, NodeStatus, Role};
use orch_domain::page::{self, PageSize};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::operation::{Operation, Route, Spec, Summary, spec};
use crate::view::node::{NodeView, node_table};
use crate::view::table::more;
use crate::{Cx, Orch};

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ListNodes {
    /// Only of this role.
    pub role: Option<Role>,
    /// Only with all these tags.
    pub tag: BTreeSet<Tag>,
    /// Only in these states.
    pub status: Vec<NodeStatus>,
    /// Only with all these labels and values.
    pub labels: Labels,
    pub page_size: PageSize,
    /// `next_page_token` of the page before.
    pub page_token: String,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct NodeList {
    /// By id.
    pub nodes: Vec<NodeView>,
    /// Empty on the last page.
    pub next_page_token: String,
    /// Of all pages.
    pub total_count: usize,
}

impl Summary for NodeList {
    fn summary(&self) -> String {
        if self.nodes.is_empty() {
            return "No such nodes. `register_node` adds one.".to_owned();
        }
        let mut text = node_table(&self.nodes);
        text.push_str(&more(self.nodes.len(), self.total_count, &self.next_page_token));
        text
    }
}

impl Operation for ListNodes {
    const SPEC: Spec =
        spec!("list_nodes", Nodes, Reads, Some(Permission::Read), [Route::get("/cluster/nodes")]);
    type Output = NodeList;

    async fn run(self, orch: &Arc<Orch>, _: &Cx) -> Result<NodeList, Error> {
        orch.ledger.read(|book| {
            let found: Vec<_> = book.slots().filter(|it| self.matches(&it.node)).collect();
            let (page, next_page_token) = page::cut(
                "nodes",
                &found,
                |it| it.node.id.to_string(),
                &self.page_token,
                self.page_size,
            )?;
            let view = |it: &&Slot| NodeView::of(it, &orch.health).with_ray(orch.ray_on(&it.node));
            Ok(NodeList {
                nodes: page.iter().map(view).collect(),
                next_page_token,
                total_count: found.len(),
            })
        })
    }
}

impl ListNodes {
    fn matches(&self, node: &Node) -> bool {
        self.role.is_none_or(|it| node.role == it)
            && self.tag.is_subset(&node.tags)
            && (self.status.is_empty() || self.status.contains(&node.status))
            && node.labels.contains_all(&self.labels)
    }
}
