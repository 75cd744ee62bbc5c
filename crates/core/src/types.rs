//! What a column means, and what each system stores for it.
//!
//! Arrow is the only value type. Where Arrow has no type for a meaning, the field's metadata
//! carries it: the extension name (`ARROW:extension:name`) says how to read the storage type, and
//! [`DECLARED`] keeps the type that the source system declared, so that the same system gets its
//! own type back at the other end.
//!
//! | logical type | Arrow | PostgreSQL | SQLite (declared type: storage) | DuckDB | CSV, JSONL | Parquet |
//! |---|---|---|---|---|---|---|
//! | boolean | Boolean | `boolean` | `BOOLEAN`: 0, 1 | `BOOLEAN` | `true`, `false` | BOOLEAN |
//! | integer | Int8 … Int64 | `smallint`, `integer`, `bigint` | `SMALLINT`, `INTEGER`, `BIGINT`: integer | `TINYINT` … `BIGINT` | digits | INT32, INT64 |
//! | unsigned | UInt8 … UInt32 | next wider integer | `SMALLINT`, `INTEGER`, `BIGINT`: integer | `UTINYINT` … `UINTEGER` | digits | UINT_8 … UINT_32 |
//! | unsigned 64 | UInt64 | `numeric(20,0)` | `DECIMAL_TEXT(20,0)`: text | `UBIGINT` | digits | UINT_64 |
//! | float | Float16, Float32, Float64 | `real`, `real`, `double precision` | `FLOAT_32`, `FLOAT_32`, `DOUBLE`: real; NaN and -0.0 are refused | `FLOAT`, `FLOAT`, `DOUBLE` | shortest digits that read back the same; `NaN`, `Infinity` | FLOAT16, FLOAT, DOUBLE |
//! | decimal(p,s) | Decimal32 … Decimal256 | `numeric(p,s)` | `DECIMAL_TEXT(p,s)`: text | `DECIMAL(p,s)`; more than 38 digits: `VARCHAR` and a comment | digits, scale kept | DECIMAL |
//! | numeric | Utf8, `highwater.numeric` | `numeric` | `NUMERIC_TEXT`: text | `VARCHAR` and a comment | digits | STRING |
//! | text | Utf8, LargeUtf8, Utf8View | `text` | `TEXT`: text | `VARCHAR` | text | STRING |
//! | json | Utf8, `arrow.json` | `json` (`jsonb` if declared so) | `JSON_TEXT`: text | `JSON` | CSV: the text; JSONL: the text, quoted | JSON |
//! | uuid | FixedSizeBinary(16), `arrow.uuid` | `uuid` | `UUID_TEXT`: text | `UUID` | text | UUID |
//! | binary | Binary, LargeBinary, BinaryView, FixedSizeBinary | `bytea` | `BLOB`: blob | `BLOB` | base64 | BYTE_ARRAY |
//! | date | Date32, Date64 | `date` | `DATE`: text `2026-11-21` | `DATE` | the same text | DATE |
//! | time | Time32, Time64 (to µs; ns as `TIME_NS`: text) | `time` | `TIME` (ns: `TIME_NS`): text `03:04:05.000006` | `TIME` (ns: `TIME_NS`) | the same text | TIME |
//! | timestamp | Timestamp without zone | `timestamp` (ns: `text`) | `TIMESTAMP` (ns: `TIMESTAMP_NS`): text `2026-11-21 03:04:05.000006` | `TIMESTAMP` (ns: `TIMESTAMP_NS`) | the same text | TIMESTAMP |
//! | timestamp, UTC | Timestamp with zone | `timestamptz` (ns: `text`) | `TIMESTAMPTZ` (ns: `TIMESTAMPTZ_NS`): text with `Z` | `TIMESTAMPTZ` (ns: `TIMESTAMP_NS` and a comment) | the same text | TIMESTAMP, adjusted to UTC |
//! | duration | Duration | `interval` | `DURATION`: text, ISO 8601 | `INTERVAL` | the same text | INT64 |
//! | interval | Interval | `interval` | `DURATION`: text, ISO 8601 | `INTERVAL`, to µs | the same text | as text |
//! | list | List, LargeList, FixedSizeList | array of the element's type | `JSON_LIST_TEXT`: JSON | list of the element's type | JSON | LIST |
//! | struct, map, union, dictionary of those | Struct, Map | `jsonb` | `JSON_TEXT`: JSON | `JSON` | JSON | groups |
//! | null | Null | `text` | `TEXT` | `VARCHAR` | empty | as text |
//! | anything else of a system | Utf8, [`DECLARED`] | its own type back (`inet`, enum, domain, range, …) | `TEXT`: the system's text | `VARCHAR`: the system's text | text | STRING |
//!
//! DuckDB's comment on a column says what its type does not: `highwater: decimal(50,2)`.
//!
//! Read back from SQLite, integers have 64 bits, a list is its JSON text and a duration is an
//! interval: the declared type does not say more.
//!
//! Dates and timestamps that PostgreSQL calls `infinity` and `-infinity` are the greatest and the
//! least value of the Arrow type, and the words `infinity` and `-infinity` where text is stored.

use arrow_schema::{DataType, Field, TimeUnit};

use crate::error::{Error, Result};

/// Metadata key: the type as the source system declared it, `system:type`, for example
/// `postgresql:character varying(20)` or `sqlite:VARCHAR(20)`.
pub const DECLARED: &str = "highwater:declared";
/// Metadata key: what a system needs to create a declared type that a user defined (the labels of
/// an enum, the base type and checks of a domain), as JSON in that connector's own form.
pub const DEFINITION: &str = "highwater:definition";
/// Metadata key: the protocol that brought the column, [`CLOUDQUERY`]: an older table of that
/// system's own making is taken as it is.
pub const FROM: &str = "highwater:from";
/// Value of [`FROM`].
pub const CLOUDQUERY: &str = "cloudquery";
/// Metadata key of Arrow: the name of an extension type.
pub const EXTENSION: &str = "ARROW:extension:name";
/// Extension of Utf8: decimal digits without limit, or `NaN`, `Infinity`, `-Infinity`.
pub const NUMERIC: &str = "highwater.numeric";
/// Extension of Utf8: a JSON text, byte for byte as the source wrote it.
pub const JSON: &str = "arrow.json";
/// Extension of FixedSizeBinary(16): a UUID in network byte order.
pub const UUID: &str = "arrow.uuid";

/// What the values of a column mean, independent of the Arrow layout they come in.
#[derive(Debug, Clone, PartialEq)]
pub enum LogicalType {
    /// True or false.
    Boolean,
    /// A whole number.
    Integer {
        /// 8, 16, 32 or 64.
        bits: u8,
        /// Whether it may be negative.
        signed: bool,
    },
    /// A binary floating-point number of 16, 32 or 64 bits.
    Float {
        /// 16, 32 or 64.
        bits: u8,
    },
    /// A decimal number with a fixed number of digits after the point.
    Decimal {
        /// Digits in all, 1 to 76.
        precision: u8,
        /// Digits after the point; negative: zeros before it.
        scale: i8,
    },
    /// A decimal number without limits, and NaN.
    Numeric,
    /// Unicode text.
    Text,
    /// A JSON text.
    Json,
    /// A UUID.
    Uuid,
    /// Bytes.
    Binary,
    /// A day.
    Date,
    /// A time of day.
    Time(TimeUnit),
    /// A date and time; with a zone it is an instant in UTC.
    Timestamp {
        /// The unit of the stored integer.
        unit: TimeUnit,
        /// Whether it is an instant (UTC) or a wall-clock time.
        utc: bool,
    },
    /// An elapsed time.
    Duration(TimeUnit),
    /// Months, days and an elapsed time, kept apart.
    Interval,
    /// A list of values of one type.
    List(Box<Field>),
    /// A record or a map: JSON where a system has no such type.
    Nested,
    /// A column that holds NULL only.
    Null,
}

/// Field metadata: a column that is not of the table but of the records that it comes in. A source
/// offers it, and the plan asks for it only where a destination wants it. The value says what it
/// is: [`RECORD_EXTRACTED_AT`], [`RECORD_META`], or `line:FORM` for the record as it came
/// ([`crate::Capabilities::takes_records`]).
pub const RECORD: &str = "highwater:record";
/// See [`RECORD`]: when the record was made, a timestamp in UTC.
pub const RECORD_EXTRACTED_AT: &str = "extracted_at";
/// See [`RECORD`]: JSON, `{"changes": […]}` as in [`crate::plan::META`]; NULL where nothing was
/// changed.
pub const RECORD_META: &str = "meta";

/// What a column is of the record, if it is one of those ([`RECORD`]).
pub fn record_part(field: &Field) -> Option<&str> {
    field.metadata().get(RECORD).map(String::as_str)
}

/// The form of the records that a column holds as they came, if it does.
pub fn record_form(field: &Field) -> Option<&str> {
    record_part(field)?.strip_prefix("line:")
}

impl LogicalType {
    /// The meaning of a field.
    ///
    /// # Errors
    /// `Unsupported` for Arrow types that no system stores (unions, run-end encoding, list views);
    /// sources expand dictionaries before they send.
    pub fn of(field: &Field) -> Result<Self> {
        use DataType as D;
        let extension = field.metadata().get(EXTENSION).map(String::as_str);
        Ok(match field.data_type() {
            D::Boolean => Self::Boolean,
            D::Int8 => Self::Integer { bits: 8, signed: true },
            D::Int16 => Self::Integer { bits: 16, signed: true },
            D::Int32 => Self::Integer { bits: 32, signed: true },
            D::Int64 => Self::Integer { bits: 64, signed: true },
            D::UInt8 => Self::Integer { bits: 8, signed: false },
            D::UInt16 => Self::Integer { bits: 16, signed: false },
            D::UInt32 => Self::Integer { bits: 32, signed: false },
            D::UInt64 => Self::Integer { bits: 64, signed: false },
            D::Float16 => Self::Float { bits: 16 },
            D::Float32 => Self::Float { bits: 32 },
            D::Float64 => Self::Float { bits: 64 },
            D::Decimal32(precision, scale)
            | D::Decimal64(precision, scale)
            | D::Decimal128(precision, scale)
            | D::Decimal256(precision, scale) => {
                Self::Decimal { precision: *precision, scale: *scale }
            }
            D::Utf8 | D::LargeUtf8 | D::Utf8View => match extension {
                Some(NUMERIC) => Self::Numeric,
                Some(JSON) => Self::Json,
                _ => Self::Text,
            },
            D::FixedSizeBinary(16) if extension == Some(UUID) => Self::Uuid,
            D::Binary | D::LargeBinary | D::BinaryView | D::FixedSizeBinary(_) => Self::Binary,
            D::Date32 | D::Date64 => Self::Date,
            D::Time32(unit) | D::Time64(unit) => Self::Time(*unit),
            D::Timestamp(unit, zone) => Self::Timestamp { unit: *unit, utc: zone.is_some() },
            D::Duration(unit) => Self::Duration(*unit),
            D::Interval(_) => Self::Interval,
            D::List(item) | D::LargeList(item) | D::FixedSizeList(item, _) => {
                Self::List(Box::new(item.as_ref().clone()))
            }
            D::Struct(_) | D::Map(_, _) => Self::Nested,
            D::Null => Self::Null,
            other @ (D::Union(_, _)
            | D::Dictionary(_, _)
            | D::RunEndEncoded(_, _)
            | D::ListView(_)
            | D::LargeListView(_)) => {
                return Err(Error::unsupported("A column has a type that cannot be carried")
                    .context("column", field.name())
                    .context("type", other));
            }
        })
    }

    /// Whether values have a total order that source and destination agree on, so that the
    /// column can be a cursor field. Text is ordered by its bytes.
    pub fn has_order(&self) -> bool {
        matches!(
            self,
            Self::Integer { .. }
                | Self::Decimal { .. }
                | Self::Numeric
                | Self::Float { .. }
                | Self::Text
                | Self::Uuid
                | Self::Date
                | Self::Time(_)
                | Self::Timestamp { .. }
        )
    }

    /// Whether every value of `self` is also a value of `wider`, exactly.
    pub fn widens_to(&self, wider: &Self) -> bool {
        use LogicalType as L;
        match (self, wider) {
            (a, b) if a == b => true,
            (L::Integer { bits: a, signed: sa }, L::Integer { bits: b, signed: sb }) => {
                if sa == sb { b > a } else { *sb && b > a }
            }
            (L::Integer { bits, signed }, L::Decimal { precision, scale }) => {
                *scale >= 0
                    && i16::from(*precision) - i16::from(*scale) >= integer_digits(*bits, *signed)
            }
            (L::Integer { bits, .. }, L::Float { bits: 64 }) => *bits <= 32,
            (L::Integer { .. } | L::Decimal { .. }, L::Numeric) => true,
            (L::Float { bits: a }, L::Float { bits: b }) => b > a,
            (L::Decimal { precision: p1, scale: s1 }, L::Decimal { precision: p2, scale: s2 }) => {
                s2 >= s1 && i16::from(*p2) - i16::from(*s2) >= i16::from(*p1) - i16::from(*s1)
            }
            (L::Timestamp { unit: a, utc: ua }, L::Timestamp { unit: b, utc: ub }) => {
                ua == ub && b > a
            }
            (L::Time(a), L::Time(b)) => b > a,
            (L::Null, _) => true,
            _ => false,
        }
    }
}

/// Decimal digits of the largest value.
fn integer_digits(bits: u8, signed: bool) -> i16 {
    match (bits, signed) {
        (8, _) => 3,
        (16, _) => 5,
        (32, _) => 10,
        (_, true) => 19,
        (_, false) => 20,
    }
}

/// The declared type of a field in `system`, if that system declared it.
pub fn declared_in<'a>(field: &'a Field, system: &str) -> Option<&'a str> {
    field.metadata().get(DECLARED)?.strip_prefix(system)?.strip_prefix(':')
}

/// A nullable field of an extension type.
pub fn extension_field(name: &str, data_type: DataType, extension: &str) -> Field {
    Field::new(name, data_type, true)
        .with_metadata([(EXTENSION.to_owned(), extension.to_owned())].into())
}

/// A field with one more metadata pair.
pub fn with_metadata(field: Field, key: &str, value: impl Into<String>) -> Field {
    let mut metadata = field.metadata().clone();
    metadata.insert(key.to_owned(), value.into());
    field.with_metadata(metadata)
}

/// A short name of a field's type for people: the declared type where there is one.
pub fn type_name(field: &Field) -> String {
    if let Some((_, declared)) = field.metadata().get(DECLARED).and_then(|d| d.split_once(':')) {
        return declared.to_owned();
    }
    match LogicalType::of(field) {
        Ok(LogicalType::Numeric) => "numeric".to_owned(),
        Ok(LogicalType::Json) => "json".to_owned(),
        Ok(LogicalType::Uuid) => "uuid".to_owned(),
        _ => field.data_type().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(data_type: DataType) -> LogicalType {
        LogicalType::of(&Field::new("c", data_type, true)).unwrap()
    }

    #[test]
    fn widening_never_loses_a_value() {
        let yes = [
            (DataType::Int32, DataType::Int64),
            (DataType::UInt32, DataType::Int64),
            (DataType::Int32, DataType::Float64),
            (DataType::Float32, DataType::Float64),
            (DataType::Int64, DataType::Decimal128(19, 0)),
            (DataType::Decimal128(10, 2), DataType::Decimal128(12, 4)),
            (DataType::Null, DataType::Utf8),
        ];
        for (from, to) in yes {
            assert!(of(from.clone()).widens_to(&of(to.clone())), "{from} to {to}");
        }
        let no = [
            (DataType::Int64, DataType::Int32),
            (DataType::Int64, DataType::UInt64),
            (DataType::UInt64, DataType::Int64),
            (DataType::Int64, DataType::Float64),
            (DataType::Int64, DataType::Decimal128(18, 0)),
            (DataType::Decimal128(10, 2), DataType::Decimal128(10, 4)),
            (DataType::Utf8, DataType::Int64),
            (DataType::Int64, DataType::Utf8),
            (DataType::Date32, DataType::Timestamp(TimeUnit::Microsecond, None)),
        ];
        for (from, to) in no {
            assert!(!of(from.clone()).widens_to(&of(to.clone())), "{from} to {to}");
        }
        let numeric = extension_field("n", DataType::Utf8, NUMERIC);
        assert!(of(DataType::Decimal128(38, 3)).widens_to(&LogicalType::of(&numeric).unwrap()));
    }

    #[test]
    fn metadata_gives_text_its_meaning() {
        let json = extension_field("j", DataType::Utf8, JSON);
        assert_eq!(LogicalType::of(&json).unwrap(), LogicalType::Json);
        let uuid = extension_field("u", DataType::FixedSizeBinary(16), UUID);
        assert_eq!(LogicalType::of(&uuid).unwrap(), LogicalType::Uuid);
        let declared = with_metadata(json, DECLARED, "postgresql:jsonb");
        assert_eq!(declared_in(&declared, "postgresql"), Some("jsonb"));
        assert_eq!(declared_in(&declared, "postgres"), None);
        assert_eq!(type_name(&declared), "jsonb");
    }
}
