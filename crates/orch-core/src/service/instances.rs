//! Finding instances, and waiting for them to rest.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::SelectAll;
use orch_domain::Error;
use orch_domain::book::Book;
use orch_domain::instance::{Action, Instance, InstanceState};
use orch_domain::name::InstanceId;
use tokio::sync::broadcast::error::RecvError;

use crate::event::Subject;
use crate::service::flight::Phase;
use crate::service::launch::{is_done, start_error};
use crate::view::instance::{InstanceView, OneInstance};
use crate::{Cx, Orch};

impl Orch {
    /// The instance, if this caller may know of it.
    pub fn visible(&self, cx: &Cx, book: &Book, id: &InstanceId) -> Result<Arc<Instance>, Error> {
        let caller = cx.caller()?;
        book.instance(id)
            .filter(|it| caller.sees(&it.owner))
            .cloned()
            .ok_or_else(|| Error::no_instance(id))
    }

    pub fn instance(&self, cx: &Cx, id: &InstanceId) -> Result<Arc<Instance>, Error> {
        self.ledger.read(|book| self.visible(cx, book, id))
    }

    /// Asks for `action` and, with `wait`, answers when the instance rests.
    pub async fn act(
        self: &Arc<Orch>,
        cx: &Cx,
        id: &InstanceId,
        action: Action,
        wait: bool,
    ) -> Result<OneInstance, Error> {
        self.request(cx, id, action).await?;
        if wait {
            match self.wait_for(cx, std::slice::from_ref(id)).await {
                // Accepted, and done when its node is back: the answer shows that, with the reason.
                Err(Error::NodeUnreachable { .. }) if action == Action::Terminate => {}
                it => drop(it?),
            }
        }
        let (instance, view) = self.ledger.read(|book| {
            let instance = self.visible(cx, book, id)?;
            let view = OneInstance(InstanceView::of(&instance, book));
            Ok((instance, view))
        })?;
        // A start that failed is back where it was, with the reason: that is not what was asked for.
        match (action, instance.state) {
            (
                Action::Start | Action::Restart,
                InstanceState::Stopped | InstanceState::Terminated,
            ) if wait && instance.state_reason.is_some() && !is_done(&instance) => {
                Err(start_error(&instance))
            }
            _ => Ok(view),
        }
    }

    /// Waits until all `ids` rest, telling the caller how far they are. Ends with an error when one waits for a node that
    /// is lost.
    pub async fn wait_for(&self, cx: &Cx, ids: &[InstanceId]) -> Result<Vec<Arc<Instance>>, Error> {
        let mut events = self.events.subscribe();
        let mut phases: SelectAll<_> = ids
            .iter()
            .filter_map(|id| self.flights.phase(id))
            .map(|it| tokio_stream::wrappers::WatchStream::new(it).boxed())
            .collect();
        let mut n_updates = 0.0;
        let deadline = tokio::time::Instant::now() + self.settings.wait_timeout;
        loop {
            let seen: Vec<_> = self
                .ledger
                .read(|book| ids.iter().filter_map(|it| book.instance(it).cloned()).collect());
            if seen.iter().all(|it| !it.state.is_transitional()) {
                return Ok(seen);
            }
            self.ledger
                .read(|book| seen.iter().try_for_each(|it| self.refuse_to_wait(book, it)))?;
            tokio::select! {
                event = events.recv() => match event {
                    // Skip what is about others without looking into the book.
                    Ok(Subject::Instance(id)) if ids.contains(&id) => {}
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return Err(Error::Unavailable { message: "the server is shutting down".to_owned(), source: None }),
                    Ok(_) => continue,
                },
                Some(phase) = phases.next(), if cx.progress.is_wanted() => {
                    n_updates += 1.0;
                    report(cx, &phase, n_updates);
                }
                () = cx.cancel.cancelled() => {
                    return Err(Error::Cancelled { message: "the call was cancelled".to_owned() });
                }
                () = self.shutdown.cancelled() => {
                    return Err(Error::Unavailable {
                        message: "the server is shutting down; what was accepted goes on after its next start".to_owned(),
                        source: None,
                    });
                }
                () = tokio::time::sleep_until(deadline) => return Err(too_long(&seen)),
            }
        }
    }
}

fn report(cx: &Cx, phase: &Phase, n_updates: f64) {
    if phase.total != 0 {
        let mib = |it: u64| it as f64 / f64::from(1 << 20);
        let message =
            format!("{} ({:.1} of {:.1} MiB)", phase.message, mib(phase.done), mib(phase.total));
        // The number of updates, because totals grow while layers are found and progress must never fall.
        cx.progress.report(n_updates, None, message);
    } else if !phase.message.is_empty() {
        cx.progress.report(n_updates, None, phase.message.clone());
    }
}

fn too_long(seen: &[Arc<Instance>]) -> Error {
    let left: Vec<String> = seen
        .iter()
        .filter(|it| it.state.is_transitional())
        .map(|it| match &it.state_reason {
            Some(reason) => format!("`{}` is still {} ({})", it.id, it.state, reason.message),
            None => format!("`{}` is still {}", it.id, it.state),
        })
        .collect();
    let all_pending = seen.iter().all(|it| it.state == InstanceState::Pending);
    let going_on = if all_pending { "the launch goes on" } else { "the work goes on" };
    Error::DeadlineExceeded {
        message: format!(
            "{}; {going_on}, and `get_instance` shows when it is done",
            left.join(", ")
        ),
    }
}
