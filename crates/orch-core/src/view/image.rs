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
    pub size_bytes: u64,
    pub created_at: Timestamp,
    /// The nodes that have it; a launch there needs no pull.
    pub nodes: Vec<NodeId>,
}
