//! Limits how many containers start on one node at the same time, and shares the turns fairly between owners.
//!
//! An engine starts containers nearly one after the other, so a hundred starts of one user would make everybody else
//! wait behind them. Here whoever waits is served round robin over the owners, and first come first served within one.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use orch_domain::name::UserId;
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// One per node. Cheap to clone; clones are the same queue.
#[derive(Clone)]
pub struct StartQueue {
    state: Arc<Mutex<State>>,
}

/// Invariant: nobody waits while a permit is free, and `turns` names each owner that waits exactly once.
struct State {
    free: usize,
    next_ticket: u64,
    turns: VecDeque<UserId>,
    waiting: HashMap<UserId, VecDeque<Waiter>>,
}

struct Waiter {
    ticket: u64,
    /// Carries the permit itself: when the receiver goes away with it unread, it is given back.
    call: oneshot::Sender<Permit>,
}

/// The right to start one container. Dropping it calls the next in the queue.
pub struct Permit {
    state: Arc<Mutex<State>>,
    is_live: bool,
}

impl StartQueue {
    /// `cap` of 0 is taken as 1: a queue that never moves serves nobody.
    pub fn new(cap: usize) -> StartQueue {
        StartQueue {
            state: Arc::new(Mutex::new(State {
                free: cap.max(1),
                next_ticket: 0,
                turns: VecDeque::new(),
                waiting: HashMap::new(),
            })),
        }
    }

    /// Waits for a turn. Dropping the future leaves the queue.
    pub async fn enter(&self, owner: &UserId) -> Permit {
        let (ticket, called) = {
            let mut state = self.state.lock();
            if 0 < state.free {
                state.free -= 1;
                return Permit::new(&self.state);
            }
            state.join(owner)
        };
        let _place = Place { state: &self.state, owner, ticket };
        match called.await {
            Ok(permit) => permit,
            // The sender is in the queue, which we hold, until it is called.
            Err(_) => unreachable!("a waiter leaves the queue only when called or dropped"),
        }
    }

    pub fn n_waiting(&self) -> usize {
        self.state.lock().waiting.values().map(VecDeque::len).sum()
    }
}

impl State {
    fn join(&mut self, owner: &UserId) -> (u64, oneshot::Receiver<Permit>) {
        let (call, called) = oneshot::channel();
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let line = self.waiting.entry(owner.clone()).or_default();
        if line.is_empty() {
            self.turns.push_back(owner.clone());
        }
        line.push_back(Waiter { ticket, call });
        (ticket, called)
    }

    fn leave(&mut self, owner: &UserId, ticket: u64) {
        let Some(line) = self.waiting.get_mut(owner) else { return };
        line.retain(|it| it.ticket != ticket);
        if line.is_empty() {
            self.waiting.remove(owner);
            self.turns.retain(|it| it != owner);
        }
    }

    fn next(&mut self) -> Option<Waiter> {
        let owner = self.turns.pop_front()?;
        let line = self.waiting.get_mut(&owner)?;
        let waiter = line.pop_front();
        if line.is_empty() {
            self.waiting.remove(&owner);
        } else {
            self.turns.push_back(owner);
        }
        waiter
    }
}

impl Permit {
    fn new(state: &Arc<Mutex<State>>) -> Permit {
        Permit { state: Arc::clone(state), is_live: true }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.is_live {
            return;
        }
        loop {
            let waiter = {
                let mut state = self.state.lock();
                match state.next() {
                    Some(it) => it,
                    None => {
                        state.free += 1;
                        return;
                    }
                }
            };
            // Sent without the lock: a receiver that is gone hands the permit back, to be tried on the next one.
            match waiter.call.send(Permit::new(&self.state)) {
                Ok(()) => return,
                Err(mut refused) => refused.is_live = false,
            }
        }
    }
}

/// Takes a waiter out of the queue when its future is dropped.
struct Place<'a> {
    state: &'a Mutex<State>,
    owner: &'a UserId,
    ticket: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.state.lock().leave(self.owner, self.ticket);
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::Pin;

    use futures::FutureExt;

    use super::*;

    type Entry<'a> = Pin<Box<dyn Future<Output = Permit> + Send + 'a>>;

    fn user(name: &str) -> UserId {
        UserId::try_new(name).unwrap()
    }

    /// Polls once, so that it stands in the queue from then on.
    fn queued<'a>(queue: &'a StartQueue, owner: &'a UserId) -> Entry<'a> {
        let mut entry: Entry<'a> = Box::pin(queue.enter(owner));
        assert!(entry.as_mut().now_or_never().is_none(), "there was a free permit");
        entry
    }

    fn take(entry: &mut Entry<'_>) -> Option<Permit> {
        entry.as_mut().now_or_never()
    }

    #[test]
    fn owners_take_turns_however_many_each_has() {
        let queue = StartQueue::new(1);
        let (ann, bob) = (user("ann"), user("bob"));
        let mut permit = queue.enter(&ann).now_or_never().unwrap();
        let mut waiting: Vec<(&str, Option<Entry<'_>>)> = Vec::new();
        for name in ["ann 1", "ann 2", "ann 3", "bob 1", "bob 2"] {
            let owner = if name.starts_with("ann") { &ann } else { &bob };
            waiting.push((name, Some(queued(&queue, owner))));
        }
        let mut order = Vec::new();
        while order.len() < 5 {
            drop(permit);
            let mut called: Vec<(&str, Permit)> = Vec::new();
            for (name, slot) in &mut waiting {
                let Some(entry) = slot else { continue };
                if let Some(it) = take(entry) {
                    *slot = None;
                    called.push((name, it));
                }
            }
            assert_eq!(called.len(), 1, "one permit calls one waiter");
            let (name, next) = called.remove(0);
            order.push(name);
            permit = next;
        }
        assert_eq!(order, ["ann 1", "bob 1", "ann 2", "bob 2", "ann 3"]);
        drop(permit);
        assert!(queue.enter(&ann).now_or_never().is_some(), "the permit came back");
    }

    #[test]
    fn never_more_than_the_cap() {
        let queue = StartQueue::new(2);
        let ann = user("ann");
        let first = queue.enter(&ann).now_or_never().unwrap();
        let second = queue.enter(&ann).now_or_never().unwrap();
        let mut third = queued(&queue, &ann);
        drop(first);
        let third_permit = take(&mut third).unwrap();
        let _fourth = queued(&queue, &ann);
        drop((second, third_permit));
    }

    #[test]
    fn a_dropped_waiter_leaves_at_once() {
        let queue = StartQueue::new(1);
        let (ann, bob) = (user("ann"), user("bob"));
        let permit = queue.enter(&ann).now_or_never().unwrap();
        let gone = queued(&queue, &ann);
        let mut waits = queued(&queue, &bob);
        assert_eq!(queue.n_waiting(), 2);
        drop(gone);
        assert_eq!(queue.n_waiting(), 1);
        drop(permit);
        assert!(take(&mut waits).is_some());
    }

    #[test]
    fn a_waiter_dropped_after_it_was_called_passes_the_permit_on() {
        let queue = StartQueue::new(1);
        let (ann, bob) = (user("ann"), user("bob"));
        let permit = queue.enter(&ann).now_or_never().unwrap();
        let called = queued(&queue, &ann);
        let mut waits = queued(&queue, &bob);
        drop(permit);
        assert!(take(&mut waits).is_none(), "it is ann's turn");
        drop(called);
        assert!(take(&mut waits).is_some());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_permit_is_lost_under_racing_cancellation() {
        let queue = StartQueue::new(3);
        let users: Vec<UserId> = (0..4).map(|it| user(&format!("u{it}"))).collect();
        let tasks = tokio_util::task::TaskTracker::new();
        for round in 0..400u32 {
            let (queue, owner) = (queue.clone(), users[round as usize % 4].clone());
            tasks.spawn(async move {
                let mut entry = Box::pin(queue.enter(&owner));
                for _ in 0..round % 7 {
                    if let Some(permit) = entry.as_mut().now_or_never() {
                        tokio::task::yield_now().await;
                        drop(permit);
                        return;
                    }
                    tokio::task::yield_now().await;
                }
                if round % 3 != 0 {
                    drop(entry.await);
                }
            });
        }
        tasks.close();
        tasks.wait().await;
        let ann = user("ann");
        let permits: Vec<Permit> =
            (0..3).map(|_| queue.enter(&ann).now_or_never().unwrap()).collect();
        assert_eq!((permits.len(), queue.n_waiting()), (3, 0));
    }
}
