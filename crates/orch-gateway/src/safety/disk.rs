//! Small files that are whole or not there, readable by their owner alone.

use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use serde::de::DeserializeOwned;

/// Whether a file has to survive that the machine stops, and not only that this process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    Process,
    Machine,
}

/// None: it is not there.
pub fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs_err::read(path) {
        Ok(it) => Ok(Some(serde_json::from_slice(&it)?)),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(err) => Err(err),
    }
}

/// Puts the file in the place of what is there, in one step. One writer a file.
pub fn replace(path: &Path, bytes: &[u8], durability: Durability) -> io::Result<()> {
    let new = path.with_extension("new");
    write_new(&new, bytes, durability)?;
    fs_err::rename(&new, path)?;
    if durability == Durability::Machine
        && let Some(dir) = path.parent()
    {
        fs_err::File::open(dir)?.sync_all()?;
    }
    Ok(())
}

fn write_new(path: &Path, bytes: &[u8], durability: Durability) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    let mut options = std::fs::OpenOptions::new();
    let mut out = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
    out.write_all(bytes)?;
    if durability == Durability::Machine { out.sync_all() } else { Ok(()) }
}

/// It may be gone already.
pub fn remove(path: &Path) {
    if let Err(err) = fs_err::remove_file(path)
        && err.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!("{err}");
    }
}
