//! The nodes of the Ray cluster, asked now.

use std::sync::Arc;

use orch_domain::Error;
use orch_domain::caller::Permission;
use orch_domain::page::{self, PageSize};
use orch_domain::ray::{RayNode, RayNodeState};
use orch_domain::time::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::operation::{Operation, Route, Spec, Summary, spec};
use crate::service::ray::registered;
use crate::view::ray::{RayNodeView, ray_node_table};
use crate::view::table::more;
use crate::{Cx, Orch};

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RayNodes {
    /// Only in these states.
    pub state: Vec<RayNodeState>,
    pub page_size: PageSize,
    /// `next_page_token` of the page before.
    pub page_token: String,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct RayNodeList {
    /// By Ray's id.
    pub nodes: Vec<RayNodeView>,
    /// Empty on the last page.
    pub next_page_token: String,
    /// Of all pages.
    pub total_count: usize,
    /// When Ray said so.
    pub seen_at: Timestamp,
}

impl Summary for RayNodeList {
    fn summary(&self) -> String {
        if self.nodes.is_empty() {
            return "No such nodes in Ray.".to_owned();
        }
        let mut text = ray_node_table(&self.nodes);
        text.push_str(&more(self.nodes.len(), self.total_count, &self.next_page_token));
        text
    }
}

impl Operation for RayNodes {
    const SPEC: Spec =
        spec!("ray_nodes", Ray, Reads, Some(Permission::Read), [Route::get("/ray/nodes")]);
    type Output = RayNodeList;

    async fn run(self, orch: &Arc<Orch>, _: &Cx) -> Result<RayNodeList, Error> {
        let seen = orch.look_at_ray().await?;
        let registered = orch.ledger.read(|book| registered(&seen.nodes, book));
        let is_wanted = |it: &&RayNode| self.state.is_empty() || self.state.contains(&it.state);
        let mut found: Vec<&RayNode> = seen.nodes.iter().filter(is_wanted).collect();
        found.sort_by(|a, b| a.node_id.cmp(&b.node_id));
        let (page, next_page_token) = page::cut(
            "ray-nodes",
            &found,
            |it| it.node_id.clone(),
            &self.page_token,
            self.page_size,
        )?;
        Ok(RayNodeList {
            nodes: page
                .iter()
                .map(|it| RayNodeView::of(it, registered.get(it.node_id.as_str()).cloned()))
                .collect(),
            next_page_token,
            total_count: found.len(),
            seen_at: seen.at,
        })
    }
}
