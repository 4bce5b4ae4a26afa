//! The book and its durable copy: nothing is acknowledged before it is on disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use orch_domain::Error;
use orch_domain::audit::{AuditEntry, AuditId};
use orch_domain::batch::BatchChange;
use orch_domain::book::{Book, Change, Replaced};
use orch_domain::event::{Event, News};
use orch_domain::port::PortRange;
use parking_lot::RwLock;
use tokio::sync::oneshot;

use crate::Cx;
use crate::event::{Events, Subject};
use crate::ports::clock::Clock;
use crate::ports::store::{Commit, Store, StoreError};
use crate::service::event_log::EventLog;
use crate::service::unsettled::{Durable, Unsettled};
use crate::settings::Settings;

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
    /// Invariant: numbered in the order of the queued commits, which is why only who holds the book appends.
    log: Arc<EventLog>,
    clock: Arc<dyn Clock>,
    last_audit_id: AtomicU64,
    /// Counts the times the book was read anew, so that of many writers that failed together one repairs. Changes
    /// only under the lock of the book: a writer that wrote into the new book must not take it for the old one.
    n_reloads: AtomicU64,
}

/// A commit on its way to the disk.
struct Queued {
    durable: Durable,
    /// Of its last event.
    revision: Option<u64>,
    n_reloads: u64,
}

/// Changes of batches on their way to the disk, for `Ledger::batches_durable`. Dropped, they become durable all the same,
/// but a failure is noticed with the next commit only.
#[must_use]
pub struct QueuedBatches {
    durable: oneshot::Receiver<Result<(), StoreError>>,
    n_reloads: u64,
}

impl Ledger {
    pub fn open(
        store: Arc<dyn Store>,
        events: Arc<Events>,
        clock: Arc<dyn Clock>,
        settings: &Settings,
    ) -> Result<Ledger, StoreError> {
        let (book, past) = load(&*store, settings.port_range)?;
        let kept = usize::try_from(settings.events_kept).unwrap_or(usize::MAX);
        let last_audit_id = AtomicU64::new(store.last_audit_id().0);
        Ok(Ledger {
            book: RwLock::new(book),
            unsettled: Unsettled::default(),
            is_closed: AtomicBool::new(false),
            store,
            events,
            log: Arc::new(EventLog::new(past, kept)),
            clock,
            last_audit_id,
            n_reloads: AtomicU64::new(0),
        })
    }

    /// Looks at the book. What is seen may not be durable yet, by the few milliseconds of a flush.
    pub fn read<T>(&self, look: impl FnOnce(&Book) -> T) -> T {
        look(&self.book.read())
    }

    /// Changes the book and returns when that is durable, together with the events it tells. Refused: nothing changed.
    /// Not durable: nothing changed either, and the caller is told so.
    pub async fn write<T>(
        &self,
        cx: Option<&Cx>,
        work: impl FnOnce(&mut Book) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let (out, rows, queued) = {
            let mut book = self.book.write();
            self.reopen(&mut book).map_err(|err| refusal(Arc::new(err)))?;
            let (out, changes, replaced) = book.step(work)?;
            if changes.rows.is_empty() && cx.is_none() {
                return Ok(out);
            }
            // A caller waits even when nothing changed: what the answer says may still be on its way to the disk.
            let audit = match changes.rows.is_empty() {
                true => Vec::new(),
                false => cx.and_then(Cx::audit_for_commit).into_iter().collect(),
            };
            let events = self.number(cx, changes.news);
            let rows = changes.rows;
            let commit = Commit { changes: rows.clone(), audit, events, ..Commit::default() };
            let queued = self.queue(commit, replaced);
            (out, rows, queued)
        };
        self.durable(queued).await?;
        rows.into_iter().filter_map(subject).for_each(|it| self.events.publish(it));
        Ok(out)
    }

    /// Tells of what is no change of the book, such as an image that was pulled. Returns when the event is durable.
    pub async fn announce(&self, cx: Option<&Cx>, news: News) -> Result<(), Error> {
        let queued = {
            let mut book = self.book.write();
            self.reopen(&mut book).map_err(|err| refusal(Arc::new(err)))?;
            let events = self.number(cx, vec![news]);
            self.queue(Commit { events, ..Commit::default() }, Replaced::default())
        };
        self.durable(queued).await
    }

    /// Queues changes of batches, which are no part of the book, behind all that was queued before; the future says when
    /// they are durable. Not durable: whoever keeps the batches in memory is ahead of the disk and has to queue the same
    /// rows again, or go back to what the store has.
    pub fn commit_batches(
        &self,
        changes: Vec<BatchChange>,
        audit: Option<AuditEntry>,
    ) -> impl Future<Output = Result<(), Error>> + '_ {
        let queued = self.queue_batches(changes, audit);
        async move { self.batches_durable(queued?).await }
    }

    /// As `commit_batches`, for those who wait for many at once, or later. Takes no lock and waits for nothing, but while
    /// the ledger is closed after a failure; then it reads the store anew first.
    pub fn queue_batches(
        &self,
        changes: Vec<BatchChange>,
        audit: Option<AuditEntry>,
    ) -> Result<QueuedBatches, Error> {
        if self.is_closed.load(Ordering::Relaxed) {
            let mut book = self.book.write();
            self.reopen(&mut book).map_err(|err| refusal(Arc::new(err)))?;
        }
        let audit = audit.into_iter().collect();
        let durable = self.store.commit(Commit { batches: changes, audit, ..Commit::default() });
        // Looked at afterwards: a reload that was missed leaves the store closed, one too many only costs its time.
        let n_reloads = self.n_reloads.load(Ordering::SeqCst);
        Ok(QueuedBatches { durable, n_reloads })
    }

    /// When one fails, all that was queued behind it does too, and the ledger goes back to what is durable.
    pub async fn batches_durable(&self, queued: QueuedBatches) -> Result<(), Error> {
        let Err(err) = queued.durable.await.unwrap_or(Err(StoreError::Closed)) else {
            return Ok(());
        };
        self.reload(queued.n_reloads);
        Err(refusal(Arc::new(err)))
    }

    /// What happened, as far back as it is kept.
    pub fn log(&self) -> &Arc<EventLog> {
        &self.log
    }

    /// To be called by whoever holds the book.
    fn number(&self, cx: Option<&Cx>, news: Vec<News>) -> Vec<Arc<Event>> {
        if news.is_empty() {
            return Vec::new();
        }
        let at = self.clock.now();
        let actor = cx.and_then(Cx::maybe_caller).map(|it| &it.user);
        let audit_id = cx.and_then(Cx::audit_id);
        self.log.append(news, |it, revision| it.event(revision, at, actor.cloned(), audit_id))
    }

    /// To be called by whoever holds the book.
    fn queue(&self, commit: Commit, replaced: Replaced) -> Queued {
        let revision = commit.events.last().map(|it| it.revision);
        let durable = self.unsettled.add(replaced, self.store.commit(commit));
        Queued { durable, revision, n_reloads: self.n_reloads.load(Ordering::Relaxed) }
    }

    async fn durable(&self, queued: Queued) -> Result<(), Error> {
        match queued.durable.await {
            Ok(()) => {
                self.unsettled.settle();
                if let Some(revision) = queued.revision {
                    self.log.show(revision);
                }
                Ok(())
            }
            Err(err) => {
                self.reload(queued.n_reloads);
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
        drop(self.store.commit(Commit { audit: vec![entry], ..Commit::default() }));
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
        self.n_reloads.fetch_add(1, Ordering::SeqCst);
        self.is_closed.store(true, Ordering::Relaxed);
        if let Err(err) = self.reopen(&mut book) {
            tracing::error!("the database cannot be read back: {err}");
        }
    }

    /// Reads a store anew that failed, events and all; until that is possible nothing is changed, and nothing told.
    fn reopen(&self, book: &mut Book) -> Result<(), StoreError> {
        if self.is_closed.load(Ordering::Relaxed) {
            let (it, past) = load(&*self.store, book.port_range())?;
            *book = it;
            self.log.replace(past);
            self.is_closed.store(false, Ordering::Relaxed);
        }
        Ok(())
    }
}

fn load(store: &dyn Store, port_range: PortRange) -> Result<(Book, Vec<Event>), StoreError> {
    let mut rows = store.load()?;
    let past = std::mem::take(&mut rows.events);
    let book = Book::load(port_range, rows).map_err(|what| StoreError::Corrupt { what })?;
    Ok((book, past))
}

fn subject(change: Change) -> Option<Subject> {
    match change {
        Change::Instance(id, _) => Some(Subject::Instance(id)),
        Change::Node(id, _) => Some(Subject::Node(id)),
        Change::User(id, _) => Some(Subject::User(id)),
        Change::ApiKey(id, _) => Some(Subject::ApiKey(id)),
        Change::RegistryCredential(..) | Change::Grant(..) | Change::Port(..) => None,
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
