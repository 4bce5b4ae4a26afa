//! The protocol over any byte stream: standard input and output, a Unix socket, a pipe inside the process.

use std::sync::Arc;

use orch_domain::caller::Caller;
use orch_gateway::view::View;
use rmcp::service::{QuitReason, ServerInitializeError, serve_server_with_ct};
use rmcp::transport::async_rw::AsyncRwTransport;
use tokio::io::{AsyncRead, AsyncWrite};

use super::Face;
use super::server::Server;

/// The library drops a longer line without an answer, so this is far above anything meant: what is too large for an
/// operation is then refused by the operation, in words.
pub(super) const MAX_LINE: usize = 64 * 1024 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    #[error("the client did not begin as the protocol asks")]
    Handshake(#[source] Box<ServerInitializeError>),
    #[error("the task that serves the stream failed")]
    Task(#[source] tokio::task::JoinError),
}

impl Face {
    /// Serves one client until it closes the stream or the face is shut down; calls under way are given a moment to
    /// answer. The one `caller` stands behind everything on this stream, and `view` is
    /// all there is to it.
    pub async fn serve_stream(
        self: Arc<Face>,
        caller: Caller,
        view: View,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    ) -> Result<(), StreamError> {
        // A child, because the library cancels its token when the stream ends.
        let ended = self.shutdown.child_token();
        let caller = match &view.profile {
            Some(it) => it.admit(caller),
            None => caller,
        };
        let stream = self.interpose(caller.clone(), view.clone(), stream);
        let server = Server::new(self, Some(caller), view);
        let (read, write) = tokio::io::split(stream);
        let transport = AsyncRwTransport::new_server(read, write).with_max_line_length(MAX_LINE);
        let serving = match serve_server_with_ct(server, transport, ended).await {
            Ok(serving) => serving,
            // Nobody was there, or nobody is any more.
            Err(ServerInitializeError::ConnectionClosed(_) | ServerInitializeError::Cancelled) => {
                return Ok(());
            }
            Err(err) => return Err(StreamError::Handshake(Box::new(err))),
        };
        match serving.waiting().await {
            Ok(QuitReason::JoinError(err)) | Err(err) => Err(StreamError::Task(err)),
            Ok(_) => Ok(()),
        }
    }
}
