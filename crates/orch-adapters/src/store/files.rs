//! The `Blobs` port: large results of batches, each a file of its own. They lie in the folder of the store, so that they
//! are restored, moved and locked with it.
//!
//! A file is the bytes and, after them, their checksum and a magic number, so that one that lost its end is known by any
//! reader and one that changed by those who read all of it.

use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use orch_core::ports::blobs::{BlobPart, Blobs};
use orch_core::ports::store::StoreError;
use orch_domain::name::BatchId;
use parking_lot::{RwLock, RwLockReadGuard};

use super::SledStore;
use super::error::OpenError;
use super::layout::{set_private, sync_folder};

const MAGIC: [u8; 4] = *b"mor1";
/// Checksum and magic number.
const TAIL: u64 = 8;
const MAX_NAME: usize = 128;
/// Ends the names of files that are being written. No name of a result has two dots in a row.
const PARTIAL: &str = "..partial";

pub(super) struct Files {
    folder: PathBuf,
    /// Held by whoever needs that none is removed.
    removal: RwLock<()>,
    n_partial: AtomicU64,
}

impl Files {
    pub(super) fn new(folder: PathBuf) -> Files {
        Files { folder, removal: RwLock::new(()), n_partial: AtomicU64::new(0) }
    }

    fn of(&self, batch: &BatchId) -> PathBuf {
        self.folder.join(batch.as_str())
    }

    fn path(&self, batch: &BatchId, name: &str) -> Result<PathBuf, StoreError> {
        if !is_name(name) {
            let what = format!("`{name}` is no name of a result");
            return Err(io_error(io::Error::new(io::ErrorKind::InvalidInput, what)));
        }
        Ok(self.of(batch).join(name))
    }

    /// None of them is removed for as long as the guard is held.
    pub(super) fn keep(&self) -> RwLockReadGuard<'_, ()> {
        self.removal.read()
    }

    /// Whole files of a batch, by name.
    pub(super) fn names(&self, batch: &BatchId) -> io::Result<Vec<String>> {
        let entries = match fs_err::read_dir(self.of(batch)) {
            Ok(it) => it,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(err) => return Err(err),
        };
        let mut names = Vec::new();
        for entry in entries {
            names.extend(entry?.file_name().into_string().ok().filter(|it| is_name(it)));
        }
        names.sort();
        Ok(names)
    }

    pub(super) fn open(&self, batch: &BatchId, name: &str) -> io::Result<fs_err::File> {
        fs_err::File::open(self.of(batch).join(name))
    }

    pub(super) fn put(&self, batch: &BatchId, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.path(batch, name)?;
        make_folder(&self.folder).and_then(|()| make_folder(&self.of(batch))).map_err(io_error)?;
        let number = self.n_partial.fetch_add(1, Ordering::Relaxed);
        let partial = self.of(batch).join(format!("{name}.{number}{PARTIAL}"));
        let put = write_whole(&partial, bytes)
            .and_then(|()| fs_err::rename(&partial, &path))
            .and_then(|()| sync_folder(&self.of(batch)));
        put.map_err(|err| {
            // The room it took is what others need now.
            drop(fs_err::remove_file(&partial));
            io_error(err)
        })
    }

    pub(super) fn get(&self, batch: &BatchId, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.path(batch, name)?;
        let mut bytes = match fs_err::read(&path) {
            Ok(it) => it,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(err) => return Err(io_error(err)),
        };
        let body = bytes.len().checked_sub(TAIL as usize);
        let body = body.ok_or_else(|| damaged(batch, name))?;
        if bytes[body..] != tail_of(crc32fast::hash(&bytes[..body])) {
            return Err(damaged(batch, name));
        }
        bytes.truncate(body);
        Ok(Some(bytes))
    }

    pub(super) fn part(
        &self,
        batch: &BatchId,
        name: &str,
        offset: u64,
        max_bytes: usize,
    ) -> Result<Option<BlobPart>, StoreError> {
        let path = self.path(batch, name)?;
        let file = match fs_err::File::open(&path) {
            Ok(it) => it,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(err) => return Err(io_error(err)),
        };
        let read = read_part(file, offset, max_bytes.max(4)).map_err(io_error)?;
        read.ok_or_else(|| damaged(batch, name))
    }

    pub(super) fn forget(&self, batch: &BatchId) -> Result<(), StoreError> {
        let _removal = self.removal.write();
        match fs_err::remove_dir_all(self.of(batch)) {
            Ok(()) => sync_folder(&self.folder).map_err(io_error),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(err) => Err(io_error(err)),
        }
    }

    fn sweep(&self, keep: &[BatchId]) -> Result<usize, StoreError> {
        let _removal = self.removal.write();
        let entries = match fs_err::read_dir(&self.folder) {
            Ok(it) => it,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(err) => return Err(io_error(err)),
        };
        let mut n_removed = 0;
        for entry in entries {
            let entry = entry.map_err(io_error)?;
            let is_kept = keep.iter().any(|it| entry.file_name() == it.as_str());
            if is_kept {
                sweep_partial(&entry.path()).map_err(io_error)?;
            } else {
                fs_err::remove_dir_all(entry.path()).map_err(io_error)?;
                n_removed += 1;
            }
        }
        Ok(n_removed)
    }
}

/// A file that comes back from a backup, into a folder that nobody else knows yet.
pub(super) struct Restored {
    file: fs_err::File,
    folder: PathBuf,
}

impl Restored {
    pub(super) fn create(folder: &Path, batch: &BatchId, name: &str) -> io::Result<Restored> {
        if !is_name(name) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "no name of a result"));
        }
        let of_batch = folder.join(batch.as_str());
        make_folder(folder)?;
        make_folder(&of_batch)?;
        Ok(Restored { file: create_private(&of_batch.join(name))?, folder: of_batch })
    }

    pub(super) fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    pub(super) fn finish(self) -> io::Result<()> {
        self.file.sync_all()?;
        sync_folder(&self.folder)
    }
}

fn is_name(name: &str) -> bool {
    name.len() <= MAX_NAME
        && name.starts_with(|it: char| it.is_ascii_alphanumeric())
        && name.bytes().all(|it| it.is_ascii_alphanumeric() || matches!(it, b'-' | b'_' | b'.'))
        && !name.contains("..")
}

fn make_folder(path: &Path) -> io::Result<()> {
    match fs_err::create_dir(path) {
        Ok(()) => {
            set_private(path, 0o700)?;
            path.parent().map_or(Ok(()), sync_folder)
        }
        Err(err) if err.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(err) => Err(err),
    }
}

fn create_private(path: &Path) -> io::Result<fs_err::File> {
    use fs_err::os::unix::fs::OpenOptionsExt;
    fs_err::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = create_private(path)?;
    file.write_all(bytes)?;
    file.write_all(&tail_of(crc32fast::hash(bytes)))?;
    file.sync_all()
}

fn tail_of(checksum: u32) -> [u8; TAIL as usize] {
    let mut tail = [0; TAIL as usize];
    tail[..4].copy_from_slice(&checksum.to_le_bytes());
    tail[4..].copy_from_slice(&MAGIC);
    tail
}

/// The outer None: the file is damaged. The inner: it does not reach that far.
fn read_part(
    file: fs_err::File,
    offset: u64,
    max_bytes: usize,
) -> io::Result<Option<Option<BlobPart>>> {
    let (mut file, _) = file.into_parts();
    let Some(total) = file.metadata()?.len().checked_sub(TAIL) else { return Ok(None) };
    let mut tail = [0; TAIL as usize];
    file.read_exact_at(&mut tail, total)?;
    if tail[4..] != MAGIC {
        return Ok(None);
    }
    if offset == 0 && tail != tail_of(checksum_of(&mut file, total)?) {
        return Ok(None);
    }
    if total < offset || (offset == total && total != 0) {
        return Ok(Some(None));
    }
    let n_left = usize::try_from(total - offset).unwrap_or(usize::MAX);
    let mut bytes = vec![0; n_left.min(max_bytes)];
    file.read_exact_at(&mut bytes, offset)?;
    if bytes.len() < n_left {
        // A character begins at the last byte that does not go on with one; it comes whole or with the next part.
        let is_inside = |it: &u8| it & 0b1100_0000 == 0b1000_0000;
        let mut after = [0];
        file.read_exact_at(&mut after, offset + bytes.len() as u64)?;
        if is_inside(&after[0]) {
            let begin = bytes.iter().rposition(|it| !is_inside(it)).filter(|it| *it != 0);
            bytes.truncate(begin.unwrap_or(bytes.len()));
        }
    }
    let end = offset + bytes.len() as u64;
    let text = match String::from_utf8(bytes) {
        Ok(it) => it,
        Err(err) => String::from_utf8_lossy(err.as_bytes()).into_owned(),
    };
    Ok(Some(Some(BlobPart { text, next: (end < total).then_some(end), total })))
}

fn checksum_of(file: &mut std::fs::File, len: u64) -> io::Result<u32> {
    let mut hasher = crc32fast::Hasher::new();
    let mut bytes = vec![0; 64 << 10];
    let mut rest = file.take(len);
    loop {
        match rest.read(&mut bytes)? {
            0 => return Ok(hasher.finalize()),
            n => hasher.update(&bytes[..n]),
        }
    }
}

fn sweep_partial(folder: &Path) -> io::Result<()> {
    for entry in fs_err::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().ends_with(PARTIAL) {
            fs_err::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn io_error(err: io::Error) -> StoreError {
    OpenError::from(err).into()
}

fn damaged(batch: &BatchId, name: &str) -> StoreError {
    StoreError::Corrupt { what: format!("the large result `{name}` of batch `{batch}`") }
}

impl Blobs for SledStore {
    fn put(&self, batch: &BatchId, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.files.put(batch, name, bytes)
    }

    fn get(&self, batch: &BatchId, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.files.get(batch, name)
    }

    fn part(
        &self,
        batch: &BatchId,
        name: &str,
        offset: u64,
        max_bytes: usize,
    ) -> Result<Option<BlobPart>, StoreError> {
        self.files.part(batch, name, offset, max_bytes)
    }

    fn forget(&self, batch: &BatchId) -> Result<(), StoreError> {
        self.files.forget(batch)
    }

    fn sweep(&self, keep: &[BatchId]) -> Result<usize, StoreError> {
        self.files.sweep(keep)
    }
}
