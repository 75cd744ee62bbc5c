//! What a column of each type is stored as.
//!
//! DuckDB has a type for nearly every meaning. Where the type alone does not say what the values
//! mean, the comment of the column does ([`Meaning`]): it is part of the catalog, survives every
//! ALTER TABLE and goes with the column. A user's own words before it are left alone.

use arrow_schema::{DataType, Field, TimeUnit};
use highwater_core::types::{EXTENSION, NUMERIC, with_metadata};
use highwater_core::{LogicalType, Result};

use crate::source::carried;

/// What a comment of ours begins with.
pub(crate) const MARK: &str = "highwater:";

/// The most digits of a decimal number in DuckDB.
const DIGITS_MAX: u8 = 38;

/// What the values of a column mean, where its type does not say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// Decimal digits without limit, as text.
    Numeric,
    /// A decimal number with more digits than DuckDB's have, as text.
    Decimal(u8, i8),
    /// An instant in nanoseconds; DuckDB's type for these knows no zone.
    Instant,
    /// A list of such values.
    List(Box<Meaning>),
}

impl Meaning {
    /// What is written into the comment.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Numeric => "numeric".to_owned(),
            Self::Decimal(precision, scale) => format!("decimal({precision},{scale})"),
            Self::Instant => "timestamptz_ns".to_owned(),
            Self::List(item) => format!("list({})", item.text()),
        }
    }

    /// What a comment says; `None` where it is nothing of ours.
    pub(crate) fn parse(comment: &str) -> Option<Self> {
        let (_, text) = comment.rsplit_once(MARK)?;
        Self::parse_text(text.trim())
    }

    fn parse_text(text: &str) -> Option<Self> {
        let inside = |name: &str| text.strip_prefix(name)?.strip_prefix('(')?.strip_suffix(')');
        if let Some(item) = inside("list") {
            return Some(Self::List(Box::new(Self::parse_text(item)?)));
        }
        if let Some((precision, scale)) = inside("decimal").and_then(|d| d.split_once(',')) {
            return Some(Self::Decimal(precision.parse().ok()?, scale.parse().ok()?));
        }
        match text {
            "numeric" => Some(Self::Numeric),
            "timestamptz_ns" => Some(Self::Instant),
            _ => None,
        }
    }

    /// The field of a column with this meaning, from what its type alone says. A comment that does
    /// not go with the type (somebody has changed one of them) says nothing.
    pub(crate) fn give(&self, field: Field) -> Field {
        match (self, field.data_type()) {
            (Self::Numeric, DataType::Utf8) => with_metadata(field, EXTENSION, NUMERIC),
            (Self::Decimal(precision, scale), DataType::Utf8) => {
                field.with_data_type(DataType::Decimal256(*precision, *scale))
            }
            (Self::Instant, DataType::Timestamp(TimeUnit::Nanosecond, None)) => {
                field.with_data_type(DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into())))
            }
            (Self::List(meaning), DataType::List(item)) => {
                let item = meaning.give(item.as_ref().clone());
                field.with_data_type(DataType::List(item.into()))
            }
            _ => field,
        }
    }
}

/// A column as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stored {
    /// The type of DuckDB.
    pub(crate) sql: String,
    /// What the type does not say.
    pub(crate) meaning: Option<Meaning>,
}

impl Stored {
    fn plain(sql: impl Into<String>) -> Self {
        Self { sql: sql.into(), meaning: None }
    }

    fn with(sql: &str, meaning: Meaning) -> Self {
        Self { sql: sql.to_owned(), meaning: Some(meaning) }
    }

    /// How values of a field are stored.
    ///
    /// # Errors
    /// `Unsupported` when values of the type cannot be stored without changing them.
    pub(crate) fn of(field: &Field) -> Result<Self> {
        Ok(match LogicalType::of(field)? {
            LogicalType::Boolean => Self::plain("BOOLEAN"),
            LogicalType::Integer { bits, signed } => Self::plain(integer(bits, signed)),
            LogicalType::Float { bits: 64 } => Self::plain("DOUBLE"),
            LogicalType::Float { .. } => Self::plain("FLOAT"),
            LogicalType::Decimal { precision, scale }
                if precision <= DIGITS_MAX && (0..=precision as i8).contains(&scale) =>
            {
                Self::plain(format!("DECIMAL({precision},{scale})"))
            }
            LogicalType::Decimal { precision, scale } => {
                Self::with("VARCHAR", Meaning::Decimal(precision, scale))
            }
            LogicalType::Numeric => Self::with("VARCHAR", Meaning::Numeric),
            LogicalType::Text | LogicalType::Null => Self::plain("VARCHAR"),
            LogicalType::Json | LogicalType::Nested => Self::plain("JSON"),
            LogicalType::Uuid => Self::plain("UUID"),
            LogicalType::Binary => Self::plain("BLOB"),
            LogicalType::Date => Self::plain("DATE"),
            LogicalType::Time(TimeUnit::Nanosecond) => Self::plain("TIME_NS"),
            LogicalType::Time(_) => Self::plain("TIME"),
            LogicalType::Timestamp { unit: TimeUnit::Nanosecond, utc: true } => {
                Self::with("TIMESTAMP_NS", Meaning::Instant)
            }
            LogicalType::Timestamp { unit: TimeUnit::Nanosecond, .. } => {
                Self::plain("TIMESTAMP_NS")
            }
            LogicalType::Timestamp { utc: true, .. } => Self::plain("TIMESTAMP WITH TIME ZONE"),
            LogicalType::Timestamp { .. } => Self::plain("TIMESTAMP"),
            LogicalType::Duration(_) | LogicalType::Interval => Self::plain("INTERVAL"),
            LogicalType::List(item) => {
                let item = Self::of(&item)?;
                let meaning = item.meaning.map(|meaning| Meaning::List(Box::new(meaning)));
                Self { sql: format!("{}[]", item.sql), meaning }
            }
        })
    }

    /// The field in whose type values travel to and from a column stored so, without what the
    /// comment adds.
    pub(crate) fn carried(&self, name: &str, nullable: bool) -> Field {
        carried::field(name, &self.sql, nullable)
    }

    /// The statement's words for the comment of a column: NULL takes an older one away.
    pub(crate) fn comment(&self) -> String {
        match &self.meaning {
            Some(meaning) => format!("'{MARK} {}'", meaning.text()),
            None => "NULL".to_owned(),
        }
    }
}

fn integer(bits: u8, signed: bool) -> &'static str {
    match (bits, signed) {
        (8, true) => "TINYINT",
        (16, true) => "SMALLINT",
        (32, true) => "INTEGER",
        (_, true) => "BIGINT",
        (8, false) => "UTINYINT",
        (16, false) => "USMALLINT",
        (32, false) => "UINTEGER",
        (_, false) => "UBIGINT",
    }
}

/// The field that a column made for `field` is read back as.
///
/// # Errors
/// As [`Stored::of`].
pub(crate) fn stored_field(field: &Field) -> Result<Field> {
    let stored = Stored::of(field).map_err(|error| match error.context_value("column") {
        Some(_) => error,
        None => error.context("column", field.name()),
    })?;
    Ok(described(field.name(), &stored.sql, stored.meaning.as_ref(), field.is_nullable()))
}

/// The field of a column as the catalog tells it.
pub(crate) fn described(
    name: &str,
    declared: &str,
    meaning: Option<&Meaning>,
    nullable: bool,
) -> Field {
    let field = carried::field(name, declared, nullable);
    match meaning {
        Some(meaning) => meaning.give(field),
        None => field,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_schema::IntervalUnit;

    use super::*;

    #[test]
    fn what_is_stored_is_read_back_and_stored_the_same_again() {
        use DataType as D;
        let wide = D::List(Arc::new(Field::new("item", D::Decimal256(76, 20), true)));
        let instants = D::Timestamp(TimeUnit::Nanosecond, Some("UTC".into()));
        for (data_type, sql) in [
            (D::Boolean, "BOOLEAN"),
            (D::Int8, "TINYINT"),
            (D::UInt64, "UBIGINT"),
            (D::Float16, "FLOAT"),
            (D::Decimal32(9, 2), "DECIMAL(9,2)"),
            (D::Decimal128(5, -2), "VARCHAR"),
            (D::Decimal256(76, 20), "VARCHAR"),
            (D::LargeUtf8, "VARCHAR"),
            (D::FixedSizeBinary(5), "BLOB"),
            (D::Date64, "DATE"),
            (D::Time32(TimeUnit::Second), "TIME"),
            (D::Timestamp(TimeUnit::Second, None), "TIMESTAMP"),
            (instants, "TIMESTAMP_NS"),
            (D::Duration(TimeUnit::Second), "INTERVAL"),
            (D::Interval(IntervalUnit::YearMonth), "INTERVAL"),
            (wide, "VARCHAR[]"),
            (D::Null, "VARCHAR"),
        ] {
            let field = Field::new("c", data_type, true);
            assert_eq!(Stored::of(&field).unwrap().sql, sql);
            let stored = stored_field(&field).unwrap();
            assert_eq!(stored_field(&stored).unwrap(), stored, "{field:?}");
        }
    }

    #[test]
    fn a_comment_says_what_the_type_does_not() {
        for meaning in [
            Meaning::Numeric,
            Meaning::Decimal(50, -3),
            Meaning::List(Box::new(Meaning::List(Box::new(Meaning::Instant)))),
        ] {
            let comment = format!("prices; {MARK} {}", meaning.text());
            assert_eq!(Meaning::parse(&comment), Some(meaning));
        }
        assert_eq!(Meaning::parse("numeric"), None);
        let text = Field::new("c", DataType::Int32, true);
        assert_eq!(Meaning::Numeric.give(text.clone()), text, "the type was changed by hand");
    }
}
