//! From the canonical text of values, or from JSON, back to a column.
//!
//! A text is read exactly or refused: no integer passes through a float, no digit is dropped, no
//! zone is guessed.

use std::sync::Arc;

use arrow_array::builder::{
    ArrayBuilder, BinaryBuilder, BinaryViewBuilder, BooleanBuilder, FixedSizeBinaryBuilder,
    LargeBinaryBuilder, LargeStringBuilder, NullBuilder, PrimitiveBuilder, StringBuilder,
    StringViewBuilder,
};
use arrow_array::types::{
    Date32Type, Date64Type, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type,
    DurationMicrosecondType, DurationMillisecondType, DurationNanosecondType, DurationSecondType,
    Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    IntervalDayTimeType, IntervalMonthDayNanoType, IntervalYearMonthType, Time32MillisecondType,
    Time32SecondType, Time64MicrosecondType, Time64NanosecondType, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type,
    UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef, ArrowPrimitiveType};
use arrow_buffer::{IntervalDayTime, IntervalMonthDayNano, i256};
use arrow_schema::{DataType, Field, IntervalUnit, TimeUnit};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::calendar;
use super::decimal;
use super::json;
use super::nested::Nested;
use super::write::no_text;
use crate::error::{Error, Result};
use crate::types::{LogicalType, type_name};

/// A text that is no value of the column's type. Says which type, never which text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    expected: String,
}

impl Mismatch {
    /// The name of the type that the text is no value of.
    pub fn expected(&self) -> &str {
        &self.expected
    }
}

impl std::fmt::Display for Mismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "A text is no value of type {}", self.expected)
    }
}

impl std::error::Error for Mismatch {}

impl From<Mismatch> for Error {
    fn from(mismatch: Mismatch) -> Self {
        Self::data("A text is no value of its column's type").context("type", mismatch.expected)
    }
}

/// Makes a column of texts. The type is looked at once, not per value.
///
/// After a [`Mismatch`] the builder holds the values before it, except that of a list, struct or
/// map, which may be half built: drop it then.
pub struct TextBuilder {
    field: Field,
    column: Box<dyn Column>,
}

impl TextBuilder {
    /// A builder of columns of the type of `field`, with the meaning that `field` gives it.
    ///
    /// # Errors
    /// `Unsupported` for the types that [`LogicalType::of`] refuses.
    pub fn new(field: &Field) -> Result<Self> {
        Ok(Self { field: field.clone(), column: column(field)? })
    }

    /// Appends NULL.
    pub fn append_null(&mut self) {
        self.column.append_null();
    }

    /// Appends the value of a canonical text. An empty text is a value, not NULL.
    ///
    /// # Errors
    /// [`Mismatch`] when the text is not exactly a value of the type.
    #[inline]
    pub fn append(&mut self, text: &str) -> Result<(), Mismatch> {
        match self.column.append(text) {
            Some(()) => Ok(()),
            None => Err(self.mismatch()),
        }
    }

    /// Appends the value of a JSON text: what [`super::TextColumn::write_json`] writes, and where
    /// it is unambiguous also what others write (numbers in strings; for a text column the JSON
    /// text of a number, boolean, object or list; for a JSON column any JSON).
    ///
    /// # Errors
    /// [`Mismatch`] when it is not exactly a value of the type.
    pub fn append_json(&mut self, raw: &str) -> Result<(), Mismatch> {
        match self.append_raw(raw) {
            Some(()) => Ok(()),
            None => Err(self.mismatch()),
        }
    }

    pub(super) fn append_raw(&mut self, raw: &str) -> Option<()> {
        if raw == "null" {
            self.append_null();
            return Some(());
        }
        self.column.append_raw(raw)
    }

    /// How many values were appended since the last [`Self::finish`].
    pub fn len(&self) -> usize {
        self.column.len()
    }

    /// Whether no value was appended since the last [`Self::finish`].
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The column so far, of exactly the field's type; the builder is empty afterwards.
    pub fn finish(&mut self) -> ArrayRef {
        self.column.finish()
    }

    fn mismatch(&self) -> Mismatch {
        Mismatch { expected: type_name(&self.field) }
    }
}

/// A column under construction; `None` is a mismatch.
pub(super) trait Column: Send {
    fn append_null(&mut self);
    fn append(&mut self, text: &str) -> Option<()>;
    /// From JSON that is not `null`: the content of a string, else the JSON text.
    fn append_raw(&mut self, raw: &str) -> Option<()> {
        match json::string(raw) {
            Some(text) => self.append(&text?),
            None => self.append(raw),
        }
    }
    fn len(&self) -> usize;
    fn finish(&mut self) -> ArrayRef;
}

/// A builder of Arrow and how it takes a text.
struct Leaf<B, P>(B, P);

impl<T, P> Column for Leaf<PrimitiveBuilder<T>, P>
where
    T: ArrowPrimitiveType,
    P: Fn(&str) -> Option<T::Native> + Send,
{
    fn append_null(&mut self) {
        self.0.append_null();
    }
    fn append(&mut self, text: &str) -> Option<()> {
        self.0.append_value((self.1)(text)?);
        Some(())
    }
    fn len(&self) -> usize {
        self.0.len()
    }
    fn finish(&mut self) -> ArrayRef {
        let column = self.0.finish();
        // The next column is about as long: it need not grow step by step.
        self.0 = PrimitiveBuilder::with_capacity(column.len())
            .with_data_type(column.data_type().clone());
        Arc::new(column)
    }
}

impl<P: Fn(&str) -> bool + Send> Column for Leaf<StringBuilder, P> {
    fn append_null(&mut self) {
        self.0.append_null();
    }
    fn append(&mut self, text: &str) -> Option<()> {
        (self.1)(text).then(|| self.0.append_value(text))
    }
    fn len(&self) -> usize {
        ArrayBuilder::len(&self.0)
    }
    fn finish(&mut self) -> ArrayRef {
        let column = self.0.finish();
        self.0 = StringBuilder::with_capacity(column.len(), column.values().len());
        Arc::new(column)
    }
}

macro_rules! leaf {
    ($builder:ty, |$inner:ident, $text:ident| $append:expr) => {
        impl<P: Fn(&str) -> bool + Send> Column for Leaf<$builder, P> {
            fn append_null(&mut self) {
                self.0.append_null();
            }
            fn append(&mut self, $text: &str) -> Option<()> {
                if !(self.1)($text) {
                    return None;
                }
                let $inner = &mut self.0;
                $append
            }
            fn len(&self) -> usize {
                ArrayBuilder::len(&self.0)
            }
            fn finish(&mut self) -> ArrayRef {
                Arc::new(self.0.finish())
            }
        }
    };
}

leaf!(BooleanBuilder, |inner, text| {
    inner.append_value(boolean(text)?);
    Some(())
});
leaf!(LargeStringBuilder, |inner, text| {
    inner.append_value(text);
    Some(())
});
leaf!(StringViewBuilder, |inner, text| {
    inner.append_value(text);
    Some(())
});
leaf!(BinaryBuilder, |inner, text| {
    inner.append_value(STANDARD.decode(text).ok()?);
    Some(())
});
leaf!(LargeBinaryBuilder, |inner, text| {
    inner.append_value(STANDARD.decode(text).ok()?);
    Some(())
});
leaf!(BinaryViewBuilder, |inner, text| {
    inner.append_value(STANDARD.decode(text).ok()?);
    Some(())
});
leaf!(NullBuilder, |_inner, _text| None);

/// Bytes of one length: base64, or a UUID.
struct FixedBytes {
    builder: FixedSizeBinaryBuilder,
    uuid: bool,
}

impl Column for FixedBytes {
    fn append_null(&mut self) {
        self.builder.append_null();
    }
    fn append(&mut self, text: &str) -> Option<()> {
        if self.uuid {
            self.builder.append_value(uuid::Uuid::try_parse(text).ok()?.as_bytes()).ok()
        } else {
            self.builder.append_value(STANDARD.decode(text).ok()?).ok()
        }
    }
    fn len(&self) -> usize {
        ArrayBuilder::len(&self.builder)
    }
    fn finish(&mut self) -> ArrayRef {
        Arc::new(self.builder.finish())
    }
}

fn any(_: &str) -> bool {
    true
}

fn text_column(data_type: &DataType, accepts: fn(&str) -> bool) -> Box<dyn Column> {
    match data_type {
        DataType::LargeUtf8 => Box::new(Leaf(LargeStringBuilder::new(), accepts)),
        DataType::Utf8View => Box::new(Leaf(StringViewBuilder::new(), accepts)),
        _ => Box::new(Leaf(StringBuilder::new(), accepts)),
    }
}

fn column(field: &Field) -> Result<Box<dyn Column>> {
    let data_type = field.data_type();
    Ok(match LogicalType::of(field)? {
        LogicalType::Null => Box::new(Leaf(NullBuilder::new(), any)),
        LogicalType::Boolean => Box::new(Leaf(BooleanBuilder::new(), any)),
        LogicalType::Text => text_column(data_type, any),
        LogicalType::Json => text_column(data_type, json::is_json),
        LogicalType::Numeric => text_column(data_type, decimal::is_numeric),
        LogicalType::Uuid => {
            Box::new(FixedBytes { builder: FixedSizeBinaryBuilder::new(16), uuid: true })
        }
        LogicalType::Binary => match data_type {
            DataType::FixedSizeBinary(length) => {
                Box::new(FixedBytes { builder: FixedSizeBinaryBuilder::new(*length), uuid: false })
            }
            DataType::LargeBinary => Box::new(Leaf(LargeBinaryBuilder::new(), any)),
            DataType::BinaryView => Box::new(Leaf(BinaryViewBuilder::new(), any)),
            _ => Box::new(Leaf(BinaryBuilder::new(), any)),
        },
        LogicalType::List(_) | LogicalType::Nested => Box::new(Nested::new(data_type)?),
        LogicalType::Integer { .. } | LogicalType::Float { .. } | LogicalType::Decimal { .. } => {
            number_column(data_type)?
        }
        _ => time_column(data_type)?,
    })
}

fn primitive<T: ArrowPrimitiveType>(
    data_type: &DataType,
    parse: impl Fn(&str) -> Option<T::Native> + Send + 'static,
) -> Box<dyn Column> {
    Box::new(Leaf(PrimitiveBuilder::<T>::new().with_data_type(data_type.clone()), parse))
}

fn parsed<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

fn number_column(data_type: &DataType) -> Result<Box<dyn Column>> {
    Ok(match data_type {
        DataType::Int8 => primitive::<Int8Type>(data_type, parsed),
        DataType::Int16 => primitive::<Int16Type>(data_type, parsed),
        DataType::Int32 => primitive::<Int32Type>(data_type, parsed),
        DataType::Int64 => primitive::<Int64Type>(data_type, parsed),
        DataType::UInt8 => primitive::<UInt8Type>(data_type, parsed),
        DataType::UInt16 => primitive::<UInt16Type>(data_type, parsed),
        DataType::UInt32 => primitive::<UInt32Type>(data_type, parsed),
        DataType::UInt64 => primitive::<UInt64Type>(data_type, parsed),
        DataType::Float16 => primitive::<Float16Type>(data_type, |text| {
            let wide = float::<f32>(text)?;
            let narrow = <Float16Type as ArrowPrimitiveType>::Native::from_f32(wide);
            let fits = narrow.is_infinite() == wide.is_infinite()
                && (wide == 0.0) == (narrow.to_f32() == 0.0);
            fits.then_some(narrow)
        }),
        DataType::Float32 => primitive::<Float32Type>(data_type, float),
        DataType::Float64 => primitive::<Float64Type>(data_type, float),
        DataType::Decimal32(precision, scale) => {
            let (precision, scale) = (*precision, *scale);
            primitive::<Decimal32Type>(data_type, move |text| {
                i32::try_from(decimal::parse::<i128>(text, precision, scale)?).ok()
            })
        }
        DataType::Decimal64(precision, scale) => {
            let (precision, scale) = (*precision, *scale);
            primitive::<Decimal64Type>(data_type, move |text| {
                i64::try_from(decimal::parse::<i128>(text, precision, scale)?).ok()
            })
        }
        DataType::Decimal128(precision, scale) => {
            let (precision, scale) = (*precision, *scale);
            primitive::<Decimal128Type>(data_type, move |text| {
                decimal::parse(text, precision, scale)
            })
        }
        DataType::Decimal256(precision, scale) => {
            let (precision, scale) = (*precision, *scale);
            primitive::<Decimal256Type>(data_type, move |text| {
                decimal::parse::<i256>(text, precision, scale)
            })
        }
        other => return Err(no_text(other)),
    })
}

fn time_column(data_type: &DataType) -> Result<Box<dyn Column>> {
    use TimeUnit::{Microsecond, Millisecond, Nanosecond, Second};
    let clock32 = |unit| move |text: &str| i32::try_from(calendar::parse_clock(text, unit)?).ok();
    let clock64 = |unit| move |text: &str| calendar::parse_clock(text, unit);
    let instant = |unit, utc| move |text: &str| timestamp(text, unit, utc);
    let elapsed = |unit| move |text: &str| duration(text, unit);
    Ok(match data_type {
        DataType::Date32 => primitive::<Date32Type>(data_type, date32),
        DataType::Date64 => primitive::<Date64Type>(data_type, date64),
        DataType::Time32(Second) => primitive::<Time32SecondType>(data_type, clock32(Second)),
        DataType::Time32(unit) => primitive::<Time32MillisecondType>(data_type, clock32(*unit)),
        DataType::Time64(Nanosecond) => {
            primitive::<Time64NanosecondType>(data_type, clock64(Nanosecond))
        }
        DataType::Time64(unit) => primitive::<Time64MicrosecondType>(data_type, clock64(*unit)),
        DataType::Timestamp(unit, zone) => {
            let parse = instant(*unit, zone.is_some());
            match unit {
                Second => primitive::<TimestampSecondType>(data_type, parse),
                Millisecond => primitive::<TimestampMillisecondType>(data_type, parse),
                Microsecond => primitive::<TimestampMicrosecondType>(data_type, parse),
                Nanosecond => primitive::<TimestampNanosecondType>(data_type, parse),
            }
        }
        DataType::Duration(unit) => {
            let parse = elapsed(*unit);
            match unit {
                Second => primitive::<DurationSecondType>(data_type, parse),
                Millisecond => primitive::<DurationMillisecondType>(data_type, parse),
                Microsecond => primitive::<DurationMicrosecondType>(data_type, parse),
                Nanosecond => primitive::<DurationNanosecondType>(data_type, parse),
            }
        }
        DataType::Interval(IntervalUnit::YearMonth) => {
            primitive::<IntervalYearMonthType>(data_type, |text| {
                let span = calendar::parse_span(text)?;
                let only_months = span.days == 0 && span.nanoseconds == 0;
                only_months.then(|| i32::try_from(span.months).ok())?
            })
        }
        DataType::Interval(IntervalUnit::DayTime) => {
            primitive::<IntervalDayTimeType>(data_type, |text| {
                let span = calendar::parse_span(text)?;
                if span.months != 0 || span.nanoseconds % 1_000_000 != 0 {
                    return None;
                }
                let milliseconds = i32::try_from(span.nanoseconds / 1_000_000).ok()?;
                Some(IntervalDayTime::new(i32::try_from(span.days).ok()?, milliseconds))
            })
        }
        DataType::Interval(IntervalUnit::MonthDayNano) => {
            primitive::<IntervalMonthDayNanoType>(data_type, |text| {
                let span = calendar::parse_span(text)?;
                Some(IntervalMonthDayNano::new(
                    i32::try_from(span.months).ok()?,
                    i32::try_from(span.days).ok()?,
                    i64::try_from(span.nanoseconds).ok()?,
                ))
            })
        }
        other => return Err(no_text(other)),
    })
}

/// `true` and `false` in any case, and the short forms of databases.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "true" | "t" | "1" => Some(true),
        "false" | "f" | "0" => Some(false),
        _ if text.eq_ignore_ascii_case("true") || text == "T" => Some(true),
        _ if text.eq_ignore_ascii_case("false") || text == "F" => Some(false),
        _ => None,
    }
}

/// The nearest float; refused where the nearest one is infinity or, for other digits, zero.
fn float<F: std::str::FromStr + Into<f64> + Copy>(text: &str) -> Option<F> {
    let value: F = text.parse().ok()?;
    let wide: f64 = value.into();
    if wide.is_finite() && wide != 0.0 {
        return Some(value);
    }
    let exact = if wide == 0.0 {
        let digits = text.split(['e', 'E']).next().unwrap_or_default();
        !digits.bytes().any(|b| (b'1'..=b'9').contains(&b))
    } else {
        text.bytes().any(|b| b.is_ascii_alphabetic() && !matches!(b, b'e' | b'E'))
    };
    exact.then_some(value)
}

fn date32(text: &str) -> Option<i32> {
    match calendar::parse_infinity(text) {
        Some(later) => Some(if later { i32::MAX } else { i32::MIN }),
        // The two ends of the range mean infinity and are no days.
        None => i32::try_from(calendar::parse_date(text)?)
            .ok()
            .filter(|days| !matches!(*days, i32::MIN | i32::MAX)),
    }
}

fn date64(text: &str) -> Option<i64> {
    if let Some(later) = calendar::parse_infinity(text) {
        return Some(if later { i64::MAX } else { i64::MIN });
    }
    match calendar::parse_date(text) {
        Some(days) => days.checked_mul(calendar::SECONDS_PER_DAY * 1_000),
        None => timestamp(text, TimeUnit::Millisecond, false),
    }
}

fn timestamp(text: &str, unit: TimeUnit, utc: bool) -> Option<i64> {
    match calendar::parse_infinity(text) {
        Some(later) => Some(if later { i64::MAX } else { i64::MIN }),
        None => calendar::parse_timestamp(text, unit, utc)
            .filter(|ticks| !matches!(*ticks, i64::MIN | i64::MAX)),
    }
}

fn duration(text: &str, unit: TimeUnit) -> Option<i64> {
    let span = calendar::parse_span(text)?;
    let per_tick = i128::from(1_000_000_000 / calendar::per_second(unit));
    let exact = span.months == 0 && span.days == 0 && span.nanoseconds % per_tick == 0;
    exact.then(|| i64::try_from(span.nanoseconds / per_tick).ok())?
}
