//! From the binary values of a COPY into Arrow arrays, column by column.
//!
//! A [`Chunk`] gathers some hundred tuples, few enough for the processor's caches. Then each
//! column takes its fields from it in one loop, whose type was decided once. Texts are checked when
//! an array is made, all of a column at once.

use std::sync::Arc;

use arrow_array::types::{
    ArrowPrimitiveType, Date32Type, Decimal128Type, Decimal256Type, Float32Type, Float64Type,
    Int16Type, Int32Type, Int64Type, IntervalMonthDayNanoType, Time64MicrosecondType,
    TimestampMicrosecondType,
};
use arrow_array::{
    ArrayRef, BinaryArray, BooleanArray, FixedSizeBinaryArray, ListArray, PrimitiveArray,
    StringArray,
};
use arrow_buffer::{
    BooleanBufferBuilder, Buffer, IntervalMonthDayNano, NullBufferBuilder, OffsetBuffer,
    ScalarBuffer, i256,
};
use arrow_schema::{ArrowError, DataType, FieldRef};

use crate::numeric::{self, NumericError};
use crate::tuples::{Span, Tuple};
use crate::types::Wire;

/// Days and microseconds between 1970-01-01 and 2000-01-01, where PostgreSQL begins to count.
pub(crate) const EPOCH_DAYS: i32 = 10_957;
pub(crate) const EPOCH_MICROS: i64 = 946_684_800_000_000;

/// Why a value cannot be carried. The column is added by the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unfit {
    Malformed,
    NotUtf8,
    NumericNotFinite,
    NumericTooLarge,
    OutOfRange,
    IntervalTooLong,
    Dimensions,
}

impl Unfit {
    /// The sentence for the user, and whether reading the column as text helps.
    pub(crate) fn explain(self) -> (&'static str, bool) {
        match self {
            Self::Malformed => ("A value has another form than its type", true),
            Self::NotUtf8 => ("A text is not valid UTF-8", false),
            Self::NumericNotFinite => ("A decimal column holds NaN or an infinity", true),
            Self::NumericTooLarge => ("A decimal has more digits than its column", true),
            Self::OutOfRange => ("A date or time is beyond what Arrow can hold", true),
            Self::IntervalTooLong => ("An interval is longer than Arrow can hold", true),
            Self::Dimensions => {
                ("An array has more than one dimension, or does not begin at 1", true)
            }
        }
    }
}

impl From<NumericError> for Unfit {
    fn from(error: NumericError) -> Self {
        match error {
            NumericError::Malformed => Self::Malformed,
            NumericError::NotFinite => Self::NumericNotFinite,
            NumericError::TooLarge => Self::NumericTooLarge,
        }
    }
}

type Fit<T> = std::result::Result<T, Unfit>;

/// A chunk is full at so many rows, bytes or fields.
const CHUNK_ROWS: usize = 512;
const CHUNK_BYTES: usize = 128 << 10;
const CHUNK_FIELDS: usize = 16 << 10;
/// What an array has room for at first, and no more than that after a batch that was larger.
const VALUES_EXPECTED: usize = 8192;
const TEXT_BYTES_EXPECTED_MAX: usize = 1 << 20;

/// Tuples that wait to be decoded.
#[derive(Default)]
pub(crate) struct Chunk {
    bytes: Vec<u8>,
    fields: Vec<Span>,
    rows: usize,
}

impl Chunk {
    /// Takes a tuple without its first fields, which nobody sees.
    #[inline]
    pub(crate) fn push(&mut self, tuple: &Tuple<'_>, hidden: usize) {
        let (from, to) = (tuple.start_of(hidden), self.bytes.len());
        self.bytes.extend_from_slice(&tuple.bytes[from..]);
        self.fields.extend(tuple.fields[hidden..].iter().map(|field| field.moved(from, to)));
        self.rows += 1;
    }

    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.rows >= CHUNK_ROWS
            || self.bytes.len() >= CHUNK_BYTES
            || self.fields.len() >= CHUNK_FIELDS
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Whether a tuple is decoded where it is, and not copied into the chunk before.
    #[inline]
    pub(crate) fn is_too_small_for(tuple: &Tuple<'_>) -> bool {
        tuple.bytes.len() >= CHUNK_BYTES
    }

    /// Adds every column to its decoder, and is empty then.
    ///
    /// # Errors
    /// The column whose value cannot be carried, and why.
    pub(crate) fn decode(
        &mut self,
        decoders: &mut [Decoder],
    ) -> std::result::Result<(), (usize, Unfit)> {
        decode(&self.bytes, &self.fields, decoders)?;
        self.rows = 0;
        self.fields.clear();
        self.bytes.clear();
        Ok(())
    }
}

/// Adds the columns of some rows, whose fields lie in the bytes, to their decoders.
///
/// # Errors
/// The column whose value cannot be carried, and why.
pub(crate) fn decode(
    bytes: &[u8],
    fields: &[Span],
    decoders: &mut [Decoder],
) -> std::result::Result<(), (usize, Unfit)> {
    let columns = decoders.len();
    for (column, decoder) in decoders.iter_mut().enumerate() {
        let of_column = fields.chunks_exact(columns).map(|row| row[column].of(bytes));
        decoder.extend(of_column).map_err(|unfit| (column, unfit))?;
    }
    Ok(())
}

/// Builds the array of one column.
pub(crate) struct Decoder {
    values: Values,
    valid: NullBufferBuilder,
}

enum Values {
    Bool(BooleanBufferBuilder),
    Int2(Vec<i16>),
    Int4(Vec<i32>),
    Int8(Vec<i64>),
    Float4(Vec<f32>),
    Float8(Vec<f64>),
    Text(Bytes),
    Jsonb(Bytes),
    Bytea(Bytes),
    Uuid(Vec<u8>),
    Date(Vec<i32>),
    Time(Vec<i64>),
    Timestamp(Vec<i64>, DataType),
    Interval(Vec<IntervalMonthDayNano>),
    Decimal128(Vec<i128>, DataType, i8),
    Decimal256(Vec<i256>, DataType, i8),
    List(Box<ListDecoder>),
}

/// Values of any length, one after the other, and where each ends.
#[derive(Default)]
struct Bytes {
    values: Vec<u8>,
    ends: Vec<i32>,
    /// How much the last array held.
    expected: usize,
}

/// Builds lists: the items of all rows in one array, and where each row ends.
struct ListDecoder {
    items: Decoder,
    item: FieldRef,
    ends: Vec<i32>,
}

impl Decoder {
    /// The decoder of a wire form.
    pub(crate) fn new(wire: &Wire) -> Self {
        let values = match wire {
            Wire::Bool => Values::Bool(BooleanBufferBuilder::new(0)),
            Wire::Int2 => Values::Int2(Vec::new()),
            Wire::Int4 => Values::Int4(Vec::new()),
            Wire::Int8 => Values::Int8(Vec::new()),
            Wire::Float4 => Values::Float4(Vec::new()),
            Wire::Float8 => Values::Float8(Vec::new()),
            Wire::Text | Wire::Cast | Wire::Inet | Wire::Json | Wire::Numeric => {
                Values::Text(Bytes::default())
            }
            Wire::Jsonb => Values::Jsonb(Bytes::default()),
            Wire::Bytea => Values::Bytea(Bytes::default()),
            Wire::Uuid => Values::Uuid(Vec::new()),
            Wire::Date => Values::Date(Vec::new()),
            Wire::Time => Values::Time(Vec::new()),
            Wire::Timestamp | Wire::TimestampTz => Values::Timestamp(Vec::new(), wire.arrow().0),
            Wire::Interval => Values::Interval(Vec::new()),
            Wire::Decimal { precision, scale } if *precision <= 38 => {
                Values::Decimal128(Vec::new(), wire.arrow().0, *scale)
            }
            Wire::Decimal { scale, .. } => Values::Decimal256(Vec::new(), wire.arrow().0, *scale),
            Wire::List(item) => Values::List(Box::new(ListDecoder {
                items: Self::new(item),
                item: Arc::new(item.item_field()),
                ends: Vec::new(),
            })),
        };
        Self { values, valid: NullBufferBuilder::new(VALUES_EXPECTED) }
    }

    /// Adds values, `None` for NULL.
    ///
    /// # Errors
    /// Why one of them cannot be carried. The decoder is of no use then.
    pub(crate) fn extend<'a>(&mut self, fields: impl Iterator<Item = Option<&'a [u8]>>) -> Fit<()> {
        let valid = &mut self.valid;
        match &mut self.values {
            Values::Bool(values) => {
                for field in fields {
                    values.append(field.is_some_and(|field| field != [0]));
                    if field.is_some_and(|field| field.len() != 1) {
                        return Err(Unfit::Malformed);
                    }
                    valid.append(field.is_some());
                }
                Ok(())
            }
            Values::Int2(values) => {
                each(values, valid, fields, |v| Ok(i16::from_be_bytes(fixed(v)?)))
            }
            Values::Int4(values) => {
                each(values, valid, fields, |v| Ok(i32::from_be_bytes(fixed(v)?)))
            }
            Values::Int8(values) | Values::Time(values) => {
                each(values, valid, fields, |v| Ok(i64::from_be_bytes(fixed(v)?)))
            }
            Values::Float4(values) => {
                each(values, valid, fields, |v| Ok(f32::from_be_bytes(fixed(v)?)))
            }
            Values::Float8(values) => {
                each(values, valid, fields, |v| Ok(f64::from_be_bytes(fixed(v)?)))
            }
            Values::Text(texts) | Values::Bytea(texts) => texts.extend(valid, fields, Ok),
            Values::Jsonb(texts) => {
                texts.extend(valid, fields, |value| match value.split_first() {
                    Some((1, text)) => Ok(text),
                    _ => Err(Unfit::Malformed),
                })
            }
            Values::Uuid(values) => {
                for field in fields {
                    let value = field.map_or(Ok([0; 16]), fixed::<16>)?;
                    values.extend_from_slice(&value);
                    valid.append(field.is_some());
                }
                Ok(())
            }
            Values::Date(values) => {
                each(values, valid, fields, |v| date(i32::from_be_bytes(fixed(v)?)))
            }
            Values::Timestamp(values, _) => {
                each(values, valid, fields, |v| timestamp(i64::from_be_bytes(fixed(v)?)))
            }
            Values::Interval(values) => each(values, valid, fields, |v| interval(fixed(v)?)),
            Values::Decimal128(values, _, scale) => {
                let scale = *scale;
                each(values, valid, fields, |v| Ok(numeric::decode_i128(v, scale)?))
            }
            Values::Decimal256(values, _, scale) => {
                let scale = *scale;
                each(values, valid, fields, |v| Ok(numeric::decode(v, scale)?))
            }
            Values::List(list) => {
                if list.ends.is_empty() {
                    list.ends.push(0);
                }
                for field in fields {
                    if let Some(field) = field {
                        list.items_of(field)?;
                    }
                    list.ends.push(list.items.length()?);
                    valid.append(field.is_some());
                }
                Ok(())
            }
        }
    }

    /// How many values it has.
    fn length(&self) -> Fit<i32> {
        i32::try_from(self.valid.len()).map_err(|_| Unfit::OutOfRange)
    }

    /// The array of all values since the last call.
    ///
    /// # Errors
    /// [`Unfit::NotUtf8`] for a text that is none.
    pub(crate) fn finish(&mut self) -> Fit<ArrayRef> {
        let valid = self.valid.finish();
        Ok(match &mut self.values {
            Values::Bool(values) => Arc::new(BooleanArray::new(values.finish(), valid)),
            Values::Int2(values) => primitive::<Int16Type>(values, valid),
            Values::Int4(values) => primitive::<Int32Type>(values, valid),
            Values::Int8(values) => primitive::<Int64Type>(values, valid),
            Values::Float4(values) => primitive::<Float32Type>(values, valid),
            Values::Float8(values) => primitive::<Float64Type>(values, valid),
            Values::Text(texts) | Values::Jsonb(texts) => {
                let (offsets, values) = texts.take();
                // Checks that the bytes are UTF-8 and that every value begins at a character.
                Arc::new(StringArray::try_new(offsets, values, valid).map_err(not_utf8)?)
            }
            Values::Bytea(bytes) => {
                let (offsets, values) = bytes.take();
                Arc::new(BinaryArray::try_new(offsets, values, valid).map_err(malformed)?)
            }
            Values::Uuid(values) => {
                let values = Buffer::from_vec(taken(values));
                let array = FixedSizeBinaryArray::try_new(16, values, valid);
                Arc::new(array.map_err(malformed)?)
            }
            Values::Date(values) => primitive::<Date32Type>(values, valid),
            Values::Time(values) => primitive::<Time64MicrosecondType>(values, valid),
            Values::Timestamp(values, data_type) => {
                typed::<TimestampMicrosecondType>(values, valid, data_type)
            }
            Values::Interval(values) => primitive::<IntervalMonthDayNanoType>(values, valid),
            Values::Decimal128(values, data_type, _) => {
                typed::<Decimal128Type>(values, valid, data_type)
            }
            Values::Decimal256(values, data_type, _) => {
                typed::<Decimal256Type>(values, valid, data_type)
            }
            Values::List(list) => {
                let offsets = offsets(std::mem::take(&mut list.ends));
                let items = list.items.finish()?;
                let array = ListArray::try_new(Arc::clone(&list.item), offsets, items, valid);
                Arc::new(array.map_err(malformed)?)
            }
        })
    }
}

type Valid = Option<arrow_buffer::NullBuffer>;

/// Adds a value for each field; NULL has some value as well.
#[inline]
fn each<'a, T: Default>(
    values: &mut Vec<T>,
    valid: &mut NullBufferBuilder,
    fields: impl Iterator<Item = Option<&'a [u8]>>,
    value: impl Fn(&'a [u8]) -> Fit<T>,
) -> Fit<()> {
    if values.capacity() == 0 {
        values.reserve(VALUES_EXPECTED);
    }
    for field in fields {
        match field {
            Some(field) => {
                values.push(value(field)?);
                valid.append_non_null();
            }
            None => {
                values.push(T::default());
                valid.append_null();
            }
        }
    }
    Ok(())
}

fn taken<T>(values: &mut Vec<T>) -> Vec<T> {
    std::mem::take(values)
}

fn primitive<T: ArrowPrimitiveType>(values: &mut Vec<T::Native>, valid: Valid) -> ArrayRef {
    Arc::new(PrimitiveArray::<T>::new(ScalarBuffer::from(taken(values)), valid))
}

fn typed<T: ArrowPrimitiveType>(
    values: &mut Vec<T::Native>,
    valid: Valid,
    data_type: &DataType,
) -> ArrayRef {
    let array = PrimitiveArray::<T>::new(ScalarBuffer::from(taken(values)), valid);
    Arc::new(array.with_data_type(data_type.clone()))
}

fn offsets(ends: Vec<i32>) -> OffsetBuffer<i32> {
    if ends.is_empty() { OffsetBuffer::new_empty() } else { OffsetBuffer::new(ends.into()) }
}

fn not_utf8(_: ArrowError) -> Unfit {
    Unfit::NotUtf8
}

fn malformed(_: ArrowError) -> Unfit {
    Unfit::Malformed
}

impl Bytes {
    #[inline]
    fn extend<'a>(
        &mut self,
        valid: &mut NullBufferBuilder,
        fields: impl Iterator<Item = Option<&'a [u8]>>,
        value: impl Fn(&'a [u8]) -> Fit<&'a [u8]>,
    ) -> Fit<()> {
        if self.ends.is_empty() {
            self.ends.reserve(VALUES_EXPECTED + 1);
            self.ends.push(0);
            self.values.reserve(self.expected);
        }
        for field in fields {
            match field {
                Some(field) => {
                    self.values.extend_from_slice(value(field)?);
                    valid.append_non_null();
                }
                None => valid.append_null(),
            }
            self.ends.push(i32::try_from(self.values.len()).map_err(|_| Unfit::OutOfRange)?);
        }
        Ok(())
    }

    fn take(&mut self) -> (OffsetBuffer<i32>, Buffer) {
        self.expected = (self.values.len() + self.values.len() / 8).min(TEXT_BYTES_EXPECTED_MAX);
        (offsets(taken(&mut self.ends)), Buffer::from_vec(taken(&mut self.values)))
    }
}

impl ListDecoder {
    /// `dimensions, has nulls, element type`, per dimension `length, lower bound`, then items.
    fn items_of(&mut self, value: &[u8]) -> Fit<()> {
        let mut rest = value;
        let dimensions = take_i32(&mut rest)?;
        take_i32(&mut rest)?;
        take_i32(&mut rest)?;
        let length = match dimensions {
            0 => 0,
            1 => {
                let length = take_i32(&mut rest)?;
                if take_i32(&mut rest)? != 1 {
                    return Err(Unfit::Dimensions);
                }
                length
            }
            _ => return Err(Unfit::Dimensions),
        };
        for _ in 0..length {
            let item = match usize::try_from(take_i32(&mut rest)?) {
                Err(_) => None,
                Ok(size) => {
                    let (item, after) = rest.split_at_checked(size).ok_or(Unfit::Malformed)?;
                    rest = after;
                    Some(item)
                }
            };
            self.items.extend(std::iter::once(item))?;
        }
        Ok(())
    }
}

#[inline]
fn fixed<const N: usize>(value: &[u8]) -> Fit<[u8; N]> {
    value.try_into().map_err(|_| Unfit::Malformed)
}

fn take_i32(rest: &mut &[u8]) -> Fit<i32> {
    let (head, tail) = rest.split_first_chunk::<4>().ok_or(Unfit::Malformed)?;
    *rest = tail;
    Ok(i32::from_be_bytes(*head))
}

/// The infinities stay at the ends of the range; a finite value may not become one.
fn date(days: i32) -> Fit<i32> {
    if days == i32::MAX || days == i32::MIN {
        return Ok(days);
    }
    match days.checked_add(EPOCH_DAYS) {
        Some(days) if days != i32::MAX => Ok(days),
        _ => Err(Unfit::OutOfRange),
    }
}

fn timestamp(micros: i64) -> Fit<i64> {
    if micros == i64::MAX || micros == i64::MIN {
        return Ok(micros);
    }
    match micros.checked_add(EPOCH_MICROS) {
        Some(micros) if micros != i64::MAX => Ok(micros),
        _ => Err(Unfit::OutOfRange),
    }
}

/// Microseconds, days, months.
fn interval(bytes: [u8; 16]) -> Fit<IntervalMonthDayNano> {
    let (micros, rest) = bytes.split_first_chunk::<8>().ok_or(Unfit::Malformed)?;
    let (days, months) = rest.split_first_chunk::<4>().ok_or(Unfit::Malformed)?;
    let nanos = i64::from_be_bytes(*micros).checked_mul(1000).ok_or(Unfit::IntervalTooLong)?;
    Ok(IntervalMonthDayNano::new(
        i32::from_be_bytes(fixed(months)?),
        i32::from_be_bytes(*days),
        nanos,
    ))
}

#[cfg(test)]
mod tests;
