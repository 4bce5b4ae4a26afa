//! Rows of batches: their keys, what their changes do to them, and how they are read.
//!
//! A batch that is forgotten may have more rows than a commit should; so the commit only marks it, from when on nothing
//! answers it, and `forget.rs` removes its rows by and by.

use std::collections::HashSet;
use std::sync::Arc;

use orch_domain::batch::{Batch, BatchChange, Kept, Part, StepRun, StoredBatch};
use orch_domain::name::BatchId;
use orch_domain::plan::Step;

use super::error::Failure;
use super::stored::BadRow;
use super::stored::batch::{BatchV1, RunV1, StepV1};
use super::table::{Operations, Table, decode, shown_key};
use super::tables::Tables;

pub(super) fn batch_key(id: &BatchId) -> Vec<u8> {
    Table::Batches.key(id.as_str().as_bytes())
}

pub(super) fn forgotten_key(id: &BatchId) -> Vec<u8> {
    Table::ForgottenBatches.key(id.as_str().as_bytes())
}

/// Ids have no zero byte, so it ends them. Places sort as numbers.
fn step_key(id: &BatchId, place: u32) -> Vec<u8> {
    row_key(Table::BatchSteps, id, &place.to_be_bytes())
}

/// In the order of `Part`: by step, the step as a whole before its elements, what undoes a part after it.
fn run_key(id: &BatchId, part: Part) -> Vec<u8> {
    let mut rest = [0; 10];
    rest[..4].copy_from_slice(&part.step.to_be_bytes());
    if let Some(element) = part.element {
        rest[4] = 1;
        rest[5..9].copy_from_slice(&element.to_be_bytes());
    }
    rest[9] = part.is_compensation.into();
    row_key(Table::BatchRuns, id, &rest)
}

fn row_key(table: Table, id: &BatchId, rest: &[u8]) -> Vec<u8> {
    let id = id.as_str().as_bytes();
    let mut key = Vec::with_capacity(2 + id.len() + rest.len());
    key.push(table.prefix());
    key.extend_from_slice(id);
    key.push(0);
    key.extend_from_slice(rest);
    key
}

/// After every row of the batch in `table`.
fn end_key(table: Table, id: &BatchId) -> Vec<u8> {
    let mut key = row_key(table, id, &[]);
    if let Some(last) = key.last_mut() {
        *last = 1;
    }
    key
}

/// Whose row of steps or runs it is.
pub(super) fn batch_of_key(key: &[u8]) -> Option<BatchId> {
    let id = key.get(1..)?.split(|it| *it == 0).next()?;
    BatchId::try_new(std::str::from_utf8(id).ok()?).ok()
}

fn rest_of_key(key: &[u8]) -> Option<&[u8]> {
    let zero = key.iter().position(|it| *it == 0)?;
    key.get(zero + 1..)
}

fn place_of_key(key: &[u8]) -> Result<u32, BadRow> {
    let place: [u8; 4] = rest_of_key(key).and_then(|it| it.try_into().ok()).ok_or(BadRow::Key)?;
    Ok(u32::from_be_bytes(place))
}

fn part_of_key(key: &[u8]) -> Result<Part, BadRow> {
    let rest: [u8; 10] = rest_of_key(key).and_then(|it| it.try_into().ok()).ok_or(BadRow::Key)?;
    let [a, b, c, d, has_element, e, f, g, h, is_compensation] = rest;
    let element = match has_element {
        0 => None,
        1 => Some(u32::from_be_bytes([e, f, g, h])),
        _ => return Err(BadRow::Key),
    };
    let step = u32::from_be_bytes([a, b, c, d]);
    Ok(Part { step, element, is_compensation: is_compensation != 0 })
}

impl Operations {
    pub(super) fn push_batch(&mut self, change: &BatchChange) -> Result<(), serde_json::Error> {
        match change {
            BatchChange::Put(it) => self.push(&batch_key(&it.id), Some(&BatchV1::from(&**it))),
            BatchChange::Define { batch, place, step } => {
                self.push(&step_key(batch, *place), Some(&StepV1::from(step)))
            }
            BatchChange::Run { batch, run } => {
                self.push(&run_key(batch, run.part), Some(&RunV1::from(&**run)))
            }
            BatchChange::Forget(id) => {
                self.push(&forgotten_key(id), Some(&serde_json::Value::Object(Default::default())))
            }
        }
    }
}

/// Batches that are marked.
pub(super) fn forgotten(tables: &Tables) -> Result<Vec<BatchId>, Failure> {
    let mut ids = Vec::new();
    tables.each(&Table::ForgottenBatches.key(b""), |key, _| {
        ids.push(batch_of_key(key).ok_or_else(|| bad(key, &BadRow::Key))?);
        Ok(true)
    })?;
    Ok(ids)
}

/// Of batches that are not forgotten.
pub(super) fn ids(tables: &Tables) -> Result<Vec<BatchId>, Failure> {
    Ok(headers(tables)?.into_iter().map(|it| it.id).collect())
}

/// The files that rows of the batch name.
pub(super) fn names_of_large_results(
    tables: &Tables,
    id: &BatchId,
) -> Result<Vec<String>, Failure> {
    let mut names = Vec::new();
    tables.each(&row_key(Table::BatchRuns, id, &[]), |key, row| {
        let run = run(key, row).map_err(|err| bad(key, &err))?;
        if let Some(Kept::Large { name, .. }) = run.result {
            names.push(name);
        }
        Ok(true)
    })?;
    Ok(names)
}

fn is_there(tables: &Tables, id: &BatchId) -> Result<bool, Failure> {
    Ok(tables.get(&batch_key(id))?.is_some() && tables.get(&forgotten_key(id))?.is_none())
}

/// Oldest first, as their ids sort.
pub(super) fn headers(tables: &Tables) -> Result<Vec<Batch>, Failure> {
    let forgotten: HashSet<BatchId> = forgotten(tables)?.into_iter().collect();
    let mut headers = Vec::new();
    tables.each(&Table::Batches.key(b""), |key, row| {
        let batch: Batch = decode::<BatchV1, _>(row).map_err(|err| bad(key, &err))?;
        if !forgotten.contains(&batch.id) {
            headers.push(batch);
        }
        Ok(true)
    })?;
    Ok(headers)
}

pub(super) fn whole(tables: &Tables, id: &BatchId) -> Result<Option<StoredBatch>, Failure> {
    let key = batch_key(id);
    let Some(row) = tables.get(&key)? else { return Ok(None) };
    if !is_there(tables, id)? {
        return Ok(None);
    }
    let batch = decode::<BatchV1, _>(&row).map_err(|err| bad(&key, &err))?;
    let mut steps = Vec::new();
    for (place, step) in steps_from(tables, id, 0, usize::MAX)? {
        if place as usize != steps.len() {
            let what = format!("batch `{id}` has no step {} and has step {place}", steps.len());
            return Err(Failure::Damaged(what));
        }
        steps.push(step);
    }
    let runs = runs_from(tables, id, None, usize::MAX)?;
    Ok(Some(StoredBatch { batch, steps, runs }))
}

pub(super) fn steps_from(
    tables: &Tables,
    id: &BatchId,
    from: u32,
    limit: usize,
) -> Result<Vec<(u32, Arc<Step>)>, Failure> {
    let mut steps = Vec::new();
    if limit == 0 || !is_there(tables, id)? {
        return Ok(steps);
    }
    tables.each_from(&step_key(id, from), &end_key(Table::BatchSteps, id), |key, row| {
        let place = place_of_key(key).map_err(|err| bad(key, &err))?;
        steps.push((place, decode::<StepV1, _>(row).map_err(|err| bad(key, &err))?));
        Ok(steps.len() < limit)
    })?;
    Ok(steps)
}

pub(super) fn runs_from(
    tables: &Tables,
    id: &BatchId,
    from: Option<Part>,
    limit: usize,
) -> Result<Vec<StepRun>, Failure> {
    let mut runs = Vec::new();
    if limit == 0 || !is_there(tables, id)? {
        return Ok(runs);
    }
    let start = match from {
        Some(part) => run_key(id, part),
        None => row_key(Table::BatchRuns, id, &[]),
    };
    tables.each_from(&start, &end_key(Table::BatchRuns, id), |key, row| {
        runs.push(run(key, row).map_err(|err| bad(key, &err))?);
        Ok(runs.len() < limit)
    })?;
    Ok(runs)
}

pub(super) fn run_at(
    tables: &Tables,
    id: &BatchId,
    part: Part,
) -> Result<Option<StepRun>, Failure> {
    if !is_there(tables, id)? {
        return Ok(None);
    }
    let key = run_key(id, part);
    let row = tables.get(&key)?;
    row.map(|row| run(&key, &row).map_err(|err| bad(&key, &err))).transpose()
}

fn run(key: &[u8], row: &[u8]) -> Result<StepRun, BadRow> {
    Ok(serde_json::from_slice::<RunV1>(row)?.of(part_of_key(key)?))
}

/// At most `limit` keys of steps and runs of the batch after `after`, in the order of the keys.
pub(super) fn keys_of_rows(
    tables: &Tables,
    id: &BatchId,
    after: Option<&[u8]>,
    limit: usize,
) -> Result<Vec<Vec<u8>>, Failure> {
    let mut keys: Vec<Vec<u8>> = Vec::new();
    for table in [Table::BatchSteps, Table::BatchRuns] {
        let mut start = row_key(table, id, &[]);
        if let Some(after) = after {
            // The least key that is greater.
            start = start.max([after, &[0]].concat());
        }
        let end = end_key(table, id);
        if keys.len() < limit && start < end {
            tables.each_from(&start, &end, |key, _| {
                keys.push(key.to_vec());
                Ok(keys.len() < limit)
            })?;
        }
    }
    Ok(keys)
}

fn bad(key: &[u8], err: &BadRow) -> Failure {
    Failure::Damaged(format!("{}: {err}", shown_key(key)))
}

#[cfg(test)]
mod tests {
    use orch_domain::time::Timestamp;
    use proptest::prelude::*;

    use super::*;

    fn any_part() -> impl Strategy<Value = Part> {
        let number = || prop_oneof![0..3u32, Just(255), Just(256), any::<u32>()];
        (number(), proptest::option::of(number()), any::<bool>())
            .prop_map(|(step, element, is_compensation)| Part { step, element, is_compensation })
    }

    proptest! {
        #[test]
        fn keys_sort_as_their_parts_and_tell_them(a in any_part(), b in any_part()) {
            let id = BatchId::new(Timestamp::from_millis(1), 1);
            let (first, second) = (run_key(&id, a), run_key(&id, b));
            prop_assert_eq!(first.cmp(&second), a.cmp(&b));
            prop_assert_eq!(part_of_key(&first).unwrap(), a);
            let bounds = row_key(Table::BatchRuns, &id, &[])..end_key(Table::BatchRuns, &id);
            prop_assert!(bounds.contains(&first));
            let next = BatchId::new(Timestamp::from_millis(1), 2);
            prop_assert!(!bounds.contains(&run_key(&next, a)));
            prop_assert_eq!(batch_of_key(&first), Some(id.clone()));
            prop_assert_eq!(step_key(&id, a.step).cmp(&step_key(&id, b.step)), a.step.cmp(&b.step));
            prop_assert_eq!(place_of_key(&step_key(&id, a.step)).unwrap(), a.step);
        }
    }
}
