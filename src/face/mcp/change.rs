//! What happens in the cluster, as word about resources. One task looks at each event once, for all subscribers.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use orch_core::Orch;
use orch_core::event::Subject;
use orch_core::service::event_log::{Followed, Follower};
use orch_domain::event::{Event, SubjectType};
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
    /// What has no resource of its own; with an owner only they and administrators may hear of it.
    Other {
        owner: Option<UserId>,
    },
    /// The health sweep finished.
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
            let log = orch.ledger.log();
            let events = log.follow(log.extent().newest);
            let sweeps = orch.events.subscribe();
            let listed = Listed::of(orch);
            orch.tracker.spawn(watch(orch.clone(), events, sweeps, listed, word.clone()));
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
    instances: HashSet<InstanceId>,
    nodes: HashSet<NodeId>,
}

impl Listed {
    fn of(orch: &Orch) -> Listed {
        orch.ledger.read(|book| Listed {
            instances: book
                .instances_after(None)
                .filter(|it| it.state.holds_reservation())
                .map(|it| it.id.clone())
                .collect(),
            nodes: book.slots().map(|it| it.node.id.clone()).collect(),
        })
    }

    fn change(&mut self, orch: &Orch, event: &Event) -> Option<Change> {
        let (id, owner) = (event.subject.id.as_str(), event.owner.clone());
        match event.subject.kind {
            SubjectType::Instance => {
                let (id, owner) = (InstanceId::try_new(id).ok()?, owner?);
                let is_listed = orch
                    .ledger
                    .read(|book| book.instance(&id).is_some_and(|it| it.state.holds_reservation()));
                let list_changed = match is_listed {
                    true => self.instances.insert(id.clone()),
                    false => self.instances.remove(&id),
                };
                Some(Change::Instance { id, owner, list_changed })
            }
            SubjectType::Node => {
                let id = NodeId::try_new(id).ok()?;
                let is_listed = orch.ledger.read(|book| book.slot(&id).is_some());
                let list_changed =
                    if is_listed { self.nodes.insert(id.clone()) } else { self.nodes.remove(&id) };
                Some(Change::Node { id, list_changed })
            }
            _ => Some(Change::Other { owner }),
        }
    }
}

async fn watch(
    orch: Arc<Orch>,
    mut events: Follower,
    mut sweeps: broadcast::Receiver<Subject>,
    mut listed: Listed,
    word: Arc<Word>,
) {
    loop {
        let changes = tokio::select! {
            followed = events.next() => match followed {
                Followed::Events(events) => {
                    events.iter().filter_map(|it| listed.change(&orch, it)).collect()
                }
                Followed::Missed(_) => {
                    listed = Listed::of(&orch);
                    vec![Change::Everything]
                }
            },
            // Only of sweeps; the rest comes as events.
            subject = sweeps.recv() => match subject {
                Ok(Subject::Cluster) | Err(RecvError::Lagged(_)) => vec![Change::Cluster],
                Ok(_) => continue,
                Err(RecvError::Closed) => return,
            },
            () = orch.shutdown.cancelled() => return,
        };
        for change in changes {
            // Counted first: who subscribes between the two counts it as missed, and hears of it besides.
            word.n_changes.fetch_add(1, Ordering::SeqCst);
            // Without a receiver there is nobody to tell.
            word.sender.send(change).ok();
        }
    }
}
