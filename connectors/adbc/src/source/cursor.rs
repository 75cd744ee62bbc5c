//! The cursor field in DuckDB: which columns qualify, and the condition that finds the rows from
//! a position on.
//!
//! DuckDB orders numbers, dates and times as we do (NaN is the greatest float). Texts are compared
//! by their bytes here, whatever collation the column has. The position stands in the statement as
//! a literal, so that DuckDB leaves out the parts of the table in which no such row can be.

use arrow_schema::Field;
use highwater_core::types::declared_in;
use highwater_core::{LogicalType, Result, TablePlan};
use highwater_sql::boundary::InclusiveCursor;
use highwater_sql::cursor_field;

use super::carried::SYSTEM;
use super::{literal, quote};

fn qualifies(field: &Field) -> bool {
    let declared = declared_in(field, SYSTEM);
    LogicalType::of(field).is_ok_and(|logical| match logical {
        // The texts of times with a zone, of bits and of labels have another order than these.
        LogicalType::Text => declared.is_none_or(|declared| declared == "VARCHAR"),
        other => other.has_order(),
    })
}

/// Checks that the cursor field is a column and has an order.
///
/// # Errors
/// `Config`, with the columns that could be the cursor field.
pub(super) fn check(plan: &TablePlan) -> Result<Field> {
    cursor_field::find(plan, qualifies, "The cursor field is of a type without an order")
}

/// The condition that finds every row that has to be read, with `WHERE`; empty where that is
/// every row.
///
/// # Errors
/// `Internal` when the position is no value of the field's type.
pub(super) fn condition(cursor: &InclusiveCursor) -> Result<String> {
    let column = format!("t.{}", quote(cursor.field().name()));
    Ok(match (from_position(cursor, &column)?, cursor.reads_nulls()) {
        (Some(sql), true) => format!(" WHERE {sql} OR {column} IS NULL"),
        (Some(sql), false) => format!(" WHERE {sql}"),
        (None, true) => String::new(),
        (None, false) => format!(" WHERE {column} IS NOT NULL"),
    })
}

fn from_position(cursor: &InclusiveCursor, column: &str) -> Result<Option<String>> {
    let field = cursor.field();
    let Some(text) = cursor.floor_text(0)? else { return Ok(None) };
    let declared = declared_in(field, SYSTEM).unwrap_or_default();
    let at_least = |text: &str| format!("{column} >= CAST({} AS {declared})", literal(text));
    Ok(match LogicalType::of(field)? {
        LogicalType::Text => {
            // A zero byte cannot stand in a statement; what comes before it sorts before it.
            let text = text.split('\0').next().unwrap_or_default();
            Some(format!("encode({column}) >= encode({})", literal(text)))
        }
        // Numbers that are kept as text have no order in the database.
        _ if declared == "VARCHAR" => None,
        // With `lookback` a position may lie before all values of the column's own type.
        LogicalType::Decimal { scale, .. } => {
            Some(format!("{column} >= CAST({} AS DECIMAL(38,{scale}))", literal(&text)))
        }
        LogicalType::Date | LogicalType::Timestamp { .. } if !has_plain_year(&text) => None,
        // The type of nanoseconds has no zone; its values are in UTC.
        LogicalType::Timestamp { utc: true, .. } if declared == "TIMESTAMP_NS" => {
            Some(at_least(text.trim_end_matches('Z')))
        }
        _ => Some(at_least(&text)),
    })
}

/// Whether the text begins with a year that every system writes alike: 0001 to 9999.
fn has_plain_year(text: &str) -> bool {
    let year = text.split('-').next().unwrap_or_default();
    year.len() == 4 && year.bytes().all(|b| b.is_ascii_digit()) && year != "0000"
}
