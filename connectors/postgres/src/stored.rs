//! What a column is after it was created for a field: the type by its SQL name, resolved to the
//! form that `describe` shows.

use arrow_schema::Field;
use highwater_core::types::{DECLARED, DEFINITION, EXTENSION, type_name, with_metadata};
use highwater_core::{Error, LogicalType, Result};
use highwater_sql::Dialect;
use tokio_postgres::types::Type;

use crate::catalog::{Definition, UserTypes};
use crate::dialect::PostgresDialect;
use crate::types::{SYSTEM, Wire};

/// SQL names as `format_type` prints them, with common other spellings.
const BUILTIN: &[(&str, Type)] = &[
    ("boolean", Type::BOOL),
    ("smallint", Type::INT2),
    ("integer", Type::INT4),
    ("bigint", Type::INT8),
    ("real", Type::FLOAT4),
    ("double precision", Type::FLOAT8),
    ("text", Type::TEXT),
    ("character varying", Type::VARCHAR),
    ("character", Type::BPCHAR),
    ("bpchar", Type::BPCHAR),
    ("name", Type::NAME),
    ("json", Type::JSON),
    ("jsonb", Type::JSONB),
    ("bytea", Type::BYTEA),
    ("uuid", Type::UUID),
    ("date", Type::DATE),
    ("time without time zone", Type::TIME),
    ("timestamp without time zone", Type::TIMESTAMP),
    ("timestamp with time zone", Type::TIMESTAMPTZ),
    ("interval", Type::INTERVAL),
    ("numeric", Type::NUMERIC),
];

/// The column as `describe` shows it after it was created for `field`.
///
/// # Errors
/// `Unsupported` when values of this type cannot be stored without changing them.
pub(crate) fn stored_field(field: &Field) -> Result<Field> {
    let column_type = PostgresDialect.column_type(field)?;
    let definition = field.metadata().get(DEFINITION);
    let resolved = resolve(&column_type, definition.map(String::as_str));
    let wire = wire_of(&resolved).unwrap_or(Wire::Cast);
    let (data_type, extension) = wire.arrow();
    let mut stored = Field::new(field.name(), data_type, field.is_nullable());
    if let Some(extension) = extension {
        stored = with_metadata(stored, EXTENSION, extension);
    }
    stored = with_metadata(stored, DECLARED, format!("{SYSTEM}:{column_type}"));
    Ok(match definition {
        Some(definition) => with_metadata(stored, DEFINITION, definition),
        None => stored,
    })
}

/// The element type of the array type that a column is created with, as SQL name and as type;
/// `None` when the column is no array, or one of a type that is not PostgreSQL's own.
pub(crate) fn array_element(column_type: &str, definition: Option<&str>) -> Option<(String, Type)> {
    let resolved = resolve(column_type, definition);
    let element = resolved.strip_suffix("[]")?;
    Some((element.to_owned(), builtin(element)?.0))
}

/// A domain by its base type, everything else as it is.
pub(crate) fn resolve(column_type: &str, definition: Option<&str>) -> String {
    let Some(definitions) =
        definition.and_then(|text| serde_json::from_str::<Vec<Definition>>(text).ok())
    else {
        return column_type.to_owned();
    };
    let mut resolved = column_type.to_owned();
    // A domain may be over another domain.
    for definition in definitions.iter().rev() {
        if let Definition::Domain { name, base, .. } = definition
            && *name == resolved
        {
            resolved.clone_from(base);
        }
    }
    resolved
}

/// Values are sent in the binary form of their own type: a column of the declared type has to take
/// that form. Texts are cast by the server.
///
/// # Errors
/// `Schema` when what is declared for a column contradicts its type: the server would take the
/// bytes for another value.
pub(crate) fn check_declared(field: &Field, natural: &str, declared: &str) -> Result<()> {
    if matches!(LogicalType::of(field)?, LogicalType::Text | LogicalType::Null) {
        return Ok(());
    }
    let definition = field.metadata().get(DEFINITION).map(String::as_str);
    let stored = wire_of(&resolve(declared, definition));
    let sent = wire_of(natural);
    if let (Some(sent), Some(stored)) = (&sent, &stored)
        && is_taken(sent, stored)
    {
        return Ok(());
    }
    Err(Error::schema("A column is declared to have a type that its values do not have")
        .context("column", field.name())
        .context("declared", declared)
        .context("type of the values", type_name(field))
        .hint(format!(
            "write the column's `{DECLARED}` anew, or not at all, where the data comes from"
        )))
}

/// Whether a column of the type `stored` takes the bytes of `sent` for the same value.
fn is_taken(sent: &Wire, stored: &Wire) -> bool {
    use Wire as W;
    match (sent, stored) {
        (W::Decimal { .. } | W::Numeric, W::Decimal { .. } | W::Numeric)
        | (W::Timestamp | W::TimestampTz, W::Timestamp | W::TimestampTz)
        | (W::Json, W::Jsonb | W::Text) => true,
        (W::List(sent), W::List(stored)) => is_taken(sent, stored),
        _ => sent == stored,
    }
}

fn wire_of(sql_name: &str) -> Option<Wire> {
    if let Some(element) = sql_name.strip_suffix("[]") {
        let item = wire_of(element)?;
        return (!matches!(item, Wire::List(_))).then(|| Wire::List(Box::new(item)));
    }
    let (builtin, modifier) = builtin(sql_name)?;
    Wire::of(builtin.oid(), modifier, &UserTypes::default())
}

/// A type of PostgreSQL's own, and its modifier where that decides about the wire form.
fn builtin(sql_name: &str) -> Option<(Type, i32)> {
    let (base, arguments) = match (sql_name.find('('), sql_name.find(')')) {
        (Some(open), Some(close)) if open < close => {
            let base = format!("{}{}", &sql_name[..open], &sql_name[close + 1..]);
            (base, Some(&sql_name[open + 1..close]))
        }
        _ => (sql_name.to_owned(), None),
    };
    // `interval year to month` and its like.
    let base = if base.starts_with("interval ") { "interval".to_owned() } else { base };
    let (_, builtin) = BUILTIN.iter().find(|(name, _)| *name == base)?;
    let modifier = match arguments {
        Some(arguments) if *builtin == Type::NUMERIC => {
            let (precision, scale) = arguments.split_once(',').unwrap_or((arguments, "0"));
            let (precision, scale): (i32, i32) =
                (precision.trim().parse().ok()?, scale.trim().parse().ok()?);
            ((precision << 16) | (scale & 0x7ff)) + 4
        }
        _ => -1,
    };
    Some((builtin.clone(), modifier))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_schema::DataType;

    fn stored(field: Field) -> (DataType, String) {
        let stored = stored_field(&field).unwrap();
        (stored.data_type().clone(), stored.metadata()[DECLARED].clone())
    }

    #[test]
    fn a_field_is_described_as_it_will_be_stored() {
        let plain = |data_type| stored(Field::new("c", data_type, true));
        assert_eq!(plain(DataType::UInt8), (DataType::Int16, "postgresql:smallint".into()));
        assert_eq!(plain(DataType::UInt64).0, DataType::Decimal128(20, 0));
        assert_eq!(plain(DataType::LargeUtf8).0, DataType::Utf8);
        assert_eq!(plain(DataType::Float16).0, DataType::Float32);
        let list = DataType::List(Field::new("item", DataType::Int8, true).into());
        assert!(
            matches!(plain(list).0, DataType::List(item) if *item.data_type() == DataType::Int16)
        );
    }

    #[test]
    fn declared_types_and_domains_are_resolved() {
        let declared = |text: &str| {
            let field = Field::new("c", DataType::Utf8, true);
            with_metadata(field, DECLARED, format!("postgresql:{text}"))
        };
        assert_eq!(stored(declared("inet")).0, DataType::Utf8);
        assert_eq!(stored(declared("numeric(5,2)")).0, DataType::Decimal128(5, 2));
        assert_eq!(stored(declared("numeric(5,-2)")).0, DataType::Utf8);
        let zoned = stored(declared("timestamp(3) with time zone")).0;
        assert!(matches!(zoned, DataType::Timestamp(_, Some(_))));
        let definition = r#"[{"kind":"domain","name":"age","base":"smallint","not_null":false,
            "default":null,"checks":[]}]"#;
        let age = with_metadata(declared("age"), DEFINITION, definition);
        assert_eq!(stored(age).0, DataType::Int16);
        assert_eq!(
            array_element(
                "ages",
                Some(&definition.replace("age\"", "ages\"").replace("smallint", "jsonb[]"))
            ),
            Some(("jsonb".into(), Type::JSONB))
        );
        assert_eq!(array_element("inet[]", None), None);
    }

    #[test]
    fn a_declared_type_that_the_values_do_not_have_is_refused() {
        use arrow_schema::TimeUnit;
        let column = |data_type: &DataType, declared: &str| {
            let field = Field::new("c", data_type.clone(), true);
            stored_field(&with_metadata(field, DECLARED, format!("postgresql:{declared}")))
        };
        let list = |of| DataType::List(Field::new("item", of, true).into());
        let micros = DataType::Timestamp(TimeUnit::Microsecond, None);
        for (data_type, declared) in [
            (DataType::Int32, "integer"),
            (DataType::UInt64, "numeric(30,0)"),
            (DataType::Decimal128(5, 2), "numeric"),
            (DataType::Int8, "smallint"),
            (micros.clone(), "timestamp(3) with time zone"),
            (
                DataType::Interval(arrow_schema::IntervalUnit::MonthDayNano),
                "interval day to second(3)",
            ),
            (list(DataType::Utf8), "character varying(5)[]"),
            (DataType::Utf8, "integer"),
        ] {
            column(&data_type, declared).unwrap_or_else(|e| panic!("{declared}: {e}"));
        }
        for (data_type, declared) in [
            (DataType::Int64, "integer"),
            (DataType::Int32, "real"),
            (DataType::Date32, "integer"),
            (DataType::Int32, "mood"),
            (DataType::Float64, "bigint"),
            (DataType::Boolean, "text"),
            (list(DataType::Int32), "real[]"),
            (list(DataType::Int32), "integer"),
            (DataType::Time64(TimeUnit::Nanosecond), "time without time zone"),
        ] {
            let refused = column(&data_type, declared).unwrap_err();
            assert_eq!(refused.kind(), highwater_core::ErrorKind::Schema, "{declared}");
            assert_eq!(refused.context_value("column"), Some("c"));
        }
    }
}
