//! An image is fetched onto nodes before anybody launches it there.

use std::collections::BTreeSet;
use std::sync::Arc;

use orch_domain::Error;
use orch_domain::caller::Permission;
use orch_domain::image::ImageRef;
use orch_domain::name::{NodeId, Tag};
use orch_domain::node::{Node, Role};
use orch_domain::registry::RegistryHost;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::operation::{Operation, Route, Spec, Summary, spec};
use crate::service::engines::engine_error;
use crate::service::pull::NodePull;
use crate::view::table::table;
use crate::{Cx, Orch};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PullImage {
    /// Such as `nginx:alpine` or `registry.example:5000/team/app:1.2`.
    pub image: ImageRef,
    /// On these nodes, as `list_nodes` names them.
    #[serde(default)]
    pub node_ids: BTreeSet<NodeId>,
    /// On every node, cordoned ones too.
    #[serde(default)]
    pub all: bool,
    /// On the nodes of this role.
    pub role: Option<Role>,
    /// On the nodes that carry all these tags; with `role`, on those of that role.
    #[serde(default)]
    pub tags: BTreeSet<Tag>,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct PullReport {
    pub image: ImageRef,
    /// Where it came from.
    pub registry: RegistryHost,
    /// What the registry calls this content; null when nodes got different content or no engine told.
    pub digest: Option<String>,
    /// By id.
    pub nodes: Vec<NodeOutcome>,
    pub n_pulled: usize,
    pub n_up_to_date: usize,
    pub n_failed: usize,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct NodeOutcome {
    pub node_id: NodeId,
    pub outcome: PullOutcome,
    /// What the registry calls the content that the node has now.
    pub digest: Option<String>,
    pub size_bytes: Option<u64>,
    pub elapsed_ms: u64,
    /// Code of the error, when it failed.
    pub error: Option<String>,
    /// The same in words.
    pub message: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PullOutcome {
    /// The node has it now.
    Pulled,
    /// The node had exactly what the registry has.
    UpToDate,
    /// The node has what it had before, if anything.
    Failed,
}

impl Summary for PullReport {
    fn summary(&self) -> String {
        let mut text = format!(
            "`{}`: pulled on {}, up to date on {}, failed on {} of {} nodes",
            self.image,
            self.n_pulled,
            self.n_up_to_date,
            self.n_failed,
            self.nodes.len()
        );
        if let Some(digest) = &self.digest {
            text.push_str(&format!("\n{digest}"));
        }
        let row = |it: &NodeOutcome| {
            let size = it.size_bytes.map(|it| format!("{:.1} MiB", it as f64 / f64::from(1 << 20)));
            let outcome = match it.outcome {
                PullOutcome::Pulled => "pulled",
                PullOutcome::UpToDate => "up to date",
                PullOutcome::Failed => "failed",
            };
            let message = it.message.clone().unwrap_or_default();
            [it.node_id.to_string(), outcome.to_owned(), size.unwrap_or_default(), message]
        };
        let rows = table(["NODE", "OUTCOME", "SIZE", ""], self.nodes.iter().map(row));
        format!("{text}\n{rows}")
    }
}

impl Operation for PullImage {
    const SPEC: Spec = spec!(
        "pull_image",
        Cluster,
        Changes,
        // The disks of nodes are under nobody's quota, and a pull fills those of all of them.
        Some(Permission::Admin),
        [Route::post("/dashboard/images/pull")]
    );
    type Output = PullReport;

    async fn run(self, orch: &Arc<Orch>, cx: &Cx) -> Result<PullReport, Error> {
        cx.audit_target(&self.image);
        let nodes = self.nodes(orch)?;
        nodes.iter().for_each(|it| cx.audit_target(&it.id));
        let pulls = orch.pull_on(cx, &self.image, nodes).await?;
        if pulls.iter().all(|it| it.outcome.is_err()) {
            return Err(nowhere(&self.image, pulls));
        }
        let nodes: Vec<NodeOutcome> = pulls.into_iter().map(NodeOutcome::of).collect();
        let n = |wanted| nodes.iter().filter(|it| it.outcome == wanted).count();
        let digests: BTreeSet<&Option<String>> = (nodes.iter())
            .filter(|it| it.outcome != PullOutcome::Failed)
            .map(|it| &it.digest)
            .collect();
        let digest = if digests.len() == 1 { digests.into_iter().next().cloned() } else { None };
        Ok(PullReport {
            registry: self.image.registry(),
            image: self.image,
            digest: digest.flatten(),
            n_pulled: n(PullOutcome::Pulled),
            n_up_to_date: n(PullOutcome::UpToDate),
            n_failed: n(PullOutcome::Failed),
            nodes,
        })
    }
}

impl PullImage {
    /// The nodes that are meant, by id.
    fn nodes(&self, orch: &Orch) -> Result<Vec<Arc<Node>>, Error> {
        let narrowed = self.role.is_some() || !self.tags.is_empty();
        match (self.node_ids.is_empty(), self.all, narrowed) {
            (true, false, false) => {
                return Err(Error::invalid(
                    "node_ids",
                    "say where: `node_ids`, a `role`, `tags`, or `all` set to true; `list_nodes` shows the nodes",
                ));
            }
            (false, false, false) | (true, true, false) | (true, false, true) => {}
            _ => {
                return Err(Error::invalid(
                    "node_ids",
                    "give one of them: `node_ids`, `all`, or `role` and `tags`",
                ));
            }
        }
        let nodes: Vec<Arc<Node>> = orch.ledger.read(|book| {
            if let Some(unknown) = self.node_ids.iter().find(|it| book.slot(it).is_none()) {
                return Err(Error::no_node(unknown));
            }
            let is_meant = |it: &&Arc<Node>| {
                (self.node_ids.is_empty() || self.node_ids.contains(&it.id))
                    && self.role.is_none_or(|role| it.role == role)
                    && self.tags.iter().all(|tag| it.tags.contains(tag))
            };
            Ok(book.slots().map(|it| &it.node).filter(is_meant).cloned().collect())
        })?;
        if nodes.is_empty() {
            let parameter = if !self.tags.is_empty() { "tags" } else { "role" };
            let parameter = if self.all { "all" } else { parameter };
            let message = "no node is meant by this; `list_nodes` shows roles and tags";
            return Err(Error::invalid(parameter, message));
        }
        Ok(nodes)
    }
}

impl NodeOutcome {
    fn of(pull: NodePull) -> NodeOutcome {
        let outcome = match &pull.outcome {
            Ok(it) if it.is_new => PullOutcome::Pulled,
            Ok(_) => PullOutcome::UpToDate,
            Err(_) => PullOutcome::Failed,
        };
        let (pulled, err) = match pull.outcome {
            Ok(it) => (Some(it), None),
            Err(err) => (None, Some(engine_error(&pull.node_id, err))),
        };
        NodeOutcome {
            outcome,
            size_bytes: pulled.as_ref().map(|it| it.size_bytes),
            digest: pulled.and_then(|it| it.digest),
            elapsed_ms: u64::try_from(pull.elapsed.as_millis()).unwrap_or(u64::MAX),
            error: err.as_ref().map(|it| it.code().as_str().to_owned()),
            message: err.map(|it| it.to_string()),
            node_id: pull.node_id,
        }
    }
}

/// Reasons that are told one by one.
const MAX_TOLD: usize = 5;

/// The error of a pull that came to nothing on every node.
fn nowhere(image: &ImageRef, pulls: Vec<NodePull>) -> Error {
    let n_nodes = pulls.len();
    let mut errors: Vec<(NodeId, Error, String)> = pulls
        .into_iter()
        .filter_map(|it| {
            let err = it.outcome.err()?;
            let said = err.to_string();
            Some((it.node_id.clone(), engine_error(&it.node_id, err), said))
        })
        .collect();
    if errors.len() == 1 {
        return errors.remove(0).1;
    }
    let mut told: Vec<String> =
        errors.iter().take(MAX_TOLD).map(|(id, _, said)| format!("`{id}`: {said}")).collect();
    if MAX_TOLD < n_nodes {
        told.push(format!("and {} more", n_nodes - MAX_TOLD));
    }
    let told = told.join("; ");
    let is_missing = |(_, err, _): &(NodeId, Error, String)| matches!(err, Error::NotFound { .. });
    if errors.iter().all(is_missing) {
        return Error::NotFound { kind: "image", id: image.to_string(), hint: told };
    }
    Error::EngineError {
        node_id: errors.remove(0).0,
        message: format!("`{image}` could not be pulled on any of {n_nodes} nodes: {told}"),
        source: told.into(),
    }
}
