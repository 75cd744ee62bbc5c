//! Types of PostgreSQL and the Arrow fields that carry them.
//!
//! A type is carried natively where Arrow can hold every value of it, and as the server's text
//! otherwise. Every field keeps the declared type, so that PostgreSQL gets it back at the other
//! end. A domain is carried as its base type.

use arrow_schema::{DataType, Field, IntervalUnit, TimeUnit};
use highwater_core::types::{
    DECLARED, DEFINITION, EXTENSION, JSON, NUMERIC, UUID, extension_field, with_metadata,
};
use tokio_postgres::types::{Kind, Type};

use crate::catalog::{Column, UserTypes};

/// The system name in declared types.
pub(crate) const SYSTEM: &str = "postgresql";

/// The wire form of rows that are forwarded: the tuples of a binary COPY.
pub(crate) const COPY: &str = "postgresql-copy";

/// How the values of a column travel in binary COPY.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wire {
    Bool,
    Int2,
    Int4,
    Int8,
    Float4,
    Float8,
    /// UTF-8 text: `text`, `varchar`, `char` with its padding, `name`.
    Text,
    /// The server's text of any other type.
    Cast,
    /// `inet`: its cast to text adds `/32`, which its output does not have.
    Inet,
    Json,
    /// As `json` after a version byte.
    Jsonb,
    Bytea,
    Uuid,
    Date,
    Time,
    Timestamp,
    TimestampTz,
    Interval,
    Decimal {
        precision: u8,
        scale: i8,
    },
    /// `numeric` without limits, as text.
    Numeric,
    /// An array of one dimension.
    List(Box<Wire>),
}

impl Wire {
    /// The wire form of a type with its modifier, `None` where Arrow cannot hold its values.
    pub(crate) fn of(oid: u32, modifier: i32, types: &UserTypes) -> Option<Self> {
        if let Some(user) = types.get(oid) {
            // A domain is its base type; anything else that a user defined is text.
            return match user.domain_base {
                Some((base, modifier)) => Self::of(base, modifier, types),
                None => None,
            };
        }
        let builtin = Type::from_oid(oid)?;
        Some(match builtin {
            Type::BOOL => Self::Bool,
            Type::INT2 => Self::Int2,
            Type::INT4 => Self::Int4,
            Type::INT8 => Self::Int8,
            Type::FLOAT4 => Self::Float4,
            Type::FLOAT8 => Self::Float8,
            Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME => Self::Text,
            Type::JSON => Self::Json,
            Type::JSONB => Self::Jsonb,
            Type::BYTEA => Self::Bytea,
            Type::UUID => Self::Uuid,
            Type::DATE => Self::Date,
            Type::TIME => Self::Time,
            Type::TIMESTAMP => Self::Timestamp,
            Type::TIMESTAMPTZ => Self::TimestampTz,
            Type::INTERVAL => Self::Interval,
            Type::NUMERIC => numeric(modifier),
            other => match other.kind() {
                Kind::Array(item) if is_plain_array(&other) => {
                    Self::List(Box::new(Self::of(item.oid(), modifier, types)?))
                }
                _ => return None,
            },
        })
    }

    /// The Arrow type and the name of its extension.
    pub(crate) fn arrow(&self) -> (DataType, Option<&'static str>) {
        match self {
            Self::Bool => (DataType::Boolean, None),
            Self::Int2 => (DataType::Int16, None),
            Self::Int4 => (DataType::Int32, None),
            Self::Int8 => (DataType::Int64, None),
            Self::Float4 => (DataType::Float32, None),
            Self::Float8 => (DataType::Float64, None),
            Self::Text | Self::Cast | Self::Inet => (DataType::Utf8, None),
            Self::Json | Self::Jsonb => (DataType::Utf8, Some(JSON)),
            Self::Numeric => (DataType::Utf8, Some(NUMERIC)),
            Self::Bytea => (DataType::Binary, None),
            Self::Uuid => (DataType::FixedSizeBinary(16), Some(UUID)),
            Self::Date => (DataType::Date32, None),
            Self::Time => (DataType::Time64(TimeUnit::Microsecond), None),
            Self::Timestamp => (DataType::Timestamp(TimeUnit::Microsecond, None), None),
            Self::TimestampTz => {
                (DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), None)
            }
            Self::Interval => (DataType::Interval(IntervalUnit::MonthDayNano), None),
            Self::Decimal { precision, scale } if *precision <= 38 => {
                (DataType::Decimal128(*precision, *scale), None)
            }
            Self::Decimal { precision, scale } => (DataType::Decimal256(*precision, *scale), None),
            Self::List(item) => (DataType::List(item.item_field().into()), None),
        }
    }

    /// The field of a list's items.
    pub(crate) fn item_field(&self) -> Field {
        match self.arrow() {
            (data_type, Some(extension)) => extension_field("item", data_type, extension),
            (data_type, None) => Field::new("item", data_type, true),
        }
    }

    /// The expression that selects the column in this form.
    pub(crate) fn select(&self, quoted: &str) -> String {
        match self {
            Self::Cast | Self::Numeric => format!("{quoted}::pg_catalog.text"),
            Self::Inet => format!("pg_catalog.textin(pg_catalog.inet_out({quoted}))"),
            Self::List(item) if matches!(**item, Self::Numeric) => {
                format!("{quoted}::pg_catalog.text[]")
            }
            _ => quoted.to_owned(),
        }
    }
}

/// `int2vector` and its like have the kind of an array and their own wire form.
fn is_plain_array(array: &Type) -> bool {
    array.name().starts_with('_')
}

fn numeric(modifier: i32) -> Wire {
    if modifier < 4 {
        return Wire::Numeric;
    }
    let packed = modifier - 4;
    let precision = packed >> 16;
    // Eleven bits, signed since PostgreSQL 15.
    let scale = ((packed & 0x7ff) ^ 0x400) - 0x400;
    match (u8::try_from(precision), i8::try_from(scale)) {
        (Ok(precision @ 1..=76), Ok(scale)) if scale >= 0 && scale as u8 <= precision => {
            Wire::Decimal { precision, scale }
        }
        _ => Wire::Numeric,
    }
}

/// The wire form in which a column is read when nobody asks for text.
pub(crate) fn wire(column: &Column, types: &UserTypes) -> Wire {
    match Wire::of(column.type_oid, column.type_modifier, types) {
        Some(Wire::List(_)) if column.dimensions > 1 => Wire::Cast,
        Some(wire) => wire,
        None if types.base(column.type_oid) == Type::INET.oid() => Wire::Inet,
        None => Wire::Cast,
    }
}

/// The Arrow field of a column.
pub(crate) fn field(column: &Column, types: &UserTypes) -> Field {
    let (data_type, extension) = wire(column, types).arrow();
    let mut field = Field::new(&column.name, data_type, !column.not_null);
    if let Some(extension) = extension {
        field = with_metadata(field, EXTENSION, extension);
    }
    field = with_metadata(field, DECLARED, format!("{SYSTEM}:{}", column.declared));
    match types.definition(column.type_oid) {
        Some(definition) => with_metadata(field, DEFINITION, definition),
        None => field,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(builtin: &Type, modifier: i32) -> Option<Wire> {
        Wire::of(builtin.oid(), modifier, &UserTypes::default())
    }

    fn modifier(precision: i32, scale: i32) -> i32 {
        ((precision << 16) | (scale & 0x7ff)) + 4
    }

    #[test]
    fn numeric_is_a_decimal_only_where_every_value_fits() {
        let numeric = |p, s| of(&Type::NUMERIC, modifier(p, s)).unwrap();
        assert_eq!(numeric(10, 2), Wire::Decimal { precision: 10, scale: 2 });
        assert_eq!(numeric(76, 76), Wire::Decimal { precision: 76, scale: 76 });
        assert_eq!(numeric(77, 2), Wire::Numeric);
        assert_eq!(numeric(5, -2), Wire::Numeric);
        assert_eq!(numeric(2, 5), Wire::Numeric);
        assert_eq!(of(&Type::NUMERIC, -1), Some(Wire::Numeric));
        assert_eq!(numeric(38, 0).arrow().0, DataType::Decimal128(38, 0));
        assert_eq!(numeric(39, 0).arrow().0, DataType::Decimal256(39, 0));
    }

    #[test]
    fn arrays_are_lists_and_vectors_are_not() {
        assert_eq!(of(&Type::INT4_ARRAY, -1), Some(Wire::List(Box::new(Wire::Int4))));
        assert_eq!(of(&Type::INT2_VECTOR, -1), None);
        assert_eq!(of(&Type::INET_ARRAY, -1), None);
        assert_eq!(of(&Type::INET, -1), None);
        assert_eq!(
            of(&Type::NUMERIC_ARRAY, -1).unwrap().select("\"n\""),
            "\"n\"::pg_catalog.text[]"
        );
    }

    #[test]
    fn more_than_one_dimension_is_text() {
        let column = Column {
            name: "m".into(),
            type_oid: Type::INT4_ARRAY.oid(),
            type_modifier: -1,
            not_null: true,
            declared: "integer[]".into(),
            dimensions: 2,
        };
        let field = field(&column, &UserTypes::default());
        assert_eq!(field.data_type(), &DataType::Utf8);
        assert!(!field.is_nullable());
        assert_eq!(field.metadata()[DECLARED], "postgresql:integer[]");
    }
}
