//! The ledger on a store whose commits become durable, or fail, when the test says so.

use futures::FutureExt;
use orch_domain::book::Rows;
use orch_domain::user::User;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::*;
use crate::ports::store::{AuditQuery, StoreIdentity};
use crate::service::event_log::Followed;

type Answer = oneshot::Sender<Result<(), StoreError>>;

struct ScriptedStore {
    identity: StoreIdentity,
    queued: Mutex<Vec<Answer>>,
}

impl ScriptedStore {
    fn answer(&self, result: impl Fn() -> Result<(), StoreError>) {
        self.queued.lock().drain(..).for_each(|it| drop(it.send(result())));
    }
}

impl Store for ScriptedStore {
    fn identity(&self) -> &StoreIdentity {
        &self.identity
    }
    fn load(&self) -> Result<Rows, StoreError> {
        Ok(Rows::default())
    }
    fn commit(&self, _: Commit) -> oneshot::Receiver<Result<(), StoreError>> {
        let (answer, answered) = oneshot::channel();
        self.queued.lock().push(answer);
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
}

fn ledger() -> (Arc<ScriptedStore>, Ledger) {
    let identity = StoreIdentity { controller_id: "c".to_owned(), token_secret: [0; 32] };
    let store = Arc::new(ScriptedStore { identity, queued: Mutex::default() });
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
