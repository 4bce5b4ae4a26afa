//! Resources of servers behind that a session wants to hear about on connections it shares with others. There the server
//! is asked once for all of them, and one session's goodbye takes nothing from another.

use std::collections::HashMap;
use std::sync::Arc;

use orch_gateway::forward::Forward;
use orch_gateway::frame::{Frame, Raw, raw};
use orch_gateway::members::Members;
use orch_gateway::server::Change;
use orch_gateway::session::Visitor;
use orch_gateway::upstream::Era;
use parking_lot::Mutex;
use tokio::sync::broadcast;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Face;
use super::subscription::MAX_URIS;

#[derive(Default)]
pub(super) struct Watching {
    /// Invariant: has every subscription that is kept up here. By server and URI.
    kept: Mutex<HashMap<(String, String), DropGuard>>,
}

impl Watching {
    /// The answer to a request that is about such a subscription. None: it is for the server.
    pub(super) async fn answer(
        &self,
        face: &Face,
        forward: &Forward,
        visitor: &Arc<Visitor>,
        id: &Raw,
    ) -> Option<Frame> {
        let subscribes = match forward.method() {
            "resources/subscribe" => true,
            "resources/unsubscribe" => false,
            _ => return None,
        };
        let (hub, server) = (face.hub.as_ref()?, &forward.server);
        let is_shared = visitor.era == Era::Session
            && server.connection_for(visitor).await.is_ok_and(|it| it.is_shared());
        if !is_shared {
            return None;
        }
        let uri = forward.params().text("uri")?;
        let key = (server.name.to_string(), uri.clone());
        let done = || Some(Frame::result(id.clone(), raw(&Members::default())));
        if !subscribes {
            // One that is not there is as good as one that ends.
            self.kept.lock().remove(&key);
            return done();
        }
        {
            let kept = self.kept.lock();
            if kept.contains_key(&key) {
                return done();
            }
            if MAX_URIS <= kept.len() {
                let message = format!(
                    "this session is subscribed to {MAX_URIS} resources already; unsubscribe from some first"
                );
                return Some(Frame::error(id.clone(), -32603, &message));
            }
        }
        let mut changes = hub.changes();
        // What the server refuses, it may refuse in its own words.
        let watch = server.watch(&uri).await.ok()?;
        let ended = CancellationToken::new();
        self.kept.lock().insert(key, ended.clone().drop_guard());
        let visitor = visitor.clone();
        face.orch.tracker.spawn(async move {
            loop {
                let change = tokio::select! {
                    change = changes.recv() => change,
                    () = ended.cancelled() => return,
                };
                match change {
                    Ok(Change::Notification { server, frame })
                        if *server == *watch.server() && is_about(&frame, &uri) =>
                    {
                        visitor.tell(Frame::clone(&frame));
                    }
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return,
                }
            }
        });
        done()
    }
}

fn is_about(frame: &Frame, uri: &str) -> bool {
    frame.is("notifications/resources/updated")
        && Members::of_params(frame.params.as_ref()).text("uri").is_some_and(|it| it == uri)
}
