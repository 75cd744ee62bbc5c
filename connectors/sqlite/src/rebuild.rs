//! Rebuilds (`replace`, `replace-dedup`, a refresh that removes old rows): the rows are kept in
//! tables beside the user's, and take their place when the read is complete.
//!
//! The tables beside are marked with sync, generation and source table. An unfinished generation
//! is filled on by the next run; what another has left is dropped.

use highwater_core::{Fence, Plan, Result, State, Table, TablePlan, WriteMode};
use highwater_sql::rebuild::Beside;
use highwater_sql::{Dialect, ddl, derived, rebuild};
use rusqlite::Connection;
use rusqlite::ffi::ErrorCode;

use crate::catalog;
use crate::config::Location;
use crate::connection::explain;
use crate::dialect::SqliteDialect;
use crate::schema::identity_prefix;
use crate::source::described;
use crate::{store, types};

/// Makes the tables beside, empty unless this generation has begun them. `made` says that this
/// run has committed rows into them.
///
/// # Errors
/// `Schema` when the rows of this run do not fit what an earlier run has left, or that is gone.
pub(crate) fn ensure(
    connection: &Connection,
    location: &Location,
    plan: &Plan,
    table: &TablePlan,
    fence: &Fence,
    made: bool,
) -> Result<()> {
    let failed = |error| explain(error, &location.path);
    let beside = derived::beside(table, &plan.sync, &SqliteDialect);
    let mark = mark_of(connection, plan, &beside).map_err(failed)?;
    let begun = made
        || (plan.state_with_data
            && rebuild::is_begun(table, &store::state(connection, &fence.sync).map_err(failed)?));
    match rebuild::decide(mark.as_deref(), &plan.sync_id, table, begun) {
        Beside::Lost => return Err(rebuild::lost(table, &beside.target.name)),
        Beside::Keep | Beside::Fit if made => return Ok(()),
        Beside::Keep | Beside::Fit => fit(connection, location, &beside)?,
        Beside::Begin => drop_all(connection, &beside).map_err(failed)?,
    }
    let token = format!("{}{}", identity_prefix(&plan.sync), rebuild::mark(&plan.sync_id, table));
    for made in derived::all(&beside, &SqliteDialect) {
        // Those that are there stay; the write mode may need more than that of the run before.
        let statements = match table.write_mode {
            // The key comes after the swap, where the rows have one.
            WriteMode::Replace => {
                vec![ddl::create_table_without_key(&SqliteDialect, &made, Some(&token))?]
            }
            _ => ddl::create_table(&SqliteDialect, &made, Some(&token))?,
        };
        for statement in statements {
            connection.execute_batch(&statement).map_err(failed)?;
        }
    }
    Ok(())
}

/// The mark of the table beside, without what tells the sync; `None` for another sync's.
fn mark_of(
    connection: &Connection,
    plan: &Plan,
    table: &TablePlan,
) -> rusqlite::Result<Option<String>> {
    let identity = catalog::identity(connection, &table.target.name.name)?;
    let prefix = identity_prefix(&plan.sync);
    Ok(identity.and_then(|token| token.strip_prefix(&prefix).map(str::to_owned)))
}

/// Lets the rows of this run fit tables that an earlier run has made.
fn fit(connection: &Connection, location: &Location, beside: &TablePlan) -> Result<()> {
    let failed = |error| explain(error, &location.path);
    let found = described(connection, &beside.target.name.name).map_err(failed)?;
    let Some((_, present)) = found else { return Ok(()) };
    for change in rebuild::changes(beside, &present, types::stored_field)? {
        for statement in ddl::change(&SqliteDialect, beside, &change, None)? {
            connection.execute_batch(&statement).map_err(failed)?;
        }
    }
    Ok(())
}

fn drop_all(connection: &Connection, beside: &TablePlan) -> rusqlite::Result<()> {
    for made in derived::all(beside, &SqliteDialect) {
        let quoted = SqliteDialect.table(&made.name);
        connection.execute_batch(&format!("DROP TABLE IF EXISTS {quoted}"))?;
    }
    Ok(())
}

/// Puts the tables beside in the place of the user's, with the user's indexes and triggers.
/// Nothing if that has been done; `finished` says that the state knows, `made` that this run has
/// committed rows into them. Returns how many old rows went.
pub(crate) fn swap(
    connection: &Connection,
    location: &Location,
    plan: &Plan,
    table: &TablePlan,
    fence: &Fence,
    finished: bool,
    made: bool,
) -> Result<u64> {
    let failed = |error| explain(error, &location.path);
    let beside = derived::beside(table, &plan.sync, &SqliteDialect);
    let is_there = mark_of(connection, plan, &beside).map_err(failed)?.is_some();
    let in_place = || -> rusqlite::Result<bool> {
        let mark = mark_of(connection, plan, table)?;
        Ok(mark.is_some_and(|mark| rebuild::is_of(&mark, table)))
    };
    let done =
        if plan.state_with_data { finished } else { !is_there && in_place().map_err(failed)? };
    if done {
        return Ok(0);
    }
    // A read without a row has made nothing yet.
    ensure(connection, location, plan, table, fence, made)?;
    let removed = rows_of(connection, &table.target.name.name).map_err(failed)?;
    let pairs = derived::all(table, &SqliteDialect).into_iter();
    for (at, (made, from)) in pairs.zip(derived::all(&beside, &SqliteDialect)).enumerate() {
        let of_read = at > 0 && !derived::keeps_tombstones(table);
        let swapped = if of_read {
            let quoted = SqliteDialect.table(&from.name);
            connection.execute_batch(&format!("DROP TABLE IF EXISTS {quoted}"))
        } else {
            exchange(connection, &made.name.name, &from.name.name)
        };
        swapped.map_err(failed)?;
        if table.write_mode == WriteMode::Replace {
            add_key_if_unique(connection, &made).map_err(failed)?;
        } else if !of_read {
            for statement in ddl::create_table(&SqliteDialect, &made, None)?.iter().skip(1) {
                connection.execute_batch(statement).map_err(failed)?;
            }
        }
    }
    Ok(removed)
}

fn rows_of(connection: &Connection, table: &str) -> rusqlite::Result<u64> {
    if catalog::relation(connection, table)?.is_none() {
        return Ok(0);
    }
    let count = format!("SELECT count(*) FROM {}", SqliteDialect.quote(table));
    connection.query_row(&count, [], |row| row.get::<_, i64>(0).map(i64::cast_unsigned))
}

/// The table has exactly the rows of the read: where several have one key it stays without.
fn add_key_if_unique(connection: &Connection, table: &Table) -> rusqlite::Result<()> {
    let Some(statement) = ddl::add_unique_index(&SqliteDialect, table) else { return Ok(()) };
    match connection.execute_batch(&statement) {
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
            tracing::warn!(table = %table.name, "several rows have one key: the table is without its key");
            Ok(())
        }
        made => made,
    }
}

/// One table takes the place of another, which goes.
fn exchange(connection: &Connection, table: &str, beside: &str) -> rusqlite::Result<()> {
    let belongings = belongings(connection, table)?;
    let key_index = SqliteDialect.derived_name(beside, ddl::KEY_INDEX);
    // Views over the table must not be looked at while it is away. An index cannot be renamed.
    connection.execute_batch(&format!(
        "PRAGMA legacy_alter_table = ON; DROP INDEX IF EXISTS {key_index}; \
         DROP TABLE IF EXISTS {table}; ALTER TABLE {beside} RENAME TO {table}; \
         PRAGMA legacy_alter_table = OFF",
        key_index = SqliteDialect.quote(&key_index),
        table = SqliteDialect.quote(table),
        beside = SqliteDialect.quote(beside),
    ))?;
    for (name, sql) in belongings {
        if let Err(error) = connection.execute_batch(&sql) {
            tracing::warn!(table, name, %error, "not carried over to the new table");
        }
    }
    Ok(())
}

/// Indexes and triggers that a user made for a table: names and definitions.
fn belongings(connection: &Connection, table: &str) -> rusqlite::Result<Vec<(String, String)>> {
    let key_index = SqliteDialect.derived_name(table, ddl::KEY_INDEX);
    let mut statement = connection.prepare(
        "SELECT name, sql FROM sqlite_schema WHERE tbl_name = ?1 COLLATE NOCASE \
         AND type IN ('index', 'trigger') AND sql IS NOT NULL AND name <> ?2",
    )?;
    statement.query_map([table, &key_index], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}

/// Removes what earlier runs of the sync have left beside, and what nobody can go on with.
pub(crate) fn drop_leftovers(
    connection: &Connection,
    sync: &str,
    state: &State,
) -> rusqlite::Result<()> {
    let prefix = identity_prefix(sync);
    let mut statement = connection.prepare(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND (name GLOB '_highwater_*_new' \
         OR name GLOB '_highwater_*_new_history' \
         OR name GLOB '_highwater__highwater_*_new_tombstones' OR name GLOB '_highwater_*_seen')",
    )?;
    let names = statement.query_map([], |row| row.get(0))?;
    for name in names.collect::<rusqlite::Result<Vec<String>>>()? {
        let Some(token) = catalog::identity(connection, &name)? else { continue };
        let Some(mark) = token.strip_prefix(&prefix) else { continue };
        if !rebuild::may_go_on(mark, state) {
            connection.execute_batch(&format!("DROP TABLE {}", catalog::quote(&name)))?;
        }
    }
    Ok(())
}

/// Removes what a sync has beside a table, for good.
pub(crate) fn discard(
    connection: &Connection,
    sync: &str,
    table: &TablePlan,
) -> rusqlite::Result<()> {
    drop_all(connection, &derived::beside(table, sync, &SqliteDialect))
}
