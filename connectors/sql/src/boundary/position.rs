//! The place of a row in the order of its cursor field, exactly.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Date64Type, Decimal32Type, Decimal64Type, Decimal128Type, Float16Type, Float32Type,
    Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type,
    UInt64Type,
};
use arrow_array::{
    Array, ArrayRef, ArrowPrimitiveType, Decimal128Array, Float64Array, Int32Array, Int64Array,
    UInt64Array,
};
use arrow_schema::{DataType, Field, TimeUnit};
use highwater_core::text::{TextBuilder, TextColumn};
use highwater_core::{Error, Instant, LogicalType, Result};

use super::ticks;

/// A place in the order of a cursor field. Positions of one column compare with each other.
#[derive(Debug, Clone, PartialEq)]
pub enum Position {
    /// Integers, the unscaled value of decimals, the ticks of dates and times.
    Integer(i128),
    /// Floats; NaN is the greatest.
    Float(f64),
    /// Decimals without limit: the text, compared by its value.
    Numeric(String),
    /// Text and UUIDs, compared by their bytes.
    Bytes(Vec<u8>),
}

impl Position {
    /// The order of two positions of one column.
    pub fn compare(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Integer(a), Self::Integer(b)) => a.cmp(b),
            // Zero has two signs and one place.
            (Self::Float(a), Self::Float(b)) => {
                a.partial_cmp(b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
            }
            (Self::Numeric(a), Self::Numeric(b)) => Digits::of(a).compare(&Digits::of(b)),
            (Self::Bytes(a), Self::Bytes(b)) => a.cmp(b),
            (a, b) => a.rank().cmp(&b.rank()),
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Integer(_) => 0,
            Self::Float(_) => 1,
            Self::Numeric(_) => 2,
            Self::Bytes(_) => 3,
        }
    }
}

/// Reads the positions of a cursor column.
pub(super) type Positions<'a> = Box<dyn Fn(usize) -> Option<Position> + 'a>;

/// The positions of a column; `None` for NULL.
///
/// # Errors
/// `Config` when the type has no order.
pub(super) fn positions<'a>(field: &Field, array: &'a dyn Array) -> Result<Positions<'a>> {
    let value = values(field, array)?;
    Ok(Box::new(move |row| (!array.is_null(row)).then(|| value(row))))
}

type Values<'a> = Box<dyn Fn(usize) -> Position + 'a>;

fn values<'a>(field: &Field, array: &'a dyn Array) -> Result<Values<'a>> {
    fn integers<T: ArrowPrimitiveType>(array: &dyn Array) -> Values<'_>
    where
        T::Native: Into<i128>,
    {
        let values = array.as_primitive::<T>();
        Box::new(|row| Position::Integer(values.value(row).into()))
    }
    Ok(match array.data_type() {
        DataType::Int8 => integers::<Int8Type>(array),
        DataType::Int16 => integers::<Int16Type>(array),
        DataType::Int32 => integers::<Int32Type>(array),
        DataType::Int64 => integers::<Int64Type>(array),
        DataType::UInt8 => integers::<UInt8Type>(array),
        DataType::UInt16 => integers::<UInt16Type>(array),
        DataType::UInt32 => integers::<UInt32Type>(array),
        DataType::UInt64 => integers::<UInt64Type>(array),
        DataType::Decimal32(..) => integers::<Decimal32Type>(array),
        DataType::Decimal64(..) => integers::<Decimal64Type>(array),
        DataType::Decimal128(..) => integers::<Decimal128Type>(array),
        DataType::Date32 => integers::<Date32Type>(array),
        DataType::Date64 => integers::<Date64Type>(array),
        DataType::Time32(_) | DataType::Time64(_) | DataType::Timestamp(..) => {
            let ticks = ticks(array)?;
            Box::new(move |row| Position::Integer(ticks(row).into()))
        }
        DataType::Float16 => {
            let values = array.as_primitive::<Float16Type>();
            Box::new(|row| Position::Float(values.value(row).to_f64()))
        }
        DataType::Float32 => {
            let values = array.as_primitive::<Float32Type>();
            Box::new(|row| Position::Float(values.value(row).into()))
        }
        DataType::Float64 => {
            let values = array.as_primitive::<Float64Type>();
            Box::new(|row| Position::Float(values.value(row)))
        }
        _ => {
            let logical = LogicalType::of(field)?;
            if !logical.has_order() {
                return Err(Error::config("The cursor field is of a type without an order")
                    .context("column", field.name()));
            }
            let column = TextColumn::new(field, array)?;
            let numeric = matches!(logical, LogicalType::Numeric | LogicalType::Decimal { .. });
            Box::new(move |row| {
                let mut text = String::new();
                column.write(row, &mut text);
                if numeric { Position::Numeric(text) } else { Position::Bytes(text.into_bytes()) }
            })
        }
    })
}

/// The canonical text of a position in a column of the field's type.
pub(super) fn to_text(field: &Field, position: &Position) -> Result<String> {
    let array = match position {
        Position::Numeric(text) => return Ok(text.clone()),
        Position::Bytes(bytes) => return Ok(String::from_utf8_lossy(bytes).into_owned()),
        Position::Integer(value) => integer_array(field, *value)?,
        Position::Float(value) => {
            arrow_cast::cast(&Float64Array::from(vec![*value]), field.data_type())?
        }
    };
    let mut text = String::new();
    let shown = Field::new(field.name(), array.data_type().clone(), true);
    TextColumn::new(&shown, &array)?.write(0, &mut text);
    Ok(text)
}

fn integer_array(field: &Field, value: i128) -> Result<ArrayRef> {
    let too_large = || Error::internal("A cursor left the range of its type");
    let data_type = field.data_type();
    Ok(match data_type {
        DataType::UInt64 => {
            Arc::new(UInt64Array::from(vec![u64::try_from(value).map_err(|_| too_large())?]))
        }
        DataType::Decimal32(_, scale)
        | DataType::Decimal64(_, scale)
        | DataType::Decimal128(_, scale) => {
            Arc::new(Decimal128Array::from(vec![value]).with_precision_and_scale(38, *scale)?)
        }
        DataType::Date32 | DataType::Time32(_) => {
            let value = i32::try_from(value).map_err(|_| too_large())?;
            arrow_cast::cast(&Int32Array::from(vec![value]), data_type)?
        }
        _ => {
            let value = i64::try_from(value).map_err(|_| too_large())?;
            arrow_cast::cast(&Int64Array::from(vec![value]), data_type)?
        }
    })
}

/// The position of a canonical text.
///
/// # Errors
/// `Config` when the text is no value of the field's type: the column was another one when the
/// cursor was saved.
pub(super) fn from_text(field: &Field, text: &str) -> Result<Position> {
    let mut builder = TextBuilder::new(field)?;
    builder.append(text).map_err(|_| {
        Error::config("The saved cursor is not a value of the cursor field")
            .context("column", field.name())
            .context("type", highwater_core::types::type_name(field))
    })?;
    let array = builder.finish();
    positions(field, &array)?(0)
        .ok_or_else(|| Error::internal("A cursor is NULL").context("column", field.name()))
}

/// The greatest position that counts: for dates and timestamps that of a point in time, after which
/// is no time that a row can honestly have; for floats the greatest number, after which are infinity
/// and NaN.
pub(super) fn greatest(field: &Field, now: Instant) -> Option<Position> {
    const DAY: i64 = 86_400_000_000;
    let ticks = match field.data_type() {
        DataType::Date32 => now.0.div_euclid(DAY).into(),
        DataType::Date64 => i128::from(now.0.div_euclid(DAY)) * 86_400_000,
        DataType::Timestamp(unit, _) => i128::from(now.0) * per_second(*unit) / 1_000_000,
        DataType::Float16 | DataType::Float32 | DataType::Float64 => {
            return Some(Position::Float(f64::MAX));
        }
        _ => return None,
    };
    Some(Position::Integer(ticks))
}

/// The position `lookback` before `position`: seconds for dates and times, units for numbers.
/// `None` when the type knows no distance.
pub(super) fn before(field: &Field, position: &Position, lookback: u64) -> Option<Position> {
    if lookback == 0 {
        return Some(position.clone());
    }
    let lookback = i128::from(lookback);
    let (step, lowest) = match field.data_type() {
        DataType::Int8 => (1, i8::MIN.into()),
        DataType::Int16 => (1, i16::MIN.into()),
        DataType::Int32 => (1, i32::MIN.into()),
        DataType::Int64 => (1, i64::MIN.into()),
        DataType::UInt8 | DataType::UInt16 | DataType::UInt32 | DataType::UInt64 => (1, 0),
        DataType::Decimal32(_, scale)
        | DataType::Decimal64(_, scale)
        | DataType::Decimal128(_, scale) => {
            // The least value that 38 digits can hold.
            (10i128.checked_pow(u32::try_from(*scale).ok()?)?, 1 - 10i128.pow(38))
        }
        DataType::Date32 => {
            let days = (lookback + 86_399) / 86_400;
            return integer(position).map(|at| Position::Integer((at - days).max(i32::MIN.into())));
        }
        DataType::Date64 => (1_000, i64::MIN.into()),
        DataType::Time32(unit) | DataType::Time64(unit) => (per_second(*unit), 0),
        DataType::Timestamp(unit, _) => (per_second(*unit), i64::MIN.into()),
        DataType::Float16 | DataType::Float32 | DataType::Float64 => {
            let Position::Float(at) = position else { return None };
            return Some(Position::Float((at - lookback as f64).next_down()));
        }
        _ => return None,
    };
    let distance = lookback.saturating_mul(step);
    integer(position).map(|at| Position::Integer(at.saturating_sub(distance).max(lowest)))
}

/// Whether [`before`] has an answer for a distance other than 0.
pub(super) fn knows_distance(field: &Field) -> bool {
    let probe = |position| before(field, &position, 1).is_some();
    probe(Position::Integer(0)) || probe(Position::Float(0.0))
}

fn integer(position: &Position) -> Option<i128> {
    match position {
        Position::Integer(value) => Some(*value),
        _ => None,
    }
}

fn per_second(unit: TimeUnit) -> i128 {
    match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    }
}

/// A decimal text taken apart so that it can be compared.
struct Digits<'a> {
    /// -2: -Infinity, -1, 0, 1, 2: Infinity, 3: NaN, as PostgreSQL orders them.
    sign: i8,
    /// The power of ten of the first digit.
    magnitude: i64,
    /// The digits from the first that is not zero.
    digits: (&'a [u8], &'a [u8]),
}

impl<'a> Digits<'a> {
    fn of(text: &'a str) -> Self {
        let word = |sign| Self { sign, magnitude: 0, digits: (b"", b"") };
        match text {
            "NaN" => return word(3),
            "Infinity" => return word(2),
            "-Infinity" => return word(-2),
            _ => {}
        }
        let (sign, text) = match text.strip_prefix('-') {
            Some(rest) => (-1, rest),
            None => (1, text.strip_prefix('+').unwrap_or(text)),
        };
        let (number, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let exponent: i64 = exponent.parse().unwrap_or(0);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let whole = whole.trim_start_matches('0');
        let fraction = fraction.trim_end_matches('0');
        if !whole.is_empty() {
            let magnitude = whole.len() as i64 - 1 + exponent;
            return Self { sign, magnitude, digits: (whole.as_bytes(), fraction.as_bytes()) };
        }
        let significant = fraction.trim_start_matches('0');
        if significant.is_empty() {
            return word(0);
        }
        let magnitude = exponent - 1 - (fraction.len() - significant.len()) as i64;
        Self { sign, magnitude, digits: (significant.as_bytes(), b"") }
    }

    fn compare(&self, other: &Self) -> Ordering {
        let by_sign = self.sign.cmp(&other.sign);
        if by_sign.is_ne() || self.sign.abs() != 1 {
            return by_sign;
        }
        let length = |d: &Self| d.digits.0.len() + d.digits.1.len();
        let padding = length(self).max(length(other));
        let digits = |d: &Self| {
            let all: Vec<u8> = d.digits.0.iter().chain(d.digits.1).copied().collect();
            all.into_iter().chain(std::iter::repeat(b'0')).take(padding)
        };
        let by_size =
            self.magnitude.cmp(&other.magnitude).then_with(|| digits(self).cmp(digits(other)));
        if self.sign < 0 { by_size.reverse() } else { by_size }
    }
}

#[cfg(test)]
mod tests {
    use highwater_core::types::{NUMERIC, extension_field};

    use super::*;

    #[test]
    fn no_position_is_infinity_or_nan() {
        let field = Field::new("c", DataType::Float32, true);
        let greatest = greatest(&field, Instant(0)).unwrap();
        for (value, counts) in
            [(f64::from(f32::MAX), true), (f64::INFINITY, false), (f64::NAN, false)]
        {
            assert_eq!(Position::Float(value).compare(&greatest).is_le(), counts, "{value}");
        }
    }

    #[test]
    fn decimal_texts_compare_by_value() {
        let sorted = [
            "-Infinity",
            "-1e40",
            "-12.5",
            "-12.49",
            "-0.001",
            "0",
            "0.0009",
            "0.001",
            "1",
            "1.5",
            "9",
            "10",
            "10.01",
            "123456789012345678901234567890",
            "1e300",
            "Infinity",
            "NaN",
        ];
        for (i, a) in sorted.iter().enumerate() {
            for (j, b) in sorted.iter().enumerate() {
                let (a, b) = (Position::Numeric((*a).into()), Position::Numeric((*b).into()));
                assert_eq!(a.compare(&b), i.cmp(&j), "{a:?} {b:?}");
            }
        }
        let same = |a: &str, b: &str| {
            Position::Numeric(a.into()).compare(&Position::Numeric(b.into())).is_eq()
        };
        assert!(same("1.50", "1.5") && same("100", "1e2") && same("-0", "0.00"));
    }

    #[test]
    fn a_position_survives_its_text() {
        let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        for (data_type, text) in [
            (DataType::Int64, "-9223372036854775808"),
            (DataType::UInt64, "18446744073709551615"),
            (DataType::Float64, "0.1"),
            (DataType::Decimal128(38, 4), "12.5000"),
            (DataType::Date32, "2026-11-21"),
            (DataType::Time64(TimeUnit::Microsecond), "03:04:05.000006"),
            (DataType::Timestamp(TimeUnit::Millisecond, None), "2026-11-21 03:04:05.006"),
            (utc, "2026-11-21 03:04:05.000006Z"),
            (DataType::Utf8, "Zoë"),
        ] {
            let field = Field::new("c", data_type, true);
            let position = from_text(&field, text).unwrap();
            assert_eq!(to_text(&field, &position).unwrap(), text);
        }
        let numeric = extension_field("c", DataType::Utf8, NUMERIC);
        let position = from_text(&numeric, "1.50").unwrap();
        assert_eq!(to_text(&numeric, &position).unwrap(), "1.50");
        assert!(from_text(&Field::new("c", DataType::Int64, true), "2026-01-01").is_err());
    }

    #[test]
    fn looking_back_stops_at_the_least_value() {
        let field = Field::new("c", DataType::Int64, true);
        let least = Position::Integer(i64::MIN.into());
        assert_eq!(before(&field, &least, 5), Some(least.clone()));
        assert_eq!(before(&field, &Position::Integer(7), 5), Some(Position::Integer(2)));
        let day = Field::new("c", DataType::Date32, true);
        assert_eq!(before(&day, &Position::Integer(10), 1), Some(Position::Integer(9)));
        let text = Field::new("c", DataType::Utf8, true);
        assert_eq!(before(&text, &Position::Bytes(vec![]), 1), None);
    }
}
