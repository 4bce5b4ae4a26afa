//! The images that are on the nodes already.

use std::sync::Arc;

use orch_domain::Error;
use orch_domain::caller::Permission;
use orch_domain::name::NodeId;
use orch_domain::page::{self, PageSize};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::operation::{Operation, Route, Spec, Summary, spec};
use crate::view::image::{ImageView, NodeImages};
use crate::view::table::{more, table};
use crate::{Cx, Orch};

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ListImages {
    /// Only those of this node.
    pub node_id: Option<NodeId>,
    /// Only those whose name contains this, such as `nginx`.
    pub name: String,
    pub page_size: PageSize,
    /// `next_page_token` of the page before.
    pub page_token: String,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ImageList {
    /// By name. A tag that means different images on different nodes is listed once for each.
    pub images: Vec<ImageView>,
    /// What each node has in all, of those that answered, by id; whatever was filtered.
    pub nodes: Vec<NodeImages>,
    /// All images of all nodes together.
    pub total_bytes: u64,
    /// Nodes that could not be asked: what they have is missing above.
    pub failures: Vec<ImageFailure>,
    /// Empty on the last page.
    pub next_page_token: String,
    /// Of all pages.
    pub total_count: usize,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ImageFailure {
    pub node_id: NodeId,
    /// Code of the error.
    pub error: String,
    pub message: String,
}

impl Summary for ImageList {
    fn summary(&self) -> String {
        let row = |it: &ImageView| {
            let nodes: Vec<&str> = it.nodes.iter().take(3).map(NodeId::as_str).collect();
            let n_others = it.nodes.len() - nodes.len();
            let others =
                if n_others == 0 { String::new() } else { format!(" and {n_others} more") };
            [
                it.image.clone(),
                mib(it.size_bytes),
                it.n_instances.to_string(),
                format!("{}{others}", nodes.join(", ")),
            ]
        };
        let mut text = if self.images.is_empty() {
            "No such images on the nodes that answered.".to_owned()
        } else {
            table(["IMAGE", "SIZE", "INSTANCES", "NODES"], self.images.iter().map(row))
        };
        text.push_str(&more(self.images.len(), self.total_count, &self.next_page_token));
        text.push_str(&format!(
            "\n{} in all on {} nodes that answered",
            mib(self.total_bytes),
            self.nodes.len()
        ));
        for it in &self.failures {
            text.push_str(&format!("\n`{}` could not be asked: {}", it.node_id, it.message));
        }
        text
    }
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

impl Operation for ListImages {
    const SPEC: Spec = spec!(
        "list_images",
        Cluster,
        Reads,
        Some(Permission::Read),
        [Route::get("/dashboard/images")]
    );
    type Output = ImageList;

    async fn run(self, orch: &Arc<Orch>, _: &Cx) -> Result<ImageList, Error> {
        let mut images = orch.images(self.node_id.as_ref()).await?;
        images.found.retain(|it| it.image.contains(&self.name));
        let key = |it: &ImageView| format!("{}\n{}", it.image, it.id);
        let (page, next_page_token) =
            page::cut("images", &images.found, key, &self.page_token, self.page_size)?;
        let failure = |(node_id, err): (NodeId, Error)| ImageFailure {
            node_id,
            error: err.code().as_str().to_owned(),
            message: err.to_string(),
        };
        Ok(ImageList {
            images: page.to_vec(),
            total_bytes: images.nodes.iter().map(|it| it.size_bytes).sum(),
            nodes: images.nodes,
            failures: images.failures.into_iter().map(failure).collect(),
            next_page_token,
            total_count: images.found.len(),
        })
    }
}
