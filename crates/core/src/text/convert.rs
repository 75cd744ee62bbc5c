//! From one type to another without changing a value: what a system stores a type as, back into
//! the type that somebody asks for.

use std::sync::Arc;

use arrow_array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, make_array, new_null_array};
use arrow_cast::{CastOptions, cast_with_options};
use arrow_schema::{DataType, Field, Schema};

use super::{TextBuilder, TextColumn};
use crate::error::{Error, Result};
use crate::table::Table;
use crate::types::{LogicalType, type_name};

/// The values of a column in the type of `to`: by a cast where that is exact, else by their
/// canonical text. Instants become wall-clock times in UTC, and the other way round.
///
/// # Errors
/// `Data` for a value that is none of the type, `Unsupported` for types that have no text; both
/// name the column.
pub fn convert(from: &Field, values: &ArrayRef, to: &Field) -> Result<ArrayRef> {
    if values.data_type() == to.data_type() {
        return Ok(Arc::clone(values));
    }
    try_convert(from, values, to)
        .map_err(|error| error.context("column", to.name()).context("wanted", type_name(to)))
}

fn try_convert(from: &Field, values: &ArrayRef, to: &Field) -> Result<ArrayRef> {
    if let (DataType::Timestamp(a, of), DataType::Timestamp(b, wanted)) =
        (values.data_type(), to.data_type())
    {
        if a == b {
            return relabelled(values, to.data_type());
        }
        if of.is_some() != wanted.is_some() {
            let same_unit = DataType::Timestamp(*a, wanted.clone());
            let from = from.clone().with_data_type(same_unit.clone());
            return through_text(&from, &relabelled(values, &same_unit)?, to);
        }
    }
    if is_cast_exact(values.data_type(), to.data_type()) {
        // Not `safe`: that would make NULL of a value that does not fit.
        let options = CastOptions { safe: false, ..CastOptions::default() };
        // A time that is infinite is no number of seconds to be multiplied.
        return cast_with_options(values, to.data_type(), &options)
            .or_else(|_| through_text(from, values, to))
            .map_err(|_| Error::data("A value does not fit the type that is wanted"));
    }
    through_text(from, values, to)
}

/// The same integers under another type of timestamps.
fn relabelled(values: &ArrayRef, data_type: &DataType) -> Result<ArrayRef> {
    let data = values.to_data().into_builder().data_type(data_type.clone());
    Ok(make_array(data.build()?))
}

/// Casts that keep every value or fail.
fn is_cast_exact(from: &DataType, to: &DataType) -> bool {
    use DataType as D;
    let text = |t: &D| matches!(t, D::Utf8 | D::LargeUtf8 | D::Utf8View);
    let bytes = |t: &D| matches!(t, D::Binary | D::LargeBinary | D::BinaryView);
    (from.is_integer() && to.is_integer())
        || (text(from) && text(to))
        || (bytes(from) && bytes(to))
        || matches!((from, to), (D::Float16 | D::Float32, D::Float64) | (D::Float16, D::Float32))
}

fn through_text(from: &Field, values: &ArrayRef, to: &Field) -> Result<ArrayRef> {
    let column = TextColumn::new(from, values.as_ref())?;
    let mut builder = TextBuilder::new(to)?;
    let mut text = String::new();
    for row in 0..values.len() {
        if column.is_null(row) {
            builder.append_null();
            continue;
        }
        text.clear();
        column.write(row, &mut text);
        builder.append(&text)?;
    }
    Ok(builder.finish())
}

/// The rows with exactly the columns of `table`, in that order and of these types; a column that
/// they do not have is NULL, also where the table promises a value.
///
/// # Errors
/// As [`convert`].
pub fn convert_rows(rows: &RecordBatch, table: &Table) -> Result<RecordBatch> {
    let there = rows.schema_ref();
    let mut fields = Vec::with_capacity(table.schema.fields().len());
    let mut columns = Vec::with_capacity(fields.capacity());
    for field in table.schema.fields() {
        LogicalType::of(field).map_err(|error| error.context("table", &table.name))?;
        let column = match there.index_of(field.name()) {
            Err(_) => new_null_array(field.data_type(), rows.num_rows()),
            Ok(at) => convert(there.field(at), rows.column(at), field)
                .map_err(|error| error.context("table", &table.name))?,
        };
        let has_null = column.logical_null_count() > 0;
        fields.push(match field.is_nullable() || !has_null {
            true => Arc::clone(field),
            false => Arc::new(field.as_ref().clone().with_nullable(true)),
        });
        columns.push(column);
    }
    let schema = Schema::new_with_metadata(fields, table.schema.metadata().clone());
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::new(schema), columns, &options)?)
}

#[cfg(test)]
mod tests {
    use arrow_array::cast::AsArray;
    use arrow_array::types::{DurationMillisecondType, UInt64Type};
    use arrow_array::{
        Decimal128Array, Int64Array, IntervalMonthDayNanoArray, StringArray,
        TimestampMicrosecondArray, UInt64Array,
    };
    use arrow_buffer::IntervalMonthDayNano;
    use arrow_schema::TimeUnit;

    use super::*;
    use crate::error::ErrorKind;
    use crate::table::TableName;
    use crate::types::{JSON, UUID, extension_field};

    fn to(values: impl Array + 'static, field: &Field) -> Result<ArrayRef> {
        let from = Field::new("c", values.data_type().clone(), true);
        convert(&from, &(Arc::new(values) as ArrayRef), field)
    }

    fn field(data_type: DataType) -> Field {
        Field::new("c", data_type, true)
    }

    #[test]
    fn what_stands_for_a_type_becomes_the_type_again() {
        let decimals = Decimal128Array::from(vec![Some(u64::MAX.into()), None])
            .with_precision_and_scale(20, 0)
            .unwrap();
        let numbers = to(decimals, &field(DataType::UInt64)).unwrap();
        assert_eq!(
            numbers.as_primitive::<UInt64Type>(),
            &UInt64Array::from(vec![Some(u64::MAX), None])
        );
        let interval =
            IntervalMonthDayNano { months: 0, days: 0, nanoseconds: -90_061_001_000_000 };
        let elapsed = to(
            IntervalMonthDayNanoArray::from(vec![interval]),
            &field(DataType::Duration(TimeUnit::Millisecond)),
        );
        assert_eq!(
            elapsed.unwrap().as_primitive::<DurationMillisecondType>().value(0),
            -90_061_001
        );
        let list = DataType::List(Arc::new(Field::new("item", DataType::UInt8, true)));
        let lists = to(StringArray::from(vec!["[1, null]"]), &field(list)).unwrap();
        assert_eq!(lists.as_list::<i32>().value(0).len(), 2);
        let uuid = extension_field("c", DataType::FixedSizeBinary(16), UUID);
        let text = "0b0e5bd6-1f8e-4a0e-9c5a-2f0f2a3d6c11";
        let uuids = to(StringArray::from(vec![text]), &uuid).unwrap();
        let back = convert(&uuid, &uuids, &field(DataType::Utf8)).unwrap();
        assert_eq!(back.as_string::<i32>().value(0), text);
    }

    #[test]
    fn instants_and_wall_clock_times_are_the_same_integers() {
        let wall = TimestampMicrosecondArray::from(vec![Some(1_000_000), Some(i64::MAX), None]);
        let utc = |unit| field(DataType::Timestamp(unit, Some("UTC".into())));
        let instants = to(wall.clone(), &utc(TimeUnit::Microsecond)).unwrap();
        assert_eq!(instants.data_type(), utc(TimeUnit::Microsecond).data_type());
        let back =
            convert(&utc(TimeUnit::Microsecond), &instants, &field(wall.data_type().clone()));
        assert_eq!(back.unwrap().as_ref(), &wall as &dyn Array);
        let seconds = to(wall, &utc(TimeUnit::Second)).unwrap();
        let seconds = relabelled(&seconds, &DataType::Int64).unwrap();
        assert_eq!(
            seconds.as_ref(),
            &Int64Array::from(vec![Some(1), Some(i64::MAX), None]) as &dyn Array
        );
    }

    #[test]
    fn a_value_that_does_not_fit_is_refused_by_name_of_its_column() {
        for (values, wanted) in [
            (Arc::new(Int64Array::from(vec![-1])) as ArrayRef, DataType::UInt64),
            (Arc::new(StringArray::from(vec!["secret"])), DataType::Int64),
        ] {
            let from = field(values.data_type().clone());
            let error = convert(&from, &values, &field(wanted)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Data);
            assert_eq!(error.context_value("column"), Some("c"));
            assert!(!error.full_message().contains("secret"));
        }
    }

    #[test]
    fn rows_get_the_columns_that_are_asked_for() {
        let rows = RecordBatch::try_from_iter([
            ("b", Arc::new(StringArray::from(vec!["{}"])) as ArrayRef),
            ("a", Arc::new(Int64Array::from(vec![1])) as ArrayRef),
            ("more", Arc::new(Int64Array::from(vec![2])) as ArrayRef),
        ])
        .unwrap();
        let fields = vec![
            Field::new("a", DataType::UInt64, false),
            extension_field("b", DataType::Utf8, JSON),
            Field::new("missing", DataType::Date32, false),
        ];
        let shaped = convert_rows(&rows, &Table::new(TableName::new("t"), fields)).unwrap();
        let names: Vec<_> = shaped.schema_ref().fields().iter().map(|f| f.name().clone()).collect();
        assert_eq!(names, ["a", "b", "missing"]);
        assert_eq!(shaped.column(0).as_primitive::<UInt64Type>().value(0), 1);
        assert!(shaped.column(2).is_null(0) && shaped.schema_ref().field(2).is_nullable());
        assert!(!shaped.schema_ref().field(0).is_nullable());
    }
}
