//! Batches that were under way when the server stopped go on: what has ended stays, what may be called again is, and the
//! rest is `unknown`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use orch_domain::Error;
use orch_domain::batch::{
    Batch, BatchChange, BatchState, End, Kept, Reason, StepRun, StepState, StoredBatch,
};
use orch_domain::name::StepId;
use orch_domain::plan::{OnError, Step, StepNeeds};
use serde_json::Value;

use super::live::{Known, Run, Times};
use super::payload::{Held, unkept};
use super::runner::Runner;
use super::step::resolve_pointer;
use super::toolbox::CallersTools;
use crate::{Cx, Orch};

impl Orch {
    /// At the start, before anybody can ask: which batches there are.
    pub async fn load_batches(self: &Arc<Orch>) -> Result<(), Error> {
        let orch = self.clone();
        let read = tokio::task::spawn_blocking(move || {
            let batches = orch.ledger.store().batches()?;
            let ids: Vec<_> = batches.iter().map(|it| it.id.clone()).collect();
            orch.blobs.sweep(&ids)?;
            Ok(batches)
        });
        let batches = read.await.map_err(Error::internal)?.map_err(unkept)?;
        for batch in batches {
            self.batches.put(batch, None);
        }
        Ok(())
    }

    /// Once the tools are known: those that have not ended go on.
    pub async fn resume_batches(self: &Arc<Orch>) {
        let open = self.batches.all().into_iter().filter(|it| !it.batch.state.has_ended());
        for entry in open.filter(|it| it.run.is_none()) {
            if let Err(err) = self.go_on(Batch::clone(&entry.batch)).await {
                tracing::error!("the batch {} cannot go on: {err}", entry.batch.id);
                self.give_up_on(Batch::clone(&entry.batch), &err).await;
            }
        }
    }

    /// A batch that cannot be taken up ends, and says why.
    async fn give_up_on(&self, mut batch: Batch, err: &Error) {
        let message = format!("the server started again and could not take the batch up: {err}");
        batch.state = BatchState::Failed;
        batch.reason = Some(Reason::new(err.code().as_str(), message));
        batch.ended_at = Some(self.clock.now());
        let header = BatchChange::Put(Arc::new(batch.clone()));
        if let Err(err) = self.ledger.commit_batches(vec![header], None).await {
            tracing::error!("the end of the batch {} could not be recorded: {err}", batch.id);
        }
        self.batches.put(batch, None);
    }

    async fn go_on(self: &Arc<Orch>, batch: Batch) -> Result<(), Error> {
        let (orch, id) = (self.clone(), batch.id.clone());
        let read = tokio::task::spawn_blocking(move || orch.ledger.store().batch(&id));
        let Some(stored) = read.await.map_err(Error::internal)?.map_err(unkept)? else {
            return Ok(());
        };
        let StoredBatch { batch, steps, runs } = stored;
        let was_planning = batch.state == BatchState::Planning
            || (batch.request.is_some() && batch.state == BatchState::Queued);
        let cx = self.cx_now(&batch.runs_for).unwrap_or_else(|_| Cx::new(None));
        let tools = CallersTools::of(self, &cx);
        let (run, control) = self.run_of(batch);
        let known = steps.into_iter().map(|it| self.known(it, &tools)).collect();
        take_up(&run, known, &runs, was_planning).await?;
        run.accepted.cancel();
        let batch = run.live.lock().batch.clone();
        tracing::info!("the batch {} goes on where it was", batch.id);
        self.batches.put(batch, Some(run.clone()));
        self.tracker.spawn(Runner::new(run, control, false).drive());
        Ok(())
    }
}

/// Puts a batch where an earlier run of the server had come to. Nothing of it runs yet.
pub(super) async fn take_up(
    run: &Run,
    known: Vec<Known>,
    runs: &[StepRun],
    was_planning: bool,
) -> Result<(), Error> {
    let on_error = run.live.lock().batch.terms.on_error;
    let steps: Vec<Arc<Step>> = known.iter().map(|it| it.step.clone()).collect();
    let mut results: Vec<Option<Arc<Value>>> = Vec::new();
    let looked_at = looked_at(&steps);
    for it in runs {
        // Results of elements are gathered anew, from wherever they are.
        let value = match &it.result {
            Some(Kept::Inline(value)) => Some(value.clone()),
            Some(Kept::Large { name, .. })
                if it.part.element.is_some() || looked_at.contains(&it.part.step) =>
            {
                run.fetch(Held::Large { name: name.clone() }).await?
            }
            _ => None,
        };
        results.push(value);
    }
    {
        let mut live = run.live.lock();
        let age_ms = run.clock.now().since(live.batch.created_at);
        live.transitions.resume(age_ms);
        for step in known {
            live.add(&run.slots, step, false);
        }
        for at in in_order_of_ends(&live, runs) {
            let (it, value) = (&runs[at], &results[at]);
            let part = it.part;
            let step = live.machine.step(part.step).clone();
            let reason = || {
                it.reason.clone().unwrap_or_else(|| Reason::new("Unknown", "it is not known why"))
            };
            let end = match (it.state, value) {
                (StepState::Succeeded, value) if part.element.is_some() => {
                    let value = value.clone().unwrap_or_default();
                    let collected = match &step.collect {
                        Some(pointer) => resolve_pointer(&step.id, pointer, &value),
                        None => Ok(Value::clone(&value)),
                    };
                    Some(collected.map_or_else(End::Failed, End::Succeeded))
                }
                (StepState::Succeeded, _) => Some(End::Succeeded(Value::Null)),
                (StepState::Failed | StepState::Skipped, _) => Some(End::Failed(reason())),
                (StepState::Cancelled, _) => Some(End::Cancelled(reason())),
                (StepState::Unknown, _) => Some(End::Unknown(reason())),
                _ => None,
            };
            if part.is_compensation {
                live.times[part.step as usize].compensation = Some(it.state);
            } else if part.element.is_none() {
                live.times[part.step as usize] = Times {
                    started: it.started_at,
                    ended: it.ended_at,
                    attempt: it.attempt,
                    reason: it.reason.clone(),
                    compensation: None,
                };
                match (&it.result, value) {
                    (Some(Kept::Large { .. }), Some(value)) => {
                        live.hold_as(part.step, Held::Memory(value.clone()));
                    }
                    (Some(kept @ Kept::Large { .. }), None) => {
                        live.hold(part, &Arc::default(), kept)
                    }
                    (Some(kept), Some(value)) => live.hold(part, value, kept),
                    _ => {}
                }
            }
            let tools = &live.tools[part.step as usize];
            let undoing_is_repeatable =
                tools.compensation.as_ref().is_some_and(|it| it.is_repeatable);
            // What was gathered of the elements did not get to the disk, and is gathered again.
            let is_half = part.element.is_none()
                && step.for_each.is_some()
                && it.state == StepState::Succeeded
                && it.result.is_none();
            let (state, end) = if is_half { (StepState::Running, None) } else { (it.state, end) };
            live.machine.restore(part, state, it.attempt, end, undoing_is_repeatable);
        }
        live.restored();
        if !was_planning {
            live.machine.close();
        } else {
            let message = "the server stopped while a model wrote the plan; what was done is kept, ask again for the rest";
            live.machine.fail(Reason::new("Unavailable", message), on_error == OnError::Compensate);
            live.machine.close();
        }
    }
    Ok(())
}

/// Undoing goes back through them. What ended within the same millisecond is told apart by what needed what.
fn in_order_of_ends(live: &super::live::Live, runs: &[StepRun]) -> Vec<usize> {
    let n = live.machine.n_steps();
    let mut depths: Vec<Option<u32>> = vec![None; n];
    for first in 0..n {
        let mut open = vec![first];
        while let Some(&at) = open.last() {
            let needs = live.machine.needs(u32::try_from(at).unwrap_or(u32::MAX));
            let unknown = needs.iter().map(|it| *it as usize).find(|it| depths[*it].is_none());
            match unknown {
                Some(need) if depths[at].is_none() => open.push(need),
                _ => {
                    let below = needs.iter().filter_map(|it| depths[*it as usize]).max();
                    depths[at] = Some(below.map_or(0, |it| it + 1));
                    open.pop();
                }
            }
        }
    }
    let mut order: Vec<usize> = (0..runs.len()).collect();
    order.sort_by_key(|at| {
        let it = &runs[*at];
        let depth = depths.get(it.part.step as usize).copied().flatten();
        (it.ended_at.is_none(), it.ended_at, depth, it.part)
    });
    order
}

/// Steps whose results decide what others run over, or whether they do.
fn looked_at(steps: &[Arc<Step>]) -> HashSet<u32> {
    let places: HashMap<&StepId, u32> = steps.iter().map(|it| &it.id).zip(0..).collect();
    let judged = steps.iter().filter(|it| it.for_each.is_some() || it.when.is_some());
    let mut found = HashSet::new();
    for step in judged {
        let needs = StepNeeds::of(step);
        found.extend(needs.all().filter_map(|id| places.get(id)).copied());
    }
    found
}

impl super::live::Live {
    fn restored(&mut self) {
        let places: HashMap<StepId, u32> = (0..)
            .take(self.machine.n_steps())
            .map(|at| (self.machine.step(at).id.clone(), at))
            .collect();
        let (machine, held) = (&mut self.machine, &self.held);
        machine.restored(&|id| match held.get(places.get(id)?)? {
            Held::Memory(it) => Some(it.clone()),
            _ => None,
        });
    }
}
