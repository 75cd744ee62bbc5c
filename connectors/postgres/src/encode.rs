//! From Arrow arrays into the bytes of a binary COPY.
//!
//! A batch is prepared once: each column is brought to one of a few physical layouts (a cast only
//! where the layout is a rare one) and gets an encoder; what can be checked for all its values at
//! once is checked then. Rows are then written one after the other into a buffer, a value and its
//! length in one piece where the length is known. The types are those of [`crate::dialect`]: what
//! is not encoded natively is written as text, and the server casts it.

use std::ops::Range;
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
        out: &mut Vec<u8>,
    ) -> Result<usize> {
        let fields = self.columns.len() + if self.staged.is_some() { 2 } else { 0 };
        // PostgreSQL has at most 1,600 columns.
        let fields = i16::try_from(fields).unwrap_or(i16::MAX);
        while row < self.rows && out.len() < bytes_wanted {
            out.extend_from_slice(&fields.to_be_bytes());
            for column in &self.columns {
                column.encode(row, out)?;
            }
            if let Some(staged) = self.staged {
                put_fixed::<8, 12>((staged.first_ordinal + row as i64).to_be_bytes(), out);
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
    let mut bytes = Vec::new();
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
    Text(Texts),
    Jsonb(Texts),
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

/// Texts, which are searched for NUL characters all at once.
struct Texts {
    array: StringArray,
    /// There is a NUL somewhere in the buffer, perhaps in a value that is not written.
    has_nul: bool,
}

impl Texts {
    fn new(array: &StringArray) -> Self {
        let offsets = array.value_offsets();
        let start = offsets.first().map_or(0, |offset| *offset as usize);
        let end = offsets.last().map_or(start, |offset| *offset as usize);
        let has_nul = array.values()[start..end].contains(&0);
        Self { array: array.clone(), has_nul }
    }
}

impl Column {
    fn new(field: &Field, array: &ArrayRef) -> Result<Self> {
        let values = values(field, array)?;
        // The text layouts replace the array; whether a row is NULL is the original's to say.
        let nulls = array.logical_nulls().filter(|nulls| nulls.null_count() > 0);
        Ok(Self { name: field.name().clone(), nulls, values })
    }

    #[inline]
    fn encode(&self, row: usize, out: &mut Vec<u8>) -> Result<()> {
        if self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
            out.extend_from_slice(&[0xff; 4]);
            return Ok(());
        }
        match &self.values {
            Values::Bool(a) => out.extend_from_slice(&[0, 0, 0, 1, a.value(row).into()]),
            Values::Int2(a) => put_fixed::<2, 6>(a.value(row).to_be_bytes(), out),
            Values::Int4(a) => put_fixed::<4, 8>(a.value(row).to_be_bytes(), out),
            Values::Int8(a) => put_fixed::<8, 12>(a.value(row).to_be_bytes(), out),
            Values::Unsigned8(a) => numeric::put_i128(a.value(row).into(), 0, out),
            Values::Float4(a) => put_fixed::<4, 8>(a.value(row).to_be_bytes(), out),
            Values::Float8(a) => put_fixed::<8, 12>(a.value(row).to_be_bytes(), out),
            Values::Decimal(a, scale) => numeric::put_i128(a.value(row), *scale, out),
            Values::Numeric(a) => self.numeric(a.value(row), out)?,
            Values::Text(texts) => {
                let range = self.text(texts, row)?;
                put_range(texts.array.values(), range, out);
            }
            Values::Jsonb(texts) => {
                let text = &texts.array.values()[self.text(texts, row)?];
                out.extend_from_slice(&length_of(text.len() + 1));
                // The version of the format.
                out.push(1);
                out.extend_from_slice(text);
            }
            Values::Bytes(a) => put_bytes(a.value(row), out),
            Values::Uuid(a) => put_bytes(a.value(row), out),
            Values::Date(a) => put_fixed::<4, 8>(self.date(a.value(row))?.to_be_bytes(), out),
            Values::Time(a) => put_fixed::<8, 12>(self.time(a.value(row))?.to_be_bytes(), out),
            Values::Timestamp(a) => {
                put_fixed::<8, 12>(self.timestamp(a.value(row))?.to_be_bytes(), out);
            }
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
                self.list(items, start..end, item_type, out)?;
            }
        }
        Ok(())
    }

    fn list(
        &self,
        items: &Self,
        range: Range<usize>,
        item_type: &Type,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let start = begin(out);
        let dimensions = i32::from(!range.is_empty());
        let has_null = items.nulls.as_ref().is_some_and(|n| range.clone().any(|i| n.is_null(i)));
        out.extend_from_slice(&dimensions.to_be_bytes());
        out.extend_from_slice(&i32::from(has_null).to_be_bytes());
        out.extend_from_slice(&item_type.oid().to_be_bytes());
        if dimensions == 1 {
            out.extend_from_slice(&length_of(range.len()));
            // PostgreSQL counts from 1.
            out.extend_from_slice(&1_i32.to_be_bytes());
        }
        for item in range {
            items.encode(item, out).map_err(|e| e.context("list", &self.name))?;
        }
        end(start, out);
        Ok(())
    }

    fn numeric(&self, text: &str, out: &mut Vec<u8>) -> Result<()> {
        if numeric::put_plain_text(text, out) {
            return Ok(());
        }
        let start = begin(out);
        if numeric::encode_text(text, out).is_none() {
            return Err(self.unfit("A value is not a number that PostgreSQL can hold"));
        }
        end(start, out);
        Ok(())
    }

    /// Where the text of a row lies in its buffer.
    #[inline]
    fn text(&self, texts: &Texts, row: usize) -> Result<Range<usize>> {
        let offsets = texts.array.value_offsets();
        let range = offsets[row] as usize..offsets[row + 1] as usize;
        if texts.has_nul && texts.array.values()[range.clone()].contains(&0) {
            return Err(self
                .unfit("A text holds a NUL character, which PostgreSQL cannot store")
                .hint("remove it at the source, or leave the column out with `columns: […]`"));
        }
        Ok(range)
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
        L::Text => Values::Text(Texts::new(cast(&DataType::Utf8)?.as_string())),
        L::Json if dialect::is_jsonb(field) => {
            Values::Jsonb(Texts::new(cast(&DataType::Utf8)?.as_string()))
        }
        L::Json => Values::Text(Texts::new(cast(&DataType::Utf8)?.as_string())),
        L::Uuid => Values::Uuid(array.as_fixed_size_binary().clone()),
        L::Binary => Values::Bytes(cast(&DataType::Binary)?.as_binary().clone()),
        L::Date => Values::Date(cast(&DataType::Date32)?.as_primitive().clone()),
        L::Time(TimeUnit::Nanosecond)
        | L::Timestamp { unit: TimeUnit::Nanosecond, .. }
        | L::Duration(TimeUnit::Nanosecond)
        | L::Null => {
            Values::Text(Texts::new(&as_text(field, array, |c, row, out| c.write(row, out))?))
        }
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
        L::Nested => {
            Values::Jsonb(Texts::new(&as_text(field, array, |c, row, out| c.write_json(row, out))?))
        }
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
        return Ok(Values::Jsonb(Texts::new(&as_text(field, array, |c, row, out| {
            c.write_json(row, out)
        })?)));
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

/// The length that comes before a value. One of more than 1 GiB is refused by the server.
fn length_of(bytes: usize) -> [u8; 4] {
    i32::try_from(bytes).unwrap_or(i32::MAX).to_be_bytes()
}

/// A value of `N` bytes and its length, together `TOTAL`, in one piece.
#[inline]
fn put_fixed<const N: usize, const TOTAL: usize>(bytes: [u8; N], out: &mut Vec<u8>) {
    let mut field = [0; TOTAL];
    field[..4].copy_from_slice(&(N as i32).to_be_bytes());
    field[4..].copy_from_slice(&bytes);
    out.extend_from_slice(&field);
}

fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&length_of(bytes.len()));
    out.extend_from_slice(bytes);
}

/// A part of a buffer and its length. Short ones are copied as 16 or 32 bytes, of which those that
/// are too many are taken back: cheaper than a call that copies as many as there are.
#[inline]
fn put_range(buffer: &[u8], range: Range<usize>, out: &mut Vec<u8>) {
    let length = range.len();
    out.extend_from_slice(&length_of(length));
    let end = out.len() + length;
    let rest = buffer.get(range.start..).unwrap_or_default();
    match (length, rest.first_chunk::<16>(), rest.first_chunk::<32>()) {
        (..=16, Some(block), _) => out.extend_from_slice(block),
        (..=32, _, Some(block)) => out.extend_from_slice(block),
        _ => out.extend_from_slice(&buffer[range]),
    }
    out.truncate(end);
}

fn put_interval(micros: i64, days: i32, months: i32, out: &mut Vec<u8>) {
    let mut field = [0; 20];
    field[..4].copy_from_slice(&16_i32.to_be_bytes());
    field[4..12].copy_from_slice(&micros.to_be_bytes());
    field[12..16].copy_from_slice(&days.to_be_bytes());
    field[16..].copy_from_slice(&months.to_be_bytes());
    out.extend_from_slice(&field);
}

/// Leaves room for the length of what follows.
fn begin(out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    start
}

/// Fills in the length of what was written since [`begin`].
fn end(start: usize, out: &mut [u8]) {
    let length = length_of(out.len() - start - 4);
    out[start..start + 4].copy_from_slice(&length);
}

#[cfg(test)]
mod tests;
