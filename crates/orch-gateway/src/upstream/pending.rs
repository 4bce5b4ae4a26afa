//! Which answer, and which progress, belongs to which request of one connection.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::exchange::{Exchange, Sender};
use super::{Inbox, LinkError, Unowned};
use crate::frame::{Frame, Raw, raw};
use crate::members::Members;

/// Where the token of a request's progress stands in its parameters.
const META: &str = "_meta";
const TOKEN: &str = "progressToken";
pub const SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";

pub struct Pending {
    /// Invariant: has every request that was sent and is neither answered nor given up.
    requests: Mutex<HashMap<u64, Waiting>>,
    last_id: AtomicU64,
    inbox: Inbox,
    unowned: Mutex<Unowned>,
    /// Each request has a stream of its own: what does not come on one belongs to none.
    has_streams: bool,
}

struct Waiting {
    sender: Sender,
    /// The token the caller chose. None: it wants no progress, and gets none.
    token: Option<Raw>,
    /// It lasts, and what it brings says so.
    is_subscription: bool,
}

impl Pending {
    pub fn new(inbox: Inbox) -> Arc<Pending> {
        Arc::new(Pending {
            requests: Mutex::default(),
            last_id: AtomicU64::new(0),
            inbox,
            unowned: Mutex::default(),
            has_streams: false,
        })
    }

    /// Of a connection on which each request has a stream of its own.
    pub(super) fn with_streams(inbox: Inbox) -> Arc<Pending> {
        Arc::new(Pending {
            requests: Mutex::default(),
            last_id: AtomicU64::new(0),
            inbox,
            unowned: Mutex::default(),
            has_streams: true,
        })
    }

    /// Gives a request an id of its own on this connection, and its progress the same number as a token: what two
    /// callers chose may be equal. `cancel` is called with the id when the caller goes away first.
    pub fn begin(
        self: &Arc<Pending>,
        method: &str,
        params: Option<Raw>,
        cancel: impl FnOnce(u64) + Send + Sync + 'static,
    ) -> (u64, Frame, Exchange) {
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        let (params, token) = with_token(params, id);
        let given_up = self.clone();
        let (sender, exchange) = Exchange::new(move || {
            if given_up.requests.lock().remove(&id).is_some() {
                cancel(id);
            }
        });
        let is_subscription = method == "subscriptions/listen";
        self.requests.lock().insert(id, Waiting { sender, token, is_subscription });
        (id, Frame::request(raw(&id), method, params), exchange)
    }

    /// Takes what came in to whom it belongs.
    pub fn deliver(&self, mut frame: Frame) {
        if frame.method.is_none() {
            let id = frame.id.as_ref().and_then(number);
            if let Some(waiting) = id.and_then(|it| self.requests.lock().remove(&it)) {
                waiting.sender.send(Ok(frame)).ok();
            }
            // Else it was given up meanwhile, or never asked.
            return;
        }
        if frame.is("notifications/progress") {
            let mut params = Members::of_params(frame.params.as_ref());
            let Some(id) = params.get(TOKEN).and_then(number) else { return };
            let requests = self.requests.lock();
            let Some(Waiting { sender, token: Some(token), .. }) = requests.get(&id) else {
                return;
            };
            params.set(TOKEN, token);
            frame.params = Some(params.to_raw());
            sender.send(Ok(frame)).ok();
            return;
        }
        if let Some(id) = subscription_of(&frame) {
            if let Some(waiting) = self.requests.lock().get(&id) {
                waiting.sender.send(Ok(frame)).ok();
            }
            return;
        }
        let frame = match self.owner_of(&frame) {
            // Gone meanwhile: then it is nobody's.
            Some(sender) => match sender.send(Ok(frame)) {
                Ok(()) => return,
                Err(unsent) => match unsent.0 {
                    Ok(frame) => frame,
                    Err(_) => return,
                },
            },
            None => frame,
        };
        // Nobody listens any more when the connection is being taken down.
        self.inbox.send(frame).ok();
    }

    pub fn attribute(&self, unowned: Unowned) {
        *self.unowned.lock() = unowned;
    }

    /// Whose request a message is about that does not say so.
    fn owner_of(&self, frame: &Frame) -> Option<Sender> {
        let method = frame.method.as_deref()?;
        // These are about the server, whatever else is under way.
        let is_of_server = matches!(method, "ping" | "notifications/resources/updated");
        if is_of_server || method.ends_with("/list_changed") {
            return None;
        }
        let requests = self.requests.lock();
        let mut asked = requests.iter().filter(|(_, it)| !it.is_subscription);
        match *self.unowned.lock() {
            Unowned::Inbox => None,
            Unowned::Sole => match (method, asked.next(), asked.next()) {
                ("notifications/message", Some((_, it)), None) => Some(it.sender.clone()),
                _ => None,
            },
            Unowned::OfSession if self.has_streams && frame.id.is_none() => None,
            Unowned::Latest | Unowned::OfSession => {
                asked.max_by_key(|(id, _)| **id).map(|(_, it)| it.sender.clone())
            }
        }
    }

    /// Takes what came in on the stream of request `id`: there, what the server asks or tells belongs to that request.
    /// The answer says whether the request is answered with it.
    pub(super) fn deliver_on(&self, id: u64, frame: Frame) -> bool {
        if frame.method.is_none() {
            let is_answer = frame.id.as_ref().and_then(number) == Some(id);
            self.deliver(frame);
            return is_answer;
        }
        if frame.is("notifications/progress") {
            self.deliver(frame);
            return false;
        }
        if let Some(waiting) = self.requests.lock().get(&id) {
            waiting.sender.send(Ok(frame)).ok();
        }
        false
    }

    /// Whether somebody still waits for the answer.
    pub(super) fn is_waiting(&self, id: u64) -> bool {
        self.requests.lock().contains_key(&id)
    }

    /// One request has failed.
    pub(super) fn fail(&self, id: u64, err: LinkError) {
        if let Some(waiting) = self.requests.lock().remove(&id) {
            waiting.sender.send(Err(err)).ok();
        }
    }

    /// All have: the connection is gone.
    pub fn fail_all(&self, reason: &str) {
        let requests = std::mem::take(&mut *self.requests.lock());
        for waiting in requests.into_values() {
            waiting.sender.send(Err(LinkError::Closed { reason: reason.to_owned() })).ok();
        }
    }

    #[cfg(test)]
    pub(super) fn n_waiting(&self) -> usize {
        self.requests.lock().len()
    }
}

/// The request that opened the subscription a notification belongs to.
fn subscription_of(frame: &Frame) -> Option<u64> {
    let params = frame.params.as_ref().filter(|it| it.get().contains(SUBSCRIPTION))?;
    number(Members::of(params)?.object(META)?.get(SUBSCRIPTION)?)
}

/// Servers answer with the id they were sent; some make text or a float of it.
fn number(raw: &Raw) -> Option<u64> {
    let text = raw.get().trim_matches('"');
    text.parse().ok().or_else(|| text.strip_suffix(".0")?.parse().ok())
}

fn with_token(params: Option<Raw>, id: u64) -> (Option<Raw>, Option<Raw>) {
    // Most requests have none, and are not taken apart to find out.
    if !params.as_ref().is_some_and(|it| it.get().contains(TOKEN)) {
        return (params, None);
    }
    let mut members = Members::of_params(params.as_ref());
    let Some(mut meta) = members.object(META) else { return (params, None) };
    let Some(token) = meta.get(TOKEN).cloned() else { return (params, None) };
    meta.set(TOKEN, &id);
    members.set(META, &meta);
    (Some(members.to_raw()), Some(token))
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    fn frame(text: &str) -> Frame {
        Frame::parse(text.as_bytes()).unwrap()
    }

    #[tokio::test]
    async fn progress_and_answer_come_in_order_with_the_callers_token() {
        let (inbox, mut rest) = mpsc::unbounded_channel();
        let pending = Pending::new(inbox);
        let params = r#"{"name":"a","_meta":{"progressToken":"mine","x":1}}"#;
        let params = Some(serde_json::from_str(params).unwrap());
        let (id, sent, mut exchange) = pending.begin("tools/call", params, |_| panic!("answered"));
        assert_eq!(sent.params.unwrap().get(), r#"{"name":"a","_meta":{"progressToken":1,"x":1}}"#,);
        for i in 0..20 {
            pending.deliver(frame(&format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":{id},"progress":{i}.50}}}}"#
            )));
        }
        pending.deliver(frame(r#"{"jsonrpc":"2.0","method":"notifications/message","params":{}}"#));
        pending.deliver(frame(r#"{"jsonrpc":"2.0","id":1,"result":{"ok":true}}"#));
        for i in 0..20 {
            let said = exchange.next().await.unwrap().params.unwrap();
            assert_eq!(said.get(), format!(r#"{{"progressToken":"mine","progress":{i}.50}}"#));
        }
        assert_eq!(exchange.next().await.unwrap().result.unwrap().get(), r#"{"ok":true}"#);
        assert!(rest.recv().await.unwrap().is("notifications/message"));
        assert_eq!(pending.n_waiting(), 0);
    }

    #[tokio::test]
    async fn who_goes_away_cancels_the_one_request_and_leaves_nothing() {
        let pending = Pending::new(mpsc::unbounded_channel().0);
        let cancelled = Arc::new(Mutex::new(Vec::new()));
        let (first, second) = (cancelled.clone(), cancelled.clone());
        let (_, _, gone) = pending.begin("a", None, move |id| first.lock().push(id));
        let (_, _, stays) = pending.begin("b", None, move |id| second.lock().push(id));
        drop(gone);
        assert_eq!(*cancelled.lock(), [1]);
        assert_eq!(pending.n_waiting(), 1);
        // Its late answer is nobody's.
        pending.deliver(frame(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#));
        drop(stays);
        assert_eq!(pending.n_waiting(), 0);
    }

    #[tokio::test]
    async fn progress_that_nobody_asked_for_is_dropped() {
        let (inbox, mut rest) = mpsc::unbounded_channel();
        let pending = Pending::new(inbox);
        let (_, _, mut exchange) = pending.begin("a", None, |_| {});
        pending.deliver(frame(
            r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1}}"#,
        ));
        pending.fail_all("gone");
        assert!(matches!(exchange.next().await, Err(LinkError::Closed { .. })));
        assert!(rest.try_recv().is_err());
    }
}
