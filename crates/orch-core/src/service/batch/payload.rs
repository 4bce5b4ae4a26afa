//! Results as steps leave them: in a row, or in a file of their own where they are large.

use std::sync::Arc;

use orch_domain::Error;
use orch_domain::batch::{Kept, Part};
use orch_domain::name::BatchId;
use serde_json::Value;

use crate::Orch;
use crate::ports::store::StoreError;

/// Bytes of JSON that a row may have; more is a file.
pub(super) const MAX_INLINE: usize = 256 * 1024;
/// Bytes of results that a batch keeps in memory for steps to come. What is beyond is read again when it is needed.
pub(super) const MAX_HELD: usize = 64 << 20;

/// Where the result of a part is while its batch runs.
#[derive(Clone, Debug)]
pub(super) enum Held {
    Memory(Arc<Value>),
    /// In the row.
    Stored(Part),
    Large {
        name: String,
    },
}

/// About the bytes of its JSON, without writing it.
pub(super) fn weigh(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) => 5,
        Value::Number(_) => 8,
        Value::String(it) => it.len() + 2,
        Value::Array(it) => 2 + it.iter().map(|it| 1 + weigh(it)).sum::<usize>(),
        Value::Object(it) => {
            2 + it.iter().map(|(key, it)| key.len() + 4 + weigh(it)).sum::<usize>()
        }
    }
}

fn name_of(part: Part) -> String {
    let element = part.element.map_or_else(String::new, |it| format!("-{it}"));
    let undo = if part.is_compensation { "-undo" } else { "" };
    format!("step-{}{element}{undo}.json", part.step)
}

impl Orch {
    /// Keeps a result as its size asks for.
    pub(super) async fn keep(
        self: &Arc<Orch>,
        batch: &BatchId,
        part: Part,
        value: &Arc<Value>,
    ) -> Result<Kept, Error> {
        if weigh(value) <= MAX_INLINE {
            return Ok(Kept::Inline(value.clone()));
        }
        let (orch, batch, value, name) =
            (self.clone(), batch.clone(), value.clone(), name_of(part));
        let put = move || {
            let bytes = serde_json::to_vec(&*value).map_err(Error::internal)?;
            orch.blobs.put(&batch, &name, &bytes).map_err(unkept)?;
            Ok(Kept::Large { name, n_bytes: bytes.len() as u64 })
        };
        tokio::task::spawn_blocking(put).await.map_err(Error::internal)?
    }

    /// The result again, wherever it is.
    pub(super) async fn fetch(
        self: &Arc<Orch>,
        batch: &BatchId,
        held: Held,
    ) -> Result<Option<Arc<Value>>, Error> {
        let (orch, batch) = (self.clone(), batch.clone());
        let name = match held {
            Held::Memory(it) => return Ok(Some(it)),
            Held::Large { name } => Some(name),
            Held::Stored(part) => {
                let (orch, batch) = (orch.clone(), batch.clone());
                let read = move || orch.ledger.store().batch_run(&batch, part);
                let run = tokio::task::spawn_blocking(read).await.map_err(Error::internal)?;
                match run.map_err(unkept)?.and_then(|it| it.result) {
                    Some(Kept::Inline(it)) => return Ok(Some(it)),
                    Some(Kept::Large { name, .. }) => Some(name),
                    None => None,
                }
            }
        };
        let Some(name) = name else { return Ok(None) };
        let read = move || orch.blobs.get(&batch, &name);
        let bytes = tokio::task::spawn_blocking(read).await.map_err(Error::internal)?;
        let Some(bytes) = bytes.map_err(unkept)? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(|it| Some(Arc::new(it))).map_err(Error::internal)
    }
}

pub(super) fn unkept(err: StoreError) -> Error {
    Error::Unavailable {
        message: format!(
            "a result could not be kept or read again: {err}; make room on the disk of the data directory, or ask for less"
        ),
        source: Some(Box::new(err)),
    }
}
