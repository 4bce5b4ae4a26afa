//! What servers ask a client, under ids that are unique for the client, and where its answers go.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::frame::{Frame, Raw, raw};
use crate::members::Members;
use crate::upstream::Link;

/// A client that never answers must not fill the memory.
const MAX_OPEN: usize = 1024;

#[derive(Default)]
pub struct Questions {
    last_id: AtomicU64,
    /// Invariant: has every question that is neither answered nor withdrawn. By our ids, as they are written.
    open: Mutex<HashMap<String, Open>>,
}

struct Open {
    to: To,
    /// Of its progress, as the server chose it.
    token: Option<String>,
}

enum To {
    /// The server that asked, under the id it gave.
    Server(Arc<dyn Link>, Raw),
    /// Ourselves, who asked on behalf of a server that cannot.
    Us(oneshot::Sender<Frame>),
}

/// A question that was put; withdrawn when dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuestionId(String);

impl QuestionId {
    /// As the client knows it.
    pub fn raw(&self) -> Raw {
        serde_json::from_str(&self.0).unwrap_or_else(|_| raw(&()))
    }
}

impl Questions {
    /// The server's request as the client is to see it. None: too many are open.
    pub fn relay(&self, request: Frame, server: Arc<dyn Link>) -> Option<(QuestionId, Frame)> {
        let id = request.id.clone()?;
        self.put(request, To::Server(server, id))
    }

    /// A question of our own, and where its answer comes. None: too many are open.
    pub fn ask(
        &self,
        method: &str,
        params: Option<Raw>,
    ) -> Option<(QuestionId, Frame, oneshot::Receiver<Frame>)> {
        let (sender, answer) = oneshot::channel();
        let (id, frame) = self.put(Frame::request(raw(&()), method, params), To::Us(sender))?;
        Some((id, frame, answer))
    }

    fn put(&self, mut request: Frame, to: To) -> Option<(QuestionId, Frame)> {
        let meta = Members::of_params(request.params.as_ref()).object("_meta");
        let token = meta.and_then(|it| it.get("progressToken").map(|it| it.get().to_owned()));
        let mut open = self.open.lock();
        if MAX_OPEN <= open.len() {
            return None;
        }
        let id = raw(&(self.last_id.fetch_add(1, Ordering::Relaxed) + 1));
        let key = id.get().to_owned();
        request.id = Some(id);
        open.insert(key.clone(), Open { to, token });
        Some((QuestionId(key), request))
    }

    /// Takes a client's answer to where it belongs. False: nothing of that id was asked.
    pub async fn answer(&self, mut answer: Frame) -> bool {
        let Some(open) = answer.id.as_ref().and_then(|it| self.open.lock().remove(it.get())) else {
            return false;
        };
        match open.to {
            To::Server(link, id) => {
                answer.id = Some(id);
                // A server that is gone needs no answer.
                link.tell(answer).await.ok();
            }
            To::Us(sender) => drop(sender.send(answer)),
        }
        true
    }

    /// Takes a client's word on the progress of an answer to the server that asked. False: it is about none of these.
    pub async fn progress(&self, frame: &Frame) -> bool {
        let params = Members::of_params(frame.params.as_ref());
        let Some(token) = params.get("progressToken").map(|it| it.get().to_owned()) else {
            return false;
        };
        let link = self.open.lock().values().find_map(|it| match &it.to {
            To::Server(link, _) if it.token.as_ref() == Some(&token) => Some(link.clone()),
            _ => None,
        });
        let Some(link) = link else { return false };
        link.tell(frame.clone()).await.ok();
        true
    }

    /// A server takes its question back: what to tell the client.
    pub fn withdraw(&self, server: &Arc<dyn Link>, notification: &Frame) -> Option<Frame> {
        let mut params = Members::of_params(notification.params.as_ref());
        let asked = params.get("requestId")?.get().to_owned();
        let mut open = self.open.lock();
        let is_it = |it: &Open| match &it.to {
            To::Server(link, id) => Arc::ptr_eq(link, server) && id.get() == asked,
            To::Us(_) => false,
        };
        let key = open.iter().find(|(_, it)| is_it(it)).map(|(key, _)| key.clone())?;
        open.remove(&key);
        let id: Raw = serde_json::from_str(&key).ok()?;
        params.set("requestId", &id);
        Some(Frame::notification("notifications/cancelled", Some(params.to_raw())))
    }

    /// Nobody waits for the answer any more. False: it has come already.
    pub fn forget(&self, id: &QuestionId) -> bool {
        self.open.lock().remove(&id.0).is_some()
    }

    pub fn n_open(&self) -> usize {
        self.open.lock().len()
    }
}
