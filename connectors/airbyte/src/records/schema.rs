//! The JSON Schema of a stream as Arrow fields, and what its properties mean.
//!
//! | JSON Schema | Arrow |
//! |---|---|
//! | `boolean` | Boolean |
//! | `integer`; `number` with `airbyte_type: integer` | Int64 |
//! | `number` | Float64 |
//! | `airbyte_type: big_integer`, `big_number` | Utf8, `highwater.numeric` |
//! | `string` | Utf8 |
//! | `string`, `format: date` | Date32 |
//! | `string`, `format: date-time` | Timestamp(µs, UTC); without zone by `airbyte_type: timestamp_without_timezone` |
//! | `string`, `format: time` | Time64(µs) in UTC; on the wall by `airbyte_type: time_without_timezone` |
//! | `object`, `array`, several types, none | Utf8, `arrow.json` |
//!
//! Every field is nullable: no source keeps its promise about that. Where Arrow does not say all
//! of it, [`DECLARED`] does: `airbyte:object`, `airbyte:array`, `airbyte:time_with_timezone`,
//! `airbyte:big_integer`.

use arrow_schema::{DataType, Field, TimeUnit};
use highwater_core::types::{
    DECLARED, JSON, LogicalType, NUMERIC, declared_in, extension_field, with_metadata,
};
use highwater_core::{Error, Result};
use serde_json::Value;

/// The system in [`DECLARED`].
pub const SYSTEM: &str = "airbyte";

/// What the values of a property mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// True or false.
    Boolean,
    /// A whole number of 64 bits.
    Integer,
    /// A whole number without limit.
    BigInteger,
    /// A double.
    Number,
    /// A decimal number without limit.
    BigNumber,
    /// Text.
    Text,
    /// A day.
    Date,
    /// A wall-clock date and time.
    Timestamp,
    /// An instant.
    TimestampUtc,
    /// A wall-clock time of day.
    Time,
    /// A time of day in UTC.
    TimeUtc,
    /// A JSON object.
    Object,
    /// A JSON array.
    Array,
    /// Any JSON.
    Any,
}

impl Kind {
    /// What a property of this JSON Schema is; [`Self::Any`] where it does not say.
    pub fn of_schema(schema: &Value) -> Self {
        possible(schema).unwrap_or(Self::Any)
    }

    /// The meaning of a field that [`Self::field`] made, or of one with the same type.
    ///
    /// # Errors
    /// `Unsupported` for Arrow types that no property has.
    pub fn of_field(field: &Field) -> Result<Self> {
        let declared = declared_in(field, SYSTEM);
        Ok(match (LogicalType::of(field)?, field.data_type()) {
            (LogicalType::Boolean, _) => Self::Boolean,
            (_, DataType::Int64) => Self::Integer,
            (_, DataType::Float64) => Self::Number,
            (LogicalType::Numeric, DataType::Utf8) if declared == Some("big_integer") => {
                Self::BigInteger
            }
            (LogicalType::Numeric, DataType::Utf8) => Self::BigNumber,
            (LogicalType::Text, DataType::Utf8) => Self::Text,
            (LogicalType::Json, DataType::Utf8) => match declared {
                Some("object") => Self::Object,
                Some("array") => Self::Array,
                _ => Self::Any,
            },
            (_, DataType::Date32) => Self::Date,
            (_, DataType::Time64(TimeUnit::Microsecond)) => match declared {
                Some("time_with_timezone") => Self::TimeUtc,
                _ => Self::Time,
            },
            (_, DataType::Timestamp(TimeUnit::Microsecond, None)) => Self::Timestamp,
            (_, DataType::Timestamp(TimeUnit::Microsecond, Some(_))) => Self::TimestampUtc,
            (_, other) => {
                return Err(Error::unsupported("Records have no column of this type")
                    .context("column", field.name())
                    .context("type", other));
            }
        })
    }

    /// A nullable field of this meaning.
    pub fn field(self, name: &str) -> Field {
        let plain = |data_type| Field::new(name, data_type, true);
        let declared = |field, text: &str| with_metadata(field, DECLARED, declaration(text));
        let json = || extension_field(name, DataType::Utf8, JSON);
        let numeric = || extension_field(name, DataType::Utf8, NUMERIC);
        let micro = TimeUnit::Microsecond;
        match self {
            Self::Boolean => plain(DataType::Boolean),
            Self::Integer => plain(DataType::Int64),
            Self::BigInteger => declared(numeric(), "big_integer"),
            Self::Number => plain(DataType::Float64),
            Self::BigNumber => numeric(),
            Self::Text => plain(DataType::Utf8),
            Self::Date => plain(DataType::Date32),
            Self::Timestamp => plain(DataType::Timestamp(micro, None)),
            Self::TimestampUtc => plain(DataType::Timestamp(micro, Some("UTC".into()))),
            Self::Time => plain(DataType::Time64(micro)),
            Self::TimeUtc => declared(plain(DataType::Time64(micro)), "time_with_timezone"),
            Self::Object => declared(json(), "object"),
            Self::Array => declared(json(), "array"),
            Self::Any => json(),
        }
    }

    /// The kind that holds every value of both.
    fn or(self, other: Self) -> Self {
        use Kind as K;
        let texts = [K::Text, K::Date, K::Timestamp, K::TimestampUtc, K::Time, K::TimeUtc];
        match (self, other) {
            (a, b) if a == b => a,
            (K::Integer, K::Number) | (K::Number, K::Integer) => K::Number,
            (K::Integer, K::BigInteger) | (K::BigInteger, K::Integer) => K::BigInteger,
            (K::BigNumber, K::Integer | K::BigInteger | K::Number)
            | (K::Integer | K::BigInteger | K::Number, K::BigNumber)
            | (K::BigInteger, K::Number)
            | (K::Number, K::BigInteger) => K::BigNumber,
            (a, b) if texts.contains(&a) && texts.contains(&b) => K::Text,
            _ => K::Any,
        }
    }
}

fn declaration(text: &str) -> String {
    format!("{SYSTEM}:{text}")
}

/// The fields of a stream: one per property, in the order of the schema. Names that differ only
/// in case are different fields. A schema without properties has no field; what records of such
/// a stream hold is counted as unknown ([`super::Decoder::unknown`]).
pub fn fields(json_schema: &Value) -> Vec<Field> {
    properties(json_schema).map(|(name, property)| Kind::of_schema(property).field(name)).collect()
}

/// The names of a stream's properties.
pub fn property_names(json_schema: &Value) -> impl Iterator<Item = &str> {
    properties(json_schema).map(|(name, _)| name.as_str())
}

/// A field for what is at a nested path, such as `["metadata", "updated_at"]`; `None` where the
/// schema has no such property.
pub fn field_at(json_schema: &Value, path: &[String], name: &str) -> Option<Field> {
    let mut property = json_schema;
    for key in path {
        let Step::Property(next) = step(property, key) else { return None };
        property = next;
    }
    (!path.is_empty()).then(|| Kind::of_schema(property).field(name))
}

/// What a schema says of a key of its values.
#[derive(Debug, PartialEq)]
pub(crate) enum Step<'a> {
    /// It has this property.
    Property(&'a Value),
    /// It says nothing about the keys of its objects.
    Open,
    /// It has properties, and this is none; those that it has.
    Unknown(Vec<&'a str>),
    /// Its values are no objects.
    NoObject,
}

/// What `schema` says of `key`.
pub(crate) fn step<'a>(schema: &'a Value, key: &str) -> Step<'a> {
    let mut names = Vec::new();
    if let Some(property) = property(schema, key, &mut names) {
        return Step::Property(property);
    }
    match names.is_empty() {
        false => Step::Unknown(names),
        true if may_be_object(schema) => Step::Open,
        true => Step::NoObject,
    }
}

const CHOICES: [&str; 3] = ["oneOf", "anyOf", "allOf"];

fn choices(schema: &Value) -> impl Iterator<Item = &Value> {
    CHOICES.iter().filter_map(|key| schema.get(key).and_then(Value::as_array)).flatten()
}

/// The property, of the schema itself or of one of its choices; else `names` has what there is.
fn property<'a>(schema: &'a Value, key: &str, names: &mut Vec<&'a str>) -> Option<&'a Value> {
    if let Some(property) = schema.get("properties").and_then(|own| own.get(key)) {
        return Some(property);
    }
    names.extend(property_names(schema));
    choices(schema).find_map(|choice| property(choice, key, names))
}

fn may_be_object(schema: &Value) -> bool {
    match schema.get("type") {
        Some(Value::String(name)) => name == "object",
        Some(Value::Array(names)) => names.iter().any(|name| name == "object"),
        _ if choices(schema).next().is_some() => choices(schema).any(may_be_object),
        _ => matches!(Kind::of_schema(schema), Kind::Any | Kind::Object),
    }
}

fn properties(json_schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    json_schema.get("properties").and_then(Value::as_object).into_iter().flatten()
}

/// What a schema allows beside null; `None`: nothing.
fn possible(schema: &Value) -> Option<Kind> {
    let text = |key: &str| schema.get(key).and_then(Value::as_str);
    if let Some(known) = text("$ref").and_then(well_known) {
        return Some(known);
    }
    match schema.get("type") {
        Some(Value::String(name)) => typed(schema, name),
        Some(Value::Array(names)) => {
            united(names.iter().filter_map(Value::as_str).filter_map(|name| typed(schema, name)))
        }
        _ => {
            for key in ["oneOf", "anyOf"] {
                if let Some(options) = schema.get(key).and_then(Value::as_array) {
                    return united(options.iter().filter_map(possible));
                }
            }
            if let Some([only]) = schema.get("allOf").and_then(Value::as_array).map(Vec::as_slice) {
                return possible(only);
            }
            Some(if schema.get("properties").is_some() {
                Kind::Object
            } else if schema.get("items").is_some() {
                Kind::Array
            } else if text("airbyte_type").is_some() || text("format").is_some() {
                match string(text("format"), text("airbyte_type")) {
                    Kind::Text => Kind::Any,
                    kind => kind,
                }
            } else {
                Kind::Any
            })
        }
    }
}

fn united(kinds: impl Iterator<Item = Kind>) -> Option<Kind> {
    kinds.reduce(Kind::or)
}

fn typed(schema: &Value, name: &str) -> Option<Kind> {
    let text = |key: &str| schema.get(key).and_then(Value::as_str);
    let airbyte = text("airbyte_type");
    Some(match name {
        "null" => return None,
        "boolean" => Kind::Boolean,
        "integer" | "number" => match airbyte {
            Some("big_integer") => Kind::BigInteger,
            Some("big_number") => Kind::BigNumber,
            Some("integer") => Kind::Integer,
            _ if name == "integer" => Kind::Integer,
            _ => Kind::Number,
        },
        "string" => string(text("format"), airbyte),
        "object" => Kind::Object,
        "array" => Kind::Array,
        _ => Kind::Any,
    })
}

fn string(format: Option<&str>, airbyte: Option<&str>) -> Kind {
    match (format, airbyte) {
        (_, Some("big_integer")) => Kind::BigInteger,
        (_, Some("big_number")) => Kind::BigNumber,
        (Some("date"), _) => Kind::Date,
        (Some("date-time" | "datetime") | None, Some("timestamp_without_timezone")) => {
            Kind::Timestamp
        }
        (Some("time") | None, Some("time_without_timezone")) => Kind::Time,
        (Some("date-time" | "datetime"), _) | (None, Some("timestamp_with_timezone")) => {
            Kind::TimestampUtc
        }
        (Some("time"), _) | (None, Some("time_with_timezone")) => Kind::TimeUtc,
        _ => Kind::Text,
    }
}

/// The types of protocol version 1, which were named by reference.
fn well_known(reference: &str) -> Option<Kind> {
    let (file, name) = reference.split_once("#/definitions/")?;
    if !file.ends_with("WellKnownTypes.json") {
        return None;
    }
    Some(match name {
        "Boolean" => Kind::Boolean,
        "Integer" => Kind::Integer,
        "Number" => Kind::Number,
        "String" | "BinaryData" => Kind::Text,
        "Date" => Kind::Date,
        "TimestampWithTimezone" => Kind::TimestampUtc,
        "TimestampWithoutTimezone" => Kind::Timestamp,
        "TimeWithTimezone" => Kind::TimeUtc,
        "TimeWithoutTimezone" => Kind::Time,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use serde_json::json;

    use super::*;

    #[test]
    fn every_type_of_the_protocol_has_its_kind() {
        let date_time = |airbyte: &str| json!({"type": ["null", "string"], "format": "date-time", "airbyte_type": airbyte});
        let cases = [
            (json!({"type": "boolean"}), Kind::Boolean),
            (json!({"type": ["integer", "null"]}), Kind::Integer),
            (json!({"type": "number", "airbyte_type": "integer"}), Kind::Integer),
            (json!({"type": "integer", "airbyte_type": "big_integer"}), Kind::BigInteger),
            (json!({"type": "string", "airbyte_type": "big_integer"}), Kind::BigInteger),
            (json!({"type": "number", "airbyte_type": "big_number"}), Kind::BigNumber),
            (json!({"type": ["null", "number"]}), Kind::Number),
            (json!({"type": "string"}), Kind::Text),
            (json!({"type": "string", "format": "uri"}), Kind::Text),
            (json!({"type": "string", "format": "date"}), Kind::Date),
            (json!({"type": "string", "format": "date-time"}), Kind::TimestampUtc),
            (date_time("timestamp_with_timezone"), Kind::TimestampUtc),
            (date_time("timestamp_without_timezone"), Kind::Timestamp),
            (json!({"type": "string", "format": "time"}), Kind::TimeUtc),
            (
                json!({"type": "string", "format": "time", "airbyte_type": "time_without_timezone"}),
                Kind::Time,
            ),
            (json!({"type": "object", "properties": {"a": {"type": "string"}}}), Kind::Object),
            (json!({"type": ["null", "array"], "items": {}}), Kind::Array),
            (json!({"properties": {}}), Kind::Object),
            (json!({"items": {}}), Kind::Array),
            (json!({}), Kind::Any),
            (json!(true), Kind::Any),
            (json!({"type": "null"}), Kind::Any),
            (json!({"type": "new-thing"}), Kind::Any),
            (json!({"type": ["string", "integer"]}), Kind::Any),
            (json!({"type": ["integer", "number", "null"]}), Kind::Number),
            (json!({"oneOf": [{"type": "null"}, {"type": "integer"}]}), Kind::Integer),
            (
                json!({"anyOf": [{"type": "string", "format": "date"}, {"type": "string"}]}),
                Kind::Text,
            ),
            (json!({"oneOf": [{"type": "object"}, {"type": "array"}]}), Kind::Any),
            (json!({"allOf": [{"type": "integer"}]}), Kind::Integer),
            (
                json!({"$ref": "WellKnownTypes.json#/definitions/TimestampWithoutTimezone"}),
                Kind::Timestamp,
            ),
        ];
        for (schema, kind) in cases {
            assert_eq!(Kind::of_schema(&schema), kind, "{schema}");
        }
    }

    #[test]
    fn a_field_says_its_kind() {
        for kind in [
            Kind::Boolean,
            Kind::Integer,
            Kind::BigInteger,
            Kind::Number,
            Kind::BigNumber,
            Kind::Text,
            Kind::Date,
            Kind::Timestamp,
            Kind::TimestampUtc,
            Kind::Time,
            Kind::TimeUtc,
            Kind::Object,
            Kind::Array,
            Kind::Any,
        ] {
            let field = kind.field("c");
            assert!(field.is_nullable());
            assert_eq!(Kind::of_field(&field).unwrap(), kind);
        }
        let error = Kind::of_field(&Field::new("c", DataType::Int32, true)).unwrap_err();
        assert_eq!(error.kind(), highwater_core::ErrorKind::Unsupported);
    }

    #[test]
    fn properties_keep_their_order_and_their_case() {
        let schema = json!({"type": "object", "properties": {
            "Name": {"type": "string"}, "id": {"type": "integer"}, "name": {"type": "string"},
            "meta": {"type": "object", "properties": {"at": {"type": "string", "format": "date"}}},
        }});
        let names: Vec<String> = fields(&schema).iter().map(|f| f.name().clone()).collect();
        assert_eq!(names, ["Name", "id", "name", "meta"]);
        let path = ["meta".to_owned(), "at".to_owned()];
        let nested = field_at(&schema, &path, "meta.at").unwrap();
        assert_eq!((nested.name().as_str(), nested.data_type()), ("meta.at", &DataType::Date32));
        assert!(field_at(&schema, &["meta".to_owned(), "no".to_owned()], "x").is_none());
        assert!(fields(&json!({"type": "object"})).is_empty());
    }
}
