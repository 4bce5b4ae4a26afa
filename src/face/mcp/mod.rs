//! The Model Context Protocol face: every operation as a tool, the cluster as resources, and prompts, over any byte
//! stream and over streamable HTTP, in both eras of the protocol (sessions up to 2025-11-25, stateless since 2026-07-28).
//!
//! Only this folder knows the protocol and its library. A request is answered by `server`, which asks `who` calls and
//! hands on to `tool` (and `call` for the life of one call), `resource`, `prompt` or `completion`. `change` turns the
//! events of the cluster into word about resources, `subscription` brings it to clients, with
//! `follow` for logs that grow. `http` and `stream` are the
//! two ways in (`profile` says what a client sees there), and a `conversation` is what goes on in either: it asks our `own` server, in which the library speaks the
//! protocol, or through `upstream` one behind, whose messages never pass through the library's types. What an operation
//! asks the model of the client, which `lent` offers it, is put to the client by the conversation too. Batches are `task`s for
//! clients that know such.

mod call;
mod change;
mod completion;
mod conversation;
mod follow;
mod http;
mod identity;
mod lent;
mod own;
mod profile;
mod prompt;
mod resource;
mod server;
mod session;
mod stream;
mod subscription;
mod task;
mod tool;
mod upstream;
mod watching;
mod who;

use std::sync::Arc;

use axum::Router;
use orch_core::Orch;
use orch_domain::caller::Caller;
use orch_gateway::hub::Hub;
use orch_gateway::profile::Profiles;
use orch_gateway::view::View;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use self::change::Changes;
use self::conversation::Waiting;
pub use self::prompt::{Completes, Prompt, PromptError, Prompts, REGISTRY, Registered};
pub use self::stream::StreamError;
use self::task::extension::Asking;
pub use self::tool::tools;
use crate::auth::Access;

/// The face over one `Orch`: what all its connections share.
pub struct Face {
    orch: Arc<Orch>,
    prompts: Prompts,
    changes: Changes,
    /// The servers behind. None: there can be none.
    hub: Option<Arc<Hub>>,
    profiles: Profiles,
    /// Calls of clients without sessions or streams that are to come back with answers.
    waiting: Arc<Waiting>,
    asking: Asking,
    /// Cancelled when the process is to end: subscriptions end well, and calls are let finish.
    shutdown: CancellationToken,
}

impl Face {
    pub fn new(orch: Arc<Orch>, shutdown: CancellationToken) -> Face {
        Face {
            orch,
            prompts: Prompts::built_in(),
            changes: Changes::default(),
            hub: None,
            profiles: Profiles::default(),
            waiting: Arc::default(),
            asking: Asking::default(),
            shutdown,
        }
    }

    /// Offers what the servers of `hub` have beside its own.
    pub fn with_hub(self, hub: Arc<Hub>) -> Face {
        Face { hub: Some(hub), ..self }
    }

    /// Offers these prompts in place of the built-in ones.
    pub fn with_prompts(self, prompts: Prompts) -> Face {
        Face { prompts, ..self }
    }

    /// Whether anything that may end connections has begun to.
    fn is_ending(&self) -> bool {
        self.shutdown.is_cancelled() || self.orch.shutdown.is_cancelled()
    }
}

/// `/mcp` with the built-in prompts.
pub fn router(orch: Arc<Orch>, access: Arc<Access>, shutdown: CancellationToken) -> Router {
    Arc::new(Face::new(orch, shutdown)).router(access)
}

/// One stream with the built-in prompts.
pub async fn serve_stream(
    orch: Arc<Orch>,
    caller: Caller,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    shutdown: CancellationToken,
) -> Result<(), StreamError> {
    Arc::new(Face::new(orch, shutdown)).serve_stream(caller, View::default(), stream).await
}
