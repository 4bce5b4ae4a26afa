//! One request at our own server, with what the operation asks the client meanwhile. A client that has to come back with
//! its answers finds it where it was: it is not begun anew.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use orch_domain::caller::Caller;
use orch_gateway::frame::{Frame, Raw};
use orch_gateway::members::Members;
use orch_gateway::names::own_name;
use orch_gateway::session::bridge;
use orch_gateway::session::parked::Parked;
use orch_gateway::upstream::{Era, Exchange, Link};
use orch_gateway::view::View;
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::face::mcp::Face;
use crate::face::mcp::lent::{PATIENCE, Questions};

/// Who is a little late still learns how it ended: the operation was told that there is no answer.
const GRACE: Duration = Duration::from_secs(30);
const SWEEP: Duration = Duration::from_secs(15);
const TOKEN: &str = "progressToken";

pub(in crate::face::mcp) struct OwnCall {
    exchange: Exchange,
    /// None: the client cannot be asked.
    questions: Option<Questions>,
    /// What the client has to mean when it comes back.
    target: String,
    /// Whether another request has taken it up, and its token of progress.
    resumed: Option<Option<Raw>>,
    /// Ends with the last request to it.
    _own: Arc<dyn Link>,
}

pub(super) enum Said {
    /// The answer, or what comes before it.
    About(Frame),
    /// A question, or word that one is withdrawn.
    Asks(Frame),
}

impl OwnCall {
    pub(super) fn new(
        own: Arc<dyn Link>,
        exchange: Exchange,
        questions: Option<Questions>,
        target: String,
    ) -> OwnCall {
        OwnCall { exchange, questions, target, resumed: None, _own: own }
    }

    /// None: it ended without an answer.
    pub(super) async fn next(&mut self) -> Option<Said> {
        loop {
            tokio::select! {
                biased;
                frame = self.exchange.next() => {
                    if let Some(frame) = with_token(frame.ok()?, self.resumed.as_ref()) {
                        return Some(Said::About(frame));
                    }
                }
                Some(frame) = next_of(&mut self.questions) => return Some(Said::Asks(frame)),
            }
        }
    }

    /// Whether its client hears a question on the connection, and answers there.
    pub(super) fn is_asked_directly(&self) -> bool {
        self.questions.as_ref().is_none_or(|it| it.visitor.era == Era::Session)
    }

    /// Takes down a question that the client is to be asked in a result, and all others that are there.
    pub(super) fn note(&mut self, frame: Frame) {
        if let Some(questions) = &mut self.questions {
            questions.note(frame);
            questions.open();
        }
    }

    /// Whether it goes on only when the client has answered.
    pub(super) fn waits_for_client(&self) -> bool {
        self.questions.as_ref().is_some_and(Questions::has_open)
    }

    /// Gives it what a client that came back has brought. What is missing is asked for again.
    pub(super) async fn resume(&mut self, params: &Members) {
        let token = params.object("_meta").and_then(|it| it.get(TOKEN).cloned());
        self.resumed = Some(token);
        if let Some(questions) = &mut self.questions {
            questions.answer(&params.object("inputResponses").unwrap_or_default()).await;
        }
    }

    /// What the operation asks from now on, for whoever carries it when the call is answered.
    pub(super) fn take_questions(&mut self) -> Option<Questions> {
        self.questions.take()
    }
}

async fn next_of(questions: &mut Option<Questions>) -> Option<Frame> {
    match questions {
        Some(it) => it.next().await,
        None => None,
    }
}

/// Progress under the token of the request that hears it now. None: that one wants none.
fn with_token(mut frame: Frame, resumed: Option<&Option<Raw>>) -> Option<Frame> {
    let Some(token) = resumed.filter(|_| frame.is("notifications/progress")) else {
        return Some(frame);
    };
    let mut params = Members::of_params(frame.params.as_ref());
    params.set(TOKEN, token.as_ref()?);
    frame.params = Some(params.to_raw());
    Some(frame)
}

/// Calls that wait for their clients to come back.
#[derive(Default)]
pub(in crate::face::mcp) struct Waiting {
    calls: Parked<OwnCall>,
    is_tended: AtomicBool,
}

impl Waiting {
    /// Keeps a call for a while, and answers its present request with what it asks.
    pub(super) fn park(&self, call: OwnCall, id: Raw) -> Frame {
        self.park_until(Instant::now() + PATIENCE + GRACE, call, id)
    }

    fn park_until(&self, deadline: Instant, mut call: OwnCall, id: Raw) -> Frame {
        let target = call.target.clone();
        let asked = call.questions.as_mut().map(|it| (it.open().to_vec(), it.visitor.user.clone()));
        let (asked, user) = asked.unzip();
        let state = user.and_then(|user| self.calls.park(call, deadline, &user, &target));
        match state {
            Some(state) => bridge::ask_input(id, &asked.unwrap_or_default(), &state),
            None => {
                Frame::error(id, -32603, "too many calls of yours wait for their input already")
            }
        }
    }

    /// The call that a request of `user` takes up again. None: there is none such.
    pub(super) fn take(&self, state: &str, user: &str, target: &str) -> Option<OwnCall> {
        self.calls.take(state, user, target)
    }

    pub(super) fn clear(&self) {
        self.calls.clear();
    }

    #[cfg(test)]
    pub(super) fn n_waiting(&self) -> usize {
        self.calls.n_waiting()
    }

    /// Sees to it that none waits longer than it may, and none longer than `face` or until `ended`.
    pub(super) fn tend(self: &Arc<Waiting>, face: &Face, ended: &CancellationToken) {
        if self.is_tended.swap(true, Ordering::Relaxed) {
            return;
        }
        let (waiting, ended) = (self.clone(), ended.clone());
        let (shutdown, of_orch) = (face.shutdown.clone(), face.orch.shutdown.clone());
        face.orch.tracker.spawn(async move {
            loop {
                tokio::select! {
                    () = tokio::time::sleep(SWEEP) => waiting.calls.sweep(),
                    () = shutdown.cancelled() => break,
                    () = of_orch.cancelled() => break,
                    () = ended.cancelled() => break,
                }
            }
            waiting.calls.clear();
        });
    }
}

/// What a client has to mean again: the tool and its arguments, at the same endpoint and with the same key.
pub(super) fn target_of(params: &Members, caller: &Caller, view: &View) -> String {
    let name = params.text("name").unwrap_or_default();
    let arguments = params.get("arguments").and_then(|it| serde_json::from_str(it.get()).ok());
    let mut arguments: serde_json::Value = arguments.unwrap_or_else(|| serde_json::json!({}));
    arguments.sort_all_objects();
    let digest = hex::encode(Sha256::digest(arguments.to_string()));
    let key = caller.key.as_ref().map(ToString::to_string).unwrap_or_default();
    let endpoint = view.profile_name().unwrap_or_default();
    format!("{} {digest} {endpoint} {key}", own_name(&name))
}

#[cfg(test)]
mod tests;
