//! Rows that are removed by a condition, in the open transaction.

use highwater_core::{Error, Result, TableName};
use highwater_sql::deletion::Removal;

use super::{catalog, values};
use crate::session::{Parameter, Session};

/// Removes the rows; returns how many went from which table.
///
/// # Errors
/// As DuckDB's, naming the table.
pub(crate) fn run(
    session: &mut Session,
    removal: &Removal<'_>,
    target_of: impl Fn(&TableName) -> Result<TableName>,
) -> Result<Vec<(TableName, u64)>> {
    let at = |error: Error, table: &TableName| error.context("table", table);
    let mut there = Vec::new();
    for table in removal.tables() {
        let found = catalog::relation(session, &target_of(table)?);
        if found.map_err(|error| at(error, table))?.is_some() {
            there.push(table);
        }
    }
    let parameters = removal.parameters().iter().map(|parameter| {
        let schema = values::schema([&parameter.field])?;
        let value = values::column(&parameter.field, &parameter.value, schema.field(0))?;
        Ok(Parameter(value))
    });
    let parameters = parameters.collect::<Result<Vec<_>>>()?;
    let mut removed = Vec::new();
    for statement in removal.statements(|table| there.contains(&table))? {
        let rows = session
            .change(&statement.sql, &parameters)
            .map_err(|error| at(error, &statement.table))?;
        removed.push((statement.table, rows));
    }
    Ok(removed)
}
