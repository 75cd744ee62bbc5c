//! Comparing rows value by value, whatever batches and columns' order they come in.
//!
//! Rows are a bag: their order does not matter, how often each is there does. Values are compared
//! by what they mean, so that a time in microseconds equals the same time in nanoseconds, and a
//! number that a system had to store as text equals the number.

use std::collections::BTreeMap;

use arrow_array::RecordBatch;
use arrow_schema::Schema;
use highwater_core::LogicalType;
use highwater_core::text::TextColumn;
use serde_json::Value;

/// The values of a row as text, `None` for NULL.
pub type TextRow = Vec<Option<String>>;

/// How many rows of each kind a difference shows.
const SHOWN_ROWS: usize = 10;

/// The number of rows in all batches.
pub fn count(batches: &[RecordBatch]) -> usize {
    batches.iter().map(RecordBatch::num_rows).sum()
}

/// What of a canonical text ([`highwater_core::text`]) tells one value from another, for a column
/// of this type. Left out is what depends on the storage: the width of a float, trailing zeros of
/// a fraction of a second, white space and the order of members in nested values.
pub fn meaning(logical: &LogicalType, text: String) -> String {
    match logical {
        LogicalType::Float { .. } => {
            text.parse::<f64>().map_or(text, |number| format!("{number:?}"))
        }
        LogicalType::Time(_) | LogicalType::Timestamp { .. } => without_zero_fraction(&text),
        LogicalType::Nested | LogicalType::List(_) => sorted_json(&text),
        _ => text,
    }
}

/// `03:04:05.500000Z` → `03:04:05.5Z`.
fn without_zero_fraction(text: &str) -> String {
    let (body, zone) = text.strip_suffix('Z').map_or((text, ""), |body| (body, "Z"));
    let body = match body.rsplit_once('.') {
        Some((_, fraction)) if fraction.bytes().all(|b| b.is_ascii_digit()) => {
            body.trim_end_matches('0').trim_end_matches('.')
        }
        _ => body,
    };
    format!("{body}{zone}")
}

/// JSON with its members in the order of their names and no white space.
fn sorted_json(text: &str) -> String {
    fn sort(value: Value) -> Value {
        match value {
            Value::Array(items) => items.into_iter().map(sort).collect(),
            Value::Object(members) => {
                let sorted: BTreeMap<_, _> =
                    members.into_iter().map(|(name, value)| (name, sort(value))).collect();
                Value::Object(sorted.into_iter().collect())
            }
            other => other,
        }
    }
    serde_json::from_str(text).map_or_else(|_| text.to_owned(), |v| sort(v).to_string())
}

/// The rows as text, sorted, in the columns of `shape`; a value counts as the type that `shape`
/// gives its column, whatever type it came in.
///
/// # Panics
/// When a column is missing.
pub fn texts(batches: &[RecordBatch], shape: &Schema) -> Vec<TextRow> {
    let mut rows = Vec::new();
    for batch in batches {
        let picked: Vec<_> = shape
            .fields()
            .iter()
            .map(|wanted| {
                let name = wanted.name();
                let index = batch.schema_ref().index_of(name);
                let index = index.unwrap_or_else(|_| panic!("no column `{name}`"));
                let column = TextColumn::new(batch.schema_ref().field(index), batch.column(index));
                let logical = LogicalType::of(wanted);
                (
                    column.unwrap_or_else(|e| panic!("{e}")),
                    logical.unwrap_or_else(|e| panic!("{e}")),
                )
            })
            .collect();
        for row in 0..batch.num_rows() {
            rows.push(picked.iter().map(|(column, logical)| value(column, logical, row)).collect());
        }
    }
    rows.sort();
    rows
}

fn value(column: &TextColumn<'_>, logical: &LogicalType, row: usize) -> Option<String> {
    if column.is_null(row) {
        return None;
    }
    let mut text = String::new();
    column.write(row, &mut text);
    Some(meaning(logical, text))
}

/// How two bags of rows differ in the columns of `expected`: `None` when they do not. Columns
/// that only `actual` has are left aside.
pub fn difference(actual: &[RecordBatch], expected: &[RecordBatch]) -> Option<String> {
    let shape = expected.first().or(actual.first())?.schema();
    let names: Vec<_> = shape.fields().iter().map(|f| f.name().as_str()).collect();
    if let Some(batch) = actual.first() {
        let missing: Vec<_> =
            names.iter().filter(|c| batch.column_by_name(c).is_none()).copied().collect();
        if !missing.is_empty() {
            return Some(format!("columns are missing: {}", missing.join(", ")));
        }
    }
    text_difference(&names, &texts(actual, &shape), &texts(expected, &shape))
}

/// As [`difference`], of rows that are text already, in any order.
pub fn text_difference(
    columns: &[&str],
    actual: &[TextRow],
    expected: &[TextRow],
) -> Option<String> {
    let mut balance: BTreeMap<&TextRow, i64> = BTreeMap::new();
    expected.iter().for_each(|row| *balance.entry(row).or_default() -= 1);
    actual.iter().for_each(|row| *balance.entry(row).or_default() += 1);
    let rows_where = |sign: i64| {
        let rows: Vec<_> = balance.iter().filter(|(_, n)| n.signum() == sign).collect();
        let total: i64 = rows.iter().map(|(_, n)| n.abs()).sum();
        let mut lines = String::new();
        for (row, times) in rows.iter().take(SHOWN_ROWS) {
            let values: Vec<_> = row
                .iter()
                .map(|v| v.as_deref().map_or("NULL".into(), |v| format!("{v:?}")))
                .collect();
            let times = times.abs();
            let suffix = if times > 1 { format!(" × {times}") } else { String::new() };
            lines.push_str(&format!("    {}{suffix}\n", values.join(" | ")));
        }
        if rows.len() > SHOWN_ROWS {
            lines.push_str("    …\n");
        }
        (total, lines)
    };
    let ((missing, missing_lines), (extra, extra_lines)) = (rows_where(-1), rows_where(1));
    if missing == 0 && extra == 0 {
        return None;
    }
    Some(format!(
        "{} rows, expected {}\n  columns: {}\n  missing ({missing}):\n{missing_lines}  not expected ({extra}):\n{extra_lines}",
        actual.len(),
        expected.len(),
        columns.join(" | "),
    ))
}

/// Fails with the difference when two bags of rows are not equal in the columns of `expected`.
#[track_caller]
pub fn assert_same(actual: &[RecordBatch], expected: &[RecordBatch]) {
    if let Some(difference) = difference(actual, expected) {
        panic!("the rows are not the expected ones: {difference}");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, Int32Array, Int64Array, StringArray, Time32SecondArray};
    use arrow_array::{Time64MicrosecondArray, UInt8Array};

    use super::*;

    fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, a)| (n, a, true)))
            .unwrap()
    }

    #[test]
    fn order_batches_and_widths_do_not_matter() {
        let a: Vec<RecordBatch> = vec![
            batch(vec![
                ("n", Arc::new(Int32Array::from(vec![Some(2), None]))),
                ("t", Arc::new(Time32SecondArray::from(vec![3_600, 0]))),
            ]),
            batch(vec![
                ("n", Arc::new(Int32Array::from(vec![1]))),
                ("t", Arc::new(Time32SecondArray::from(vec![61]))),
            ]),
        ];
        let b: Vec<RecordBatch> = vec![batch(vec![
            ("t", Arc::new(Time64MicrosecondArray::from(vec![61_000_000, 0, 3_600_000_000]))),
            ("n", Arc::new(Int64Array::from(vec![Some(1), None, Some(2)]))),
        ])];
        assert_eq!(difference(&a, &b), None);
        assert_eq!(difference(&b, &a), None);
    }

    #[test]
    fn a_difference_shows_what_is_missing_and_what_is_too_much() {
        let a = [batch(vec![("v", Arc::new(StringArray::from(vec!["x", "x", "y"])))])];
        let b = [batch(vec![("v", Arc::new(StringArray::from(vec![Some("x"), None])))])];
        let text = difference(&a, &b).unwrap();
        assert!(text.contains("3 rows, expected 2"), "{text}");
        assert!(text.contains("missing (1):\n    NULL\n"), "{text}");
        assert!(text.contains("not expected (2):\n    \"x\"\n    \"y\"\n"), "{text}");
        let c = [batch(vec![("w", Arc::new(UInt8Array::from(vec![1])))])];
        assert_eq!(difference(&a, &c).unwrap(), "columns are missing: w");
        assert!(difference(&a, &[]).is_some());
        assert_eq!(difference(&[], &[]), None);
    }

    #[test]
    fn only_zeros_of_a_fraction_are_left_out() {
        assert_eq!(without_zero_fraction("03:04:05.500000"), "03:04:05.5");
        assert_eq!(without_zero_fraction("2000-01-10 00:00:00.000Z"), "2000-01-10 00:00:00Z");
        assert_eq!(without_zero_fraction("2000-01-10 00:00:00"), "2000-01-10 00:00:00");
        assert_eq!(
            sorted_json(r#"{"b": 1, "a": [ {"d":1,"c":2} ]}"#),
            r#"{"a":[{"c":2,"d":1}],"b":1}"#
        );
    }
}
