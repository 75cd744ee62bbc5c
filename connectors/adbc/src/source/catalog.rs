//! Which tables and views a database file has. What each of them is, `duckdb/catalog.rs` says.

use highwater_core::{Result, TableName};

use super::quote;
use crate::duckdb::catalog::{MAIN, Relation, relation, text};
use crate::session::Session;

/// Tables and schemas that begin so are highwater's own.
const OWN: &str = "_highwater";

/// All tables and views that a user may sync, sorted by name.
///
/// # Errors
/// What DuckDB says.
pub(super) fn relations(session: &mut Session) -> Result<Vec<Relation>> {
    let rows = session.fetch(
        "SELECT database_name, schema_name, table_name AS name FROM duckdb_tables() \
         WHERE NOT internal AND NOT temporary AND database_name = current_database() \
         UNION ALL SELECT database_name, schema_name, view_name FROM duckdb_views() \
         WHERE NOT internal AND NOT temporary AND database_name = current_database()",
        &[],
    )?;
    let mut names = Vec::new();
    for row in 0..rows.num_rows() {
        let schema = text(&rows, 1, row).unwrap_or_default();
        let name = text(&rows, 2, row).unwrap_or_default();
        if schema.starts_with(OWN) || name.starts_with(OWN) {
            continue;
        }
        names.push(match schema.as_str() {
            MAIN => TableName::new(name),
            _ => TableName::in_namespace(schema, name),
        });
    }
    names.sort();
    let mut relations = Vec::new();
    for name in &names {
        relations.extend(relation(session, name)?);
    }
    Ok(relations)
}

/// A table as a statement calls it, with its schema.
pub(crate) fn quoted(name: &TableName) -> String {
    format!("{}.{}", quote(name.namespace.as_deref().unwrap_or(MAIN)), quote(&name.name))
}
