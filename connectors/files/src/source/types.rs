//! The words for types in `columns`, and what they mean.

use arrow_schema::{DataType, Field, IntervalUnit, TimeUnit};
use highwater_core::types::{JSON, NUMERIC, UUID, extension_field};
use highwater_core::{Error, Result};

/// The field of a declared column.
pub(crate) fn declared(name: &str, word: &str, key: &str) -> Result<Field> {
    parse(name, word.trim()).ok_or_else(|| {
        Error::config("This is no type of a column")
            .context("key", format!("columns.{key}"))
            .context("type", word)
            .hint("use one of: boolean, int8 … int64, uint8 … uint64, float32, float64, decimal(p,s), numeric, text, json, uuid, binary, date, time, timestamp, timestamptz, duration, interval")
    })
}

fn parse(name: &str, word: &str) -> Option<Field> {
    let lower = word.to_ascii_lowercase();
    let (base, arguments) = match lower.split_once('(') {
        Some((base, rest)) => (base.trim_end(), Some(rest.strip_suffix(')')?)),
        None => (lower.as_str(), None),
    };
    let unit = match (base, arguments) {
        ("time" | "timestamp" | "timestamptz" | "duration", Some(unit)) => match unit.trim() {
            "s" => TimeUnit::Second,
            "ms" => TimeUnit::Millisecond,
            "us" => TimeUnit::Microsecond,
            "ns" => TimeUnit::Nanosecond,
            _ => return None,
        },
        ("decimal", Some(digits)) => {
            let (precision, scale) = digits.split_once(',').unwrap_or((digits, "0"));
            return decimal(name, precision.trim().parse().ok()?, scale.trim().parse().ok()?);
        }
        (_, Some(_)) => return None,
        (_, None) => TimeUnit::Microsecond,
    };
    let data_type = match base {
        "boolean" | "bool" => DataType::Boolean,
        "int8" => DataType::Int8,
        "int16" | "smallint" => DataType::Int16,
        "int32" | "integer" | "int" => DataType::Int32,
        "int64" | "bigint" => DataType::Int64,
        "uint8" => DataType::UInt8,
        "uint16" => DataType::UInt16,
        "uint32" => DataType::UInt32,
        "uint64" => DataType::UInt64,
        "float32" | "real" => DataType::Float32,
        "float64" | "double" => DataType::Float64,
        "numeric" | "decimal" => return Some(extension_field(name, DataType::Utf8, NUMERIC)),
        "text" | "string" => DataType::Utf8,
        "json" => return Some(extension_field(name, DataType::Utf8, JSON)),
        "uuid" => return Some(extension_field(name, DataType::FixedSizeBinary(16), UUID)),
        "binary" => DataType::Binary,
        "date" => DataType::Date32,
        "time" => match unit {
            TimeUnit::Second | TimeUnit::Millisecond => DataType::Time32(unit),
            TimeUnit::Microsecond | TimeUnit::Nanosecond => DataType::Time64(unit),
        },
        "timestamp" => DataType::Timestamp(unit, None),
        "timestamptz" => DataType::Timestamp(unit, Some("UTC".into())),
        "duration" => DataType::Duration(unit),
        "interval" => DataType::Interval(IntervalUnit::MonthDayNano),
        _ => return None,
    };
    Some(Field::new(name, data_type, true))
}

fn decimal(name: &str, precision: u8, scale: i8) -> Option<Field> {
    let data_type = match precision {
        1..=38 => DataType::Decimal128(precision, scale),
        39..=76 => DataType::Decimal256(precision, scale),
        _ => return None,
    };
    (i16::from(scale) <= i16::from(precision)).then(|| Field::new(name, data_type, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_types() {
        let of = |word| declared("c", word, "c").map(|f| f.data_type().clone());
        assert_eq!(of("int64").unwrap(), DataType::Int64);
        assert_eq!(of("decimal(10, 2)").unwrap(), DataType::Decimal128(10, 2));
        assert_eq!(of("DECIMAL(76,0)").unwrap(), DataType::Decimal256(76, 0));
        let ns = DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into()));
        assert_eq!(of("timestamptz(ns)").unwrap(), ns);
        assert_eq!(of("time(s)").unwrap(), DataType::Time32(TimeUnit::Second));
        for wrong in
            ["integers", "decimal(77,0)", "decimal(2,3)", "time(h)", "text(5)", "int64(", ""]
        {
            let error = of(wrong).unwrap_err();
            assert_eq!(error.context_value("key"), Some("columns.c"), "{wrong}");
        }
    }
}
