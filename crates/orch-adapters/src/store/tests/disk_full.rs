//! A full disk refuses commits, loses none, and takes them again when there is room.

use std::path::Path;
use std::process::Command;

use orch_core::ports::blobs::Blobs;
use orch_core::ports::store::{Commit, Store, StoreError};
use orch_domain::batch::BatchChange;
use orch_domain::book::Change;

use super::super::{FOLDER, OpenError, SledStore};
use super::sample::{batch, instance, launch};
use super::{batches, changes, commit};

/// A small file system of its own, gone with the value.
struct SmallDisk<'a>(&'a Path);

impl SmallDisk<'_> {
    fn mount(path: &Path) -> Option<SmallDisk<'_>> {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"])
            .arg(path)
            .output()
            .is_ok_and(|it| it.status.success());
        if !mounted {
            println!("skipped: a tmpfs cannot be mounted here");
        }
        mounted.then_some(SmallDisk(path))
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        // Lazily, because threads of sled may have the file open for a moment.
        let unmounted = Command::new("umount").arg("-l").arg(self.0).status();
        assert!(unmounted.is_ok_and(|it| it.success()));
    }
}

fn fill(file: &Path) {
    let full = fs_err::write(file, vec![0; 64 << 20]).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
}

fn n_instances(store: &SledStore) -> usize {
    store.load().unwrap().instances.len()
}

#[test]
fn commits_are_refused_until_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let Some(_disk) = SmallDisk::mount(dir.path()) else { return };
    let data_dir = dir.path().join("data");
    let ballast = dir.path().join("ballast");
    let store = SledStore::open(&data_dir).unwrap();
    commit(&store, launch(0)).unwrap();
    fill(&ballast);

    // Small ones go on in the room the journal has; those that need more are refused, and all behind them.
    let mut n_there = 1;
    let refused = loop {
        match commit(&store, large(n_there)) {
            Ok(()) => n_there += 1,
            Err(err) => break err,
        }
        assert!(n_there < 100, "the disk is not full");
    };
    assert!(matches!(refused, StoreError::DiskFull { .. }), "{refused:?}");
    let behind = commit(&store, launch(1000)).unwrap_err();
    assert!(matches!(behind, StoreError::DiskFull { .. }), "{behind:?}");
    let unread = store.load().unwrap_err();
    assert!(matches!(unread, StoreError::DiskFull { .. }), "{unread:?}");

    fs_err::remove_file(&ballast).unwrap();
    let still = commit(&store, launch(1001)).unwrap_err();
    assert!(matches!(still, StoreError::DiskFull { .. }), "not before it is loaded: {still:?}");
    assert_eq!(n_instances(&store), n_there as usize);
    commit(&store, launch(1002)).unwrap();
    assert_eq!(n_instances(&store), n_there as usize + 1);
    drop(store);
    assert_eq!(n_instances(&SledStore::open(&data_dir).unwrap()), n_there as usize + 1);
}

#[test]
fn a_full_disk_at_the_start_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let Some(_disk) = SmallDisk::mount(dir.path()) else { return };
    let (data_dir, copied) = (dir.path().join("data"), dir.path().join("copied"));
    let ballast = dir.path().join("ballast");
    {
        let store = SledStore::open(&data_dir).unwrap();
        for n in 0..50 {
            commit(&store, launch(n)).unwrap();
        }
        // As after a crash: the commits are in the journal only.
        super::copy(&data_dir, &copied);
    }
    fill(&ballast);
    match SledStore::open(&copied) {
        Err(OpenError::DiskFull { .. }) => {}
        Err(err) => panic!("{err:?}"),
        Ok(_) => panic!("nothing could be written"),
    }
    fs_err::remove_file(&ballast).unwrap();
    assert_eq!(n_instances(&SledStore::open(&copied).unwrap()), 50);
    // Nor is a database begun on a full disk half a database afterwards.
    fill(&ballast);
    let fresh = dir.path().join("fresh");
    assert!(SledStore::open(&fresh).is_err());
    fs_err::remove_file(&ballast).unwrap();
    assert_eq!(n_instances(&SledStore::open(&fresh).unwrap()), 0);
}

#[test]
fn a_large_result_without_room_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let Some(_disk) = SmallDisk::mount(dir.path()) else { return };
    let data_dir = dir.path().join("data");
    let store = SledStore::open(&data_dir).unwrap();
    let id = batch(1).id;
    let (small, large) = (vec![1; 1000], vec![2; 32 << 20]);
    store.put(&id, "a", &small).unwrap();
    let free = || rustix::fs::statvfs(dir.path()).unwrap().f_bavail;
    let before = free();
    for name in ["a", "b"] {
        let err = store.put(&id, name, &large).unwrap_err();
        assert!(matches!(err, StoreError::DiskFull { .. }), "{err:?}");
    }
    assert_eq!(free(), before);
    let folder = data_dir.join(FOLDER).join("results").join(id.as_str());
    assert_eq!(fs_err::read_dir(folder).unwrap().count(), 1);
    assert_eq!(store.get(&id, "a").unwrap(), Some(small), "what had the name keeps it");
    assert_eq!(store.get(&id, "b").unwrap(), None);
    commit(&store, launch(0)).unwrap();
}

/// What cannot be removed now is hidden all the same, and removed when there is room.
#[test]
fn a_batch_is_forgotten_on_a_full_disk() {
    let dir = tempfile::tempdir().unwrap();
    let Some(_disk) = SmallDisk::mount(dir.path()) else { return };
    let (data_dir, ballast) = (dir.path().join("data"), dir.path().join("ballast"));
    let store = SledStore::open(&data_dir).unwrap();
    (0..50).for_each(|n| commit(&store, launch(n)).unwrap());
    let id = batch(0).id;
    assert_eq!(store.batch_runs(&id, None, 100).unwrap().len(), 50);
    fill(&ballast);
    commit(&store, batches(vec![BatchChange::Forget(id.clone())])).unwrap();
    fs_err::remove_file(&ballast).unwrap();
    store.load().unwrap();
    assert!(store.batch(&id).unwrap().is_none() && store.batches().unwrap().is_empty());
    drop(store);
    let store = SledStore::open(&data_dir).unwrap();
    super::batches::until_rows(&store, 0);
    assert_eq!(n_instances(&store), 50);
}

/// A launch whose row takes a good part of a megabyte.
fn large(n: u64) -> Commit {
    let mut it = instance(n);
    it.env.insert("TEXT".to_owned(), "x".repeat(300_000));
    changes(vec![Change::Instance(it.id.clone(), Some(it.into()))])
}

/// As a server does it, which reads all anew after each refusal, with tables that have been written since they were opened:
/// sled makes a snapshot then when it is opened.
#[test]
fn reading_anew_on_a_full_disk_leaves_the_tables_readable() {
    let dir = tempfile::tempdir().unwrap();
    let Some(_disk) = SmallDisk::mount(dir.path()) else { return };
    let (data_dir, ballast) = (dir.path().join("data"), dir.path().join("ballast"));
    let store = SledStore::open(&data_dir).unwrap();
    let mut n_there = 0;
    for round in 0..3 {
        commit(&store, launch(1000 + round)).unwrap();
        assert_eq!(n_instances(&store), n_there + 1, "a checkpoint");
        n_there += 1;
        fill(&ballast);
        while commit(&store, large(n_there as u64)).is_ok() {
            n_there += 1;
            assert!(n_there < 100, "the disk is not full");
        }
        for _ in 0..3 {
            let unread = store.load().unwrap_err();
            assert!(matches!(unread, StoreError::DiskFull { .. }), "{unread:?}");
            let refused = commit(&store, launch(1)).unwrap_err();
            assert!(matches!(refused, StoreError::DiskFull { .. }), "{refused:?}");
        }
        fs_err::remove_file(&ballast).unwrap();
        assert_eq!(n_instances(&store), n_there);
    }
    drop(store);
    assert_eq!(n_instances(&SledStore::open(&data_dir).unwrap()), n_there);
}

/// As above, when it is the start that finds the disk full.
#[test]
fn starts_on_a_full_disk_leave_the_tables_readable() {
    let dir = tempfile::tempdir().unwrap();
    let Some(_disk) = SmallDisk::mount(dir.path()) else { return };
    let (data_dir, copied) = (dir.path().join("data"), dir.path().join("copied"));
    let ballast = dir.path().join("ballast");
    {
        let store = SledStore::open(&data_dir).unwrap();
        (0..50).for_each(|n| commit(&store, launch(n)).unwrap());
        assert_eq!(n_instances(&store), 50, "a checkpoint");
        commit(&store, launch(50)).unwrap();
        // As after a crash.
        super::copy(&data_dir, &copied);
    }
    fill(&ballast);
    for _ in 0..3 {
        let refused = SledStore::open(&copied).err();
        assert!(matches!(refused, Some(OpenError::DiskFull { .. })), "{refused:?}");
    }
    fs_err::remove_file(&ballast).unwrap();
    let store = SledStore::open(&copied).unwrap();
    assert_eq!(n_instances(&store), 51);
    commit(&store, launch(51)).unwrap();
    drop(store);
    assert_eq!(n_instances(&SledStore::open(&copied).unwrap()), 52);
}
