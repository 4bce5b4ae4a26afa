//! A caller's request among those that a server has under way: its place in the queue, and what is counted of it.

use tokio::sync::OwnedSemaphorePermit;

use super::metric::Call;
use crate::frame::Frame;
use crate::server::Server;
use crate::upstream::LinkError;

/// Held until the request is answered, lost or withdrawn; then it is the next one's.
pub(crate) struct Turn {
    call: Option<Call>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Server {
    /// Waits until one more may be under way, in the order they came. Whoever stops waiting is out of the queue.
    pub(crate) async fn turn(&self, method: &str) -> Turn {
        if !is_call(method) {
            return Turn { call: None, _permit: None };
        }
        let call = Some(Call::begin(self.name.clone()));
        let permit = match &self.turns {
            // Never closed.
            Some(it) => it.clone().acquire_owned().await.ok(),
            None => None,
        };
        Turn { call, _permit: permit }
    }
}

impl Turn {
    pub(crate) fn end(self, answer: Result<&Frame, &LinkError>) {
        if let Some(call) = self.call {
            call.end(answer);
        }
    }
}

/// What a caller asks for and waits for; a subscription may last for days.
fn is_call(method: &str) -> bool {
    matches!(method, "tools/call" | "prompts/get" | "resources/read" | "completion/complete")
}
