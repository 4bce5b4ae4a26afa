//! The Model Context Protocol face: every operation as a tool, the cluster as resources, and prompts, over any byte
//! stream and over streamable HTTP, in both eras of the protocol (sessions up to 2025-11-25, stateless since 2026-07-28).
//!
//! Only this folder knows the protocol and its library. A request is answered by `server`, which asks `who` calls and
//! hands on to `tool` (and `call` for the life of one call), `resource`, `prompt` or `completion`. `change` turns what
//! happens in the cluster into word about resources, `subscription` brings it to clients. `http` and `stream` are the
//! two ways in.

mod call;
mod change;
mod completion;
mod http;
mod identity;
mod prompt;
mod resource;
mod server;
mod session;
mod stream;
mod subscription;
mod tool;
mod who;

use std::sync::Arc;

use orch_core::Orch;
use tokio_util::sync::CancellationToken;

use self::change::Changes;
pub use self::http::router;
pub use self::prompt::{Prompt, PromptError, Prompts};
pub use self::stream::{StreamError, serve_stream};
pub use self::tool::tools;

/// What all connections of one way in share.
pub(crate) struct Face {
    orch: Arc<Orch>,
    prompts: Prompts,
    changes: Changes,
    /// Cancelled when the process is to end: subscriptions end well, and calls are let finish.
    shutdown: CancellationToken,
}

impl Face {
    fn new(orch: Arc<Orch>, shutdown: CancellationToken) -> Arc<Face> {
        Face::with_prompts(orch, Prompts::built_in(), shutdown)
    }

    fn with_prompts(orch: Arc<Orch>, prompts: Prompts, shutdown: CancellationToken) -> Arc<Face> {
        Arc::new(Face { changes: Changes::default(), orch, prompts, shutdown })
    }

    /// Whether anything that may end connections has begun to.
    fn is_ending(&self) -> bool {
        self.shutdown.is_cancelled() || self.orch.shutdown.is_cancelled()
    }
}
