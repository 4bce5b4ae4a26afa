//! What it costs to keep the runs of a batch: `cargo bench -p orch-adapters --bench batch_rows [DIRECTORY]`. The directory
//! says which disk; without one it is that of the temporary files. Figures of one machine, to be compared with each other.

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use orch_adapters::store::SledStore;
use orch_core::ports::store::{Commit, Store};
use orch_domain::batch::{Batch, BatchChange, Kept, StepRun, StepState};
use orch_domain::name::BatchId;
use orch_domain::plan::Step;
use orch_domain::time::Timestamp;
use serde_json::json;

const N: u32 = 100_000;

fn main() {
    let dir = tempfile::tempdir().expect("a directory");
    let given = std::env::args().skip(1).find(|it| !it.starts_with('-'));
    let dir: PathBuf = given.map_or_else(|| dir.path().to_owned(), PathBuf::from);
    for n_rows in [1, 16, 256] {
        write(&dir.join(format!("of-{n_rows}")), n_rows);
    }
}

fn run(n: u32, state: StepState) -> Arc<StepRun> {
    let has_ended = state.has_ended();
    let text = format!("step {n} has done what was asked of it, and says so in one line");
    let result =
        json!({"content": [{"type": "text", "text": text}], "structuredContent": {"n": n}});
    Arc::new(StepRun {
        state,
        attempt: 1,
        result: has_ended.then(|| Kept::Inline(Arc::new(result))),
        started_at: Some(Timestamp::from_millis(1_763_627_400_000)),
        ended_at: has_ended.then(|| Timestamp::from_millis(1_763_627_400_050)),
        ..StepRun::test(n)
    })
}

fn write(data_dir: &Path, n_rows: usize) {
    let store = SledStore::open(data_dir).expect("a store");
    let id = Batch::test(1).id;
    let header = Batch { n_steps: N, ..Batch::test(1) };
    commit_all(&store, vec![BatchChange::Put(Arc::new(header))], 1);
    let steps = (0..N).map(|place| {
        let step = Arc::new(Step::test(&format!("s{place}"), "files.read"));
        BatchChange::Define { batch: id.clone(), place, step }
    });
    let (defined, _) = commit_all(&store, steps.collect(), 256);

    println!("commits of {n_rows}:");
    tell("steps defined in commits of 256", defined, N);
    let (durable, queued) = commit_all(&store, transitions(&id), n_rows);
    tell("transitions queued", queued, 2 * N);
    tell("transitions durable", durable, 2 * N);
    read(store, data_dir, &id);
}

/// Each step begins and ends, with a hundred under way.
fn transitions(id: &BatchId) -> Vec<BatchChange> {
    let begun = (0..N).map(|n| (n, run(n, StepState::Running)));
    let ended = (0..N).map(|n| (n + 100, run(n, StepState::Succeeded)));
    let mut runs: Vec<(u32, Arc<StepRun>)> = begun.chain(ended).collect();
    runs.sort_by_key(|it| it.0);
    runs.into_iter().map(|(_, run)| BatchChange::Run { batch: id.clone(), run }).collect()
}

/// How long it took until all was durable, and until all was queued.
fn commit_all(store: &SledStore, changes: Vec<BatchChange>, n_rows: usize) -> (Duration, Duration) {
    let mut commits: Vec<Vec<BatchChange>> = Vec::new();
    let mut changes = changes.into_iter().peekable();
    while changes.peek().is_some() {
        commits.push(changes.by_ref().take(n_rows).collect());
    }
    let start = Instant::now();
    let answers: Vec<_> = commits
        .into_iter()
        .map(|batches| store.commit(Commit { batches, ..Commit::default() }))
        .collect();
    let queued = start.elapsed();
    for it in answers {
        it.blocking_recv().expect("an answer").expect("durable");
    }
    (start.elapsed(), queued)
}

fn read(store: SledStore, data_dir: &Path, id: &BatchId) {
    let timed = |what: &str, work: &mut dyn FnMut()| {
        let start = Instant::now();
        work();
        println!("  {what:<34} {:>9.1?}", start.elapsed());
    };
    let mut store = Some(store);
    timed("first read, with a checkpoint", &mut || {
        let batches = store.as_ref().map(|it| it.batches().expect("batches").len());
        assert_eq!(batches, Some(1));
    });
    timed("all of it", &mut || {
        let all = store.as_ref().and_then(|it| it.batch(id).expect("a batch"));
        assert_eq!(all.map(|it| it.runs.len()), Some(N as usize));
    });
    timed("a page of 1000 runs", &mut || {
        let from = Some(StepRun::test(N / 2).part);
        let page = store.as_ref().map(|it| it.batch_runs(id, from, 1000).expect("runs").len());
        assert_eq!(page, Some(1000));
    });
    timed("closing", &mut || store = None);
    timed("opening, which checks every row", &mut || {
        store = Some(SledStore::open(data_dir).expect("a store"));
    });
    let Some(store) = store else { return };
    timed("forgetting, until it is hidden", &mut || {
        commit_all(&store, vec![BatchChange::Forget(id.clone())], 1);
        assert!(store.batches().expect("batches").is_empty());
    });
    timed("and until it is removed", &mut || {
        let backup = data_dir.join("backup");
        let n_left = || {
            let counts = store.backup(&backup, Timestamp::ZERO).expect("a backup").counts;
            counts["batch_runs"] + counts["forgotten_batches"]
        };
        while n_left() != 0 {
            std::thread::yield_now();
        }
    });
}

fn tell(what: &str, elapsed: Duration, n: u32) {
    let each = elapsed.as_nanos() / u128::from(n);
    let rate = f64::from(n) / elapsed.as_secs_f64();
    println!("  {what:<34} {elapsed:>9.1?}  {each:>6} ns each  {rate:>9.0}/s");
}
