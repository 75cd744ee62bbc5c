//! Types of MySQL and the Arrow fields that carry them.
//!
//! | MySQL | carried as |
//! |---|---|
//! | `tinyint` … `bigint`, `unsigned` | integers of that width and sign (`tinyint(1)` holds more than 0 and 1) |
//! | `year` | a 16-bit integer |
//! | `decimal(p,s)` | decimal |
//! | `float`, `double` | floats |
//! | `date`, `datetime`, `timestamp` | date, wall-clock time, instant |
//! | `time` | text: it may be negative and longer than a day |
//! | `char`, `varchar`, `text`, `enum`, `set` | text |
//! | `json` | JSON; MariaDB's is text |
//! | `binary`, `varbinary`, `blob`, `bit`, geometries | binary |
//!
//! Dates that are none (`0000-00-00`, `2026-00-10`) do not fit: such a column is read as text on
//! request.

use arrow_schema::{DataType, Field, TimeUnit};
use highwater_core::types::{DECLARED, JSON, extension_field, with_metadata};

/// The system name in declared types.
pub(crate) const SYSTEM: &str = "mysql";

/// A column as `information_schema.columns` describes it.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    pub(crate) name: String,
    /// `data_type`: the bare name, in lower case.
    pub(crate) data_type: String,
    /// `column_type`: as it was declared.
    pub(crate) declared: String,
    pub(crate) is_nullable: bool,
    pub(crate) precision: u8,
    pub(crate) scale: u8,
}

/// The field that carries a column.
pub(crate) fn field(column: &Column) -> Field {
    let is_unsigned = column.declared.contains("unsigned");
    let int = |signed: DataType, unsigned: DataType| if is_unsigned { unsigned } else { signed };
    let micros = TimeUnit::Microsecond;
    let data_type = match column.data_type.as_str() {
        "tinyint" => int(DataType::Int8, DataType::UInt8),
        "smallint" => int(DataType::Int16, DataType::UInt16),
        "mediumint" | "int" => int(DataType::Int32, DataType::UInt32),
        "bigint" => int(DataType::Int64, DataType::UInt64),
        "year" => DataType::Int16,
        "float" => DataType::Float32,
        "double" => DataType::Float64,
        "decimal" if column.precision <= 38 => {
            DataType::Decimal128(column.precision, column.scale.cast_signed())
        }
        "decimal" => DataType::Decimal256(column.precision, column.scale.cast_signed()),
        "date" => DataType::Date32,
        "datetime" => DataType::Timestamp(micros, None),
        "timestamp" => DataType::Timestamp(micros, Some("UTC".into())),
        "binary" | "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" | "bit"
        | "geometry" | "point" | "linestring" | "polygon" | "multipoint" | "multilinestring"
        | "multipolygon" | "geometrycollection" | "geomcollection" => DataType::Binary,
        _ => DataType::Utf8,
    };
    let field = match column.data_type.as_str() {
        "json" => extension_field(&column.name, DataType::Utf8, JSON),
        _ => Field::new(&column.name, data_type, true),
    };
    with_metadata(field, DECLARED, format!("{SYSTEM}:{}", column.declared))
        .with_nullable(column.is_nullable)
}

/// The expression that selects a column in the form that [`crate::reader`] takes.
pub(crate) fn select(quoted: &str, planned: &Field, column: &Column) -> String {
    match (planned.data_type(), column.data_type.as_str()) {
        // The protocol's text of a float has fewer digits than it takes to tell it from others.
        (DataType::Float32, _) => format!("CAST({quoted} AS DOUBLE)"),
        (DataType::Utf8, "float" | "double") => format!("CAST({quoted} AS CHAR)"),
        (DataType::Utf8, "date" | "datetime" | "timestamp") => format!("CAST({quoted} AS CHAR)"),
        (DataType::Utf8, "bit") => format!("CAST({quoted} + 0 AS CHAR)"),
        _ => quoted.to_owned(),
    }
}
