//! Whether the columns of an existing table keep the planned values as they are.
//!
//! PostgreSQL refuses most values that do not fit. Two kinds it changes silently: digits after
//! the point that a column does not have are rounded away, and spaces at the end of a text that
//! is too long are cut off. The first is refused before a row is sent, the second when the rows
//! are staged and can be looked at.

use arrow_schema::{DataType, Field, TimeUnit};
use highwater_core::types::DEFINITION;
use highwater_core::{Error, LogicalType, Result, TablePlan};
use highwater_sql::Dialect;

use crate::catalog::{self, Relation, UserTypes, get};
use crate::dialect::PostgresDialect;
use crate::session::{Session, quote};
use crate::stored;

/// Digits after the point of a type without a limit.
const UNLIMITED: i32 = i32::MAX;

/// Compares the columns of an existing table with the planned ones.
///
/// # Errors
/// `Schema` for a column that has fewer digits after the point than the planned values, with both
/// types: the server would round.
pub(crate) fn check(plan: &TablePlan, there: &Relation, types: &UserTypes) -> Result<()> {
    for (field, column) in pairs(plan, there) {
        let planned = PostgresDialect.column_type(field)?;
        if is_widened(plan, field) {
            continue;
        }
        let definition = types.definition(column.type_oid);
        let existing = stored::resolve(&column.declared, definition.as_deref());
        let definition = field.metadata().get(DEFINITION).map(String::as_str);
        // A domain of the same name may be another one here.
        let wanted = stored::resolve(&planned, definition);
        let (Some(has), Some(needs)) = (digits(&existing), needed(field, &wanted)) else {
            continue;
        };
        if existing != wanted && has < needs {
            return Err(Error::schema("The destination's column would round the values")
                .context("table", &plan.target.name)
                .context("column", field.name())
                .context("existing", &column.declared)
                .context("planned", &planned)
                .hint(format!(
                    "ALTER TABLE {} ALTER COLUMN {} TYPE {planned}",
                    PostgresDialect.table(&plan.target.name),
                    quote(field.name())
                )));
        }
    }
    Ok(())
}

/// Looks for staged texts that are longer than their column, which the server would refuse
/// without naming the column, or shorten where only spaces are too many.
///
/// # Errors
/// `Data` with the column; else as the server's.
pub(crate) async fn check_lengths(
    session: &Session,
    plan: &TablePlan,
    there: &Relation,
    staged: &str,
) -> Result<()> {
    let mut looked_at = Vec::new();
    for (field, column) in pairs(plan, there) {
        let planned = PostgresDialect.column_type(field)?;
        let is_text = matches!(field.data_type(), DataType::Utf8);
        if let Some(length) = text_length(&column.declared)
            && is_text
            && column.declared != planned
        {
            let longest = format!(
                "coalesce(bool_or(pg_catalog.length({}::pg_catalog.text) > {length}), false)",
                quote(field.name())
            );
            looked_at.push((longest, field.name(), &column.declared, planned));
        }
    }
    if looked_at.is_empty() {
        return Ok(());
    }
    let expressions: Vec<&str> = looked_at.iter().map(|(text, ..)| text.as_str()).collect();
    let statement = format!("SELECT {} FROM {staged}", expressions.join(", "));
    let rows = catalog::rows(session, &statement, &[]).await?;
    let Some(row) = rows.first() else { return Ok(()) };
    for (at, (_, column, existing, planned)) in looked_at.iter().enumerate() {
        if get::<bool>(row, at)? {
            return Err(Error::data("A text is longer than the destination's column")
                .context("table", &plan.target.name)
                .context("column", column)
                .context("existing", existing)
                .context("planned", planned)
                .hint(format!(
                    "ALTER TABLE {} ALTER COLUMN {} TYPE {planned}",
                    PostgresDialect.table(&plan.target.name),
                    quote(column)
                )));
        }
    }
    Ok(())
}

/// The columns whose type is not the planned one, for an error about a value that does not fit:
/// `price numeric(5,2) (planned: numeric(10,2))`.
pub(crate) fn different(plan: &TablePlan, there: &Relation) -> Option<String> {
    let listed: Vec<String> = pairs(plan, there)
        .filter_map(|(field, column)| {
            let planned = PostgresDialect.column_type(field).ok()?;
            (planned != column.declared)
                .then(|| format!("{} {} (planned: {planned})", column.name, column.declared))
        })
        .collect();
    (!listed.is_empty()).then(|| listed.join(", "))
}

fn pairs<'a>(
    plan: &'a TablePlan,
    there: &'a Relation,
) -> impl Iterator<Item = (&'a Field, &'a catalog::Column)> {
    plan.target.schema.fields().iter().filter_map(|field| {
        let column = there.columns.iter().find(|column| column.name == *field.name())?;
        Some((field.as_ref(), column))
    })
}

/// Whether this run gives the column the planned type.
fn is_widened(plan: &TablePlan, field: &Field) -> bool {
    plan.changes.iter().any(|change| {
        matches!(change, highwater_core::SchemaChange::WidenColumn { to, .. } if to.name() == field.name())
    })
}

/// The digits after the point that the values of a field may have; `None` where that says nothing.
fn needed(field: &Field, planned: &str) -> Option<i32> {
    let declared = digits(planned);
    match (of_values(field), declared) {
        (Some(values), Some(declared)) => Some(values.min(declared)),
        (values, declared) => values.or(declared),
    }
}

fn of_values(field: &Field) -> Option<i32> {
    let of_unit = |unit| match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 3,
        TimeUnit::Microsecond => 6,
        TimeUnit::Nanosecond => 9,
    };
    Some(match LogicalType::of(field).ok()? {
        LogicalType::Integer { .. } => 0,
        LogicalType::Decimal { scale, .. } => scale.into(),
        LogicalType::Numeric => UNLIMITED,
        LogicalType::Time(unit)
        | LogicalType::Duration(unit)
        | LogicalType::Timestamp { unit, .. } => of_unit(unit),
        LogicalType::Interval => 6,
        LogicalType::List(item) => return of_values(&item),
        _ => return None,
    })
}

/// The digits after the point that a type keeps; `None` for types that have none.
fn digits(sql_name: &str) -> Option<i32> {
    let scalar = sql_name.trim_end_matches("[]");
    let (base, arguments) = split(scalar);
    let of_time = || arguments.map_or(Some(6), |digits| digits.trim().parse().ok());
    match base.as_str() {
        "numeric" => match arguments {
            None => Some(UNLIMITED),
            Some(arguments) => {
                arguments.split_once(',').map_or(Some(0), |(_, scale)| scale.trim().parse().ok())
            }
        },
        "interval" => of_time(),
        // `interval year to month` and its like cut off more than digits.
        fields if fields.starts_with("interval ") => Some(i32::MIN),
        time if time.starts_with("timestamp") || time.starts_with("time ") => of_time(),
        _ => None,
    }
}

/// The number of characters that a text type keeps.
fn text_length(sql_name: &str) -> Option<u32> {
    let (base, arguments) = split(sql_name);
    matches!(base.as_str(), "character varying" | "character")
        .then(|| arguments?.trim().parse().ok())
        .flatten()
}

/// `timestamp(3) with time zone` as `timestamp with time zone` and `3`.
fn split(sql_name: &str) -> (String, Option<&str>) {
    match (sql_name.find('('), sql_name.find(')')) {
        (Some(open), Some(close)) if open < close => (
            format!("{}{}", &sql_name[..open], &sql_name[close + 1..]),
            Some(&sql_name[open + 1..close]),
        ),
        _ => (sql_name.to_owned(), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digits_of_a_type_are_read_from_its_name() {
        assert_eq!(digits("timestamp(0) without time zone"), Some(0));
        assert_eq!(digits("timestamp with time zone"), Some(6));
        assert_eq!(digits("time(3) with time zone"), Some(3));
        assert_eq!(digits("interval(2)"), Some(2));
        assert_eq!(digits("interval year to month"), Some(i32::MIN));
        assert_eq!(digits("numeric"), Some(UNLIMITED));
        assert_eq!(digits("numeric(5,-2)[]"), Some(-2));
        assert_eq!(digits("numeric(5)"), Some(0));
        assert_eq!(digits("text"), None);
        assert_eq!(text_length("character varying(3)"), Some(3));
        assert_eq!(text_length("text"), None);
    }

    #[test]
    fn values_need_no_more_digits_than_they_can_have() {
        let seconds = Field::new("c", DataType::Timestamp(TimeUnit::Second, None), true);
        assert_eq!(needed(&seconds, "timestamp without time zone"), Some(0));
        let micros = Field::new("c", DataType::Timestamp(TimeUnit::Microsecond, None), true);
        assert_eq!(needed(&micros, "timestamp(3) without time zone"), Some(3));
        assert_eq!(needed(&micros, "timestamp without time zone"), Some(6));
        assert_eq!(needed(&Field::new("c", DataType::Utf8, true), "text"), None);
    }
}
