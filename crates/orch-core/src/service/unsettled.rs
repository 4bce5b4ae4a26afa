//! What the steps of the book replaced that are not durable yet: when a commit fails, it is all there again, whether the
//! store can be read then or not.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use orch_domain::book::{Book, Replaced};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::ports::store::StoreError;

/// Whether a commit became durable, for all who want to know.
pub(super) type Durable = Shared<BoxFuture<'static, Result<(), Arc<StoreError>>>>;

/// Oldest first. Invariant: added to and taken back only by whoever holds the book.
#[derive(Default)]
pub(super) struct Unsettled {
    steps: Mutex<VecDeque<Step>>,
}

struct Step {
    replaced: Replaced,
    durable: Durable,
}

impl Unsettled {
    pub(super) fn add(
        &self,
        replaced: Replaced,
        durable: oneshot::Receiver<Result<(), StoreError>>,
    ) -> Durable {
        let durable = durable
            .map(|it| it.unwrap_or(Err(StoreError::Closed)).map_err(Arc::new))
            .boxed()
            .shared();
        self.steps.lock().push_back(Step { replaced, durable: durable.clone() });
        durable
    }

    /// Forgets what is durable by now.
    pub(super) fn settle(&self) {
        let mut steps = self.steps.lock();
        // Asked and not remembered by its writer, who may have left.
        let is_durable = |it: &Step| matches!(it.durable.clone().now_or_never(), Some(Ok(())));
        while steps.front().is_some_and(is_durable) {
            steps.pop_front();
        }
    }

    /// A commit failed: it and all that were queued behind it leave the book, and those before it stay.
    pub(super) fn take_back(&self, book: &mut Book) {
        self.settle();
        self.steps.lock().drain(..).rev().for_each(|it| book.revert(it.replaced));
    }
}
