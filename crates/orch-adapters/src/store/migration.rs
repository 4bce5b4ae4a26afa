//! From the schema that is stored to the one this version knows, one numbered step at a time. Each step becomes durable
//! together with its number, so that a start that is killed half-way goes on where it was.

use super::error::Failure;
use super::table::Operations;
use super::tables::Tables;

/// The schema that this version writes.
pub(super) const SCHEMA: u32 = 5;

pub(super) struct Migration {
    /// The schema afterwards; one more than before.
    pub(super) to: u32,
    /// What to change in rows of the schema before.
    pub(super) run: fn(&Tables) -> Result<Operations, Failure>,
}

/// In order and without gaps, up to `SCHEMA`.
pub(super) const MIGRATIONS: &[Migration] = &[
    // The table of events, which is empty at first. A number of its own, so that a version that does not know the table
    // says so and takes nothing for damage.
    Migration { to: 2, run: |_| Ok(Operations::default()) },
    // The table of logins at registries, for the same reason.
    Migration { to: 3, run: |_| Ok(Operations::default()) },
    // The table of grants at servers behind, for the same reason.
    Migration { to: 4, run: |_| Ok(Operations::default()) },
    // The tables of batches, for the same reason.
    Migration { to: 5, run: |_| Ok(Operations::default()) },
];

pub(super) fn migrate(tables: &mut Tables, migrations: &[Migration]) -> Result<(), Failure> {
    for migration in migrations {
        let from = tables.state().schema;
        if migration.to <= from {
            continue;
        }
        if migration.to != from + 1 {
            return Err(Failure::Damaged(format!("nothing leads from schema {from} to the next")));
        }
        let operations = (migration.run)(tables)?;
        tables.apply(std::iter::once(operations.bytes()), |it| it.schema = migration.to)?;
        tables.make_durable()?;
        tracing::info!(from, to = migration.to, "migrated the database");
    }
    Ok(())
}
