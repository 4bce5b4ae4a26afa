//! A batch is followed with `batch_status`: what happened since, waited for, until it has ended.

use serde_json::{Map, Value, json};

use super::view::View;
use super::{Connection, Outcome, of_batch};

/// How long one call waits for something to happen.
const WAIT_SECONDS: u32 = 30;
const PAGE: u32 = 1000;

pub(super) struct Follow<'a> {
    connection: &'a Connection,
    id: String,
    /// Up to where it was told. None: not at all, or not in a row.
    at: Option<u64>,
    batch: Value,
}

pub(super) enum End {
    /// With the batch as it ended.
    Ended(Value),
    Refused(Outcome),
    Interrupted,
}

impl<'a> Follow<'a> {
    /// `from_start`: with what has happened already, as far as that is kept, and not with how things are.
    pub(super) fn new(connection: &'a Connection, id: &str, from_start: bool) -> Follow<'a> {
        Follow { connection, id: id.to_owned(), at: from_start.then_some(0), batch: Value::Null }
    }

    /// Shows what happens until the batch has ended, or `interrupt`. May be called again after that.
    pub(super) async fn until(
        &mut self,
        view: &mut View,
        interrupt: impl Future<Output = ()>,
    ) -> anyhow::Result<End> {
        tokio::pin!(interrupt);
        loop {
            let mut arguments = of_batch(&self.id);
            match self.at {
                Some(at) => {
                    arguments.insert("since".to_owned(), json!(at));
                    arguments.insert("wait_seconds".to_owned(), json!(WAIT_SECONDS));
                }
                None => drop(arguments.insert("page_size".to_owned(), json!(PAGE))),
            }
            let call = self.connection.call("batch_status", arguments, None, &mut interrupt);
            let Some(outcome) = call.await? else { return Ok(End::Interrupted) };
            if outcome.is_error {
                return Ok(End::Refused(outcome));
            }
            let mut answer = outcome.value;
            let transitions = answer["transitions"].take();
            let last = answer["last_transition"].as_u64();
            let is_whole = transitions.is_null();
            view.expect(answer["steps"]["total"].as_u64().unwrap_or(0));
            if let Value::Array(transitions) = transitions {
                self.at = last;
                transitions.iter().for_each(|it| view.transition(it));
            } else if let Some(refused) = self.steps(&mut answer, view, &mut interrupt).await? {
                return Ok(refused);
            } else {
                self.at = last;
            }
            self.batch = answer;
            view.batch(&self.batch);
            let has_ended = !self.batch["ended_at"].is_null();
            // The last transitions are told before its end is.
            if has_ended && (is_whole || view.knows_end()) {
                return Ok(End::Ended(self.batch.take()));
            }
        }
    }

    /// How all steps are, page by page.
    async fn steps(
        &self,
        first: &mut Value,
        view: &mut View,
        interrupt: &mut (impl Future<Output = ()> + Unpin),
    ) -> anyhow::Result<Option<End>> {
        let mut page = first["step_list"].take();
        let mut next = first["next_page_token"].take();
        loop {
            page.as_array().into_iter().flatten().for_each(|it| view.step(it));
            let token = next.as_str().unwrap_or_default();
            if token.is_empty() {
                return Ok(None);
            }
            let arguments = Map::from_iter([
                ("task_id".to_owned(), json!(self.id)),
                ("page_size".to_owned(), json!(PAGE)),
                ("page_token".to_owned(), json!(token)),
            ]);
            let call = self.connection.call("batch_status", arguments, None, &mut *interrupt);
            let Some(mut outcome) = call.await? else { return Ok(Some(End::Interrupted)) };
            if outcome.is_error {
                return Ok(Some(End::Refused(outcome)));
            }
            page = outcome.value["step_list"].take();
            next = outcome.value["next_page_token"].take();
        }
    }
}
