//! What integration tests share: real parts, started or found, and waiting for what is to come.

pub(crate) mod batches;
pub(crate) mod blocks;
pub(crate) mod caller;
pub(crate) mod cloud;
pub(crate) mod docker;
pub(crate) mod fixture;
pub(crate) mod fleet;
pub(crate) mod gateway;
pub(crate) mod guarded;
pub(crate) mod hosts;
pub(crate) mod image;
pub(crate) mod invariants;
pub(crate) mod issuer;
pub(crate) mod key_issuer;
pub(crate) mod lab;
pub(crate) mod listed;
pub(crate) mod llm;
pub(crate) mod mcp;
pub(crate) mod official;
pub(crate) mod program;
pub(crate) mod protected;
pub(crate) mod proxy;
pub(crate) mod ray;
pub(crate) mod registry;
pub(crate) mod replay;
pub(crate) mod server;
pub(crate) mod shell;
pub(crate) mod slow;
pub(crate) mod sshd;
pub(crate) mod upstream;
pub(crate) mod walk;
pub(crate) mod watched;
pub(crate) mod wire;
pub(crate) mod witness;
pub(crate) mod workshop;
pub(crate) mod world;

use std::future::Future;
use std::time::Duration;

/// Longer than anything takes on a busy machine, so that a test fails and does not hang.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Looks until there is something to see.
pub(crate) async fn eventually<T, F>(what: &str, mut look: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let poll = async {
        loop {
            if let Some(seen) = look().await {
                return seen;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within(what, poll).await
}

/// Waits for `work`, and says for what when it takes too long.
pub(crate) async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(it) => it,
        Err(_) => panic!("{what}: not within {PATIENCE:?}"),
    }
}

/// A client for plain HTTP. It wants to know its TLS implementation all the same.
pub(crate) fn http() -> reqwest::Client {
    // Another test of this process may have installed it.
    rustls::crypto::ring::default_provider().install_default().ok();
    reqwest::Client::new()
}
