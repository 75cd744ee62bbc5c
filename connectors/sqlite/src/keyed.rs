//! What SQLite can tell apart as a key, and put in order as a cursor, when it stores texts.

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, TimestampMicrosecondType, TimestampMillisecondType, TimestampSecondType,
};
use arrow_array::{Array, RecordBatch};
use arrow_schema::{DataType, TimeUnit};
use highwater_core::{Error, LogicalType, Result, TablePlan};
use highwater_sql::derived;

/// 0000-01-01 and 9999-12-31, in days since 1970: between them texts sort as their dates do.
const DAYS: std::ops::RangeInclusive<i64> = -719_528..=2_932_896;
const DAY_SECONDS: i64 = 86_400;

/// Refuses key columns in which equal values have several texts, such as `1.0` and `1.00`: they
/// would become two rows.
///
/// # Errors
/// `Unsupported` naming the column.
pub(crate) fn check_key(table: &TablePlan) -> Result<()> {
    for name in &table.target.primary_key {
        let logical = table.target.field(name).map(LogicalType::of).transpose()?;
        if matches!(logical, Some(LogicalType::Numeric | LogicalType::Interval)) {
            return Err(Error::unsupported(
                "SQLite cannot tell the keys of this table apart: equal values have several texts",
            )
            .context("table", table.name())
            .context("column", name)
            .hint("name another key, or give the column a fixed number of digits at the source"));
        }
    }
    Ok(())
}

/// Refuses dates and timestamps outside of the years 0 to 9999 in the column that orders versions,
/// where an older row would be taken for a newer one.
///
/// # Errors
/// `Data` naming the column.
pub(crate) fn check_cursor(table: &TablePlan, rows: &RecordBatch) -> Result<()> {
    let Some(name) = table.order_by.as_deref() else { return Ok(()) };
    if !derived::is_ordered(table.write_mode) {
        return Ok(());
    }
    let Some(column) = rows.column_by_name(name) else { return Ok(()) };
    if is_ordered(column) {
        return Ok(());
    }
    Err(Error::data("A cursor is outside of the years 0 to 9999, which SQLite cannot put in order")
        .context("table", table.name())
        .context("column", name)
        .hint("write into PostgreSQL, or in another write mode"))
}

/// The greatest and the least value mean `infinity` and `-infinity`, whose texts sort right.
fn is_ordered(column: &dyn Array) -> bool {
    let fits = |value: i64, per_day: i64| {
        value == i64::MAX || value == i64::MIN || DAYS.contains(&value.div_euclid(per_day))
    };
    let all = |values: &[i64], per_day: i64| {
        values.iter().enumerate().all(|(i, v)| column.is_null(i) || fits(*v, per_day))
    };
    match column.data_type() {
        DataType::Date32 => {
            let days = column.as_primitive::<Date32Type>();
            days.iter()
                .flatten()
                .all(|d| d == i32::MAX || d == i32::MIN || DAYS.contains(&i64::from(d)))
        }
        DataType::Timestamp(TimeUnit::Second, _) => {
            all(column.as_primitive::<TimestampSecondType>().values(), DAY_SECONDS)
        }
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            all(column.as_primitive::<TimestampMillisecondType>().values(), DAY_SECONDS * 1000)
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            all(column.as_primitive::<TimestampMicrosecondType>().values(), DAY_SECONDS * 1_000_000)
        }
        // Nanoseconds end in the year 2262; other types are ordered by their values.
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::{Date32Array, TimestampMicrosecondArray};

    use super::*;

    #[test]
    fn four_digits_of_a_year_are_ordered_and_more_are_not() {
        assert!(is_ordered(&Date32Array::from(vec![Some(0), None, Some(2_932_896)])));
        assert!(is_ordered(&Date32Array::from(vec![i32::MAX, i32::MIN])));
        assert!(!is_ordered(&Date32Array::from(vec![2_932_897])));
        assert!(!is_ordered(&Date32Array::from(vec![-719_529])));
        assert!(is_ordered(&TimestampMicrosecondArray::from(vec![253_402_300_799_999_999])));
        assert!(!is_ordered(&TimestampMicrosecondArray::from(vec![253_402_300_800_000_000])));
    }
}
