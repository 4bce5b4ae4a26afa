//! What lies where in the folder of the store, what is there before the first commit, and what has to be there after it.
//!
//! sled makes a missing database anew and cuts off a damaged tail, both silently. So there is evidence beside it: `FORMAT`
//! says that a database must be here, and `acknowledged` holds the sequence number of the last commit that was answered for.

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::OpenError;
use super::journal::Journal;

const FORMAT: u32 = 1;

pub(super) struct Layout {
    folder: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing, or a start that was never finished and acknowledged nothing.
    Fresh,
    Ready,
}

#[derive(Serialize, Deserialize)]
struct FormatFile {
    format: u32,
    /// False while the first start is making the database.
    ready: bool,
    /// Of the two above, so that a changed bit is not taken for another version.
    checksum: u32,
}

impl FormatFile {
    fn new(format: u32, ready: bool) -> FormatFile {
        let checksum = crc32fast::hash(format!("{format} {ready}").as_bytes());
        FormatFile { format, ready, checksum }
    }
}

impl Layout {
    pub(super) fn new(folder: &Path) -> Layout {
        Layout { folder: folder.to_owned() }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn sled(&self) -> PathBuf {
        self.folder.join("db")
    }

    /// The one file that sled keeps its log in.
    pub(super) fn sled_log(&self) -> PathBuf {
        self.sled().join("db")
    }

    pub(super) fn journal(&self) -> PathBuf {
        self.folder.join("journal")
    }

    /// Large results of batches.
    pub(super) fn results(&self) -> PathBuf {
        self.folder.join("results")
    }

    fn format(&self) -> PathBuf {
        self.folder.join("FORMAT")
    }

    fn acknowledged(&self) -> PathBuf {
        self.folder.join("acknowledged")
    }

    /// Held as long as the store is open. Never removed: another process may be about to lock it.
    pub(super) fn lock(&self) -> Result<File, OpenError> {
        fs_err::create_dir_all(&self.folder)?;
        set_private(&self.folder, 0o700)?;
        let path = self.folder.join("lock");
        let file = fs_err::OpenOptions::new().create(true).append(true).open(path)?;
        let (file, _) = file.into_parts();
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => {
                Err(OpenError::InUse { folder: self.folder.display().to_string() })
            }
            Err(TryLockError::Error(err)) => Err(err.into()),
        }
    }

    /// Looks before sled does, which would make what is missing.
    pub(super) fn inspect(&self) -> Result<Found, OpenError> {
        let text = match fs_err::read(self.format()) {
            Ok(it) => it,
            Err(err) if err.kind() == io::ErrorKind::NotFound => {
                let is_empty = [self.sled(), self.journal(), self.acknowledged()]
                    .iter()
                    .all(|it| !it.exists());
                if is_empty {
                    return Ok(Found::Fresh);
                }
                return Err(self.damaged("the file `FORMAT` is missing beside the database"));
            }
            Err(err) => return Err(err.into()),
        };
        let file = serde_json::from_slice::<FormatFile>(&text)
            .ok()
            .filter(|it| it.checksum == FormatFile::new(it.format, it.ready).checksum)
            .ok_or_else(|| self.damaged("the file `FORMAT` is not readable"))?;
        if FORMAT < file.format {
            return Err(OpenError::NewerSchema { found: file.format, known: FORMAT });
        }
        if !file.ready {
            return Ok(Found::Fresh);
        }
        for path in [self.sled_log(), self.sled().join("conf"), self.journal(), self.acknowledged()]
        {
            if !path.exists() {
                let name = path.strip_prefix(&self.folder).unwrap_or(&path).display().to_string();
                return Err(self.damaged(&format!("the file `{name}` is missing")));
            }
        }
        Ok(Found::Ready)
    }

    /// Clears what an unfinished start left, and marks that one is under way.
    pub(super) fn begin(&self) -> io::Result<()> {
        self.write_format(false)?;
        for path in [self.sled(), self.journal(), self.acknowledged()] {
            if path.is_dir() {
                fs_err::remove_dir_all(&path)?;
            } else if path.exists() {
                fs_err::remove_file(&path)?;
            }
        }
        Journal::create(&self.journal())?;
        let file = fs_err::File::create(self.acknowledged())?;
        file.file().write_all_at(&Acknowledged::encode(0), 0)?;
        file.sync_all()
    }

    /// From here on a missing or empty database is damage.
    pub(super) fn finish(&self) -> io::Result<()> {
        sync_folder(&self.sled())?;
        self.write_format(true)
    }

    fn write_format(&self, ready: bool) -> io::Result<()> {
        let text = serde_json::to_vec(&FormatFile::new(FORMAT, ready))?;
        let path = self.folder.join("FORMAT.new");
        fs_err::write(&path, text)?;
        fs_err::File::open(&path)?.sync_all()?;
        fs_err::rename(&path, self.format())?;
        sync_folder(&self.folder)
    }

    pub(super) fn open_acknowledged(&self) -> Result<Acknowledged, OpenError> {
        let file = fs_err::OpenOptions::new().read(true).write(true).open(self.acknowledged())?;
        let mut bytes = [0; Acknowledged::LEN];
        let (file, _) = file.into_parts();
        let sequence = match file.read_exact_at(&mut bytes, 0) {
            Ok(()) => Acknowledged::decode(bytes),
            Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => None,
            Err(err) => return Err(err.into()),
        };
        match sequence {
            Some(sequence) => Ok(Acknowledged { file, sequence }),
            None => Err(self.damaged("the file `acknowledged` is not readable")),
        }
    }

    pub(super) fn damaged(&self, what: &str) -> OpenError {
        OpenError::Corrupt { what: what.to_owned(), folder: self.folder.display().to_string() }
    }
}

/// The last sequence number answered for. Written after each commit and before its answer, but synced at checkpoints only: a
/// killed process leaves it exact, and after a loss of power it may be older than the truth but never newer.
pub(super) struct Acknowledged {
    file: File,
    pub(super) sequence: u64,
}

impl Acknowledged {
    const LEN: usize = 12;

    pub(super) fn set(&mut self, sequence: u64) -> io::Result<()> {
        self.file.write_all_at(&Acknowledged::encode(sequence), 0)?;
        self.sequence = sequence;
        Ok(())
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn encode(sequence: u64) -> [u8; Acknowledged::LEN] {
        let mut bytes = [0; Acknowledged::LEN];
        bytes[..8].copy_from_slice(&sequence.to_le_bytes());
        bytes[8..].copy_from_slice(&crc32fast::hash(&sequence.to_le_bytes()).to_le_bytes());
        bytes
    }

    fn decode(bytes: [u8; Acknowledged::LEN]) -> Option<u64> {
        let [a, b, c, d, e, f, g, h, checksum @ ..] = bytes;
        let sequence = [a, b, c, d, e, f, g, h];
        (u32::from_le_bytes(checksum) == crc32fast::hash(&sequence))
            .then(|| u64::from_le_bytes(sequence))
    }
}

pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    fs_err::File::open(path)?.sync_all()
}

pub(super) fn set_private(path: &Path, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs_err::set_permissions(path, std::fs::Permissions::from_mode(mode))
}
