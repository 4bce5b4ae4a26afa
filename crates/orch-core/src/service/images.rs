//! Which node has which images.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::{StreamExt, stream};
use orch_domain::Error;
use orch_domain::event::News;
use orch_domain::image::ImageRef;
use orch_domain::name::NodeId;
use orch_domain::node::{Node, NodeStatus};

use crate::Orch;
use crate::ports::engine::{EngineError, EngineImage};
use crate::service::engines::engine_error;
use crate::view::image::ImageView;

/// Nodes asked at the same time.
const AT_ONCE: usize = 256;

/// What the nodes answered, and which did not.
pub struct Images {
    /// By reference, then id: one tag may stand for different images on different nodes.
    pub found: Vec<ImageView>,
    pub failures: Vec<(NodeId, Error)>,
}

impl Orch {
    /// Asks all nodes, or one, at once. A node that does not answer hides only its own images.
    pub async fn images(&self, only: Option<&NodeId>) -> Result<Images, Error> {
        let nodes: Vec<Arc<Node>> = self.ledger.read(|book| match only {
            Some(id) => {
                let slot = book.slot(id).ok_or_else(|| Error::no_node(id))?;
                Ok(vec![slot.node.clone()])
            }
            None => Ok(book.slots().map(|it| it.node.clone()).collect()),
        })?;
        let ask = |node: Arc<Node>| async move { (node.id.clone(), self.images_of(&node).await) };
        let mut answers = stream::iter(nodes.into_iter().map(ask))
            .buffer_unordered(AT_ONCE)
            .collect::<Vec<_>>()
            .await;
        answers.sort_by(|(a, _), (b, _)| a.cmp(b));
        let mut found: BTreeMap<(String, String), ImageView> = BTreeMap::new();
        let mut failures = Vec::new();
        for (node_id, answer) in answers {
            match answer {
                Ok(images) => images.into_iter().for_each(|it| enter(&mut found, &node_id, it)),
                Err(err) => failures.push((node_id, err)),
            }
        }
        Ok(Images { found: found.into_values().collect(), failures })
    }

    /// A pull that worked is an event; that it cannot be recorded does not undo it.
    pub(crate) async fn tell_of_pull(&self, image: &ImageRef, node_id: &NodeId) {
        if let Err(err) = self.ledger.announce(None, News::image_pulled(image, node_id)).await {
            tracing::warn!("that `{image}` was pulled could not be recorded: {err}");
        }
    }

    async fn images_of(&self, node: &Node) -> Result<Vec<EngineImage>, Error> {
        let timeout = self.settings.health_timeout;
        // Known not to answer: waiting for it again would only slow the others down.
        let answer = if node.status == NodeStatus::Unreachable {
            Err(EngineError::Timeout { after: timeout })
        } else {
            match self.engines.engine(node) {
                Ok(engine) => tokio::time::timeout(timeout, engine.images())
                    .await
                    .unwrap_or(Err(EngineError::Timeout { after: timeout })),
                Err(err) => Err(err),
            }
        };
        answer.map_err(|err| engine_error(&node.id, err))
    }
}

/// Under every name it has; an image without a name cannot be launched and is left out.
fn enter(found: &mut BTreeMap<(String, String), ImageView>, node_id: &NodeId, image: EngineImage) {
    for reference in image.references {
        let key = (reference.clone(), image.id.clone());
        let view = found.entry(key).or_insert_with(|| ImageView {
            image: reference,
            id: image.id.clone(),
            size_bytes: image.size_bytes,
            created_at: image.created_at,
            nodes: Vec::new(),
        });
        view.nodes.push(node_id.clone());
    }
}

#[cfg(test)]
mod tests {
    use orch_domain::time::Timestamp;

    use super::*;

    #[test]
    fn one_tag_with_two_meanings_is_two_entries() {
        let image = |id: &str, references: &[&str]| EngineImage {
            references: references.iter().map(|it| (*it).to_owned()).collect(),
            id: id.to_owned(),
            size_bytes: 1,
            created_at: Timestamp::ZERO,
        };
        let mut found = BTreeMap::new();
        for (node, image) in [
            ("n1", image("sha256:a", &["web:1", "web:latest"])),
            ("n2", image("sha256:a", &["web:1"])),
            ("n3", image("sha256:b", &["web:1"])),
            ("n3", image("sha256:c", &[])),
        ] {
            enter(&mut found, &NodeId::try_new(node).unwrap(), image);
        }
        let shown: Vec<String> = found
            .values()
            .map(|it| format!("{} {} on {}", it.image, it.id, it.nodes.len()))
            .collect();
        assert_eq!(
            shown,
            ["web:1 sha256:a on 2", "web:1 sha256:b on 1", "web:latest sha256:a on 1"]
        );
    }
}
