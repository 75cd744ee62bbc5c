//! Arrow fields as the JSON Schema of a stream: what [`super::schema`] reads, the other way round.
//!
//! | column | JSON Schema |
//! |---|---|
//! | boolean | `boolean` |
//! | integer of up to 63 bits | `integer` |
//! | unsigned 64, decimal without places | `integer`, `airbyte_type: big_integer` |
//! | float | `number` |
//! | decimal, numeric | `number`, `airbyte_type: big_number` |
//! | date | `string`, `format: date` |
//! | time | `string`, `format: time`, `airbyte_type: time_without_timezone` (or `with`) |
//! | timestamp | `string`, `format: date-time`, `airbyte_type: timestamp_with_timezone` (or `without`) |
//! | struct, map, JSON that says it is an object | `object` |
//! | list, JSON that says it is an array | `array` |
//! | other JSON | one of all types: without any type it would be taken for an object |
//! | all else | `string` |
//!
//! Every type but the last allows null: no column of a source can be trusted not to have it.

use arrow_schema::{DataType, Field};
use highwater_core::Result;
use highwater_core::types::LogicalType;
use serde_json::{Map, Value, json};

use super::schema::Kind;

/// The JSON Schema of records with these columns.
///
/// # Errors
/// `Unsupported` for types that cannot be carried.
pub fn of_fields<'a>(fields: impl IntoIterator<Item = &'a Field>) -> Result<Value> {
    let mut properties = Map::new();
    for field in fields {
        properties.insert(field.name().clone(), of_field(field)?);
    }
    Ok(of_properties(properties))
}

/// The JSON Schema of records with these properties.
pub fn of_properties(properties: Map<String, Value>) -> Value {
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "additionalProperties": true,
        "properties": properties,
    })
}

/// The JSON Schema of one property.
///
/// # Errors
/// `Unsupported` for types that cannot be carried.
pub fn of_field(field: &Field) -> Result<Value> {
    use LogicalType as L;
    let plain = |name: &str| json!({"type": ["null", name]});
    let special =
        |name: &str, airbyte: &str| json!({"type": ["null", name], "airbyte_type": airbyte});
    let moment = |format: &str, airbyte: &str| json!({"type": ["null", "string"], "format": format, "airbyte_type": airbyte});
    Ok(match LogicalType::of(field)? {
        L::Boolean => plain("boolean"),
        L::Integer { bits: 64, signed: false } => special("integer", "big_integer"),
        L::Integer { .. } => plain("integer"),
        L::Float { .. } => plain("number"),
        L::Decimal { precision, scale } if scale <= 0 => {
            match i16::from(precision) - i16::from(scale) <= 18 {
                true => plain("integer"),
                false => special("integer", "big_integer"),
            }
        }
        L::Numeric if matches!(Kind::of_field(field), Ok(Kind::BigInteger)) => {
            special("integer", "big_integer")
        }
        L::Decimal { .. } | L::Numeric => special("number", "big_number"),
        L::Date => json!({"type": ["null", "string"], "format": "date"}),
        L::Time(_) => match Kind::of_field(field) {
            Ok(Kind::TimeUtc) => moment("time", "time_with_timezone"),
            _ => moment("time", "time_without_timezone"),
        },
        L::Timestamp { utc: true, .. } => moment("date-time", "timestamp_with_timezone"),
        L::Timestamp { utc: false, .. } => moment("date-time", "timestamp_without_timezone"),
        L::Json => match Kind::of_field(field) {
            Ok(Kind::Object) => plain("object"),
            Ok(Kind::Array) => plain("array"),
            _ => any(),
        },
        L::Nested => plain("object"),
        L::List(_) => plain("array"),
        L::Text | L::Uuid | L::Duration(_) | L::Interval | L::Null => plain("string"),
        L::Binary => json!({"type": ["null", "string"], "contentEncoding": "base64"}),
    })
}

fn any() -> Value {
    let types = ["object", "array", "string", "number", "boolean", "null"];
    json!({"oneOf": types.map(|name| json!({"type": name}))})
}

/// The property of a stream for a column: the source's own where the column is what that means.
///
/// # Errors
/// As [`of_field`].
pub fn property(source: Option<&Value>, field: &Field) -> Result<Value> {
    match source {
        Some(source) if holds(source, field) => Ok(source.clone()),
        _ => of_field(field),
    }
}

/// Whether a column is what the source's property means.
fn holds(property: &Value, field: &Field) -> bool {
    let own = Kind::of_schema(property).field(field.name());
    let same_type: bool = own.data_type().equals_datatype(field.data_type());
    same_type
        && match own.data_type() {
            DataType::Utf8 => LogicalType::of(&own).ok() == LogicalType::of(field).ok(),
            _ => true,
        }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use highwater_core::types::{DECLARED, with_metadata};

    use super::*;
    use crate::records::schema;

    #[test]
    fn what_is_read_back_is_the_same_kind() {
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
            let schema = of_fields([&field]).unwrap();
            assert_eq!(schema::fields(&schema), [field], "{schema}");
        }
    }

    #[test]
    fn types_of_other_systems_have_the_nearest_that_holds_them() {
        use arrow_schema::TimeUnit;
        let schema = |data_type| of_field(&Field::new("c", data_type, false)).unwrap();
        let big =
            |name: &str, airbyte: &str| json!({"type": ["null", name], "airbyte_type": airbyte});
        assert_eq!(schema(DataType::Int8), json!({"type": ["null", "integer"]}));
        assert_eq!(schema(DataType::UInt64), big("integer", "big_integer"));
        assert_eq!(schema(DataType::Decimal128(18, 0)), json!({"type": ["null", "integer"]}));
        assert_eq!(schema(DataType::Decimal128(19, 0)), big("integer", "big_integer"));
        assert_eq!(schema(DataType::Decimal128(10, 2)), big("number", "big_number"));
        assert_eq!(schema(DataType::Float32), json!({"type": ["null", "number"]}));
        assert_eq!(
            schema(DataType::Timestamp(TimeUnit::Nanosecond, None)),
            json!({"type": ["null", "string"], "format": "date-time", "airbyte_type": "timestamp_without_timezone"})
        );
        assert_eq!(schema(DataType::Null), json!({"type": ["null", "string"]}));
        let item = std::sync::Arc::new(Field::new("item", DataType::Int64, true));
        assert_eq!(schema(DataType::List(item)), json!({"type": ["null", "array"]}));
    }

    #[test]
    fn a_property_of_the_source_is_kept_where_its_column_is() {
        let own = json!({"type": "string", "format": "date-time", "description": "when"});
        let field = Kind::TimestampUtc.field("at");
        assert_eq!(property(Some(&own), &field).unwrap(), own);
        let declared = with_metadata(field, DECLARED, "postgresql:timestamptz");
        assert_eq!(property(Some(&own), &declared).unwrap(), own);
        let text = Kind::Text.field("at");
        assert_eq!(property(Some(&own), &text).unwrap(), json!({"type": ["null", "string"]}));
        let numeric = Kind::BigNumber.field("at");
        let string = json!({"type": "string"});
        assert_ne!(property(Some(&string), &numeric).unwrap(), string);
        assert_eq!(property(None, &text).unwrap(), json!({"type": ["null", "string"]}));
    }
}
