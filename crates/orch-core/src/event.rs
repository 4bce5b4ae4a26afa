//! What changed, told to whoever listens: waiters, resource subscriptions, event streams.

use orch_domain::name::{ApiKeyId, InstanceId, NodeId, UserId};
use tokio::sync::broadcast;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    Instance(InstanceId),
    Node(NodeId),
    User(UserId),
    ApiKey(ApiKeyId),
    /// The health sweep finished.
    Cluster,
}

/// Carries no values: who needs them reads the present state, which is never older than the event.
pub struct Events {
    sender: broadcast::Sender<Subject>,
}

impl Default for Events {
    fn default() -> Events {
        Events { sender: broadcast::Sender::new(4096) }
    }
}

impl Events {
    pub fn publish(&self, subject: Subject) {
        // Without a receiver there is nobody to tell.
        self.sender.send(subject).ok();
    }

    /// A receiver that lags is told so; it should then look at everything.
    pub fn subscribe(&self) -> broadcast::Receiver<Subject> {
        self.sender.subscribe()
    }
}
