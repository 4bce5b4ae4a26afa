//! Large results: whole or not there, for their owner only, and known when they are damaged.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use orch_core::ports::blobs::{BlobPart, Blobs};
use orch_core::ports::store::StoreError;
use orch_domain::name::BatchId;
use orch_domain::time::Timestamp;
use proptest::prelude::*;

use super::super::{FOLDER, SledStore};

fn id(n: u32) -> BatchId {
    BatchId::new(Timestamp::from_millis(1), n)
}

fn opened() -> (tempfile::TempDir, SledStore, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let store = SledStore::open(dir.path()).unwrap();
    let folder = dir.path().join(FOLDER).join("results");
    (dir, store, folder)
}

/// All of it, part by part.
fn read_in_parts(store: &SledStore, batch: &BatchId, name: &str, max_bytes: usize) -> String {
    let (mut text, mut at) = (String::new(), Some(0));
    while let Some(offset) = at {
        let part = store.part(batch, name, offset, max_bytes).unwrap().unwrap();
        assert!(part.text.len() <= max_bytes && offset == text.len() as u64);
        text += &part.text;
        at = part.next;
        assert!(at.is_none_or(|it| offset < it && it < part.total), "it goes on and ends");
        assert!(at.is_some() || text.len() as u64 == part.total);
    }
    text
}

#[test]
fn what_was_put_is_there_after_a_restart_and_for_its_owner_only() {
    let (dir, store, folder) = opened();
    assert_eq!(store.get(&id(1), "a").unwrap(), None);
    assert_eq!(store.part(&id(1), "a", 0, 10).unwrap(), None);
    store.put(&id(1), "a", b"first").unwrap();
    store.put(&id(1), "a", b"second").unwrap();
    store.put(&id(2), "3-e7.json", b"").unwrap();
    drop(store);
    let store = SledStore::open(dir.path()).unwrap();
    assert_eq!(store.get(&id(1), "a").unwrap().as_deref(), Some(&b"second"[..]));
    assert_eq!(store.get(&id(2), "3-e7.json").unwrap().as_deref(), Some(&b""[..]));
    let empty = BlobPart { text: String::new(), next: None, total: 0 };
    assert_eq!(store.part(&id(2), "3-e7.json", 0, 10).unwrap(), Some(empty));
    let mode = |path: PathBuf| fs_err::metadata(path).unwrap().permissions().mode() & 0o777;
    let of_batch = folder.join(id(1).as_str());
    assert_eq!(fs_err::read_dir(&of_batch).unwrap().count(), 1, "the older one is replaced");
    assert_eq!((mode(folder), mode(of_batch.join("a")), mode(of_batch)), (0o700, 0o600, 0o700));
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let (_dir, store, folder) = opened();
    for name in ["", ".", "..", "../x", "a/b", ".a", "a..b", "-a", "ä", "a\0", &"x".repeat(129)] {
        assert!(store.put(&id(1), name, b"x").is_err(), "{name:?}");
        assert!(store.get(&id(1), name).is_err() && store.part(&id(1), name, 0, 9).is_err());
    }
    assert!(!folder.exists());
}

#[test]
fn parts_do_not_cut_characters() {
    let (_dir, store, _) = opened();
    let text = "aä€😀".repeat(50);
    store.put(&id(1), "a", text.as_bytes()).unwrap();
    for max_bytes in [4, 5, 6, 7, 64, 10_000] {
        assert_eq!(read_in_parts(&store, &id(1), "a", max_bytes), text, "{max_bytes}");
    }
    assert_eq!(store.part(&id(1), "a", text.len() as u64, 10).unwrap(), None, "beyond the end");
    assert_eq!(store.part(&id(1), "a", u64::MAX, 10).unwrap(), None);
    // What is no text comes in some form, and comes to an end.
    store.put(&id(1), "b", &[0xff, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80]).unwrap();
    let part = store.part(&id(1), "b", 0, 4).unwrap().unwrap();
    assert_eq!((part.next, part.total), (Some(4), 8));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn any_text_comes_back_in_parts(text in "\\PC{0,60}", max_bytes in 4usize..40) {
        let (_dir, store, _) = opened();
        store.put(&id(1), "a", text.as_bytes()).unwrap();
        prop_assert_eq!(read_in_parts(&store, &id(1), "a", max_bytes), text);
    }
}

#[test]
fn a_damaged_file_is_said_to_be() {
    let (_dir, store, folder) = opened();
    let path = folder.join(id(1).as_str()).join("a");
    let text = "0123456789".repeat(20_000);
    let harms: [fn(&mut Vec<u8>); 5] = [
        |it| it[77] ^= 1,
        |it| it.truncate(it.len() - 1),
        |it| it.truncate(3),
        Vec::clear,
        |it| it.extend_from_slice(b"more"),
    ];
    for harm in harms {
        store.put(&id(1), "a", text.as_bytes()).unwrap();
        let mut bytes = fs_err::read(&path).unwrap();
        harm(&mut bytes);
        fs_err::write(&path, bytes).unwrap();
        let errors = [store.get(&id(1), "a").err(), store.part(&id(1), "a", 0, 10).err()];
        for err in errors {
            let Some(StoreError::Corrupt { what }) = err else { panic!("{err:?}") };
            assert!(what.contains("`a`") && what.contains(id(1).as_str()), "{what}");
        }
    }
}

#[test]
fn forgotten_and_unknown_ones_go() {
    let (_dir, store, folder) = opened();
    for n in 1..5 {
        store.put(&id(n), "a", b"x").unwrap();
    }
    store.forget(&id(1)).unwrap();
    store.forget(&id(1)).unwrap();
    assert_eq!(store.get(&id(1), "a").unwrap(), None);
    // As a stop in the middle of writing leaves it.
    let half = folder.join(id(2).as_str()).join("b.0..partial");
    fs_err::write(&half, b"half").unwrap();
    assert_eq!(store.sweep(&[id(2), id(4), id(9)]).unwrap(), 1);
    assert!(!half.exists());
    let there = (1..5).filter(|n| store.get(&id(*n), "a").unwrap().is_some());
    assert_eq!(there.collect::<Vec<_>>(), [2, 4]);
}
