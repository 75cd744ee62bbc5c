//! What is done to a table as a whole, in the open transaction: the end of a sweep, compaction of
//! the history, and removing everything.

use highwater_core::{Committed, Fence, Plan, Result, TableName, TablePlan, WriteMode};
use highwater_sql::merge::{self, Counts};
use highwater_sql::{Dialect, clear, ddl, derived, sweep};
use rusqlite::{Connection, params};

use crate::catalog;
use crate::config::Location;
use crate::connection::explain;
use crate::dialect::SqliteDialect;
use crate::schema::{identity_of, instant_text};
use crate::writer::first_sequence;
use crate::{rebuild, store};

/// Makes the table of the keys that a sweep sees, empty unless this run has made it. `made` says
/// that it has, and that keys were committed into it.
///
/// # Errors
/// `Transient` when keys that were seen are gone.
pub(crate) fn remember_keys(
    connection: &Connection,
    location: &Location,
    plan: &Plan,
    table: &TablePlan,
    made: bool,
) -> Result<()> {
    let failed = |error| explain(error, &location.path);
    let seen = derived::seen(table, &plan.sync, &SqliteDialect);
    let token = identity_of(plan);
    let found = catalog::identity(connection, &seen.name.name).map_err(failed)?;
    if found.as_deref() == Some(&token) {
        return Ok(());
    }
    if made {
        return Err(sweep::lost(table, &seen.name));
    }
    forget_keys(connection, &plan.sync, table).map_err(failed)?;
    for statement in ddl::create_table(&SqliteDialect, &seen, Some(&token))? {
        connection.execute_batch(&statement).map_err(failed)?;
    }
    Ok(())
}

fn forget_keys(connection: &Connection, sync: &str, table: &TablePlan) -> rusqlite::Result<()> {
    let seen = SqliteDialect.table(&derived::seen(table, sync, &SqliteDialect).name);
    connection.execute_batch(&format!("DROP TABLE IF EXISTS {seen}"))
}

/// Deletes the rows that a sweep did not bring; returns how many. Called once per run. `made` is
/// that of [`remember_keys`].
pub(crate) fn end_sweep(
    connection: &Connection,
    location: &Location,
    plan: &Plan,
    table: &TablePlan,
    fence: &Fence,
    made: bool,
) -> Result<u64> {
    let failed = |error| explain(error, &location.path);
    let seen = derived::seen(table, &plan.sync, &SqliteDialect).name.name;
    let is_there = catalog::identity(connection, &seen).map_err(failed)?;
    if is_there.as_deref() != Some(&identity_of(plan)) {
        if !plan.state_with_data {
            // It may have been done already.
            return Ok(0);
        }
        // Where the run has committed nothing, nothing was brought.
        remember_keys(connection, location, plan, table, made)?;
    }
    let now = instant_text(plan.started_at)?;
    let deleted = (|| {
        let first = first_sequence(connection, table, plan.state_with_data.then_some(fence))?;
        let mut deleted = 0;
        for step in sweep::steps(&SqliteDialect, plan, table, str::to_owned) {
            let affected = match step.parameters {
                true => connection.execute(&step.sql, params![first, now])?,
                false => connection.execute(&step.sql, [])?,
            };
            if step.counts == Counts::Deleted {
                deleted += affected as u64;
            }
        }
        forget_keys(connection, &plan.sync, table)?;
        Ok(deleted)
    })();
    let deleted = deleted.map_err(|error| failed(error).context("table", table.name()))?;
    check_deleted(connection, location, plan, table, deleted)?;
    Ok(deleted)
}

/// Whether so many rows may have gone in the open transaction.
///
/// # Errors
/// `Data` where they may not: the transaction must not be committed.
pub(crate) fn check_deleted(
    connection: &Connection,
    location: &Location,
    plan: &Plan,
    table: &TablePlan,
    deleted: u64,
) -> Result<()> {
    if deleted == 0 || !table.guards_deletes {
        return Ok(());
    }
    let count = sweep::rows_left(&SqliteDialect, plan, table);
    let left: i64 = connection
        .query_row(&count, [], |row| row.get(0))
        .map_err(|error| explain(error, &location.path))?;
    table.check_deletes(deleted, left.unsigned_abs())
}

/// Leaves the latest record of each key in the history; returns how many records went.
pub(crate) fn compact(connection: &Connection, table: &TablePlan) -> rusqlite::Result<u64> {
    let history = derived::history(table, &SqliteDialect).name.name;
    if table.write_mode != WriteMode::AppendDedup
        || catalog::relation(connection, &history)?.is_none()
    {
        return Ok(0);
    }
    let removed = connection.execute(&merge::compact_history(&SqliteDialect, table), [])?;
    Ok(removed as u64)
}

/// Removes every row of the sync from a table and all that belongs to it; the state is forgotten too where it is
/// kept here.
pub(crate) fn clear(
    connection: &Connection,
    plan: &Plan,
    table: &TablePlan,
    fence: &Fence,
) -> rusqlite::Result<Committed> {
    let mut committed = Committed::default();
    let mut there = Vec::new();
    for part in derived::all(table, &SqliteDialect) {
        if catalog::relation(connection, &part.name.name)?.is_some() {
            there.push(part.name);
        }
    }
    let exists = |name: &TableName| there.contains(name);
    for (name, statement) in clear::statements(&SqliteDialect, plan, table, exists) {
        let rows = connection.execute(&statement, [])? as u64;
        committed.deleted += if name == table.target.name { rows } else { 0 };
    }
    rebuild::discard(connection, &plan.sync, table)?;
    forget_keys(connection, &plan.sync, table)?;
    if plan.state_with_data {
        store::forget(connection, fence, table.name())?;
    }
    Ok(committed)
}
