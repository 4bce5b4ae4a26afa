//! One request, and all that is said about it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use orch_core::Cx;
use orch_domain::caller::{Caller, Channel};
use orch_gateway::catalog::List;
use orch_gateway::edge::{Claim, era_of};
use orch_gateway::forward::Forward;
use orch_gateway::frame::{Frame, Kind, Raw, raw};
use orch_gateway::members::Members;
use orch_gateway::server::Server;
use orch_gateway::session::Visitor;
use orch_gateway::session::bridge::retag;
use orch_gateway::session::direct::{self, Listening};
use orch_gateway::session::parked::Gone;
use orch_gateway::upstream::{Era, Link, LinkError};
use tokio_util::sync::CancellationToken;

use super::own_call::{OwnCall, Said, target_of};
use super::{Conversation, Front};
use crate::face::mcp::lent::{Questions, lend};
use crate::face::mcp::own::OwnServer;
use crate::face::mcp::task::earlier::Wanted;
use crate::face::mcp::task::{self, earlier};
use crate::face::mcp::upstream::Relay;
use crate::face::mcp::who::introduced_by;
use crate::face::mcp::{Face, profile};

/// Which call is taken up, in a request that does.
pub(super) const STATE: &str = "requestState";

pub(in crate::face::mcp) struct Turn {
    pub(in crate::face::mcp) conversation: Arc<Conversation>,
    id: Raw,
    caller: Caller,
    withdrawn: CancellationToken,
    is_subscription: bool,
    is_list_of_tools: bool,
    wants_stream: bool,
    state: State,
}

enum State {
    Asked(Box<Frame>, Option<Claim>),
    Relay(Box<Relay>),
    Own(Box<OwnCall>, Added),
    Answer(Frame),
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
    /// Nothing: it is the answer to a call that has become a task.
    Task,
}

impl Turn {
    pub(super) fn new(
        conversation: Arc<Conversation>,
        frame: Frame,
        caller: Caller,
        claim: Option<Claim>,
    ) -> Turn {
        let id = frame.id.clone().unwrap_or_else(|| raw(&()));
        let withdrawn = CancellationToken::new();
        conversation.turns.lock().insert(id.get().to_owned(), withdrawn.clone());
        let is_subscription = frame.is("subscriptions/listen");
        let is_list_of_tools = frame.is("tools/list");
        let params = frame.params.as_ref().map_or("", |it| it.get());
        let wants_stream = is_subscription
            || params.contains("progressToken")
            || params.contains(orch_gateway::session::bridge::LOG_LEVEL);
        let state = State::Asked(Box::new(frame), claim);
        Turn {
            conversation,
            id,
            caller,
            withdrawn,
            is_subscription,
            is_list_of_tools,
            wants_stream,
            state,
        }
    }

    /// The tool of a server behind that is called, where it is known.
    pub(in crate::face::mcp) fn tool(&self) -> Option<orch_gateway::catalog::Item> {
        match &self.state {
            State::Asked(_, Some(Claim::Forward(forward))) => forward.tool().cloned(),
            State::Asked(frame, None) => self.conversation.direct_tool(frame),
            _ => None,
        }
    }

    /// Whether more than the answer may come.
    pub(in crate::face::mcp) fn wants_stream(&self) -> bool {
        self.wants_stream
    }

    /// What the client is to have next, the answer at last. None: it was answered, withdrawn, or everything ends.
    pub(in crate::face::mcp) async fn next(&mut self) -> Option<Frame> {
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
                State::Own(call, _) if call.waits_for_client() => return self.park(),
                State::Own(call, added) => {
                    let added = *added;
                    match call.next().await? {
                        Said::About(frame) => {
                            let is_answer = frame.kind() == Kind::Response;
                            let questions = if is_answer { call.take_questions() } else { None };
                            if let Some(frame) = self.of_own(frame, added).await {
                                if let Some(questions) = questions {
                                    self.go_on_asking(questions, &frame, added);
                                }
                                return Some(frame);
                            }
                        }
                        Said::Asks(frame) if call.is_asked_directly() => return Some(frame),
                        Said::Asks(frame) => call.note(frame),
                    }
                }
                State::Answer(_) => {
                    return match std::mem::replace(&mut self.state, State::Over) {
                        State::Answer(frame) => Some(frame),
                        _ => None,
                    };
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
            let direct = match era_of(frame.params.as_ref()) {
                Era::Session => direct.clone(),
                Era::Stateless => Arc::new(direct.for_request(&frame)),
            };
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
        match (claim, &conversation.front) {
            (Some(Claim::Forward(it)), _) => {
                self.to_behind(*it, &self.visitor_of(&frame), &cx).await
            }
            (Some(Claim::Own), Front::Own(own)) => {
                if is_resumption(&frame) {
                    return self.resume(&frame).await;
                }
                if earlier::is_about_one(&frame) {
                    let cx = profile::within(conversation.view.clone(), cx);
                    return Err(face.about_task(&frame, &cx).await);
                }
                let visitor = self.visitor_of(&frame);
                self.to_own(own, frame, &visitor, Added::Nothing)
            }
            _ => {
                // A server that is being connected to may turn out to have it.
                if let Some(hub) = &face.hub {
                    hub.settled().await;
                }
                let visitor = self.visitor_of(&frame);
                let Front::Own(own) = &conversation.front else { return Ok(State::Over) };
                match face.claim(&frame, &cx, &conversation.view, &visitor) {
                    Claim::Forward(it) => self.to_behind(*it, &visitor, &cx).await,
                    _ => self.to_own(own, frame, &visitor, Added::Nothing),
                }
            }
        }
    }

    async fn to_behind(
        &self,
        forward: Forward,
        visitor: &Arc<Visitor>,
        cx: &Cx,
    ) -> Result<State, Frame> {
        let face = &self.conversation.face;
        let watching = &self.conversation.watching;
        if let Some(answer) = watching.answer(face, &forward, visitor, &self.id).await {
            return Err(answer);
        }
        Ok(State::Relay(Box::new(face.relay(forward, self.id.clone(), cx).await?)))
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

    fn to_own(
        &self,
        own: &Arc<OwnServer>,
        frame: Frame,
        visitor: &Arc<Visitor>,
        added: Added,
    ) -> Result<State, Frame> {
        let method = frame.method.as_deref().unwrap_or_default();
        let lent = if method == "tools/call" { lend(visitor) } else { None };
        let target = match &lent {
            Some(_) => self.target_of(&Members::of_params(frame.params.as_ref())),
            None => String::new(),
        };
        let (model, questions) = lent.unzip();
        if let (Some(model), Added::Task) = (&model, added) {
            model.outlast_call();
        }
        match own.send_as(method, frame.params, Some(self.caller.clone()), model) {
            Ok(exchange) => {
                let call = OwnCall::new(own.clone(), exchange, questions, target);
                Ok(State::Own(Box::new(call), added))
            }
            Err(err) => Err(Frame::error(self.id.clone(), -32603, &err.to_string())),
        }
    }

    /// Takes up the call that waits for what this request brings. The error is the answer.
    async fn resume(&self, frame: &Frame) -> Result<State, Frame> {
        let params = Members::of_params(frame.params.as_ref());
        let state = params.text(STATE).unwrap_or_default();
        let (user, target) = (self.caller.user.as_str(), self.target_of(&params));
        let Some(mut call) = self.conversation.waiting.take(&state, user, &target) else {
            return Err(Frame::error(self.id.clone(), -32602, Gone::MESSAGE));
        };
        call.resume(&params).await;
        Ok(State::Own(Box::new(call), Added::Nothing))
    }

    fn target_of(&self, params: &Members) -> String {
        target_of(params, &self.caller, &self.conversation.view)
    }

    /// Lets the call wait for its client, which is asked in the answer.
    fn park(&mut self) -> Option<Frame> {
        let State::Own(call, _) = std::mem::replace(&mut self.state, State::Over) else {
            return None;
        };
        let (face, ended) = (&self.conversation.face, &self.conversation.ended);
        let waiting = &self.conversation.waiting;
        waiting.tend(face, ended);
        Some(waiting.park(*call, self.id.clone()))
    }

    /// Hands what is ours to our own server, at once, so that it comes there in the order in which it was said.
    pub(super) fn hand_over(mut self) -> Turn {
        let conversation = self.conversation.clone();
        let Front::Own(own) = &conversation.front else { return self };
        let mut frame = match std::mem::replace(&mut self.state, State::Over) {
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
            Claim::Own if is_resumption(&frame) => {
                self.state = State::Asked(frame, Some(Claim::Own));
                return self;
            }
            Claim::Own if self.is_about_task(&frame) => {
                self.state = State::Asked(frame, Some(Claim::Own));
                return self;
            }
            Claim::Own => {
                if conversation.has_tasks() && visitor.era == Era::Session {
                    match earlier::wanted(&frame) {
                        Wanted::No => {}
                        Wanted::Task(it) => (frame, added) = (it, Added::Task),
                        Wanted::Refused(answer) => {
                            self.state = State::Answer(answer);
                            return self;
                        }
                    }
                }
                let is_settling =
                    || conversation.face.hub.as_ref().is_some_and(|it| it.is_settling());
                if is_for_one(&frame) && is_settling() {
                    self.state = State::Asked(frame, None);
                    return self;
                }
            }
        }
        self.state = self.to_own(own, *frame, &visitor, added).unwrap_or_else(State::Answer);
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
                self.add_tasks(&mut frame, added);
                if let Some(hub) = &self.conversation.face.hub {
                    match added {
                        Added::Nothing | Added::Task => {}
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

    /// Whether it asks about a task of ours as 2025-11-25 has them.
    fn is_about_task(&self, frame: &Frame) -> bool {
        self.conversation.has_tasks()
            && earlier::is_about_one(frame)
            && era_of(frame.params.as_ref()) == Era::Session
    }

    /// What of our own answer is about tasks, in a session that has them.
    fn add_tasks(&self, frame: &mut Frame, added: Added) {
        let conversation = &self.conversation;
        match added {
            Added::Capabilities
                if task::are_offered(&conversation.view) && earlier::introduce(frame) =>
            {
                conversation.has_tasks.store(true, Ordering::Relaxed);
            }
            Added::Task => earlier::begun(frame),
            _ if self.is_list_of_tools && conversation.has_tasks() => earlier::mark(frame),
            _ => {}
        }
    }

    /// What was answered with a task may still ask its client something.
    fn go_on_asking(&self, questions: Questions, answer: &Frame, added: Added) {
        let conversation = &self.conversation;
        if !matches!(added, Added::Task) {
            conversation.face.asking.go_on(answer, questions);
        } else if let Some(id) = earlier::task_of(answer) {
            let asking = earlier::go_on_asking(id, questions, conversation.visitor.clone());
            let ended = conversation.ended.clone();
            conversation.face.orch.tracker.spawn(async move {
                tokio::select! {
                    () = asking => {}
                    () = ended.cancelled() => {}
                }
            });
        }
    }

    fn context(&self) -> Cx {
        let mut caller = self.caller.clone();
        caller.channel = Channel::Mcp;
        Cx::new(Some(introduced_by(caller, &self.conversation.visitor.client().info)))
    }
}

/// Whether it takes up a call of one of our own operations.
fn is_resumption(frame: &Frame) -> bool {
    if !frame.is("tools/call") || frame.params.as_ref().is_none_or(|it| !it.get().contains(STATE)) {
        return false;
    }
    let params = Members::of_params(frame.params.as_ref());
    let is_own = params.text("name").is_some_and(|it| crate::face::mcp::tool::op(&it).is_some());
    is_own && params.get(STATE).is_some_and(|it| it.get() != "null")
}

/// Whether it names something that a server behind may have. Our own tools are known.
fn is_for_one(frame: &Frame) -> bool {
    let params = Members::of_params(frame.params.as_ref());
    match frame.method.as_deref() {
        Some("tools/call") => {
            params.text("name").is_some_and(|it| crate::face::mcp::tool::op(&it).is_none())
        }
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
