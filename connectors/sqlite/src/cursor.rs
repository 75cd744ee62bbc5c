//! The cursor field in SQLite's own order: which columns qualify, and the condition that finds
//! the rows from a position on.
//!
//! SQLite orders values by storage class first, and dates and times are text. A condition here
//! finds every row at or after the position, and may find a few before it: those are dropped by
//! value ([`highwater_sql::boundary`]). So it does not matter whether a timestamp has a `T`, a
//! zone or fewer digits. Years are those from 0000 to 9999.

use arrow_schema::Field;
use highwater_core::types::declared_in;
use highwater_core::{Error, LogicalType, Result, Table, TablePlan};
use highwater_sql::boundary::InclusiveCursor;
use highwater_sql::cursor_field;
use rusqlite::Connection;
use rusqlite::types::Value;

use crate::catalog::{Relation, quote};
use crate::dialect::DECIMAL_ORDER;
use crate::types::SYSTEM;

/// A zone can move a text by this much: how much earlier than its instant it may sort.
const ZONE_SECONDS: u64 = 86_400;

fn qualifies(field: &Field) -> bool {
    LogicalType::of(field).is_ok_and(|logical| logical.has_order())
}

/// Whether the column holds the text of numbers, as our own destination stores decimals.
fn is_number_as_text(field: &Field) -> bool {
    declared_in(field, SYSTEM).is_some_and(|declared| {
        declared.starts_with("DECIMAL_TEXT") || declared.starts_with("NUMERIC_TEXT")
    })
}

/// Checks that the cursor field is a column and has an order.
///
/// # Errors
/// `Config`, with the columns that could be the cursor field.
pub(crate) fn check(plan: &TablePlan) -> Result<Field> {
    let refusal = "The cursor field is of a type without an order in SQLite";
    cursor_field::find(plan, qualifies, refusal)
}

/// Refuses a cursor field whose values are of several storage classes: SQLite orders every number
/// before every text, so rows would be missed.
///
/// # Errors
/// `Data` naming the column.
pub(crate) fn check_classes(
    connection: &Connection,
    relation: &Relation,
    table: &Table,
    field: &Field,
) -> Result<rusqlite::Result<()>> {
    if relation.is_rowid(field.name()) {
        return Ok(Ok(()));
    }
    let (column, from) = (quote(field.name()), quote(&relation.name));
    let sql = if relation.is_indexed(field.name()) {
        // Each is one look into the index.
        format!(
            "SELECT (SELECT typeof(min(t.{column})) FROM {from} AS t), \
             (SELECT typeof(max(t.{column})) FROM {from} AS t)"
        )
    } else {
        format!("SELECT typeof(min(t.{column})), typeof(max(t.{column})) FROM {from} AS t")
    };
    let classes = connection
        .query_row(&sql, [], |row| Ok([row.get::<_, String>(0)?, row.get::<_, String>(1)?]));
    let classes = match classes {
        Ok(classes) => classes,
        Err(error) => return Ok(Err(error)),
    };
    let expected: &[&str] = match LogicalType::of(field)? {
        _ if is_number_as_text(field) => &["text", "null"],
        LogicalType::Integer { .. }
        | LogicalType::Float { .. }
        | LogicalType::Decimal { .. }
        | LogicalType::Numeric => &["integer", "real", "null"],
        _ => &["text", "null"],
    };
    match classes.iter().find(|class| !expected.contains(&class.as_str())) {
        None => Ok(Ok(())),
        Some(other) => Err(Error::data("The cursor field has values that its order cannot hold")
            .context("table", &table.name)
            .context("column", field.name())
            .context("type", highwater_core::types::type_name(field))
            .context("found", other)
            .hint("choose another cursor field, or read_mode: full_refresh")),
    }
}

/// The condition that finds every row from the position on, and its parameter; `None` where
/// every row has to be read.
///
/// # Errors
/// `Internal` when the position is no value of the field's type.
pub(crate) fn condition(cursor: &InclusiveCursor) -> Result<Option<(String, Value)>> {
    let field = cursor.field();
    let column = format!("t.{}", quote(field.name()));
    let logical = LogicalType::of(field)?;
    let margin = match logical {
        LogicalType::Timestamp { utc: true, .. } => ZONE_SECONDS,
        _ => 0,
    };
    let Some(text) = cursor.floor_text(margin)? else { return Ok(None) };
    let unreadable = || Error::internal("A cursor is not a number");
    let plain = format!("{column} >= ?1");
    let prefix = |length: usize| Value::Text(text.get(..length).unwrap_or(&text).to_owned());
    // Before the year 0 texts sort backwards.
    let backwards = text.starts_with('-');
    Ok(Some(match logical {
        // No index helps here.
        _ if is_number_as_text(field) => {
            (format!("{DECIMAL_ORDER}({column}) >= {DECIMAL_ORDER}(?1)"), Value::Text(text))
        }
        LogicalType::Integer { .. } => {
            (plain, Value::Integer(text.parse().map_err(|_| unreadable())?))
        }
        LogicalType::Float { .. } => (plain, Value::Real(text.parse().map_err(|_| unreadable())?)),
        LogicalType::Decimal { .. } | LogicalType::Numeric => match text.parse() {
            Ok(integer) => (plain, Value::Integer(integer)),
            // The nearest float may be a little more than the position.
            Err(_) => {
                let nearest: f64 = text.parse().map_err(|_| unreadable())?;
                (plain, Value::Real(nearest.next_down()))
            }
        },
        LogicalType::Date | LogicalType::Timestamp { .. } if backwards => return Ok(None),
        // A time without seconds, with less of a fraction or with `T` sorts after its minute.
        LogicalType::Timestamp { .. } => (plain, prefix("2026-11-21 03:04".len())),
        LogicalType::Time(_) => (plain, prefix("03:04".len())),
        LogicalType::Date => (plain, Value::Text(text)),
        LogicalType::Uuid => (format!("lower({column}) >= ?1"), Value::Text(text)),
        _ => (format!("{column} COLLATE BINARY >= ?1"), Value::Text(text)),
    }))
}
