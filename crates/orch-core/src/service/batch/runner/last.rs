//! The last that a runner does: the end of its batch is written down, or the server goes first.

use super::*;

impl Runner {
    /// Records the end; whoever waits is told when it is durable.
    pub(super) async fn finish(mut self, outcome: Outcome) {
        let now = self.run.clock.now();
        let (changes, last) = {
            let mut live = self.run.live.lock();
            let (state, reason) = match outcome {
                Outcome::Succeeded => (BatchState::Succeeded, None),
                Outcome::Failed(it) => (BatchState::Failed, Some(it)),
                Outcome::Cancelled(it) => (BatchState::Cancelled, Some(it)),
            };
            live.end(state, reason, now);
            (live.drain(now).0, live.transitions.last)
        };
        self.run.stopped.cancel();
        self.write(changes);
        if let Err(why) = journal::settled(self.written.clone()).await {
            tracing::error!(
                "the end of the batch {} could not be recorded yet: {why}",
                self.run.id
            );
            self.record_late();
        }
        self.run.changed.send_replace(last);
        self.run.ended.cancel();
        if let Some(orch) = &self.run.orch {
            orch.batches.ended(&self.run);
        }
    }

    /// An end that was shown must not be forgotten: a later start would take the batch up again. Tried until there is room,
    /// or the server ends.
    pub(super) fn record_late(&self) {
        let Some(orch) = self.run.orch.clone() else { return };
        let unwritten = std::mem::take(&mut *self.unwritten.lock());
        let changes: Vec<BatchChange> = unwritten.into_values().flatten().collect();
        orch.tracker.clone().spawn(async move {
            loop {
                if orch.ledger.commit_batches(changes.clone(), None).await.is_ok() {
                    return;
                }
                tokio::select! {
                    () = orch.shutdown.cancelled() => return,
                    () = tokio::time::sleep(LATE) => {}
                }
            }
        });
    }

    /// The server ends. Calls that may be made again are left to the next start; others get to end while there is time.
    pub(super) async fn suspend(mut self) {
        let run = self.run.clone();
        // A planner would wait for steps that do not run any more.
        run.stopped.cancel();
        let mut ended = Vec::new();
        loop {
            let is_waiting = {
                let live = run.live.lock();
                live.machine.has_unrepeatable_running()
            };
            if !is_waiting || self.n_jobs == 0 {
                break;
            }
            if self.done.recv_many(&mut ended, 1024).await == 0 {
                break;
            }
            self.take_in(&mut ended);
            let (changes, large) = run.live.lock().drain(run.clock.now());
            for (at, value) in large {
                self.gather(at, value);
            }
            // Nothing is dispatched, so nothing has to wait for it.
            self.write(changes);
        }
        // Withdrawn meanwhile, or that was the last.
        let outcome = run.live.lock().outcome();
        if let Some(outcome) = outcome {
            return self.finish(outcome).await;
        }
        run.work.cancel();
        run.undo.cancel();
        if let Some(orch) = &run.orch {
            orch.batches.suspended(&run.id);
        }
        run.left.cancel();
    }
}
