//! Removes the rows of forgotten batches, a few at a time and beside everything else: a batch may have hundreds of thousands,
//! and neither a commit nor the memory should have them all at once. The mark goes last, so that what a stop cuts short the
//! next start finishes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use orch_core::ports::store::StoreError;
use orch_domain::name::BatchId;

use super::Handle;
use super::batches::{batch_key, forgotten_key, keys_of_rows};
use super::files::Files;
use super::table::Operations;
use super::writer::Request;

/// Rows of one commit.
const CHUNK: usize = 1024;
/// After a failure.
const AGAIN: Duration = Duration::from_secs(15);

pub(super) struct Forgetter {
    wanted: Sender<Wanted>,
    is_ending: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

enum Wanted {
    Forget(BatchId),
    End,
}

/// Told of batches whose mark is durable.
#[derive(Clone)]
pub(super) struct Marked(Sender<Wanted>);

impl Marked {
    pub(super) fn tell(&self, id: BatchId) {
        // When it has ended, the next start finds the mark.
        drop(self.0.send(Wanted::Forget(id)));
    }
}

impl Forgetter {
    pub(super) fn start(
        store: Handle,
        files: Arc<Files>,
        marked: Vec<BatchId>,
    ) -> std::io::Result<Forgetter> {
        let (wanted, received) = mpsc::channel();
        let is_ending = Arc::new(AtomicBool::new(false));
        let work = Work { store, files, is_ending: is_ending.clone(), waiting: marked };
        let thread = std::thread::Builder::new()
            .name("store-forget".to_owned())
            .spawn(move || work.run(&received))?;
        Ok(Forgetter { wanted, is_ending, thread: Some(thread) })
    }

    pub(super) fn marked(&self) -> Marked {
        Marked(self.wanted.clone())
    }

    /// Returns when it does nothing any more.
    pub(super) fn end(&mut self) {
        self.is_ending.store(true, Ordering::Relaxed);
        drop(self.wanted.send(Wanted::End));
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that removes forgotten batches panicked");
        }
    }
}

struct Work {
    store: Handle,
    files: Arc<Files>,
    is_ending: Arc<AtomicBool>,
    /// Marked, and not removed yet.
    waiting: Vec<BatchId>,
}

impl Work {
    fn run(mut self, received: &Receiver<Wanted>) {
        loop {
            let marked = std::mem::take(&mut self.waiting);
            for id in marked {
                if let Err(err) = self.forget(&id) {
                    tracing::warn!(%err, %id, "a forgotten batch is not removed yet");
                    self.waiting.push(id);
                }
            }
            if self.is_ending.load(Ordering::Relaxed) {
                return;
            }
            let next = match self.waiting.is_empty() {
                true => received.recv().map_err(|_| RecvTimeoutError::Disconnected),
                false => received.recv_timeout(AGAIN),
            };
            match next {
                Ok(Wanted::Forget(id)) => self.waiting.push(id),
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Wanted::End) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Removes all of it, or leaves the mark when it is to end.
    fn forget(&self, id: &BatchId) -> Result<(), StoreError> {
        loop {
            self.store.ask(|reply| Request::Settle { reply })?;
            let mut last: Option<Vec<u8>> = None;
            let mut n_rows = 0;
            loop {
                if self.is_ending.load(Ordering::Relaxed) {
                    return Ok(());
                }
                let keys =
                    self.store.read(|tables| keys_of_rows(tables, id, last.as_deref(), CHUNK))?;
                let Some(key) = keys.last() else { break };
                let mut operations = Operations::default();
                keys.iter().for_each(|it| operations.delete(it));
                n_rows += keys.len();
                last = Some(key.clone());
                self.store.ask(|reply| Request::Commit { operations, reply })?;
            }
            // Once more after the last ones: rows may have been queued behind the mark.
            if n_rows == 0 {
                break;
            }
        }
        self.files.forget(id)?;
        let mut operations = Operations::default();
        operations.delete(&batch_key(id));
        operations.delete(&forgotten_key(id));
        self.store.ask(|reply| Request::Commit { operations, reply })
    }
}
