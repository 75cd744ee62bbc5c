//! `replace`: the rows of a full read are kept in a table beside the user's, and take its place
//! when the read is complete.

use highwater_core::{Plan, Result, TablePlan};
use highwater_sql::{Dialect, ddl, derived};
use rusqlite::Connection;

use crate::catalog;
use crate::config::Location;
use crate::connection::explain;
use crate::dialect::SqliteDialect;
use crate::schema::{identity_of, identity_prefix};

/// The name of the table beside, made empty unless this run has made it.
pub(crate) fn ensure(
    connection: &Connection,
    location: &Location,
    plan: &Plan,
    table: &TablePlan,
) -> Result<String> {
    let failed = |error| explain(error, &location.path);
    let name = derived::replacement(table, &SqliteDialect);
    let (quoted, token) = (SqliteDialect.table(&name), identity_of(plan));
    let found = catalog::identity(connection, &name.name).map_err(failed)?;
    if found.as_deref() == Some(&token) {
        return Ok(quoted);
    }
    let mut beside = table.target.as_ref().clone();
    beside.name = name;
    // A unique index in place of a key is made after the swap, under the name that belongs to it.
    let create = ddl::create_table(&SqliteDialect, &beside, Some(&token))?.into_iter().take(1);
    connection.execute_batch(&format!("DROP TABLE IF EXISTS {quoted}")).map_err(failed)?;
    for statement in create {
        connection.execute_batch(&statement).map_err(failed)?;
    }
    Ok(quoted)
}

/// Puts the table beside in the place of the user's table, with the user's indexes and triggers.
/// Nothing if this run has done so.
pub(crate) fn swap(
    connection: &Connection,
    location: &Location,
    plan: &Plan,
    table: &TablePlan,
) -> Result<()> {
    let failed = |error| explain(error, &location.path);
    let target = &table.target.name;
    let found = catalog::identity(connection, &target.name).map_err(failed)?;
    if found.as_deref() == Some(&identity_of(plan)) {
        return Ok(());
    }
    let beside = ensure(connection, location, plan, table)?;
    let belongings = belongings(connection, &target.name).map_err(failed)?;
    let quoted = SqliteDialect.table(target);
    // Views over the table must not be looked at while it is away.
    connection
        .execute_batch(&format!(
            "PRAGMA legacy_alter_table = ON; DROP TABLE IF EXISTS {quoted}; \
             ALTER TABLE {beside} RENAME TO {quoted}; PRAGMA legacy_alter_table = OFF"
        ))
        .map_err(failed)?;
    for statement in ddl::create_table(&SqliteDialect, &table.target, None)?.iter().skip(1) {
        connection.execute_batch(statement).map_err(failed)?;
    }
    for (name, sql) in belongings {
        if let Err(error) = connection.execute_batch(&sql) {
            tracing::warn!(table = %target, name, %error, "not carried over to the new table");
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

/// Removes what earlier runs of the sync have left beside.
pub(crate) fn drop_leftovers(connection: &Connection, sync: &str) -> rusqlite::Result<()> {
    let prefix = identity_prefix(sync);
    let mut statement = connection.prepare(
        "SELECT name FROM sqlite_schema WHERE type = 'table' \
         AND name GLOB '_highwater_*_new'",
    )?;
    let names = statement.query_map([], |row| row.get(0))?;
    for name in names.collect::<rusqlite::Result<Vec<String>>>()? {
        if catalog::identity(connection, &name)?.is_some_and(|token| token.starts_with(&prefix)) {
            connection.execute_batch(&format!("DROP TABLE {}", catalog::quote(&name)))?;
        }
    }
    Ok(())
}
