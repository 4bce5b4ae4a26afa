//! The one thread that writes. It takes every commit that waits, makes one record of them, syncs once and answers all: the
//! more writers, the fewer syncs for each, and a single one waits for nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use orch_core::ports::store::StoreError;
use orch_domain::audit::AuditId;

use super::disk::{Disk, SharedTables, Unanswered};
use super::error::{Failure, OpenError};
use super::layout::Layout;
use super::migration::{MIGRATIONS, SCHEMA};
use super::table::Operations;

/// After so long without a commit the tables take over the journal, so that a later start is quick.
const IDLE: Duration = Duration::from_secs(1);
/// What one record holds at most, unless a single commit is larger.
const MAX_RECORD: usize = 256 << 10;

pub(super) type Reply = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

pub(super) enum Request {
    Commit {
        operations: Operations,
        reply: Reply,
    },
    /// Everything queued before is in the tables when this is answered.
    Settle {
        reply: Reply,
    },
    /// As `Settle`; after a failure it opens everything anew and commits are taken again.
    Rearm {
        reply: Reply,
    },
}

pub(super) struct Writer {
    layout: Layout,
    /// None while nothing could be opened after a failure.
    disk: Option<Disk>,
    tables: SharedTables,
    failure: Option<Failure>,
    last_audit: Arc<AtomicU64>,
    /// Commits of the record being made, and who waits for them.
    operations: Vec<Operations>,
    replies: Vec<Reply>,
}

impl Writer {
    pub(super) fn new(layout: Layout, disk: Disk, last_audit: Arc<AtomicU64>) -> Writer {
        let tables = disk.tables();
        Writer {
            layout,
            disk: Some(disk),
            tables,
            failure: None,
            last_audit,
            operations: Vec::new(),
            replies: Vec::new(),
        }
    }

    /// Runs until every sender is gone.
    pub(super) fn run(mut self, requests: &Receiver<Request>) {
        while let Some(request) = self.next(requests) {
            let after = self.gather(request, requests);
            self.commit();
            match after {
                Some(Request::Settle { reply }) => {
                    let settled = self.settle();
                    reply(settled.map_err(|err| self.shown(err)));
                }
                Some(Request::Rearm { reply }) => reply(self.rearm().map_err(StoreError::from)),
                Some(Request::Commit { .. }) | None => {}
            }
        }
        if self.failure.is_none()
            && let Some(disk) = &mut self.disk
            && let Err(err) = disk.settle()
        {
            tracing::warn!(%err, "the journal was not taken over at the end; the next start will");
        }
    }

    fn next(&mut self, requests: &Receiver<Request>) -> Option<Request> {
        loop {
            let is_idle = match &self.disk {
                Some(disk) => disk.is_settled() || self.failure.is_some(),
                None => true,
            };
            if is_idle {
                return requests.recv().ok();
            }
            match requests.recv_timeout(IDLE) {
                Ok(request) => return Some(request),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {
                    if let Some(disk) = &mut self.disk
                        && let Err(err) = disk.settle_if_free()
                    {
                        self.failure = Some(err);
                    }
                }
            }
        }
    }

    /// Takes the commits that wait already, and says what comes after them if it is something else.
    fn gather(&mut self, first: Request, requests: &Receiver<Request>) -> Option<Request> {
        let mut n_bytes = 0;
        let mut request = first;
        loop {
            match request {
                Request::Commit { operations, reply } => {
                    n_bytes += operations.bytes().len();
                    self.operations.push(operations);
                    self.replies.push(reply);
                }
                other => return Some(other),
            }
            if MAX_RECORD <= n_bytes {
                return None;
            }
            request = requests.try_recv().ok()?;
        }
    }

    fn commit(&mut self) {
        if self.replies.is_empty() {
            return;
        }
        if self.failure.is_none() {
            let appended = match &mut self.disk {
                Some(disk) => disk.append(&self.operations),
                None => Err(super::disk::closed()),
            };
            match appended {
                Ok(()) => {
                    let last = self.operations.iter().map(|it| it.last_audit.0).max();
                    self.last_audit.fetch_max(last.unwrap_or(0), Ordering::Release);
                }
                Err(err) => self.failure = Some(err),
            }
        }
        self.operations.clear();
        let failure = self.failure.as_ref();
        for reply in self.replies.drain(..) {
            reply(match failure {
                None => Ok(()),
                Some(err) => Err(err.again().open_error(self.layout.folder()).into()),
            });
        }
    }

    fn settle(&mut self) -> Result<(), Failure> {
        if let Some(err) = &self.failure {
            return Err(err.again());
        }
        let settled = match &mut self.disk {
            Some(disk) => disk.settle(),
            None => Err(super::disk::closed()),
        };
        if let Err(err) = &settled
            && !matches!(err, Failure::NoRoom)
        {
            self.failure = Some(err.again());
        }
        settled
    }

    fn rearm(&mut self) -> Result<(), OpenError> {
        if self.failure.is_none() {
            return self.settle().map_err(|err| err.open_error(self.layout.folder()));
        }
        self.disk = None;
        *self.tables.write() = None;
        let disk = Disk::open_into(
            &self.layout,
            Unanswered::Dropped,
            self.tables.clone(),
            SCHEMA,
            MIGRATIONS,
        );
        match disk {
            Ok(disk) => {
                self.disk = Some(disk);
                self.failure = None;
                Ok(())
            }
            Err(err) => {
                *self.tables.write() = None;
                Err(err)
            }
        }
    }

    fn shown(&self, err: Failure) -> StoreError {
        err.open_error(self.layout.folder()).into()
    }

    pub(super) fn last_audit(tables: &SharedTables) -> AuditId {
        tables.read().as_ref().map_or(AuditId(0), |it| it.state().last_audit())
    }
}
