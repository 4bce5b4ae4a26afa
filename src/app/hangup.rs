//! SIGHUP: the file of the servers behind is read again, as daemons do with their configuration.

use std::io::IsTerminal;
use std::sync::Arc;

use orch_core::operation::Summary;
use orch_core::ports::tool_server::ToolServers;
use orch_gateway::port::Gateway;
use tokio::signal::unix::Signal;
use tokio_util::sync::CancellationToken;

pub(super) async fn reload_on(
    mut hangup: Signal,
    gateway: Arc<Gateway>,
    shutdown: CancellationToken,
) {
    loop {
        tokio::select! {
            it = hangup.recv() => if it.is_none() { return },
            () = shutdown.cancelled() => return,
        }
        match gateway.reload().await {
            Ok(it) => tracing::info!("SIGHUP: {}", it.summary()),
            Err(err) => tracing::warn!("SIGHUP: {err}"),
        }
    }
}

/// The terminal that a process was started on. A hang-up also says that it was closed, and then there is nobody left to
/// serve.
#[derive(Clone, Copy)]
pub struct Terminal {
    was_there: bool,
}

impl Terminal {
    pub fn of_process() -> Terminal {
        Terminal { was_there: is_there() }
    }

    pub fn is_lost(self) -> bool {
        self.was_there && !is_there()
    }
}

fn is_there() -> bool {
    std::io::stdin().is_terminal() || std::io::stderr().is_terminal()
}
