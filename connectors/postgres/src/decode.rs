//! From the binary values of a COPY into Arrow arrays. The decoder of a column is chosen once;
//! a value is copied straight into its builder.

use std::sync::Arc;

use arrow_array::builder::{
    BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, Decimal256Builder,
    FixedSizeBinaryBuilder, Float32Builder, Float64Builder, Int16Builder, Int32Builder,
    Int64Builder, IntervalMonthDayNanoBuilder, StringBuilder, Time64MicrosecondBuilder,
    TimestampMicrosecondBuilder,
};
use arrow_array::{ArrayRef, ListArray};
use arrow_buffer::{IntervalMonthDayNano, NullBufferBuilder, OffsetBuffer};
use arrow_schema::FieldRef;
use highwater_core::{Error, Result};

use crate::numeric::{self, NumericError};
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

/// Builds the array of one column.
pub(crate) enum Decoder {
    Bool(BooleanBuilder),
    Int2(Int16Builder),
    Int4(Int32Builder),
    Int8(Int64Builder),
    Float4(Float32Builder),
    Float8(Float64Builder),
    Text(StringBuilder),
    Jsonb(StringBuilder),
    Bytea(BinaryBuilder),
    Uuid(FixedSizeBinaryBuilder),
    Date(Date32Builder),
    Time(Time64MicrosecondBuilder),
    Timestamp(TimestampMicrosecondBuilder),
    Interval(IntervalMonthDayNanoBuilder),
    Decimal128(Decimal128Builder, i8),
    Decimal256(Decimal256Builder, i8),
    List(Box<ListDecoder>),
}

/// Builds lists: the items of all rows in one array, and where each row ends.
pub(crate) struct ListDecoder {
    items: Decoder,
    item: FieldRef,
    offsets: Vec<i32>,
    valid: NullBufferBuilder,
}

impl Decoder {
    /// The decoder of a wire form.
    pub(crate) fn new(wire: &Wire) -> Result<Self> {
        Ok(match wire {
            Wire::Bool => Self::Bool(BooleanBuilder::new()),
            Wire::Int2 => Self::Int2(Int16Builder::new()),
            Wire::Int4 => Self::Int4(Int32Builder::new()),
            Wire::Int8 => Self::Int8(Int64Builder::new()),
            Wire::Float4 => Self::Float4(Float32Builder::new()),
            Wire::Float8 => Self::Float8(Float64Builder::new()),
            Wire::Text | Wire::Cast | Wire::Inet | Wire::Json | Wire::Numeric => {
                Self::Text(StringBuilder::new())
            }
            Wire::Jsonb => Self::Jsonb(StringBuilder::new()),
            Wire::Bytea => Self::Bytea(BinaryBuilder::new()),
            Wire::Uuid => Self::Uuid(FixedSizeBinaryBuilder::new(16)),
            Wire::Date => Self::Date(Date32Builder::new()),
            Wire::Time => Self::Time(Time64MicrosecondBuilder::new()),
            Wire::Timestamp => Self::Timestamp(TimestampMicrosecondBuilder::new()),
            Wire::TimestampTz => {
                Self::Timestamp(TimestampMicrosecondBuilder::new().with_timezone("UTC"))
            }
            Wire::Interval => Self::Interval(IntervalMonthDayNanoBuilder::new()),
            Wire::Decimal { precision, scale } if *precision <= 38 => Self::Decimal128(
                Decimal128Builder::new().with_precision_and_scale(*precision, *scale)?,
                *scale,
            ),
            Wire::Decimal { precision, scale } => Self::Decimal256(
                Decimal256Builder::new().with_precision_and_scale(*precision, *scale)?,
                *scale,
            ),
            Wire::List(item) => Self::List(Box::new(ListDecoder {
                items: Self::new(item)?,
                item: Arc::new(item.item_field()),
                offsets: vec![0],
                valid: NullBufferBuilder::new(0),
            })),
        })
    }

    /// Adds one value, `None` for NULL.
    #[inline]
    pub(crate) fn append(&mut self, value: Option<&[u8]>) -> Fit<()> {
        match value {
            Some(value) => self.append_value(value),
            None => {
                self.append_null();
                Ok(())
            }
        }
    }

    fn append_value(&mut self, value: &[u8]) -> Fit<()> {
        match self {
            Self::Bool(b) => b.append_value(fixed::<1>(value)?[0] != 0),
            Self::Int2(b) => b.append_value(i16::from_be_bytes(fixed(value)?)),
            Self::Int4(b) => b.append_value(i32::from_be_bytes(fixed(value)?)),
            Self::Int8(b) => b.append_value(i64::from_be_bytes(fixed(value)?)),
            Self::Float4(b) => b.append_value(f32::from_be_bytes(fixed(value)?)),
            Self::Float8(b) => b.append_value(f64::from_be_bytes(fixed(value)?)),
            Self::Text(b) => b.append_value(utf8(value)?),
            Self::Jsonb(b) => match value.split_first() {
                Some((1, text)) => b.append_value(utf8(text)?),
                _ => return Err(Unfit::Malformed),
            },
            Self::Bytea(b) => b.append_value(value),
            Self::Uuid(b) => b.append_value(value).map_err(|_| Unfit::Malformed)?,
            Self::Date(b) => b.append_value(date(i32::from_be_bytes(fixed(value)?))?),
            Self::Time(b) => b.append_value(i64::from_be_bytes(fixed(value)?)),
            Self::Timestamp(b) => b.append_value(timestamp(i64::from_be_bytes(fixed(value)?))?),
            Self::Interval(b) => b.append_value(interval(fixed(value)?)?),
            Self::Decimal128(b, scale) => b.append_value(numeric::decode(value, *scale)?),
            Self::Decimal256(b, scale) => b.append_value(numeric::decode(value, *scale)?),
            Self::List(list) => list.append_value(value)?,
        }
        Ok(())
    }

    fn append_null(&mut self) {
        match self {
            Self::Bool(b) => b.append_null(),
            Self::Int2(b) => b.append_null(),
            Self::Int4(b) => b.append_null(),
            Self::Int8(b) => b.append_null(),
            Self::Float4(b) => b.append_null(),
            Self::Float8(b) => b.append_null(),
            Self::Text(b) | Self::Jsonb(b) => b.append_null(),
            Self::Bytea(b) => b.append_null(),
            Self::Uuid(b) => b.append_null(),
            Self::Date(b) => b.append_null(),
            Self::Time(b) => b.append_null(),
            Self::Timestamp(b) => b.append_null(),
            Self::Interval(b) => b.append_null(),
            Self::Decimal128(b, _) => b.append_null(),
            Self::Decimal256(b, _) => b.append_null(),
            Self::List(list) => {
                list.valid.append_null();
                let end = list.offsets.last().copied().unwrap_or(0);
                list.offsets.push(end);
            }
        }
    }

    /// The array of all values since the last call.
    ///
    /// # Errors
    /// `Internal` when Arrow refuses it.
    pub(crate) fn finish(&mut self) -> Result<ArrayRef> {
        Ok(match self {
            Self::Bool(b) => Arc::new(b.finish()),
            Self::Int2(b) => Arc::new(b.finish()),
            Self::Int4(b) => Arc::new(b.finish()),
            Self::Int8(b) => Arc::new(b.finish()),
            Self::Float4(b) => Arc::new(b.finish()),
            Self::Float8(b) => Arc::new(b.finish()),
            Self::Text(b) | Self::Jsonb(b) => Arc::new(b.finish()),
            Self::Bytea(b) => Arc::new(b.finish()),
            Self::Uuid(b) => Arc::new(b.finish()),
            Self::Date(b) => Arc::new(b.finish()),
            Self::Time(b) => Arc::new(b.finish()),
            Self::Timestamp(b) => Arc::new(b.finish()),
            Self::Interval(b) => Arc::new(b.finish()),
            Self::Decimal128(b, _) => Arc::new(b.finish()),
            Self::Decimal256(b, _) => Arc::new(b.finish()),
            Self::List(list) => list.finish()?,
        })
    }
}

impl ListDecoder {
    /// `dimensions, has nulls, element type`, per dimension `length, lower bound`, then items.
    fn append_value(&mut self, value: &[u8]) -> Fit<()> {
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
            match usize::try_from(take_i32(&mut rest)?) {
                Err(_) => self.items.append_null(),
                Ok(size) => {
                    let (item, after) = rest.split_at_checked(size).ok_or(Unfit::Malformed)?;
                    self.items.append_value(item)?;
                    rest = after;
                }
            }
        }
        let end = self.offsets.last().copied().unwrap_or(0);
        self.offsets.push(end.checked_add(length).ok_or(Unfit::OutOfRange)?);
        self.valid.append_non_null();
        Ok(())
    }

    fn finish(&mut self) -> Result<ArrayRef> {
        let offsets = std::mem::replace(&mut self.offsets, vec![0]);
        let list = ListArray::try_new(
            Arc::clone(&self.item),
            OffsetBuffer::new(offsets.into()),
            self.items.finish()?,
            self.valid.finish(),
        )
        .map_err(|e| Error::internal("A list could not be built").caused_by(e))?;
        Ok(Arc::new(list))
    }
}

#[inline]
fn fixed<const N: usize>(value: &[u8]) -> Fit<[u8; N]> {
    value.try_into().map_err(|_| Unfit::Malformed)
}

#[inline]
fn utf8(value: &[u8]) -> Fit<&str> {
    std::str::from_utf8(value).map_err(|_| Unfit::NotUtf8)
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
mod tests {
    use super::*;
    use arrow_array::cast::AsArray;
    use arrow_array::types::{
        Date32Type, Decimal128Type, Int32Type, IntervalMonthDayNanoType, TimestampMicrosecondType,
    };
    use arrow_array::{Array, StringArray};

    fn column(wire: &Wire, values: &[Option<&[u8]>]) -> Fit<ArrayRef> {
        let mut decoder = Decoder::new(wire).unwrap();
        for value in values {
            decoder.append(*value)?;
        }
        Ok(decoder.finish().unwrap())
    }

    #[test]
    fn fixed_width_values_and_nulls() {
        let ints = column(&Wire::Int4, &[Some(&[0xff, 0xff, 0xff, 0xfe]), None]).unwrap();
        assert_eq!(ints.as_primitive::<Int32Type>().value(0), -2);
        assert!(ints.is_null(1));
        let bools = column(&Wire::Bool, &[Some(&[1]), Some(&[0])]).unwrap();
        assert!(bools.as_boolean().value(0) && !bools.as_boolean().value(1));
        let floats = column(&Wire::Float8, &[Some(&(-0.0f64).to_be_bytes())]).unwrap();
        let value = floats.as_primitive::<arrow_array::types::Float64Type>().value(0);
        assert!(value.is_sign_negative());
        assert_eq!(column(&Wire::Int8, &[Some(&[1, 2])]).err(), Some(Unfit::Malformed));
    }

    #[test]
    fn dates_and_timestamps_keep_their_infinities() {
        let day = |days: i32| column(&Wire::Date, &[Some(&days.to_be_bytes())]);
        let value = |array: ArrayRef| array.as_primitive::<Date32Type>().value(0);
        assert_eq!(value(day(0).unwrap()), 10_957);
        assert_eq!(value(day(i32::MAX).unwrap()), i32::MAX);
        assert_eq!(value(day(i32::MIN).unwrap()), i32::MIN);
        assert_eq!(day(i32::MAX - 1).err(), Some(Unfit::OutOfRange));
        let at = |micros: i64| column(&Wire::TimestampTz, &[Some(&micros.to_be_bytes())]);
        let value = |array: ArrayRef| array.as_primitive::<TimestampMicrosecondType>().value(0);
        assert_eq!(value(at(1).unwrap()), EPOCH_MICROS + 1);
        assert_eq!(value(at(i64::MIN).unwrap()), i64::MIN);
        assert_eq!(at(i64::MAX - EPOCH_MICROS).err(), Some(Unfit::OutOfRange));
    }

    #[test]
    fn intervals_keep_months_days_and_time_apart() {
        let mut bytes = (-1_500_000i64).to_be_bytes().to_vec();
        bytes.extend(2i32.to_be_bytes());
        bytes.extend((-14i32).to_be_bytes());
        let array = column(&Wire::Interval, &[Some(&bytes)]).unwrap();
        let value = array.as_primitive::<IntervalMonthDayNanoType>().value(0);
        assert_eq!((value.months, value.days, value.nanoseconds), (-14, 2, -1_500_000_000));
        bytes[..8].copy_from_slice(&i64::MAX.to_be_bytes());
        assert_eq!(column(&Wire::Interval, &[Some(&bytes)]).err(), Some(Unfit::IntervalTooLong));
    }

    #[test]
    fn text_is_checked_and_jsonb_loses_its_version() {
        let json = column(&Wire::Jsonb, &[Some(b"\x01{\"a\": 1}")]).unwrap();
        assert_eq!(json.as_string::<i32>().value(0), "{\"a\": 1}");
        assert_eq!(column(&Wire::Jsonb, &[Some(b"\x02{}")]).err(), Some(Unfit::Malformed));
        assert_eq!(column(&Wire::Text, &[Some(&[0xff])]).err(), Some(Unfit::NotUtf8));
    }

    #[test]
    fn decimals_refuse_what_is_no_number() {
        let wire = Wire::Decimal { precision: 10, scale: 2 };
        let mut bytes = bytes::BytesMut::new();
        numeric::encode_i128(-1_250, 2, &mut bytes);
        let array = column(&wire, &[Some(&bytes), None]).unwrap();
        assert_eq!(array.as_primitive::<Decimal128Type>().value(0), -1_250);
        bytes.clear();
        numeric::encode_text("NaN", &mut bytes).unwrap();
        assert_eq!(column(&wire, &[Some(&bytes)]).err(), Some(Unfit::NumericNotFinite));
    }

    fn array(dimensions: &[(i32, i32)], items: &[Option<&[u8]>]) -> Vec<u8> {
        let mut bytes = (dimensions.len() as i32).to_be_bytes().to_vec();
        bytes.extend([0, 0, 0, 1, 0, 0, 0, 25]);
        for (length, lower) in dimensions {
            bytes.extend(length.to_be_bytes());
            bytes.extend(lower.to_be_bytes());
        }
        for item in items {
            bytes.extend(item.map_or(-1, |i| i.len() as i32).to_be_bytes());
            bytes.extend(item.unwrap_or_default());
        }
        bytes
    }

    #[test]
    fn arrays_of_one_dimension_are_lists() {
        let wire = Wire::List(Box::new(Wire::Text));
        let full = array(&[(3, 1)], &[Some(b"a"), None, Some(b"")]);
        let empty = array(&[], &[]);
        let lists = column(&wire, &[Some(&full), None, Some(&empty)]).unwrap();
        let lists = lists.as_list::<i32>();
        let items: StringArray = lists.value(0).as_string().clone();
        assert_eq!(items.iter().collect::<Vec<_>>(), [Some("a"), None, Some("")]);
        assert!(lists.is_null(1));
        assert_eq!(lists.value(2).len(), 0);
        for other in [array(&[(1, 0)], &[Some(b"a")]), array(&[(1, 1), (1, 1)], &[Some(b"a")])] {
            assert_eq!(column(&wire, &[Some(&other)]).err(), Some(Unfit::Dimensions));
        }
    }
}
