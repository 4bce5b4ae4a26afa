//! Resources that clients who share a connection want to hear about. The server is asked once for each, and told when the
//! last of them has gone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::Notify;

use crate::frame::raw;
use crate::server::{Live, Server};
use crate::upstream::handshake::ask;
use crate::upstream::{Era, LinkError};

const LIMIT: Duration = Duration::from_secs(30);

#[derive(Default)]
pub(crate) struct Watches {
    /// Invariant: has how many want each resource, and none that nobody wants.
    uris: Mutex<BTreeMap<String, usize>>,
    /// A server of the era without sessions is to be asked anew.
    pub(crate) changed: Notify,
}

impl Watches {
    pub(crate) fn uris(&self) -> Vec<String> {
        self.uris.lock().keys().cloned().collect()
    }

    /// Whether it is the first.
    fn add(&self, uri: &str) -> bool {
        let mut uris = self.uris.lock();
        let n = uris.entry(uri.to_owned()).or_default();
        *n += 1;
        *n == 1
    }

    /// Whether it was the last.
    fn remove(&self, uri: &str) -> bool {
        let mut uris = self.uris.lock();
        match uris.get_mut(uri) {
            Some(1) | None => uris.remove(uri).is_some(),
            Some(n) => {
                *n -= 1;
                false
            }
        }
    }
}

/// One who wants to hear about one resource, until it is dropped.
pub struct Watch {
    server: Arc<Server>,
    uri: String,
}

impl Watch {
    pub fn server(&self) -> &str {
        &self.server.name
    }
}

impl Server {
    /// Changes of the resource come as `Change::Notification` from now on.
    pub async fn watch(self: &Arc<Server>, uri: &str) -> Result<Watch, LinkError> {
        let live = self.connected().await?;
        self.check_shared(&live)?;
        let is_first = self.watches.add(uri);
        // Given back when the server refuses.
        let watch = Watch { server: self.clone(), uri: uri.to_owned() };
        if is_first {
            match live.welcome.terms.era {
                Era::Session => subscribe(&live, uri, "resources/subscribe").await?,
                Era::Stateless => self.watches.changed.notify_one(),
            }
        }
        Ok(watch)
    }

    /// What is wanted on the shared connection. What is somebody's alone is not heard over a connection with the token of
    /// another.
    pub(crate) fn watched(&self, live: &Live) -> Vec<String> {
        if live.owner.is_some() { Vec::new() } else { self.watches.uris() }
    }

    /// Says again what is wanted, on a new connection.
    pub(crate) async fn watch_again(&self, live: &Live) {
        if live.welcome.terms.era == Era::Stateless {
            return;
        }
        for uri in self.watched(live) {
            if let Err(err) = subscribe(live, &uri, "resources/subscribe").await {
                tracing::warn!("`{}` is not watched any more: {err}", self.name);
            }
        }
    }
}

pub(super) async fn subscribe(live: &Live, uri: &str, method: &str) -> Result<(), LinkError> {
    ask(&*live.link, method, raw(&json!({"uri": uri})), LIMIT).await.map(drop)
}

impl Drop for Watch {
    fn drop(&mut self) {
        if !self.server.watches.remove(&self.uri) {
            return;
        }
        let Some(live) = self.server.live() else { return };
        if live.welcome.terms.era == Era::Stateless {
            self.server.watches.changed.notify_one();
            return;
        }
        let uri = std::mem::take(&mut self.uri);
        self.server.around.tasks.spawn(async move {
            // A connection that ends forgets it too.
            subscribe(&live, &uri, "resources/unsubscribe").await.ok();
        });
    }
}
