//! One client's side of the protocol, whatever carries it: each request is answered by our own server or by one behind,
//! and everything said about it comes out of its `Turn` in order.

use std::collections::HashMap;
use std::sync::Arc;

use orch_core::Cx;
use orch_domain::caller::{Caller, Channel};
use orch_gateway::catalog::List;
use orch_gateway::edge::{Claim, era_of};
use orch_gateway::frame::{Frame, Kind, Raw, raw};
use orch_gateway::members::Members;
use orch_gateway::server::Server;
use orch_gateway::session::Visitor;
use orch_gateway::session::bridge::retag;
use orch_gateway::session::direct::{self, Direct, Listening};
use orch_gateway::upstream::{Era, Exchange, Link, LinkError};
use orch_gateway::view::View;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Face;
use super::own::OwnServer;
use super::upstream::{Relay, cancelled_id};
use super::who::introduced_by;

/// Frames for a client that does not read; whoever has another waits, or does without.
const OUTSIDE: usize = 256;

pub(super) struct Conversation {
    pub(super) face: Arc<Face>,
    pub(super) view: View,
    front: Front,
    visitor: Arc<Visitor>,
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
        let conversation = Arc::new(Conversation {
            face: face.clone(),
            view,
            front,
            visitor,
            turns: Mutex::default(),
            closing: CancellationToken::new(),
            ended,
        });
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
        let conversation = Arc::new(Conversation {
            face: face.clone(),
            view,
            front,
            visitor,
            turns: Mutex::default(),
            closing: CancellationToken::new(),
            ended: CancellationToken::new(),
        });
        let claim = match conversation.front {
            Front::Direct(_) => None,
            _ => {
                let cx = Cx::new(Some(caller.clone()));
                match face.claim(&frame, &cx, &conversation.view, &conversation.visitor) {
                    Claim::Own => return Single::Own,
                    Claim::List(list) => return Single::List(list),
                    Claim::Forward(it) => Some(it),
                }
            }
        };
        let claim = claim.map(Claim::Forward);
        Single::Turn(Box::new(Turn::new(conversation, frame, caller.clone(), claim)))
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
        let (Some(hub), Some(session)) = (&self.face.hub, self.visitor.session) else { return };
        for server in hub.servers() {
            server.release_session(session).await;
        }
    }
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

/// One request, and all that is said about it.
pub(super) struct Turn {
    pub(super) conversation: Arc<Conversation>,
    id: Raw,
    caller: Caller,
    withdrawn: CancellationToken,
    is_subscription: bool,
    wants_stream: bool,
    state: State,
}

enum State {
    Asked(Box<Frame>, Option<Claim>),
    Relay(Box<Relay>),
    Own(Exchange, Added),
    Listening(Box<Listening>),
    Over,
}

/// What our own answer is extended by.
#[derive(Clone, Copy)]
enum Added {
    Nothing,
    List(List),
    /// What servers behind can do that we cannot.
    Capabilities,
    /// Nothing, but they are told too.
    LogLevel,
}

impl Turn {
    fn new(
        conversation: Arc<Conversation>,
        frame: Frame,
        caller: Caller,
        claim: Option<Claim>,
    ) -> Turn {
        let id = frame.id.clone().unwrap_or_else(|| raw(&()));
        let withdrawn = CancellationToken::new();
        conversation.turns.lock().insert(id.get().to_owned(), withdrawn.clone());
        let is_subscription = frame.is("subscriptions/listen");
        let params = frame.params.as_ref().map_or("", |it| it.get());
        let wants_stream = is_subscription
            || params.contains("progressToken")
            || params.contains(orch_gateway::session::bridge::LOG_LEVEL);
        let state = State::Asked(Box::new(frame), claim);
        Turn { conversation, id, caller, withdrawn, is_subscription, wants_stream, state }
    }

    /// The tool of a server behind that is called, where it is known.
    pub(super) fn tool(&self) -> Option<orch_gateway::catalog::Item> {
        match &self.state {
            State::Asked(_, Some(Claim::Forward(forward))) => forward.tool().cloned(),
            State::Asked(frame, None) => self.conversation.direct_tool(frame),
            _ => None,
        }
    }

    /// Whether more than the answer may come.
    pub(super) fn wants_stream(&self) -> bool {
        self.wants_stream
    }

    /// What the client is to have next, the answer at last. None: it was answered, withdrawn, or everything ends.
    pub(super) async fn next(&mut self) -> Option<Frame> {
        let (withdrawn, shutdown) =
            (self.withdrawn.clone(), self.conversation.face.shutdown.clone());
        let ended = self.conversation.ended.clone();
        let closing = self.conversation.closing.clone();
        let is_listening = matches!(&self.state, State::Listening(_));
        tokio::select! {
            biased;
            () = withdrawn.cancelled() => None,
            () = ended.cancelled() => None,
            () = closing.cancelled(), if self.is_subscription => None,
            // Subscriptions end well; calls are let finish.
            () = shutdown.cancelled(), if is_listening => self.end(),
            frame = self.step() => {
                if frame.as_ref().is_none_or(|it| it.kind() == Kind::Response) {
                    self.state = State::Over;
                }
                frame
            }
        }
    }

    fn end(&mut self) -> Option<Frame> {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Listening(it) => Some(it.end()),
            _ => None,
        }
    }

    async fn step(&mut self) -> Option<Frame> {
        loop {
            match &mut self.state {
                State::Asked(..) => {
                    let State::Asked(frame, claim) =
                        std::mem::replace(&mut self.state, State::Over)
                    else {
                        return None;
                    };
                    match self.begin(*frame, claim).await {
                        Ok(state) => self.state = state,
                        Err(answer) => return Some(answer),
                    }
                }
                State::Relay(relay) => return Some(relay.next().await),
                State::Listening(listening) => return Some(listening.next().await),
                State::Own(exchange, added) => {
                    let added = *added;
                    let Ok(frame) = exchange.next().await else { return None };
                    if let Some(frame) = self.of_own(frame, added).await {
                        return Some(frame);
                    }
                }
                State::Over => return None,
            }
        }
    }

    /// The error is the answer.
    async fn begin(&self, frame: Frame, claim: Option<Claim>) -> Result<State, Frame> {
        let conversation = &self.conversation;
        let face = &conversation.face;
        let cx = self.context();
        if let Front::Direct(direct) = &conversation.front {
            let turn = match direct.request(&frame).await {
                Ok(it) => it,
                Err(err) => return Err(face.unreached(&direct.server, err, &frame)),
            };
            return match turn {
                direct::Turn::Answer(answer) => Err(answer),
                direct::Turn::Listen(it) => Ok(State::Listening(Box::new(it))),
                direct::Turn::Forward(it) => {
                    Ok(State::Relay(Box::new(face.relay(*it, self.id.clone(), &cx).await?)))
                }
            };
        }
        match claim {
            Some(Claim::Forward(it)) => {
                Ok(State::Relay(Box::new(face.relay(*it, self.id.clone(), &cx).await?)))
            }
            _ => {
                // A server that is being connected to may turn out to have it.
                if let Some(hub) = &face.hub {
                    hub.settled().await;
                }
                let visitor = self.visitor_of(&frame);
                let Front::Own(own) = &conversation.front else { return Ok(State::Over) };
                match face.claim(&frame, &cx, &conversation.view, &visitor) {
                    Claim::Forward(it) => {
                        Ok(State::Relay(Box::new(face.relay(*it, self.id.clone(), &cx).await?)))
                    }
                    _ => self.to_own(own, frame, Added::Nothing),
                }
            }
        }
    }

    /// A stream's client may turn out to say everything with each request.
    fn visitor_of(&self, frame: &Frame) -> Arc<Visitor> {
        match era_of(frame.params.as_ref()) {
            Era::Session => self.conversation.visitor.clone(),
            Era::Stateless => {
                Arc::new(Visitor::of_request(self.caller.user.as_str(), frame, false))
            }
        }
    }

    fn to_own(&self, own: &OwnServer, frame: Frame, added: Added) -> Result<State, Frame> {
        let method = frame.method.as_deref().unwrap_or_default();
        let sent = own.send_as(method, frame.params, Some(self.caller.clone()));
        match sent {
            Ok(exchange) => Ok(State::Own(exchange, added)),
            Err(err) => Err(Frame::error(self.id.clone(), -32603, &err.to_string())),
        }
    }

    /// Hands what is ours to our own server, at once, so that it comes there in the order in which it was said.
    fn hand_over(mut self) -> Turn {
        let conversation = self.conversation.clone();
        let Front::Own(own) = &conversation.front else { return self };
        let frame = match std::mem::replace(&mut self.state, State::Over) {
            State::Asked(frame, None) => frame,
            other => {
                self.state = other;
                return self;
            }
        };
        let method = frame.method.as_deref().unwrap_or_default();
        let mut added = match method {
            "initialize" | "server/discover" => Added::Capabilities,
            _ => Added::Nothing,
        };
        if method == "initialize" {
            conversation.visitor.introduce(frame.params.as_ref());
        }
        if method == "logging/setLevel" {
            let params = Members::of_params(frame.params.as_ref());
            conversation.visitor.set_log_level(params.get("level").cloned());
            added = Added::LogLevel;
        }
        let (cx, visitor) = (self.context(), self.visitor_of(&frame));
        match conversation.face.claim(&frame, &cx, &conversation.view, &visitor) {
            Claim::List(list) => added = Added::List(list),
            claim @ Claim::Forward(_) => {
                self.state = State::Asked(frame, Some(claim));
                return self;
            }
            Claim::Own => {
                let is_settling =
                    || conversation.face.hub.as_ref().is_some_and(|it| it.is_settling());
                if is_for_one(&frame) && is_settling() {
                    self.state = State::Asked(frame, None);
                    return self;
                }
            }
        }
        if let Ok(state) = self.to_own(own, *frame, added) {
            self.state = state;
        }
        self
    }

    async fn of_own(&self, mut frame: Frame, added: Added) -> Option<Frame> {
        match frame.kind() {
            Kind::Notification => Some(retag(frame, &self.id)),
            Kind::Request => {
                let Front::Own(own) = &self.conversation.front else { return None };
                let link: Arc<dyn Link> = own.clone();
                self.conversation.visitor.hear(&link, frame).await
            }
            Kind::Response => {
                frame.id = Some(self.id.clone());
                if let Some(hub) = &self.conversation.face.hub {
                    match added {
                        Added::Nothing => {}
                        Added::List(list) => {
                            hub.settled().await;
                            let view = self.conversation.view.for_caller(Some(&self.caller));
                            hub.extend(list, &view, &mut frame);
                        }
                        Added::Capabilities => hub.add_capabilities(&mut frame),
                        Added::LogLevel => hub.set_level(&self.conversation.visitor).await,
                    }
                }
                Some(orch_gateway::session::bridge::retag_result(frame, &self.id))
            }
        }
    }

    fn context(&self) -> Cx {
        let mut caller = self.caller.clone();
        caller.channel = Channel::Mcp;
        Cx::new(Some(introduced_by(caller, &self.conversation.visitor.client().info)))
    }
}

/// Whether it names something that a server behind may have. Our own tools are known.
fn is_for_one(frame: &Frame) -> bool {
    let params = Members::of_params(frame.params.as_ref());
    match frame.method.as_deref() {
        Some("tools/call") => params.text("name").is_some_and(|it| super::tool::op(&it).is_none()),
        Some("prompts/get" | "resources/read" | "completion/complete") => true,
        _ => false,
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.conversation.turns.lock().remove(self.id.get());
    }
}

impl Face {
    /// The answer to a request whose server is not there.
    fn unreached(&self, server: &Server, err: LinkError, frame: &Frame) -> Frame {
        let err = orch_gateway::port::failure(server, err);
        let id = frame.id.clone().unwrap_or_else(|| raw(&()));
        let is_call = frame.is("tools/call");
        let described = serde_json::Value::Object(err.describe());
        orch_gateway::forward::failed(is_call, era_of(frame.params.as_ref()), id, &described)
    }
}
