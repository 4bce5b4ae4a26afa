//! Calls of clients without sessions that wait for an answer the client has to give: at a server of the session era, or
//! among our own operations.
//!
//! Who was asked for something goes on existing and waits. The client is answered `input_required`, and comes back with
//! another request that brings its answers and names the call. Who names it has to be who made it, and has to mean the
//! same.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::connection::Connection;
use crate::frame::Raw;
use crate::upstream::Exchange;

/// How a state of ours begins; others are the servers' own.
const PREFIX: &str = "mcp-orch:";
/// Of one user: a client that never comes back must not fill the memory.
const MAX_OF_USER: usize = 256;

/// A request under way at a server.
pub struct UnderWay {
    pub exchange: Exchange,
    pub connection: Connection,
    pub deadline: Instant,
}

/// A question of the server, under the name that the client's answer will have.
pub struct Asked {
    pub name: String,
    /// As the server gave it.
    pub id: Raw,
}

/// A call at a server behind, and what it waits for.
pub struct Waiting {
    pub under_way: UnderWay,
    pub asked: Vec<Asked>,
}

/// No call waits under the state that was named: it was answered, is too late, or is another's.
#[derive(Clone, Copy, Debug)]
pub struct Gone;

impl Gone {
    /// What a client is told, as an error of the code -32602.
    pub const MESSAGE: &str = "no call waits under this `requestState`: it was answered, is too late, or is not yours; \
                               call again without it";
}

/// `T` is what is kept of a call. Dropped, it is cancelled.
pub struct Parked<T> {
    /// Invariant: has every call that waits for its client, and perhaps some that are too late.
    calls: Mutex<HashMap<String, Kept<T>>>,
}

struct Kept<T> {
    call: T,
    deadline: Instant,
    user: Arc<str>,
    target: String,
}

impl<T> Default for Parked<T> {
    fn default() -> Parked<T> {
        Parked { calls: Mutex::default() }
    }
}

impl<T> Parked<T> {
    /// Keeps a call until its deadline; the answer names it, and is random. None: the user has too many. `target` is what
    /// the client has to mean again.
    pub fn park(
        &self,
        call: T,
        deadline: Instant,
        user: &Arc<str>,
        target: &str,
    ) -> Option<String> {
        let mut secret = [0; 16];
        getrandom::fill(&mut secret).ok()?;
        let state = format!("{PREFIX}{}", hex(&secret));
        let kept = Kept { call, deadline, user: user.clone(), target: target.to_owned() };
        self.sweep();
        let mut calls = self.calls.lock();
        if MAX_OF_USER <= calls.values().filter(|it| it.user == *user).count() {
            return None;
        }
        calls.insert(state.clone(), kept);
        Some(state)
    }

    /// Gives up those whose clients did not come back in time.
    pub fn sweep(&self) {
        let now = Instant::now();
        let late: Vec<_> = self.calls.lock().extract_if(|_, it| it.deadline <= now).collect();
        // What ends with them is none of the lock's business.
        drop(late);
    }

    /// Gives up all of them.
    pub fn clear(&self) {
        let calls = std::mem::take(&mut *self.calls.lock());
        drop(calls);
    }

    /// Whether a state is one of ours at all.
    pub fn is_ours(state: &str) -> bool {
        state.starts_with(PREFIX)
    }

    /// The call that waits under `state`, which is good for once. None: there is none such of this user and this target.
    pub fn take(&self, state: &str, user: &str, target: &str) -> Option<T> {
        let mut calls = self.calls.lock();
        let now = Instant::now();
        let is_it = calls
            .get(state)
            .is_some_and(|it| &*it.user == user && it.target == target && now < it.deadline);
        if is_it { calls.remove(state).map(|it| it.call) } else { None }
    }

    pub fn n_waiting(&self) -> usize {
        self.calls.lock().len()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|it| format!("{it:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_call_is_taken_once_and_in_time_by_whom_it_belongs_to() {
        let parked = Parked::<u8>::default();
        let (ada, deadline) = (Arc::from("ada"), Instant::now() + Duration::from_secs(60));
        let state = parked.park(1, deadline, &ada, "launch").unwrap();
        assert!(Parked::<u8>::is_ours(&state));
        assert_eq!(parked.take(&state, "bob", "launch"), None);
        assert_eq!(parked.take(&state, "ada", "terminate"), None);
        assert_eq!(parked.take(&state, "ada", "launch"), Some(1));
        assert_eq!(parked.take(&state, "ada", "launch"), None);
        let late = parked.park(2, Instant::now(), &ada, "launch").unwrap();
        assert_eq!(parked.take(&late, "ada", "launch"), None);
        parked.sweep();
        assert_eq!(parked.n_waiting(), 0);
    }

    #[tokio::test]
    async fn nobody_fills_the_memory() {
        let parked = Parked::<u8>::default();
        let (ada, bob) = (Arc::from("ada"), Arc::from("bob"));
        let deadline = Instant::now() + Duration::from_secs(60);
        for _ in 0..MAX_OF_USER {
            assert!(parked.park(0, deadline, &ada, "").is_some());
        }
        assert!(parked.park(0, deadline, &ada, "").is_none());
        assert!(parked.park(0, deadline, &bob, "").is_some());
        parked.clear();
        assert!(parked.park(0, deadline, &ada, "").is_some());
    }
}
