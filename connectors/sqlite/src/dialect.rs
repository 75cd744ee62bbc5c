//! How SQLite spells what `connectors/sql` needs, and the one function that it lacks: the order of
//! decimal numbers that are stored as text.

use arrow_schema::Field;
use highwater_core::{LogicalType, Result, TableName};
use highwater_sql::Dialect;
use rusqlite::Connection;
use rusqlite::functions::FunctionFlags;
use rusqlite::types::ValueRef;

use crate::catalog;
use crate::types::{self, SYSTEM};

/// The SQL function that turns the text of a decimal into a blob that sorts as the number does.
pub(crate) const DECIMAL_ORDER: &str = "highwater_decimal_order";

/// SQLite's way to spell SQL.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SqliteDialect;

impl Dialect for SqliteDialect {
    fn system(&self) -> &'static str {
        SYSTEM
    }

    /// SQLite has no limit; this one keeps statements readable.
    fn identifier_bytes_max(&self) -> usize {
        255
    }

    fn internal(&self, name: &str) -> String {
        catalog::quote(&format!("_highwater_{name}"))
    }

    fn column_type(&self, field: &Field) -> Result<String> {
        types::declared_type(field)
    }

    fn ordered(&self, expression: &str, field: &Field) -> String {
        let declared = types::declared_type(field).unwrap_or_default();
        if declared.starts_with("DECIMAL_TEXT") || declared == "NUMERIC_TEXT" {
            return format!("{DECIMAL_ORDER}({expression})");
        }
        match LogicalType::of(field) {
            Ok(LogicalType::Text) => format!("{expression} COLLATE BINARY"),
            _ => expression.to_owned(),
        }
    }

    fn distinct(&self, left: &str, right: &str, _field: &Field) -> String {
        // A column of a user's own table may ignore case; a change of case is a change.
        format!("{left} COLLATE BINARY IS DISTINCT FROM {right}")
    }

    fn parameter(&self, n: usize) -> String {
        format!("?{n}")
    }

    /// A constraint that is always true and whose name is the identity: unlike a comment, it
    /// survives every ALTER TABLE.
    fn identity_mark(&self, identity: Option<&str>) -> String {
        identity.map_or_else(String::new, catalog::identity_mark)
    }

    /// SQLite cannot change a column's type: the values move into a new column that takes the old
    /// one's name, at the end of the table.
    fn widen_column(&self, table: &TableName, to: &Field) -> Result<Vec<String>> {
        let (table, old) = (self.table(table), self.quote(to.name()));
        let new = self.quote(&self.derived_name(to.name(), "_highwater_wide"));
        let declared = self.column_type(to)?;
        Ok(vec![
            format!("ALTER TABLE {table} ADD COLUMN {new} {declared}"),
            format!("UPDATE {table} SET {new} = {old}"),
            format!("ALTER TABLE {table} DROP COLUMN {old}"),
            format!("ALTER TABLE {table} RENAME COLUMN {new} TO {old}"),
        ])
    }

    fn drop_not_null(&self, table: &TableName, column: &str) -> Vec<String> {
        let (table, column) = (self.table(table), self.quote(column));
        vec![format!("ALTER TABLE {table} ALTER COLUMN {column} DROP NOT NULL")]
    }

    /// There is one namespace.
    fn table(&self, name: &TableName) -> String {
        self.quote(&name.name)
    }
}

/// Makes the functions known that statements of this dialect use.
pub(crate) fn register_functions(connection: &Connection) -> rusqlite::Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
    connection.create_scalar_function(DECIMAL_ORDER, 1, flags, |context| {
        Ok(match context.get_raw(0) {
            ValueRef::Null => None,
            ValueRef::Text(text) => Some(decimal_order(&String::from_utf8_lossy(text))),
            ValueRef::Integer(value) => Some(decimal_order(&value.to_string())),
            ValueRef::Real(value) => Some(decimal_order(&value.to_string())),
            ValueRef::Blob(_) => Some(Vec::new()),
        })
    })
}

/// Bytes that sort as the decimal numbers do that the texts are: -Infinity, negative, zero,
/// positive, Infinity, NaN.
fn decimal_order(text: &str) -> Vec<u8> {
    const NEGATIVE: u8 = 1;
    const POSITIVE: u8 = 3;
    match text {
        "-Infinity" => return vec![0],
        "Infinity" => return vec![4],
        "NaN" => return vec![5],
        _ => {}
    }
    let (sign, rest) = match text.strip_prefix('-') {
        Some(rest) => (NEGATIVE, rest),
        None => (POSITIVE, text.strip_prefix('+').unwrap_or(text)),
    };
    let (number, exponent) = rest.split_once(['e', 'E']).unwrap_or((rest, "0"));
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let all: Vec<u8> = whole.bytes().chain(fraction.bytes()).collect();
    let Some(first) = all.iter().position(|digit| *digit != b'0') else { return vec![2] };
    let last = all.iter().rposition(|digit| *digit != b'0').unwrap_or(first);
    let exponent: i64 = exponent.parse().unwrap_or(0);
    let magnitude = exponent + whole.len() as i64 - first as i64;
    let mut key = vec![sign];
    key.extend(((magnitude as u64) ^ (1 << 63)).to_be_bytes());
    key.extend(&all[first..=last]);
    if sign == NEGATIVE {
        // Greater numbers are lesser ones here, and fewer digits come after more.
        key[1..].iter_mut().for_each(|byte| *byte = !*byte);
        key.push(u8::MAX);
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_sort_by_value() {
        let sorted = [
            "-Infinity",
            "-1e40",
            "-125",
            "-12.5",
            "-12.49",
            "-1.25",
            "-1.2",
            "-0.001",
            "0",
            "0.0009",
            "0.001",
            "1",
            "1.5",
            "9",
            "10",
            "10.01",
            "123456789012345678901234567890",
            "1e300",
            "Infinity",
            "NaN",
        ];
        for pair in sorted.windows(2) {
            assert!(decimal_order(pair[0]) < decimal_order(pair[1]), "{pair:?}");
        }
        assert_eq!(decimal_order("1.50"), decimal_order("1.5"));
        assert_eq!(decimal_order("100"), decimal_order("1e2"));
        assert_eq!(decimal_order("-0.00"), decimal_order("0"));
    }
}
