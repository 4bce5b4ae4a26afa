//! One worker per instance at a time, and word of how far it is.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use orch_domain::name::{InstanceId, NodeId};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::service::start_queue::StartQueue;

/// The instances being settled, and the queue of each node for starts.
pub struct Flights {
    /// Invariant: an entry exists exactly while a task settles that instance.
    in_flight: Mutex<HashMap<InstanceId, Arc<Flight>>>,
    start_queues: Mutex<HashMap<NodeId, Arc<StartQueue>>>,
    starts_per_node: usize,
}

/// Shared between the task that settles an instance and those who wait for it.
pub struct Flight {
    /// The record changed: what is being done may not be wanted any more.
    pub changed: Notify,
    pub phase: watch::Sender<Phase>,
    /// Its container ended while it was worked on, perhaps after the step that started it.
    pub has_ended: AtomicBool,
    /// How often this launch had to move to other host ports.
    pub n_port_moves: AtomicU32,
}

/// What a waiting caller is shown.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Phase {
    pub message: String,
    pub done: u64,
    pub total: u64,
}

impl Flight {
    pub fn say(&self, message: impl Into<String>) {
        self.phase.send_replace(Phase { message: message.into(), done: 0, total: 0 });
    }
}

impl Flights {
    pub fn new(starts_per_node: usize) -> Flights {
        Flights { in_flight: Mutex::default(), start_queues: Mutex::default(), starts_per_node }
    }

    /// A flight to run, or `None` when one runs already; that one is told to look again.
    pub fn begin(&self, id: &InstanceId) -> Option<Arc<Flight>> {
        let mut in_flight = self.in_flight.lock();
        if let Some(flight) = in_flight.get(id) {
            flight.changed.notify_one();
            return None;
        }
        let flight = Arc::new(Flight {
            changed: Notify::new(),
            phase: watch::Sender::new(Phase::default()),
            has_ended: AtomicBool::new(false),
            n_port_moves: AtomicU32::new(0),
        });
        in_flight.insert(id.clone(), flight.clone());
        Some(flight)
    }

    /// Ends the flight unless `is_wanted` says there is more to do. Asked under the lock, so that a request that comes
    /// at this moment either is seen here or begins a flight of its own.
    pub fn end_unless(&self, id: &InstanceId, is_wanted: impl FnOnce() -> bool) -> bool {
        let mut in_flight = self.in_flight.lock();
        if is_wanted() {
            return false;
        }
        in_flight.remove(id);
        true
    }

    pub fn end(&self, id: &InstanceId) {
        self.in_flight.lock().remove(id);
    }

    /// Leaves word with the flight of `id` that its container ended, to be looked into when it is done. False: there is
    /// none.
    pub fn tell_end(&self, id: &InstanceId) -> bool {
        let in_flight = self.in_flight.lock();
        let flight = in_flight.get(id);
        flight.inspect(|it| it.has_ended.store(true, Ordering::Relaxed)).is_some()
    }

    pub fn is_in_flight(&self, id: &InstanceId) -> bool {
        self.in_flight.lock().contains_key(id)
    }

    pub fn phase(&self, id: &InstanceId) -> Option<watch::Receiver<Phase>> {
        self.in_flight.lock().get(id).map(|it| it.phase.subscribe())
    }

    pub fn start_queue(&self, node_id: &NodeId) -> Arc<StartQueue> {
        let mut queues = self.start_queues.lock();
        queues
            .entry(node_id.clone())
            .or_insert_with(|| Arc::new(StartQueue::new(self.starts_per_node)))
            .clone()
    }
}
