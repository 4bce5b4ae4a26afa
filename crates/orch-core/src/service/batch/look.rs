//! What callers see of batches, of those under way from memory and of others from the store, page by page.

use std::collections::HashMap;
use std::sync::Arc;

use orch_domain::Error;
use orch_domain::batch::{Batch, BatchState, Kept, Part, StepRun, StepState};
use orch_domain::name::{BatchId, StepId};
use orch_domain::plan::{Scope, Step, collect_needs, resolve};
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::board::Entry;
use super::live::{Live, Run};
use super::payload::{Held, unkept};
use super::transitions::Transition;
use crate::view::batch::{BatchView, LargeResult, StepCounts, StepResult, StepView};
use crate::{Cx, Orch};

/// Rows that are read from the store at once.
const CHUNK: usize = 2_000;

/// A batch as far as it has come.
pub struct Found {
    pub view: BatchView,
    /// Some of its steps, in the order of the plan.
    pub steps: Vec<StepView>,
    /// The place of the first step that is not among them.
    pub next: Option<u32>,
}

pub struct ResultPage {
    pub view: BatchView,
    pub results: Vec<StepResult>,
    pub next: Option<u32>,
    /// The plan's, once the batch has ended.
    pub output: Option<Value>,
    /// Why there is none although the plan has one.
    pub output_missing: Option<String>,
}

impl Live {
    pub(super) fn counts(&self) -> StepCounts {
        let steps = 0..u32::try_from(self.machine.n_steps()).unwrap_or(u32::MAX);
        count(steps.map(|at| self.machine.state(at)))
    }

    fn step_view(&self, at: u32) -> StepView {
        let (step, times) = (self.machine.step(at), &self.times[at as usize]);
        StepView {
            id: step.id.clone(),
            tool: step.tool.clone(),
            state: self.machine.state(at),
            attempt: times.attempt,
            reason: times.reason.clone(),
            started_at: times.started,
            ended_at: times.ended,
            elapsed_ms: times.ended.zip(times.started).map(|(end, start)| end.since(start)),
            elements: self.machine.elements(at).map(|it| count(it.iter().copied())),
            compensation: times.compensation,
        }
    }
}

fn count(states: impl Iterator<Item = StepState>) -> StepCounts {
    let mut counts = StepCounts::default();
    for state in states {
        counts.total += 1;
        *match state {
            StepState::Waiting => &mut counts.waiting,
            StepState::Queued => &mut counts.queued,
            StepState::Running => &mut counts.running,
            StepState::Succeeded => &mut counts.succeeded,
            StepState::Failed => &mut counts.failed,
            StepState::Cancelled => &mut counts.cancelled,
            StepState::Skipped => &mut counts.skipped,
            StepState::Unknown => &mut counts.unknown,
        } += 1;
    }
    counts
}

impl Orch {
    fn batch_view(&self, batch: &Batch, steps: StepCounts) -> BatchView {
        let end = batch.ended_at.unwrap_or_else(|| self.clock.now());
        BatchView {
            task_id: batch.id.clone(),
            state: batch.state,
            reason: batch.reason.clone(),
            owner: batch.runs_for.user.clone(),
            request: batch.request.clone(),
            steps,
            created_at: batch.created_at,
            started_at: batch.started_at,
            ended_at: batch.ended_at,
            elapsed_ms: end.since(batch.created_at),
            deadline: batch.terms.deadline,
            client_token: batch.client_token.clone(),
            answer: batch.answer.clone(),
        }
    }

    /// Those that `cx` may see, newest first.
    pub fn list_batches(&self, state: Option<BatchState>, cx: &Cx) -> Result<Vec<BatchId>, Error> {
        let caller = cx.caller()?;
        let now = |it: &Entry| match &it.run {
            Some(run) => run.live.lock().batch.state,
            None => it.batch.state,
        };
        let entries = self.batches.all().into_iter();
        let seen = entries.filter(|it| caller.sees(&it.batch.runs_for.user));
        let wanted = seen.filter(|it| state.is_none_or(|state| now(it) == state));
        Ok(wanted.map(|it| it.batch.id.clone()).collect())
    }

    pub async fn view_batch(self: &Arc<Orch>, id: &BatchId, cx: &Cx) -> Result<BatchView, Error> {
        let entry = self.batch_entry(id, cx)?;
        let (batch, counts) = self.counted(&entry).await?;
        Ok(self.batch_view(&batch, counts))
    }

    async fn counted(self: &Arc<Orch>, entry: &Entry) -> Result<(Arc<Batch>, StepCounts), Error> {
        if let Some(run) = &entry.run {
            let live = run.live.lock();
            return Ok((Arc::new(live.batch.clone()), live.counts()));
        }
        if let Some(counts) = entry.counts {
            return Ok((entry.batch.clone(), counts));
        }
        // After a restart nobody has counted yet.
        let (orch, batch) = (self.clone(), entry.batch.clone());
        let counted = tokio::task::spawn_blocking(move || {
            let mut states = Vec::new();
            let mut from = Some(Part::of(0));
            while let Some(part) = from.take() {
                let runs = orch.ledger.store().batch_runs(&batch.id, Some(part), CHUNK)?;
                if runs.len() == CHUNK {
                    from = runs.last().map(|it| next_part(it.part));
                }
                let whole = runs.iter().filter(|it| is_whole(it));
                states.extend(whole.map(|it| it.state));
            }
            let missing = (batch.n_steps as usize).saturating_sub(states.len());
            states.extend(std::iter::repeat_n(StepState::Waiting, missing));
            let counts = count(states.into_iter());
            Ok((batch, counts))
        });
        let (batch, counts) = counted.await.map_err(Error::internal)?.map_err(unkept)?;
        self.batches.set_counts(&batch.id, counts);
        Ok((batch, counts))
    }

    /// With at most `limit` of its steps, from the place `from` on.
    pub async fn look_at_batch(
        self: &Arc<Orch>,
        id: &BatchId,
        from: u32,
        limit: usize,
        cx: &Cx,
    ) -> Result<Found, Error> {
        let entry = self.batch_entry(id, cx)?;
        if let Some(run) = &entry.run {
            let live = run.live.lock();
            let n = u32::try_from(live.machine.n_steps()).unwrap_or(u32::MAX);
            let end = from.saturating_add(u32::try_from(limit).unwrap_or(u32::MAX)).min(n);
            let steps = (from..end).map(|at| live.step_view(at)).collect();
            let view = self.batch_view(&live.batch, live.counts());
            return Ok(Found { view, steps, next: (end < n).then_some(end) });
        }
        let (batch, counts) = self.counted(&entry).await?;
        let view = self.batch_view(&batch, counts);
        let stored = self.stored_steps(id, from, limit).await?;
        let end = from.saturating_add(u32::try_from(stored.len()).unwrap_or(u32::MAX));
        let steps = stored.into_iter().map(StoredStep::view).collect();
        Ok(Found { view, steps, next: (end < batch.n_steps).then_some(end) })
    }

    /// The results of at most `limit` steps, from the place `from` on, or of one.
    pub async fn batch_results(
        self: &Arc<Orch>,
        id: &BatchId,
        only: Option<&StepId>,
        from: u32,
        limit: usize,
        cx: &Cx,
    ) -> Result<ResultPage, Error> {
        let entry = self.batch_entry(id, cx)?;
        let (batch, counts) = self.counted(&entry).await?;
        let (from, limit) = match only {
            Some(id) => (self.place_of_step(&entry, id).await?, 1),
            None => (from, limit),
        };
        let stored = self.stored_steps(id, from, limit).await?;
        let end = from.saturating_add(u32::try_from(stored.len()).unwrap_or(u32::MAX));
        let results = stored.into_iter().map(StoredStep::result).collect();
        let (output, output_missing) = match &batch.output {
            Some(written) if batch.state.has_ended() => {
                match self.output_of(&batch.id, written, &entry).await {
                    Ok(it) => (Some(it), None),
                    Err(why) => (None, Some(why.to_string())),
                }
            }
            _ => (None, None),
        };
        let next = (only.is_none() && end < batch.n_steps).then_some(end);
        let view = self.batch_view(&batch, counts);
        Ok(ResultPage { view, results, next, output, output_missing })
    }

    /// A piece of a large result.
    pub async fn batch_result_part(
        self: &Arc<Orch>,
        id: &BatchId,
        step: &StepId,
        offset: u64,
        max_bytes: usize,
        cx: &Cx,
    ) -> Result<crate::ports::blobs::BlobPart, Error> {
        let entry = self.batch_entry(id, cx)?;
        let at = self.place_of_step(&entry, step).await?;
        let (orch, batch) = (self.clone(), id.clone());
        let read = tokio::task::spawn_blocking(move || {
            let run = orch.ledger.store().batch_run(&batch, Part::of(at))?;
            match run.and_then(|it| it.result) {
                Some(Kept::Large { name, .. }) => orch.blobs.part(&batch, &name, offset, max_bytes),
                _ => Ok(None),
            }
        });
        let part = read.await.map_err(Error::internal)?.map_err(unkept)?;
        part.ok_or_else(|| {
            Error::invalid("offset", format!("`{step}` has no large result that reaches so far; leave `offset` out to see what it has"))
        })
    }

    async fn place_of_step(self: &Arc<Orch>, entry: &Entry, id: &StepId) -> Result<u32, Error> {
        let place = match &entry.run {
            Some(run) => run.live.lock().machine.place_of(id),
            None => {
                let (orch, batch, id) = (self.clone(), entry.batch.id.clone(), id.clone());
                let read = tokio::task::spawn_blocking(move || {
                    let mut from = 0;
                    loop {
                        let steps = orch.ledger.store().batch_steps(&batch, from, CHUNK)?;
                        if let Some(it) = steps.iter().find(|it| it.1.id == id) {
                            return Ok(Some(it.0));
                        }
                        match steps.last() {
                            Some(last) if steps.len() == CHUNK => from = last.0 + 1,
                            _ => return Ok(None),
                        }
                    }
                });
                read.await.map_err(Error::internal)?.map_err(unkept)?
            }
        };
        place.ok_or_else(|| Error::NotFound {
            kind: "step",
            id: id.to_string(),
            hint: "`batch_status` shows the steps of the batch".to_owned(),
        })
    }

    async fn stored_steps(
        self: &Arc<Orch>,
        id: &BatchId,
        from: u32,
        limit: usize,
    ) -> Result<Vec<StoredStep>, Error> {
        let (orch, id) = (self.clone(), id.clone());
        let read = tokio::task::spawn_blocking(move || {
            let store = orch.ledger.store();
            let steps = store.batch_steps(&id, from, limit)?;
            let mut found: Vec<StoredStep> =
                steps.into_iter().map(|(at, step)| StoredStep::new(at, step)).collect();
            // One by one: those of large arrays have as many rows between them as elements.
            for it in &mut found {
                it.run = store.batch_run(&id, Part::of(it.at))?;
                it.undone = store
                    .batch_run(&id, Part { is_compensation: true, ..Part::of(it.at) })?
                    .map(|it| it.state);
                if it.step.for_each.is_some() {
                    it.count_elements(store, &id)?;
                }
            }
            Ok(found)
        });
        read.await.map_err(Error::internal)?.map_err(unkept)
    }

    async fn output_of(
        self: &Arc<Orch>,
        id: &BatchId,
        written: &Value,
        entry: &Entry,
    ) -> Result<Value, Error> {
        let mut needs = orch_domain::plan::Needs::default();
        collect_needs(written, &mut needs);
        let mut results: HashMap<StepId, Arc<Value>> = HashMap::new();
        for step in needs.steps {
            let at = self.place_of_step(entry, &step).await?;
            if let Some(value) = self.fetch(id, Held::Stored(Part::of(at))).await? {
                results.insert(step, value);
            }
        }
        let scope = Scope { result: &|id| results.get(id).cloned(), item: None, index: None };
        resolve(written, &scope).map_err(|err| Error::invalid("output", err.to_string()))
    }

    /// For those who follow a batch. None: it has ended.
    pub fn follow_batch(&self, id: &BatchId, cx: &Cx) -> Result<Option<Arc<Run>>, Error> {
        Ok(self.batch_entry(id, cx)?.run)
    }
}

impl Run {
    /// At most `limit` transitions after `number`, in order. None: some are not kept any more.
    pub fn transitions(&self, number: u64, limit: usize) -> Option<Vec<Transition>> {
        self.live.lock().transitions.after(number, limit)
    }

    /// The number of the last transition that is there to be read.
    pub fn newest_transition(&self) -> u64 {
        self.live.lock().transitions.last
    }

    /// The number of the last transition; changes with each.
    pub fn last_transition(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Cancelled when the batch has ended and that is durable.
    pub fn ended(&self) -> &CancellationToken {
        &self.ended
    }

    /// How many steps have ended, and how many there are.
    pub fn progress(&self) -> (u32, u32) {
        let counts = self.live.lock().counts();
        let open = counts.waiting + counts.queued + counts.running;
        (counts.total - open, counts.total)
    }
}

fn is_whole(run: &StepRun) -> bool {
    run.part.element.is_none() && !run.part.is_compensation
}

/// The smallest part behind one.
fn next_part(part: Part) -> Part {
    match (part.element, part.is_compensation) {
        (None, false) => Part { element: Some(0), ..part },
        (Some(it), _) => Part { element: Some(it + 1), ..part },
        (None, true) => Part { element: Some(0), ..part },
    }
}

struct StoredStep {
    at: u32,
    step: Arc<Step>,
    run: Option<StepRun>,
    undone: Option<StepState>,
    elements: Option<StepCounts>,
}

impl StoredStep {
    fn new(at: u32, step: Arc<Step>) -> StoredStep {
        StoredStep { at, step, run: None, undone: None, elements: None }
    }

    fn count_elements(
        &mut self,
        store: &dyn crate::ports::store::Store,
        id: &BatchId,
    ) -> Result<(), crate::ports::store::StoreError> {
        let mut states = Vec::new();
        let mut from = Some(Part { element: Some(0), ..Part::of(self.at) });
        while let Some(part) = from.take() {
            let runs = store.batch_runs(id, Some(part), CHUNK)?;
            let of_this = |it: &&StepRun| it.part.step == self.at;
            let n = runs.iter().filter(of_this).count();
            let elements = runs.iter().filter(of_this);
            let elements =
                elements.filter(|it| it.part.element.is_some() && !it.part.is_compensation);
            states.extend(elements.map(|it| it.state));
            let undone = runs.iter().filter(of_this).filter(|it| it.part.is_compensation);
            for it in undone {
                let is_worse = self.undone.is_none_or(|it| it == StepState::Succeeded);
                if is_worse {
                    self.undone = Some(it.state);
                }
            }
            if n == CHUNK {
                from = runs.last().map(|it| next_part(it.part));
            }
        }
        if !states.is_empty() {
            self.elements = Some(count(states.into_iter()));
        }
        Ok(())
    }

    fn state(&self) -> StepState {
        self.run.as_ref().map_or(StepState::Waiting, |it| it.state)
    }

    fn view(self) -> StepView {
        let state = self.state();
        let run = self.run;
        let times = run.as_ref().and_then(|it| it.ended_at.zip(it.started_at));
        StepView {
            id: self.step.id.clone(),
            tool: self.step.tool.clone(),
            state,
            attempt: run.as_ref().map_or(0, |it| it.attempt),
            started_at: run.as_ref().and_then(|it| it.started_at),
            ended_at: run.as_ref().and_then(|it| it.ended_at),
            elapsed_ms: times.map(|(end, start)| end.since(start)),
            reason: run.and_then(|it| it.reason),
            elements: self.elements,
            compensation: self.undone,
        }
    }

    fn result(self) -> StepResult {
        let state = self.state();
        let (reason, kept) = self.run.map_or((None, None), |it| (it.reason, it.result));
        let (result, large) = match kept {
            Some(Kept::Inline(it)) => (Some(Value::clone(&it)), None),
            Some(Kept::Large { n_bytes, .. }) => (None, Some(LargeResult { n_bytes })),
            None => (None, None),
        };
        StepResult {
            id: self.step.id.clone(),
            tool: self.step.tool.clone(),
            state,
            reason,
            result,
            large,
        }
    }
}
