//! What can go wrong, in the words of the port, and how sled's failures become that.

use std::io;

use orch_core::ports::store::StoreError;

/// Why the store does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the database in `{folder}` is in use by another process")]
    InUse { folder: String },
    #[error(
        "the database in `{folder}` is damaged: {what}\n\nhint: nothing was changed or begun anew; move the folder away \
         and run `mcp-orch restore FILE` with your last backup"
    )]
    Corrupt { what: String, folder: String },
    #[error(
        "the database was written by a newer version (schema {found}, this one knows up to {known})\n\nhint: install \
         that version again, or `mcp-orch restore FILE` a backup made by this one into an empty data directory"
    )]
    NewerSchema { found: u32, known: u32 },
    #[error("the disk of the data directory is full")]
    DiskFull { source: io::Error },
    #[error("the database could not be opened")]
    Io { source: io::Error },
    #[error("no random numbers for the identity of this controller")]
    Random { source: io::Error },
}

impl From<io::Error> for OpenError {
    fn from(source: io::Error) -> OpenError {
        if is_full(&source) { OpenError::DiskFull { source } } else { OpenError::Io { source } }
    }
}

impl From<OpenError> for StoreError {
    fn from(err: OpenError) -> StoreError {
        match err {
            OpenError::Corrupt { what, folder } => StoreError::Corrupt {
                what: format!(
                    "{what}\n\nhint: move `{folder}` away and run `mcp-orch restore FILE` with your last backup"
                ),
            },
            OpenError::NewerSchema { found, known } => StoreError::NewerSchema { found, known },
            OpenError::DiskFull { source } => StoreError::DiskFull { source: source.into() },
            other => StoreError::Io { source: other.into() },
        }
    }
}

/// A failure below, before it is known which folder it is about.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Found before anything was begun.
    #[error("too little room on the disk for the tables")]
    NoRoom,
    #[error("{0}")]
    Damaged(String),
    #[error("schema {found} is newer than {known}")]
    NewerSchema { found: u32, known: u32 },
}

impl Failure {
    pub(super) fn open_error(self, folder: &std::path::Path) -> OpenError {
        match self {
            Failure::Io(err) => err.into(),
            Failure::NoRoom => OpenError::DiskFull {
                source: io::Error::new(io::ErrorKind::StorageFull, self.to_string()),
            },
            Failure::Damaged(what) => {
                OpenError::Corrupt { what, folder: folder.display().to_string() }
            }
            Failure::NewerSchema { found, known } => OpenError::NewerSchema { found, known },
        }
    }

    /// The same failure for one more caller; `io::Error` cannot be cloned.
    pub(super) fn again(&self) -> Failure {
        match self {
            Failure::Io(err) => Failure::Io(io::Error::new(err.kind(), err.to_string())),
            Failure::NoRoom => Failure::NoRoom,
            Failure::Damaged(what) => Failure::Damaged(what.clone()),
            Failure::NewerSchema { found, known } => {
                Failure::NewerSchema { found: *found, known: *known }
            }
        }
    }
}

impl From<sled::Error> for Failure {
    fn from(err: sled::Error) -> Failure {
        match err {
            // A page or a header that ends before it should.
            sled::Error::Io(err) if err.kind() == io::ErrorKind::UnexpectedEof => {
                Failure::Damaged("a file of the database is shorter than it should be".to_owned())
            }
            sled::Error::Io(err) => Failure::Io(err),
            sled::Error::Corruption { .. } => {
                Failure::Damaged("a checksum inside the database does not match".to_owned())
            }
            other => Failure::Damaged(other.to_string()),
        }
    }
}

pub(super) fn is_full(err: &io::Error) -> bool {
    matches!(err.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// sled asserts where it finds what it does not expect. That must end in an error and not in the end of a thread.
pub(super) fn catching<T>(
    what: &str,
    run: impl FnOnce() -> Result<T, Failure>,
) -> Result<T, Failure> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let message = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no message");
        let message = orch_domain::text::excerpt(message, 200);
        Err(Failure::Damaged(format!("{what} found what it did not expect: {message}")))
    })
}
