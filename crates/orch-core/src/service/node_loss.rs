//! What a lost node means for whoever asks about its instances.

use orch_domain::Error;
use orch_domain::book::Book;
use orch_domain::instance::{Instance, InstanceState};
use orch_domain::name::NodeId;
use orch_domain::node::NodeStatus;

use crate::Orch;
use crate::event::Subject;

impl Orch {
    /// Tells that the instances of a node are seen otherwise than before, when its status went into or out of
    /// `unreachable`.
    pub(crate) fn tell_loss(&self, node_id: &NodeId, before: NodeStatus, after: NodeStatus) {
        let is_lost = |it: NodeStatus| it == NodeStatus::Unreachable;
        if is_lost(before) == is_lost(after) {
            return;
        }
        let ids: Vec<_> = self.ledger.read(|book| {
            book.slot(node_id).map(|it| it.instances.iter().cloned().collect()).unwrap_or_default()
        });
        ids.into_iter().for_each(|it| self.events.publish(Subject::Instance(it)));
    }

    /// A refusal of what needs the node of `instance` while that is lost, instead of a wait for nothing. A node that
    /// answered its last check is asked, though its status does not say so yet.
    pub(crate) fn refuse_if_lost(&self, book: &Book, instance: &Instance) -> Result<(), Error> {
        let Some(since) = self.lost_since(book, instance) else { return Ok(()) };
        let (id, node_id) = (&instance.id, &instance.node_id);
        let hint = format!(
            "{since}. `{id}` keeps its record, its ports and its quota, and what it does is not known. Wait until the \
             node is back (`check_node` tells what fails); or `terminate_instance` it, which is done when the node is \
             back; or let it go to another node, without its files, with `update_instance` and `on_node_loss=reschedule`"
        );
        Err(Error::NodeUnreachable { node_id: node_id.clone(), hint, source: since.into() })
    }

    /// The end of a wait for something that its node would have to do: it was accepted, and nobody knows when the node
    /// is back.
    pub(crate) fn refuse_to_wait(&self, book: &Book, instance: &Instance) -> Result<(), Error> {
        if !matches!(instance.state, InstanceState::Stopping | InstanceState::ShuttingDown) {
            return Ok(());
        }
        let Some(since) = self.lost_since(book, instance) else { return Ok(()) };
        let (id, node_id) = (&instance.id, &instance.node_id);
        let mut hint = format!(
            "{since}. `{id}` stays {} and goes on as soon as the node is back; `get_instance` shows when that is done",
            instance.state
        );
        if let Some(reason) = &instance.state_reason {
            hint = format!("{hint} ({})", reason.message);
        }
        Err(Error::NodeUnreachable { node_id: node_id.clone(), hint, source: since.into() })
    }

    /// In words, since when and with what sign the instance's node is lost.
    fn lost_since(&self, book: &Book, instance: &Instance) -> Option<String> {
        let node = &book.slot(&instance.node_id)?.node;
        let last = self.health.last_check(&node.id);
        let answers = last.as_ref().is_some_and(|it| it.status == NodeStatus::Healthy);
        if node.status != NodeStatus::Unreachable || answers {
            return None;
        }
        let sign = last.and_then(|it| it.message).map(|it| format!(" ({it})")).unwrap_or_default();
        Some(format!("it has not since {}{sign}", node.status_since))
    }
}
