//! A damaged database is refused with advice, or gives everything. It is never less than everything, and never a panic.

use std::path::{Path, PathBuf};

use orch_core::ports::store::{AuditQuery, Store, StoreError};

use super::super::{FOLDER, OpenError, SledStore};
use super::sample::{batch, launch};
use super::{commit, copy, shown};

const N: u64 = 120;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Stopped {
    Closed,
    /// As it lies on disk while the server runs, with some of it in the journal only.
    Killed,
}

/// A data directory with `N` launches, and what it holds.
fn data(dir: &Path, stopped: Stopped) -> (PathBuf, String) {
    let running = dir.join("running");
    let store = SledStore::open(&running).unwrap();
    for n in 0..N {
        commit(&store, launch(n)).unwrap();
        if n == N / 2 {
            store.load().unwrap();
        }
    }
    let whole = dir.join("whole");
    if stopped == Stopped::Killed {
        copy(&running, &whole);
    }
    let held = content(&store).unwrap();
    drop(store);
    if stopped == Stopped::Closed {
        copy(&running, &whole);
    }
    (whole, held)
}

fn content(store: &SledStore) -> Result<String, StoreError> {
    let rows = shown(store.load()?);
    let audit = store.audit(&AuditQuery { limit: 10_000, ..AuditQuery::default() })?;
    let batches = store.batches()?;
    let runs = store.batch_runs(&batch(0).id, None, usize::MAX)?;
    Ok(format!("{rows}{audit:?}{:?}{batches:?}{runs:?}", store.last_audit_id()))
}

/// What is read after `harm`, or the refusal.
fn after(whole: &Path, harm: impl FnOnce(&Path)) -> Result<String, String> {
    let dir = tempfile::tempdir().unwrap();
    copy(whole, dir.path());
    harm(&dir.path().join(FOLDER));
    let refusal = match SledStore::open(dir.path()) {
        Ok(store) => match content(&store) {
            Ok(it) => return Ok(it),
            Err(StoreError::Corrupt { what }) => what,
            Err(err) => panic!("{err:?}"),
        },
        Err(err @ OpenError::Corrupt { .. }) => err.to_string(),
        Err(err) => panic!("{err:?}"),
    };
    assert!(refusal.contains("mcp-orch restore FILE"), "{refusal}");
    // Asking again does not make it good.
    assert!(SledStore::open(dir.path()).is_err(), "{refusal}");
    Err(refusal)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs_err::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

fn flip(path: &Path, at: usize, mask: u8) {
    let mut bytes = fs_err::read(path).unwrap();
    bytes[at] ^= mask;
    fs_err::write(path, bytes).unwrap();
}

fn each_file(stopped: Stopped, harms: impl Fn(&Path) -> Vec<Box<dyn Fn(&Path)>>) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let (whole, held) = data(dir.path(), stopped);
    let folder = whole.join(FOLDER);
    let mut refused = Vec::new();
    for file in files(&folder) {
        let name = file.strip_prefix(&folder).unwrap().to_owned();
        for (n, harm) in harms(&file).into_iter().enumerate() {
            match after(&whole, |folder| harm(&folder.join(&name))) {
                Ok(read) => assert!(read == held, "{} harm {n}: other data", name.display()),
                Err(_) => refused.push(name.display().to_string()),
            }
        }
    }
    refused
}

#[test]
fn untouched_data_is_whole() {
    for stopped in [Stopped::Closed, Stopped::Killed] {
        let dir = tempfile::tempdir().unwrap();
        let (whole, held) = data(dir.path(), stopped);
        assert!(after(&whole, |_| {}).unwrap() == held, "{stopped:?}");
    }
}

#[test]
fn a_missing_file_is_damage() {
    for stopped in [Stopped::Closed, Stopped::Killed] {
        let refused =
            each_file(stopped, |_| vec![Box::new(|path| fs_err::remove_file(path).unwrap())]);
        for name in ["FORMAT", "acknowledged", "journal", "db/db", "db/conf"] {
            assert!(refused.iter().any(|it| it == name), "{name}: {refused:?}");
        }
    }
}

#[test]
fn a_truncated_file_is_damage_or_harmless() {
    for stopped in [Stopped::Closed, Stopped::Killed] {
        let refused = each_file(stopped, |path| {
            let len = fs_err::metadata(path).unwrap().len();
            let lens = [
                0,
                1,
                100,
                len / 4,
                len / 2,
                len * 3 / 4,
                len.saturating_sub(4096),
                len.saturating_sub(1),
            ];
            lens.into_iter()
                .map(|len| {
                    Box::new(move |path: &Path| {
                        let file = fs_err::OpenOptions::new().write(true).open(path).unwrap();
                        file.set_len(len).unwrap();
                    }) as Box<dyn Fn(&Path)>
                })
                .collect()
        });
        for name in ["FORMAT", "acknowledged", "db/db"] {
            assert!(refused.iter().any(|it| it == name), "{name}: {refused:?}");
        }
        assert_eq!(refused.iter().any(|it| it == "journal"), stopped == Stopped::Killed);
    }
}

#[test]
fn a_flipped_bit_is_damage_or_harmless() {
    for stopped in [Stopped::Closed, Stopped::Killed] {
        let refused = each_file(stopped, |path| {
            let bytes = fs_err::read(path).unwrap();
            // Where something is written, spread over it.
            let used: Vec<usize> = (0..bytes.len()).filter(|it| bytes[*it] != 0).collect();
            used.iter()
                .step_by((used.len() / 24).max(1))
                .enumerate()
                .map(|(n, at)| {
                    let (at, mask) = (*at, 1 << (n % 8));
                    Box::new(move |path: &Path| flip(path, at, mask)) as Box<dyn Fn(&Path)>
                })
                .collect()
        });
        for name in ["acknowledged", "db/db"] {
            assert!(refused.iter().any(|it| it == name), "{name}: {refused:?}");
        }
    }
}

#[test]
fn a_lost_block_is_damage_or_harmless() {
    for stopped in [Stopped::Closed, Stopped::Killed] {
        let refused = each_file(stopped, |path| {
            let bytes = fs_err::read(path).unwrap();
            let used = bytes.chunks(4096).enumerate().filter(|it| it.1.iter().any(|it| *it != 0));
            let used: Vec<usize> = used.map(|it| it.0 * 4096).collect();
            used.iter()
                .step_by((used.len() / 12).max(1))
                .map(|at| {
                    let at = *at;
                    Box::new(move |path: &Path| {
                        let mut bytes = fs_err::read(path).unwrap();
                        let end = bytes.len().min(at + 4096);
                        bytes[at..end].fill(0);
                        fs_err::write(path, bytes).unwrap();
                    }) as Box<dyn Fn(&Path)>
                })
                .collect()
        });
        for name in ["FORMAT", "acknowledged", "db/db"] {
            assert!(refused.iter().any(|it| it == name), "{name}: {refused:?}");
        }
    }
}

/// An older copy of some of the files has good checksums everywhere.
#[test]
fn an_older_part_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let running = dir.path().join("running");
    let store = SledStore::open(&running).unwrap();
    commit(&store, launch(0)).unwrap();
    store.load().unwrap();
    let old = dir.path().join("old");
    copy(&running, &old);
    for n in 1..3 {
        commit(&store, launch(n)).unwrap();
        store.load().unwrap();
    }
    drop(store);
    let refused = after(&running, |folder| {
        fs_err::remove_dir_all(folder.join("db")).unwrap();
        copy(&old.join(FOLDER).join("db"), &folder.join("db"));
    });
    assert!(refused.unwrap_err().contains("was acknowledged"));
}
