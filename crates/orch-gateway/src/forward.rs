//! A request on its way to the one server it belongs to, and everything that is said about it until its answer.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::catalog::Item;
use crate::frame::{Frame, Kind, Raw, raw};
use crate::headers;
use crate::members::Members;
use crate::server::Server;
use crate::session::bridge;
use crate::session::parked::{Asked, Gone, Parked, UnderWay, Waiting};
use crate::session::tasks::Tasks;
use crate::session::{Connection, Visitor};
use crate::upstream::{Era, Exchange, LinkError};

/// A server that asks again and again is cut off.
const MAX_ROUNDS: usize = 64;
/// A subscription lasts as long as its client.
const FOR_EVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

pub struct Forward {
    pub server: Arc<Server>,
    /// As policies and audit name it: `server.tool`, or the method and the server.
    pub target: String,
    pub is_tool_call: bool,
    pub(crate) method: String,
    pub(crate) params: Members,
    pub(crate) visitor: Arc<Visitor>,
    /// The tool that is called, where it is known.
    pub(crate) tool: Option<Item>,
    /// Why it is not sent.
    pub(crate) held: Option<Box<LinkError>>,
    pub(crate) parked: Arc<Parked<Waiting>>,
    pub(crate) tasks: Arc<Tasks>,
    /// The call that waits for the answers this request brings.
    pub(crate) resumed: Option<Result<Waiting, Gone>>,
}

impl Forward {
    pub fn era(&self) -> Era {
        self.visitor.era
    }

    pub fn method(&self) -> &str {
        &self.method
    }

    pub fn tool(&self) -> Option<&Item> {
        self.tool.as_ref()
    }

    pub fn params(&self) -> &Members {
        &self.params
    }

    /// Whether more than the answer may come, and with that a stream is needed.
    pub fn wants_stream(&self) -> bool {
        if self.method == "subscriptions/listen" {
            return true;
        }
        let has = |key: &str| self.params.object("_meta").is_some_and(|it| it.get(key).is_some());
        has("progressToken")
            || has(bridge::LOG_LEVEL)
            || self.visitor.era == Era::Session && self.visitor.can_be_asked()
    }

    /// Sends it. `id` is the client's, which its answer will carry.
    pub async fn send(mut self, id: Raw) -> Result<Answering, LinkError> {
        if let Some(held) = self.held.take() {
            return Err(*held);
        }
        let under_way = match self.resumed.take() {
            Some(Ok(waiting)) => self.resume(waiting).await?,
            Some(Err(Gone)) => {
                return Err(LinkError::Refused {
                    method: self.method.clone(),
                    code: -32602,
                    message: Gone::MESSAGE.to_owned(),
                });
            }
            None => {
                let deadline = self.deadline();
                let begun = tokio::time::timeout_at(deadline, self.begin()).await;
                let (exchange, connection) = begun.unwrap_or_else(|_| Err(self.timed_out()))?;
                UnderWay { exchange, connection, deadline }
            }
        };
        Ok(Answering {
            under_way: Some(under_way),
            id,
            forward: self,
            ready: VecDeque::new(),
            input: None,
            n_rounds: 0,
            has_heard: false,
        })
    }

    fn deadline(&self) -> Instant {
        let limit =
            if self.method == "subscriptions/listen" { FOR_EVER } else { self.server.spec.timeout };
        Instant::now() + limit
    }

    async fn begin(&self) -> Result<(Exchange, Connection), LinkError> {
        let turn = self.server.turn(&self.method).await;
        match self.begin_now().await {
            Ok((exchange, connection)) => Ok((exchange.measured(turn), connection)),
            Err(err) => {
                turn.end(Err(&err));
                Err(err)
            }
        }
    }

    async fn begin_now(&self) -> Result<(Exchange, Connection), LinkError> {
        let connection = if self.visitor.is_direct() {
            self.server.connection_of_session(&self.visitor).await?
        } else {
            self.server.connection_for(&self.visitor).await?
        };
        if self.visitor.can_be_asked() {
            connection.live.link.listened().await;
        }
        let terms = &connection.live.welcome.terms;
        let mut params = self.params.clone();
        bridge::cross(&mut params, &self.visitor, terms.era, &terms.version);
        let headers = match &self.tool {
            Some(tool) if terms.era == Era::Stateless => headers::of_call(tool, &params),
            _ => Vec::new(),
        };
        // Who sent none gets none: the difference is a server's to judge.
        let params = (!params.is_empty() || self.had_params()).then(|| params.to_raw());
        let sent = connection.live.link.send_with(&self.method, params, headers).await?;
        Ok((sent.counted_by(&self.server.calls), connection))
    }

    fn had_params(&self) -> bool {
        !self.params.is_empty() || self.is_tool_call
    }

    /// Gives the server the answers it waited for.
    async fn resume(&self, mut waiting: Waiting) -> Result<UnderWay, LinkError> {
        let answers = self.params.object("inputResponses").unwrap_or_default();
        for asked in waiting.asked {
            let answer = match answers.get(&asked.name) {
                Some(result) => Frame::result(asked.id, result.clone()),
                None => Frame::error(asked.id, -32603, "the client gave no answer to this"),
            };
            waiting.under_way.connection.live.link.tell(answer).await?;
        }
        waiting.under_way.deadline = self.deadline();
        Ok(waiting.under_way)
    }

    fn timed_out(&self) -> LinkError {
        LinkError::Timeout { method: self.method.clone(), after: self.server.spec.timeout }
    }
}

/// A request that a server is answering. Dropped, it is cancelled there.
pub struct Answering {
    /// None: it is parked, and this answer was the last.
    under_way: Option<UnderWay>,
    id: Raw,
    pub forward: Forward,
    /// What the client is to have next.
    ready: VecDeque<Frame>,
    input: Option<Input>,
    n_rounds: usize,
    /// Whether the server said anything yet.
    has_heard: bool,
}

/// What a client of the session era was asked on behalf of a server that asks in its results.
struct Input {
    awaited: VecDeque<(String, oneshot::Receiver<Frame>)>,
    given: Members,
    state: Option<Raw>,
}

impl Answering {
    /// Progress, questions, and at last the answer, as the client is to have them. An error is the end too.
    pub async fn next(&mut self) -> Result<Frame, LinkError> {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                return Ok(frame);
            }
            if self.input.is_some() {
                self.go_on().await?;
                continue;
            }
            let Some(under_way) = &mut self.under_way else {
                return Err(LinkError::Closed {
                    reason: "the call was answered already".to_owned(),
                });
            };
            let said = tokio::time::timeout_at(under_way.deadline, under_way.exchange.next()).await;
            let frame = match said.unwrap_or_else(|_| Err(self.forward.timed_out())) {
                // It did not take the request, so it may be asked again.
                Err(LinkError::SessionOver) if !self.has_heard => {
                    self.has_heard = true;
                    let (exchange, connection) = self.forward.begin().await?;
                    under_way.exchange = exchange;
                    under_way.connection = connection;
                    continue;
                }
                // It may have been closed because its login is over, which says what to do.
                Err(err @ LinkError::Closed { .. }) => {
                    return Err(self
                        .forward
                        .server
                        .login_over(&self.forward.visitor)
                        .unwrap_or(err));
                }
                said => said?,
            };
            self.has_heard = true;
            let frame = match frame.kind() {
                Kind::Response => self.answer(frame),
                Kind::Request => self.question(frame).await?,
                Kind::Notification => self.notification(frame).await,
            };
            if let Some(mut frame) = frame {
                self.forward.pass(&mut frame).await;
                return Ok(frame);
            }
        }
    }

    fn server_era(&self) -> Era {
        self.under_way.as_ref().map_or(Era::Session, |it| it.connection.live.welcome.terms.era)
    }

    /// None: the client is asked something first.
    fn answer(&mut self, mut frame: Frame) -> Option<Frame> {
        let visitor = &self.forward.visitor;
        if visitor.era == Era::Session
            && let Some(bridge::InputRequired { requests, state }) = bridge::input_required(&frame)
        {
            self.n_rounds += 1;
            let mut awaited = VecDeque::new();
            for (name, request) in requests {
                let method = request.text("method").unwrap_or_default();
                let asked = visitor.questions.ask(&method, request.get("params").cloned());
                let Some((_, question, answer)) = asked.filter(|_| self.n_rounds <= MAX_ROUNDS)
                else {
                    return Some(Frame::error(
                        self.id.clone(),
                        -32603,
                        "the server asks the client for more than it can be asked",
                    ));
                };
                self.ready.push_back(question);
                awaited.push_back((name, answer));
            }
            self.input = Some(Input { awaited, given: Members::default(), state });
            return None;
        }
        self.forward.tasks.note(&frame, &visitor.user, &self.forward.server.name);
        frame.id = Some(self.id.clone());
        if self.forward.method == "subscriptions/listen" {
            frame = bridge::retag_result(frame, &self.id);
        }
        bridge::suit(&mut frame, &self.forward.method, visitor.era, self.server_era());
        Some(frame)
    }

    /// Asks the server again, with what the client answered.
    async fn go_on(&mut self) -> Result<(), LinkError> {
        let deadline = self.forward.deadline();
        while let Some((name, answer)) = self.input.as_mut().and_then(|it| it.awaited.pop_front()) {
            let answered = tokio::time::timeout_at(deadline, answer).await;
            let answer = answered.map_err(|_| self.forward.timed_out())?.map_err(|_| {
                LinkError::Closed { reason: "the client went away before it answered".to_owned() }
            })?;
            let Some(result) = answer.result else {
                let error = answer.error.as_ref().and_then(Members::of).unwrap_or_default();
                return Err(LinkError::Refused {
                    method: "the question to the client".to_owned(),
                    code: error.get("code").and_then(|it| it.get().parse().ok()).unwrap_or(-32603),
                    message: orch_domain::text::excerpt(
                        &error.text("message").unwrap_or_default(),
                        300,
                    ),
                });
            };
            if let Some(input) = &mut self.input {
                input.given.set(&name, &result);
            }
        }
        let Some(input) = self.input.take() else { return Ok(()) };
        self.forward.params.remove("inputResponses");
        if !input.given.is_empty() {
            self.forward.params.set("inputResponses", &input.given);
        }
        match input.state {
            Some(it) => self.forward.params.set("requestState", &it),
            None => self.forward.params.remove("requestState"),
        }
        let deadline = self.forward.deadline();
        let (exchange, connection) = tokio::time::timeout_at(deadline, self.forward.begin())
            .await
            .unwrap_or_else(|_| Err(self.forward.timed_out()))?;
        self.under_way = Some(UnderWay { exchange, connection, deadline });
        Ok(())
    }

    async fn question(&mut self, frame: Frame) -> Result<Option<Frame>, LinkError> {
        let deadline = self.forward.deadline();
        let Some(under_way) = &mut self.under_way else { return Ok(None) };
        let link = under_way.connection.live.link.clone();
        // The client may be a person who thinks.
        under_way.deadline = deadline;
        let visitor = &self.forward.visitor;
        let method = frame.method.clone().unwrap_or_default();
        // On a shared connection nobody was announced as able to answer.
        let is_asked = visitor.can_answer(&method) && !under_way.connection.is_shared();
        if visitor.era == Era::Session && (is_asked || visitor.is_direct()) {
            return Ok(visitor.hear(&link, frame).await);
        }
        let id = frame.id.clone().unwrap_or_else(|| raw(&()));
        if method == "ping" {
            link.tell(crate::server::answer(frame)).await?;
            return Ok(None);
        }
        if visitor.era == Era::Session || !is_asked {
            link.tell(bridge::refusal(id, &method)).await?;
            return Ok(None);
        }
        let name = "q1".to_owned();
        let asked = vec![Asked { name: name.clone(), id: id.clone() }];
        let Some(under_way) = self.under_way.take() else { return Ok(None) };
        let deadline = under_way.deadline;
        let waiting = Waiting { under_way, asked };
        let state =
            self.forward.parked.park(waiting, deadline, &visitor.user, &self.forward.target);
        Ok(Some(match state {
            Some(state) => bridge::ask_input(self.id.clone(), &[(name, frame)], &state),
            None => Frame::error(
                self.id.clone(),
                -32603,
                "too many calls of yours wait for their input already",
            ),
        }))
    }

    async fn notification(&mut self, frame: Frame) -> Option<Frame> {
        let under_way = self.under_way.as_ref()?;
        let (visitor, live) = (&self.forward.visitor, &under_way.connection.live);
        if self.forward.method == "subscriptions/listen" {
            return Some(bridge::retag(frame, &self.id));
        }
        if visitor.era == Era::Session {
            return visitor.hear(&live.link, frame).await;
        }
        // A client without sessions hears only of what it asked for.
        match frame.method.as_deref() {
            Some("notifications/message") if live.welcome.terms.era == Era::Session => {
                bridge::is_wanted(&frame, visitor.log_level().as_ref()).then_some(frame)
            }
            Some("notifications/progress" | "notifications/message") => Some(frame),
            _ if live.welcome.terms.era == Era::Stateless => Some(frame),
            _ => None,
        }
    }
}

/// A failure of the connection as the client is to see it: of a tool call, a result that the model reads; of anything
/// else, a protocol error.
pub fn failed(is_tool_call: bool, era: Era, id: Raw, described: &serde_json::Value) -> Frame {
    let message = described["message"].as_str().unwrap_or_default();
    if !is_tool_call {
        let mut frame = Frame::error(id, -32603, message);
        let error = json!({"code": -32603, "message": message, "data": described});
        frame.error = Some(raw(&error));
        return frame;
    }
    let code = described["error"].as_str().unwrap_or_default();
    let mut result = json!({
        "content": [{"type": "text", "text": format!("{code}: {message}")}],
        "structuredContent": described,
        "isError": true,
    });
    if era == Era::Stateless {
        result["resultType"] = "complete".into();
    }
    Frame::result(id, raw(&result))
}
