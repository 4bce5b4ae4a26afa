//! What happens in the cluster, as word about resources. One task looks at each event once, for all subscribers.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use orch_core::Orch;
use orch_core::event::Subject;
use orch_domain::name::{InstanceId, NodeId, UserId};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Change {
    /// Only `owner` and administrators may hear of it.
    Instance {
        id: InstanceId,
        owner: UserId,
        list_changed: bool,
    },
    Node {
        id: NodeId,
        list_changed: bool,
    },
    Cluster,
    /// More happened than was kept: anything may have changed.
    Everything,
}

/// Started by the first who listens, so that a server without subscribers does nothing here.
#[derive(Default)]
pub(super) struct Changes {
    word: OnceLock<Arc<Word>>,
}

struct Word {
    sender: broadcast::Sender<Change>,
    n_changes: AtomicU64,
}

impl Changes {
    fn word(&self, orch: &Arc<Orch>) -> &Arc<Word> {
        self.word.get_or_init(|| {
            let word = Arc::new(Word {
                sender: broadcast::Sender::new(1024),
                n_changes: AtomicU64::new(0),
            });
            // Before the snapshot, so that nothing falls between the two.
            let events = orch.events.subscribe();
            let listed = Listed::of(orch);
            orch.tracker.spawn(watch(orch.clone(), events, listed, word.clone()));
            word
        })
    }

    pub(super) fn subscribe(&self, orch: &Arc<Orch>) -> broadcast::Receiver<Change> {
        self.word(orch).sender.subscribe()
    }

    /// How many there were. Who subscribes later than it asked can tell whether it missed one.
    pub(super) fn count(&self, orch: &Arc<Orch>) -> u64 {
        self.word(orch).n_changes.load(Ordering::SeqCst)
    }
}

/// What `resources/list` showed last, to tell when it changes.
struct Listed {
    instances: HashMap<InstanceId, UserId>,
    nodes: HashSet<NodeId>,
}

impl Listed {
    fn of(orch: &Orch) -> Listed {
        orch.ledger.read(|book| Listed {
            instances: book
                .instances_after(None)
                .filter(|it| it.state.holds_reservation())
                .map(|it| (it.id.clone(), it.owner.clone()))
                .collect(),
            nodes: book.slots().map(|it| it.node.id.clone()).collect(),
        })
    }

    fn change(&mut self, orch: &Orch, subject: Subject) -> Option<Change> {
        match subject {
            Subject::Instance(id) => {
                let now = orch.ledger.read(|book| {
                    book.instance(&id).map(|it| (it.owner.clone(), it.state.holds_reservation()))
                });
                let before = self.instances.get(&id).cloned();
                let is_listed = now.as_ref().is_some_and(|(_, is_live)| *is_live);
                let list_changed = is_listed != before.is_some();
                let owner = now.map(|(owner, _)| owner).or(before)?;
                if is_listed {
                    self.instances.insert(id.clone(), owner.clone());
                } else {
                    self.instances.remove(&id);
                }
                Some(Change::Instance { id, owner, list_changed })
            }
            Subject::Node(id) => {
                let is_listed = orch.ledger.read(|book| book.slot(&id).is_some());
                let list_changed =
                    if is_listed { self.nodes.insert(id.clone()) } else { self.nodes.remove(&id) };
                Some(Change::Node { id, list_changed })
            }
            Subject::Cluster => Some(Change::Cluster),
            _ => None,
        }
    }
}

async fn watch(
    orch: Arc<Orch>,
    mut events: broadcast::Receiver<Subject>,
    mut listed: Listed,
    word: Arc<Word>,
) {
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            () = orch.shutdown.cancelled() => return,
        };
        let change = match event {
            Ok(subject) => listed.change(&orch, subject),
            Err(RecvError::Lagged(_)) => {
                listed = Listed::of(&orch);
                Some(Change::Everything)
            }
            Err(RecvError::Closed) => return,
        };
        if let Some(change) = change {
            // Counted first: who subscribes between the two counts it as missed, and hears of it besides.
            word.n_changes.fetch_add(1, Ordering::SeqCst);
            // Without a receiver there is nobody to tell.
            word.sender.send(change).ok();
        }
    }
}
