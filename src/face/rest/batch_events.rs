//! `GET /batch/events/{task_id}`: every change of state of a batch and its steps, as server-sent events.
//!
//! `id` is the number of the transition, `event` is `step` or `batch`, `data` the transition as JSON. Whoever comes without a
//! place, or with one that is not kept any more, is told first how things are, in one or more `state` events: the batch as
//! `batch_status` shows it, with its steps. What such an event already shows may be told again by the transitions behind
//! it. `end` is the last event, once the batch has ended; a stream that ends without it is worth beginning again.

use std::sync::Arc;

use axum::extract::{FromRequestParts, RawPathParams, Request};
use axum::response::sse::Event as Sent;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use orch_core::service::batch::{Run, Subject, Transition};
use orch_core::{Cx, gate};
use orch_domain::Error;
use orch_domain::batch::BatchState;
use orch_domain::caller::Permission;
use orch_domain::name::BatchId;
use serde::Serialize;
use serde_json::json;
use tokio_stream::wrappers::ReceiverStream;

use crate::face::rest::events::{End, Line, RETRY, last_event_id};
use crate::face::rest::problem::Problem;
use crate::face::rest::{Rest, call, cx_of};

pub(super) const PATH: &str = "/batch/events/{task_id}";
/// Whoever may call it may follow.
const OPERATION: &str = "batch_status";
/// Steps in one `state` event.
const STEPS: usize = 1000;
/// Transitions that are taken at once.
const CHUNK: usize = 500;

pub(super) async fn handle(rest: Arc<Rest>, request: Request) -> Response {
    follow(&rest, request).await.unwrap_or_else(IntoResponse::into_response)
}

async fn follow(rest: &Rest, request: Request) -> Result<Response, Problem> {
    let (mut parts, _) = request.into_parts();
    let cx = cx_of(&parts.extensions);
    gate::permit(OPERATION, Permission::Read, &cx)?;
    let path = RawPathParams::from_request_parts(&mut parts, &())
        .await
        .map_err(|_| Error::invalid("task_id", "it is not valid percent-encoded text"))?;
    // It has one parameter, and the router names that by its place.
    let id = path.iter().next().map_or("", |(_, it)| it);
    let id = BatchId::try_new(id).map_err(|err| Error::invalid("task_id", err.to_string()))?;
    let query = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(&parts.uri)
        .map_err(|_| Error::invalid("", "the query string is not valid percent-encoded text"))?;
    let mut of_query = None;
    for (name, text) in query.0 {
        if name != "last_event_id" {
            let name = orch_domain::text::excerpt(&name, 60);
            return Err(Error::invalid(name, "a stream takes `last_event_id` only").into());
        }
        of_query = Some(text);
    }
    let since = last_event_id(&parts.headers, of_query)?;
    let run = rest.orch.follow_batch(&id, &cx)?;
    let (line, receiver) = Line::open(rest, &cx, parts.headers, OPERATION)?;
    let stream = Stream { line, id, at: since };
    rest.orch.tracker.spawn(stream.run(run));
    Ok(call::events(ReceiverStream::new(receiver).map(Ok)))
}

/// One client's stream.
struct Stream {
    line: Line,
    id: BatchId,
    /// Everything up to here was sent. None: nothing was.
    at: Option<u64>,
}

/// Some of what there is to say of a batch.
#[derive(Serialize)]
struct State<'a> {
    #[serde(flatten)]
    batch: &'a orch_core::view::batch::BatchView,
    /// In the order of the plan, those behind the ones of the event before.
    step_list: &'a [orch_core::view::batch::StepView],
    /// Further steps are in the next event.
    more: bool,
}

impl Stream {
    async fn run(mut self, run: Option<Arc<Run>>) {
        match self.send_all(run).await {
            Ok(state) => {
                let last = Sent::default().event("end").data(json!({"state": state}).to_string());
                drop(self.line.send(last).await);
            }
            // The batch goes on when the server is there again, and so may its followers.
            Err(end) => self.line.close(end, None),
        }
    }

    /// Answers how the batch ended.
    async fn send_all(&mut self, run: Option<Arc<Run>>) -> Result<BatchState, End> {
        self.line.send(Sent::default().comment("following").retry(RETRY)).await?;
        let Some(run) = run else { return self.snapshot(self.at.unwrap_or(0)).await };
        let mut changed = run.last_transition();
        let mut beats = self.line.beats();
        loop {
            match self.at.and_then(|it| run.transitions(it, CHUNK)) {
                None => {
                    // The number first: what happens while the steps are shown is told once more.
                    let state = self.snapshot(run.newest_transition()).await?;
                    if state.has_ended() {
                        return Ok(state);
                    }
                    continue;
                }
                Some(found) if !found.is_empty() => {
                    if let Some(state) = self.tell(&found).await? {
                        // What is told as ended is so after a crash too.
                        tokio::select! {
                            end = self.line.cut() => return Err(end),
                            () = run.ended().cancelled() => return Ok(state),
                        }
                    }
                    continue;
                }
                Some(_) => {}
            }
            tokio::select! {
                end = self.line.cut() => return Err(end),
                _ = beats.tick() => {
                    self.look_again()?;
                    self.line.send(Sent::default().comment("alive")).await?;
                }
                _ = changed.changed() => {}
            }
        }
    }

    /// How things are, in as many events as it takes; only the last of them is a place to come back to.
    async fn snapshot(&mut self, number: u64) -> Result<BatchState, End> {
        let mut from = 0;
        loop {
            self.look_again()?;
            let cx = Cx::new(Some(self.line.caller.clone()));
            let found = self.line.orch.look_at_batch(&self.id, from, STEPS, &cx).await;
            let found = found.map_err(End::Refused)?;
            let state =
                State { batch: &found.view, step_list: &found.steps, more: found.next.is_some() };
            let data =
                serde_json::to_string(&state).map_err(|err| End::Refused(Error::internal(err)))?;
            let mut event = Sent::default().event("state").data(data);
            if found.next.is_none() {
                event = event.id(number.to_string());
                self.at = Some(number);
            }
            self.line.send(event).await?;
            match found.next {
                Some(next) => from = next,
                None => return Ok(found.view.state),
            }
        }
    }

    /// Answers how the batch ended, if it did.
    async fn tell(&mut self, found: &[Transition]) -> Result<Option<BatchState>, End> {
        for it in found {
            let data = serde_json::to_string(it).expect("a transition is plain data");
            let event = match it.subject {
                Subject::Step { .. } => "step",
                Subject::Batch { .. } => "batch",
            };
            let sent = Sent::default().id(it.number.to_string()).event(event).data(data);
            self.line.send(sent).await?;
            self.at = Some(it.number);
            if let Subject::Batch { state, .. } = it.subject
                && state.has_ended()
            {
                return Ok(Some(state));
            }
        }
        Ok(None)
    }

    fn look_again(&mut self) -> Result<(), End> {
        self.line.look_again()?;
        let cx = Cx::new(Some(self.line.caller.clone()));
        self.line.orch.follow_batch(&self.id, &cx).map(drop).map_err(End::Refused)
    }
}
