//! An image as callers see it.

use orch_domain::name::NodeId;
use orch_domain::time::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct ImageView {
    /// As `launch_instance` takes it.
    pub image: String,
    /// Tells apart two images of one name.
    pub id: String,
    /// On one node, with the layers that it shares with others.
    pub size_bytes: u64,
    pub created_at: Timestamp,
    /// The nodes that have it; a launch there needs no pull.
    pub nodes: Vec<NodeId>,
    /// On how many nodes that answered another image, or none, goes by this name.
    pub n_nodes_without: usize,
    /// What it takes on all of its nodes together.
    pub total_bytes: u64,
    /// Instances of this name on its nodes, running or not, whoever owns them.
    pub n_instances: usize,
}

/// What one node has.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct NodeImages {
    pub node_id: NodeId,
    /// With those that have no name, which are not listed.
    pub n_images: usize,
    /// All of its images added up. Layers that several share count in each, so the disk holds less.
    pub size_bytes: u64,
}
