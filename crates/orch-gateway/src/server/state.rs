//! How a server is, what is told about it, and a connection that is closed unless it is used.

use std::sync::Arc;

use orch_domain::time::Timestamp;
use tokio_util::task::TaskTracker;

use crate::catalog::List;
use crate::frame::Frame;
use crate::safety::pin::Flag;
use crate::upstream::Link;

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
    Failed { reason: String, next_retry: Timestamp },
}

pub(crate) struct CloseOnDrop {
    link: Option<Arc<dyn Link>>,
    tasks: TaskTracker,
}

impl CloseOnDrop {
    pub(crate) fn new(link: Arc<dyn Link>, tasks: &TaskTracker) -> CloseOnDrop {
        CloseOnDrop { link: Some(link), tasks: tasks.clone() }
    }

    pub(crate) fn keep(mut self) {
        self.link = None;
    }
}

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        if let Some(link) = self.link.take() {
            self.tasks.spawn(async move { link.close().await });
        }
    }
}
