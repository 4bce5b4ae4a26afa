//! The ledger on a store whose commits become durable, or fail, when the test says so.

use futures::FutureExt;
use orch_domain::audit::Outcome;
use orch_domain::batch::{Batch, Part, StepRun, StoredBatch};
use orch_domain::book::Rows;
use orch_domain::caller::Channel;
use orch_domain::image::ImageRef;
use orch_domain::name::{BatchId, NodeId};
use orch_domain::plan::Step;
use orch_domain::time::Timestamp;
use orch_domain::user::User;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::*;
use crate::ports::store::{AuditQuery, StoreIdentity};
use crate::service::event_log::Followed;

type Answer = oneshot::Sender<Result<(), StoreError>>;

struct ScriptedStore {
    identity: StoreIdentity,
    queued: Mutex<Vec<(Answer, Vec<Arc<Event>>)>>,
    /// What came of batches, with how many lines of the audit.
    batches: Mutex<Vec<(Vec<BatchChange>, usize)>>,
    /// The events of what became durable; of the rows it keeps none.
    told: Mutex<Vec<Event>>,
    is_unreadable: AtomicBool,
}

impl ScriptedStore {
    fn answer(&self, result: impl Fn() -> Result<(), StoreError>) {
        for (answer, events) in self.queued.lock().drain(..) {
            let result = result();
            if result.is_ok() {
                self.told.lock().extend(events.iter().map(|it| (**it).clone()));
            }
            drop(answer.send(result));
        }
    }
}

impl Store for ScriptedStore {
    fn identity(&self) -> &StoreIdentity {
        &self.identity
    }
    fn load(&self) -> Result<Rows, StoreError> {
        match self.is_unreadable.load(Ordering::Relaxed) {
            true => Err(no_room()),
            false => Ok(Rows { events: self.told.lock().clone(), ..Rows::default() }),
        }
    }
    fn commit(&self, commit: Commit) -> oneshot::Receiver<Result<(), StoreError>> {
        let (answer, answered) = oneshot::channel();
        self.queued.lock().push((answer, commit.events));
        if !commit.batches.is_empty() {
            self.batches.lock().push((commit.batches, commit.audit.len()));
        }
        answered
    }
    fn last_audit_id(&self) -> AuditId {
        AuditId(0)
    }
    fn audit(&self, _: &AuditQuery) -> Result<Vec<AuditEntry>, StoreError> {
        Ok(Vec::new())
    }
    fn trim_audit(&self, _: AuditId) -> Result<usize, StoreError> {
        Ok(0)
    }
    fn trim_events(&self, _: u64) -> Result<usize, StoreError> {
        Ok(0)
    }
    fn batches(&self) -> Result<Vec<Batch>, StoreError> {
        Ok(Vec::new())
    }
    fn batch(&self, _: &BatchId) -> Result<Option<StoredBatch>, StoreError> {
        Ok(None)
    }
    fn batch_steps(
        &self,
        _: &BatchId,
        _: u32,
        _: usize,
    ) -> Result<Vec<(u32, Arc<Step>)>, StoreError> {
        Ok(Vec::new())
    }
    fn batch_runs(
        &self,
        _: &BatchId,
        _: Option<Part>,
        _: usize,
    ) -> Result<Vec<StepRun>, StoreError> {
        Ok(Vec::new())
    }
    fn batch_run(&self, _: &BatchId, _: Part) -> Result<Option<StepRun>, StoreError> {
        Ok(None)
    }
}

fn no_room() -> StoreError {
    StoreError::DiskFull { source: "no room".into() }
}

fn ledger() -> (Arc<ScriptedStore>, Ledger) {
    let identity = StoreIdentity { controller_id: "c".to_owned(), token_secret: [0; 32] };
    let store = Arc::new(ScriptedStore {
        identity,
        queued: Mutex::default(),
        batches: Mutex::default(),
        told: Mutex::default(),
        is_unreadable: AtomicBool::new(false),
    });
    let clock = Arc::new(crate::ports::clock::SystemClock);
    let ledger = Ledger::open(store.clone(), Arc::default(), clock, &Settings::default()).unwrap();
    (store, ledger)
}

fn names(ledger: &Ledger) -> Vec<String> {
    ledger.read(|book| book.users().map(|it| it.name.to_string()).collect())
}

#[test]
fn an_answer_that_changes_nothing_waits_for_what_it_saw() {
    let (store, ledger) = ledger();
    let mut first = Box::pin(ledger.write(None, |book| book.add_user(User::test("ann"))));
    assert!(first.as_mut().now_or_never().is_none());
    let cx = Cx::new(None);
    let mut second = Box::pin(ledger.write(Some(&cx), |book| Ok(book.users().count())));
    assert!(second.as_mut().now_or_never().is_none(), "ann is not durable yet");
    store.answer(|| Ok(()));
    assert_eq!(first.now_or_never().unwrap().unwrap(), ());
    assert_eq!(second.now_or_never().unwrap().unwrap(), 1);
}

#[test]
fn writers_that_failed_together_leave_nothing_behind() {
    let (store, ledger) = ledger();
    let mut first = Box::pin(ledger.write(None, |book| book.add_user(User::test("ann"))));
    let mut second = Box::pin(ledger.write(None, |book| book.add_user(User::test("bob"))));
    assert!(first.as_mut().now_or_never().is_none() && second.as_mut().now_or_never().is_none());
    store.answer(|| Err(StoreError::DiskFull { source: "no room".into() }));
    assert!(first.now_or_never().unwrap().is_err());
    // Between the two, as the book is whole again.
    let mut third = Box::pin(ledger.write(None, |book| book.add_user(User::test("cid"))));
    assert!(third.as_mut().now_or_never().is_none());
    assert!(second.now_or_never().unwrap().is_err());
    assert_eq!(names(&ledger), ["cid"], "what failed is gone, and what came after stays");
    let mut follower = ledger.log().follow(0);
    assert!(follower.next().now_or_never().is_none(), "nothing was ever durable");
    store.answer(|| Ok(()));
    third.now_or_never().unwrap().unwrap();
    let Some(Followed::Events(events)) = follower.next().now_or_never() else { panic!() };
    let told: Vec<_> = events.iter().map(|it| (it.revision, it.subject.id.as_str())).collect();
    assert_eq!(told, [(1, "cid")], "the revisions of what failed are given again");
}

#[test]
fn events_come_in_the_order_of_the_commits_however_the_writers_wake() {
    let (store, ledger) = ledger();
    let mut first = Box::pin(ledger.write(None, |book| book.add_user(User::test("ann"))));
    let mut second = Box::pin(ledger.write(None, |book| book.add_user(User::test("bob"))));
    assert!(first.as_mut().now_or_never().is_none() && second.as_mut().now_or_never().is_none());
    let mut follower = ledger.log().follow(0);
    assert!(follower.next().now_or_never().is_none());
    store.answer(|| Ok(()));
    second.now_or_never().unwrap().unwrap();
    let Some(Followed::Events(events)) = follower.next().now_or_never() else { panic!() };
    let told: Vec<_> = events.iter().map(|it| it.subject.id.as_str()).collect();
    assert_eq!(told, ["ann", "bob"]);
    first.now_or_never().unwrap().unwrap();
    assert!(follower.next().now_or_never().is_none(), "nothing comes twice");
}

#[test]
fn what_failed_is_not_seen_while_the_store_cannot_be_read() {
    let (store, ledger) = ledger();
    let add =
        |name: &'static str| Box::pin(ledger.write(None, |book| book.add_user(User::test(name))));
    let (mut durable, mut left, mut first, mut second) =
        (add("ann"), add("bob"), add("cid"), add("dan"));
    assert!(durable.as_mut().now_or_never().is_none() && left.as_mut().now_or_never().is_none());
    store.answer(|| Ok(()));
    // A writer that left, and one that was not woken yet: their commits count all the same.
    drop(left);
    assert!(first.as_mut().now_or_never().is_none() && second.as_mut().now_or_never().is_none());
    store.is_unreadable.store(true, Ordering::Relaxed);
    store.answer(|| Err(no_room()));
    assert!(second.now_or_never().unwrap().is_err());
    assert_eq!(
        names(&ledger),
        ["ann", "bob"],
        "those that failed are gone, those before them stay"
    );
    assert!(first.now_or_never().unwrap().is_err());
    assert!(add("eve").now_or_never().unwrap().is_err(), "refused before anything is changed");
    assert!(store.queued.lock().is_empty(), "and not even tried");
    assert_eq!(names(&ledger), ["ann", "bob"]);
    assert!(durable.now_or_never().unwrap().is_ok());

    store.is_unreadable.store(false, Ordering::Relaxed);
    assert!(add("fay").now_or_never().is_none(), "taken again");
    assert_eq!(names(&ledger), ["fay"], "after what the store has, which is nothing here");
}

#[test]
fn what_failed_is_never_told_and_nothing_is_announced_while_the_store_cannot_be_read() {
    let (store, ledger) = ledger();
    let image = ImageRef::try_new("web:1").unwrap();
    let pulled = || News::image_pulled(&image, &NodeId::try_new("n1").unwrap());
    let add =
        |name: &'static str| Box::pin(ledger.write(None, |book| book.add_user(User::test(name))));
    let mut follower = ledger.log().follow(0);
    let mut told = || match follower.next().now_or_never() {
        Some(Followed::Events(events)) => {
            events.iter().map(|it| (it.revision, it.subject.id.clone())).collect()
        }
        Some(Followed::Missed(extent)) => panic!("{extent:?}"),
        None => Vec::new(),
    };
    let mut durable = add("ann");
    assert!(durable.as_mut().now_or_never().is_none());
    store.answer(|| Ok(()));
    let (mut announced, mut behind) = (Box::pin(ledger.announce(None, pulled())), add("bob"));
    assert!(announced.as_mut().now_or_never().is_none());
    assert!(behind.as_mut().now_or_never().is_none());
    store.is_unreadable.store(true, Ordering::Relaxed);
    store.answer(|| Err(no_room()));
    assert!(announced.now_or_never().unwrap().is_err());
    assert_eq!(names(&ledger), ["ann"], "what was queued behind an announcement fails with it");
    assert!(behind.now_or_never().unwrap().is_err());
    assert!(ledger.announce(None, pulled()).now_or_never().unwrap().is_err());
    assert!(store.queued.lock().is_empty(), "not even tried");
    assert!(told().is_empty(), "not shown before its writer wakes");
    assert!(durable.now_or_never().unwrap().is_ok());
    assert_eq!(told(), [(1, "ann".to_owned())], "durable before the failure");

    store.is_unreadable.store(false, Ordering::Relaxed);
    let mut again = Box::pin(ledger.announce(None, pulled()));
    assert!(again.as_mut().now_or_never().is_none(), "taken again");
    assert!(told().is_empty());
    store.answer(|| Ok(()));
    assert!(again.now_or_never().unwrap().is_ok());
    assert_eq!(told(), [(2, "web:1".to_owned())], "the revisions of what failed are given again");
}

fn put(n: u32) -> Vec<BatchChange> {
    vec![BatchChange::Put(Arc::new(Batch::test(n)))]
}

fn line(id: AuditId) -> AuditEntry {
    AuditEntry {
        id,
        at: Timestamp::ZERO,
        user: None,
        channel: Channel::Mcp,
        client: None,
        operation: "batch_execute".to_owned(),
        targets: Vec::new(),
        outcome: Outcome::Accepted,
        error: None,
        elapsed_ms: None,
        arguments: None,
    }
}

#[test]
fn changes_of_batches_are_queued_at_once_and_answered_when_durable() {
    let (store, ledger) = ledger();
    let audit = line(ledger.next_audit_id());
    // Whoever holds the book is not waited for.
    let (queued, mut committed) = ledger.read(|_| {
        let queued = ledger.queue_batches(put(1), None).unwrap();
        (queued, Box::pin(ledger.commit_batches(put(2), Some(audit))))
    });
    let came: Vec<usize> = store.batches.lock().iter().map(|it| it.1).collect();
    assert_eq!(came, [0, 1], "in order, with the line of the audit, before anybody waits");
    assert!(committed.as_mut().now_or_never().is_none());
    let mut queued = Box::pin(ledger.batches_durable(queued));
    assert!(queued.as_mut().now_or_never().is_none());
    store.answer(|| Ok(()));
    assert!(committed.now_or_never().unwrap().is_ok());
    assert!(queued.now_or_never().unwrap().is_ok());
}

#[test]
fn changes_of_batches_that_fail_take_the_ledger_back_with_them() {
    let (store, ledger) = ledger();
    let add =
        |name: &'static str| Box::pin(ledger.write(None, |book| book.add_user(User::test(name))));
    let mut durable = add("ann");
    assert!(durable.as_mut().now_or_never().is_none());
    store.answer(|| Ok(()));
    assert!(durable.now_or_never().unwrap().is_ok());
    let mut first = Box::pin(ledger.commit_batches(put(1), None));
    let mut behind = add("bob");
    let second = ledger.queue_batches(put(2), None).unwrap();
    assert!(first.as_mut().now_or_never().is_none() && behind.as_mut().now_or_never().is_none());
    store.is_unreadable.store(true, Ordering::Relaxed);
    store.answer(|| Err(no_room()));
    let err = first.now_or_never().unwrap().unwrap_err();
    assert!(err.to_string().contains("the disk of the data directory is full"), "{err}");
    assert_eq!(names(&ledger), ["ann"], "what was queued behind it left the book at once");
    assert!(behind.now_or_never().unwrap().is_err());
    assert!(ledger.batches_durable(second).now_or_never().unwrap().is_err());

    // Closed: refused and not even tried, until the store can be read.
    let n_tried = store.batches.lock().len();
    assert!(ledger.queue_batches(put(3), None).is_err());
    assert!(ledger.commit_batches(put(3), None).now_or_never().unwrap().is_err());
    assert_eq!(store.batches.lock().len(), n_tried);
    store.is_unreadable.store(false, Ordering::Relaxed);
    let mut again = Box::pin(ledger.commit_batches(put(3), None));
    assert!(again.as_mut().now_or_never().is_none(), "taken again");
    store.answer(|| Ok(()));
    assert!(again.now_or_never().unwrap().is_ok());
}

#[test]
fn of_many_batches_that_failed_together_one_reads_the_store_anew() {
    let (store, ledger) = ledger();
    let queued: Vec<_> = (0..5).map(|n| ledger.queue_batches(put(n), None).unwrap()).collect();
    store.answer(|| Err(no_room()));
    let mut failed = queued.into_iter();
    let mut fail = || {
        let durable = ledger.batches_durable(failed.next().unwrap());
        assert!(durable.now_or_never().unwrap().is_err());
    };
    fail();
    assert_eq!(ledger.n_reloads.load(Ordering::Relaxed), 1);
    // A step of the book that is new since then is not taken for one that failed.
    let mut new = Box::pin(ledger.write(None, |book| book.add_user(User::test("ann"))));
    assert!(new.as_mut().now_or_never().is_none());
    (0..4).for_each(|_| fail());
    assert_eq!(
        (ledger.n_reloads.load(Ordering::Relaxed), names(&ledger)),
        (1, vec!["ann".to_owned()])
    );
    store.answer(|| Ok(()));
    assert!(new.now_or_never().unwrap().is_ok());
    // One whose commit is gone with its store is no success.
    let lost = ledger.queue_batches(put(9), None).unwrap();
    store.queued.lock().clear();
    assert!(ledger.batches_durable(lost).now_or_never().unwrap().is_err());
}
