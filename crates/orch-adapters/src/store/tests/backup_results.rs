//! Batches and their large results in a backup.

use std::sync::Arc;

use orch_core::ports::blobs::Blobs;
use orch_core::ports::store::{Commit, Store};
use orch_domain::batch::{BatchChange, Kept, StepRun};
use orch_domain::name::BatchId;
use orch_domain::time::Timestamp;
use sha2::{Digest, Sha256};

use super::super::backup::BackupError;
use super::super::{FOLDER, SledStore};
use super::sample::{batch, launch};
use super::{batches, commit, shown};

/// Not of whole pieces, of just one, of none, and not text.
fn results() -> [(&'static str, Vec<u8>); 4] {
    let bytes = |n: usize| (0..n).map(|it| (it * 7 + it / 251) as u8).collect::<Vec<u8>>();
    [
        ("large", bytes(700_001)),
        ("piece", bytes((192 << 10) - 8)),
        ("empty", Vec::new()),
        ("b", bytes(9)),
    ]
}

fn put_batch(store: &SledStore, n: u32) -> BatchId {
    let id = batch(n).id;
    let mut changes = vec![BatchChange::Put(Arc::new(batch(n)))];
    for (place, (name, bytes)) in results().into_iter().enumerate() {
        store.put(&id, name, &bytes).unwrap();
        let kept = Kept::Large { name: name.to_owned(), n_bytes: bytes.len() as u64 };
        let run = StepRun { result: Some(kept), ..StepRun::test(place as u32) };
        changes.push(BatchChange::Run { batch: id.clone(), run: Arc::new(run) });
    }
    commit(store, batches(changes)).unwrap();
    id
}

#[test]
fn a_backup_has_the_large_results() {
    let dir = tempfile::tempdir().unwrap();
    let store = SledStore::open(&dir.path().join("a")).unwrap();
    let (first, second, gone) = (put_batch(&store, 1), put_batch(&store, 2), put_batch(&store, 3));
    commit(&store, batches(vec![BatchChange::Forget(gone.clone())])).unwrap();
    // Nobody's, and half of one: neither belongs into a backup.
    store.put(&batch(9).id, "a", b"x").unwrap();
    let folder = dir.path().join("a").join(FOLDER).join("results");
    fs_err::write(folder.join(first.as_str()).join("c.1..partial"), b"x").unwrap();
    // Lost by somebody: that is told, and no reason to have no backup.
    fs_err::remove_file(folder.join(second.as_str()).join("b")).unwrap();

    let file = dir.path().join("backup");
    let written = store.backup(&file, Timestamp::from_millis(0)).unwrap();
    assert_eq!(written.counts["large_results"], 7);
    let restored = SledStore::restore(&file, &dir.path().join("b")).unwrap();
    assert_eq!(restored, written);
    let restored = SledStore::open(&dir.path().join("b")).unwrap();
    assert_eq!(restored.batches().unwrap(), store.batches().unwrap());
    for id in [&first, &second] {
        assert_eq!(
            format!("{:?}", restored.batch(id).unwrap()),
            format!("{:?}", store.batch(id).unwrap())
        );
        for (name, bytes) in results() {
            let is_lost = (id, name) == (&second, "b");
            assert_eq!(restored.get(id, name).unwrap(), (!is_lost).then_some(bytes));
        }
    }
    assert!(restored.batch(&gone).unwrap().is_none());
    assert_eq!(restored.sweep(&[first, second]).unwrap(), 0, "no others came with it");
}

#[test]
fn a_backup_without_one_of_its_pieces_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = SledStore::open(&dir.path().join("a")).unwrap();
    put_batch(&store, 1);
    let file = dir.path().join("backup");
    store.backup(&file, Timestamp::from_millis(0)).unwrap();
    let text = fs_err::read_to_string(&file).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let pieces: Vec<usize> =
        (0..lines.len()).filter(|it| lines[*it].starts_with("{\"result\":")).collect();
    assert_eq!(pieces.len(), 4 + 2 + 1 + 1);
    for left_out in pieces {
        let mut lines = lines.clone();
        lines.remove(left_out);
        fs_err::write(&file, lines.join("\n") + "\n").unwrap();
        let err = SledStore::restore(&file, &dir.path().join("b")).unwrap_err();
        assert!(matches!(err, BackupError::NotABackup { .. }), "{err}");
        assert!(!dir.path().join("b").join(FOLDER).exists());
    }
}

#[test]
fn a_backup_from_before_there_were_batches_is_restored() {
    let dir = tempfile::tempdir().unwrap();
    let store = SledStore::open(&dir.path().join("a")).unwrap();
    let launched = Commit { batches: Vec::new(), ..launch(0) };
    commit(&store, launched).unwrap();
    let file = dir.path().join("backup");
    store.backup(&file, Timestamp::from_millis(0)).unwrap();
    let text = fs_err::read_to_string(&file).unwrap();
    let (head, rest) = text.split_once('\n').unwrap();
    let mut head: serde_json::Value = serde_json::from_str(head).unwrap();
    head.as_object_mut().unwrap().remove("large_results").unwrap();
    head["schema"] = 4.into();
    let counts = head["counts"].as_object_mut().unwrap();
    counts.retain(|table, _| !table.contains("batch"));
    let (rows, _digest) = rest.trim_end().rsplit_once('\n').unwrap();
    let old = format!("{head}\n{rows}\n");
    let digest = hex::encode(Sha256::digest(&old));
    fs_err::write(&file, format!("{old}{{\"sha256\":\"{digest}\"}}\n")).unwrap();

    let summary = SledStore::restore(&file, &dir.path().join("b")).unwrap();
    assert_eq!(summary.counts["large_results"], 0);
    let restored = SledStore::open(&dir.path().join("b")).unwrap();
    assert_eq!(shown(restored.load().unwrap()), shown(store.load().unwrap()));
    put_batch(&restored, 1);
    assert_eq!(restored.batches().unwrap().len(), 1);
}

/// Results come and batches go while it is written: each row that it has finds its file.
#[test]
fn a_backup_beside_changes_is_one_moment() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(SledStore::open(&dir.path().join("a")).unwrap());
    let writer = std::thread::spawn({
        let store = store.clone();
        move || {
            for n in 0..40 {
                let id = put_batch(&store, n);
                if n % 2 == 0 {
                    commit(&store, batches(vec![BatchChange::Forget(id)])).unwrap();
                }
            }
        }
    });
    for n in 0..4 {
        let file = dir.path().join(format!("backup{n}"));
        store.backup(&file, Timestamp::from_millis(0)).unwrap();
        let data_dir = dir.path().join(format!("restored{n}"));
        SledStore::restore(&file, &data_dir).unwrap();
        let restored = SledStore::open(&data_dir).unwrap();
        for it in restored.batches().unwrap() {
            for (name, bytes) in results() {
                assert_eq!(restored.get(&it.id, name).unwrap(), Some(bytes), "{} {name}", it.id);
            }
        }
    }
    writer.join().unwrap();
}
