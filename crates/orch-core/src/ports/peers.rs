//! Machines that some directory knows of and that may become nodes.

use std::net::IpAddr;

use async_trait::async_trait;
use orch_domain::time::Timestamp;

#[async_trait]
pub trait Peers: Send + Sync {
    /// All it knows, this machine itself first.
    async fn peers(&self) -> Result<Vec<Peer>, PeersError>;
}

/// What a directory says of a machine; foreign words, not sanitized.
#[derive(Clone, Debug, PartialEq)]
pub struct Peer {
    pub hostname: String,
    /// Whole name in DNS, without a dot at its end; empty when it has none.
    pub dns_name: String,
    pub addresses: Vec<IpAddr>,
    pub is_online: bool,
    /// Such as `linux`.
    pub os: String,
    pub tags: Vec<String>,
    pub last_seen: Option<Timestamp>,
    /// The machine that was asked.
    pub is_self: bool,
}

/// Why it could not be asked; its words say what to do.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct PeersError {
    pub message: String,
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}
