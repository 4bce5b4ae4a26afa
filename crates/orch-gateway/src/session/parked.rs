//! Calls of clients without sessions that wait, at a server of the session era, for an answer the client has to give.
//!
//! The server asks and waits. The client is answered `input_required`, and comes back with another request that brings
//! its answers and names the call. Who names it has to be who made it, and has to mean the same.

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

pub struct Waiting {
    pub under_way: UnderWay,
    pub asked: Vec<Asked>,
    user: Arc<str>,
    target: String,
}

/// No call waits under the state that was named: it was answered, is too late, or is another's.
#[derive(Clone, Copy, Debug)]
pub struct Gone;

#[derive(Default)]
pub struct Parked {
    /// Invariant: has every call that waits for its client, and perhaps some that are too late.
    calls: Mutex<HashMap<String, Waiting>>,
}

impl Parked {
    /// Keeps a call until its deadline; the answer names it. None: the user has too many.
    pub fn park(
        &self,
        under_way: UnderWay,
        asked: Vec<Asked>,
        user: &Arc<str>,
        target: &str,
    ) -> Option<String> {
        let mut secret = [0; 16];
        getrandom::fill(&mut secret).ok()?;
        let state = format!("{PREFIX}{}", hex(&secret));
        let waiting = Waiting { under_way, asked, user: user.clone(), target: target.to_owned() };
        {
            let mut calls = self.calls.lock();
            calls.retain(|_, it| Instant::now() < it.under_way.deadline);
            if MAX_OF_USER <= calls.values().filter(|it| it.user == *user).count() {
                return None;
            }
            calls.insert(state.clone(), waiting);
        }
        Some(state)
    }

    /// Gives up those whose clients did not come back in time: dropped, they are cancelled at their servers.
    pub fn sweep(&self) {
        self.calls.lock().retain(|_, it| Instant::now() < it.under_way.deadline);
    }

    /// Whether a state is one of ours at all.
    pub fn is_ours(state: &str) -> bool {
        state.starts_with(PREFIX)
    }

    /// The call that waits under `state`. None: there is none such of this user and this target.
    pub fn take(&self, state: &str, user: &str, target: &str) -> Option<Waiting> {
        let mut calls = self.calls.lock();
        let is_it = calls.get(state).is_some_and(|it| &*it.user == user && it.target == target);
        if is_it { calls.remove(state) } else { None }
    }

    pub fn n_waiting(&self) -> usize {
        self.calls.lock().len()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|it| format!("{it:02x}")).collect()
}
