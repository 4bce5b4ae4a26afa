//! Connections to upstream servers, which carry frames and understand only what they must: ids, progress tokens, and
//! which answer belongs to which request.

pub mod exchange;
pub mod handshake;
pub mod http;
pub mod openapi;
pub mod pending;
pub mod site;
pub mod sse;
pub mod stdio;

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use exchange::Exchange;

use crate::frame::{Frame, Raw};

/// One live connection to an upstream server.
#[async_trait]
pub trait Link: Send + Sync {
    /// Sends one request. What the server says about it comes out of the exchange in the order it was said.
    async fn send(&self, method: &str, params: Option<Raw>) -> Result<Exchange, LinkError>;

    /// Sends what is not answered: a notification, or the answer to a request of the server.
    async fn tell(&self, frame: Frame) -> Result<(), LinkError>;

    /// `send` with headers of its own, where the connection has such: `Mcp-Param-…`.
    async fn send_with(
        &self,
        method: &str,
        params: Option<Raw>,
        headers: Vec<(String, String)>,
    ) -> Result<Exchange, LinkError> {
        let _ = headers;
        self.send(method, params).await
    }

    /// From now on, requests are made as this handshake found out.
    fn settle(&self, terms: Terms);

    /// Returns when the server has somewhere to say what belongs to no request, or soon after.
    async fn listened(&self) {}

    /// To whom goes what does not say which request it belongs to. `Unowned::Inbox` until then.
    fn attribute(&self, _: Unowned) {}

    /// Whether it speaks as servers did before streamable HTTP.
    fn is_of_before(&self) -> bool {
        false
    }

    /// Cancelled when the connection has ended; `reason` then says why.
    fn closed(&self) -> &CancellationToken;

    /// Why it ended, for people; what the server wrote to its standard error last is part of it.
    fn reason(&self) -> String;

    /// Ends it, and with it a child process and all it started.
    async fn close(&self);
}

/// What a server asks or says without saying which request it is about: on standard output there is no other way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unowned {
    #[default]
    Inbox,
    /// Log messages are about the one request under way, where there is one and no other: nobody is to hear of what
    /// another did.
    Sole,
    /// The connection is one client's alone: it is about the latest request, or nobody else's.
    Latest,
    /// The same of a client with a session, which hears of what belongs to no request too: where a server says which is
    /// which, only its questions are about the latest request.
    OfSession,
}

/// What comes from a server and belongs to no request of ours: its own requests, list changes, log messages.
pub type Inbox = mpsc::UnboundedSender<Frame>;

/// What both sides agreed on.
#[derive(Clone, Debug, PartialEq)]
pub struct Terms {
    pub version: String,
    pub era: Era,
}

/// The protocol has two: with a handshake and sessions up to 2025-11-25, and without either since 2026-07-28.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Era {
    Session,
    Stateless,
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum LinkError {
    #[error("`{command}` could not be started: {message}")]
    Spawn { command: String, message: String },
    #[error("the connection has ended: {reason}")]
    Closed { reason: String },
    #[error("it could not be reached: {message}")]
    Unreachable { message: String },
    /// The words of an HTTP status; the body is not shown, it may hold anything.
    #[error("it answered {status} to `{method}`")]
    Status { status: u16, method: String },
    #[error(
        "it did not take its configured `Authorization` (HTTP 401); put the right one into its configuration"
    )]
    Unauthorized { challenge: Option<String> },
    /// Says which, and how.
    #[error("{message}")]
    LoginNeeded { message: String },
    /// The login is good, and not for this.
    #[error("{message}")]
    Forbidden { message: String },
    /// Its session is over: a new handshake is due.
    #[error("it has forgotten our session")]
    SessionOver,
    #[error("it answered `{method}` with what is no message of the protocol: {message}")]
    Malformed { method: String, message: String },
    #[error("it did not answer `{method}` within {after:?}")]
    Timeout { method: String, after: std::time::Duration },
    /// It was asked for a tool that is not what it was, and nobody has approved it as it is.
    #[error("its tool `{tool}` is {differs} since it was first seen, and quarantined")]
    Quarantined { tool: String, differs: &'static str },
    #[error("its OpenAPI document cannot be used: {message}")]
    Document { message: String },
    #[error("it refused `{method}`: {message} ({code})")]
    Refused { method: String, code: i64, message: String },
}
