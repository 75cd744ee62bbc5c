//! From Arrow arrays into the bytes of a binary COPY.
//!
//! A batch is prepared once: each column is brought to one of a few physical layouts (a cast only
//! where the layout is a rare one) and gets an encoder. Rows are then written one after the other
//! into a buffer. The types are those of [`crate::dialect`]: what is not encoded natively is
//! written as text, and the server casts it.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Decimal128Type, Decimal256Type, DurationMicrosecondType, Float32Type, Float64Type,
    Int16Type, Int32Type, Int64Type, IntervalMonthDayNanoType, Time64MicrosecondType,
    TimestampMicrosecondType, UInt64Type,
};
use arrow_array::{Array, ArrayRef, PrimitiveArray, RecordBatch, StringArray};
use arrow_buffer::{NullBuffer, OffsetBuffer};
use arrow_cast::{CastOptions, cast_with_options};
use arrow_schema::{DataType, Field, IntervalUnit, TimeUnit};
use bytes::{BufMut, BytesMut};
use highwater_core::text::TextColumn;
use highwater_core::types::{DECLARED, DEFINITION, with_metadata};
use highwater_core::{Error, LogicalType, Result};
use tokio_postgres::types::Type;

use crate::decode::{EPOCH_DAYS, EPOCH_MICROS};
use crate::dialect;
use crate::numeric;
use crate::stored;
use crate::types::SYSTEM;

/// What a binary COPY begins with: signature, flags, length of the extension.
pub(crate) const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// What it ends with.
pub(crate) const TRAILER: [u8; 2] = (-1_i16).to_be_bytes();

/// The two columns that a staging table has behind those of the target.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Staged {
    /// The ordinal of the batch's first row.
    pub(crate) first_ordinal: i64,
    /// `u` or `d`.
    pub(crate) operation: &'static str,
}

/// A batch that is ready to be written.
pub(crate) struct Prepared {
    columns: Vec<Column>,
    rows: usize,
    staged: Option<Staged>,
}

impl Prepared {
    /// # Errors
    /// `Data` naming the column when a value has no form in PostgreSQL (a NUL in a text, a time
    /// beyond its range). Nothing was written then.
    pub(crate) fn new(batch: &RecordBatch, staged: Option<Staged>) -> Result<Self> {
        let schema = batch.schema_ref();
        let columns = schema
            .fields()
            .iter()
            .zip(batch.columns())
            .map(|(field, array)| {
                Column::new(field, array).map_err(|e| e.context("column", field.name()))
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Self { columns, rows: batch.num_rows(), staged })
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Writes rows from `row` on until the buffer holds `bytes_wanted`; returns the next row.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub(crate) fn encode(
        &self,
        mut row: usize,
        bytes_wanted: usize,
        out: &mut BytesMut,
    ) -> Result<usize> {
        let fields = self.columns.len() + if self.staged.is_some() { 2 } else { 0 };
        // PostgreSQL has at most 1,600 columns.
        let fields = i16::try_from(fields).unwrap_or(i16::MAX);
        while row < self.rows && out.len() < bytes_wanted {
            out.put_i16(fields);
            for column in &self.columns {
                column.encode(row, out)?;
            }
            if let Some(staged) = self.staged {
                out.put_i32(8);
                out.put_i64(staged.first_ordinal + row as i64);
                put_bytes(staged.operation.as_bytes(), out);
            }
            row += 1;
        }
        Ok(row)
    }
}

/// The binary form of one value; `None` for NULL.
///
/// # Errors
/// As [`Prepared::new`].
pub(crate) fn single(field: &Field, value: &ArrayRef) -> Result<Option<Vec<u8>>> {
    let column = Column::new(field, value).map_err(|e| e.context("column", field.name()))?;
    let mut bytes = BytesMut::new();
    column.encode(0, &mut bytes)?;
    // The length comes first, and is negative for NULL.
    let is_null = bytes.first().is_none_or(|first| *first >= 0x80);
    Ok((!is_null).then(|| bytes.get(4..).unwrap_or_default().to_vec()))
}

struct Column {
    name: String,
    nulls: Option<NullBuffer>,
    values: Values,
}

/// The physical layouts that rows are written from.
enum Values {
    Bool(arrow_array::BooleanArray),
    Int2(PrimitiveArray<Int16Type>),
    Int4(PrimitiveArray<Int32Type>),
    Int8(PrimitiveArray<Int64Type>),
    Unsigned8(PrimitiveArray<UInt64Type>),
    Float4(PrimitiveArray<Float32Type>),
    Float8(PrimitiveArray<Float64Type>),
    Decimal(PrimitiveArray<Decimal128Type>, i8),
    /// Also decimals of more than 38 digits, as text.
    Numeric(StringArray),
    Text(StringArray),
    Jsonb(StringArray),
    Bytes(arrow_array::BinaryArray),
    Uuid(arrow_array::FixedSizeBinaryArray),
    Date(PrimitiveArray<Date32Type>),
    Time(PrimitiveArray<Time64MicrosecondType>),
    Timestamp(PrimitiveArray<TimestampMicrosecondType>),
    Interval(PrimitiveArray<IntervalMonthDayNanoType>),
    Elapsed(PrimitiveArray<DurationMicrosecondType>),
    List {
        offsets: OffsetBuffer<i32>,
        items: Box<Column>,
        item_type: Type,
    },
}

impl Column {
    fn new(field: &Field, array: &ArrayRef) -> Result<Self> {
        let values = values(field, array)?;
        // The text layouts replace the array; whether a row is NULL is the original's to say.
        Ok(Self { name: field.name().clone(), nulls: array.logical_nulls(), values })
    }

    fn encode(&self, row: usize, out: &mut BytesMut) -> Result<()> {
        if self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
            out.put_i32(-1);
            return Ok(());
        }
        match &self.values {
            Values::Bool(a) => put(out, |out| out.put_u8(a.value(row).into())),
            Values::Int2(a) => put_fixed(&a.value(row).to_be_bytes(), out),
            Values::Int4(a) => put_fixed(&a.value(row).to_be_bytes(), out),
            Values::Int8(a) => put_fixed(&a.value(row).to_be_bytes(), out),
            Values::Unsigned8(a) => {
                put(out, |out| numeric::encode_i128(a.value(row).into(), 0, out));
            }
            Values::Float4(a) => put_fixed(&a.value(row).to_be_bytes(), out),
            Values::Float8(a) => put_fixed(&a.value(row).to_be_bytes(), out),
            Values::Decimal(a, scale) => {
                put(out, |out| numeric::encode_i128(a.value(row), *scale, out));
            }
            Values::Numeric(a) => self.numeric(a.value(row), out)?,
            Values::Text(a) => put_bytes(self.text(a.value(row))?, out),
            Values::Jsonb(a) => {
                let text = self.text(a.value(row))?;
                put(out, |out| {
                    out.put_u8(1);
                    out.put_slice(text);
                });
            }
            Values::Bytes(a) => put_bytes(a.value(row), out),
            Values::Uuid(a) => put_bytes(a.value(row), out),
            Values::Date(a) => put_fixed(&self.date(a.value(row))?.to_be_bytes(), out),
            Values::Time(a) => put_fixed(&self.time(a.value(row))?.to_be_bytes(), out),
            Values::Timestamp(a) => put_fixed(&self.timestamp(a.value(row))?.to_be_bytes(), out),
            Values::Interval(a) => {
                let value = a.value(row);
                if value.nanoseconds % 1000 != 0 {
                    return Err(self.unfit("An interval is finer than a microsecond"));
                }
                put_interval(value.nanoseconds / 1000, value.days, value.months, out);
            }
            Values::Elapsed(a) => put_interval(a.value(row), 0, 0, out),
            Values::List { offsets, items, item_type } => {
                let (start, end) = (offsets[row] as usize, offsets[row + 1] as usize);
                return self.list(items, start..end, item_type, out);
            }
        }
        Ok(())
    }

    fn list(
        &self,
        items: &Self,
        range: std::ops::Range<usize>,
        item_type: &Type,
        out: &mut BytesMut,
    ) -> Result<()> {
        let start = begin(out);
        let dimensions = i32::from(!range.is_empty());
        let has_null = items.nulls.as_ref().is_some_and(|n| range.clone().any(|i| n.is_null(i)));
        out.put_i32(dimensions);
        out.put_i32(has_null.into());
        out.put_u32(item_type.oid());
        if dimensions == 1 {
            out.put_i32(i32::try_from(range.len()).unwrap_or(i32::MAX));
            // PostgreSQL counts from 1.
            out.put_i32(1);
        }
        for item in range {
            items.encode(item, out).map_err(|e| e.context("list", &self.name))?;
        }
        end(start, out);
        Ok(())
    }

    fn numeric(&self, text: &str, out: &mut BytesMut) -> Result<()> {
        let start = begin(out);
        if numeric::encode_text(text, out).is_none() {
            return Err(self.unfit("A value is not a number that PostgreSQL can hold"));
        }
        end(start, out);
        Ok(())
    }

    fn text<'a>(&self, text: &'a str) -> Result<&'a [u8]> {
        let bytes = text.as_bytes();
        if bytes.contains(&0) {
            return Err(self
                .unfit("A text holds a NUL character, which PostgreSQL cannot store")
                .hint("remove it at the source, or leave the column out with `columns: […]`"));
        }
        Ok(bytes)
    }

    /// The greatest and the least value mean `infinity` and `-infinity` on both sides.
    fn date(&self, days: i32) -> Result<i32> {
        if days == i32::MAX || days == i32::MIN {
            return Ok(days);
        }
        days.checked_sub(EPOCH_DAYS)
            .filter(|d| *d != i32::MIN)
            .ok_or_else(|| self.unfit("A date is beyond what PostgreSQL can hold"))
    }

    fn timestamp(&self, micros: i64) -> Result<i64> {
        if micros == i64::MAX || micros == i64::MIN {
            return Ok(micros);
        }
        micros
            .checked_sub(EPOCH_MICROS)
            .filter(|m| *m != i64::MIN)
            .ok_or_else(|| self.unfit("A timestamp is beyond what PostgreSQL can hold"))
    }

    fn time(&self, micros: i64) -> Result<i64> {
        const DAY_MICROS: i64 = 86_400_000_000;
        if (0..=DAY_MICROS).contains(&micros) {
            return Ok(micros);
        }
        Err(self.unfit("A time of day is not between 00:00 and 24:00"))
    }

    fn unfit(&self, why: &str) -> Error {
        Error::data(why).context("column", &self.name)
    }
}

/// Brings a column to one of the layouts.
fn values(field: &Field, array: &ArrayRef) -> Result<Values> {
    use LogicalType as L;
    let cast = |to: &DataType| cast_exactly(array, to);
    Ok(match LogicalType::of(field)? {
        L::Boolean => Values::Bool(array.as_boolean().clone()),
        L::Integer { bits: 8, .. } | L::Integer { bits: 16, signed: true } => {
            Values::Int2(cast(&DataType::Int16)?.as_primitive().clone())
        }
        L::Integer { bits: 16, .. } | L::Integer { bits: 32, signed: true } => {
            Values::Int4(cast(&DataType::Int32)?.as_primitive().clone())
        }
        L::Integer { bits: 64, signed: false } => Values::Unsigned8(array.as_primitive().clone()),
        L::Integer { .. } => Values::Int8(cast(&DataType::Int64)?.as_primitive().clone()),
        L::Float { bits: 64 } => Values::Float8(array.as_primitive().clone()),
        L::Float { .. } => Values::Float4(cast(&DataType::Float32)?.as_primitive().clone()),
        L::Decimal { precision, scale } => decimal(field, array, precision, scale)?,
        L::Numeric => Values::Numeric(cast(&DataType::Utf8)?.as_string().clone()),
        L::Text => Values::Text(cast(&DataType::Utf8)?.as_string().clone()),
        L::Json if dialect::is_jsonb(field) => {
            Values::Jsonb(cast(&DataType::Utf8)?.as_string().clone())
        }
        L::Json => Values::Text(cast(&DataType::Utf8)?.as_string().clone()),
        L::Uuid => Values::Uuid(array.as_fixed_size_binary().clone()),
        L::Binary => Values::Bytes(cast(&DataType::Binary)?.as_binary().clone()),
        L::Date => Values::Date(cast(&DataType::Date32)?.as_primitive().clone()),
        L::Time(TimeUnit::Nanosecond)
        | L::Timestamp { unit: TimeUnit::Nanosecond, .. }
        | L::Duration(TimeUnit::Nanosecond)
        | L::Null => Values::Text(as_text(field, array, |c, row, out| c.write(row, out))?),
        L::Time(_) => {
            Values::Time(cast(&DataType::Time64(TimeUnit::Microsecond))?.as_primitive().clone())
        }
        L::Timestamp { unit, .. } => Values::Timestamp(micros(field, array, unit)?),
        L::Duration(_) => Values::Elapsed(
            cast(&DataType::Duration(TimeUnit::Microsecond))?.as_primitive().clone(),
        ),
        L::Interval => {
            let to = DataType::Interval(IntervalUnit::MonthDayNano);
            Values::Interval(cast(&to)?.as_primitive().clone())
        }
        L::List(item) => list(field, array, &item)?,
        L::Nested => Values::Jsonb(as_text(field, array, |c, row, out| c.write_json(row, out))?),
    })
}

fn decimal(field: &Field, array: &ArrayRef, precision: u8, scale: i8) -> Result<Values> {
    if precision <= 38 {
        let to = DataType::Decimal128(precision, scale);
        return Ok(Values::Decimal(cast_exactly(array, &to)?.as_primitive().clone(), scale));
    }
    debug_assert!(array.as_primitive_opt::<Decimal256Type>().is_some());
    Ok(Values::Numeric(as_text(field, array, |c, row, out| c.write(row, out))?))
}

fn list(field: &Field, array: &ArrayRef, item: &Field) -> Result<Values> {
    let Some(natural) = array_item_type(item)? else {
        return Ok(Values::Jsonb(as_text(field, array, |c, row, out| c.write_json(row, out))?));
    };
    let lists = cast_exactly(array, &DataType::List(Arc::new(item.clone())))?;
    // The server takes no other element type than the declared one.
    let definition = field.metadata().get(DEFINITION).map(String::as_str);
    let element = dialect::declared(field).and_then(|d| stored::array_element(d, definition));
    let (item, item_type) = match element {
        Some((name, declared)) => {
            (with_metadata(item.clone(), DECLARED, format!("{SYSTEM}:{name}")), declared)
        }
        None => (item.clone(), natural),
    };
    let lists = lists.as_list::<i32>();
    Ok(Values::List {
        offsets: lists.offsets().clone(),
        items: Box::new(Column::new(&item, lists.values())?),
        item_type,
    })
}

/// The type of an array's elements; `None` for what is stored as `jsonb`.
fn array_item_type(item: &Field) -> Result<Option<Type>> {
    use LogicalType as L;
    Ok(Some(match LogicalType::of(item)? {
        L::Boolean => Type::BOOL,
        L::Integer { bits: 8, .. } | L::Integer { bits: 16, signed: true } => Type::INT2,
        L::Integer { bits: 16, .. } | L::Integer { bits: 32, signed: true } => Type::INT4,
        L::Integer { bits: 64, signed: false } | L::Decimal { .. } | L::Numeric => Type::NUMERIC,
        L::Integer { .. } => Type::INT8,
        L::Float { bits: 64 } => Type::FLOAT8,
        L::Float { .. } => Type::FLOAT4,
        L::Json if dialect::is_jsonb(item) => Type::JSONB,
        L::Json => Type::JSON,
        L::Uuid => Type::UUID,
        L::Binary => Type::BYTEA,
        L::Date => Type::DATE,
        L::Time(TimeUnit::Nanosecond)
        | L::Timestamp { unit: TimeUnit::Nanosecond, .. }
        | L::Duration(TimeUnit::Nanosecond)
        | L::Text => Type::TEXT,
        L::Time(_) => Type::TIME,
        L::Timestamp { utc: false, .. } => Type::TIMESTAMP,
        L::Timestamp { utc: true, .. } => Type::TIMESTAMPTZ,
        L::Duration(_) | L::Interval => Type::INTERVAL,
        L::List(_) | L::Nested | L::Null => return Ok(None),
    }))
}

/// Timestamps in microseconds. The ends of the range, which mean the infinities, stay its ends.
fn micros(
    field: &Field,
    array: &ArrayRef,
    unit: TimeUnit,
) -> Result<PrimitiveArray<TimestampMicrosecondType>> {
    let factor = match unit {
        TimeUnit::Second => 1_000_000,
        TimeUnit::Millisecond => 1000,
        TimeUnit::Microsecond | TimeUnit::Nanosecond => 1,
    };
    let ticks = cast_exactly(array, &DataType::Int64)?;
    let ticks = ticks.as_primitive::<Int64Type>();
    if factor == 1 {
        return Ok(ticks.reinterpret_cast());
    }
    let scaled: PrimitiveArray<Int64Type> = ticks
        .try_unary(|ticks| match ticks {
            i64::MAX | i64::MIN => Ok(ticks),
            finite => finite.checked_mul(factor).ok_or(()),
        })
        .map_err(|()| {
            Error::data("A timestamp is beyond what PostgreSQL can hold")
                .context("column", field.name())
        })?;
    Ok(scaled.reinterpret_cast())
}

/// A cast that fails rather than changing a value.
fn cast_exactly(array: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    if array.data_type() == to {
        return Ok(Arc::clone(array));
    }
    let options = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(array, to, &options)
        .map_err(|_| Error::data("A value is beyond what PostgreSQL can hold"))
}

fn as_text(
    field: &Field,
    array: &ArrayRef,
    write: impl Fn(&TextColumn<'_>, usize, &mut String),
) -> Result<StringArray> {
    let column = TextColumn::new(field, array.as_ref())?;
    let mut text = String::new();
    Ok((0..array.len())
        .map(|row| {
            text.clear();
            if column.is_null(row) {
                return None;
            }
            write(&column, row, &mut text);
            Some(text.clone())
        })
        .collect())
}

fn put_fixed<const N: usize>(bytes: &[u8; N], out: &mut BytesMut) {
    out.put_i32(N as i32);
    out.put_slice(bytes);
}

fn put_bytes(bytes: &[u8], out: &mut BytesMut) {
    // A value of more than 1 GiB is refused by the server.
    out.put_i32(i32::try_from(bytes.len()).unwrap_or(i32::MAX));
    out.put_slice(bytes);
}

fn put_interval(micros: i64, days: i32, months: i32, out: &mut BytesMut) {
    out.put_i32(16);
    out.put_i64(micros);
    out.put_i32(days);
    out.put_i32(months);
}

fn put(out: &mut BytesMut, write: impl FnOnce(&mut BytesMut)) {
    let start = begin(out);
    write(out);
    end(start, out);
}

/// Leaves room for the length of what follows.
fn begin(out: &mut BytesMut) -> usize {
    let start = out.len();
    out.put_i32(0);
    start
}

/// Fills in the length of what was written since [`begin`].
fn end(start: usize, out: &mut BytesMut) {
    let length = i32::try_from(out.len() - start - 4).unwrap_or(i32::MAX);
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use arrow_array::{Date32Array, Int32Array, ListArray, TimestampMicrosecondArray};
    use arrow_schema::Schema;
    use highwater_core::ErrorKind;

    use super::*;

    fn batch(array: impl Array + 'static) -> RecordBatch {
        let field = Field::new("c", array.data_type().clone(), true);
        RecordBatch::try_new(Arc::new(Schema::new(vec![field])), vec![Arc::new(array)]).unwrap()
    }

    fn bytes(array: impl Array + 'static) -> Result<Vec<u8>> {
        let prepared = Prepared::new(&batch(array), None)?;
        let mut out = BytesMut::new();
        assert_eq!(prepared.encode(0, usize::MAX, &mut out)?, prepared.rows());
        Ok(out.to_vec())
    }

    #[test]
    fn integers_and_null() {
        let written = bytes(Int32Array::from(vec![Some(-2), None])).unwrap();
        assert_eq!(written, [0, 1, 0, 0, 0, 4, 255, 255, 255, 254, 0, 1, 255, 255, 255, 255]);
    }

    #[test]
    fn the_columns_of_a_staging_table_follow() {
        let staged = Staged { first_ordinal: 7, operation: "d" };
        let prepared = Prepared::new(&batch(Int32Array::from(vec![1])), Some(staged)).unwrap();
        let mut out = BytesMut::new();
        prepared.encode(0, usize::MAX, &mut out).unwrap();
        assert_eq!(out[..2], [0, 3]);
        assert_eq!(out[10..], [0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 1, b'd']);
    }

    #[test]
    fn encoding_stops_when_the_buffer_is_full_and_goes_on() {
        let prepared = Prepared::new(&batch(Int32Array::from_iter_values(0..100)), None).unwrap();
        let mut out = BytesMut::new();
        let next = prepared.encode(0, 25, &mut out).unwrap();
        assert_eq!((next, out.len()), (3, 30));
        out.clear();
        assert_eq!(prepared.encode(next, usize::MAX, &mut out).unwrap(), 100);
        assert_eq!(out.len(), 970);
    }

    #[test]
    fn days_and_instants_count_from_2000_and_infinity_stays() {
        let days = bytes(Date32Array::from(vec![EPOCH_DAYS, i32::MAX])).unwrap();
        assert_eq!(days[6..10], [0; 4]);
        assert_eq!(days[16..20], i32::MAX.to_be_bytes());
        let micros = vec![EPOCH_MICROS + 1, i64::MIN];
        let instants = bytes(TimestampMicrosecondArray::from(micros)).unwrap();
        assert_eq!(instants[6..14], 1_i64.to_be_bytes());
        assert_eq!(instants[20..28], i64::MIN.to_be_bytes());
        let beyond = bytes(TimestampMicrosecondArray::from(vec![i64::MIN + 1])).unwrap_err();
        assert_eq!(beyond.kind(), ErrorKind::Data);
    }

    #[test]
    fn a_nul_in_a_text_is_refused_by_name_of_its_column() {
        let error = bytes(StringArray::from(vec!["a\0b"])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Data);
        assert_eq!(error.context_value("column"), Some("c"));
        assert!(!error.full_message().contains('\0'));
    }

    #[test]
    fn arrays_have_their_header() {
        let lists = ListArray::from_iter_primitive::<Int32Type, _, _>(vec![
            Some(vec![Some(5), None]),
            Some(vec![]),
        ]);
        let written = bytes(lists).unwrap();
        let first: Vec<u8> =
            [1_i32, 1, 23, 2, 1, 4, 5, -1].iter().flat_map(|i| i.to_be_bytes()).collect();
        assert_eq!(written[2..6], 32_i32.to_be_bytes());
        assert_eq!(written[6..38], first);
        let empty: Vec<u8> = [12_i32, 0, 0, 23].iter().flat_map(|i| i.to_be_bytes()).collect();
        assert_eq!(written[40..], empty);
    }
}
