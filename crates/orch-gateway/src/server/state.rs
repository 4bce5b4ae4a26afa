//! How a server is, and what is told about it.

use std::sync::Arc;

use orch_domain::time::Timestamp;

use crate::catalog::List;
use crate::frame::Frame;
use crate::safety::pin::Flag;

/// Something a listener may want to know of a server.
#[derive(Clone, Debug)]
pub enum Change {
    State {
        server: Arc<str>,
    },
    List {
        server: Arc<str>,
        list: List,
    },
    /// A tool is not what it was when it was first seen.
    Flagged {
        server: Arc<str>,
        flag: Flag,
    },
    /// A notification that goes on as it came: log messages, updates of resources.
    Notification {
        server: Arc<str>,
        frame: Arc<Frame>,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub enum State {
    Disabled,
    Connecting,
    Ready,
    /// Connected and called, but what it offers could not be read again: what is shown is old.
    Degraded {
        reason: String,
    },
    Failed {
        reason: String,
        next_retry: Timestamp,
    },
    /// It takes nobody without a login, and nobody is logged in.
    NeedsLogin {
        reason: String,
    },
}
