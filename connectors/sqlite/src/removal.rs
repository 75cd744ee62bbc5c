//! Rows that are removed by a condition, in the open transaction.

use highwater_core::{Error, Result, TableName};
use highwater_sql::deletion::Removal;
use rusqlite::{Connection, params_from_iter};

use crate::bind;
use crate::catalog;
use crate::config::Location;
use crate::connection::explain;

/// Removes the rows; returns how many went from which table.
///
/// # Errors
/// As SQLite's, naming the table.
pub(crate) fn run(
    connection: &Connection,
    location: &Location,
    removal: &Removal<'_>,
    target_of: impl Fn(&TableName) -> Result<String>,
) -> Result<Vec<(TableName, u64)>> {
    let at = |error: Error, table: &TableName| error.context("table", table);
    let mut there = Vec::new();
    for table in removal.tables() {
        let found = catalog::relation(connection, &target_of(table)?)
            .map_err(|error| at(explain(error, &location.path), table))?;
        if found.is_some() {
            there.push(table);
        }
    }
    let parameters = removal.parameters().iter();
    let values: Vec<_> = parameters
        .map(|parameter| bind::single_value(&parameter.field, &parameter.value))
        .collect::<Result<_>>()?;
    let mut removed = Vec::new();
    for statement in removal.statements(|table| there.contains(&table))? {
        let rows = connection
            .execute(&statement.sql, params_from_iter(&values))
            .map_err(|error| at(explain(error, &location.path), &statement.table))?;
        removed.push((statement.table, rows as u64));
    }
    Ok(removed)
}
