//! Which node has which images.

use std::collections::{BTreeMap, HashMap};
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
use crate::view::image::{ImageView, NodeImages};

/// Nodes asked at the same time.
const AT_ONCE: usize = 512;

/// What the nodes answered, and which did not.
pub struct Images {
    /// By reference, then id: one tag may stand for different images on different nodes.
    pub found: Vec<ImageView>,
    /// Of the nodes that answered, by id.
    pub nodes: Vec<NodeImages>,
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
        let (mut nodes, mut failures) = (Vec::new(), Vec::new());
        for (node_id, answer) in answers {
            match answer {
                Ok(images) => {
                    nodes.push(NodeImages {
                        node_id: node_id.clone(),
                        n_images: images.len(),
                        size_bytes: images.iter().map(|it| it.size_bytes).sum(),
                    });
                    images.into_iter().for_each(|it| enter(&mut found, &node_id, it));
                }
                Err(err) => failures.push((node_id, err)),
            }
        }
        let used = self.images_in_use();
        let mut found: Vec<ImageView> = found.into_values().collect();
        for it in &mut found {
            it.n_nodes_without = nodes.len() - it.nodes.len();
            if let Some(users) = used.get(familiar(&it.image).as_str()) {
                it.n_instances =
                    it.nodes.iter().map(|node| users.get(node).copied().unwrap_or_default()).sum();
            }
        }
        Ok(Images { found, nodes, failures })
    }

    /// How many instances each node holds of each image, by the name that engines list it under.
    fn images_in_use(&self) -> HashMap<String, HashMap<NodeId, usize>> {
        self.ledger.read(|book| {
            let mut used: HashMap<String, HashMap<NodeId, usize>> = HashMap::new();
            for it in book.instances_after(None).filter(|it| it.state.holds_reservation()) {
                let of_image = match used.get_mut(it.image.familiar()) {
                    Some(it) => it,
                    None => used.entry(it.image.familiar().to_owned()).or_default(),
                };
                *of_image.entry(it.node_id.clone()).or_default() += 1;
            }
            used
        })
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

/// Some engines list the registry that others leave out.
fn familiar(listed: &str) -> String {
    match ImageRef::try_new(listed) {
        Ok(it) => it.familiar().to_owned(),
        Err(_) => listed.to_owned(),
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
            n_nodes_without: 0,
            total_bytes: 0,
            n_instances: 0,
        });
        view.nodes.push(node_id.clone());
        view.total_bytes += image.size_bytes;
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
            .map(|it| {
                format!("{} {} on {}, {} in all", it.image, it.id, it.nodes.len(), it.total_bytes)
            })
            .collect();
        assert_eq!(
            shown,
            [
                "web:1 sha256:a on 2, 2 in all",
                "web:1 sha256:b on 1, 1 in all",
                "web:latest sha256:a on 1, 1 in all"
            ]
        );
    }
}
