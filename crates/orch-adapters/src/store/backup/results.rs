//! Large results in a backup: each file as it is, in pieces that fit a line.

use std::collections::HashSet;
use std::io::{self, Read};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use orch_domain::name::BatchId;
use serde::{Deserialize, Serialize};

use super::super::batches;
use super::super::error::Failure;
use super::super::files::{Files, Restored};
use super::super::tables::Tables;

/// Bytes of one line, before they are written as base64.
const PIECE: usize = 192 << 10;

/// Of one file, from its first piece to its last without another in between.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Piece {
    result: String,
    batch: String,
    bytes: String,
    pub(super) is_last: bool,
}

impl Piece {
    /// None: the line is about something else.
    pub(super) fn of_line(line: &[u8]) -> Option<Piece> {
        if line.starts_with(b"{\"result\":") { serde_json::from_slice(line).ok() } else { None }
    }
}

/// The files that belong to batches of these tables. Those of forgotten ones go with them.
pub(super) fn list(tables: &Tables, files: &Files) -> Result<Vec<(BatchId, String)>, Failure> {
    let mut all = Vec::new();
    for batch in batches::ids(tables)? {
        let names: HashSet<String> = files.names(&batch)?.into_iter().collect();
        for name in batches::names_of_large_results(tables, &batch)? {
            if !names.contains(&name) {
                tracing::warn!(%batch, %name, "a large result is lost, and not in the backup");
            }
        }
        let mut names: Vec<String> = names.into_iter().collect();
        names.sort();
        all.extend(names.into_iter().map(|it| (batch.clone(), it)));
    }
    Ok(all)
}

pub(super) fn write(
    files: &Files,
    batch: &BatchId,
    name: &str,
    mut put: impl FnMut(&mut Vec<u8>) -> io::Result<()>,
) -> io::Result<()> {
    let mut file = files.open(batch, name)?;
    let mut line = Vec::new();
    let mut bytes = Vec::with_capacity(PIECE);
    loop {
        bytes.clear();
        Read::by_ref(&mut file).take(PIECE as u64).read_to_end(&mut bytes)?;
        let piece = Piece {
            result: name.to_owned(),
            batch: batch.to_string(),
            bytes: STANDARD.encode(&bytes),
            // A file of just so many bytes ends with an empty piece.
            is_last: bytes.len() < PIECE,
        };
        line.clear();
        serde_json::to_writer(&mut line, &piece)?;
        put(&mut line)?;
        if piece.is_last {
            return Ok(());
        }
    }
}

/// Puts files together from their pieces.
#[derive(Default)]
pub(super) struct Joined {
    open: Option<Restored>,
}

impl Joined {
    pub(super) fn add(&mut self, folder: &Path, piece: &Piece) -> io::Result<()> {
        let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
        let bytes = STANDARD.decode(&piece.bytes).map_err(|err| invalid(err.to_string()))?;
        let mut file = match self.open.take() {
            Some(it) => it,
            None => {
                let batch =
                    BatchId::try_new(&piece.batch).map_err(|err| invalid(err.to_string()))?;
                Restored::create(folder, &batch, &piece.result)?
            }
        };
        file.write_all(&bytes)?;
        if piece.is_last {
            file.finish()?;
        } else {
            self.open = Some(file);
        }
        Ok(())
    }
}
