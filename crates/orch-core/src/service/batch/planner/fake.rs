//! A model and a canvas that do what a test says: the one cannot be had in tests, the other is the runner's.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use orch_domain::Error;
use orch_domain::batch::StepState;
use orch_domain::plan::{Problem, Step};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Canvas, Ended};
use crate::ports::model::{End, Model, Piece, Prompt};

pub(super) enum Reply {
    /// At once, and then its end.
    Whole(String),
    /// At once, and then it is longer than it may be.
    Cut(String),
    /// At once, and then the connection is gone.
    BreaksOff(String),
    /// As the test sends it. What is held is never closed.
    Live(mpsc::UnboundedReceiver<Piece>),
    Refused(Error),
}

/// Gives its replies in turn and keeps what it was asked.
pub(super) struct Scripted {
    name: String,
    replies: Mutex<VecDeque<Reply>>,
    pub(super) prompts: Mutex<Vec<Prompt>>,
}

impl Scripted {
    pub(super) fn new(name: &str, replies: impl IntoIterator<Item = Reply>) -> Scripted {
        Scripted {
            name: name.to_owned(),
            replies: Mutex::new(replies.into_iter().collect()),
            prompts: Mutex::default(),
        }
    }

    pub(super) fn of(texts: &[&str]) -> Scripted {
        Scripted::new("fake", texts.iter().map(|it| Reply::Whole((*it).to_owned())))
    }

    /// The last message of each time it was asked.
    pub(super) fn asked(&self) -> Vec<String> {
        let prompts = self.prompts.lock();
        prompts.iter().map(|it| it.messages.last().unwrap().text.clone()).collect()
    }
}

pub(super) fn end(is_cut: bool) -> Piece {
    Piece::End(End { is_cut, input_tokens: None, output_tokens: None })
}

#[async_trait]
impl Model for Scripted {
    fn name(&self) -> String {
        self.name.clone()
    }

    async fn generate(
        &self,
        prompt: &Prompt,
    ) -> Result<BoxStream<'static, Result<Piece, Error>>, Error> {
        self.prompts.lock().push(prompt.clone());
        let reply = self.replies.lock().pop_front().expect("it was asked more often than expected");
        let (text, last) = match reply {
            Reply::Refused(err) => return Err(err),
            Reply::Live(pieces) => {
                let pieces = futures::stream::unfold(pieces, async |mut it| {
                    it.recv().await.map(|piece| (Ok(piece), it))
                });
                return Ok(pieces.boxed());
            }
            Reply::Whole(text) => (text, Some(end(false))),
            Reply::Cut(text) => (text, Some(end(true))),
            Reply::BreaksOff(text) => (text, None),
        };
        let pieces: Vec<Result<Piece, Error>> =
            std::iter::once(Piece::Text(text)).chain(last).map(Ok).collect();
        Ok(futures::stream::iter(pieces).boxed())
    }
}

/// Takes every step but those it refuses; they have ended as soon as somebody asks.
pub(super) struct Board {
    pub(super) taken: Mutex<Vec<Step>>,
    /// Told of each step as it is taken.
    pub(super) told: Option<mpsc::UnboundedSender<Step>>,
    /// Steps with these tools are refused.
    pub(super) unknown: Vec<&'static str>,
    pub(super) result: fn(&Step) -> (StepState, Value),
    pub(super) is_draft: bool,
    pub(super) ended: CancellationToken,
}

impl Default for Board {
    fn default() -> Board {
        Board {
            taken: Mutex::default(),
            told: None,
            unknown: Vec::new(),
            result: |step| (StepState::Succeeded, json!({"structuredContent": {"of": step.id}})),
            is_draft: false,
            ended: CancellationToken::new(),
        }
    }
}

impl Board {
    pub(super) fn ids(&self) -> Vec<String> {
        self.taken.lock().iter().map(|it| it.id.to_string()).collect()
    }
}

#[async_trait]
impl Canvas for Board {
    fn add(&self, step: Step) -> Result<(), Vec<Problem>> {
        let mut taken = self.taken.lock();
        if self.unknown.contains(&step.tool.as_str()) {
            return Err(vec![Problem {
                place: format!("/steps/{}/tool", taken.len()),
                step: Some(step.id.clone()),
                message: format!("there is no tool `{}`", step.tool),
            }]);
        }
        taken.push(step.clone());
        if let Some(told) = &self.told {
            told.send(step).unwrap();
        }
        Ok(())
    }

    fn check_output(&self, output: &Value) -> Vec<Problem> {
        let is_bad = output == "bad";
        let problem = || Problem {
            place: "/output".to_owned(),
            step: None,
            message: "it refers to no step".to_owned(),
        };
        is_bad.then(problem).into_iter().collect()
    }

    async fn settled(&self) -> Option<Vec<Ended>> {
        let ended = |step: &Step| {
            let (state, result) = (self.result)(step);
            Ended {
                id: step.id.clone(),
                tool: step.tool.clone(),
                state,
                reason: None,
                result: Some(Arc::new(result)),
            }
        };
        (!self.is_draft).then(|| self.taken.lock().iter().map(ended).collect())
    }

    fn ended(&self) -> &CancellationToken {
        &self.ended
    }
}
