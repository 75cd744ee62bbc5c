//! Rows in the form in which DuckDB takes them. Most columns are handed on as they are.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowTimestampType, Date32Type, IntervalMonthDayNanoType, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
};
use arrow_array::{
    Array, ArrayRef, ListArray, PrimitiveArray, RecordBatch, RecordBatchOptions, new_null_array,
};
use arrow_cast::{CastOptions, cast_with_options};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use highwater_core::text::convert;
use highwater_core::{Error, LogicalType, Result, TableName};

use super::types::Stored;

/// The least timestamp that DuckDB has, in microseconds: 290309-12-22 BC.
const FIRST_MICROSECOND: i64 = -9_223_372_022_400_000_000;
/// The nanoseconds in 1677 before which DuckDB has none.
const FIRST_NANOSECOND: i64 = -9_223_286_400_000_000_000;

/// The schema in which rows of these columns are handed to DuckDB.
///
/// # Errors
/// `Unsupported` for a type that is not stored.
pub(crate) fn schema<'a>(fields: impl IntoIterator<Item = &'a Field>) -> Result<SchemaRef> {
    let fields = fields.into_iter().map(taken).collect::<Result<Vec<_>>>()?;
    Ok(Arc::new(Schema::new(fields)))
}

/// The field in whose type the values of `field` are handed over.
fn taken(field: &Field) -> Result<Field> {
    let carried = Stored::of(field)?.carried(field.name(), true);
    // Other layouts of the same values, which DuckDB reads as well.
    let as_it_is = matches!(
        (field.data_type(), carried.data_type()),
        (DataType::LargeUtf8 | DataType::Utf8View, DataType::Utf8)
            | (DataType::LargeBinary, DataType::Binary)
    );
    match as_it_is {
        true => Ok(carried.with_data_type(field.data_type().clone())),
        false => Ok(carried),
    }
}

/// The rows in the types of `schema`, which [`schema`] has made of their fields.
///
/// # Errors
/// `Data` for a value that DuckDB cannot hold, naming table and column.
pub(crate) fn rows(
    table: &TableName,
    rows: &RecordBatch,
    schema: &SchemaRef,
) -> Result<RecordBatch> {
    let there = rows.schema_ref().fields().iter().zip(rows.columns());
    let columns = there
        .zip(schema.fields())
        .map(|((from, values), to)| {
            column(from, values, to).map_err(|error| match error.context_value("column") {
                Some(_) => error.context("table", table),
                None => error.context("table", table).context("column", from.name()),
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?)
}

/// The values of a column in the type in which DuckDB takes them.
pub(crate) fn column(from: &Field, values: &ArrayRef, to: &Field) -> Result<ArrayRef> {
    use DataType as D;
    Ok(match (values.data_type(), to.data_type()) {
        (D::Date32, D::Date32) => dates(values)?,
        (D::Timestamp(unit, _), D::Timestamp(_, zone)) => {
            let zone = zone.clone();
            match unit {
                TimeUnit::Second => scaled::<TimestampSecondType>(values, 1_000_000, zone)?,
                TimeUnit::Millisecond => scaled::<TimestampMillisecondType>(values, 1_000, zone)?,
                TimeUnit::Microsecond => {
                    bounded::<TimestampMicrosecondType>(values, FIRST_MICROSECOND, zone)?
                }
                TimeUnit::Nanosecond => {
                    bounded::<TimestampNanosecondType>(values, FIRST_NANOSECOND, zone)?
                }
            }
        }
        (D::Interval(_) | D::Duration(_), D::Interval(_)) => intervals(from, values, to)?,
        (D::List(item) | D::LargeList(item) | D::FixedSizeList(item, _), D::List(wanted)) => {
            lists(item, values, wanted)?
        }
        (D::Null, wanted) => new_null_array(wanted, values.len()),
        (there, wanted) if there == wanted => Arc::clone(values),
        (there, wanted) if is_cast_exact(there, wanted) => exact_cast(values, wanted)?,
        _ => convert(from, values, to)?,
    })
}

fn is_cast_exact(from: &DataType, to: &DataType) -> bool {
    use DataType as D;
    matches!(
        (from, to),
        (D::Float16, D::Float32)
            | (D::Decimal32(..) | D::Decimal64(..) | D::Decimal256(..), D::Decimal128(..))
            | (D::Time32(_), D::Time64(_))
            | (D::FixedSizeBinary(_) | D::BinaryView, D::Binary)
    )
}

fn exact_cast(values: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    // Not `safe`: that would make NULL of a value that does not fit.
    let options = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(values, to, &options).map_err(|_| too_far())
}

fn too_far() -> Error {
    Error::data("A value is outside of what DuckDB can hold")
}

/// Infinite dates are other numbers in DuckDB.
fn dates(values: &ArrayRef) -> Result<ArrayRef> {
    let array = values.as_primitive::<Date32Type>();
    if !array.values().iter().any(|day| *day <= -i32::MAX) {
        return Ok(Arc::clone(values));
    }
    let replaced = array.try_unary::<_, Date32Type, Error>(|day| match day {
        i32::MIN => Ok(-i32::MAX),
        day if day == -i32::MAX => Err(too_far()),
        day => Ok(day),
    })?;
    Ok(Arc::new(replaced))
}

/// Timestamps of the unit that is stored; `first` is the least of them that DuckDB has.
fn bounded<T: ArrowTimestampType>(
    values: &ArrayRef,
    first: i64,
    zone: Option<Arc<str>>,
) -> Result<ArrayRef> {
    let array = values.as_primitive::<T>();
    if !array.values().iter().any(|value| *value < first) {
        return Ok(Arc::new(array.clone().with_timezone_opt(zone)));
    }
    let replaced = array.try_unary::<_, T, Error>(|value| match value {
        i64::MIN => Ok(-i64::MAX),
        value if value < first => Err(too_far()),
        value => Ok(value),
    })?;
    Ok(Arc::new(replaced.with_timezone_opt(zone)))
}

/// Timestamps of a coarser unit, as microseconds.
fn scaled<T: ArrowTimestampType>(
    values: &ArrayRef,
    factor: i64,
    zone: Option<Arc<str>>,
) -> Result<ArrayRef> {
    let scaled: PrimitiveArray<TimestampMicrosecondType> =
        values.as_primitive::<T>().try_unary(|value| match value {
            i64::MAX => Ok(i64::MAX),
            i64::MIN => Ok(-i64::MAX),
            value => value
                .checked_mul(factor)
                .filter(|scaled| *scaled >= FIRST_MICROSECOND)
                .ok_or_else(too_far),
        })?;
    Ok(Arc::new(scaled.with_timezone_opt(zone)))
}

/// DuckDB counts microseconds.
fn intervals(from: &Field, values: &ArrayRef, to: &Field) -> Result<ArrayRef> {
    let converted = convert(from, values, to)?;
    let array = converted.as_primitive::<IntervalMonthDayNanoType>();
    if array.iter().flatten().any(|interval| interval.nanoseconds % 1_000 != 0) {
        return Err(Error::data("DuckDB's intervals have no nanoseconds"));
    }
    Ok(converted)
}

fn lists(item: &Field, values: &ArrayRef, wanted: &Arc<Field>) -> Result<ArrayRef> {
    let same_items = DataType::List(Arc::new(item.clone()));
    let lists = match values.data_type() == &same_items {
        true => Arc::clone(values),
        false => exact_cast(values, &same_items)?,
    };
    let lists = lists.as_list::<i32>();
    let items = column(item, lists.values(), wanted)?;
    let (offsets, nulls) = (lists.offsets().clone(), lists.nulls().cloned());
    Ok(Arc::new(ListArray::try_new(Arc::clone(wanted), offsets, items, nulls)?))
}

/// Whether equal values of a column may have several forms, so that it cannot be a key: `1.0` and
/// `1.00`, `1 month` and `30 days`.
pub(crate) fn has_several_forms(field: &Field) -> bool {
    matches!(LogicalType::of(field), Ok(LogicalType::Numeric | LogicalType::Interval))
}

#[cfg(test)]
mod tests {
    use arrow_array::{Date32Array, TimestampMicrosecondArray, TimestampSecondArray};
    use highwater_core::ErrorKind;

    use super::*;

    fn taken_as(values: impl Array + 'static) -> Result<ArrayRef> {
        let from = Field::new("c", values.data_type().clone(), true);
        column(&from, &(Arc::new(values) as ArrayRef), &taken(&from).unwrap())
    }

    #[test]
    fn infinity_is_kept_and_what_duckdb_would_take_for_it_is_refused() {
        let days = taken_as(Date32Array::from(vec![Some(0), None, Some(i32::MIN)])).unwrap();
        assert_eq!(days.as_primitive::<Date32Type>().value(2), -i32::MAX);
        let error = taken_as(Date32Array::from(vec![i32::MIN + 1])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Data);
        let seconds = TimestampSecondArray::from(vec![i64::MAX, i64::MIN, 1]);
        let stored = taken_as(seconds).unwrap();
        let stored = stored.as_primitive::<TimestampMicrosecondType>().values().to_vec();
        assert_eq!(stored, [i64::MAX, -i64::MAX, 1_000_000]);
        assert!(taken_as(TimestampSecondArray::from(vec![i64::MAX - 1])).is_err());
        assert!(taken_as(TimestampMicrosecondArray::from(vec![i64::MIN + 1])).is_err());
    }
}
