//! Killed at any moment, the database has every commit that was acknowledged, and each whole or not at all.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use orch_core::ports::store::{AuditQuery, Store};

use super::super::SledStore;
use super::sample::{batch, instance, launch, progress_run};

const CHILD: &str = "store::tests::crash::commits_until_killed";
const DIRECTORY: &str = "data-directory=";

/// Run by the test below in a process of its own, with a directory among the arguments. Without one it shows that the
/// loop it runs there works.
#[test]
fn commits_until_killed() {
    let directory = std::env::args().find_map(|it| it.strip_prefix(DIRECTORY).map(str::to_owned));
    match directory {
        Some(it) => commit_and_tell(Path::new(&it), u64::MAX),
        None => {
            let dir = tempfile::tempdir().unwrap();
            commit_and_tell(dir.path(), 5);
            assert_eq!(SledStore::open(dir.path()).unwrap().load().unwrap().instances.len(), 5);
        }
    }
}

fn commit_and_tell(data_dir: &Path, n_commits: u64) {
    let store = SledStore::open(data_dir).unwrap();
    let first = store.last_audit_id().0;
    let mut next = first;
    while next - first < n_commits {
        // Several at once, so that records have several.
        let last = next.saturating_add(3).min(first.saturating_add(n_commits));
        let waiting: Vec<_> = (next..last).map(|n| (n, store.commit(launch(n)))).collect();
        for (n, answer) in waiting {
            answer.blocking_recv().unwrap().unwrap();
            println!("acknowledged {n} .");
        }
        next = last;
        if next.is_multiple_of(150) {
            // A checkpoint, so that some are killed in one.
            store.audit(&AuditQuery::default()).unwrap();
        }
    }
}

fn start(data_dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", CHILD, "--nocapture", "--test-threads=1", "--skip"])
        .arg(format!("{DIRECTORY}{}", data_dir.display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Kills it after so many acknowledgements, and says which was the last.
fn run_and_kill(data_dir: &Path, n_acknowledged: usize) -> Option<u64> {
    let mut child = start(data_dir);
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut text = String::new();
    while text.lines().filter(|it| it.starts_with("acknowledged")).count() < n_acknowledged {
        assert_ne!(output.read_line(&mut text).unwrap(), 0, "it ended by itself: {text}");
    }
    child.kill().unwrap();
    output.read_to_string(&mut text).unwrap();
    child.wait().unwrap();
    text.lines()
        .filter_map(|it| it.strip_prefix("acknowledged ")?.strip_suffix(" .")?.parse().ok())
        .max()
}

#[test]
fn nothing_acknowledged_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    // Zero: killed while it makes the database, or opens it.
    for n_acknowledged in [0, 1, 0, 40, 149, 0, 151, 300, 7, 450, 1000] {
        if let Some(n) = run_and_kill(dir.path(), n_acknowledged) {
            acknowledged = acknowledged.max(n + 1);
        }
        let store = SledStore::open(dir.path()).unwrap();
        let rows = store.load().unwrap();
        let n_rows = rows.instances.len() as u64;
        assert!(acknowledged <= n_rows, "{acknowledged} acknowledged, {n_rows} there");
        for (n, it) in rows.instances.iter().enumerate() {
            assert_eq!(*it, instance(n as u64));
        }
        let n_audit =
            store.audit(&AuditQuery { limit: usize::MAX, ..AuditQuery::default() }).unwrap().len();
        assert_eq!((rows.ports.len() as u64, n_audit as u64), (2 * n_rows, n_rows));
        let runs = store.batch_runs(&batch(0).id, None, usize::MAX).unwrap();
        assert_eq!(runs, (0..n_rows as u32).map(progress_run).collect::<Vec<_>>());
        let counted: u32 = store.batches().unwrap().iter().map(|it| it.n_steps).sum();
        assert_eq!(u64::from(counted), n_rows, "the header is of the same commit as the last run");
        // The next child goes on from here.
        acknowledged = n_rows;
    }
}
