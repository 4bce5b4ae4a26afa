//! `backup` and `restore`: the whole state as one file.

use std::path::Path;

use anyhow::{Context, bail};
use serde_json::{Value, json};

use super::args::Globals;
use super::{ExitStatus, say};
use crate::app::data_dir::{DataDir, Locking};
use crate::app::database;
use crate::app::socket::{self, Control};
use crate::config::Env;

/// Through the running server, or from the directory itself when none runs.
pub(super) async fn backup(
    env: &dyn Env,
    globals: &Globals,
    file: &Path,
    force: bool,
) -> anyhow::Result<ExitStatus> {
    let data_dir = DataDir::open_existing(&globals.load(env)?)?;
    let file = std::path::absolute(file).context("the file has no absolute path")?;
    if !force && fs_err::symlink_metadata(&file).is_ok() {
        bail!(
            "`{}` is there already\nhint: choose another file, or replace it with `--force`",
            file.display()
        );
    }
    let counts = match data_dir.lock()? {
        Locking::Ours(_lock) => {
            json!(database::backup(data_dir.path(), &file)?.counts)
        }
        Locking::Held(_) => {
            let control = Control::Backup { file: file.clone() };
            let answer = socket::ask(&data_dir.socket(), &control).await?;
            let mut answer = answer.context("the running server does not answer on its socket")?;
            answer["counts"].take()
        }
    };
    say(format!("wrote `{}`: {}", file.display(), shown(&counts)));
    Ok(ExitStatus::Done)
}

/// Into a data directory that has no database yet and that nobody uses.
pub(super) async fn restore(
    env: &dyn Env,
    globals: &Globals,
    file: &Path,
) -> anyhow::Result<ExitStatus> {
    let data_dir = DataDir::open(&globals.load(env)?)?;
    let _lock = data_dir.lock_or_refuse()?;
    let restored = database::restore(file, data_dir.path())?;
    say(format!(
        "restored `{}` from `{}`, made {}: {}",
        data_dir.path().display(),
        file.display(),
        restored.created,
        shown(&json!(restored.counts)),
    ));
    Ok(ExitStatus::Done)
}

fn shown(counts: &Value) -> String {
    let counts = counts.as_object().into_iter().flatten();
    counts.map(|(table, n)| format!("{n} {table}")).collect::<Vec<_>>().join(", ")
}
