//! Batches as their users see them: pages, and how large ones are forgotten.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use orch_core::ports::blobs::Blobs;
use orch_core::ports::store::{Commit, Store, StoreError};
use orch_domain::batch::{Batch, BatchChange, Part, StepRun, StepState};
use orch_domain::name::BatchId;
use orch_domain::plan::Step;
use orch_domain::time::Timestamp;

use super::super::SledStore;
use super::super::table::Table;
use super::sample::{batch, progress_run};
use super::{batches, commit};

const STEPS: u32 = 10_000;
const CHILD: &str = "store::tests::batches::forgets_until_killed";
const DIRECTORY: &str = "data-directory=";

fn define(batch: &BatchId, place: u32) -> BatchChange {
    let step = Arc::new(Step::test(&format!("s{place}"), "files.read"));
    BatchChange::Define { batch: batch.clone(), place, step }
}

fn run(batch: &BatchId, run: StepRun) -> BatchChange {
    BatchChange::Run { batch: batch.clone(), run: Arc::new(run) }
}

/// A batch with so many steps and as many runs, in commits of a thousand.
fn large(store: &SledStore, n: u32, n_steps: u32) -> Batch {
    let it = Batch { n_steps, ..batch(n) };
    commit(store, batches(vec![BatchChange::Put(Arc::new(it.clone()))])).unwrap();
    let places: Vec<u32> = (0..n_steps).collect();
    for places in places.chunks(500) {
        let steps = places.iter().map(|place| define(&it.id, *place));
        let runs = places.iter().map(|place| run(&it.id, progress_run(*place)));
        commit(store, batches(steps.chain(runs).collect())).unwrap();
    }
    it
}

/// Rows of batches that the tables have, whether they are answered or not.
fn n_rows(store: &SledStore) -> u64 {
    let tables = [Table::Batches, Table::BatchSteps, Table::BatchRuns, Table::ForgottenBatches];
    store.read_settled(|it| Ok(tables.iter().map(|table| it.state().count(*table)).sum())).unwrap()
}

pub(super) fn until_rows(store: &SledStore, expected: u64) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while n_rows(store) != expected {
        assert!(Instant::now() < deadline, "{} rows are left", n_rows(store));
        std::thread::yield_now();
    }
}

fn is_answered(store: &SledStore, id: &BatchId) -> bool {
    let part = StepRun::test(0).part;
    let found = [
        store.batches().unwrap().iter().any(|it| it.id == *id),
        store.batch(id).unwrap().is_some(),
        !store.batch_steps(id, 0, 1).unwrap().is_empty(),
        !store.batch_runs(id, None, 1).unwrap().is_empty(),
        store.batch_run(id, part).unwrap().is_some(),
    ];
    assert!(found.iter().all(|it| *it == found[0]), "all say the same: {found:?}");
    found[0]
}

#[test]
fn the_later_change_of_a_row_counts() {
    let dir = tempfile::tempdir().unwrap();
    let store = SledStore::open(dir.path()).unwrap();
    let id = batch(1).id;
    let at = |state| run(&id, StepRun { state, ..StepRun::test(0) });
    let put = |state| BatchChange::Put(Arc::new(Batch { state, ..batch(1) }));
    use orch_domain::batch::BatchState::{Queued, Running, Succeeded};
    commit(
        &store,
        batches(vec![put(Queued), define(&id, 0), at(StepState::Running), put(Running)]),
    )
    .unwrap();
    let read = || {
        let it = store.batch(&id).unwrap().unwrap();
        (it.batch.state, it.steps.len(), it.runs.iter().map(|it| it.state).collect::<Vec<_>>())
    };
    assert_eq!(read(), (Running, 1, vec![StepState::Running]));
    commit(
        &store,
        batches(vec![at(StepState::Failed), at(StepState::Succeeded), put(Queued), put(Succeeded)]),
    )
    .unwrap();
    assert_eq!(read(), (Succeeded, 1, vec![StepState::Succeeded]), "one row for each part");
}

#[test]
fn pages_come_in_order_and_end() {
    let dir = tempfile::tempdir().unwrap();
    let store = SledStore::open(dir.path()).unwrap();
    let (first, second) = (large(&store, 1, 300), large(&store, 2, 7));
    assert_eq!(store.batches().unwrap(), [first.clone(), second.clone()]);
    let mut places = Vec::new();
    loop {
        let from = places.last().map_or(0, |it| it + 1);
        let page = store.batch_steps(&first.id, from, 128).unwrap();
        assert!(page.len() <= 128);
        if page.is_empty() {
            break;
        }
        assert!(page.iter().all(|(place, it)| it.id.as_str() == format!("s{place}")));
        places.extend(page.iter().map(|it| it.0));
    }
    assert_eq!(places, (0..300).collect::<Vec<_>>());

    let part = |step, element, is_compensation| Part { step, element, is_compensation };
    let more = [part(2, None, true), part(2, Some(0), false), part(2, Some(300), false)];
    let runs = more.map(|part| run(&second.id, StepRun { part, ..StepRun::test(0) }));
    commit(&store, batches(runs.to_vec())).unwrap();
    let parts = |from, limit| -> Vec<Part> {
        store.batch_runs(&second.id, from, limit).unwrap().iter().map(|it| it.part).collect()
    };
    let all = parts(None, usize::MAX);
    assert!(all.is_sorted() && all.len() == 10, "{all:?}");
    assert_eq!(parts(Some(more[0]), 2), [more[0], more[1]], "from that part on, with it");
    assert_eq!(parts(Some(part(2, Some(1), false)), 2), [more[2], part(3, None, false)]);
    assert!(parts(Some(part(7, None, false)), 9).is_empty() && parts(None, 0).is_empty());
    let whole = store.batch(&second.id).unwrap().unwrap();
    assert_eq!((whole.batch, whole.steps.len(), whole.runs.len()), (second, 7, 10));
    let nobody = BatchId::new(Timestamp::from_millis(9), 9);
    assert!(!is_answered(&store, &nobody));
}

/// Other batches run at full speed: what has ended is read without a checkpoint, and what was just committed is seen.
#[test]
fn a_batch_that_rests_is_read_without_waiting_for_those_that_run() {
    let dir = tempfile::tempdir().unwrap();
    let store = SledStore::open(dir.path()).unwrap();
    let (rests, runs) = (large(&store, 1, 100), large(&store, 2, 0));
    assert_eq!(store.batch_runs(&rests.id, None, 1000).unwrap().len(), 100);
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        // For as long as somebody reads there can be no checkpoint.
        let reading = store.handle().unwrap().tables.read();
        commit(&store, batches(vec![run(&runs.id, progress_run(0))])).unwrap();
        scope.spawn(|| tell.send(store.batch_runs(&rests.id, None, 1000).unwrap().len()));
        let n_runs = told.recv_timeout(Duration::from_secs(30));
        drop(reading);
        assert_eq!(n_runs, Ok(100), "it did not wait for one");
    });
    for n in 1..10 {
        // Seen as soon as it is queued, durable or not.
        let _durable = store.commit(batches(vec![run(&runs.id, progress_run(n))]));
        assert!(store.batch_run(&runs.id, StepRun::test(n).part).unwrap().is_some());
    }
}

#[test]
fn a_plan_with_a_hole_is_damage_and_said() {
    let dir = tempfile::tempdir().unwrap();
    let store = SledStore::open(dir.path()).unwrap();
    let id = batch(1).id;
    let put = BatchChange::Put(Arc::new(batch(1)));
    commit(&store, batches(vec![put, define(&id, 0), define(&id, 2)])).unwrap();
    let err = store.batch(&id).unwrap_err();
    assert!(matches!(&err, StoreError::Corrupt { what } if what.contains("no step 1")), "{err}");
    assert_eq!(store.batches().unwrap().len(), 1, "the others are not the worse for it");
}

#[test]
fn a_large_batch_is_forgotten_at_once_and_removed_by_and_by() {
    let dir = tempfile::tempdir().unwrap();
    let store = SledStore::open(dir.path()).unwrap();
    let (gone, kept) = (large(&store, 1, STEPS), large(&store, 2, 10));
    for id in [&gone.id, &kept.id] {
        store.put(id, "r1", b"large").unwrap();
    }
    commit(&store, batches(vec![BatchChange::Forget(gone.id.clone())])).unwrap();
    assert!(!is_answered(&store, &gone.id) && is_answered(&store, &kept.id));
    // A row that was under way when it was forgotten.
    commit(&store, batches(vec![run(&gone.id, StepRun::test(STEPS))])).unwrap();
    assert!(!is_answered(&store, &gone.id));
    until_rows(&store, 21);
    assert_eq!(store.get(&gone.id, "r1").unwrap(), None);
    assert_eq!(store.get(&kept.id, "r1").unwrap().as_deref(), Some(&b"large"[..]));
    assert_eq!(store.batch(&kept.id).unwrap().unwrap().runs.len(), 10);
    // Twice, or one that never was, is no harm.
    let again = [gone.id.clone(), BatchId::new(Timestamp::from_millis(5), 5)];
    commit(&store, batches(again.map(BatchChange::Forget).to_vec())).unwrap();
    until_rows(&store, 21);
}

#[test]
fn what_a_stop_cuts_short_the_next_start_finishes() {
    let dir = tempfile::tempdir().unwrap();
    let store = SledStore::open(dir.path()).unwrap();
    let gone = large(&store, 1, STEPS);
    commit(&store, batches(vec![BatchChange::Forget(gone.id.clone())])).unwrap();
    drop(store);
    let store = SledStore::open(dir.path()).unwrap();
    assert!(!is_answered(&store, &gone.id));
    until_rows(&store, 0);
    drop(store);
    assert_eq!(n_rows(&SledStore::open(dir.path()).unwrap()), 0);
}

/// Run by the test below in a process of its own. Without a directory it shows that it works.
#[test]
fn forgets_until_killed() {
    let directory = std::env::args().find_map(|it| it.strip_prefix(DIRECTORY).map(str::to_owned));
    match directory {
        Some(it) => {
            let store = SledStore::open(Path::new(&it)).unwrap();
            forget_the_first(&store);
            println!("forgotten");
            loop {
                commit(&store, Commit::default()).unwrap();
                println!("and on");
            }
        }
        None => {
            let dir = tempfile::tempdir().unwrap();
            let store = SledStore::open(dir.path()).unwrap();
            large(&store, 1, 10);
            forget_the_first(&store);
            until_rows(&store, 0);
        }
    }
}

fn forget_the_first(store: &SledStore) {
    commit(store, batches(vec![BatchChange::Forget(batch(1).id)])).unwrap();
}

#[test]
fn killed_while_it_forgets_it_has_the_rest_and_goes_on() {
    let whole = tempfile::tempdir().unwrap();
    let store = SledStore::open(whole.path()).unwrap();
    let (gone, kept) = (large(&store, 1, 4000), large(&store, 2, 10));
    drop(store);
    // After so many commits of others, which are a measure of time that needs no clock.
    for n_more in [0, 1, 3, 10, 30] {
        let dir = tempfile::tempdir().unwrap();
        super::copy(whole.path(), dir.path());
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", CHILD, "--nocapture", "--test-threads=1", "--skip"])
            .arg(format!("{DIRECTORY}{}", dir.path().display()))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut lines = lines.map_while(Result::ok);
        assert!(lines.any(|it| it.contains("forgotten")));
        assert_eq!(lines.take(n_more).count(), n_more);
        child.kill().unwrap();
        child.wait().unwrap();
        let store = SledStore::open(dir.path()).unwrap();
        assert!(!is_answered(&store, &gone.id));
        until_rows(&store, 21);
        assert_eq!(store.batch(&kept.id).unwrap().unwrap().runs.len(), 10);
    }
}

#[test]
fn other_commits_go_on_while_a_batch_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let store = SledStore::open(dir.path()).unwrap();
    let (gone, other) = (large(&store, 1, 4000), large(&store, 2, 0));
    commit(&store, batches(vec![BatchChange::Forget(gone.id)])).unwrap();
    for n in 0..200 {
        let commit = super::commit(
            &store,
            Commit { batches: vec![run(&other.id, progress_run(n))], ..Commit::default() },
        );
        commit.unwrap();
    }
    until_rows(&store, 201);
    assert_eq!(store.batch_runs(&other.id, None, usize::MAX).unwrap().len(), 200);
}
