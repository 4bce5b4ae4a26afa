//! A node is emptied: cordoned, and its instances moved, stopped or terminated.

use std::sync::Arc;

use orch_domain::Error;
use orch_domain::caller::Permission;
use orch_domain::instance::{Action, InstanceState};
use orch_domain::name::{InstanceId, InstanceName, NodeId, UserId};
use orch_domain::node_loss::SeenState;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::operation::{Operation, Route, Spec, Summary, spec};
use crate::service::launch::is_done;
use crate::service::nodes::Emptied;
use crate::view::node::NodeView;
use crate::view::table::table;
use crate::{Cx, Orch};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DrainNode {
    pub node_id: NodeId,
    /// What becomes of its instances.
    #[serde(default)]
    pub action: DrainAction,
    /// Answer when all of them rest; false answers as soon as the requests are durable.
    #[serde(default = "super::yes")]
    pub wait: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DrainAction {
    /// They keep their place on the node and can be started again.
    #[default]
    Stop,
    /// Those that run are started anew on other nodes, whatever their `on_node_loss`. Each is stopped and removed here
    /// first, and its files do not go along; on a node that does not answer, that is done when it is back.
    Move,
    /// They end for good, and the node can be removed.
    Terminate,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct DrainedNode {
    /// Cordoned now.
    pub node: NodeView,
    pub action: DrainAction,
    /// Every instance the node held, oldest first.
    pub instances: Vec<DrainedInstance>,
    /// How many are not there yet, or were refused.
    pub n_left: usize,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct DrainedInstance {
    pub id: InstanceId,
    pub name: InstanceName,
    pub owner: UserId,
    pub state: SeenState,
    /// With `move`: the node that has it now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub moved_to: Option<NodeId>,
    /// Whether it is where it was to go.
    pub is_done: bool,
    /// Code of the error, when it was refused or failed.
    pub error: Option<String>,
    /// The same in words.
    pub message: Option<String>,
}

impl Summary for DrainedNode {
    fn summary(&self) -> String {
        let id = &self.node.id;
        if self.instances.is_empty() {
            return format!("node `{id}` is cordoned and held no instances");
        }
        let n_done = self.instances.len() - self.n_left;
        let head = format!("node `{id}` is cordoned; {n_done} of {} done", self.instances.len());
        let row = |it: &DrainedInstance| {
            let moved = it.moved_to.as_ref().map(|it| format!("moved to {it}"));
            let message = it.message.clone().or(moved).unwrap_or_default();
            [
                it.id.to_string(),
                it.name.to_string(),
                it.owner.to_string(),
                it.state.to_string(),
                message,
            ]
        };
        let rows = table(["ID", "NAME", "OWNER", "STATE", ""], self.instances.iter().map(row));
        format!("{head}\n{rows}")
    }
}

impl Operation for DrainNode {
    const SPEC: Spec = spec!(
        "drain_node",
        Nodes,
        Destroys,
        Some(Permission::Admin),
        [Route::post("/cluster/nodes/{node_id}/drain")]
    );
    type Output = DrainedNode;

    async fn run(self, orch: &Arc<Orch>, cx: &Cx) -> Result<DrainedNode, Error> {
        // First, so that nothing new arrives while the rest leaves.
        orch.set_cordon(cx, &self.node_id, true).await?;
        let (id, wait) = (&self.node_id, self.wait);
        let emptied = match self.action {
            DrainAction::Stop => orch.empty_node(cx, id, Action::Stop, wait).await?,
            DrainAction::Terminate => orch.empty_node(cx, id, Action::Terminate, wait).await?,
            DrainAction::Move => orch.move_all(cx, id, wait).await?,
        };
        let instances: Vec<DrainedInstance> =
            emptied.into_iter().filter_map(|it| self.drained(orch, it)).collect();
        Ok(DrainedNode {
            node: orch.node_view(&self.node_id)?,
            action: self.action,
            n_left: instances.iter().filter(|it| !it.is_done).count(),
            instances,
        })
    }
}

impl DrainNode {
    /// None: its record is gone, with the hour that it is kept.
    fn drained(&self, orch: &Orch, emptied: Emptied) -> Option<DrainedInstance> {
        let (instance, state) = orch.ledger.read(|book| {
            let instance = book.instance(&emptied.id)?.clone();
            let state = book.seen_state(&instance);
            Some((instance, state))
        })?;
        let has_moved = instance.node_id != self.node_id;
        let is_done = match self.action {
            DrainAction::Stop => {
                matches!(instance.state, InstanceState::Stopped | InstanceState::Terminated)
            }
            DrainAction::Move => {
                instance.state == InstanceState::Terminated
                    || has_moved && instance.state == InstanceState::Running
                    || has_moved && is_done(&instance)
            }
            DrainAction::Terminate => instance.state == InstanceState::Terminated,
        };
        // What ended by itself is done, whatever was said about it on the way.
        let refusal = emptied.refusal.filter(|_| !is_done);
        Some(DrainedInstance {
            id: instance.id.clone(),
            name: instance.name.clone(),
            owner: instance.owner.clone(),
            state,
            moved_to: has_moved.then(|| instance.node_id.clone()),
            is_done,
            error: refusal.as_ref().map(|it| it.code().as_str().to_owned()),
            message: refusal.map(|it| it.to_string()),
        })
    }
}
