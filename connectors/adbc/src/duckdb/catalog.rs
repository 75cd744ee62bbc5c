//! What a database file says of its tables.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch};
use highwater_core::{Result, Table, TableName};

use super::mark::Mark;
use super::types::{self, Meaning};
use crate::session::{Session, parameters};

/// The schema of tables without a namespace.
pub(crate) const MAIN: &str = "main";

/// A table or view.
#[derive(Debug, Clone)]
pub(crate) struct Relation {
    pub(crate) name: TableName,
    /// The comment as a whole; `None` where there is none.
    pub(crate) comment: Option<String>,
    pub(crate) columns: Vec<Column>,
    /// The columns of a PRIMARY KEY that somebody else has made.
    declared_key: Vec<String>,
}

/// A column.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) declared: String,
    pub(crate) not_null: bool,
    pub(crate) meaning: Option<Meaning>,
}

impl Relation {
    /// What highwater has marked it with.
    pub(crate) fn mark(&self) -> Mark {
        Mark::parse(self.comment.as_deref())
    }

    /// The table as the engine sees it.
    pub(crate) fn table(&self) -> Table {
        let fields = self.columns.iter().map(|column| {
            let meaning = column.meaning.as_ref();
            types::described(&column.name, &column.declared, meaning, !column.not_null)
        });
        let mark = self.mark();
        // A key whose column is gone, or has another name, is none.
        let is_there = |name: &String| self.column(name).is_some();
        let key = match self.declared_key.is_empty() {
            false => self.declared_key.clone(),
            true if mark.key.iter().all(is_there) => mark.key,
            true => Vec::new(),
        };
        Table::new(self.name.clone(), fields.collect::<Vec<_>>()).with_primary_key(key)
    }

    /// A column by its name, whatever its case.
    pub(crate) fn column(&self, name: &str) -> Option<&Column> {
        let lower = name.to_lowercase();
        self.columns.iter().find(|column| column.name.to_lowercase() == lower)
    }
}

/// Looks at one table; `None` when there is none of that name.
///
/// # Errors
/// What DuckDB says.
pub(crate) fn relation(session: &mut Session, name: &TableName) -> Result<Option<Relation>> {
    let schema = name.namespace.as_deref().unwrap_or(MAIN);
    let found = session.fetch(
        "SELECT table_name, comment FROM (SELECT database_name, schema_name, table_name, comment \
         FROM duckdb_tables() WHERE NOT temporary UNION ALL \
         SELECT database_name, schema_name, view_name, comment FROM duckdb_views()) \
         WHERE database_name = current_database() AND lower(schema_name) = lower($1) \
         AND lower(table_name) = lower($2)",
        parameters![schema, &name.name],
    )?;
    if found.num_rows() == 0 {
        return Ok(None);
    }
    let columns = session.fetch(
        "SELECT column_name, data_type, is_nullable, comment FROM duckdb_columns() \
         WHERE database_name = current_database() AND lower(schema_name) = lower($1) \
         AND lower(table_name) = lower($2) ORDER BY column_index",
        parameters![schema, &name.name],
    )?;
    let key = session.fetch(
        "SELECT unnest(constraint_column_names) FROM duckdb_constraints() \
         WHERE database_name = current_database() AND lower(schema_name) = lower($1) \
         AND lower(table_name) = lower($2) AND constraint_type = 'PRIMARY KEY'",
        parameters![schema, &name.name],
    )?;
    let column = |row| Column {
        name: text(&columns, 0, row).unwrap_or_default(),
        declared: text(&columns, 1, row).unwrap_or_default(),
        not_null: !flag(&columns, 2, row),
        meaning: text(&columns, 3, row).and_then(|comment| Meaning::parse(&comment)),
    };
    Ok(Some(Relation {
        name: name.renamed(text(&found, 0, 0).unwrap_or_default()),
        comment: text(&found, 1, 0),
        columns: (0..columns.num_rows()).map(column).collect(),
        declared_key: (0..key.num_rows()).filter_map(|row| text(&key, 0, row)).collect(),
    }))
}

/// A text of a row that was fetched; `None` for NULL.
pub(crate) fn text(rows: &RecordBatch, column: usize, row: usize) -> Option<String> {
    let values = rows.column(column).as_string_opt::<i32>()?;
    (!values.is_null(row)).then(|| values.value(row).to_owned())
}

/// A truth value of a row that was fetched: DuckDB sends bytes.
pub(crate) fn flag(rows: &RecordBatch, column: usize, row: usize) -> bool {
    let values = rows.column(column);
    if let Some(bits) = values.as_boolean_opt() {
        return !bits.is_null(row) && bits.value(row);
    }
    let bytes = values.as_primitive_opt::<arrow_array::types::Int8Type>();
    bytes.is_some_and(|bytes| !bytes.is_null(row) && bytes.value(row) != 0)
}

/// A whole number of a row that was fetched; `None` for NULL.
pub(crate) fn number(rows: &RecordBatch, column: usize, row: usize) -> Option<i64> {
    let values = rows.column(column);
    if values.is_null(row) {
        return None;
    }
    let wide = arrow_cast::cast(&Arc::clone(values), &arrow_schema::DataType::Int64).ok()?;
    let wide = wide.as_primitive_opt::<arrow_array::types::Int64Type>()?.clone();
    wide.is_valid(row).then(|| wide.value(row))
}
