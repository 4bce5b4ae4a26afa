//! A request for a batch is checked as a whole, made durable, and begun.

use std::sync::Arc;
use std::time::Duration;

use orch_domain::Error;
use orch_domain::batch::{Batch, BatchChange, BatchState, Machine, RunsFor, Terms};
use orch_domain::name::{BatchId, ClientToken};
use orch_domain::plan::{Limits, OnError, Plan, Step, Toolbox, check};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::board::Entry;
use super::calls::{GateCalls, StepCalls, Target};
use super::canvas::RunCanvas;
use super::journal::Journal;
use super::live::{Control, Known, Live, Planned, Run, StepTools};
use super::planner;
use super::runner::Runner;
use super::toolbox::CallersTools;
use crate::ports::model::Model;
use crate::service::tools::BUILT_IN;
use crate::{Cx, Orch};

/// Steps of one commit.
const CHUNK: usize = 2_000;

/// What is to be done.
pub enum Ask {
    Plan(Plan),
    /// In words; a model makes a plan of it.
    Request {
        words: String,
        model: Arc<dyn Model>,
        options: planner::Options,
    },
}

pub struct Wanted {
    pub ask: Ask,
    pub max_parallel: Option<u32>,
    pub step_timeout: Option<Duration>,
    pub retries: Option<u32>,
    pub deadline: Option<Duration>,
    pub client_token: Option<ClientToken>,
    /// Of the arguments, for repeats with the token.
    pub arguments_hash: String,
}

pub struct Accepted {
    pub id: BatchId,
    /// An earlier request with this token made it.
    pub existed: bool,
    /// Cancelled when a planner has ended. None: there is none.
    pub planned: Option<CancellationToken>,
    /// Cancelled when the batch has ended.
    pub ended: CancellationToken,
}

impl Orch {
    /// Everything that is wrong with a plan, for the tools that `cx` sees.
    pub(super) async fn check_plan(
        self: &Arc<Orch>,
        plan: Arc<Plan>,
        cx: &Cx,
    ) -> Result<Arc<CallersTools>, Error> {
        let tools = Arc::new(CallersTools::of(self, cx));
        let of_check = tools.clone();
        // A hundred thousand steps take a while.
        let checked =
            tokio::task::spawn_blocking(move || check(&plan, &*of_check, &Limits::DEFAULT));
        let problems = checked.await.map_err(Error::internal)?;
        if problems.is_empty() { Ok(tools) } else { Err(Error::InvalidPlan { problems }) }
    }

    /// Accepts a batch: when this returns it is durable, and it goes on by itself.
    pub async fn begin_batch(self: &Arc<Orch>, wanted: Wanted, cx: &Cx) -> Result<Accepted, Error> {
        let caller = cx.caller()?.clone();
        if let Some(token) = &wanted.client_token
            && let Some(entry) = self.batches.with_token(&caller.user, token)
        {
            return again(&entry, &wanted.arguments_hash, token).await;
        }
        let most = self.settings.batch.max_open_per_user;
        if most <= self.batches.n_open(&caller.user) {
            return Err(Error::TooManyRequests {
                message: format!(
                    "you have {most} batches under way, which is the most; wait for one (`list_batches`) or cancel one (`batch_cancel`)"
                ),
                retry_after_ms: 1000,
            });
        }
        let profile = cx.scope().and_then(|it| it.profile()).map(str::to_owned);
        let (steps, on_error, output, words, tools) = match &wanted.ask {
            Ask::Plan(plan) => {
                let tools = self.check_plan(Arc::new(plan.clone()), cx).await?;
                (plan.steps.clone(), plan.on_error, plan.output.clone(), None, tools)
            }
            Ask::Request { words, .. } => {
                let tools = Arc::new(CallersTools::of(self, cx));
                // A model that sees what failed can answer for it.
                (Vec::new(), OnError::Continue, None, Some(words.clone()), tools)
            }
        };
        let now = self.clock.now();
        let settings = &self.settings.batch;
        let deadline = wanted.deadline.unwrap_or(settings.deadline);
        let batch = Batch {
            id: BatchId::new(now, self.random() as u32),
            runs_for: RunsFor::of(&caller, profile),
            state: BatchState::Queued,
            reason: None,
            request: words,
            client_token: wanted.client_token,
            arguments_hash: Some(wanted.arguments_hash),
            terms: Terms {
                max_parallel: wanted.max_parallel.unwrap_or(settings.max_parallel),
                step_timeout_ms: millis(wanted.step_timeout.unwrap_or(settings.step_timeout)),
                retries: wanted.retries.unwrap_or(settings.retries),
                deadline: now.plus_millis(millis(deadline)),
                on_error,
            },
            output,
            answer: None,
            n_steps: 0,
            created_at: now,
            started_at: None,
            ended_at: None,
        };
        cx.audit_target(&batch.id);
        let (run, control) = self.run_of(batch);
        {
            let mut live = run.live.lock();
            for step in steps {
                let known = self.known(Arc::new(step), &*tools);
                live.add(&run.slots, known, true);
            }
        }
        if let Some(entry) = self.batches.put_new(&run) {
            let batch = run.live.lock().batch.clone();
            let (hash, token) = (batch.arguments_hash, batch.client_token);
            let (hash, token) =
                hash.zip(token).ok_or_else(|| Error::internal("a token without one"))?;
            return again(&entry, &hash, &token).await;
        }
        // Whoever asked may go away meanwhile; what is in the store has to be driven all the same.
        let (orch, cx) = (self.clone(), cx.clone());
        let rest = async move { orch.accept(run, control, wanted.ask, tools, &cx).await };
        self.tracker.spawn(rest).await.map_err(Error::internal)?
    }

    async fn accept(
        self: &Arc<Orch>,
        run: Arc<Run>,
        control: mpsc::UnboundedReceiver<Control>,
        ask: Ask,
        tools: Arc<CallersTools>,
        cx: &Cx,
    ) -> Result<Accepted, Error> {
        if let Err(err) = self.write_accepted(&run).await {
            self.batches.remove(&run.id);
            run.stopped.cancel();
            run.left.cancel();
            return Err(err);
        }
        run.accepted.cancel();
        let planned = match ask {
            Ask::Plan(_) => {
                run.live.lock().machine.close();
                None
            }
            Ask::Request { words, model, options } => {
                run.live.lock().keeps_results = options.wants_answer;
                let planned = CancellationToken::new();
                self.plan_in_background(
                    run.clone(),
                    words,
                    model,
                    options,
                    cx,
                    tools,
                    planned.clone(),
                );
                Some(planned)
            }
        };
        let runner = Runner::new(run.clone(), control, planned.is_some());
        self.tracker.spawn(runner.drive());
        Ok(Accepted { id: run.id.clone(), existed: false, planned, ended: run.ended.clone() })
    }

    #[expect(clippy::too_many_arguments, reason = "all of it goes into one task")]
    fn plan_in_background(
        self: &Arc<Orch>,
        run: Arc<Run>,
        words: String,
        model: Arc<dyn Model>,
        options: planner::Options,
        cx: &Cx,
        tools: Arc<CallersTools>,
        planned: CancellationToken,
    ) {
        let (orch, cx) = (self.clone(), cx.clone());
        self.tracker.spawn(async move {
            let canvas = RunCanvas::new(orch.clone(), run.clone(), tools);
            let outcome = tokio::select! {
                outcome = planner::run(&orch, &cx, &model, &words, &options, &canvas) => outcome,
                () = run.stopped.cancelled() => Err(Error::Cancelled {
                    message: "the batch ended before its plan was complete".to_owned(),
                }),
            };
            let outcome = outcome.map(|it| Planned { answer: it.answer, output: it.output });
            run.control.send(Control::Planned(outcome)).ok();
            planned.cancel();
        });
    }

    /// In pieces, the header last: what a crash leaves without a header was never accepted.
    async fn write_accepted(&self, run: &Arc<Run>) -> Result<(), Error> {
        let (mut changes, _) = run.live.lock().drain(self.clock.now());
        // The header comes last in what is drained.
        let header = changes.pop();
        let mut queued = Vec::new();
        while !changes.is_empty() {
            let rest = changes.split_off(changes.len().min(CHUNK));
            queued.push(self.ledger.queue_batches(std::mem::replace(&mut changes, rest), None)?);
        }
        let header =
            header.unwrap_or_else(|| BatchChange::Put(Arc::new(run.live.lock().batch.clone())));
        queued.push(self.ledger.queue_batches(vec![header], None)?);
        for it in queued {
            self.ledger.batches_durable(it).await?;
        }
        Ok(())
    }

    /// A handle for a batch, without steps.
    pub(super) fn run_of(
        self: &Arc<Orch>,
        batch: Batch,
    ) -> (Arc<Run>, mpsc::UnboundedReceiver<Control>) {
        let (control, commands) = mpsc::unbounded_channel();
        let machine = Machine::new(
            batch.terms.max_parallel as usize,
            Limits::DEFAULT.fan_out,
            batch.terms.on_error,
        );
        let calls: Arc<dyn StepCalls> =
            Arc::new(GateCalls { orch: self.clone(), runs_for: batch.runs_for.clone() });
        let mut live = Live::new(batch, machine);
        live.header_changed = true;
        let run = Run {
            id: live.batch.id.clone(),
            live: parking_lot::Mutex::new(live),
            orch: Some(self.clone()),
            calls,
            journal: Journal::Ledger(self.clone()),
            slots: self.batches.slots.clone(),
            clock: self.clock.clone(),
            control,
            work: CancellationToken::new(),
            undo: CancellationToken::new(),
            changed: tokio::sync::watch::Sender::new(0),
            ended: CancellationToken::new(),
            accepted: CancellationToken::new(),
            stopped: CancellationToken::new(),
            left: CancellationToken::new(),
            timings: None,
        };
        (Arc::new(run), commands)
    }

    pub(super) fn known(&self, step: Arc<Step>, tools: &dyn Toolbox) -> Known {
        known(step, tools, &|tool| self.batches.durations.expected(tool))
    }
}

/// A step that was checked, with its tools. One that is gone meanwhile is called all the same, and says so then.
pub(super) fn known(
    step: Arc<Step>,
    tools: &dyn Toolbox,
    expected_ms: &dyn Fn(&str) -> f64,
) -> Known {
    let target = |name: &str| match tools.tool(name) {
        Some(facts) => Target::of(&facts),
        None => {
            let (server, _) = name.split_once('.').unwrap_or((BUILT_IN, name));
            let (server, name) = (server.into(), name.into());
            Target { server, name, is_repeatable: false, takes_token: false }
        }
    };
    let of_step = target(&step.tool);
    Known {
        expected_ms: expected_ms(&of_step.name),
        tools: StepTools {
            compensation: step.compensate.as_ref().map(|it| target(&it.tool)),
            target: of_step,
        },
        step,
    }
}

/// What an earlier request with this token made.
async fn again(entry: &Entry, hash: &str, token: &ClientToken) -> Result<Accepted, Error> {
    if entry.batch.arguments_hash.as_deref() != Some(hash) {
        return Err(Error::IdempotentParameterMismatch { client_token: token.to_string() });
    }
    if let Some(run) = &entry.run {
        tokio::select! {
            () = run.accepted.cancelled() => {}
            () = run.stopped.cancelled() => {}
        }
    }
    let ended = entry.run.as_ref().map_or_else(done, |it| it.ended.clone());
    Ok(Accepted { id: entry.batch.id.clone(), existed: true, planned: None, ended })
}

fn done() -> CancellationToken {
    let token = CancellationToken::new();
    token.cancel();
    token
}

fn millis(it: Duration) -> u64 {
    u64::try_from(it.as_millis()).unwrap_or(u64::MAX)
}
