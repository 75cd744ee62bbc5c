//! From SQLite's values to Arrow columns. What a column takes is decided once, not per value.

use std::fmt::Write;
use std::sync::Arc;

use arrow_array::builder::{
    ArrayBuilder, BinaryBuilder, BooleanBuilder, Decimal128Builder, Float32Builder, Float64Builder,
    Int64Builder, StringBuilder,
};
use arrow_array::{Array, ArrayRef};
use arrow_schema::{DataType, Field};
use highwater_core::text::TextBuilder;
use highwater_core::types::type_name;
use highwater_core::{Error, LogicalType, Result, TableName};
use rusqlite::types::ValueRef;

use crate::types::text_hint;

/// One column of a batch under construction.
pub(crate) struct Reader {
    column: String,
    type_name: String,
    values: Values,
    scratch: String,
}

enum Values {
    Boolean(BooleanBuilder),
    Integer(Int64Builder),
    Float(Float64Builder),
    Float32(Float32Builder),
    Decimal(Decimal128Builder, Digits),
    /// Text, and the text of numbers.
    Text(StringBuilder),
    Binary(BinaryBuilder),
    /// Text that has to be a value of the type; numbers by their text.
    Parsed(TextBuilder),
}

/// What fits a decimal column, and what of it is read without numbers of 128 bits.
#[derive(Clone, Copy)]
struct Digits {
    precision: u8,
    scale: i8,
    /// What a number is multiplied with, and what the product has to stay below.
    short: Option<(i64, i64)>,
}

impl Digits {
    fn new(precision: u8, scale: i8) -> Self {
        // So many digits a float holds exactly.
        let digits = precision.min(15);
        let factor = u32::try_from(scale).ok().and_then(|scale| 10_i64.checked_pow(scale));
        let short = factor
            .filter(|factor| *factor <= 1_000_000_000_000_000)
            .map(|factor| (factor, 10_i64.pow(digits.into())));
        Self { precision, scale, short }
    }

    /// The unscaled value of a whole number; `None` when it has too many digits.
    fn of_integer(self, value: i64) -> Option<i128> {
        if let Some((factor, limit)) = self.short
            && let Some(unscaled) = value.checked_mul(factor)
            && unscaled.unsigned_abs() < limit.unsigned_abs()
        {
            return Some(unscaled.into());
        }
        scaled(value.into(), self.scale.into(), self.precision)
    }

    /// The decimal that a float stands for, without the detour through its text: the one of
    /// `scale` places, if the float is the nearest one to it and it has at most 15 digits. No two
    /// decimals of so few digits have the same nearest float, so it is also the one of the
    /// shortest digits.
    fn of_real(self, value: f64) -> Option<i128> {
        let (factor, limit) = self.short?;
        let factor = factor as f64;
        let product = value * factor;
        // A product that this rounds the wrong way is not the value's below.
        let unscaled = (product + 0.5_f64.copysign(product)) as i64;
        // Both are whole numbers that a float holds exactly, so the quotient is the nearest float.
        let is_it =
            unscaled.unsigned_abs() < limit.unsigned_abs() && unscaled as f64 / factor == value;
        is_it.then_some(unscaled.into())
    }
}

/// A value is not one of the column's type; what it is instead.
struct Misfit(&'static str);

impl Reader {
    /// A reader for the values of a planned column.
    ///
    /// # Errors
    /// `Unsupported` for types that no system stores.
    pub(crate) fn new(field: &Field) -> Result<Self> {
        let values = match (LogicalType::of(field)?, field.data_type()) {
            (LogicalType::Boolean, _) => Values::Boolean(BooleanBuilder::new()),
            (LogicalType::Integer { .. }, DataType::Int64) => Values::Integer(Int64Builder::new()),
            (LogicalType::Float { .. }, DataType::Float64) => Values::Float(Float64Builder::new()),
            (LogicalType::Float { .. }, DataType::Float32) => {
                Values::Float32(Float32Builder::new())
            }
            (LogicalType::Decimal { .. }, DataType::Decimal128(precision, scale)) => {
                let builder =
                    Decimal128Builder::new().with_precision_and_scale(*precision, *scale)?;
                Values::Decimal(builder, Digits::new(*precision, *scale))
            }
            (LogicalType::Text, DataType::Utf8) => Values::Text(StringBuilder::new()),
            (LogicalType::Binary, DataType::Binary) => Values::Binary(BinaryBuilder::new()),
            _ => Values::Parsed(TextBuilder::new(field)?),
        };
        let (column, type_name) = (field.name().clone(), type_name(field));
        Ok(Self { column, type_name, values, scratch: String::new() })
    }

    /// Appends a value; returns how many bytes it takes, roughly.
    ///
    /// # Errors
    /// `Data` when the value does not fit the column's type.
    pub(crate) fn append(&mut self, value: ValueRef<'_>, table: &TableName) -> Result<usize> {
        self.try_append(value).map_err(|Misfit(found)| {
            Error::data("A value does not fit the type of its column")
                .context("table", table)
                .context("column", &self.column)
                .context("type", &self.type_name)
                .context("found", found)
                .hint(text_hint(&self.column))
        })
    }

    fn try_append(&mut self, value: ValueRef<'_>) -> Result<usize, Misfit> {
        match (&mut self.values, value) {
            (Values::Integer(builder), ValueRef::Integer(value)) => builder.append_value(value),
            (Values::Text(builder), ValueRef::Text(bytes)) => {
                builder.append_value(utf8(bytes)?);
                return Ok(bytes.len());
            }
            (Values::Float(builder), ValueRef::Real(value)) => builder.append_value(value),
            (Values::Float32(builder), ValueRef::Real(value)) => {
                let narrow = value as f32;
                if f64::from(narrow) != value {
                    return Err(Misfit("more digits than 32 bits hold"));
                }
                builder.append_value(narrow);
            }
            (Values::Boolean(builder), ValueRef::Integer(value @ (0 | 1))) => {
                builder.append_value(value == 1);
            }
            (Values::Binary(builder), ValueRef::Blob(bytes)) => {
                builder.append_value(bytes);
                return Ok(bytes.len());
            }
            (_, ValueRef::Null) => self.append_null(),
            // A whole number in a view over floats, as far as it is one exactly.
            (Values::Float(builder), ValueRef::Integer(value))
                if value.unsigned_abs() <= 1 << 53 =>
            {
                builder.append_value(value as f64);
            }
            (Values::Decimal(builder, digits), ValueRef::Integer(value)) => {
                builder.append_value(digits.of_integer(value).ok_or(Misfit("too many digits"))?);
            }
            (Values::Decimal(builder, digits), ValueRef::Real(value)) => {
                match digits.of_real(value) {
                    Some(unscaled) => builder.append_value(unscaled),
                    None => return self.append_text_of(ValueRef::Real(value)),
                }
            }
            _ => return self.append_text_of(value),
        }
        Ok(8)
    }

    fn append_null(&mut self) {
        match &mut self.values {
            Values::Boolean(builder) => builder.append_null(),
            Values::Integer(builder) => builder.append_null(),
            Values::Float(builder) => builder.append_null(),
            Values::Float32(builder) => builder.append_null(),
            Values::Decimal(builder, ..) => builder.append_null(),
            Values::Text(builder) => builder.append_null(),
            Values::Binary(builder) => builder.append_null(),
            Values::Parsed(builder) => builder.append_null(),
        }
    }

    /// Columns that understand the text of a value.
    fn append_text_of(&mut self, value: ValueRef<'_>) -> Result<usize, Misfit> {
        let text = match value {
            ValueRef::Text(bytes) => utf8(bytes)?,
            ValueRef::Integer(value) => {
                self.scratch.clear();
                // Writing into a string cannot fail.
                let _ = write!(self.scratch, "{value}");
                self.scratch.as_str()
            }
            ValueRef::Real(value) => {
                self.scratch.clear();
                push_real(&mut self.scratch, value);
                self.scratch.as_str()
            }
            ValueRef::Blob(_) => return Err(Misfit("blob")),
            ValueRef::Null => return Err(Misfit("NULL")),
        };
        match &mut self.values {
            Values::Text(builder) => builder.append_value(text),
            Values::Decimal(builder, digits) => {
                let unscaled = unscaled(text, digits.precision, digits.scale);
                builder.append_value(unscaled.ok_or(Misfit("other digits, or none"))?);
            }
            Values::Parsed(builder) => {
                builder.append(text).map_err(|_| Misfit(class(value)))?;
            }
            _ => return Err(Misfit(class(value))),
        }
        Ok(text.len())
    }

    /// The column so far; the reader is empty afterwards.
    pub(crate) fn finish(&mut self) -> ArrayRef {
        match &mut self.values {
            Values::Boolean(builder) => ArrayBuilder::finish(builder),
            Values::Integer(builder) => ArrayBuilder::finish(builder),
            Values::Float(builder) => ArrayBuilder::finish(builder),
            Values::Float32(builder) => ArrayBuilder::finish(builder),
            Values::Decimal(builder, ..) => ArrayBuilder::finish(builder),
            Values::Text(builder) => {
                let column = builder.finish();
                // The next column is about as long: it need not grow step by step.
                *builder = StringBuilder::with_capacity(column.len(), column.values().len());
                Arc::new(column)
            }
            Values::Binary(builder) => ArrayBuilder::finish(builder),
            Values::Parsed(builder) => builder.finish(),
        }
    }
}

fn utf8(bytes: &[u8]) -> Result<&str, Misfit> {
    std::str::from_utf8(bytes).map_err(|_| Misfit("text that is not UTF-8"))
}

fn class(value: ValueRef<'_>) -> &'static str {
    match value {
        ValueRef::Null => "NULL",
        ValueRef::Integer(_) => "integer",
        ValueRef::Real(_) => "real",
        ValueRef::Text(_) => "text",
        ValueRef::Blob(_) => "blob",
    }
}

/// The shortest digits that read back as the same float.
fn push_real(out: &mut String, value: f64) {
    if value.is_infinite() {
        out.push_str(if value > 0.0 { "Infinity" } else { "-Infinity" });
    } else {
        let _ = write!(out, "{value:?}");
    }
}

/// `value` with `places` more zeros, if it has at most `precision` digits then.
fn scaled(value: i128, places: i64, precision: u8) -> Option<i128> {
    let unscaled = if places >= 0 {
        value.checked_mul(10i128.checked_pow(u32::try_from(places).ok()?)?)?
    } else {
        let factor = 10i128.checked_pow(u32::try_from(-places).ok()?)?;
        if value % factor != 0 {
            return None;
        }
        value / factor
    };
    (unscaled.unsigned_abs() < 10u128.checked_pow(precision.into())?).then_some(unscaled)
}

/// `-12.5` in a decimal of the scale 2 is -1250; `None` when a digit would be lost.
fn unscaled(text: &str, precision: u8, scale: i8) -> Option<i128> {
    let (number, exponent) = match text.split_once(['e', 'E']) {
        Some((number, exponent)) => (number, exponent.parse::<i64>().ok()?),
        None => (text, 0),
    };
    let (negative, number) = match number.strip_prefix('-') {
        Some(number) => (true, number),
        None => (false, number),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let fraction = fraction.trim_end_matches('0');
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let mut value = 0i128;
    for digit in whole.bytes().chain(fraction.bytes()) {
        if !digit.is_ascii_digit() {
            return None;
        }
        value = value.checked_mul(10)?.checked_add((digit - b'0').into())?;
    }
    if value == 0 {
        return Some(0);
    }
    let places = i64::from(scale).checked_add(exponent)?.checked_sub(fraction.len() as i64)?;
    scaled(if negative { -value } else { value }, places, precision)
}

#[cfg(test)]
mod tests {
    use arrow_array::cast::AsArray;
    use arrow_array::types::{Decimal128Type, Int64Type};
    use highwater_core::types::{NUMERIC, extension_field};

    use super::*;

    fn read(field: Field, values: &[ValueRef<'_>]) -> Result<ArrayRef> {
        let mut reader = Reader::new(&field)?;
        for value in values {
            reader.append(*value, &TableName::new("t"))?;
        }
        Ok(reader.finish())
    }

    fn column(data_type: DataType) -> Field {
        Field::new("c", data_type, true)
    }

    #[test]
    fn decimals_are_exact_or_refused() {
        use ValueRef::{Integer, Real, Text};
        let values = [Integer(-7), Real(12.5), Real(0.1), Text(b"1.50"), ValueRef::Null];
        let array = read(column(DataType::Decimal128(10, 2)), &values).unwrap();
        let array = array.as_primitive::<Decimal128Type>();
        assert_eq!(
            array.iter().collect::<Vec<_>>(),
            [Some(-700), Some(1250), Some(10), Some(150), None]
        );
        for wrong in [Real(0.125), Real(1e300), Integer(1_000_000_000), Text(b"abc"), Text(b"")] {
            let error = read(column(DataType::Decimal128(10, 2)), &[wrong]).unwrap_err();
            assert_eq!(error.kind(), highwater_core::ErrorKind::Data);
            assert!(error.hint_text().unwrap().starts_with("columns: [{name: c, type: text}]"));
        }
        let least = read(column(DataType::Decimal128(38, 0)), &[Integer(i64::MIN)]).unwrap();
        assert_eq!(least.as_primitive::<Decimal128Type>().value(0), i64::MIN.into());
    }

    #[test]
    fn the_short_way_to_a_decimal_leads_to_the_digits_of_the_text() {
        let by_text = |value: f64, precision, scale| {
            let mut text = String::new();
            push_real(&mut text, value);
            unscaled(&text, precision, scale)
        };
        let mut taken = 0;
        let mut check = |value: f64| {
            for (precision, scale) in
                [(15, 2), (10, 2), (38, 10), (5, 0), (3, 3), (15, 15), (20, 5)]
            {
                if let Some(short) = Digits::new(precision, scale).of_real(value) {
                    assert_eq!(Some(short), by_text(value, precision, scale), "{value:?}");
                    taken += 1;
                }
            }
        };
        let mut state = 7u64;
        for i in 0..200_000i64 {
            check(i as f64 / 100.0);
            check(-(i as f64) / 1e5);
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            // Any float there is, and those beside short decimals.
            check(f64::from_bits(state));
            check(f64::from_bits(((state >> 40) as f64 / 100.0).to_bits() + 1));
            check((state >> 14) as f64 / 1e2);
        }
        for value in [0.0, -0.0, 0.1 + 0.2, 1e15, 999_999_999_999_999.0, f64::NAN, f64::INFINITY] {
            check(value);
        }
        assert!(taken > 500_000, "{taken}");
        assert_eq!(Digits::new(15, 2).of_real(979.19), Some(97_919));
        assert_eq!(Digits::new(15, 2).of_real(0.1 + 0.2), None);
        assert_eq!(Digits::new(2, 0).of_real(100.0), None);
    }

    #[test]
    fn the_short_way_of_whole_numbers_is_the_long_way() {
        let powers = (0..19).map(|power| 10_i64.pow(power));
        let values = powers.flat_map(|power| [power - 1, power, power + 1]);
        for value in values.chain([0, i64::MAX]).flat_map(|value| [value, -value]) {
            for (precision, scale) in
                [(15, 2), (10, 2), (38, 10), (5, 0), (3, 3), (38, 20), (38, 0), (9, -3), (18, 2)]
            {
                let long = scaled(value.into(), scale.into(), precision);
                assert_eq!(
                    Digits::new(precision, scale).of_integer(value),
                    long,
                    "{value} {precision} {scale}"
                );
            }
        }
    }

    #[test]
    fn integers_never_pass_through_floats() {
        let array = read(column(DataType::Int64), &[ValueRef::Integer(i64::MAX)]).unwrap();
        assert_eq!(array.as_primitive::<Int64Type>().value(0), i64::MAX);
        assert!(read(column(DataType::Int64), &[ValueRef::Real(1.0)]).is_err());
        assert!(read(column(DataType::Float64), &[ValueRef::Integer(i64::MAX)]).is_err());
        assert!(read(column(DataType::Boolean), &[ValueRef::Integer(2)]).is_err());
    }

    #[test]
    fn a_text_column_takes_every_class_but_blobs() {
        use ValueRef::{Integer, Real, Text};
        let values = [Text("Zoë".as_bytes()), Integer(i64::MIN), Real(0.1), Real(-1e300)];
        let array = read(column(DataType::Utf8), &values).unwrap();
        let texts: Vec<_> = array.as_string::<i32>().iter().flatten().collect();
        assert_eq!(texts, ["Zoë", "-9223372036854775808", "0.1", "-1e300"]);
        let error = read(column(DataType::Utf8), &[ValueRef::Blob(b"x")]).unwrap_err();
        assert_eq!(error.context_value("found"), Some("blob"));
        let error = read(column(DataType::Utf8), &[Text(b"\xff")]).unwrap_err();
        assert_eq!(error.context_value("found"), Some("text that is not UTF-8"));
    }

    #[test]
    fn numeric_takes_numbers_and_no_words() {
        use ValueRef::{Integer, Real, Text};
        let field = || extension_field("c", DataType::Utf8, NUMERIC);
        let digits = "123456789012345678901234567890.5";
        let array = read(field(), &[Integer(5), Real(0.1), Text(digits.as_bytes())]).unwrap();
        let texts: Vec<_> = array.as_string::<i32>().iter().flatten().collect();
        assert_eq!(texts, ["5", "0.1", digits]);
        assert!(read(field(), &[Text(b"five")]).is_err());
    }
}
