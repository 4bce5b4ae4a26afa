//! One conversation with the model: it writes, steps go to the canvas as they come, and what is wrong goes back.

use std::collections::HashMap;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use orch_domain::name::StepId;
use orch_domain::plan::{Problem, Step};
use orch_domain::{Error, text};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::draft::too_many;
use super::lines::Lines;
use super::mend::{cut_off, may_pass, what_to_mend};
use super::prompt::{PLAN, REPAIR};
use super::reply::{self, Said, Wrong};
use super::{Canvas, Options, toolset};
use crate::ports::model::{Message, Model, Piece, Prompt, Role};

/// More than that in one reply, and the rest of it is not waited for.
pub(super) const MAX_WRONG: usize = 20;
/// Of a piece, in bytes, before the steps in it are handed on.
const READ_AT_ONCE: usize = 4 * 1024;
/// Of a reply as it is shown to the model again, in bytes.
const MAX_SHOWN_AGAIN: usize = 64 * 1024;
/// Times that a reply may go on after it was cut off without that counting as a repair, as long as steps come.
const MAX_CONTINUATIONS: u32 = 8;
/// What a provider that has too much to do is waited for at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

pub(super) struct Dialogue<'a> {
    pub(super) model: &'a dyn Model,
    pub(super) canvas: &'a dyn Canvas,
    pub(super) options: &'a Options,
    pub(super) messages: Vec<Message>,
    /// What the canvas took, to know a step again that is only repeated.
    pub(super) taken: HashMap<StepId, Step>,
    pub(super) output: Option<Value>,
    pub(super) rounds: u32,
    /// The reply that was agreed on last; it becomes part of the conversation when that goes on.
    pub(super) said: String,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Stage {
    Plan,
    Join { may_replan: bool },
}

/// What came of it.
#[derive(Debug, PartialEq)]
pub(super) enum Agreed {
    /// There are new steps, and no more will come.
    Steps,
    Answer(String),
}

/// One reply, read to its end.
#[derive(Default)]
pub(super) struct Reply {
    text: String,
    pub(super) n_taken: usize,
    /// Steps that were there already, word for word.
    n_repeated: usize,
    wrong: Vec<Wrong>,
    answer: Option<String>,
    cannot: Option<String>,
    is_done: bool,
    /// It was cut off by its own length.
    pub(super) is_cut: bool,
    pub(super) died: Option<Error>,
}

impl Dialogue<'_> {
    /// Asks until there is what `stage` asks for. Everything that was taken on the way stays taken.
    pub(super) async fn agree(&mut self, stage: Stage) -> Result<Agreed, Error> {
        let mut repairs_left = self.options.max_repairs;
        let mut continuations_left = MAX_CONTINUATIONS;
        let mut has_died = false;
        // Of this stage: what was taken, what is still to be mended, and whether a reply broke off and none has completed
        // it since.
        let (mut n_taken, mut wrong, mut is_unfinished) = (0, Vec::new(), false);
        loop {
            let mut reply = self.ask(stage).await?;
            n_taken += reply.n_taken;
            if let Some(why) = reply.cannot.take() {
                return match stage {
                    Stage::Plan => Err(self.cannot(&why)),
                    Stage::Join { .. } => Ok(Agreed::Answer(text::sanitize(&why))),
                };
            }
            let goes_on = reply.is_cut && reply.wrong.is_empty() && 0 < reply.n_taken;
            is_unfinished = reply.breaks_off() || (is_unfinished && !reply.says_something());
            if reply.is_done || 0 < reply.n_taken || !reply.wrong.is_empty() {
                wrong = std::mem::take(&mut reply.wrong);
            }
            let is_whole = !is_unfinished && wrong.is_empty();
            if is_whole && 0 < n_taken {
                self.said = reply.text;
                return Ok(Agreed::Steps);
            }
            if n_taken == 0
                && let Some(answer) = reply.answer_of(stage, is_whole)
            {
                return Ok(Agreed::Answer(text::sanitize(&answer)));
            }

            let is_unsaid = reply.died.is_some() && reply.text.trim().is_empty();
            let said = what_to_mend(stage, &reply, &wrong, n_taken);
            if let Some(err) = reply.died {
                if has_died || repairs_left == 0 || !may_pass(&err) {
                    return Err(err);
                }
                has_died = true;
                self.pause(&err).await?;
            }
            if goes_on && continuations_left != 0 {
                continuations_left -= 1;
            } else if repairs_left == 0 {
                return Err(self.unusable(stage, &said));
            } else {
                repairs_left -= 1;
            }
            // What was refused before its first word is only asked again.
            if !is_unsaid {
                self.send_back(reply.text, &said);
            }
        }
    }

    /// One reply of the model. The error is only ever that the canvas ended.
    async fn ask(&mut self, stage: Stage) -> Result<Reply, Error> {
        self.rounds += 1;
        let prompt = Prompt {
            system: PLAN.body().to_owned(),
            messages: self.messages.clone(),
            max_tokens: self.options.max_output_tokens,
        };
        let canvas = self.canvas;
        let (mut reply, mut lines) = (Reply::default(), Lines::default());
        let mut stream = match until(canvas.ended(), self.model.generate(&prompt)).await? {
            Ok(stream) => stream,
            Err(err) => return Ok(Reply { died: Some(err), ..reply }),
        };
        let mut has_ended = false;
        while !has_ended && !reply.is_settled() {
            match until(canvas.ended(), stream.next()).await? {
                Some(Ok(Piece::Text(text))) => {
                    self.read(&text, stage, &mut lines, &mut reply).await;
                    if reply.text.len() < MAX_SHOWN_AGAIN {
                        reply.text.push_str(&text);
                    }
                }
                Some(Ok(Piece::End(end))) => {
                    reply.is_cut = end.is_cut;
                    has_ended = true;
                }
                Some(Err(err)) => {
                    reply.died = Some(err);
                    has_ended = true;
                }
                None => {
                    reply.died = Some(cut_off(self.model));
                    has_ended = true;
                }
            }
        }
        let n_ignored = lines.n_ignored();
        // What a lost or cut stream left open is told by that already.
        if !reply.is_settled()
            && reply.died.is_none()
            && !reply.is_cut
            && let Some(found) = lines.end()
        {
            reply.wrong.extend(reply::read(found).into_iter().filter_map(|it| match it {
                Said::Wrong(it) => Some(it),
                _ => None,
            }));
        }
        tracing::debug!(
            model = self.model.name(),
            ?stage,
            round = self.rounds,
            n_taken = reply.n_taken,
            n_wrong = reply.wrong.len(),
            n_ignored,
            "a reply of the planner's model was read"
        );
        Ok(reply)
    }

    /// What a piece completes. Some models give all they write as one piece, so what runs the steps, which may be on this
    /// thread, has its turn after each.
    async fn read(&mut self, text: &str, stage: Stage, lines: &mut Lines, reply: &mut Reply) {
        let mut rest = text;
        while !rest.is_empty() && !reply.is_settled() {
            let (now, later) = rest.split_at(rest.ceil_char_boundary(READ_AT_ONCE.min(rest.len())));
            rest = later;
            for found in lines.push(now) {
                for said in reply::read(found) {
                    self.hear(said, stage, reply);
                }
                tokio::task::yield_now().await;
                if reply.is_settled() {
                    return;
                }
            }
        }
    }

    fn hear(&mut self, said: Said, stage: Stage, reply: &mut Reply) {
        match said {
            Said::Step(step) => match self.take(*step, stage) {
                Ok(true) => reply.n_taken += 1,
                Ok(false) => reply.n_repeated += 1,
                Err(wrong) => reply.wrong.push(wrong),
            },
            Said::Done { output } => {
                reply.is_done = true;
                if let Some(output) = output {
                    match &self.canvas.check_output(&output)[..] {
                        [] => self.output = Some(output),
                        problems => reply.wrong.push(Wrong::of_problems("output", problems)),
                    }
                }
            }
            Said::Answer(it) => {
                reply.answer = Some(it);
                // There is nothing to plan any more. A plan may still follow words about it.
                reply.is_done |= stage != Stage::Plan && reply.n_taken == 0;
            }
            Said::Cannot(it) => reply.cannot = Some(it),
            Said::Replan if (stage == Stage::Join { may_replan: false }) => {
                reply.wrong.push(Wrong::of_text("replan", NO_MORE_STEPS));
            }
            Said::Replan => {}
            Said::Wrong(it) => reply.wrong.push(it),
            Said::TooMuch(why) => {
                reply.wrong.push(Wrong::of_text("the reply", why));
                (reply.is_done, reply.is_cut) = (true, true);
            }
        }
    }

    /// False: it was taken before.
    fn take(&mut self, step: Step, stage: Stage) -> Result<bool, Wrong> {
        let id = step.id.clone();
        if let Some(taken) = self.taken.get(&id) {
            return match *taken == step {
                true => Ok(false),
                false => Err(Wrong::of_text(
                    id.as_str(),
                    "a step with this id was taken already and runs; it cannot be changed: leave it out, or write \
                     another step with another id",
                )),
            };
        }
        if stage == (Stage::Join { may_replan: false }) {
            return Err(Wrong::of_text(id.as_str(), NO_MORE_STEPS));
        }
        let mut problems = withheld(&step, self.taken.len());
        if self.options.max_steps <= self.taken.len() {
            problems.push(too_many(&step, self.taken.len(), self.options.max_steps));
        }
        if problems.is_empty() {
            match self.canvas.add(step.clone()) {
                Ok(()) => {
                    self.taken.insert(id, step);
                    return Ok(true);
                }
                Err(found) => problems = found,
            }
        }
        Err(Wrong::of_problems(id.as_str(), &problems))
    }

    /// The next message: what is wrong, and what is there already.
    fn send_back(&mut self, reply: String, said: &[String]) {
        let problems: Vec<String> = said.iter().map(|it| format!("- {it}")).collect();
        let taken = match self.taken.is_empty() {
            true => "none".to_owned(),
            false => {
                let mut ids: Vec<&str> = self.taken.keys().map(StepId::as_str).collect();
                ids.sort_unstable();
                ids.join(", ")
            }
        };
        let text = REPAIR.render(&[("problems", &problems.join("\n")), ("taken", &taken)]);
        self.tell(reply, text);
    }

    /// Adds what the model said and what it is told next, in turn as providers want it.
    pub(super) fn tell(&mut self, said: String, next: String) {
        match self.messages.last_mut() {
            // Nothing was said, and an empty message is refused by some.
            Some(last) if said.trim().is_empty() && last.role == Role::User => {
                last.text.push_str("\n\n");
                last.text.push_str(&next);
            }
            _ => {
                let said = text::beginning(said.trim(), MAX_SHOWN_AGAIN).to_owned();
                self.messages.push(Message { role: Role::Assistant, text: said });
                self.messages.push(Message { role: Role::User, text: next });
            }
        }
    }

    async fn pause(&self, err: &Error) -> Result<(), Error> {
        let Error::TooManyRequests { retry_after_ms, .. } = err else { return Ok(()) };
        let pause = Duration::from_millis(*retry_after_ms).min(LONGEST_PAUSE);
        until(self.canvas.ended(), tokio::time::sleep(pause)).await
    }
}

const NO_MORE_STEPS: &str =
    "no further steps can be taken; write the `answer` from the results there are";

impl Reply {
    /// Nothing of what may still come would matter.
    fn is_settled(&self) -> bool {
        self.is_done || self.cannot.is_some() || MAX_WRONG <= self.wrong.len()
    }

    fn breaks_off(&self) -> bool {
        self.died.is_some() || self.is_cut
    }

    /// An end says that nothing more is to come; so does silence after steps.
    fn says_something(&self) -> bool {
        self.is_done || self.answer.is_some() || 0 < self.n_taken + self.n_repeated
    }

    /// Of results, an answer is taken also when it is not written as it should be: what it tells of has happened.
    fn answer_of(&mut self, stage: Stage, is_whole: bool) -> Option<String> {
        let is_usable = is_whole || (stage != Stage::Plan && !self.breaks_off());
        let answer = self.answer.take().filter(|_| is_usable);
        match stage {
            Stage::Plan => answer,
            Stage::Join { .. } => {
                answer.or_else(|| is_usable.then(|| reply::loose_answer(&self.text)).flatten())
            }
        }
    }
}

/// What a plan that a model writes may not call.
fn withheld(step: &Step, place: usize) -> Vec<Problem> {
    let compensation = step.compensate.as_ref().map(|it| (it.tool.as_str(), "/compensate"));
    let tools = std::iter::once((step.tool.as_str(), "")).chain(compensation);
    let withheld = tools.filter(|it| toolset::is_withheld(it.0));
    let problem = |(tool, part): (&str, &str)| Problem {
        place: format!("/steps/{place}{part}/tool"),
        step: Some(step.id.clone()),
        message: format!(
            "`{}` is no step of a plan; choose one of the tools shown",
            text::excerpt(tool, 100)
        ),
    };
    withheld.map(problem).collect()
}

/// `future`, unless the canvas ends before it.
pub(super) async fn until<T>(
    ended: &CancellationToken,
    future: impl Future<Output = T> + Send,
) -> Result<T, Error> {
    let future: BoxFuture<'_, T> = Box::pin(future);
    tokio::select! {
        biased;
        () = ended.cancelled() => Err(Error::Cancelled {
            message: "the batch ended before its planner did".to_owned(),
        }),
        it = future => Ok(it),
    }
}
