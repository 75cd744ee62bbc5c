//! From declared types to fields, and from fields to declared types.
//!
//! SQLite's types belong to values, not to columns, so a column's type follows from what it was
//! declared as, in this order:
//!
//! 1. what our own destination declares ([`declared_type`]) means what it meant there:
//!    `FLOAT_32`, `DECIMAL_TEXT(p,s)`, `NUMERIC_TEXT`, `JSON_TEXT`, `JSON_LIST_TEXT`, `UUID_TEXT`, `TIME_NS`,
//!    `TIMESTAMPTZ`, `TIMESTAMP_NS`, `TIMESTAMPTZ_NS`, `DURATION`;
//! 2. `DATE`, `TIME`, `DATETIME`, `TIMESTAMP`: what the first value that is not NULL is: a date,
//!    time or timestamp as text, an integer, a float, or other text; without a value, what the
//!    name says;
//! 3. otherwise the name contains `INT`: Int64; `BOOL`: Boolean; `CHAR`, `CLOB`, `TEXT`: Utf8;
//!    `BLOB`: Binary; `REAL`, `FLOA`, `DOUB`: Float64; it is `DECIMAL(p,s)` or `NUMERIC(p,s)`:
//!    decimal, and without digits `highwater.numeric`;
//! 4. any other name, and no name: what the values are. Integers only: Int64; floats only:
//!    Float64; integers and floats: `highwater.numeric`; text only: Utf8; blobs only: Binary; none:
//!    Utf8. Any other mixture can only be read as `text`.

use arrow_schema::{DataType, Field, IntervalUnit, TimeUnit};
use highwater_core::text::TextBuilder;
use highwater_core::types::{DECLARED, EXTENSION, JSON, NUMERIC, UUID, declared_in, with_metadata};
use highwater_core::{Error, LogicalType, Result};

/// The name of the system in `highwater:declared`.
pub(crate) const SYSTEM: &str = "sqlite";
/// Metadata key of a column whose values are of several storage classes: which ones.
pub(crate) const MIXED: &str = "sqlite:mixed";

/// What to do about a column whose values do not fit its type.
pub(crate) fn text_hint(column: &str) -> String {
    format!("columns: [{{name: {column}, type: text}}]   # and the other columns to copy")
}

/// An Arrow type and, where it has one, the extension that gives it its meaning.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Meaning {
    pub(crate) data_type: DataType,
    pub(crate) extension: Option<&'static str>,
}

impl Meaning {
    const fn plain(data_type: DataType) -> Self {
        Self { data_type, extension: None }
    }

    const fn text(extension: &'static str) -> Self {
        Self { data_type: DataType::Utf8, extension: Some(extension) }
    }

    /// The field of a column declared as `declared`.
    pub(crate) fn field(&self, name: &str, declared: &str, nullable: bool) -> Field {
        let field = Field::new(name, self.data_type.clone(), nullable);
        let field = match self.extension {
            Some(extension) => with_metadata(field, EXTENSION, extension),
            None => field,
        };
        if declared.is_empty() {
            return field;
        }
        with_metadata(field, DECLARED, format!("{SYSTEM}:{declared}"))
    }
}

/// What decides the type of a column.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Rule {
    /// The declared type alone.
    Known(Meaning),
    /// The first value; without one, this.
    FirstValue(Meaning),
    /// All values.
    AllValues,
}

/// A timestamp in UTC.
pub(crate) fn utc(unit: TimeUnit) -> DataType {
    DataType::Timestamp(unit, Some("UTC".into()))
}

/// The rule for a declared type.
pub(crate) fn rule(declared: &str) -> Rule {
    use DataType as D;
    use TimeUnit::{Microsecond, Nanosecond};
    let upper = declared.trim().to_ascii_uppercase();
    let (name, digits) = match upper.split_once('(') {
        Some((name, digits)) => (name.trim_end(), parse_digits(digits)),
        None => (upper.as_str(), None),
    };
    let known = |data_type| Rule::Known(Meaning::plain(data_type));
    let decimal = |fallback| match digits {
        Some((precision, scale)) => known(decimal_type(precision, scale)),
        None => Rule::Known(fallback),
    };
    match name {
        "FLOAT_32" => return known(D::Float32),
        "DECIMAL_TEXT" => return decimal(Meaning::text(NUMERIC)),
        "NUMERIC_TEXT" => return Rule::Known(Meaning::text(NUMERIC)),
        "JSON_TEXT" | "JSON_LIST_TEXT" => return Rule::Known(Meaning::text(JSON)),
        "UUID_TEXT" => {
            let data_type = D::FixedSizeBinary(16);
            return Rule::Known(Meaning { data_type, extension: Some(UUID) });
        }
        "TIME_NS" => return known(D::Time64(Nanosecond)),
        "TIMESTAMPTZ" => return known(utc(Microsecond)),
        "TIMESTAMP_NS" => return known(D::Timestamp(Nanosecond, None)),
        "TIMESTAMPTZ_NS" => return known(utc(Nanosecond)),
        "DURATION" => return known(D::Interval(IntervalUnit::MonthDayNano)),
        "DATE" => return Rule::FirstValue(Meaning::plain(D::Date32)),
        "TIME" => return Rule::FirstValue(Meaning::plain(D::Time64(Microsecond))),
        "DATETIME" | "TIMESTAMP" => {
            return Rule::FirstValue(Meaning::plain(D::Timestamp(Microsecond, None)));
        }
        _ => {}
    }
    let has = |words: &[&str]| words.iter().any(|word| upper.contains(word));
    if has(&["INT"]) {
        known(D::Int64)
    } else if has(&["BOOL"]) {
        known(D::Boolean)
    } else if has(&["CHAR", "CLOB", "TEXT"]) {
        known(D::Utf8)
    } else if has(&["BLOB"]) {
        known(D::Binary)
    } else if has(&["REAL", "FLOA", "DOUB"]) {
        known(D::Float64)
    } else if matches!(name, "DECIMAL" | "NUMERIC") {
        decimal(Meaning::text(NUMERIC))
    } else {
        Rule::AllValues
    }
}

fn decimal_type(precision: u8, scale: i8) -> DataType {
    if precision <= 38 {
        DataType::Decimal128(precision, scale)
    } else {
        DataType::Decimal256(precision, scale)
    }
}

/// `10,2)` as (10, 2); `10)` as (10, 0).
fn parse_digits(text: &str) -> Option<(u8, i8)> {
    let text = text.strip_suffix(')')?;
    let (precision, scale) = text.split_once(',').unwrap_or((text, "0"));
    let (precision, scale) = (precision.trim().parse::<u8>().ok()?, scale.trim().parse().ok()?);
    let fits = (1..=76).contains(&precision) && (-76..=precision as i8).contains(&scale);
    fits.then_some((precision, scale))
}

/// What the first value of a temporal column says, given what the declared name says.
pub(crate) fn of_first_value(value: &rusqlite::types::Value, named: &Meaning) -> Meaning {
    use rusqlite::types::Value;
    let text = match value {
        Value::Null => return named.clone(),
        Value::Integer(_) => return Meaning::plain(DataType::Int64),
        Value::Real(_) => return Meaning::plain(DataType::Float64),
        Value::Blob(_) => return Meaning::plain(DataType::Binary),
        Value::Text(text) => text,
    };
    if matches!(text.as_str(), "infinity" | "-infinity") {
        return named.clone();
    }
    let candidates = [
        named.data_type.clone(),
        DataType::Date32,
        DataType::Timestamp(TimeUnit::Microsecond, None),
        utc(TimeUnit::Microsecond),
        DataType::Timestamp(TimeUnit::Nanosecond, None),
        utc(TimeUnit::Nanosecond),
        DataType::Time64(TimeUnit::Microsecond),
    ];
    let fitting = candidates.into_iter().find(|candidate| {
        let field = Field::new("", candidate.clone(), true);
        TextBuilder::new(&field).is_ok_and(|mut builder| builder.append(text).is_ok())
    });
    Meaning::plain(fitting.unwrap_or(DataType::Utf8))
}

/// The storage classes of the values of a column.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Classes {
    pub(crate) integer: bool,
    pub(crate) real: bool,
    pub(crate) text: bool,
    pub(crate) blob: bool,
}

impl Classes {
    /// What the values say; `Err` names the classes of a mixture.
    pub(crate) fn meaning(self) -> Result<Meaning, String> {
        Ok(match (self.integer, self.real, self.text, self.blob) {
            (false, false, _, false) => Meaning::plain(DataType::Utf8),
            (true, false, false, false) => Meaning::plain(DataType::Int64),
            (false, true, false, false) => Meaning::plain(DataType::Float64),
            (true, true, false, false) => Meaning::text(NUMERIC),
            (false, false, false, true) => Meaning::plain(DataType::Binary),
            _ => {
                let classes = [
                    (self.integer, "integer"),
                    (self.real, "real"),
                    (self.text, "text"),
                    (self.blob, "blob"),
                ];
                let present = classes.iter().filter(|(there, _)| *there);
                return Err(present.map(|(_, name)| *name).collect::<Vec<_>>().join(", "));
            }
        })
    }
}

/// Whether a column declared so by its user stores every value of the type as it is: SQLite turns
/// the text of a decimal into a float where the declared type says NUMERIC, for example.
fn keeps_values(declared: &str, data_type: &DataType) -> bool {
    const KEYWORDS: [&str; 11] = [
        "PRIMARY",
        "NOT",
        "NULL",
        "UNIQUE",
        "CHECK",
        "DEFAULT",
        "COLLATE",
        "REFERENCES",
        "GENERATED",
        "AS",
        "CONSTRAINT",
    ];
    use DataType as D;
    let plain = matches!(data_type, D::Int64 | D::Utf8 | D::Binary | D::Float64 | D::Boolean);
    let clean = declared.chars().all(|c| c.is_ascii_alphanumeric() || "_ (),".contains(c))
        && declared.starts_with(|c: char| c.is_ascii_alphabetic())
        && !declared.split(' ').any(|w| KEYWORDS.contains(&w.to_ascii_uppercase().as_str()));
    if declared == "JSON_LIST_TEXT" {
        return *data_type == D::Utf8;
    }
    plain && clean && rule(declared) == Rule::Known(Meaning::plain(data_type.clone()))
}

/// The type that a destination column for `field` is declared as: the type that a SQLite source
/// declared where that keeps every value, else the one of the table in
/// [`highwater_core::types`].
///
/// # Errors
/// `Unsupported` when values of the type cannot be stored without changing them.
pub(crate) fn declared_type(field: &Field) -> Result<String> {
    if let Some(declared) = declared_in(field, SYSTEM)
        && keeps_values(declared, field.data_type())
    {
        return Ok(declared.to_owned());
    }
    let of_unit = |unit: TimeUnit, name: &str| match unit {
        TimeUnit::Nanosecond => format!("{name}_NS"),
        _ => name.to_owned(),
    };
    Ok(match LogicalType::of(field)? {
        LogicalType::Boolean => "BOOLEAN".to_owned(),
        LogicalType::Integer { bits: 8, .. } | LogicalType::Integer { bits: 16, signed: true } => {
            "SMALLINT".to_owned()
        }
        LogicalType::Integer { bits: 16, .. } | LogicalType::Integer { bits: 32, signed: true } => {
            "INTEGER".to_owned()
        }
        LogicalType::Integer { bits: 64, signed: false } => "DECIMAL_TEXT(20,0)".to_owned(),
        LogicalType::Integer { .. } => "BIGINT".to_owned(),
        LogicalType::Float { bits: 64 } => "DOUBLE".to_owned(),
        LogicalType::Float { .. } => "FLOAT_32".to_owned(),
        LogicalType::Decimal { precision, scale } => format!("DECIMAL_TEXT({precision},{scale})"),
        LogicalType::Numeric => "NUMERIC_TEXT".to_owned(),
        LogicalType::Text | LogicalType::Null => "TEXT".to_owned(),
        LogicalType::Json | LogicalType::Nested => "JSON_TEXT".to_owned(),
        LogicalType::Uuid => "UUID_TEXT".to_owned(),
        LogicalType::Binary => "BLOB".to_owned(),
        LogicalType::Date => "DATE".to_owned(),
        LogicalType::Time(unit) => of_unit(unit, "TIME"),
        LogicalType::Timestamp { unit, utc: false } => of_unit(unit, "TIMESTAMP"),
        LogicalType::Timestamp { unit, utc: true } => of_unit(unit, "TIMESTAMPTZ"),
        LogicalType::Duration(_) | LogicalType::Interval => "DURATION".to_owned(),
        LogicalType::List(_) => "JSON_LIST_TEXT".to_owned(),
    })
}

/// The field that a column declared for `field` is read back as.
///
/// # Errors
/// As [`declared_type`].
pub(crate) fn stored_field(field: &Field) -> Result<Field> {
    let declared = declared_type(field)?;
    match rule(&declared) {
        Rule::Known(meaning) | Rule::FirstValue(meaning) => {
            Ok(meaning.field(field.name(), &declared, field.is_nullable()))
        }
        Rule::AllValues => Err(Error::internal("A declared type is not understood")
            .context("column", field.name())
            .context("type", declared)),
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::types::Value;

    use super::*;

    #[test]
    fn declared_types_follow_the_documented_rules() {
        use DataType as D;
        let plain = |data_type| Rule::Known(Meaning::plain(data_type));
        for (declared, expected) in [
            ("INTEGER", plain(D::Int64)),
            ("unsigned big int", plain(D::Int64)),
            ("BOOLEAN", plain(D::Boolean)),
            ("VARCHAR(20)", plain(D::Utf8)),
            ("native character(70)", plain(D::Utf8)),
            ("BLOB", plain(D::Binary)),
            ("double precision", plain(D::Float64)),
            ("DECIMAL(10,2)", plain(D::Decimal128(10, 2))),
            ("numeric( 5 )", plain(D::Decimal128(5, 0))),
            ("DECIMAL(50,2)", plain(D::Decimal256(50, 2))),
            ("NUMERIC", Rule::Known(Meaning::text(NUMERIC))),
            ("DECIMAL_TEXT(38,-3)", plain(D::Decimal128(38, -3))),
            ("JSON_TEXT", Rule::Known(Meaning::text(JSON))),
            (
                "DATETIME",
                Rule::FirstValue(Meaning::plain(D::Timestamp(TimeUnit::Microsecond, None))),
            ),
            ("", Rule::AllValues),
            ("STRING", Rule::AllValues),
        ] {
            assert_eq!(rule(declared), expected, "{declared}");
        }
    }

    #[test]
    fn the_first_value_decides_what_a_date_is() {
        let named = Meaning::plain(DataType::Timestamp(TimeUnit::Microsecond, None));
        for (value, expected) in [
            (Value::Text("2026-11-21".into()), DataType::Date32),
            (Value::Text("2026-11-21 03:04:05".into()), named.data_type.clone()),
            (Value::Text("2026-11-21T03:04:05.123".into()), named.data_type.clone()),
            (Value::Text("2026-11-21T03:04:05Z".into()), utc(TimeUnit::Microsecond)),
            (Value::Text("2026-11-21T03:04:05+02:00".into()), utc(TimeUnit::Microsecond)),
            (Value::Text("21.11.2026".into()), DataType::Utf8),
            (Value::Integer(1_795_000_000), DataType::Int64),
            (Value::Real(2_460_000.5), DataType::Float64),
            (Value::Null, named.data_type.clone()),
            (Value::Text("infinity".into()), named.data_type.clone()),
        ] {
            assert_eq!(of_first_value(&value, &named).data_type, expected, "{value:?}");
        }
    }

    #[test]
    fn values_of_one_class_give_a_type_and_mixtures_none() {
        let integers = Classes { integer: true, ..Classes::default() };
        assert_eq!(integers.meaning().unwrap().data_type, DataType::Int64);
        assert_eq!(Classes::default().meaning().unwrap().data_type, DataType::Utf8);
        let numbers = Classes { real: true, ..integers };
        assert_eq!(numbers.meaning().unwrap(), Meaning::text(NUMERIC));
        let mixed = Classes { text: true, ..integers };
        assert_eq!(mixed.meaning().unwrap_err(), "integer, text");
    }

    #[test]
    fn what_is_declared_is_read_back_and_declared_the_same_again() {
        use DataType as D;
        let list = D::List(std::sync::Arc::new(Field::new("item", D::Int64, true)));
        for data_type in [
            D::Boolean,
            D::Int8,
            D::UInt16,
            D::UInt32,
            D::Int64,
            D::UInt64,
            D::Float16,
            D::Float64,
            D::Decimal128(38, 10),
            D::Decimal256(76, 0),
            D::LargeUtf8,
            D::Binary,
            D::Date64,
            D::Time32(TimeUnit::Second),
            D::Time64(TimeUnit::Nanosecond),
            D::Timestamp(TimeUnit::Second, None),
            utc(TimeUnit::Nanosecond),
            D::Duration(TimeUnit::Second),
            D::Interval(IntervalUnit::YearMonth),
            list,
            D::Null,
        ] {
            let field = Field::new("c", data_type, true);
            let stored = stored_field(&field).unwrap();
            assert_eq!(stored_field(&stored).unwrap(), stored, "{field:?}");
        }
        let of = |declared: &str, data_type| {
            declared_type(&Meaning::plain(data_type).field("c", declared, true)).unwrap()
        };
        assert_eq!(of("VARCHAR(20)", D::Utf8), "VARCHAR(20)");
        assert_eq!(of("unsigned big int", D::Int64), "unsigned big int");
        assert_eq!(of("DECIMAL(10,2)", D::Decimal128(10, 2)), "DECIMAL_TEXT(10,2)");
        assert_eq!(of("DATETIME", D::Int64), "BIGINT");
        assert_eq!(of("INT) AS SELECT (1", D::Int64), "BIGINT");
        assert_eq!(of("INT; DROP", D::Int64), "BIGINT");
    }
}
