//! Backup and restore. A backup is one file of JSON lines: what it is, every row as it is stored, the large results of
//! batches, and a digest of all that.

mod results;

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use orch_core::ports::store::StoreError;
use orch_domain::audit::AuditId;
use orch_domain::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::error::{Failure, OpenError};
use super::files::Files;
use super::layout::{Found, Layout, sync_folder};
use super::migration::SCHEMA;
use super::table::{Operations, Table};
use super::tables::{STATE, State, Tables};
use super::writer::Request;
use super::{FOLDER, SledStore};
use results::{Joined, Piece};

const FORMAT: &str = "mcp-orch backup 1";
/// How many bytes of rows are written in one go when restoring.
const CHUNK: usize = 256 << 10;

/// Why there is no backup, or nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("the file `{file}` could not be written or read")]
    File { file: String, source: io::Error },
    #[error("`{file}` is not a whole backup of mcp-orch: {what}")]
    NotABackup { file: String, what: String },
    #[error(
        "there is a database in `{folder}` already\n\nhint: restore into an empty data directory, or move that folder away"
    )]
    NotEmpty { folder: String },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// What was written or read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupSummary {
    pub created: Timestamp,
    /// Rows of each table, and the `large_results`.
    pub counts: BTreeMap<String, u64>,
}

#[derive(Serialize, Deserialize)]
struct Head {
    format: String,
    schema: u32,
    created: Timestamp,
    counts: BTreeMap<String, u64>,
    /// Files, which come after the rows.
    #[serde(default)]
    large_results: u64,
    last_audit: AuditId,
}

#[derive(Serialize, Deserialize)]
struct Line {
    table: String,
    /// Without the byte of the table, in hexadecimal.
    key: String,
    /// As it is stored, to the byte.
    row: Box<RawValue>,
}

impl Head {
    fn summary(self) -> BackupSummary {
        let mut counts = self.counts;
        counts.insert("large_results".to_owned(), self.large_results);
        BackupSummary { created: self.created, counts }
    }
}

#[derive(Serialize, Deserialize)]
struct Tail {
    sha256: String,
}

impl SledStore {
    /// Writes everything as of now into `file`, readable by its owner only. Commits go on meanwhile. The file is there
    /// whole or not at all, and replaces an older one.
    pub fn backup(&self, file: &Path, now: Timestamp) -> Result<BackupSummary, BackupError> {
        // What is removed from now on belongs to batches that the tables have as forgotten.
        let _kept = self.files.keep();
        self.ask(|reply| Request::Settle { reply })?;
        let partial = beside(file, ".partial");
        let failed = |source| BackupError::File { file: file.display().to_string(), source };
        let written = self.read(|tables| write(tables, &self.files, &partial, now));
        let written = match written {
            Ok(it) => it,
            Err(err) => {
                // Half a file is of no use to anybody; that it was not written is what the caller hears.
                drop(fs_err::remove_file(&partial));
                return Err(err.into());
            }
        };
        fs_err::rename(&partial, file).map_err(failed)?;
        sync_folder(&parent(file)).map_err(failed)?;
        Ok(written)
    }

    /// Makes the database of `data_dir` from a backup. There must be none yet; a file that is not whole changes nothing.
    pub fn restore(file: &Path, data_dir: &Path) -> Result<BackupSummary, BackupError> {
        let folder = data_dir.join(FOLDER);
        let not_empty = || BackupError::NotEmpty { folder: folder.display().to_string() };
        match Layout::new(&folder).inspect() {
            Ok(Found::Fresh) => {}
            Ok(Found::Ready) | Err(OpenError::Corrupt { .. } | OpenError::NewerSchema { .. }) => {
                return Err(not_empty());
            }
            Err(err) => return Err(err.into()),
        }
        let head = check(file)?;
        let making = data_dir.join(format!("{FOLDER}.restoring"));
        fs_err::create_dir_all(data_dir).map_err(OpenError::from)?;
        clear(&making)?;
        {
            let layout = Layout::new(&making);
            let _lock = layout.lock()?;
            layout.begin().map_err(OpenError::from)?;
            let schema = head.schema;
            let mut tables = Tables::create(&layout.sled(), State::new(schema))
                .map_err(|err| err.open_error(&making))?;
            fill(&mut tables, file, &layout)?;
            tables
                .apply(std::iter::empty(), |it| it.restore_last_audit(head.last_audit))
                .and_then(|()| tables.make_durable())
                .map_err(|err| err.open_error(&making))?;
            drop(tables);
            layout.finish().map_err(OpenError::from)?;
        }
        clear(&folder)?;
        fs_err::rename(&making, &folder).map_err(OpenError::from)?;
        sync_folder(data_dir).map_err(OpenError::from)?;
        Ok(head.summary())
    }
}

fn write(
    tables: &Tables,
    files: &Files,
    file: &Path,
    now: Timestamp,
) -> Result<BackupSummary, Failure> {
    use fs_err::os::unix::fs::OpenOptionsExt;
    let state = tables.state();
    let counts: BTreeMap<String, u64> =
        Table::ALL.iter().map(|it| (it.name().to_owned(), state.count(*it))).collect();
    let results = results::list(tables, files)?;
    let head = Head {
        format: FORMAT.to_owned(),
        schema: state.schema,
        created: now,
        counts,
        large_results: results.len() as u64,
        last_audit: state.last_audit(),
    };
    if file.exists() {
        fs_err::remove_file(file)?;
    }
    let out = fs_err::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
    let mut out = BufWriter::new(out);
    let mut digest = Sha256::new();
    let mut line = serde_json::to_vec(&head).map_err(io::Error::from)?;
    let mut put = |line: &mut Vec<u8>| {
        line.push(b'\n');
        digest.update(&*line);
        out.write_all(line)
    };
    put(&mut line)?;
    tables.each(b"", |key, row| {
        let Some(table) = Table::of_key(key).filter(|_| key != STATE) else { return Ok(true) };
        let row: Box<RawValue> = serde_json::from_slice(row).map_err(io::Error::from)?;
        let key = hex::encode(key.get(1..).unwrap_or_default());
        let it = Line { table: table.name().to_owned(), key, row };
        line.clear();
        serde_json::to_writer(&mut line, &it).map_err(io::Error::from)?;
        put(&mut line)?;
        Ok(true)
    })?;
    for (batch, name) in &results {
        results::write(files, batch, name, &mut put)?;
    }
    let tail = Tail { sha256: hex::encode(digest.finalize()) };
    serde_json::to_writer(&mut out, &tail).map_err(io::Error::from)?;
    out.write_all(b"\n")?;
    let out = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    out.sync_all()?;
    Ok(head.summary())
}

/// Reads all of the file, so that nothing is begun with one that is not whole.
fn check(file: &Path) -> Result<Head, BackupError> {
    let failed = |source| BackupError::File { file: file.display().to_string(), source };
    let wrong = |what: &str| BackupError::NotABackup {
        file: file.display().to_string(),
        what: what.to_owned(),
    };
    let mut input = BufReader::new(fs_err::File::open(file).map_err(failed)?);
    let mut line = Vec::new();
    input.read_until(b'\n', &mut line).map_err(failed)?;
    let head: Head =
        serde_json::from_slice(&line).map_err(|_| wrong("it does not begin as one"))?;
    if head.format != FORMAT {
        return Err(wrong("it is of a format that this version does not know"));
    }
    if SCHEMA < head.schema {
        return Err(OpenError::NewerSchema { found: head.schema, known: SCHEMA }.into());
    }
    let mut digest = Sha256::new();
    let (mut n_rows, mut n_results) = (0, 0);
    loop {
        digest.update(&line);
        line.clear();
        if input.read_until(b'\n', &mut line).map_err(failed)? == 0 {
            return Err(wrong("it ends early"));
        }
        if let Ok(tail) = serde_json::from_slice::<Tail>(&line) {
            let is_last = input.fill_buf().map_err(failed)?.is_empty() && line.ends_with(b"\n");
            if !is_last || tail.sha256 != hex::encode(digest.finalize()) {
                return Err(wrong("its digest does not match, so something in it was changed"));
            }
            break;
        }
        match Piece::of_line(&line) {
            Some(piece) => n_results += u64::from(piece.is_last),
            None => n_rows += 1,
        }
    }
    if n_results != head.large_results {
        return Err(wrong("it does not have as many large results as it says"));
    }
    if n_rows != head.counts.values().sum::<u64>() {
        return Err(wrong("it does not have as many rows as it says"));
    }
    Ok(head)
}

/// Writes the rows of a checked file.
fn fill(tables: &mut Tables, file: &Path, layout: &Layout) -> Result<(), BackupError> {
    let failed = |source| BackupError::File { file: file.display().to_string(), source };
    let wrong = |what: String| BackupError::NotABackup { file: file.display().to_string(), what };
    let mut operations = Operations::default();
    let mut joined = Joined::default();
    let mut lines = BufReader::new(fs_err::File::open(file).map_err(failed)?).lines().skip(1);
    loop {
        let line = lines.next().transpose().map_err(failed)?.unwrap_or_default();
        if let Some(piece) = Piece::of_line(line.as_bytes()) {
            joined.add(&layout.results(), &piece).map_err(OpenError::from)?;
            continue;
        }
        let line = match serde_json::from_str::<Line>(&line) {
            Ok(it) => Some(it),
            Err(_) if serde_json::from_str::<Tail>(&line).is_ok() => None,
            Err(err) => return Err(wrong(err.to_string())),
        };
        if let Some(Line { table, key, row }) = &line {
            let table = Table::named(table).ok_or_else(|| wrong(format!("table `{table}`")))?;
            let key = hex::decode(key).map_err(|err| wrong(err.to_string()))?;
            operations.push(&table.key(&key), Some(row)).map_err(|err| wrong(err.to_string()))?;
        }
        if line.is_none() || CHUNK < operations.bytes().len() {
            tables
                .apply(std::iter::once(operations.bytes()), |_| {})
                .map_err(|err| err.open_error(layout.folder()))?;
            operations = Operations::default();
        }
        if line.is_none() {
            return Ok(());
        }
    }
}

fn clear(folder: &Path) -> Result<(), OpenError> {
    if folder.exists() {
        fs_err::remove_dir_all(folder)?;
    }
    Ok(())
}

fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    file.with_file_name(name)
}

fn parent(file: &Path) -> PathBuf {
    match file.parent() {
        Some(it) if !it.as_os_str().is_empty() => it.to_owned(),
        _ => PathBuf::from("."),
    }
}
