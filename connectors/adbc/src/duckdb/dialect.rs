//! How DuckDB spells what `connectors/sql` needs.
//!
//! The tables of users have no index for their key: DuckDB's are kept in memory as a whole, cost
//! more than the load itself and are read for every row, while a join with the column of a key is
//! what DuckDB is made for. A merge finds rows by such joins; the key is kept in the comment of
//! the table, and its columns are NOT NULL.

use arrow_schema::Field;
use highwater_core::{LogicalType, Result, Table, TableName};
use highwater_sql::Dialect;

use super::mark::Mark;
use super::types::{Meaning, Stored};

/// The schema of highwater's own tables.
pub(crate) const STATE_SCHEMA: &str = "_highwater";

/// DuckDB's way to spell SQL.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DuckDbDialect;

/// A text as SQL writes it.
pub(crate) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// An expression that sorts as the decimal numbers do that the texts are.
fn decimal_order(x: &str) -> String {
    let whole = format!("ltrim(split_part(ltrim({x}, '-+'), '.', 1), '0')");
    let fraction = format!("rtrim(split_part({x}, '.', 2), '0')");
    let digits = format!("{whole} || {fraction}");
    format!(
        "CASE WHEN {x} IS NULL THEN NULL WHEN {x} = '-Infinity' THEN '0' WHEN {x} = 'Infinity' THEN \
         '4' WHEN {x} = 'NaN' THEN '5' WHEN {digits} = '' THEN '2' WHEN {x} LIKE '-%' THEN '1' || \
         lpad(CAST(9999999999 - length({whole}) AS VARCHAR), 10, '0') || \
         translate({digits}, '0123456789', '9876543210') || '~' ELSE '3' || \
         lpad(CAST(length({whole}) AS VARCHAR), 10, '0') || {digits} END"
    )
}

/// Whether values that DuckDB calls equal may be different: an interval of a month and one of 30
/// days, 0.0 and -0.0.
fn has_equal_values(field: &Field) -> bool {
    match LogicalType::of(field) {
        Ok(LogicalType::Interval | LogicalType::Duration(_) | LogicalType::Float { .. }) => true,
        Ok(LogicalType::List(item)) => has_equal_values(&item),
        _ => false,
    }
}

impl Dialect for DuckDbDialect {
    fn system(&self) -> &'static str {
        "duckdb"
    }

    /// DuckDB has no limit; this one keeps statements readable.
    fn identifier_bytes_max(&self) -> usize {
        255
    }

    fn internal(&self, name: &str) -> String {
        format!("{}.{}", self.quote(STATE_SCHEMA), self.quote(name))
    }

    fn column_type(&self, field: &Field) -> Result<String> {
        Ok(Stored::of(field)?.sql)
    }

    fn ordered(&self, expression: &str, field: &Field) -> String {
        match Stored::of(field).ok().and_then(|stored| stored.meaning) {
            Some(Meaning::Numeric | Meaning::Decimal(..)) => decimal_order(expression),
            _ => expression.to_owned(),
        }
    }

    fn distinct(&self, left: &str, right: &str, field: &Field) -> String {
        match has_equal_values(field) {
            true => format!("CAST({left} AS VARCHAR) IS DISTINCT FROM CAST({right} AS VARCHAR)"),
            false => format!("{left} IS DISTINCT FROM {right}"),
        }
    }

    fn parameter(&self, n: usize) -> String {
        format!("${n}")
    }

    fn row_id(&self) -> Option<&'static str> {
        Some("rowid")
    }

    fn indexes_keys(&self) -> bool {
        false
    }

    fn table_annotations(&self, table: &Table, identity: Option<&str>) -> Vec<String> {
        let mark = Mark { identity: identity.map(str::to_owned), key: table.primary_key.clone() };
        let mut statements = vec![mark.statement(&table.name, None)];
        for field in table.schema.fields() {
            if Stored::of(field).is_ok_and(|stored| stored.meaning.is_some()) {
                statements.extend(self.column_annotations(&table.name, field));
            }
        }
        statements
    }

    fn column_annotations(&self, table: &TableName, field: &Field) -> Vec<String> {
        let Ok(stored) = Stored::of(field) else { return Vec::new() };
        if stored.meaning.is_none() {
            return Vec::new();
        }
        vec![comment_on_column(table, field.name(), &stored)]
    }

    fn widen_column(&self, table: &TableName, to: &Field) -> Result<Vec<String>> {
        let stored = Stored::of(to)?;
        let (name, column) = (self.table(table), self.quote(to.name()));
        Ok(vec![
            format!("ALTER TABLE {name} ALTER COLUMN {column} TYPE {}", stored.sql),
            comment_on_column(table, to.name(), &stored),
        ])
    }

    fn drop_not_null(&self, table: &TableName, column: &str) -> Vec<String> {
        let (table, column) = (self.table(table), self.quote(column));
        vec![format!("ALTER TABLE {table} ALTER COLUMN {column} DROP NOT NULL")]
    }
}

fn comment_on_column(table: &TableName, column: &str, stored: &Stored) -> String {
    format!(
        "COMMENT ON COLUMN {}.{} IS {}",
        DuckDbDialect.table(table),
        DuckDbDialect.quote(column),
        stored.comment()
    )
}
