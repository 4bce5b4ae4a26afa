//! The model that a connected client lends to our own operations: it is asked while its call is under way, as any server
//! asks a client, and its answer comes whole.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt};
use orch_core::ports::model::{End, Model, Piece, Prompt, Role};
use orch_domain::{Error, text};
use orch_gateway::frame::{Frame, Kind, Raw};
use orch_gateway::members::Members;
use orch_gateway::session::Visitor;
use orch_gateway::session::question::QuestionId;
use serde_json::json;
use tokio::sync::{mpsc, oneshot};

const SAMPLING: &str = "sampling/createMessage";
/// A person may look at what their model is asked before it is.
pub(super) const PATIENCE: Duration = Duration::from_secs(10 * 60);
/// Of what a client said, what an error message repeats.
const EXCERPT: usize = 300;
const MAX_NAME: usize = 100;
/// What else there is, for whoever reads that the client's model gave nothing.
const ELSE: &str =
    "give the steps yourself as `plan` or `calls`, or configure a provider under `llm`";

/// What operations have of it.
pub(super) struct LentModel {
    visitor: Arc<Visitor>,
    to_turn: mpsc::UnboundedSender<Frame>,
    /// How long one answer may take.
    patience: Duration,
    /// Whether the client can be asked when the call was answered too.
    outlasts_call: AtomicBool,
}

impl LentModel {
    /// The call is answered with a task, through which the client is asked from then on.
    pub(super) fn outlast_call(&self) {
        self.outlasts_call.store(true, Ordering::Relaxed);
    }
}

/// What is to be put to the client; nothing more is asked when it is dropped, and what was asked has no answer.
pub(super) struct Questions {
    pub(super) visitor: Arc<Visitor>,
    frames: mpsc::UnboundedReceiver<Frame>,
    /// What the client is asked in a result and has not answered, by the names of the answers.
    open: Vec<(String, Frame)>,
}

/// Whether the client can be asked.
pub(super) fn can_lend(visitor: &Visitor) -> bool {
    visitor.can_answer(SAMPLING)
}

/// None: the client cannot be asked.
pub(super) fn lend(visitor: &Arc<Visitor>) -> Option<(LentModel, Questions)> {
    if !can_lend(visitor) {
        return None;
    }
    let (to_turn, frames) = mpsc::unbounded_channel();
    let model = LentModel {
        visitor: visitor.clone(),
        to_turn,
        patience: PATIENCE,
        outlasts_call: AtomicBool::new(false),
    };
    Some((model, Questions { visitor: visitor.clone(), frames, open: Vec::new() }))
}

#[cfg(test)]
impl LentModel {
    pub(super) fn patient_for(self, patience: Duration) -> LentModel {
        LentModel { patience, ..self }
    }
}

impl Questions {
    /// The next question, or word that one is withdrawn, for a client that is asked on its connection. None: there will
    /// be no more.
    pub(super) async fn next(&mut self) -> Option<Frame> {
        self.frames.recv().await
    }

    /// Takes down what a client is to be asked in a result.
    pub(super) fn note(&mut self, frame: Frame) {
        match (frame.kind(), &frame.id) {
            (Kind::Request, Some(id)) => {
                self.open.push((format!("q{}", id.get().trim_matches('"')), frame));
            }
            _ => {
                let params = Members::of_params(frame.params.as_ref());
                let Some(withdrawn) = params.get("requestId").map(|it| it.get()) else { return };
                self.open.retain(|(_, it)| it.id.as_ref().is_none_or(|it| it.get() != withdrawn));
            }
        }
    }

    /// What it is to be asked now, by names that are never used again.
    pub(super) fn open(&mut self) -> &[(String, Frame)] {
        while let Ok(frame) = self.frames.try_recv() {
            self.note(frame);
        }
        &self.open
    }

    /// Whether there is anything that was taken down and not answered.
    pub(super) fn has_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// Gives the operation what the client answered. What is missing stays open, unless nobody wants to know it any more.
    pub(super) async fn answer(&mut self, answers: &Members) {
        self.open();
        for (name, question) in std::mem::take(&mut self.open) {
            match (answers.get(&name), &question.id) {
                (Some(answer), Some(id)) => {
                    let frame = Frame::result(id.clone(), answer.clone());
                    self.visitor.questions.answer(frame).await;
                }
                _ => self.open.push((name, question)),
            }
        }
    }

    /// Whether nobody will ask any more.
    pub(super) fn is_over(&self) -> bool {
        self.frames.is_closed() && self.frames.is_empty()
    }
}

#[async_trait]
impl Model for LentModel {
    fn name(&self) -> String {
        let info = Members::of(&self.visitor.client().info).unwrap_or_default();
        match info.text("name").map(|it| text::sanitize(it.trim())).filter(|it| !it.is_empty()) {
            Some(name) => {
                let version = info.text("version").unwrap_or_default();
                let client = text::sanitize(format!("{name} {version}").trim());
                format!("the model of {}", text::excerpt(&client, MAX_NAME))
            }
            None => "the model of the connected client".to_owned(),
        }
    }

    fn ends_with_call(&self) -> bool {
        !self.outlasts_call.load(Ordering::Relaxed)
    }

    async fn generate(
        &self,
        prompt: &Prompt,
    ) -> Result<BoxStream<'static, Result<Piece, Error>>, Error> {
        let asked = self.visitor.questions.ask(SAMPLING, Some(params_of(prompt)));
        let Some((id, frame, answer)) = asked else {
            return Err(Error::TooManyRequests {
                message: "the client has not answered what it was asked before".to_owned(),
                retry_after_ms: 1000,
            });
        };
        let asked = Asked {
            id,
            name: self.name(),
            visitor: self.visitor.clone(),
            to_turn: self.to_turn.clone(),
            patience: self.patience,
        };
        if self.to_turn.send(frame).is_err() {
            return Err(asked.gone());
        }
        let said = stream::once(async move {
            match asked.answer(answer).await {
                Ok((text, end)) => vec![Ok(Piece::Text(text)), Ok(Piece::End(end))],
                Err(err) => vec![Err(err)],
            }
        });
        Ok(said.flat_map(stream::iter).boxed())
    }
}

/// One question. Dropped before it is answered, it is taken back.
struct Asked {
    id: QuestionId,
    name: String,
    visitor: Arc<Visitor>,
    to_turn: mpsc::UnboundedSender<Frame>,
    patience: Duration,
}

impl Asked {
    async fn answer(&self, answer: oneshot::Receiver<Frame>) -> Result<(String, End), Error> {
        let frame = tokio::select! {
            biased;
            frame = answer => frame.map_err(|_| self.gone())?,
            () = self.to_turn.closed() => return Err(self.gone()),
            () = tokio::time::sleep(self.patience) => {
                let message = format!(
                    "{} did not answer within {} s; call again, or {ELSE}",
                    self.name,
                    self.patience.as_secs()
                );
                return Err(Error::DeadlineExceeded { message });
            }
        };
        let nothing = |why: String| Error::Unavailable {
            message: format!("{} gave no answer: {why}; {ELSE}", self.name),
            source: None,
        };
        let Some(result) = frame.result else {
            let error = frame.error.as_ref().and_then(Members::of).unwrap_or_default();
            let message = text::sanitize(&error.text("message").unwrap_or_default());
            let message = text::excerpt(message.trim(), EXCERPT);
            return Err(nothing(match (error.get("code").map(|it| it.get()), &*message) {
                // What the protocol has a client say when its user refuses.
                (Some("-1"), "") => "its user refused".to_owned(),
                (_, "") => "the client says only that it failed".to_owned(),
                (_, message) => format!("the client says `{message}`"),
            }));
        };
        let result = Members::of(&result).unwrap_or_default();
        let text = text_of(&result);
        if text.trim().is_empty() {
            return Err(nothing("what it answered has no text".to_owned()));
        }
        let is_cut = result.text("stopReason").is_some_and(|it| it == "maxTokens");
        Ok((text, End { is_cut, input_tokens: None, output_tokens: None }))
    }

    fn gone(&self) -> Error {
        Error::Cancelled {
            message: format!(
                "{} is there only while its call is, which was answered, withdrawn or not taken up again; call again and \
                 let it wait, or {ELSE}",
                self.name
            ),
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if !self.visitor.questions.forget(&self.id) {
            return;
        }
        let mut params = Members::default();
        params.set("requestId", &self.id.raw());
        params.set("reason", "nobody waits for the answer any more");
        let frame = Frame::notification("notifications/cancelled", Some(params.to_raw()));
        // Where nobody carries questions any more, there is nobody to tell.
        self.to_turn.send(frame).ok();
    }
}

fn params_of(prompt: &Prompt) -> Raw {
    let message = |role: Role, text: &str| {
        let role = match role {
            Role::User => "user",
            Role::Assistant => "assistant",
        };
        json!({"role": role, "content": {"type": "text", "text": text}})
    };
    let messages: Vec<_> = prompt.messages.iter().map(|it| message(it.role, &it.text)).collect();
    let mut params = Members::default();
    params.set("messages", &messages);
    if !prompt.system.is_empty() {
        params.set("systemPrompt", &prompt.system);
    }
    // It is about what we say alone: what other servers told the client is none of ours.
    params.set("includeContext", "none");
    params.set("maxTokens", &prompt.max_tokens);
    params.to_raw()
}

/// The text of an answer: of its one block, or of all of them, as 2025-11-25 allows.
fn text_of(result: &Members) -> String {
    let blocks = result
        .array("content")
        .unwrap_or_else(|| result.get("content").cloned().into_iter().collect());
    let text = |it: &Raw| {
        let block = Members::of(it)?;
        block.text("type").filter(|it| it == "text").and_then(|_| block.text("text"))
    };
    blocks.iter().filter_map(text).collect()
}

#[cfg(test)]
mod tests;
