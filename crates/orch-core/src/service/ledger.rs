//! The book and its durable copy: nothing is acknowledged before it is on disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use orch_domain::Error;
use orch_domain::audit::{AuditEntry, AuditId};
use orch_domain::book::{Book, Change};
use orch_domain::port::PortRange;
use parking_lot::RwLock;

use crate::Cx;
use crate::event::{Events, Subject};
use crate::ports::store::{Commit, Store, StoreError};
use crate::service::unsettled::Unsettled;

pub struct Ledger {
    /// Invariant: equal to what the store will hold once every queued commit is durable. Writers queue their commit
    /// while they hold the lock, so that the order in the book is the order on disk.
    book: RwLock<Book>,
    unsettled: Unsettled,
    /// A commit failed and the store could not be read since: it takes nothing until it can. Changes only under the
    /// lock of the book.
    is_closed: AtomicBool,
    store: Arc<dyn Store>,
    events: Arc<Events>,
    last_audit_id: AtomicU64,
    /// Counts the times the book was read anew, so that of many writers that failed together one repairs. Changes
    /// only under the lock of the book: a writer that wrote into the new book must not take it for the old one.
    n_reloads: AtomicU64,
}

impl Ledger {
    pub fn open(
        store: Arc<dyn Store>,
        events: Arc<Events>,
        port_range: PortRange,
    ) -> Result<Ledger, StoreError> {
        let book = load(&*store, port_range)?;
        let last_audit_id = AtomicU64::new(store.last_audit_id().0);
        Ok(Ledger {
            book: RwLock::new(book),
            unsettled: Unsettled::default(),
            is_closed: AtomicBool::new(false),
            store,
            events,
            last_audit_id,
            n_reloads: AtomicU64::new(0),
        })
    }

    /// Looks at the book. What is seen may not be durable yet, by the few milliseconds of a flush.
    pub fn read<T>(&self, look: impl FnOnce(&Book) -> T) -> T {
        look(&self.book.read())
    }

    /// Changes the book and returns when that is durable. Refused: nothing changed. Not durable: nothing changed
    /// either, and the caller is told so.
    pub async fn write<T>(
        &self,
        cx: Option<&Cx>,
        work: impl FnOnce(&mut Book) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let (out, changes, durable, n_reloads) = {
            let mut book = self.book.write();
            self.reopen(&mut book).map_err(|err| refusal(Arc::new(err)))?;
            let (out, changes, replaced) = book.step(work)?;
            if changes.is_empty() && cx.is_none() {
                return Ok(out);
            }
            // A caller waits even when nothing changed: what the answer says may still be on its way to the disk.
            let audit = match changes.is_empty() {
                true => Vec::new(),
                false => cx.and_then(Cx::audit_for_commit).into_iter().collect(),
            };
            let durable = self.store.commit(Commit { changes: changes.clone(), audit });
            let durable = self.unsettled.add(replaced, durable);
            (out, changes, durable, self.n_reloads.load(Ordering::Relaxed))
        };
        match durable.await {
            Ok(()) => {
                self.unsettled.settle();
                changes.into_iter().filter_map(subject).for_each(|it| self.events.publish(it));
                Ok(out)
            }
            Err(err) => {
                self.reload(n_reloads);
                Err(refusal(err))
            }
        }
    }

    /// Does `work` and takes it back: what it would answer, without any of it happening.
    pub fn rehearse<T>(
        &self,
        work: impl FnOnce(&mut Book) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.book.write().rehearse(work)
    }

    /// Adds or replaces an audit entry. Not waited for: it follows the commits queued before it.
    pub fn audit(&self, entry: AuditEntry) {
        drop(self.store.commit(Commit { changes: Vec::new(), audit: vec![entry] }));
    }

    pub fn next_audit_id(&self) -> AuditId {
        AuditId(self.last_audit_id.fetch_add(1, Ordering::Relaxed) + 1)
    }

    pub fn store(&self) -> &dyn Store {
        &*self.store
    }

    /// Goes back to what is durable, unless another writer did since `seen`.
    fn reload(&self, seen: u64) {
        let mut book = self.book.write();
        if self.n_reloads.load(Ordering::Relaxed) != seen {
            return;
        }
        // What was refused must not be seen, let alone acted on, for as long as the store cannot be read.
        self.unsettled.take_back(&mut book);
        self.n_reloads.fetch_add(1, Ordering::Relaxed);
        self.is_closed.store(true, Ordering::Relaxed);
        if let Err(err) = self.reopen(&mut book) {
            tracing::error!("the database cannot be read back: {err}");
        }
    }

    /// Reads a store anew that failed; until that is possible nothing is changed.
    fn reopen(&self, book: &mut Book) -> Result<(), StoreError> {
        if self.is_closed.load(Ordering::Relaxed) {
            *book = load(&*self.store, book.port_range())?;
            self.is_closed.store(false, Ordering::Relaxed);
        }
        Ok(())
    }
}

fn load(store: &dyn Store, port_range: PortRange) -> Result<Book, StoreError> {
    Book::load(port_range, store.load()?).map_err(|what| StoreError::Corrupt { what })
}

fn subject(change: Change) -> Option<Subject> {
    match change {
        Change::Instance(id, _) => Some(Subject::Instance(id)),
        Change::Node(id, _) => Some(Subject::Node(id)),
        Change::User(id, _) => Some(Subject::User(id)),
        Change::ApiKey(id, _) => Some(Subject::ApiKey(id)),
        Change::Port(..) => None,
    }
}

fn refusal(err: Arc<StoreError>) -> Error {
    let message = match &*err {
        StoreError::DiskFull { .. } => {
            "nothing was changed: the disk of the data directory is full; free some space and repeat the call"
        }
        _ => "nothing was changed: the database could not be written; the server's log says why",
    };
    Error::Unavailable { message: message.to_owned(), source: Some(Box::new(err)) }
}

#[cfg(test)]
mod tests;
