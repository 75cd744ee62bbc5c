//! In which Arrow type each type of DuckDB travels, what a query has to say so that it does, and
//! the last step from what DuckDB sends to that type.
//!
//! DuckDB's own Arrow types lose nothing for most types. The others are asked for as text, which
//! DuckDB makes inside the query: integers of more than 64 bits, `TIMETZ`, `BIT`, `ENUM`. Where a
//! `UNION` or a `VARIANT` is inside, the whole value travels as JSON that names the member.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Int8Type, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType,
};
use arrow_array::{
    Array, ArrayRef, ArrowPrimitiveType, BooleanArray, FixedSizeListArray, ListArray, MapArray,
    PrimitiveArray, StructArray,
};
use arrow_buffer::BooleanBuffer;
use arrow_schema::{DataType, Field, Fields, IntervalUnit, TimeUnit};
use highwater_core::types::{DECLARED, EXTENSION, JSON, NUMERIC, UUID, with_metadata};
use highwater_core::{Error, Result};

use super::declared::Declared;
use super::quote;

/// What [`DECLARED`] types of DuckDB begin with.
pub(crate) const SYSTEM: &str = "duckdb";

/// Hours of an interval whose nanoseconds fit into the 64 bits that Arrow has for them.
const INTERVAL_HOURS_MAX: u32 = 2_562_046;

/// How the values of a column are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// As they are.
    Same,
    /// Cast to another type of DuckDB.
    Cast,
    /// As the JSON that DuckDB makes of them.
    Json,
    /// As JSON, by a cast.
    JsonCast,
    /// As they are, and refused where Arrow cannot hold them.
    Interval,
}

/// How values of a type travel.
struct Carried {
    arrow: DataType,
    extension: Option<&'static str>,
    form: Form,
    /// The type of DuckDB that Arrow is made from.
    sql: String,
}

impl Carried {
    fn same(arrow: DataType, sql: &str) -> Self {
        Self { arrow, extension: None, form: Form::Same, sql: sql.to_owned() }
    }

    fn text(extension: Option<&'static str>) -> Self {
        Self { arrow: DataType::Utf8, extension, form: Form::Cast, sql: "VARCHAR".to_owned() }
    }

    fn json(form: Form) -> Self {
        Self { form, ..Self::text(Some(JSON)) }
    }

    fn with_extension(self, extension: &'static str) -> Self {
        Self { extension: Some(extension), ..self }
    }

    fn field(&self, name: &str) -> Field {
        let field = Field::new(name, self.arrow.clone(), true);
        match self.extension {
            Some(extension) => with_metadata(field, EXTENSION, extension),
            None => field,
        }
    }

    fn of(declared: &Declared) -> Self {
        let is = |name: &'static str| move |t: &Declared| *t == Declared::Plain(name.to_owned());
        if declared.contains(&|t| *t == Declared::Union) {
            return Self::json(Form::Json);
        }
        if declared.contains(&is("VARIANT")) {
            return Self::json(Form::JsonCast);
        }
        match declared {
            Declared::Plain(name) if name == "INTERVAL" => Self {
                form: Form::Interval,
                ..Self::same(DataType::Interval(IntervalUnit::MonthDayNano), name)
            },
            other => Self::part(other),
        }
    }

    /// Of a type that may be inside another one.
    fn part(declared: &Declared) -> Self {
        match declared {
            Declared::Plain(name) => Self::plain(name),
            Declared::Decimal(precision, scale) => Self::same(
                DataType::Decimal128(*precision, *scale),
                &format!("DECIMAL({precision},{scale})"),
            ),
            Declared::Enum | Declared::Union => Self::text(None),
            Declared::List(item) => {
                let item = Self::part(item);
                let arrow = DataType::List(Arc::new(item.field("item")));
                Self::around(arrow, &[&item], format!("{}[]", item.sql))
            }
            Declared::Array(item, length) => {
                let item = Self::part(item);
                let arrow = DataType::FixedSizeList(Arc::new(item.field("item")), *length);
                Self::around(arrow, &[&item], format!("{}[{length}]", item.sql))
            }
            Declared::Struct(fields) => {
                let parts: Vec<_> = fields.iter().map(|(_, part)| Self::part(part)).collect();
                let names = fields.iter().map(|(name, _)| name);
                let arrow: Fields =
                    names.clone().zip(&parts).map(|(name, part)| part.field(name)).collect();
                let sql: Vec<_> = names
                    .zip(&parts)
                    .map(|(name, part)| format!("{} {}", quote(name), part.sql))
                    .collect();
                let sql = format!("STRUCT({})", sql.join(", "));
                Self::around(DataType::Struct(arrow), &parts.iter().collect::<Vec<_>>(), sql)
            }
            Declared::Map(key, value) => {
                let (key, value) = (Self::part(key), Self::part(value));
                let fields = vec![key.field("key").with_nullable(false), value.field("value")];
                let entries = Field::new("entries", DataType::Struct(fields.into()), false);
                let sql = format!("MAP({}, {})", key.sql, value.sql);
                Self::around(DataType::Map(Arc::new(entries), false), &[&key, &value], sql)
            }
        }
    }

    fn around(arrow: DataType, parts: &[&Self], sql: String) -> Self {
        let cast = parts.iter().any(|part| part.form != Form::Same);
        let form = if cast { Form::Cast } else { Form::Same };
        Self { arrow, extension: None, form, sql }
    }

    fn plain(name: &str) -> Self {
        use DataType as D;
        let utc = || Some("UTC".into());
        let arrow = match name {
            "BOOLEAN" => D::Boolean,
            "TINYINT" => D::Int8,
            "SMALLINT" => D::Int16,
            "INTEGER" => D::Int32,
            "BIGINT" => D::Int64,
            "UTINYINT" => D::UInt8,
            "USMALLINT" => D::UInt16,
            "UINTEGER" => D::UInt32,
            "UBIGINT" => D::UInt64,
            "FLOAT" => D::Float32,
            "DOUBLE" => D::Float64,
            "VARCHAR" => D::Utf8,
            "BLOB" | "GEOMETRY" => D::Binary,
            "DATE" => D::Date32,
            "TIME" => D::Time64(TimeUnit::Microsecond),
            "TIME_NS" => D::Time64(TimeUnit::Nanosecond),
            "TIMESTAMP" => D::Timestamp(TimeUnit::Microsecond, None),
            "TIMESTAMP_S" => D::Timestamp(TimeUnit::Second, None),
            "TIMESTAMP_MS" => D::Timestamp(TimeUnit::Millisecond, None),
            "TIMESTAMP_NS" => D::Timestamp(TimeUnit::Nanosecond, None),
            "TIMESTAMP WITH TIME ZONE" | "TIMESTAMPTZ" => {
                D::Timestamp(TimeUnit::Microsecond, utc())
            }
            "JSON" => return Self::same(D::Utf8, name).with_extension(JSON),
            "UUID" => return Self::same(D::FixedSizeBinary(16), name).with_extension(UUID),
            "HUGEINT" | "UHUGEINT" | "BIGNUM" | "VARINT" => return Self::text(Some(NUMERIC)),
            _ => return Self::text(None),
        };
        Self::same(arrow, name)
    }
}

/// The field of a column that DuckDB declares so. It keeps the declared type, so that DuckDB gets
/// its own type back at the other end.
pub(crate) fn field(name: &str, declared: &str, nullable: bool) -> Field {
    let carried = match Declared::parse(declared) {
        Some(parsed) => Carried::of(&parsed),
        None => Carried::text(None),
    };
    let field = carried.field(name).with_nullable(nullable);
    with_metadata(field, DECLARED, format!("{SYSTEM}:{declared}"))
}

/// What a query has to say to get a column, here as `place`, in the type of its [`field`].
pub(crate) fn expression(place: &str, declared: &str) -> String {
    let Some(carried) = Declared::parse(declared).map(|parsed| Carried::of(&parsed)) else {
        return format!("CAST({place} AS VARCHAR)");
    };
    match carried.form {
        Form::Same => place.to_owned(),
        Form::Cast => format!("CAST({place} AS {})", carried.sql),
        Form::Json => {
            format!("CASE WHEN {place} IS NOT NULL THEN CAST(to_json({place}) AS VARCHAR) END")
        }
        Form::JsonCast => format!("CAST(CAST({place} AS JSON) AS VARCHAR)"),
        // DuckDB counts microseconds; what does not fit into nanoseconds would come out wrong.
        Form::Interval => format!(
            "CASE WHEN datepart('hour', {place}) BETWEEN -{INTERVAL_HOURS_MAX} AND \
             {INTERVAL_HOURS_MAX} THEN {place} WHEN {place} IS NOT NULL THEN \
             error('an interval of more than 292 years in hours') END"
        ),
    }
}

/// The values that DuckDB sent in the type of a field: buffers are handed on, not copied, but for
/// `BOOLEAN` (DuckDB sends bytes) and infinite dates (DuckDB's least one is another than ours).
///
/// # Errors
/// `Internal` when DuckDB sent a type that has no such values.
pub(crate) fn adapt(values: &ArrayRef, wanted: &DataType) -> Result<ArrayRef> {
    Ok(match (values.data_type(), wanted) {
        (DataType::Int8, DataType::Boolean) => {
            let bytes = values.as_primitive::<Int8Type>();
            let raw = bytes.values();
            let bits = BooleanBuffer::collect_bool(raw.len(), |at| raw[at] != 0);
            Arc::new(BooleanArray::new(bits, bytes.nulls().cloned()))
        }
        (DataType::Date32, DataType::Date32) => infinite::<Date32Type>(values, -i32::MAX, i32::MIN),
        (DataType::Timestamp(unit, _), DataType::Timestamp(same, zone)) if unit == same => {
            let zone = zone.clone();
            match unit {
                TimeUnit::Second => instants::<TimestampSecondType>(values, zone),
                TimeUnit::Millisecond => instants::<TimestampMillisecondType>(values, zone),
                TimeUnit::Microsecond => instants::<TimestampMicrosecondType>(values, zone),
                TimeUnit::Nanosecond => instants::<TimestampNanosecondType>(values, zone),
            }
        }
        (DataType::List(_), DataType::List(item)) => {
            let list = values.as_list::<i32>();
            let items = adapt(list.values(), item.data_type())?;
            let (offsets, nulls) = (list.offsets().clone(), list.nulls().cloned());
            Arc::new(ListArray::try_new(Arc::clone(item), offsets, items, nulls)?)
        }
        (DataType::FixedSizeList(_, length), DataType::FixedSizeList(item, same))
            if length == same =>
        {
            let list = values.as_fixed_size_list();
            let items = adapt(list.values(), item.data_type())?;
            let nulls = list.nulls().cloned();
            Arc::new(FixedSizeListArray::try_new(Arc::clone(item), *length, items, nulls)?)
        }
        (DataType::Struct(parts), DataType::Struct(fields)) if parts.len() == fields.len() => {
            Arc::new(adapt_struct(values.as_struct(), fields)?)
        }
        (DataType::Map(_, _), DataType::Map(entries, sorted)) => {
            let map = values.as_map();
            let DataType::Struct(fields) = entries.data_type() else { return Err(other(values)) };
            let adapted = adapt_struct(map.entries(), fields)?;
            let (offsets, nulls) = (map.offsets().clone(), map.nulls().cloned());
            Arc::new(MapArray::try_new(Arc::clone(entries), offsets, adapted, nulls, *sorted)?)
        }
        (sent, wanted) if sent == wanted => Arc::clone(values),
        _ => return Err(other(values)),
    })
}

fn adapt_struct(values: &StructArray, fields: &Fields) -> Result<StructArray> {
    let parts = values.columns().iter().zip(fields);
    let parts = parts.map(|(part, field)| adapt(part, field.data_type()));
    let (parts, nulls) = (parts.collect::<Result<Vec<_>>>()?, values.nulls().cloned());
    let length = values.len();
    Ok(StructArray::try_new_with_length(fields.clone(), parts, nulls, length)?)
}

fn other(values: &ArrayRef) -> Error {
    Error::internal("DuckDB sent a column of another type than it was asked for")
        .context("sent", values.data_type())
}

fn instants<T>(values: &ArrayRef, zone: Option<Arc<str>>) -> ArrayRef
where
    T: arrow_array::types::ArrowTimestampType,
{
    let values = infinite::<T>(values, -i64::MAX, i64::MIN);
    Arc::new(values.as_primitive::<T>().clone().with_timezone_opt(zone))
}

/// The values, with `-infinity` as we write it.
fn infinite<T: ArrowPrimitiveType>(
    values: &ArrayRef,
    theirs: T::Native,
    ours: T::Native,
) -> ArrayRef
where
    T::Native: PartialEq,
{
    let array = values.as_primitive::<T>();
    if !array.values().contains(&theirs) {
        return Arc::clone(values);
    }
    let replaced: PrimitiveArray<T> =
        array.unary(|value| if value == theirs { ours } else { value });
    Arc::new(replaced.with_data_type(array.data_type().clone()))
}

#[cfg(test)]
mod tests {
    use highwater_core::LogicalType;

    use super::*;

    fn logical(declared: &str) -> LogicalType {
        LogicalType::of(&field("c", declared, true)).unwrap()
    }

    #[test]
    fn types_that_arrow_has_travel_as_they_are() {
        for declared in [
            "BOOLEAN",
            "UBIGINT",
            "DECIMAL(38,10)",
            "TIMESTAMP WITH TIME ZONE",
            "UUID",
            "JSON",
            "STRUCT(a INTEGER, \"b\"\"c\" UUID)[]",
            "MAP(VARCHAR, INTEGER[3])",
        ] {
            assert_eq!(expression("t.c", declared), "t.c", "{declared}");
        }
        assert_eq!(logical("UUID"), LogicalType::Uuid);
        assert_eq!(logical("DECIMAL(18,3)"), LogicalType::Decimal { precision: 18, scale: 3 });
        let kept = field("c", "UTINYINT", false);
        assert!(!kept.is_nullable());
        assert_eq!(kept.metadata()[DECLARED], "duckdb:UTINYINT");
    }

    #[test]
    fn what_arrow_would_lose_is_asked_for_in_another_form() {
        for (declared, sql) in [
            ("HUGEINT", "CAST(t.c AS VARCHAR)"),
            ("TIME WITH TIME ZONE", "CAST(t.c AS VARCHAR)"),
            ("ENUM('a', 'b')", "CAST(t.c AS VARCHAR)"),
            ("SOMETHING NEW", "CAST(t.c AS VARCHAR)"),
            ("HUGEINT[]", "CAST(t.c AS VARCHAR[])"),
            (
                "STRUCT(\"a b\" HUGEINT, u UUID, i INTERVAL)",
                "CAST(t.c AS STRUCT(\"a b\" VARCHAR, \"u\" UUID, \"i\" VARCHAR))",
            ),
            ("MAP(BIT, DATE)", "CAST(t.c AS MAP(VARCHAR, DATE))"),
            (
                "STRUCT(u UNION(n INTEGER))[]",
                "CASE WHEN t.c IS NOT NULL THEN CAST(to_json(t.c) AS VARCHAR) END",
            ),
        ] {
            assert_eq!(expression("t.c", declared), sql, "{declared}");
        }
        assert_eq!(logical("UHUGEINT"), LogicalType::Numeric);
        assert_eq!(logical("UNION(n INTEGER)"), LogicalType::Json);
        assert!(expression("t.c", "INTERVAL").contains("error("));
    }
}
