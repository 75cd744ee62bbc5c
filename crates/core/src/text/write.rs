//! From a column to the canonical text of its values, and to JSON.

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Date64Type, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type,
    DurationMicrosecondType, DurationMillisecondType, DurationNanosecondType, DurationSecondType,
    Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    IntervalDayTimeType, IntervalMonthDayNanoType, IntervalYearMonthType, Time32MillisecondType,
    Time32SecondType, Time64MicrosecondType, Time64NanosecondType, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type,
    UInt32Type, UInt64Type,
};
use arrow_array::{
    Array, BinaryViewArray, BooleanArray, FixedSizeBinaryArray, GenericBinaryArray,
    GenericStringArray, StringViewArray,
};
use arrow_buffer::{IntervalDayTime, IntervalMonthDayNano, NullBuffer, i256};
use arrow_schema::{DataType, Field, IntervalUnit, TimeUnit};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::calendar::{self, SECONDS_PER_DAY, Span};
use super::decimal;
use crate::error::{Error, Result};
use crate::types::LogicalType;

/// A column whose values can be written as text. The type is looked at once, not per value.
pub struct TextColumn<'a> {
    nulls: Option<&'a NullBuffer>,
    values: Values<'a>,
}

/// What JSON makes of a value.
enum Values<'a> {
    Null,
    Boolean(&'a BooleanArray),
    I8(&'a [i8]),
    I16(&'a [i16]),
    I32(&'a [i32]),
    I64(&'a [i64]),
    U8(&'a [u8]),
    U16(&'a [u16]),
    U32(&'a [u32]),
    U64(&'a [u64]),
    F16(&'a [<Float16Type as arrow_array::ArrowPrimitiveType>::Native]),
    F32(&'a [f32]),
    F64(&'a [f64]),
    Decimal32(&'a [i32], i8),
    Decimal64(&'a [i64], i8),
    Decimal128(&'a [i128], i8),
    Decimal256(&'a [i256], i8),
    Text(Strings<'a>),
    /// Digits without limit: a number in JSON, a string where JSON has no such number.
    Numeric(Strings<'a>),
    Uuid(&'a FixedSizeBinaryArray),
    Binary(Bytes<'a>),
    Date32(&'a [i32]),
    Date64(&'a [i64]),
    Time32(&'a [i32], TimeUnit),
    Time64(&'a [i64], TimeUnit),
    Timestamp(&'a [i64], TimeUnit, bool),
    Duration(&'a [i64], TimeUnit),
    Months(&'a [i32]),
    DayTime(&'a [IntervalDayTime]),
    MonthDayNano(&'a [IntervalMonthDayNano]),
    List(Ends<'a>, Box<TextColumn<'a>>),
    Struct(Vec<(String, TextColumn<'a>)>),
    Map(&'a [i32], Box<TextColumn<'a>>, Box<TextColumn<'a>>),
}

enum Strings<'a> {
    Small(&'a GenericStringArray<i32>),
    Large(&'a GenericStringArray<i64>),
    View(&'a StringViewArray),
}

impl<'a> Strings<'a> {
    fn value(&self, row: usize) -> &'a str {
        match self {
            Self::Small(array) => array.value(row),
            Self::Large(array) => array.value(row),
            Self::View(array) => array.value(row),
        }
    }
}

enum Bytes<'a> {
    Small(&'a GenericBinaryArray<i32>),
    Large(&'a GenericBinaryArray<i64>),
    View(&'a BinaryViewArray),
    Fixed(&'a FixedSizeBinaryArray),
}

impl<'a> Bytes<'a> {
    fn value(&self, row: usize) -> &'a [u8] {
        match self {
            Self::Small(array) => array.value(row),
            Self::Large(array) => array.value(row),
            Self::View(array) => array.value(row),
            Self::Fixed(array) => array.value(row),
        }
    }
}

/// Where the elements of each list are.
enum Ends<'a> {
    Small(&'a [i32]),
    Large(&'a [i64]),
    Fixed(usize),
}

impl Ends<'_> {
    fn range(&self, row: usize) -> std::ops::Range<usize> {
        match self {
            Self::Small(ends) => ends[row] as usize..ends[row + 1] as usize,
            Self::Large(ends) => ends[row] as usize..ends[row + 1] as usize,
            Self::Fixed(length) => row * length..(row + 1) * length,
        }
    }
}

impl<'a> TextColumn<'a> {
    /// A column of `array` with the meaning that `field` gives it.
    ///
    /// # Errors
    /// `Unsupported` for the types that [`LogicalType::of`] refuses, `Internal` when the array is
    /// not of the field's type.
    pub fn new(field: &Field, array: &'a dyn Array) -> Result<Self> {
        let logical = LogicalType::of(field)?;
        if !field.data_type().equals_datatype(array.data_type()) {
            return Err(Error::internal("A column is not of its declared type")
                .context("column", field.name())
                .context("declared", field.data_type())
                .context("type", array.data_type()));
        }
        let values = match logical {
            LogicalType::Null => Values::Null,
            LogicalType::Boolean => Values::Boolean(array.as_boolean()),
            LogicalType::Text | LogicalType::Json => Values::Text(strings(array)),
            LogicalType::Numeric => Values::Numeric(strings(array)),
            LogicalType::Uuid => Values::Uuid(array.as_fixed_size_binary()),
            LogicalType::Binary => Values::Binary(bytes(array)),
            LogicalType::List(item) => list(&item, array)?,
            LogicalType::Nested => nested(array)?,
            LogicalType::Integer { .. }
            | LogicalType::Float { .. }
            | LogicalType::Decimal { .. } => numbers(array)?,
            _ => times(array)?,
        };
        Ok(Self { nulls: array.nulls(), values })
    }

    /// Whether the value is NULL.
    #[inline]
    pub fn is_null(&self, row: usize) -> bool {
        match &self.values {
            Values::Null => true,
            _ => self.nulls.is_some_and(|nulls| nulls.is_null(row)),
        }
    }

    /// Appends the canonical text of a value; nothing for NULL.
    pub fn write(&self, row: usize, out: &mut String) {
        if self.is_null(row) {
            return;
        }
        match &self.values {
            Values::Null => {}
            Values::Boolean(a) => out.push_str(if a.value(row) { "true" } else { "false" }),
            Values::I8(a) => push_integer(out, a[row]),
            Values::I16(a) => push_integer(out, a[row]),
            Values::I32(a) => push_integer(out, a[row]),
            Values::I64(a) => push_integer(out, a[row]),
            Values::U8(a) => push_integer(out, a[row]),
            Values::U16(a) => push_integer(out, a[row]),
            Values::U32(a) => push_integer(out, a[row]),
            Values::U64(a) => push_integer(out, a[row]),
            Values::F16(a) => push_f32(out, a[row].to_f32()),
            Values::F32(a) => push_f32(out, a[row]),
            Values::F64(a) => push_f64(out, a[row]),
            Values::Decimal32(a, scale) => push_decimal(out, a[row], *scale),
            Values::Decimal64(a, scale) => push_decimal(out, a[row], *scale),
            Values::Decimal128(a, scale) => push_decimal(out, a[row], *scale),
            Values::Decimal256(a, scale) => match a[row].to_i128() {
                Some(value) => push_decimal(out, value, *scale),
                None => decimal::push_scaled(out, &a[row].to_string(), *scale),
            },
            Values::Text(a) | Values::Numeric(a) => out.push_str(a.value(row)),
            Values::Uuid(a) => push_uuid(out, a.value(row)),
            Values::Binary(a) => STANDARD.encode_string(a.value(row), out),
            Values::List(..) | Values::Struct(_) | Values::Map(..) => self.write_json(row, out),
            _ => self.write_time(row, out),
        }
    }

    fn write_time(&self, row: usize, out: &mut String) {
        match &self.values {
            Values::Date32(a) => match a[row] {
                i32::MAX => out.push_str("infinity"),
                i32::MIN => out.push_str("-infinity"),
                days => calendar::push_date(out, days.into()),
            },
            Values::Date64(a) => push_date64(out, a[row]),
            Values::Time32(a, unit) => calendar::push_clock(out, a[row].into(), *unit),
            Values::Time64(a, unit) => calendar::push_clock(out, a[row], *unit),
            Values::Timestamp(a, unit, utc) => match a[row] {
                i64::MAX => out.push_str("infinity"),
                i64::MIN => out.push_str("-infinity"),
                ticks => {
                    calendar::push_timestamp(out, ticks, *unit);
                    if *utc {
                        out.push('Z');
                    }
                }
            },
            Values::Duration(a, unit) => push_nanoseconds(out, a[row], *unit),
            Values::Months(a) => {
                calendar::push_span(out, Span { months: a[row].into(), ..Span::default() });
            }
            Values::DayTime(a) => {
                let nanoseconds = i128::from(a[row].milliseconds) * 1_000_000;
                let span = Span { days: a[row].days.into(), nanoseconds, ..Span::default() };
                calendar::push_span(out, span);
            }
            Values::MonthDayNano(a) => {
                let IntervalMonthDayNano { months, days, nanoseconds } = a[row];
                let span = Span {
                    months: months.into(),
                    days: days.into(),
                    nanoseconds: nanoseconds.into(),
                };
                calendar::push_span(out, span);
            }
            _ => {}
        }
    }

    /// Appends a value as JSON: numbers and booleans as themselves with every digit, lists,
    /// structs and maps nested (the keys of a map are the canonical texts of its keys, in order),
    /// NULL as `null`, all else as a string of its canonical text. NaN and infinity are strings.
    pub fn write_json(&self, row: usize, out: &mut String) {
        if self.is_null(row) {
            out.push_str("null");
            return;
        }
        match &self.values {
            Values::Text(a) => push_json_string(out, a.value(row)),
            Values::Numeric(a) => match a.value(row) {
                number if decimal::is_json_number(number) => out.push_str(number),
                word => push_json_string(out, word),
            },
            Values::F16(a) if !a[row].is_finite() => self.write_quoted(row, out),
            Values::F32(a) if !a[row].is_finite() => self.write_quoted(row, out),
            Values::F64(a) if !a[row].is_finite() => self.write_quoted(row, out),
            Values::Uuid(_)
            | Values::Binary(_)
            | Values::Date32(_)
            | Values::Date64(_)
            | Values::Time32(..)
            | Values::Time64(..)
            | Values::Timestamp(..)
            | Values::Duration(..)
            | Values::Months(_)
            | Values::DayTime(_)
            | Values::MonthDayNano(_) => self.write_quoted(row, out),
            Values::List(ends, items) => {
                out.push('[');
                for (i, item) in ends.range(row).enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    items.write_json(item, out);
                }
                out.push(']');
            }
            Values::Struct(columns) => {
                out.push('{');
                for (i, (key, column)) in columns.iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    out.push_str(key);
                    column.write_json(row, out);
                }
                out.push('}');
            }
            Values::Map(ends, keys, values) => {
                let mut key = String::new();
                out.push('{');
                for (i, entry) in (ends[row] as usize..ends[row + 1] as usize).enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    key.clear();
                    keys.write(entry, &mut key);
                    push_json_string(out, &key);
                    out.push(':');
                    values.write_json(entry, out);
                }
                out.push('}');
            }
            _ => self.write(row, out),
        }
    }

    /// For texts that need no escape.
    fn write_quoted(&self, row: usize, out: &mut String) {
        out.push('"');
        self.write(row, out);
        out.push('"');
    }
}

fn numbers(array: &dyn Array) -> Result<Values<'_>> {
    Ok(match array.data_type() {
        DataType::Int8 => Values::I8(array.as_primitive::<Int8Type>().values()),
        DataType::Int16 => Values::I16(array.as_primitive::<Int16Type>().values()),
        DataType::Int32 => Values::I32(array.as_primitive::<Int32Type>().values()),
        DataType::Int64 => Values::I64(array.as_primitive::<Int64Type>().values()),
        DataType::UInt8 => Values::U8(array.as_primitive::<UInt8Type>().values()),
        DataType::UInt16 => Values::U16(array.as_primitive::<UInt16Type>().values()),
        DataType::UInt32 => Values::U32(array.as_primitive::<UInt32Type>().values()),
        DataType::UInt64 => Values::U64(array.as_primitive::<UInt64Type>().values()),
        DataType::Float16 => Values::F16(array.as_primitive::<Float16Type>().values()),
        DataType::Float32 => Values::F32(array.as_primitive::<Float32Type>().values()),
        DataType::Float64 => Values::F64(array.as_primitive::<Float64Type>().values()),
        DataType::Decimal32(_, scale) => {
            Values::Decimal32(array.as_primitive::<Decimal32Type>().values(), *scale)
        }
        DataType::Decimal64(_, scale) => {
            Values::Decimal64(array.as_primitive::<Decimal64Type>().values(), *scale)
        }
        DataType::Decimal128(_, scale) => {
            Values::Decimal128(array.as_primitive::<Decimal128Type>().values(), *scale)
        }
        DataType::Decimal256(_, scale) => {
            Values::Decimal256(array.as_primitive::<Decimal256Type>().values(), *scale)
        }
        other => return Err(no_text(other)),
    })
}

fn times(array: &dyn Array) -> Result<Values<'_>> {
    use TimeUnit::{Microsecond, Millisecond, Nanosecond, Second};
    Ok(match array.data_type() {
        DataType::Date32 => Values::Date32(array.as_primitive::<Date32Type>().values()),
        DataType::Date64 => Values::Date64(array.as_primitive::<Date64Type>().values()),
        DataType::Time32(Second) => {
            Values::Time32(array.as_primitive::<Time32SecondType>().values(), Second)
        }
        DataType::Time32(unit) => {
            Values::Time32(array.as_primitive::<Time32MillisecondType>().values(), *unit)
        }
        DataType::Time64(Microsecond) => {
            Values::Time64(array.as_primitive::<Time64MicrosecondType>().values(), Microsecond)
        }
        DataType::Time64(unit) => {
            Values::Time64(array.as_primitive::<Time64NanosecondType>().values(), *unit)
        }
        DataType::Timestamp(unit, zone) => {
            let ticks: &[i64] = match unit {
                Second => array.as_primitive::<TimestampSecondType>().values(),
                Millisecond => array.as_primitive::<TimestampMillisecondType>().values(),
                Microsecond => array.as_primitive::<TimestampMicrosecondType>().values(),
                Nanosecond => array.as_primitive::<TimestampNanosecondType>().values(),
            };
            Values::Timestamp(ticks, *unit, zone.is_some())
        }
        DataType::Duration(unit) => {
            let ticks: &[i64] = match unit {
                Second => array.as_primitive::<DurationSecondType>().values(),
                Millisecond => array.as_primitive::<DurationMillisecondType>().values(),
                Microsecond => array.as_primitive::<DurationMicrosecondType>().values(),
                Nanosecond => array.as_primitive::<DurationNanosecondType>().values(),
            };
            Values::Duration(ticks, *unit)
        }
        DataType::Interval(IntervalUnit::YearMonth) => {
            Values::Months(array.as_primitive::<IntervalYearMonthType>().values())
        }
        DataType::Interval(IntervalUnit::DayTime) => {
            Values::DayTime(array.as_primitive::<IntervalDayTimeType>().values())
        }
        DataType::Interval(IntervalUnit::MonthDayNano) => {
            Values::MonthDayNano(array.as_primitive::<IntervalMonthDayNanoType>().values())
        }
        other => return Err(no_text(other)),
    })
}

fn strings(array: &dyn Array) -> Strings<'_> {
    match array.data_type() {
        DataType::LargeUtf8 => Strings::Large(array.as_string()),
        DataType::Utf8View => Strings::View(array.as_string_view()),
        _ => Strings::Small(array.as_string()),
    }
}

fn bytes(array: &dyn Array) -> Bytes<'_> {
    match array.data_type() {
        DataType::LargeBinary => Bytes::Large(array.as_binary()),
        DataType::BinaryView => Bytes::View(array.as_binary_view()),
        DataType::FixedSizeBinary(_) => Bytes::Fixed(array.as_fixed_size_binary()),
        _ => Bytes::Small(array.as_binary()),
    }
}

fn list<'a>(item: &Field, array: &'a dyn Array) -> Result<Values<'a>> {
    let (ends, values) = match array.data_type() {
        DataType::LargeList(_) => {
            let list = array.as_list::<i64>();
            (Ends::Large(list.value_offsets()), list.values())
        }
        DataType::FixedSizeList(_, length) => {
            (Ends::Fixed(*length as usize), array.as_fixed_size_list().values())
        }
        _ => {
            let list = array.as_list::<i32>();
            (Ends::Small(list.value_offsets()), list.values())
        }
    };
    Ok(Values::List(ends, Box::new(TextColumn::new(item, values)?)))
}

fn nested(array: &dyn Array) -> Result<Values<'_>> {
    Ok(match array.data_type() {
        DataType::Struct(fields) => {
            let columns = fields.iter().zip(array.as_struct().columns());
            let columns = columns.map(|(field, column)| {
                let mut key = String::new();
                push_json_string(&mut key, field.name());
                key.push(':');
                Ok((key, TextColumn::new(field, column)?))
            });
            Values::Struct(columns.collect::<Result<_>>()?)
        }
        DataType::Map(entries, _) => {
            let map = array.as_map();
            let DataType::Struct(fields) = entries.data_type() else {
                return Err(no_text(array.data_type()));
            };
            let (key, value) = match &fields[..] {
                [key, value] => (key, value),
                _ => return Err(no_text(array.data_type())),
            };
            Values::Map(
                map.value_offsets(),
                Box::new(TextColumn::new(key, map.keys())?),
                Box::new(TextColumn::new(value, map.values())?),
            )
        }
        other => return Err(no_text(other)),
    })
}

pub(super) fn no_text(data_type: &DataType) -> Error {
    Error::unsupported("Values of this type have no text").context("type", data_type)
}

fn push_integer(out: &mut String, value: impl itoa::Integer) {
    out.push_str(itoa::Buffer::new().format(value));
}

fn push_f64(out: &mut String, value: f64) {
    match non_finite(value.is_nan(), value.is_infinite(), value < 0.0) {
        Some(word) => out.push_str(word),
        None => out.push_str(zmij::Buffer::new().format_finite(value)),
    }
}

fn push_f32(out: &mut String, value: f32) {
    match non_finite(value.is_nan(), value.is_infinite(), value < 0.0) {
        Some(word) => out.push_str(word),
        None => out.push_str(zmij::Buffer::new().format_finite(value)),
    }
}

fn non_finite(nan: bool, infinite: bool, negative: bool) -> Option<&'static str> {
    match (nan, infinite, negative) {
        (true, _, _) => Some("NaN"),
        (_, true, false) => Some("Infinity"),
        (_, true, true) => Some("-Infinity"),
        _ => None,
    }
}

fn push_decimal(out: &mut String, unscaled: impl itoa::Integer, scale: i8) {
    decimal::push_scaled(out, itoa::Buffer::new().format(unscaled), scale);
}

fn push_uuid(out: &mut String, bytes: &[u8]) {
    let Ok(uuid) = uuid::Uuid::from_slice(bytes) else { return };
    out.push_str(uuid.hyphenated().encode_lower(&mut uuid::Uuid::encode_buffer()));
}

/// A day; a value inside a day, which Arrow does not allow but does not prevent, keeps its time.
fn push_date64(out: &mut String, milliseconds: i64) {
    const PER_DAY: i64 = SECONDS_PER_DAY * 1_000;
    match milliseconds {
        i64::MAX => out.push_str("infinity"),
        i64::MIN => out.push_str("-infinity"),
        _ if milliseconds % PER_DAY == 0 => calendar::push_date(out, milliseconds / PER_DAY),
        _ => calendar::push_timestamp(out, milliseconds, TimeUnit::Millisecond),
    }
}

fn push_nanoseconds(out: &mut String, ticks: i64, unit: TimeUnit) {
    let nanoseconds = i128::from(ticks) * i128::from(1_000_000_000 / calendar::per_second(unit));
    calendar::push_span(out, Span { nanoseconds, ..Span::default() });
}

/// Appends `text` as a JSON string with its quotes.
pub fn push_json_string(out: &mut String, text: &str) {
    out.push('"');
    let mut start = 0;
    for (at, byte) in text.bytes().enumerate() {
        let escape = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            0..=0x1f => "",
            _ => continue,
        };
        out.push_str(&text[start..at]);
        if escape.is_empty() {
            out.push_str("\\u00");
            out.push(char::from(b'0' + (byte >> 4)));
            out.push(char::from_digit(u32::from(byte & 15), 16).unwrap_or('0'));
        } else {
            out.push_str(escape);
        }
        start = at + 1;
    }
    out.push_str(&text[start..]);
    out.push('"');
}
