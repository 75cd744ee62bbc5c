//! The cursor field in a system of which only the standard is known.
//!
//! What is sure: whole and decimal numbers are ordered alike everywhere and written alike in every
//! SQL; dates and timestamps are ordered alike and can be given as a parameter, if it is known how
//! the system writes one. Texts have the order of a collation that nobody tells, and a binary
//! float has no decimal text that compares exactly everywhere: rows would be missed.

use arrow_array::ArrayRef;
use arrow_schema::Field;
use highwater_core::text::TextBuilder;
use highwater_core::{Error, LogicalType, Result, TablePlan};
use highwater_sql::boundary::InclusiveCursor;
use highwater_sql::cursor_field;

use super::system::Manner;
use crate::session::Parameter;

/// How a position is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Literal,
    Parameter,
}

fn form(field: &Field) -> Option<Form> {
    match LogicalType::of(field).ok()? {
        LogicalType::Integer { .. } | LogicalType::Decimal { .. } | LogicalType::Numeric => {
            Some(Form::Literal)
        }
        LogicalType::Date | LogicalType::Timestamp { .. } => Some(Form::Parameter),
        _ => None,
    }
}

/// Checks that the cursor field is a column whose order is sure.
///
/// # Errors
/// `Config`, with the columns that could be the cursor field.
pub(super) fn check(plan: &TablePlan, manner: &Manner) -> Result<Field> {
    let refusal = "The cursor field is of a type whose order the standard does not promise";
    let field = cursor_field::find(plan, |field| form(field).is_some(), refusal)?;
    if form(&field) == Some(Form::Parameter) && manner.parameter.is_none() {
        return Err(Error::config("How the system writes a parameter is not known")
            .context("table", plan.name())
            .context("column", field.name())
            .context("key", "parameter")
            .hint("parameter: \"?\"   # or \"$1\", in the spec of the source"));
    }
    Ok(field)
}

/// The condition that finds every row that has to be read, with `WHERE`, and its parameter; empty
/// where that is every row.
///
/// # Errors
/// `Internal` when the position is no value of the field's type.
pub(super) fn condition(
    cursor: &InclusiveCursor,
    manner: &Manner,
) -> Result<(String, Option<Parameter>)> {
    let column = format!("t.{}", manner.quote(cursor.field().name()));
    let (sql, parameter) = from_position(cursor, manner, &column)?;
    Ok(match (sql, cursor.reads_nulls()) {
        (Some(sql), true) => (format!(" WHERE {sql} OR {column} IS NULL"), parameter),
        (Some(sql), false) => (format!(" WHERE {sql}"), parameter),
        (None, true) => (String::new(), None),
        (None, false) => (format!(" WHERE {column} IS NOT NULL"), None),
    })
}

fn from_position(
    cursor: &InclusiveCursor,
    manner: &Manner,
    column: &str,
) -> Result<(Option<String>, Option<Parameter>)> {
    let Some(text) = cursor.floor_text(0)? else { return Ok((None, None)) };
    Ok(match (form(cursor.field()), &manner.parameter) {
        (Some(Form::Literal), _) if is_number(&text) => (Some(format!("{column} >= {text}")), None),
        (Some(Form::Parameter), Some(placeholder)) => {
            let value = Parameter(value(cursor.field(), &text)?);
            (Some(format!("{column} >= {placeholder}")), Some(value))
        }
        _ => (None, None),
    })
}

fn value(field: &Field, text: &str) -> Result<ArrayRef> {
    let mut builder = TextBuilder::new(field)?;
    builder.append(text)?;
    Ok(builder.finish())
}

/// Whether the text is a number as every SQL writes it: no exponent, no `NaN`.
fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let mut parts = digits.split('.');
    let are_digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    parts.next().is_some_and(are_digits)
        && parts.next().is_none_or(are_digits)
        && parts.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_numbers_stand_in_a_statement() {
        for number in ["0", "-12", "1.50", "-0.001"] {
            assert!(is_number(number), "{number}");
        }
        for other in ["", "-", "NaN", "1e5", "1.", ".5", "1.2.3", "1 OR 1=1", "--1"] {
            assert!(!is_number(other), "{other}");
        }
    }
}
