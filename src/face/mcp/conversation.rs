//! One client's side of the protocol, whatever carries it: each request is answered by our own server or by one behind,
//! and everything said about it comes out of its `Turn` in order.

mod own_call;
mod turn;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use orch_core::Cx;
use orch_domain::caller::Caller;
use orch_gateway::catalog::List;
use orch_gateway::edge::Claim;
use orch_gateway::frame::{Frame, Kind};
use orch_gateway::server::Server;
use orch_gateway::session::Visitor;
use orch_gateway::session::direct::Direct;
use orch_gateway::view::View;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub(super) use self::own_call::Waiting;
pub(super) use self::turn::Turn;
use super::Face;
use super::lent;
use super::own::OwnServer;
use super::upstream::cancelled_id;
use super::watching::Watching;

/// Frames for a client that does not read; whoever has another waits, or does without.
const OUTSIDE: usize = 256;

pub(super) struct Conversation {
    pub(super) face: Arc<Face>,
    pub(super) view: View,
    front: Front,
    visitor: Arc<Visitor>,
    /// What it wants to hear about on connections of others too.
    watching: Watching,
    /// Calls of our own operations that its client is to take up again.
    waiting: Arc<Waiting>,
    /// Whether the client was told of tasks as 2025-11-25 has them.
    has_tasks: AtomicBool,
    /// Requests under way, by the client's ids, so that it can give them up.
    turns: Mutex<HashMap<String, CancellationToken>>,
    /// Cancelled when the client asks for nothing more: subscriptions end, calls may still be answered.
    closing: CancellationToken,
    /// Cancelled when nobody is there any more.
    pub(super) ended: CancellationToken,
}

/// Who answers what is for no server behind.
enum Front {
    Own(Arc<OwnServer>),
    /// Nobody is in front of the one server.
    Direct(Arc<Direct>),
    /// A single request that is for a server behind.
    Behind,
}

/// What of a single request is ours to carry.
pub(super) enum Single {
    Turn(Box<Turn>),
    /// Our own list, with what the servers behind have.
    List(List),
    Own,
}

impl Conversation {
    fn of(
        face: &Arc<Face>,
        view: View,
        front: Front,
        visitor: Arc<Visitor>,
        waiting: Arc<Waiting>,
        ended: CancellationToken,
    ) -> Arc<Conversation> {
        Arc::new(Conversation {
            face: face.clone(),
            view,
            front,
            visitor,
            watching: Watching::default(),
            waiting,
            has_tasks: AtomicBool::new(false),
            turns: Mutex::default(),
            closing: CancellationToken::new(),
            ended,
        })
    }

    /// A stream or a session of `caller`. What belongs to no request comes out of the receiver.
    pub(super) fn begin(
        face: &Arc<Face>,
        caller: &Caller,
        view: View,
        direct: Option<Arc<Server>>,
        ended: CancellationToken,
    ) -> Begun {
        let (outside, frames) = mpsc::channel(OUTSIDE);
        let visitor =
            Arc::new(Visitor::of_session(caller.user.as_str(), outside.clone(), direct.is_some()));
        let mut run: Run = Box::pin(std::future::pending());
        let front = match (direct, &face.hub) {
            (Some(server), Some(hub)) => {
                Front::Direct(Arc::new(Direct::new(hub.clone(), server, visitor.clone())))
            }
            _ => {
                let (own, running) = OwnServer::start(
                    face.clone(),
                    Some(caller.clone()),
                    view.clone(),
                    outside,
                    ended.clone(),
                );
                run = Box::pin(running);
                Front::Own(Arc::new(own))
            }
        };
        let conversation = Conversation::of(face, view, front, visitor, Arc::default(), ended);
        Begun { conversation, outside: frames, run }
    }

    /// What of one request of the era without sessions is ours to carry; the rest is the library's.
    pub(super) fn single(
        face: &Arc<Face>,
        caller: &Caller,
        view: View,
        direct: Option<Arc<Server>>,
        frame: Frame,
    ) -> Single {
        let is_direct = direct.is_some();
        let visitor = Arc::new(Visitor::of_request(caller.user.as_str(), &frame, is_direct));
        let front = match (direct, &face.hub) {
            (Some(server), Some(hub)) => {
                Front::Direct(Arc::new(Direct::new(hub.clone(), server, visitor.clone())))
            }
            _ => Front::Behind,
        };
        let ended = CancellationToken::new();
        let waiting = face.waiting.clone();
        let claim = match front {
            Front::Direct(_) => None,
            _ => {
                let cx = Cx::new(Some(caller.clone()));
                match face.claim(&frame, &cx, &view, &visitor) {
                    Claim::Own if asks(&frame, &visitor) => Some(Claim::Own),
                    Claim::Own => return Single::Own,
                    Claim::List(list) => return Single::List(list),
                    claim @ Claim::Forward(_) => Some(claim),
                }
            }
        };
        let front = match claim {
            Some(Claim::Own) => Front::Own(face.own_of_one(caller, &view)),
            _ => front,
        };
        let conversation = Conversation::of(face, view, front, visitor, waiting, ended);
        Single::Turn(Box::new(Turn::new(conversation, frame, caller.clone(), claim)))
    }

    /// Whether its client knows of tasks as 2025-11-25 has them.
    fn has_tasks(&self) -> bool {
        self.has_tasks.load(Ordering::Relaxed)
    }

    /// Whether its client speaks to one server as that is.
    pub(super) fn is_direct(&self) -> bool {
        matches!(self.front, Front::Direct(_))
    }

    /// The tool of the one server that a request calls.
    pub(super) fn direct_tool(&self, frame: &Frame) -> Option<orch_gateway::catalog::Item> {
        match &self.front {
            Front::Direct(it) => it.tool(frame),
            _ => None,
        }
    }

    /// A request, which is answered as its `Turn` is read. Dropped, it is cancelled.
    pub(super) fn ask(self: &Arc<Conversation>, frame: Frame, caller: Caller) -> Turn {
        Turn::new(self.clone(), frame, caller, None).hand_over()
    }

    /// What is answered by nothing: notifications, and the client's answers to what it was asked.
    pub(super) async fn hear(&self, frame: Frame, caller: Caller) {
        if frame.kind() == Kind::Response {
            self.visitor.questions.answer(frame).await;
            return;
        }
        if let Some(id) = cancelled_id(&frame) {
            if let Some(turn) = self.turns.lock().remove(&id) {
                turn.cancel();
            }
            return;
        }
        if frame.is("notifications/progress") && self.visitor.questions.progress(&frame).await {
            return;
        }
        match &self.front {
            Front::Own(own) => {
                if frame.is("notifications/roots/list_changed") {
                    self.tell_servers(&frame).await;
                }
                own.tell_as(frame, Some(caller));
            }
            Front::Direct(direct) => direct.notification(&frame).await,
            Front::Behind => {}
        }
    }

    /// Goes to every server that has a connection of this session alone.
    async fn tell_servers(&self, frame: &Frame) {
        let (Some(hub), Some(session)) = (&self.face.hub, self.visitor.session) else { return };
        for server in hub.servers() {
            if let Some(live) = server.present(session).await {
                live.link.tell(frame.clone()).await.ok();
            }
        }
    }

    pub(super) fn close(&self) {
        self.closing.cancel();
    }

    /// Gives up what is under way, and ends the connections that were made for it alone.
    pub(super) async fn end(&self) {
        self.ended.cancel();
        self.turns.lock().values().for_each(CancellationToken::cancel);
        if self.visitor.session.is_some() {
            self.waiting.clear();
        }
        let (Some(hub), Some(session)) = (&self.face.hub, self.visitor.session) else { return };
        for server in hub.servers() {
            server.release_session(session).await;
        }
    }
}

impl Face {
    /// Our own server for a single request, and for those that take it up again.
    fn own_of_one(self: &Arc<Face>, caller: &Caller, view: &View) -> Arc<OwnServer> {
        // What belongs to no request has nowhere to go.
        let (outside, _) = mpsc::channel(1);
        let (own, run) = OwnServer::start(
            self.clone(),
            Some(caller.clone()),
            view.clone(),
            outside,
            CancellationToken::new(),
        );
        self.orch.tracker.spawn(async move {
            if let Err(err) = run.await {
                tracing::debug!("a single request ended: {err}");
            }
        });
        Arc::new(own)
    }
}

/// Whether one of our own operations may ask the client something, or gets the answer.
fn asks(frame: &Frame, visitor: &Visitor) -> bool {
    frame.is("tools/call")
        && (lent::can_lend(visitor)
            || frame.params.as_ref().is_some_and(|it| it.get().contains(turn::STATE)))
}

type Run = std::pin::Pin<
    Box<dyn Future<Output = Result<(), super::stream::StreamError>> + Send + 'static>,
>;

pub(super) struct Begun {
    pub(super) conversation: Arc<Conversation>,
    pub(super) outside: mpsc::Receiver<Frame>,
    /// Our own server, to be driven for as long as the conversation lasts.
    pub(super) run: Run,
}
