//! How PostgreSQL spells what `connectors/sql` needs: types, names, locks.

use arrow_schema::{DataType, Field, TimeUnit};
use highwater_core::types::{DEFINITION, declared_in};
use highwater_core::{LogicalType, Result, TableName};
use highwater_sql::Dialect;

use crate::catalog::Definition;
use crate::session::quote;
use crate::stored;
use crate::types::SYSTEM;

/// The schema of highwater's own tables.
pub(crate) const STATE_SCHEMA: &str = "_highwater";

/// PostgreSQL's way to spell SQL.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PostgresDialect;

impl Dialect for PostgresDialect {
    fn system(&self) -> &'static str {
        SYSTEM
    }

    fn identifier_bytes_max(&self) -> usize {
        63
    }

    fn internal(&self, name: &str) -> String {
        format!("{}.{}", quote(STATE_SCHEMA), quote(name))
    }

    fn column_type(&self, field: &Field) -> Result<String> {
        let natural = logical_type(field)?;
        let Some(declared) = declared(field) else { return Ok(natural) };
        stored::check_declared(field, &natural, declared)?;
        Ok(declared.to_owned())
    }

    fn staging_type(&self, field: &Field) -> Result<String> {
        if is_cast(field) { Ok("text".to_owned()) } else { self.column_type(field) }
    }

    fn staged_as_stored(&self, expression: &str, field: &Field) -> String {
        match declared(field) {
            Some(declared) if is_cast(field) => {
                format!("{expression}::{}", without_length(declared))
            }
            _ => expression.to_owned(),
        }
    }

    fn ordered(&self, expression: &str, field: &Field) -> String {
        match LogicalType::of(field) {
            Ok(LogicalType::Text) if !is_cast(field) => format!("{expression} COLLATE \"C\""),
            _ => expression.to_owned(),
        }
    }

    fn distinct(&self, left: &str, right: &str, field: &Field) -> String {
        let as_text = compares_as_text(field) || is_numeric(field);
        if as_text {
            format!("{left}::text IS DISTINCT FROM {right}::text")
        } else {
            format!("{left} IS DISTINCT FROM {right}")
        }
    }

    fn parameter(&self, n: usize) -> String {
        format!("${n}")
    }

    fn equals_parameter(&self, column: &str, n: usize, field: &Field) -> String {
        let Ok(column_type) = self.column_type(field) else { return "1 = 0".to_owned() };
        let parameter = if is_cast(field) {
            format!("${n}::text::{}", without_length(&column_type))
        } else {
            format!("${n}::{}", without_digits(&without_length(&column_type)))
        };
        if compares_as_text(field) {
            format!("{column}::text = ({parameter})::text")
        } else {
            format!("{column} = {parameter}")
        }
    }

    fn row_id(&self) -> Option<&'static str> {
        Some("ctid")
    }

    fn lock_shared(&self) -> &'static str {
        " FOR SHARE"
    }

    fn lock_exclusive(&self) -> &'static str {
        " FOR UPDATE"
    }

    fn widen_column(&self, table: &TableName, to: &Field) -> Result<Vec<String>> {
        Ok(vec![format!(
            "ALTER TABLE {} ALTER COLUMN {} TYPE {}",
            self.table(table),
            quote(to.name()),
            self.column_type(to)?
        )])
    }

    fn drop_not_null(&self, table: &TableName, column: &str) -> Vec<String> {
        vec![format!(
            "ALTER TABLE {} ALTER COLUMN {} DROP NOT NULL",
            self.table(table),
            quote(column)
        )]
    }
}

/// Whether JSON is stored as `jsonb`.
pub(crate) fn is_jsonb(field: &Field) -> bool {
    declared(field) == Some("jsonb") && matches!(LogicalType::of(field), Ok(LogicalType::Json))
}

/// Whether values are compared by their text: `json`, `xml` and their like have no equality; the
/// text of the others is told apart where they are equal (an interval of a month and of 30 days).
fn compares_as_text(field: &Field) -> bool {
    match LogicalType::of(field) {
        Ok(LogicalType::Json | LogicalType::Interval | LogicalType::Duration(_)) => true,
        Ok(LogicalType::Text) => declared(field).is_some_and(|d| !is_string(d)),
        Ok(LogicalType::List(_) | LogicalType::Nested) => true,
        _ => false,
    }
}

/// `1.0` and `1.00` are equal as numbers, and are told apart where a row may have changed.
fn is_numeric(field: &Field) -> bool {
    matches!(LogicalType::of(field), Ok(LogicalType::Numeric))
}

/// A type without the digits that it keeps: a parameter is not to be rounded.
fn without_digits(column_type: &str) -> String {
    let rounds = ["numeric(", "time(", "timestamp(", "interval("];
    match (column_type.find('('), column_type.find(')')) {
        (Some(open), Some(close))
            if open < close && rounds.iter().any(|start| column_type.starts_with(start)) =>
        {
            format!("{}{}", &column_type[..open], &column_type[close + 1..])
        }
        _ => column_type.to_owned(),
    }
}

/// The type that PostgreSQL declared for the field, where it may be used again.
pub(crate) fn declared(field: &Field) -> Option<&str> {
    declared_in(field, SYSTEM).filter(|text| is_type_name(text))
}

/// Whether values travel as text and are cast to the declared type by the server: types that
/// have no text as their binary form.
pub(crate) fn is_cast(field: &Field) -> bool {
    if !matches!(field.data_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) {
        return false;
    }
    if !matches!(LogicalType::of(field), Ok(LogicalType::Text)) {
        return false;
    }
    declared(field).is_some_and(|d| !is_string(d) && !has_text_form(field))
}

/// The type to cast a text to before it is stored. A cast that names a length cuts off what is
/// longer and says nothing; storing the value then refuses it.
fn without_length(declared: &str) -> String {
    let (scalar, array) = match declared.find("[]") {
        Some(at) => declared.split_at(at),
        None => (declared, ""),
    };
    let base = match scalar.split_once('(').map(|(base, _)| base) {
        Some("character varying") => "character varying",
        Some("character") => "bpchar",
        Some("bit" | "bit varying") => "bit varying",
        _ => return declared.to_owned(),
    };
    format!("{base}{array}")
}

/// Types whose binary form is their text.
fn is_string(declared: &str) -> bool {
    const STRINGS: [&str; 6] =
        ["text", "character varying", "character", "name", "citext", "bpchar"];
    let base = declared.split('(').next().unwrap_or(declared).trim_end();
    STRINGS.contains(&base) && !declared.ends_with("[]")
}

/// Whether a user's type has its text as its binary form: an enum its label, a domain what its base
/// type has.
fn has_text_form(field: &Field) -> bool {
    let Some(text) = field.metadata().get(DEFINITION) else { return false };
    let definitions: Vec<Definition> = serde_json::from_str(text).unwrap_or_default();
    // What the type needs comes first, the type itself last; an array has no definition.
    match definitions.last() {
        Some(Definition::Enum { name, .. }) => declared(field) == Some(name),
        Some(Definition::Domain { name, .. }) => {
            declared(field) == Some(name) && is_string(&stored::resolve(name, Some(text)))
        }
        _ => false,
    }
}

/// A name of a type and nothing else: declared types come from outside (a Parquet file carries
/// them too) and end up in statements.
pub(crate) fn is_type_name(text: &str) -> bool {
    let (mut depth, mut quoted) = (0_i32, false);
    for character in text.chars() {
        match character {
            '"' => quoted = !quoted,
            _ if quoted => {}
            '(' => depth += 1,
            ')' => depth -= 1,
            c if c.is_alphanumeric() => {}
            ' ' | '_' | '.' | ',' | '[' | ']' | '-' => {}
            _ => return false,
        }
        if depth < 0 {
            return false;
        }
    }
    depth == 0 && !quoted && !text.contains("--") && !text.trim().is_empty()
}

fn logical_type(field: &Field) -> Result<String> {
    let fixed = match LogicalType::of(field)? {
        LogicalType::Boolean => "boolean",
        LogicalType::Integer { bits: 8, .. } | LogicalType::Integer { bits: 16, signed: true } => {
            "smallint"
        }
        LogicalType::Integer { bits: 16, .. } | LogicalType::Integer { bits: 32, signed: true } => {
            "integer"
        }
        LogicalType::Integer { bits: 64, signed: false } => "numeric(20,0)",
        LogicalType::Integer { .. } => "bigint",
        LogicalType::Float { bits: 64 } => "double precision",
        LogicalType::Float { .. } => "real",
        LogicalType::Decimal { precision, scale } if scale >= 0 => {
            return Ok(format!("numeric({precision},{scale})"));
        }
        LogicalType::Decimal { precision, scale } => {
            let digits = u16::from(precision) + u16::from(scale.unsigned_abs());
            return Ok(format!("numeric({digits},0)"));
        }
        LogicalType::Numeric => "numeric",
        LogicalType::Text | LogicalType::Null => "text",
        LogicalType::Json => "json",
        LogicalType::Uuid => "uuid",
        LogicalType::Binary => "bytea",
        LogicalType::Date => "date",
        LogicalType::Time(TimeUnit::Nanosecond)
        | LogicalType::Timestamp { unit: TimeUnit::Nanosecond, .. } => "text",
        LogicalType::Time(_) => "time without time zone",
        LogicalType::Timestamp { utc: false, .. } => "timestamp without time zone",
        LogicalType::Timestamp { utc: true, .. } => "timestamp with time zone",
        LogicalType::Duration(TimeUnit::Nanosecond) => "text",
        LogicalType::Duration(_) | LogicalType::Interval => "interval",
        LogicalType::List(item) => {
            // A list of lists, of records or of texts that need a cast has no array type of its own.
            let scalar = !matches!(
                LogicalType::of(&item)?,
                LogicalType::List(_) | LogicalType::Nested | LogicalType::Null
            );
            return if scalar {
                // What was declared for the items counts where their array is sent as such.
                let of = declared(&item).filter(|_| is_jsonb(&item));
                Ok(format!("{}[]", of.map_or_else(|| logical_type(&item), |d| Ok(d.to_owned()))?))
            } else {
                Ok("jsonb".to_owned())
            };
        }
        LogicalType::Nested => "jsonb",
    };
    Ok(fixed.to_owned())
}

#[cfg(test)]
mod tests {
    use highwater_core::types::{DECLARED, NUMERIC, extension_field, with_metadata};

    use super::*;

    fn declared_field(declared: &str) -> Field {
        let field = Field::new("c", DataType::Utf8, true);
        with_metadata(field, DECLARED, format!("postgresql:{declared}"))
    }

    #[test]
    fn a_declared_type_is_used_again_only_if_it_is_one() {
        for good in [
            "inet",
            "character varying(20)",
            "numeric(10,2)[]",
            "shop.\"Odd; name\"",
            "timestamp(3) with time zone",
            "numeric(5,-2)",
        ] {
            let column_type = PostgresDialect.column_type(&declared_field(good)).unwrap();
            assert_eq!(column_type, good);
        }
        for bad in ["int); DROP TABLE t", "int -- x", "int'", "\"open", "a)(b", ""] {
            let column_type = PostgresDialect.column_type(&declared_field(bad)).unwrap();
            assert_eq!(column_type, "text", "{bad}");
        }
    }

    #[test]
    fn a_type_without_a_text_form_on_the_wire_is_cast_by_the_server() {
        let inet = declared_field("inet");
        assert_eq!(PostgresDialect.staging_type(&inet).unwrap(), "text");
        assert_eq!(PostgresDialect.staged_as_stored("s.\"c\"", &inet), "s.\"c\"::inet");
        for (declared, cast) in [
            ("character varying(3)[]", "character varying[]"),
            ("character(3)[]", "bpchar[]"),
            ("bit(3)", "bit varying"),
            ("bit varying(3)", "bit varying"),
            ("time(3) with time zone", "time(3) with time zone"),
        ] {
            let field = declared_field(declared);
            assert_eq!(PostgresDialect.staged_as_stored("c", &field), format!("c::{cast}"));
        }
        for native in ["text", "character(5)", "citext"] {
            assert!(!is_cast(&declared_field(native)), "{native}");
        }
        let label = with_metadata(
            declared_field("mood"),
            DEFINITION,
            r#"[{"kind":"enum","name":"mood","labels":["ok"]}]"#,
        );
        assert!(!is_cast(&label));
        assert!(!is_cast(&extension_field("n", DataType::Utf8, NUMERIC)));
    }

    #[test]
    fn unsigned_types_get_the_next_wider_one() {
        let of =
            |data_type| PostgresDialect.column_type(&Field::new("c", data_type, true)).unwrap();
        assert_eq!(of(DataType::UInt8), "smallint");
        assert_eq!(of(DataType::UInt16), "integer");
        assert_eq!(of(DataType::UInt32), "bigint");
        assert_eq!(of(DataType::UInt64), "numeric(20,0)");
        assert_eq!(of(DataType::Decimal128(5, -2)), "numeric(7,0)");
        assert_eq!(
            of(DataType::List(Field::new("item", DataType::Int32, true).into())),
            "integer[]"
        );
    }
}
